"""Ways to misbehave: functions from a request and its attempt to an answer.

Knows how a healthy stream is broken, whatever its endpoint. Must not know names or
expectations: those are the scenarios' table.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable

from proxy.demo.answers import (
    Answer,
    Answering,
    Asked,
    End,
    Framing,
    Headers,
    Pause,
    Piece,
    Raw,
    error_reply,
    reply,
    sse,
)
from proxy.demo.bodies import (
    TEXT,
    Stream,
    chat_tool,
    error_event,
    json_for,
    payload_of,
    stream_for,
)

GIVEN = 5
"""So many events with content are sent before a stream breaks."""

OVERSIZE_BYTES = 128 * 2**10
"""The size of an oversize event. It shows where ``max_event_bytes`` is set below it."""

SEPARATED_TEXT = TEXT.replace("well, and", "well,\u2028and\u2029so\u0085")
BAD_TEXT = TEXT.replace("well,", "well\ufffd,")

SETTLE = Pause(0.1)
"""Lets the client read first: a reset destroys what its kernel has and nobody read."""

Rewrite = Callable[[tuple[bytes, ...]], Iterable[Piece]]


def healthy(asked: Asked, attempt: int) -> Answer:
    """Answer as a server should."""
    if asked.endpoint == "other":
        return error_reply(404, "unknown_url", "This upstream has no such endpoint.")
    if not asked.stream:
        return reply(200, json_for(asked, attempt))
    return sse(*stream_for(asked, attempt).events[asked.after + 1 :])


# --- a stream that stops --------------------------------------------------------------------


def stopped(end: End, *, framing: Framing = "chunked", given: int = GIVEN) -> Answering:
    """Stop after the openers and ``given`` events with content."""

    def answer(asked: Asked, attempt: int) -> Answer:
        stream = stream_for(asked, attempt)
        settle = (SETTLE,) if end == "reset" else ()
        return sse(*_given(stream, given), *settle, end=end, framing=framing)

    return answer


def cut_mid_event(asked: Asked, attempt: int) -> Answer:
    """Close inside an event and inside the chunk that it came in."""
    stream = stream_for(asked, attempt)
    event = stream.content[GIVEN]
    half = Raw(b"%x\r\n%b" % (len(event), event[: len(event) // 2]))
    return sse(*_given(stream), half, end="fin")


def tool_call_cut(asked: Asked, attempt: int) -> Answer:
    """End as if all were well in the middle of a tool call's arguments."""
    return sse(*chat_tool(asked, attempt).content[:GIVEN])


def empty(asked: Asked, attempt: int) -> Answer:  # noqa: ARG001 - nothing depends on it
    """Answer 200 and end cleanly without an event."""
    return sse()


def silent(*, head: bool) -> Answering:
    """Send nothing, with or without a status line, and hold the connection open."""

    def answer(asked: Asked, attempt: int) -> Answer:  # noqa: ARG001 - nothing depends on it
        return Answer(status=200 if head else 0, end="hold")

    return answer


def no_answer(end: End) -> Answering:
    """End the connection before any byte of an answer."""

    def answer(asked: Asked, attempt: int) -> Answer:  # noqa: ARG001 - nothing depends on it
        return Answer(status=0, end=end)

    return answer


def whole_then(end: End, *, framing: Framing = "chunked") -> Answering:
    """Give the whole stream, then end as told."""

    def answer(asked: Asked, attempt: int) -> Answer:
        settle = (SETTLE,) if end == "reset" else ()
        return sse(*stream_for(asked, attempt).events, *settle, end=end, framing=framing)

    return answer


# --- errors ---------------------------------------------------------------------------------


def status(code: int, name: str, message: str, headers: Headers = ()) -> Answering:
    """Answer with an HTTP error status."""

    def answer(asked: Asked, attempt: int) -> Answer:  # noqa: ARG001 - nothing depends on it
        return error_reply(code, name, message, headers)

    return answer


def told_error(code: str, message: str, kind: str, *, given: int = 0) -> Answering:
    """Tell an error inside a 200, first thing or after ``given`` events with content."""

    def answer(asked: Asked, attempt: int) -> Answer:
        before = _given(stream_for(asked, attempt), given) if given else ()
        # As vLLM does: the end mark follows the error all the same.
        mark = () if asked.endpoint == "responses" else (b"data: [DONE]\n\n",)
        error = error_event(asked, code, message, kind, number=len(before))
        return sse(*before, error, *mark)

    return answer


def malformed(asked: Asked, attempt: int) -> Answer:
    """Send an event whose JSON breaks off, then go on as if nothing had been."""
    stream = stream_for(asked, attempt)
    given = _given(stream)
    broken = stream.content[GIVEN][:-20] + b"\n\n"
    return sse(*given, broken, *stream.content[GIVEN + 1 :], *stream.closing)


def oversize(asked: Asked, attempt: int) -> Answer:
    """Send one event of legal JSON that is very large."""
    stream = stream_for(asked, attempt)
    head, payload = payload_of(stream.content[GIVEN])
    padding = b',"padding":"%b"}\n\n' % (b"x" * OVERSIZE_BYTES)
    large = head + payload[:-1] + padding
    return sse(*_given(stream), large, *stream.content[GIVEN + 1 :], *stream.closing)


# --- whole streams in an unusual form -------------------------------------------------------


def rewritten(rewrite: Rewrite, text: str = TEXT, headers: Headers | None = None) -> Answering:
    """Give the whole stream with its events written differently."""

    def answer(asked: Asked, attempt: int) -> Answer:
        pieces = tuple(rewrite(stream_for(asked, attempt, text).events))
        return Answer(pieces=pieces) if headers is None else Answer(headers=headers, pieces=pieces)

    return answer


def as_is(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Change nothing."""
    return events


def without_done(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Leave the end mark out."""
    return events[:-1]


def unclosed(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Leave the end mark out, and the blank line after the event that is then the last."""
    kept = events[:-1] if events[-1].startswith(b"data: [DONE]") else events
    return (*kept[:-1], kept[-1].removesuffix(b"\n"))


def crlf(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """End every line with CR LF."""
    return [event.replace(b"\n", b"\r\n") for event in events]


def one_byte_writes(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Send every byte as a chunk of its own."""
    return [bytes([byte]) for byte in b"".join(events)]


def slow(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Wait before each event."""
    return [piece for event in events for piece in (Pause(0.3), event)]


def between(block: bytes) -> Rewrite:
    """Put a block before the first event and another one in the middle."""

    def rewrite(events: tuple[bytes, ...]) -> Iterable[Piece]:
        return (block, *events[:GIVEN], block, *events[GIVEN:])

    return rewrite


def bom(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Begin with a byte order mark."""
    return (b"\xef\xbb\xbf" + events[0], *events[1:])


def double_prefix(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Write ``data: data:``."""
    return [event.replace(b"data: ", b"data: data: ", 1) for event in events]


def no_blank_line(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Leave out the blank line between every two events."""
    for pair in _pairs(events):
        yield b"".join(event.removesuffix(b"\n") for event in pair) + b"\n"


def several_json(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Put every two JSON objects into the data of one event."""
    for pair in _pairs(events):
        yield payload_of(pair[0])[0] + b"".join(payload_of(event)[1] for event in pair) + b"\n\n"


def _pairs(events: tuple[bytes, ...]) -> list[tuple[bytes, ...]]:
    return [events[start : start + 2] for start in range(0, len(events), 2)]


def multi_line(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Print the JSON prettily over several data lines."""
    for event in events:
        head, payload = payload_of(event)
        if not payload.startswith(b"{"):
            yield event
            continue
        lines = json.dumps(json.loads(payload), indent=1).encode().split(b"\n")
        yield head.removesuffix(b"data: ") + b"".join(b"data: %b\n" % x for x in lines) + b"\n"


def bad_utf8(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Put a byte that is no UTF-8 where the text has U+FFFD."""
    return [event.replace("\ufffd".encode(), b"\xff") for event in events]


def gzipped(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Compress, flushed after every event."""
    gzip = zlib.compressobj(wbits=31)
    for event in events:
        yield gzip.compress(event) + gzip.flush(zlib.Z_SYNC_FLUSH)
    yield gzip.flush()


def _given(stream: Stream, given: int = GIVEN) -> tuple[bytes, ...]:
    return stream.opening + stream.content[:given]
