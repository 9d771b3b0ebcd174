"""What a parent and a worker process say to each other, over a pair of sockets.

Knows the words and how they are cut out of a stream of bytes: four bytes of length, then
MessagePack. Must not know who says what when. The end of the stream says that the other process
is gone.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Generic, TypeVar

import msgspec

from proxy.totals import Family

_LENGTH = 4
_GOODBYE_S = 0.2
_T = TypeVar("_T")


class Setup(msgspec.Struct, frozen=True, tag=True):
    """To a worker, first: what it is to be. ``settings`` are pickled: they hold keys."""

    number: int
    settings: bytes
    pseudonym: str


class Report(msgspec.Struct, frozen=True, tag=True):
    """To a worker: tell what there is now, in answer to a question of this number."""

    question: int


class Drain(msgspec.Struct, frozen=True, tag=True):
    """To a worker: serve no more. Said twice: end at once."""


class Listening(msgspec.Struct, frozen=True, tag=True):
    """From a worker: it serves."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """From a worker: it cannot start, and why, in one line for the user."""

    text: str


class Told(msgspec.Struct, frozen=True, tag=True):
    """From a worker: its numbers, and incidents that are new, oldest first.

    Each incident is its time in Unix seconds and its record as JSON. ``question`` is 0 where
    nobody asked.
    """

    question: int
    families: list[Family]
    incidents: list[tuple[float, bytes]]


Order = Setup | Report | Drain
Word = Listening | Refused | Told

ORDERS: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)
WORDS: msgspec.msgpack.Decoder[Word] = msgspec.msgpack.Decoder(Word)


class Channel(Generic[_T]):
    """One end."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        decoder: msgspec.msgpack.Decoder[_T],
    ) -> None:
        """Take a connection; see ``over``."""
        self._reader = reader
        self._writer = writer
        self._decoder = decoder
        self._encoder = msgspec.msgpack.Encoder()

    @classmethod
    async def over(cls, end: socket.socket, decoder: msgspec.msgpack.Decoder[_T]) -> Channel[_T]:
        """Take a socket, which is closed with the channel."""
        end.setblocking(False)  # noqa: FBT003 - its own signature
        return cls(*await asyncio.open_unix_connection(sock=end), decoder)

    def say(self, said: Order | Word) -> None:
        """Say something, without waiting; to one that is gone, nothing."""
        if not self._writer.is_closing():
            data = self._encoder.encode(said)
            self._writer.write(len(data).to_bytes(_LENGTH, "big") + data)

    async def heard(self) -> None:
        """Wait while the other side has too much to read already."""
        try:
            await self._writer.drain()
        except ConnectionError:
            return

    async def hear(self) -> _T | None:
        """Wait for the next word; None means that the other process is gone."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH), "big")
            return self._decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def close(self) -> None:
        """Send what was said, if it is read in time, and close."""
        self._writer.close()
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._writer.wait_closed()
        except (TimeoutError, ConnectionError):
            self._writer.transport.abort()
