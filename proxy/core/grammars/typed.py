"""Images, audio and assistants: streams of which the last event is known by its type.

Complete is what ended with that event, images as often as ``n`` asks. Where a
compatible server speaks other types than OpenAI's, no last one is known, and a proper end of a
body that is not empty counts as complete. None of these requests is repeated once its answer
has begun: a run, an image or an upload has had its effect.
"""

from __future__ import annotations

from typing import Any

import msgspec

from proxy.core.errors import dumps, read_error
from proxy.core.grammars.anew import TooMuchError, read_anew, tell
from proxy.core.grammars.base import DONE, Kind, dicts, says
from proxy.core.grammars.plain import PlainGrammar
from proxy.core.policy import SAFE, Quirks
from proxy.core.request import MAX_CHOICES, Request
from proxy.core.sse import Event

_NULL = msgspec.Raw(b"null")


class _Peek(msgspec.Struct, gc=False):
    type: msgspec.Raw = _NULL
    object: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL


_decode = msgspec.json.Decoder(_Peek).decode


class TypedGrammar(PlainGrammar):
    """One attempt of a stream whose events name their type."""

    only_events = True
    unrolls = True
    last = frozenset[str]()
    language: tuple[str, ...] = ()
    """How the types that are OpenAI's own begin."""

    def __init__(self, request: Request, quirks: Quirks = SAFE) -> None:
        """Expect one last event, where it is not known better."""
        super().__init__(request, quirks)
        self._missing: int | None = 1
        self._ours = False
        self._ended = False

    def read(self, event: Event) -> Kind:
        """Peek at an event's type; see the base class."""
        if event.data.startswith(DONE) and self._lacks_something:
            return Kind.UNFINISHED
        kind = super().read(event)
        if kind is not Kind.EVENT:
            return kind
        try:
            peek = _decode(event.data)
        except (msgspec.MsgspecError, RecursionError):
            peek = _Peek()
        if event.name == b"error" or says(peek.error) or bytes(peek.type) == b'"error"':
            self.error = read_error(event.data)
            nested = bytes(peek.error).startswith(b"{")
            self.error_is_native = nested and event.name == self.error_name
            return Kind.ERROR
        return self._read_type(_text(peek.type) or _text(peek.object))

    def _read_type(self, name: str) -> Kind:
        self._ours = self._ours or name.startswith(self.language)
        if name not in self.last:
            return Kind.EVENT
        self._ended = True
        if self._missing is None:
            return Kind.EVENT
        self._missing -= 1
        return Kind.EVENT if self._missing else Kind.TERMINAL

    @property
    def _lacks_something(self) -> bool:
        """Whether an end mark comes too early, as from gateways it does (CLIProxyAPI#4884)."""
        if not self.events:
            return True
        known = bool(self.last) and self._ours
        return known and (not self._ended or bool(self._missing))

    def whole(self, *, clean: bool) -> bool:
        """Say whether all that was promised came, or nothing is known of what was promised."""
        if not clean or not self.events:
            return False
        return not self._ours or (self._ended and self._missing is None)


class ImagesGrammar(TypedGrammar):
    """Generations and edits, with partial images on the way."""

    last_of = ("image_generation.completed", "image_edit.completed")
    last = frozenset(last_of)
    language = ("image_generation.", "image_edit.")

    def __init__(self, request: Request, quirks: Quirks = SAFE) -> None:
        """Expect as many images as were asked for; of some uploads that is not known."""
        super().__init__(request, quirks)
        self._missing = request.choices if request.choices_known else None

    def unroll(self, document: bytes, largest: int) -> list[Event]:
        """Return a completed event for each image."""
        answer = read_anew(document)
        kind = self.last_of[self.request.path.rstrip("/").endswith("/edits")]
        images = dicts(answer.pop("data", None))
        if len(images) > MAX_CHOICES:
            raise TooMuchError
        shared = {"type": kind, "created_at": answer.pop("created", None), **answer}
        return tell((Event(kind.encode(), dumps(shared | image)) for image in images), largest)


class AudioGrammar(TypedGrammar):
    """Transcriptions and speech."""

    only_events = False  # speech is raw audio, and some transcriptions are plain text
    last = frozenset({"transcript.text.done", "speech.audio.done"})
    language = ("transcript.", "speech.")

    def unroll(self, document: bytes, largest: int) -> list[Event]:
        """Return the last event of a transcription, which repeats the whole text."""
        answer = read_anew(document)
        if not isinstance(answer.get("text"), str):
            return []
        kept: dict[str, Any] = {
            key: answer[key] for key in ("text", "logprobs", "usage") if key in answer
        }
        return tell([Event(b"", dumps({"type": "transcript.text.done", **kept}))], largest)


class ThreadsGrammar(TypedGrammar):
    """Assistants: ``event: done`` with ``[DONE]`` is the end, errors are events of that name."""

    language = ("thread",)
    error_name = b"error"


def _text(value: msgspec.Raw) -> str:
    return bytes(value).strip(b'"').decode("utf-8", "replace") if says(value) else ""
