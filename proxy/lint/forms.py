"""What has one name and several fates, told apart by the block that it was found in.

A repair is named by what it does, and a comment is dropped whether it came as a comment or as
data; the first pleases every SDK, the second kills both. Knows the lines of a block as they came.
Must not know what is a fault or a repair: that is the core's.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.core.grammars.base import DONE, is_json, loads
from proxy.core.sse import BOM, Event, EventSplitter


class Block:
    """The lines between two blank lines, as they came, for telling forms apart."""

    def __init__(self, raw: bytes) -> None:
        """Take the bytes up to where the next block begins."""
        self.raw = raw
        self.lines = raw.splitlines()
        self.fields: dict[bytes, list[bytes]] = {}
        for line in self.lines:
            field, _, value = line.partition(b":")
            self.fields.setdefault(field, []).append(value.removeprefix(b" "))

    @property
    def event(self) -> Event:
        """The block read as an event, by the core; of several events the first."""
        splitter = EventSplitter(len(self.raw) + 1, lambda _: None)
        found = splitter.feed(self.raw)
        return found[0] if found else splitter.close() or Event(b"", b"")

    @property
    def has_data(self) -> bool:
        """Whether a line is data to the SDKs."""
        return b"data" in self.fields

    def begins_a_line(self, *beginnings: bytes) -> bool:
        """Say whether a line begins so."""
        return any(line.startswith(beginnings) for line in self.lines)


class Forms:
    """Tells the form of what was found in one body, in the order in which it was found."""

    def __init__(self) -> None:
        """Remember that no ``id`` was seen yet: openai-python never forgets one."""
        self._id = b""

    def of(self, name: str, raw: bytes, *, whole: bool = False) -> str:
        """Return the form that a fault or repair has in a block; ``whole``: the answer was."""
        if name == "cut_mid_event":
            return _cut(Block(raw), whole=whole)
        if name == "stripped_id_retry":
            return self._stripped(Block(raw))
        if name == "dropped_comment" and self._id and not Block(raw).has_data:
            return "behind_id"
        return _FORMS[name](Block(raw)) if name in _FORMS else ""

    def _stripped(self, block: Block) -> str:
        self._id = block.fields.get(b"id", [self._id])[-1]
        if not block.has_data:
            return "alone" if self._id or b"retry" in block.fields else ""
        # After an id, openai-python takes a second blank line for an event without data.
        return "blank" if self._id and block.lines[-2:] == [b"", b""] else ""


def dangles(raw: bytes) -> bool:
    """Say whether a whole block has a name and no data: the next one might have been its own."""
    block = Block(raw)
    return block.lines[-1:] == [b""] and b"event" in block.fields and not block.has_data


def _cut(block: Block, *, whole: bool) -> str:
    seen = block.has_data or b"event" in block.fields
    if whole:
        return "whole" if seen else "stub"
    try:
        block.raw.decode()
    except UnicodeDecodeError:
        return "character"
    return "" if seen else "field"


def _bom(block: Block) -> str:
    return "" if block.lines[0].removeprefix(BOM).startswith(b"data") else "name"


def _comment(block: Block) -> str:
    wrapped = any(value.startswith(b":") for value in block.fields.get(b"data", ()))
    return "data" if wrapped else ""


def _dataless(block: Block) -> str:
    return "" if block.has_data or any(block.fields.get(b"event", ())) else "nothing"


def _error(block: Block) -> str:
    event = block.event
    found = loads(event.data)
    if not found:
        return "text"
    if found.get("error"):
        return ""
    if found.get("type") == "response.failed":
        return "failed"
    return "flat" if event.name == b"error" else "nameless"


def _nul(block: Block) -> str:
    if not block.raw.strip(b"\0\r\n"):
        return "between"
    return "before" if block.begins_a_line(b"\0") else ""


_FORMS: dict[str, Callable[[Block], str]] = {
    "bom": _bom,
    "closed_final_event": lambda block: "done" if block.event.data == DONE else "",
    "data_prefix": lambda block: "bare" if block.begins_a_line(b"{") else "",
    "done_form": lambda block: "more" if block.event.data.startswith(DONE) else "",
    "dropped_comment": _comment,
    "dropped_dataless": _dataless,
    "dropped_nul": _nul,
    "in_stream_error": _error,
    "joined_lines": lambda block: "" if is_json(block.event.data) else "string",
    "malformed_event": lambda block: "" if block.has_data else "page",
    "split_events": lambda block: "bare" if block.begins_a_line(b"{") else "",
}
"""Whose form the block alone tells."""
