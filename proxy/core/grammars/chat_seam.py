"""The seam of chat completions and legacy completions.

Every field of a delta adds up by itself: strings slot by slot, a tool call's name and arguments
under its index. What is no string (audio, annotations, lists of parts) cannot be cut, so it is
compared value by value. A finish reason closes its choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.core.errors import dumps
from proxy.core.grammars.seam import Mark, Piece, Seam, Slot, characters, units
from proxy.core.sse import Event

_IDENTITY = ("id", "created", "model", "system_fingerprint", "service_tier")
_TOKENS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
_FINISH = "finish_reason"


class ChatSeam(Seam):
    """What was given of a chat completion or a legacy completion."""

    def __init__(self, given: list[Event]) -> None:
        """Take apart what was given."""
        self._identity: dict[str, Any] = {}
        self._roles: set[int] = set()
        self._calls: dict[Slot, dict[str, Any]] = {}
        self._theirs: dict[Slot, str] = {}
        self._opened: set[int] = set()
        self._seen: set[int] = set()
        super().__init__(given)

    def pieces(self, found: dict[str, Any]) -> list[Piece]:
        """Return texts, and whatever else a delta holds as one indivisible piece each."""
        return [piece for choice in choices_of(found) for piece in _pieces(choice)]

    def marks_of(self, found: dict[str, Any]) -> list[Mark]:
        """Return the finish reasons."""
        return [
            Mark((index_of(choice), _FINISH), choice[_FINISH])
            for choice in choices_of(found)
            if choice.get(_FINISH)
        ]

    def trim(self, found: dict[str, Any], piece: Piece, lost: int) -> None:
        """Take text off; its log probabilities go with it, and the padding, which fits no more."""
        rest = characters(piece.text[lost:])
        if rest:
            piece.home[piece.key] = rest
        else:
            del piece.home[piece.key]
        found.pop("obfuscation", None)
        logprobs = piece.owner.get("logprobs")
        if isinstance(logprobs, dict):
            _trim_logprobs(logprobs, str(piece.slot[-1]), lost)

    def unmark(self, found: dict[str, Any], mark: Mark) -> None:
        """Take out a finish reason that was given."""
        for choice in choices_of(found):
            if index_of(choice) == mark.slot[0]:
                choice[_FINISH] = None

    def is_closed(self, slot: Slot) -> bool:
        """Say whether the choice has its finish reason, or the slot is a name: it comes once."""
        return (slot[0], _FINISH) in self.marks or (slot[-1] == "name" and slot in self.texts)

    def learn(self, found: dict[str, Any]) -> None:
        """Notice calls that only their ids tell apart: nobody could say which is which."""
        self._seen |= {index_of(choice) for choice in choices_of(found)}
        for slot, call in _placed_calls(found):
            theirs = call.get("id") or ""
            if theirs and self._theirs.setdefault(slot, theirs) != theirs:
                self.sealed = "its tool calls have no index of their own"

    def unseen(self) -> bool:
        """Say whether a choice was opened that the new attempt has not: nobody would finish it."""
        return not self._opened <= self._seen

    def fit(self, found: dict[str, Any]) -> bool:
        """Impose the identity; take out roles and tool ids that were given."""
        for key in _IDENTITY if self._identity else ():
            if key in self._identity and key in found:
                found[key] = self._identity[key]
            else:
                found.pop(key, None)  # the first attempt had none
        choices = choices_of(found)
        taken = "prompt_filter_results" in found and bool(self._identity) and not choices
        for choice in choices:
            taken = self._take_known(index_of(choice), choice.get("delta")) or taken
        return not taken or any(_is_left(choice) for choice in choices)

    def _take_known(self, index: int, delta: object) -> bool:
        """Take out of a delta what is sent once; say whether there was any."""
        if not isinstance(delta, dict):
            return False
        taken = index in self._roles and delta.pop("role", None) is not None
        kept = []
        for place, call in enumerate(_calls(delta)):
            known = self._calls.get((index, _place(call, place)), {})
            given = [key for key in ("id", "type") if call.get(key) and known.get(key)]
            for key in given:
                del call[key]
            taken = taken or bool(given)
            if call.get("id") or any(_body(call)):
                # Its place in the list may have been its index, and those before it may be gone.
                call.setdefault("index", place)
                kept.append(call)
        if "tool_calls" in delta:
            delta["tool_calls"] = kept
            if not kept:
                del delta["tool_calls"]
        return taken

    def _adopt(self, found: dict[str, Any]) -> None:
        for key in _IDENTITY:
            # Azure's first chunk has an empty id and model; the first that says something counts.
            if key in found and not self._identity.get(key):
                self._identity[key] = found[key]
        for choice in choices_of(found):
            self._opened.add(index_of(choice))
            delta = choice.get("delta")
            if isinstance(delta, dict) and delta.get("role"):
                self._roles.add(index_of(choice))
        for slot, call in _placed_calls(found):
            known = self._calls.setdefault(slot, {})
            if known.get("id") and call.get("id") and call["id"] != known["id"]:
                self.sealed = "tool calls were given that have no index of their own"
            if call.get("extra_content"):
                self.sealed = "a signature was given that belongs to its own answer"
            known.update({key: call[key] for key in ("id", "type") if call.get(key)})


def choices_of(chunk: object) -> list[dict[str, Any]]:
    """Return the choices of a chunk, as far as they are objects."""
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    if not isinstance(choices, list):
        return []
    return [choice for choice in choices if isinstance(choice, dict)]


def index_of(choice: dict[str, Any]) -> int:
    """Return a choice's index, 0 if it has none."""
    index = choice.get("index")
    return index if isinstance(index, int) else 0


def _pieces(choice: dict[str, Any]) -> list[Piece]:
    index = index_of(choice)
    delta: Any = choice.get("delta")
    found: list[Piece] = []
    if isinstance(choice.get("text"), str):
        found.append(Piece((index, "text"), units(choice["text"]), choice, "text", choice))
    delta = delta if isinstance(delta, dict) else {}
    for key, value in delta.items():
        if key == "role" or not value:
            continue
        if isinstance(value, str):
            found.append(Piece((index, key), units(value), delta, key, choice))
        elif key == "tool_calls" and _calls(delta):
            for place, call in enumerate(_calls(delta)):
                found += _call_pieces((index, _place(call, place)), call, choice)
        elif key == "function_call" and isinstance(value, dict):
            found += _strings((index, key), value, choice)
        else:
            # The line end closes the value: it is no prefix of a longer one.
            text = dumps(value).decode() + "\n"
            found.append(Piece((index, key, "value"), text, delta, key, choice))
    return [piece for piece in found if piece.text]


def _call_pieces(slot: Slot, call: dict[str, Any], choice: dict[str, Any]) -> list[Piece]:
    return [piece for body in _body(call) for piece in _strings(slot, body, choice)]


def _strings(slot: Slot, home: dict[str, Any], choice: dict[str, Any]) -> list[Piece]:
    return [
        Piece((*slot, key), units(value), home, key, choice)
        for key, value in home.items()
        if isinstance(value, str)
    ]


def _calls(delta: dict[str, Any]) -> list[dict[str, Any]]:
    calls = delta.get("tool_calls")
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _body(call: dict[str, Any]) -> list[dict[str, Any]]:
    return [value for value in call.values() if isinstance(value, dict)]


def _place(call: dict[str, Any], place: int) -> int:
    index = call.get("index")
    return index if isinstance(index, int) else place


def _placed_calls(chunk: dict[str, Any]) -> Iterator[tuple[Slot, dict[str, Any]]]:
    for choice in choices_of(chunk):
        delta = choice.get("delta")
        for place, call in enumerate(_calls(delta) if isinstance(delta, dict) else ()):
            yield (index_of(choice), _place(call, place)), call


def _is_left(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    opens = isinstance(delta, dict) and bool(delta.get("role") or delta.get("tool_calls"))
    return opens or bool(choice.get(_FINISH) or _pieces(choice))


def _trim_logprobs(logprobs: dict[str, Any], key: str, lost: int) -> None:
    """Drop the log probabilities of the tokens that begin before the seam."""
    entries = logprobs.get(key)
    if isinstance(entries, list):
        texts = [entry.get("token") if isinstance(entry, dict) else "" for entry in entries]
        del entries[: _tokens_before(texts, lost)]
    tokens = logprobs.get("tokens")
    if isinstance(tokens, list):
        count = _tokens_before(tokens, lost)
        for name in _TOKENS:
            if isinstance(logprobs.get(name), list):
                del logprobs[name][:count]


def _tokens_before(tokens: list[Any], lost: int) -> int:
    count = at = 0
    for token in tokens:
        if at >= lost:
            break
        at += len(units(token)) if isinstance(token, str) else 0
        count += 1
    return count
