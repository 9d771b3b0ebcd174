"""A seam: where the events of a new attempt are joined to what the client was given.

For one family of endpoints it knows how an event is taken apart: the *pieces* of text that
add up slot by slot (a choice's content, a tool call's arguments), the *marks* that stand once
(a finish reason, an item's end), and the identity that must never change. Must not know what is
compared with what, or why: that is for the strategies in ``recovery``.
"""

from __future__ import annotations

import abc
import json
import math
import re
import sys
from typing import Any, NamedTuple

from proxy.core.errors import dumps
from proxy.core.grammars.base import DONE
from proxy.core.sse import Event

_DEEPEST = 100
"""No API nests this deep."""

_ASTRAL = re.compile("[\U00010000-\U0010ffff]")

Slot = tuple[str | int, ...]
"""The name of one accumulating text or of one mark."""


class Piece(NamedTuple):
    """A part of one slot's text, found under ``home[key]``; ``owner`` is the choice or event.

    ``text`` is in UTF-16's units, see ``units``.
    """

    slot: Slot
    text: str
    home: dict[str, Any]
    key: str
    owner: dict[str, Any]


class Mark(NamedTuple):
    """Something that stands once and has a value to compare."""

    slot: Slot
    value: object


class Seam(abc.ABC):
    """What was given, ready to be matched. Made from the journal's events."""

    def __init__(self, given: list[Event]) -> None:
        """Take apart what was given. ``sealed`` says why nothing may be joined on, if so."""
        self.texts: dict[Slot, str] = {}
        self.marks: dict[Slot, list[object]] = {}
        self.sealed = ""
        texts: dict[Slot, list[str]] = {}
        for event in given:
            found = parsed(event.data)
            if is_opaque(event, found):
                self.sealed = "an event was given that cannot be taken apart"
            for piece in self.pieces(found):
                texts.setdefault(piece.slot, []).append(piece.text)
            for mark in self.marks_of(found):
                self.marks.setdefault(mark.slot, []).append(mark.value)
            self._adopt(found)
        self.texts = {slot: "".join(parts) for slot, parts in texts.items()}

    @abc.abstractmethod
    def pieces(self, found: dict[str, Any]) -> list[Piece]:
        """Return the pieces of text in one event, none of them empty."""

    @abc.abstractmethod
    def marks_of(self, found: dict[str, Any]) -> list[Mark]:
        """Return the marks in one event."""

    @abc.abstractmethod
    def trim(self, found: dict[str, Any], piece: Piece, lost: int) -> None:
        """Take so many units off the beginning of a piece, in its event."""

    @abc.abstractmethod
    def unmark(self, found: dict[str, Any], mark: Mark) -> None:
        """Take a mark out of its event."""

    @abc.abstractmethod
    def fit(self, found: dict[str, Any]) -> bool:
        """Impose the identity on an event that is about to be given; False: nothing is left."""

    @abc.abstractmethod
    def learn(self, found: dict[str, Any]) -> None:
        """Look at an event of the new attempt before it is taken apart; may seal."""

    def unseen(self) -> bool:
        """Say whether something was given, if without text, that the new attempt has not yet."""
        return False

    @abc.abstractmethod
    def is_closed(self, slot: Slot) -> bool:
        """Say whether a slot was finished, so that no more text may follow in it."""

    @abc.abstractmethod
    def _adopt(self, found: dict[str, Any]) -> None:
        """Take the identity from an event that was given."""


def parsed(data: bytes) -> dict[str, Any]:
    """Decode an event's data; what is no JSON object, or too deep a one, has no parts.

    It may be written again, so what JSON has no number for becomes the next one, or null.
    """
    try:
        found = json.loads(data.decode(), parse_float=finite, parse_constant=_nothing)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or _is_deep(data, found):
        return {}
    return found


def finite(text: str) -> float:
    """Read a number; what is too large for JSON to write again becomes the largest there is."""
    value = float(text)
    return value if math.isfinite(value) else math.copysign(sys.float_info.max, value)


def _nothing(_name: str) -> None:
    return None


def units(text: str) -> str:
    """Write a text in UTF-16's units, so that it can be cut as JSON may cut it: inside a pair."""
    return text if text.isascii() else _ASTRAL.sub(_pair, text)


def characters(text: str) -> str:
    """Put pairs together again; half a pair stays what it is."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _pair(found: re.Match[str]) -> str:
    rest = ord(found[0]) - 0x10000
    return chr(0xD800 + (rest >> 10)) + chr(0xDC00 + (rest & 0x3FF))


def is_opaque(event: Event, found: dict[str, Any]) -> bool:
    """Say whether an event has something in it that cannot be taken apart."""
    return not found and event.data not in {DONE, b"{}"}


def _is_deep(data: bytes, found: dict[str, Any]) -> bool:
    """Say whether walking through a value would come near Python's limit of recursion."""
    if data.count(b"{") + data.count(b"[") <= _DEEPEST:
        return False
    level: list[Any] = [found]
    for _ in range(_DEEPEST):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return False
    return True


def _inside(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def written(event: Event, found: dict[str, Any]) -> Event:
    """Encode an event that was changed."""
    return Event(event.name, dumps(found))
