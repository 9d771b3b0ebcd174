"""From a completion in one piece to the chunks that tell it, and back.

Knows both forms of chat completions and legacy completions. A server that answers a request for
a stream with one JSON object is told in chunks (rsp4copilot#10); chunks that nobody asked for add
up to one object (BerriAI's and OpenAI's SDKs add them up in the same way). Must not know which
way is wanted, or whether the answer is complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.core.grammars.anew import TooMuchError
from proxy.core.grammars.base import dicts
from proxy.core.grammars.chat_seam import choices_of, index_of
from proxy.core.request import MAX_CHOICES

IDENTITY = ("id", "object", "created", "model", "service_tier", "system_fingerprint")
"""What all chunks of one answer have in common."""

_PLACED = frozenset({*IDENTITY, "choices", "usage", "error"})
"""What of an answer has a place of its own in a stream, or none."""

_FIRST_COUNTS = frozenset({"id", "type", "role", "index", "expires_at"})
"""Strings and numbers that are said, not added to."""

_SUMS = frozenset({"text", "logprobs"})
"""What of a choice adds up beside its delta; of the rest the last word counts."""

_APART = frozenset({"index", "delta", "message"})
"""What of a choice is not taken over; some servers repeat the delta as a message (Writer)."""

_CHUNK, _WHOLE = "chat.completion.chunk", "chat.completion"
_PADDING = "obfuscation"
_CALLS = "tool_calls"


def unroll(answer: dict[str, Any], *, usage: bool) -> Iterator[dict[str, Any]]:
    """Tell a completion chunk by chunk; without choices there is none.

    ``usage`` says that it was asked for. Raises TooMuchError for choices that nobody asked for.
    """
    head = {key: answer[key] for key in IDENTITY if key in answer}
    choices = choices_of(answer)
    if len(choices) > MAX_CHOICES:
        raise TooMuchError
    legacy = any("text" in choice and "message" not in choice for choice in choices)
    if not legacy:
        head["object"] = _CHUNK
    # Citations, filter results: what stands beside the choices is told once.
    beside = {key: answer[key] for key in answer if key not in _PLACED}
    for choice in choices:
        for part in _parts(choice):
            yield {**head, "choices": [part], **beside}
            beside = {}
    if choices and usage and answer.get("usage"):
        yield {**head, "choices": [], "usage": answer["usage"]}


def calls_in(choice: dict[str, Any]) -> bool:
    """Say whether there is a call, whole or half, in a choice of a completion in one piece."""
    said = choice.get("message") or choice.get("delta")
    return isinstance(said, dict) and bool(said.get("tool_calls") or said.get("function_call"))


def _parts(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    index, finish = index_of(choice), choice.get("finish_reason")
    if "message" not in choice:
        yield {**choice, "index": index}
        return
    message = choice["message"] if isinstance(choice["message"], dict) else {}
    kept = {key: value for key, value in choice.items() if key not in {"message", "index"}}
    nulls = {key: None for key, value in message.items() if value is None and key != "role"}
    text = None if message.get("content") is None else ""
    opening = {"role": message.get("role") or "assistant", "content": text, **nulls}
    yield {"index": index, "delta": opening, "finish_reason": None}
    delta = {key: value for key, value in message.items() if key != "role" and value is not None}
    calls = dicts(delta.get("tool_calls"))
    if calls:
        # A stream numbers its calls, a message does not.
        delta["tool_calls"] = [{"index": place, **call} for place, call in enumerate(calls)]
    yield {**kept, "index": index, "delta": delta, "finish_reason": None}
    yield {"index": index, "delta": {}, "finish_reason": finish}


def fold(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the completion that chunks add up to; an empty one where that cannot be said."""
    answer: dict[str, Any] = {}
    choices: dict[int, _Folded] = {}
    for chunk in chunks:
        for key, value in chunk.items():
            if key == "usage" and value:
                answer[key] = value
            elif key not in {"choices", _PADDING, "usage"} and not answer.get(key):
                answer[key] = value  # Azure's first chunk has empty names
        for choice in choices_of(chunk):
            index = index_of(choice)
            if not choices.setdefault(index, _Folded(index)).add(choice):
                return {}
    answer["object"] = _WHOLE if answer.get("object") == _CHUNK else answer.get("object")
    answer["choices"] = [choices[index].whole() for index in sorted(choices)]
    return answer


class _Folded:
    """One choice, as its chunks add up."""

    def __init__(self, index: int) -> None:
        self._whole: dict[str, Any] = {"index": index, "finish_reason": None}
        self._calls: dict[int, dict[str, Any]] = {}

    def add(self, choice: dict[str, Any]) -> bool:
        """Add a chunk's choice; False: nobody could say which call a part of it belongs to."""
        delta, whole = choice.get("delta"), self._whole
        for key, value in choice.items():
            known = whole.get(key)
            if key in _APART:
                continue
            if key in _SUMS:
                _merge(whole, {key: value})
            elif isinstance(known, dict) and isinstance(value, dict):
                whole[key] = {**known, **value}  # Azure says of every chunk how safe it is
            elif value or key not in whole:
                whole[key] = value
        if not isinstance(delta, dict):
            return True
        message = whole.setdefault("message", {"role": "assistant", "content": None})
        _merge(message, {key: value for key, value in delta.items() if key != _CALLS})
        return _CALLS not in delta or self._add_calls(message, delta[_CALLS])

    def _add_calls(self, message: dict[str, Any], calls: object) -> bool:
        message[_CALLS] = message.get(_CALLS) if calls is None else []  # they come in the end
        for place, call in enumerate(dicts(calls)):
            index = call.get("index")
            at = index if isinstance(index, int) else place
            known = self._calls.setdefault(at, {})
            if known.get("id") and call.get("id") and known["id"] != call["id"]:
                return False  # two calls under one index: their arguments must not be glued
            _merge(known, {key: value for key, value in call.items() if key != "index"})
        return True

    def whole(self) -> dict[str, Any]:
        """Return the choice of the completion; calls are in the order of their numbers."""
        if self._calls:
            self._whole["message"][_CALLS] = [self._calls[at] for at in sorted(self._calls)]
        return self._whole


def _merge(whole: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        known = whole.get(key)
        if value is None or (known and key in _FIRST_COUNTS):
            whole.setdefault(key, value)
        elif isinstance(known, str) and isinstance(value, str):
            whole[key] = known + value
        elif isinstance(known, dict) and isinstance(value, dict):
            _merge(known, value)
        elif isinstance(known, list) or (isinstance(known, str) and isinstance(value, list)):
            whole[key] = _as_list(known) + _as_list(value)  # Mistral speaks in texts and lists
        else:
            whole[key] = value


def _as_list(value: object) -> list[Any]:
    if isinstance(value, list):
        return value
    return [{"type": "text", "text": value}] if value else []
