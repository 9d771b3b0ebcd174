"""Repairs: what is mended in place because there is only one thing it can have meant.

To add one: a function that returns None where it cannot be sure, and a line in a table. The
names are the values of the ``repair`` label. Order matters: the first that is sure wins.
Repairs of framing alone (line ends, comments, ``id``) are made where the bytes are cut, in
``core.sse``; the two that depend on completeness (``closed_final_event``, ``added_done``) are
made where the end is judged, in ``core.session``; those that a grammar alone can see (``surplus``
events, names, answers in one piece) in ``core.attempt``; those that have to be asked for, in
``shapes``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from proxy.core.grammars.base import DONE, is_json
from proxy.core.repairs.text import (
    escape_controls,
    escape_separators,
    is_clean,
    replace_utf8,
)
from proxy.core.repairs.values import (
    bare_done,
    drop_keepalive,
    drop_nul,
    is_beginning,
    join_lines,
    split_values,
    strip_prefix,
)
from proxy.core.sse import STRAY, Event

__all__ = ["REPAIRS", "TEXT_REPAIRS", "clean_text", "is_beginning", "is_clean", "join", "mend"]

TEXT_REPAIRS: dict[str, Callable[[bytes], bytes | None]] = {
    "replaced_utf8": replace_utf8,
    "escaped_separator": escape_separators,
}
"""Asked for every event that is not plain ASCII."""

REPAIRS: dict[str, Callable[[bytes], list[bytes] | None]] = {
    "dropped_comment": drop_keepalive,
    "dropped_nul": drop_nul,
    "done_form": bare_done,
    "data_prefix": strip_prefix,
    "joined_lines": join_lines,
    "split_events": split_values,
    "escaped_control": escape_controls,
}
"""Asked, in this order, for an event whose data is not one line of JSON."""


_NAME = re.compile(r"[\w.-]{1,128}", re.ASCII)
"""What may become the name of an event; a line end in it would begin a new field."""


def clean_text(event: Event, count: Callable[[str], None]) -> Event:
    """Mend an event that is not plain ASCII."""
    data = event.data
    type_ = event.name.decode("utf-8", "replace").encode()
    for name, repair in TEXT_REPAIRS.items():
        mended = repair(data)
        if mended is not None:
            count(name)
            data = mended
    return Event(type_, data)


def mend(event: Event, count: Callable[[str], None]) -> list[Event] | None:
    """Return what a refused event should have been, or None."""
    for name, repair in REPAIRS.items():
        mended = repair(event.data)
        if mended is None:
            continue
        count(name)
        several = len(mended) > 1 and event.name
        # In JSON that parses, a raw line end is white space; in an event it is a new field.
        lines = [data.replace(b"\n", b" ") for data in mended]
        return [Event(_name_of(data) if several else event.name, data) for data in lines]
    return None


def join(half: Event, rest: Event) -> Event | None:
    """Return the one event that two were made of (BerriAI/litellm#30224), or None.

    Sure only if the first one stopped inside its JSON, and the second one is none by itself: it
    has no name of its own, and is one line. Gateways end an event wherever a read of theirs ended.
    """
    joined = half.data + rest.data
    if rest.name not in {b"", STRAY, half.name} or b"\n" in rest.data:
        return None
    if rest.data.startswith(DONE) or is_json(rest.data) or not is_json(joined):
        return None
    return Event(half.name, joined)


def _name_of(data: bytes) -> bytes:
    """Name a split event by its own ``type``: the one name of the block fits only one of them."""
    try:
        found = json.loads(data)
    except ValueError:
        return b""
    kind = found.get("type") if isinstance(found, dict) else None
    return kind.encode() if isinstance(kind, str) and _NAME.fullmatch(kind) else b""
