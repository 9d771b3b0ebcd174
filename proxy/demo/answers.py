"""The vocabulary of misbehaviour: what was asked, and what one answer puts on the wire.

Knows plain frozen values, from which both the scenarios and the scripts of tests are made.
Must not know sockets, endpoints' languages or scenarios. Durations are seconds, sizes bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Framing: TypeAlias = Literal["chunked", "length", "close"]
End: TypeAlias = Literal["clean", "fin", "reset", "hold", "told"]
Headers: TypeAlias = tuple[tuple[str, str], ...]

EVENT_STREAM: Headers = (("Content-Type", "text/event-stream; charset=utf-8"),)
JSON: Headers = (("Content-Type", "application/json"),)
AUDIO: Headers = (("Content-Type", "audio/mpeg"),)


@dataclass(frozen=True, slots=True)
class Pause:
    """Silence on the wire."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes outside of the framing: half a chunk, a chunk size that is none."""

    data: bytes


Piece: TypeAlias = bytes | Pause | Raw


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. Each piece is one write and, in a chunked body, one chunk.

    ``status`` 0 sends no head: the pieces are all there is on the wire. ``framing`` says how
    the body is delimited; ``length`` is the Content-Length told, by default the right one.
    ``before_s`` passes before the status line.

    ``end`` is ``clean`` as the framing has it (the connection lives on, but for ``close``),
    ``fin`` (the connection is closed there and then), ``reset`` (the same by RST; what the
    client has not read by then is lost to it), ``hold`` (nothing more ever comes) or ``told``
    (the pieces had the body's end in them; the connection lives on).
    """

    status: int = 200
    headers: Headers = EVENT_STREAM
    framing: Framing = "chunked"
    pieces: tuple[Piece, ...] = ()
    end: End = "clean"
    length: int | None = None
    before_s: float = 0.0

    @property
    def size(self) -> int:
        """Bytes of body."""
        return sum(len(piece) for piece in self.pieces if isinstance(piece, bytes))


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asked for, as far as an answer depends on it.

    ``endpoint`` is chat_completions, completions, responses, images, audio, threads, agents,
    models or other, and ``path`` says which of several doors it was asked at; ``usage`` says
    that token counts were asked for; ``reused`` that the connection carried a request before;
    ``background`` that a response runs on without its stream. Where such a response is asked
    for again, ``made`` is the attempt that made it (else 0), and ``after`` the number of the
    event after which its stream goes on. ``count`` is how many images are wanted; ``prefilled``
    says that the beginning of the answer is in the request.
    """

    endpoint: str = "chat_completions"
    model: str = ""
    stream: bool = True
    usage: bool = False
    reused: bool = False
    background: bool = False
    made: int = 0
    after: int = -1
    path: str = ""
    count: int = 1
    prefilled: bool = False


Answering: TypeAlias = Callable[[Asked, int], Answer]
"""From a request and the number of its attempt, counted from 1, to the answer."""


def sse(*pieces: Piece, end: End = "clean", framing: Framing = "chunked") -> Answer:
    """Return a 200 with an event stream."""
    return Answer(framing=framing, pieces=pieces, end=end)


def reply(status: int, value: object, headers: Headers = ()) -> Answer:
    """Return a JSON answer with a Content-Length."""
    body = json.dumps(value).encode()
    return Answer(status=status, headers=JSON + headers, framing="length", pieces=(body,))


def error_reply(status: int, code: str, message: str, headers: Headers = ()) -> Answer:
    """Return an HTTP error in OpenAI's shape."""
    kind = "invalid_request_error" if status in {400, 404} else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return reply(status, {"error": error}, headers)
