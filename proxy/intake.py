"""What came of an answer's body and was not taken yet.

Knows aiohttp's reader of bodies and makes it cheap: HTTP chunks are no bounds of anything here,
so they are not remembered, and all that came is taken at once. Must not know whose body it is.
Written for aiohttp 3.14.5; what it saves is in docs/performance.md.
"""

from __future__ import annotations

from aiohttp import StreamReader


class Intake(StreamReader):
    """A body. Made of aiohttp's own reader by ``of``, as its parser makes no other."""

    __slots__ = ()

    @staticmethod
    def of(reader: StreamReader) -> None:
        """Turn a reader into one of these, with what it holds."""
        reader._http_chunk_splits = None  # noqa: SLF001 - as if no chunk had begun
        reader.__class__ = Intake

    def take(self) -> bytes:
        """Return at once all that came; may let the connection give more, which then came too."""
        buffer = self._buffer
        if len(buffer) == 1 and not self._buffer_offset:
            data = buffer.popleft()
        elif buffer:
            data = b"".join(buffer)[self._buffer_offset :]
            buffer.clear()
            self._buffer_offset = 0
        else:
            return b""
        self._size = 0
        self._cursor += len(data)
        # Behind the end the connection may be another answer's, whose pace this is not to set.
        if not self._eof and self._protocol._reading_paused:  # noqa: SLF001 - no public way
            self._protocol.resume_reading()
        return data

    def _read_nowait(self, n: int) -> bytes:
        """Take all at once where all is asked for."""
        return self.take() if n < 0 else super()._read_nowait(n)

    def feed_data(self, data: bytes, size: int = 0) -> bool:  # noqa: ARG002 - aiohttp's signature
        """Take what the parser found; hold the connection up where too much waits."""
        if data:
            self._buffer.append(data)
            self._size += len(data)
            self.total_bytes += len(data)
            waiter = self._waiter
            if waiter is not None:
                self._waiter = None
                if not waiter.done():
                    waiter.set_result(None)
            # Many small pieces cost more than their bytes.
            if self._size > self._high_water or len(self._buffer) > self._high_water_chunks:
                self._protocol.pause_reading()
        return False

    def begin_http_chunk_receiving(self) -> None:
        """Note that the parser is inside a chunk."""
        self._protocol.in_chunk = True  # type: ignore[attr-defined]

    def end_http_chunk_receiving(self) -> None:
        """Note that the parser is between chunks."""
        self._protocol.in_chunk = False  # type: ignore[attr-defined]
