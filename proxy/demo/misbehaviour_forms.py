"""Whole streams in an unusual form, whatever their endpoint.

Knows how the events of a healthy stream are written differently. Must not know names or
expectations: those are the scenarios' table.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable

from proxy.demo.answers import (
    EVENT_STREAM,
    Answer,
    Answering,
    Asked,
    End,
    Headers,
    Pause,
    Piece,
    Raw,
    reply,
    sse,
)
from proxy.demo.bodies import json_for, stream_for
from proxy.demo.misbehaviour import GIVEN, healthy
from proxy.demo.shapes import TEXT, payload_of

GZIPPED: Headers = (*EVENT_STREAM, ("Content-Encoding", "gzip"))

SILENCE = Pause(3.0)
"""Longer than heartbeats take to come, shorter than the demonstration's patience."""

SEPARATED_TEXT = TEXT.replace("well, and", "well,\u2028and\u2029so\u0085")
BAD_TEXT = TEXT.replace("well,", "well\ufffd,")
WIDE_TEXT = TEXT.replace("end", "énd").replace("well,", "w€ll 🎉,")
"""With characters of 2, 3 and 4 bytes."""

FLOOD_TEXT = " ".join([TEXT] * 1500)
"""18,000 words, which are about 4 MiB where each is an event."""

OVERLOADED = "Our servers are currently overloaded. Please try again later."

HUGE_BYTES = 512 * 2**10
"""The size of an event that is large, and no more than that."""

_FOLDED = frozenset({"chat_completions", "completions", "responses"})
"""Those whose streams add up to a document."""

_MOMENT = Pause(0.02)
_MANY = 64

Rewrite = Callable[[tuple[bytes, ...]], Iterable[Piece]]


def rewritten(
    rewrite: Rewrite, text: str = TEXT, headers: Headers = EVENT_STREAM, end: End = "clean"
) -> Answering:
    """Give the whole stream with its events written differently."""

    def answer(asked: Asked, attempt: int) -> Answer:
        pieces = tuple(rewrite(stream_for(asked, attempt, text).events))
        return Answer(headers=headers, pieces=pieces, end=end)

    return answer


def saying(text: str) -> Answering:
    """Give a whole stream that says something of its own."""
    return rewritten(as_is, text)


def document(asked: Asked, attempt: int) -> Answer:
    """Answer with JSON, although a stream was asked for."""
    return reply(200, json_for(asked, attempt))


def unasked(asked: Asked, attempt: int) -> Answer:
    """Answer with a stream, although none was asked for."""
    if asked.endpoint not in _FOLDED:
        return healthy(asked, attempt)
    return sse(*stream_for(asked, attempt).events)


def as_is(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Change nothing."""
    return events


def middle(events: tuple[bytes, ...]) -> int:
    """Return the index of an event inside of a stream, however short it is."""
    return min(GIVEN, len(events) // 2)


# --- time and writes ------------------------------------------------------------------------


def slow(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Wait before each event."""
    return [piece for event in events for piece in (Pause(0.3), event)]


def long_silence(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Fall silent before the first event, and again in the middle."""
    at = middle(events)
    return (SILENCE, *events[:at], SILENCE, *events[at:])


def burst(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Keep everything back, then send it in one write."""
    return (Pause(0.5), b"".join(events))


def in_large_writes(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Send many events in each write."""
    return [b"".join(events[at : at + _MANY]) for at in range(0, len(events), _MANY)]


def one_byte_writes(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Send every byte as a chunk of its own."""
    return [bytes([byte]) for byte in b"".join(events)]


def last_chunk_apart(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Send the bytes of the last chunk one by one; to be ended as ``told``."""
    apart = [piece for byte in b"0\r\n\r\n" for piece in (_MOMENT, Raw(bytes([byte])))]
    return (*events, *apart)


# --- lines ----------------------------------------------------------------------------------


def crlf(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """End every line with CR LF."""
    return [event.replace(b"\n", b"\r\n") for event in events]


def cr(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """End every line with CR alone."""
    return [event.replace(b"\n", b"\r") for event in events]


def bom(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Begin with a byte order mark."""
    return (b"\xef\xbb\xbf" + events[0], *events[1:])


def nul(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Put NUL bytes before each event and after its data."""
    return [b"\0" + event.removesuffix(b"\n\n") + b"\0\n\n" for event in events]


def no_space(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Leave out the space after the name of each field."""
    shorter = [event.replace(b"event: ", b"event:", 1) for event in events]
    return [event.replace(b"data: ", b"data:", 1) for event in shorter]


def double_prefix(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Write ``data: data:``."""
    return [event.replace(b"data: ", b"data: data: ", 1) for event in events]


def multi_line(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Print the JSON prettily over several data lines."""
    for event in events:
        head, payload = payload_of(event)
        if not payload.startswith(b"{"):
            yield event
            continue
        lines = json.dumps(json.loads(payload), indent=1).encode().split(b"\n")
        yield head.removesuffix(b"data: ") + b"".join(b"data: %b\n" % x for x in lines) + b"\n"


# --- borders --------------------------------------------------------------------------------


def without_done(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Leave the end mark out."""
    return events[:-1]


def unclosed(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Leave the end mark out, and the blank line after the event that is then the last."""
    kept = events[:-1] if events[-1].startswith(b"data: [DONE]") else events
    return (*kept[:-1], kept[-1].removesuffix(b"\n"))


def between(block: bytes) -> Rewrite:
    """Put a block before the first event and another one in the middle."""

    def rewrite(events: tuple[bytes, ...]) -> Iterable[Piece]:
        at = middle(events)
        return (block, *events[:at], block, *events[at:])

    return rewrite


def twice(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Send every event a second time."""
    return [event for event in events for _ in range(2)]


def no_blank_line(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Leave out the blank line between every two events."""
    for pair in _pairs(events):
        yield b"".join(event.removesuffix(b"\n") for event in pair) + b"\n"


def several_json(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Put every two JSON objects into the data of one event."""
    for pair in _pairs(events):
        yield payload_of(pair[0])[0] + b"".join(payload_of(event)[1] for event in pair) + b"\n\n"


def split_json(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """End an event inside its JSON; the rest of that follows as if it were a line of its own."""
    at = middle(events)
    head, payload = payload_of(events[at])
    border = len(payload) // 2
    while payload[border - 1 : border + 1].strip(b' :"') != payload[border - 1 : border + 1]:
        border += 1  # white space or a colon at its border would make it another line
    parts = (head + payload[:border] + b"\n\n", payload[border:] + b"\n\n")
    return (*events[:at], *parts, *events[at + 1 :])


def _pairs(events: tuple[bytes, ...]) -> list[tuple[bytes, ...]]:
    return [events[start : start + 2] for start in range(0, len(events), 2)]


def padded(size: int) -> Answering:
    """Send one event of legal JSON that is very large."""

    def answer(asked: Asked, attempt: int) -> Answer:
        stream = stream_for(asked, attempt)
        at = stream.kept(GIVEN)
        head, payload = payload_of(stream.content[at])
        large = head + payload[:-1] + b',"padding":"%b"}\n\n' % (b"x" * size)
        return sse(*stream.given(GIVEN), large, *stream.content[at + 1 :], *stream.closing)

    return answer


# --- bytes ----------------------------------------------------------------------------------


def bad_utf8(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Put a byte that is no UTF-8 where the text has U+FFFD."""
    return [event.replace("\ufffd".encode(), b"\xff") for event in events]


def gzipped(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Compress, flushed after every event."""
    gzip = zlib.compressobj(wbits=31)
    for event in events:
        yield gzip.compress(event) + gzip.flush(zlib.Z_SYNC_FLUSH)
    yield gzip.flush()


def gzip_cut(asked: Asked, attempt: int) -> Answer:
    """Compress, and end properly inside of what was compressed."""
    *pieces, _ = gzipped(stream_for(asked, attempt).given(GIVEN))
    return Answer(headers=GZIPPED, pieces=tuple(pieces))
