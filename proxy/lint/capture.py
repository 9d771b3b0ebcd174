"""What may stand around a captured body: heads that ``curl -i`` kept, and compression.

Knows where a body begins, and where its blocks end. Must not know what is in a block.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from proxy.decoding import Decoder, UnknownCodingError
from proxy.headers import is_event_stream
from proxy.sniff import Body, kind_of

_HEAD = re.compile(rb"HTTP/[0-9.]+ ([0-9]{3})[^\n]*\n((?:[^\r\n][^\n]*\n)*+)\r?\n")
_FIELD = re.compile(rb"(?im)^(content-type|content-encoding)[ \t]*:[ \t]*([^\r\n]*)")
_BLANK = re.compile(rb"(?:\r\n|\r(?!\n)|\n){2,}")
_PART = 2**20
"""Of what is decoded piece by piece, a block that is larger is given in parts."""


class CaptureError(ValueError):
    """A capture that cannot be read; the text says what to do."""


class Head(NamedTuple):
    """The last head in front of a body; ``status`` 0 and ``size`` 0 if there is none."""

    status: int = 0
    kind: str = ""
    coding: str = ""
    size: int = 0


def read_head(capture: bytes) -> Head:
    """Read the heads in front of a body: those of redirects and proxies come before its own."""
    head = Head()
    while (found := _HEAD.match(capture, head.size)) is not None:
        fields = {name.lower(): value.decode("latin-1") for name, value in _FIELD.findall(found[2])}
        kind, coding = fields.get(b"content-type", ""), fields.get(b"content-encoding", "")
        head = Head(int(found[1]), kind, coding.strip().lower(), found.end())
    return head


class Captured:
    """A body, decoded as it is read. ``base`` is the offset of its first byte.

    Raises CaptureError for a compression that is not known here.
    """

    def __init__(self, capture: bytes, head: Head) -> None:
        """Take what is behind the head."""
        decoder = _decoder_for(head, capture)
        self._rest = decoder.feed(capture[head.size :])
        self._first = next(self._rest, b"")
        self.decoded = decoder.active
        self.base = 0 if self.decoded else head.size
        self._kind = kind_of(self._first, ended=True)
        self._called_events = head.size == 0 or is_event_stream({"Content-Type": head.kind})

    @property
    def is_document(self) -> bool:
        """Whether it is JSON, and no event stream."""
        return self._kind is Body.JSON

    @property
    def is_miscalled(self) -> bool:
        """Whether it is an event stream whose head calls it something else."""
        return self._kind is Body.EVENTS and not self._called_events

    @property
    def start(self) -> Iterator[tuple[int, bytes]]:
        """The first blocks. What is compressed is not decoded any further for them."""
        return _blocks([self._first], self.base)

    def whole(self) -> bytes:
        """Return all of it. To be asked once, in place of ``blocks``."""
        return b"".join([self._first, *self._rest])

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Yield offset and bytes of each block, blank lines included. To be asked once."""
        yield from _blocks(self._pieces(), self.base)

    def _pieces(self) -> Iterator[bytes]:
        yield self._first
        yield from self._rest


def _decoder_for(head: Head, capture: bytes) -> Decoder:
    """Believe the bytes rather than the head: curl may have decoded them, and keeps the head."""
    begin = capture[head.size : head.size + _PART]
    plain = kind_of(begin, ended=True) in {Body.EVENTS, Body.JSON, Body.HTML}
    try:
        return Decoder("" if plain or "gzip" in head.coding else head.coding)
    except UnknownCodingError:
        raise CaptureError(
            "the capture is compressed in a way that is not known here; try curl --compressed"
        ) from None


def _blocks(pieces: Iterable[bytes], at: int) -> Iterator[tuple[int, bytes]]:
    rest = b""
    for piece in pieces:
        text, end = rest + piece, 0
        for blank in _BLANK.finditer(text):
            yield at + end, text[end : blank.end()]
            end = blank.end()
        at, rest = at + end, text[end:]
        if len(rest) > _PART:
            yield at, rest
            at, rest = at + len(rest), b""
    if rest:
        yield at, rest
