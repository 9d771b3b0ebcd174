"""Chat completions and legacy completions: chunks with choices, closed by ``[DONE]``.

Completeness: every choice has a ``finish_reason`` and ``[DONE]`` came, and no
error was told. ``[DONE]`` without any ``finish_reason`` at all is let pass, unless the upstream's
quirks require one: some compatible servers never send it (anomalyco/opencode#43882). Content is
any non-empty field of a delta but ``role``. Events have no names here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from proxy.core.errors import UpstreamError, dumps, read_error
from proxy.core.grammars.anew import read_anew, tell
from proxy.core.grammars.base import (
    DONE,
    DONE_EVENT,
    Grammar,
    Kind,
    error_object,
    is_balanced,
    loads,
    parse,
    raw,
    says,
)
from proxy.core.grammars.chat_forms import IDENTITY, calls_in, fold, unroll
from proxy.core.grammars.chat_seam import ChatSeam, choices_of, index_of
from proxy.core.grammars.seam import Seam
from proxy.core.journal import Journal
from proxy.core.policy import SAFE, Quirks
from proxy.core.request import Request
from proxy.core.sse import Event

_NULL = msgspec.Raw(b"null")
_ERROR = b'"error"'
_CALLS = (b"tool_calls", b"function_call")
_FAILURES = re.compile(rb"(?i)error|exception|fail")
"""Names of events that tell of a failure, whatever their data look like."""

_LARGEST_OPENER = 64 * 1024
"""What is larger is content, whatever it is: taking it apart would cost more than passing it."""

_NO_NAME = b"message"
"""What every event is called that has no name (WHATWG)."""


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    finish_reason: msgspec.Raw = _NULL


class _Chunk(msgspec.Struct, gc=False):
    """The fields of a chunk that are looked at on the way through."""

    choices: list[_Choice] | None = None
    error: msgspec.Raw = _NULL
    usage: msgspec.Raw = _NULL
    type: msgspec.Raw = _NULL
    object: msgspec.Raw = _NULL


class _PlainChoice(msgspec.Struct, gc=False):
    index: Literal[0] = 0
    finish_reason: Literal[""] | None = None


class _PlainChunk(msgspec.Struct, gc=False):
    """A chunk that goes on with the only choice and says nothing else that would be looked at."""

    choices: Annotated[list[_PlainChoice], msgspec.Meta(min_length=1)]
    error: None = None
    usage: None = None


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_plain = msgspec.json.Decoder(_PlainChunk).decode


class ChatGrammar(Grammar):
    """One attempt of a chat completion or a legacy completion."""

    named = False
    folds = True

    def __init__(self, request: Request, quirks: Quirks = SAFE) -> None:
        """Expect as many choices as were asked for."""
        super().__init__(request, quirks)
        self._open = set(range(request.choices))
        self._finished: set[int] = set()
        self._stopped = True
        self._goes_on = False
        self._behind: set[int] = set()
        self._watches = quirks.finish_reason != "optional"
        self._last = b""
        self._called = self._spoken = False

    def read(self, event: Event) -> Kind:
        """Peek at a chunk; see the base class."""
        data = event.data
        if data.startswith(DONE):
            return self._read_done()
        try:
            chunk = _decode(data)
        except (msgspec.MsgspecError, RecursionError):
            slow = _peek_slowly(data)
            if slow is None:
                return Kind.MALFORMED
            chunk = slow
        if event.name and self._is_foreign(event.name, chunk):
            self.surplus = "dropped_foreign_event"
            self.foreign += 1
            return Kind.SURPLUS
        self.events += 1
        if says(chunk.error) or _is_failure(event.name, chunk):
            self.error = read_error(data)
            self.error_is_native = bytes(chunk.error).startswith(b"{")
            return Kind.ERROR
        if says(chunk.usage):
            self.usage = bytes(chunk.usage)
        self._read_choices(event, chunk)
        if self._watches:
            self._watch(data)
        return Kind.EVENT

    @property
    def ordinary(self) -> Callable[[bytes], object] | None:
        """Chunks that go on with the only choice are; see the base class."""
        return _decode_plain if self.events and not (self._finished or self._watches) else None

    def _read_choices(self, event: Event, chunk: _Chunk) -> None:
        choices = chunk.choices or ()
        if self._finished and not self._goes_on and choices:
            again = any(choice.index in self._finished for choice in choices)
            self._goes_on = again and self.has_content(event)
        for choice in choices:
            if says(choice.finish_reason):
                self._finished.add(choice.index)
                self._stopped = self._stopped and bytes(choice.finish_reason) == b'"stop"'
            self._open.add(choice.index)

    def _is_foreign(self, name: bytes, chunk: _Chunk) -> bool:
        """Say whether an event of another language came between the chunks (opencode#38106)."""
        ours = name == _NO_NAME or chunk.choices is not None or says(chunk.error)
        ours = ours or _FAILURES.search(name) is not None
        return not ours and self.quirks.foreign_events == "drop" and not says(chunk.usage)

    def _watch(self, data: bytes) -> None:
        """Remember what decides about a finish reason that never comes."""
        self._last = data
        self._called = self._called or any(name in data for name in _CALLS)
        # Spoken answers end with this and no finish reason (openai-node, ChatCompletionStream.ts).
        self._spoken = self._spoken or (b'"audio"' in data and b'"expires_at"' in data)

    def _read_done(self) -> Kind:
        if not self.events or (self._finished and not self._all_finished):
            return Kind.UNFINISHED
        required = self.quirks.finish_reason == "required" and not self._spoken
        return Kind.UNFINISHED if required and not self._finished else Kind.TERMINAL

    @property
    def finished(self) -> bool:
        """Whether every choice has its ``finish_reason``, so that only statistics can follow."""
        return self.whole(clean=True)

    @property
    def empty(self) -> bool:
        """Whether every choice stopped by itself; one that a filter or a limit stopped is not."""
        return self._stopped

    def missing(self) -> list[Event]:
        """Return a last chunk, where an upstream that never sends a finish reason says so."""
        added = self.quirks.finish_reason == "added" and not self._finished
        # Half a call with a finish reason is run; a spoken answer has none.
        if not added or self._called or self._spoken:
            return []
        chunk = {key: of for key, of in loads(self._last).items() if key in IDENTITY}
        part: dict[str, Any] = {"text": ""} if self.request.is_legacy else {"delta": {}}
        end = {"logprobs": None, "finish_reason": "stop"}
        chunk["choices"] = [{"index": index, **part, **end} for index in sorted(self._open)]
        return [Event(b"", dumps(chunk))]

    def has_content(self, event: Event) -> bool:
        """Look for any non-empty field but ``role`` in any choice's delta."""
        if len(event.data) > _LARGEST_OPENER:
            return True
        try:
            chunk = parse(event.data)
        except (ValueError, RecursionError):
            return True
        for choice in choices_of(chunk):
            delta = choice.get("delta")
            if choice.get("text"):
                return True
            if isinstance(delta, dict) and any(delta[key] for key in delta if key != "role"):
                return True
        return False

    @property
    def _all_finished(self) -> bool:
        return bool(self._finished) and self._open <= self._finished

    def whole(self, *, clean: bool) -> bool:  # noqa: ARG002 - the choices say it all
        """Say whether every choice has its ``finish_reason``, and it was the last of it.

        Some servers send one in every chunk: there only ``[DONE]`` is an end.
        """
        return self._all_finished and not self._goes_on

    def end_mark(self) -> Event | None:
        """Return ``[DONE]``."""
        return DONE_EVENT

    def error_events(self, error: UpstreamError, journal: Journal) -> list[Event]:  # noqa: ARG002
        """Return the one event that every SDK raises on: a top-level ``error`` object."""
        return [Event(b"", dumps({"error": error_object(error)}))]

    def in_call(self, event: Event) -> bool:
        """Look for calls; one is complete with its choice, before that a fragment may follow."""
        if not self.open_calls and not any(name in event.data for name in _CALLS):
            return False
        choices = choices_of(loads(event.data))
        for choice in choices:
            delta = choice.get("delta")
            if isinstance(delta, dict) and (delta.get("tool_calls") or delta.get("function_call")):
                self.open_calls.add(index_of(choice))
        told = {index_of(choice) for choice in choices}
        touched = bool(told & (self.open_calls | self._behind))
        # What shares a chunk with a call waits with it, and what follows in that choice as well.
        self._behind |= told if touched else set()
        self.open_calls -= {index_of(choice) for choice in choices if choice.get("finish_reason")}
        if not self.open_calls:
            self._behind.clear()
        return touched

    def seam(self, given: list[Event]) -> Seam:
        """Return the seam of chat chunks."""
        return ChatSeam(given)

    def unroll(self, document: bytes, largest: int) -> list[Event]:
        """Return the chunks of a completion, and ``[DONE]`` if every choice is finished."""
        options = self.request.json.get("stream_options")
        usage = isinstance(options, dict) and options.get("include_usage") is True
        answer = read_anew(document)
        chunks = (Event(b"", dumps(chunk)) for chunk in unroll(answer, usage=usage))
        told = tell(chunks, largest)
        unfinished = [one for one in choices_of(answer) if not one.get("finish_reason")]
        # As in a stream: nothing is added to half a call, or it would be run.
        adds = self.quirks.finish_reason == "added" and not any(map(calls_in, unfinished))
        return [*told, DONE_EVENT] if told and (adds or not unfinished) else told

    def fold(self, events: list[Event]) -> bytes:
        """Return the completion that chunks add up to; without a choice they are none."""
        chunks = [read_anew(event.data) for event in events]
        whole = fold([chunk for chunk in chunks if chunk])
        return dumps(whole) if whole.get("choices") else b""


def _peek_slowly(data: bytes) -> _Chunk | None:
    """Give the second opinion: what the strict decoder refuses may be legal to the SDKs."""
    try:
        chunk = parse(data)
    except RecursionError:
        return _Chunk() if is_balanced(data) else None
    except ValueError:
        return None
    if not isinstance(chunk, dict):
        return _Chunk()
    choices = [_Choice(index_of(c), raw(c.get("finish_reason"))) for c in choices_of(chunk)]
    return _Chunk(
        choices=choices if isinstance(chunk.get("choices"), list) else None,
        error=raw(chunk.get("error")),
        usage=raw(chunk.get("usage")),
        type=raw(chunk.get("type")),
        object=raw(chunk.get("object")),
    )


def _is_failure(name: bytes, chunk: _Chunk) -> bool:
    if name == b"error" or (chunk.choices is None and name and _FAILURES.search(name)):
        return True
    return not chunk.choices and _ERROR in (bytes(chunk.type), bytes(chunk.object))
