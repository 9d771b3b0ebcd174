"""What must be in an input, and in the output, before a stream may be called complete.

Knows each endpoint's ending as its clients know it, from the output as JSON and from the input as
plain bytes. Asks nothing of the grammars: it is held against them.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from support import whole_events

from fuzz.driving import Run

DONE = b"[DONE]"
_RESPONSE_ENDS = {f"response.{end}" for end in ("completed", "incomplete", "cancelled")}
_LAST = {
    "images": {"image_generation.completed", "image_edit.completed"},
    "audio": {"transcript.text.done", "speech.audio.done"},
}
_OURS = {
    "images": ("image_generation.", "image_edit."),
    "audio": ("transcript.", "speech."),
    "threads": ("thread",),
}
_TURN = "agent.session."
_TURN_ENDS = {
    f"{_TURN}{end}"
    for end in (
        *("turn.completed", "turn.failed", "turn.cancelled"),
        *("idle", "failed", "requires_action", "budget_reached"),
    )
}
_SEAMS = re.compile(rb"[\r\n]+(?:data:? ?)*")
_REASON = re.compile(rb'"finish_reason"\s*:\s*"[^"]')
"""What is no text, is a reason for some and none for others."""

_ESCAPE = re.compile(rb"\\u00([0-9a-fA-F]{2})")


class Told(NamedTuple):
    """One event as a client reads it."""

    name: bytes
    data: bytes
    value: Any

    @property
    def fields(self) -> dict[str, Any]:
        """Its fields, if it is an object."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def kind(self) -> str:
        """What it calls itself."""
        told = self.fields.get("type") or self.fields.get("object")
        return told if isinstance(told, str) else ""

    @property
    def is_error(self) -> bool:
        """Whether the official SDKs raise on it."""
        return bool(self.fields.get("error"))


def read(out: bytes) -> list[Told]:
    """Read what a client was given; on the way it is proved to be whole and canonical."""
    return [Told(name, data, _value(data)) for name, data in whole_events(out)]


def _value(data: bytes) -> Any:
    if data == DONE:
        return None
    try:
        return json.loads(data.decode())
    except RecursionError:
        return None


def is_end(family: str, told: Told) -> bool:
    """Say whether nothing but this endpoint's own last words may follow an event."""
    if family in {"other", "agents"}:
        return told.data == DONE
    if family == "responses":
        return told.kind in _RESPONSE_ENDS | {"response.failed"}
    return told.data == DONE or told.is_error


def why_not_whole(run: Run, events: list[Told]) -> str:
    """Say why the stream that a run gave was no success, or nothing."""
    family = run.asked.family
    last = events[-1] if events else Told(b"", b"", None)
    if family == "chat":
        return _chat(run, events, last)
    if family == "responses":
        name = last.kind or last.name.decode("utf-8", "replace")
        if name not in _RESPONSE_ENDS:
            return "it does not end with a terminal lifecycle event"
        end = name.removeprefix("response.").encode()
        return "" if end in _evidence(run) else f"nobody said {name}"
    return "" if last.data == DONE and b"DONE" in _evidence(run) else _typed(run, events)


def _chat(run: Run, events: list[Told], last: Told) -> str:
    if last.data != DONE:
        return "it does not end with [DONE]"
    opened, finished = set(range(run.asked.count or 1)), set[int]()
    choices = [
        choice
        for told in events
        for choice in _list(told.fields.get("choices"))
        if isinstance(choice, dict)
    ]
    for choice in choices:
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        opened.add(index)
        if choice.get("finish_reason") is not None:
            finished.add(index)
    quirk = run.opens[-1].target.quirks.finish_reason
    said = _evidence(run)
    if finished and not opened <= finished:
        return f"choices {opened - finished} have no finish_reason"
    if not finished and b"DONE" not in said and (_REASON.search(said) or b"finish" not in said):
        return "nobody said [DONE], and no finish_reason was given"
    if not finished and quirk == "required" and b"expires_at" not in said:
        return "a finish_reason is required"
    if finished and b"finish_reason" not in said and quirk != "added":
        return "nobody said any finish_reason"
    return ""


def _typed(run: Run, events: list[Told]) -> str:
    """Judge what ends with an event of a certain type, or with its body where none is known."""
    family = run.asked.family
    kinds = [told.kind for told in events]
    if family == "agents":
        ours = any(kind.startswith(_TURN) for kind in kinds)
        over = not ours or bool(set(kinds) & _TURN_ENDS) or run.asked.request.method == "GET"
        return "" if over and run.last.fault is None else "the turn's outcome was not told"
    ours = any(kind.startswith(_OURS.get(family, ("\0",))) for kind in kinds)
    if not ours:
        return "" if run.last.fault is None else f"it broke: {run.last.fault}"
    ended = sum(kind in _LAST.get(family, set()) for kind in kinds)
    if run.asked.count is None:
        return "" if ended and run.last.fault is None else "no last event, or no clean end"
    return "" if ended >= run.asked.count else f"{ended} of {run.asked.count} were completed"


def why_not_honest(run: Run, events: list[Told]) -> str:
    """Say why the error that a run ended with would not be heard, or nothing."""
    if not events:
        return "there is no error event"
    last, family = events[-1], run.asked.family
    if family != "responses":
        return "" if last.is_error else f"no SDK would raise on {last.data!r}"
    if "response.failed" not in {last.kind, last.name.decode("utf-8", "replace")}:
        return "it does not end with response.failed"
    return ""


def _evidence(run: Run) -> bytes:
    """Return all that upstreams said, however it was broken up or escaped."""
    text = _SEAMS.sub(b"", b"".join(run.heard).replace(b"\0", b""))
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), text)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
