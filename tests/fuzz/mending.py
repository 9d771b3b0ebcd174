"""The repairs: what is mended, and that nothing else is.

Knows what each repair promises of its data, by JSON's own decoder. Asks no grammar.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from fuzz.cases import Case
from proxy.core.repairs import clean_text, is_beginning, join, mend
from proxy.core.sse import Event

DONE = b"[DONE]"
_NAMES = (b"", b"response.created", b"thread.run.created", b"error", b"na\xc3\xafve", b"\xff")
_SPACE = re.compile(r"\s+")
_SEPARATORS = ("\u2028", "\u2029", "\x85")
_DEEP = object()


def check_repairs(data: bytes) -> None:
    """Offer data of an event to the repairs, as if a grammar had refused it.

    Knobs: 0 the event's name. The second body is the next event's data.
    """
    case = Case(data)
    parts = [_as_data(body) for body in case.bodies]
    event = Event(case.pick(0, _NAMES), parts[0])
    if not event.data.strip():
        return  # the splitter lets no such event pass
    event = check_cleaning(event)
    check_mending(event)
    rest = Event(b"", parts[-1])
    joined = join(event, rest)
    if joined is not None:
        assert joined == Event(event.name, event.data + rest.data)
        assert _value(joined.data) is not None
        assert _value(rest.data) is None, "what is JSON by itself was joined to another event"
    if is_beginning(event.data):
        assert _value(event.data) is None, "whole JSON is called the beginning of some"


def check_cleaning(event: Event) -> Event:
    """Text is text afterwards, says the same, and is not touched a second time."""
    counted = Counter[str]()
    cleaned = clean_text(event, lambda repair: counted.update([repair]))
    text = cleaned.data.decode()
    cleaned.name.decode()
    assert not any(separator in text for separator in _SEPARATORS)
    lenient = event.data.decode("utf-8", "replace")
    assert _value(cleaned.data) == _value(lenient.encode()), "it says something else now"
    again = Counter[str]()
    assert clean_text(cleaned, lambda repair: again.update([repair])) == cleaned
    assert not again
    if _is_healthy(event):
        assert cleaned == event, "a healthy event was changed"
        assert not counted
    return cleaned


def check_mending(event: Event) -> None:
    """Hold what comes out to one line each; no healthy event is touched."""
    counted = Counter[str]()
    mended = mend(event, lambda repair: counted.update([repair]))
    if mended is None:
        assert not counted
        return
    assert not _is_healthy(event), f"a healthy event was mended: {mended}"
    assert event.data != DONE
    assert sum(counted.values()) == 1, counted
    (repair,) = counted
    for part in mended:
        assert b"\n" not in part.data, part
        assert not re.search(rb"[\r\n]", part.name), part
    if repair == "dropped_comment":
        assert mended == []
        assert event.data.startswith(b":")
        return
    for part in mended:
        assert part.data == DONE or _value(part.data) is not None, f"{repair} made no JSON: {part}"
    _check_what_it_says(repair, event.data, [part.data for part in mended])


def _check_what_it_says(repair: str, data: bytes, mended: list[bytes]) -> None:
    """Prove that a repair adds and takes nothing but what its name says."""
    before, after = (text.decode("utf-8", "replace") for text in (data, b"".join(mended)))
    before = before.replace("\n", " ") if repair != "escaped_control" else before
    if repair == "done_form":
        assert before.strip() == "DONE"
    elif repair == "data_prefix":
        assert before.endswith(after)
        assert re.fullmatch(r"(?:data: *)+", before.removesuffix(after))
    elif repair == "dropped_nul":
        assert before.strip("\0") == after
    elif repair in {"joined_lines", "split_events"}:
        assert _SPACE.sub("", before) == _SPACE.sub("", after)
        assert (len(mended) > 1) == (repair == "split_events")
    else:
        assert repair == "escaped_control", f"nothing is known of the repair {repair}"
        assert _value(after.encode()) == _value(before.encode(), strict=False)


def _as_data(body: bytes) -> bytes:
    """Return what the splitter could have given: it leaves no CR."""
    return body.replace(b"\r", b"\n")


def _value(data: bytes, *, strict: bool = True) -> Any:
    """Decode JSON, as one value that equals itself; None if it is none."""
    try:
        found = json.loads(data.decode(), strict=strict, parse_constant=str, parse_float=str)
    except RecursionError:
        return _DEEP
    except ValueError:
        return None
    return [found]


def _is_healthy(event: Event) -> bool:
    """Say whether an event is one line of JSON that no client minds."""
    try:
        text = event.data.decode()
        event.name.decode()
    except UnicodeDecodeError:
        return False
    one_line = "\n" not in text and not any(separator in text for separator in _SEPARATORS)
    return one_line and _value(event.data) is not None
