"""The seam of the Responses API.

Deltas add up by output index and part. Every other event that belongs to an item is a mark with
its whole value, so a ``.done`` that says another text than was given does not match. Ids and
numbers are no content: they are mapped and counted on, never compared.
"""

from __future__ import annotations

from typing import Any

from proxy.core.errors import dumps
from proxy.core.grammars.seam import Mark, Piece, Seam, Slot, characters, units
from proxy.core.sse import Event

OPENERS = frozenset({"response.created", "response.queued", "response.in_progress"})
KEEPALIVE = "keepalive"
ADDED = "response.output_item.added"
PLAIN_ITEMS = frozenset({"message", "reasoning", "function_call", "custom_tool_call"})
"""Items without effects of their own. All others are run by the upstream: hosted tools."""

_LIFECYCLE = (
    OPENERS
    | {KEEPALIVE, "error"}
    | {f"response.{end}" for end in ("completed", "incomplete", "failed", "cancelled")}
)
_IDENTITY = ("id", "created_at", "model")
_PARTS = ("content_index", "summary_index", "annotation_index")
_IDS = ("id", "item_id", "call_id")
_INCOMPARABLE = frozenset(
    {
        *(*_IDS, "response_id", "sequence_number", "created_at", "completed_at"),
        *("obfuscation", "logprobs"),
    }
)


class ResponsesSeam(Seam):
    """What was given of a response."""

    def __init__(self, given: list[Event]) -> None:
        """Take apart what was given; the counting goes on after its last number."""
        self.identity: dict[str, Any] = {}
        self.items: dict[int, dict[str, Any]] = {}
        """The ids given, by output index."""
        self.number = -1
        self._openers: set[str] = set()
        self._ids: dict[str, str] = {}
        self._items_by_type: set[str] = set()
        super().__init__(given)

    def pieces(self, found: dict[str, Any]) -> list[Piece]:
        """Return the delta, if the event is one."""
        delta = found.get("delta")
        if not isinstance(delta, str) or not delta:
            return []
        base = type_of(found).removesuffix(".delta")
        slot: Slot = (output_of(found), base, *(_number(found.get(part)) for part in _PARTS))
        return [Piece(slot, units(delta), found, "delta", found)]

    def marks_of(self, found: dict[str, Any]) -> list[Mark]:
        """Return the event itself, unless it is a delta or concerns the whole response."""
        if type_of(found) in _LIFECYCLE or isinstance(found.get("delta"), str):
            return []
        slot: Slot = (output_of(found), type_of(found), *(_number(found.get(p)) for p in _PARTS))
        return [Mark(slot, dumps(_comparable(found)))]

    def trim(self, found: dict[str, Any], piece: Piece, lost: int) -> None:
        """Take text off the delta, with its padding, and the probabilities of what is gone."""
        found["delta"] = characters(piece.text[lost:])
        found.pop("obfuscation", None)
        entries = found.get("logprobs")
        at = 0
        while isinstance(entries, list) and entries and at < lost:
            entry = entries.pop(0)
            token = entry.get("token") if isinstance(entry, dict) else None
            at += len(units(token)) if isinstance(token, str) else 0

    def unmark(self, found: dict[str, Any], mark: Mark) -> None:  # noqa: ARG002 - it is the event
        """Empty an event that was given."""
        found.clear()

    def is_closed(self, slot: Slot) -> bool:
        """Say whether the event that repeats the slot's text whole was given."""
        return (slot[0], f"{slot[1]}.done", *slot[2:]) in self.marks

    def learn(self, found: dict[str, Any]) -> None:
        """Map the ids of an item that the client knows by other ones."""
        item = found.get("item")
        ours = self.items.get(output_of(found))
        if type_of(found) != ADDED or not isinstance(item, dict) or ours is None:
            return
        for key in _IDS:
            theirs, known = item.get(key), ours.get(key)
            if isinstance(theirs, str) and isinstance(known, str):
                self._ids[theirs] = known

    def fit(self, found: dict[str, Any]) -> bool:
        """Impose ids and number; openers that were given, and emptied events, are nothing."""
        if not found or found.get("delta") == "":
            return False
        given = bool(self.texts or self.marks)
        if type_of(found) in OPENERS and (given or type_of(found) in self._openers):
            return False
        if self._ids:
            _rename(found, self._ids)
        if isinstance(found.get("response"), dict):
            found["response"].update(self.identity)
        self.number += 1
        if "sequence_number" in found:
            found["sequence_number"] = self.number
        return True

    def _adopt(self, found: dict[str, Any]) -> None:
        name, number, response = type_of(found), found.get("sequence_number"), found.get("response")
        self.number = number if isinstance(number, int) else self.number + 1
        if name in OPENERS:
            self._openers.add(name)
        if isinstance(response, dict):
            for key in _IDENTITY:
                if key in response:
                    self.identity.setdefault(key, response[key])
        item = found.get("item")
        if name == ADDED and isinstance(item, dict):
            self.items[output_of(found)] = item
            if type_of(item) == "reasoning":
                # Its encrypted content is bound to its own response (protocol of the API).
                self.sealed = "reasoning of one response cannot be joined to another's"
            elif type_of(item) not in PLAIN_ITEMS:
                self.sealed = "a tool that the upstream runs may have had its effect"


def type_of(found: dict[str, Any]) -> str:
    """Return the type of an event or of an item."""
    name = found.get("type")
    return name if isinstance(name, str) else ""


def output_of(found: dict[str, Any]) -> int:
    """Return the output index of an event, -1 if it has none."""
    return _number(found.get("output_index"))


def _number(value: object) -> int:
    return value if isinstance(value, int) else -1


def _comparable(value: object) -> object:
    """Take out what differs between two equal answers: ids, numbers, times, padding."""
    if isinstance(value, dict):
        kept = {key: _comparable(inner) for key, inner in value.items()}
        return {key: kept[key] for key in sorted(kept) if key not in _INCOMPARABLE}
    return [_comparable(inner) for inner in value] if isinstance(value, list) else value


def _rename(value: object, ids: dict[str, str]) -> None:
    if isinstance(value, list):
        for inner in value:
            _rename(inner, ids)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key in _IDS and isinstance(inner, str):
                value[key] = ids.get(inner, inner)
            else:
                _rename(inner, ids)
