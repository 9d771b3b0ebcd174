"""Compressed bodies, decoded as they arrive although identity was asked for.

Knows gzip and deflate by the standard library. Must not know what is inside. An answer in a
coding that cannot be decoded here is refused by its name, never framed as text.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

_PIECE = 64 * 1024
"""Decoded bytes come in pieces of at most this size, however well they were compressed."""

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP = 16 + zlib.MAX_WBITS
_ZLIB_METHOD = 8


class UnknownCodingError(Exception):
    """A content coding that cannot be decoded."""


class Decoder:
    """Decodes one body. ``active`` says whether it is compressed at all, once a byte came."""

    def __init__(self, coding: str) -> None:
        """Take the value of ``Content-Encoding``. Raises UnknownCodingError."""
        coding = coding.strip().lower().removeprefix("x-")
        if coding not in {"", "identity", "gzip", "deflate"}:
            raise UnknownCodingError(coding)
        self._coding = coding
        self._decompress: zlib._Decompress | None = None
        self._first = b""
        self._started = False

    @property
    def active(self) -> bool:
        """Whether the body is compressed."""
        return self._decompress is not None

    @property
    def plain(self) -> bool:
        """Whether it is known that the body is not compressed."""
        return self._started and not self.active

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what a read decodes to. Damaged data ends the output; the grammar will miss it."""
        if not self._started:
            data = self._start(data)
        if self._decompress is None:
            if data and self._started:
                yield data
            return
        full = False
        while data or full:
            if self._decompress.eof:
                self._decompress = zlib.decompressobj(_GZIP)
            try:
                piece = self._decompress.decompress(data, _PIECE)
            except zlib.error:
                return
            # A full piece may leave output behind in zlib although all input was taken.
            full = len(piece) == _PIECE
            data = self._decompress.unconsumed_tail or self._decompress.unused_data
            if piece:
                yield piece

    def _start(self, data: bytes) -> bytes:
        data = self._first + data
        if len(data) < len(_GZIP_MAGIC) and (self._coding == "deflate" or data == _GZIP_MAGIC[:1]):
            self._first = data
            return b""
        self._started = True
        if self._coding == "deflate":
            # "deflate" means zlib (RFC 9110 8.4.1.2), but raw deflate is sent as well.
            raw = data[0] & 0x0F != _ZLIB_METHOD or (data[0] << 8 | data[1]) % 31
            self._decompress = zlib.decompressobj(-zlib.MAX_WBITS if raw else zlib.MAX_WBITS)
        elif self._coding == "gzip" or data.startswith(_GZIP_MAGIC):
            # Some gateways compress without saying so (router-for-me/CLIProxyAPI#1834).
            self._decompress = zlib.decompressobj(_GZIP)
        return data
