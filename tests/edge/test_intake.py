"""The intake, beside aiohttp's own reader of bodies."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol

from proxy.intake import Intake

LIMIT = 64


class Connection:
    """As much of a connection as a reader knows."""

    connected = True

    def __init__(self) -> None:
        """Nothing was asked of it yet."""
        self._reading_paused = self.in_chunk = False
        self.resumed = 0

    def pause_reading(self) -> None:
        """Note that enough came."""
        self._reading_paused = True

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: ARG002, FBT001, FBT002 - aiohttp's signature
        """Note that more may come."""
        self._reading_paused = False
        self.resumed += 1


def made(*pieces: bytes) -> tuple[Intake, Connection]:
    """Return an intake that was a reader while these pieces came."""
    connection = Connection()
    loop = asyncio.get_running_loop()
    reader = StreamReader(cast("BaseProtocol", connection), LIMIT, loop=loop)
    for piece in pieces:
        reader.begin_http_chunk_receiving()
        reader.feed_data(piece)
        reader.end_http_chunk_receiving()
    Intake.of(reader)
    assert isinstance(reader, Intake)
    return reader, connection


async def test_what_came_before_and_after_is_taken_at_once_and_in_order() -> None:
    """Chunks are no bounds of anything."""
    intake, _ = made(b"a", b"b")
    intake.begin_http_chunk_receiving()
    intake.feed_data(b"c")
    intake.feed_data(b"")
    intake.end_http_chunk_receiving()
    assert intake.take() == b"abc"
    assert intake.take() == b""
    assert intake.total_bytes == 3


async def test_a_piece_that_was_begun_is_taken_to_its_end() -> None:
    """Somebody read the first bytes of it by number."""
    intake, _ = made(b"abcd", b"ef")
    assert await intake.read(2) == b"ab"
    assert intake.take() == b"cdef"
    intake.feed_data(b"ghij")
    assert await intake.read(1) == b"g"
    assert intake.take() == b"hij"


@pytest.mark.parametrize(
    ("pieces", "pauses"),
    [
        ([b"x" * 2 * LIMIT], False),
        ([b"x" * 2 * LIMIT, b"x"], True),
        ([b"x"] * 4, False),
        ([b"x"] * 5, True),
    ],
)
async def test_too_much_holds_the_connection_up_until_it_is_taken(
    pieces: list[bytes], *, pauses: bool
) -> None:
    """Too many bytes, or too many pieces, which cost more than their bytes."""
    intake, connection = made()
    for piece in pieces:
        intake.feed_data(piece)
    assert connection._reading_paused is pauses
    assert intake.take() == b"".join(pieces)
    assert connection.resumed == pauses
    assert not connection._reading_paused


async def test_readers_are_woken_as_by_the_reader_of_aiohttp() -> None:
    """By data, by the end, by a fault; what came before a fault can still be taken."""
    intake, _ = made()
    waiting = asyncio.ensure_future(intake.readany())
    await asyncio.sleep(0)
    intake.feed_data(b"a")
    assert await waiting == b"a"
    waiting = asyncio.ensure_future(intake.readany())
    await asyncio.sleep(0)
    waiting.cancel()
    intake.feed_data(b"b")
    await asyncio.sleep(0)
    assert not intake.over
    assert intake.take() == b"b"
    intake.feed_data(b"c")
    intake.set_exception(ValueError())
    assert intake.over
    assert intake.take() == b"c"


async def test_the_end_is_known_before_the_last_bytes_are_taken() -> None:
    """It is over, and at its end only behind them."""
    intake, _ = made(b"a")
    intake.feed_eof()
    assert intake.over
    assert not intake.at_eof()
    assert await intake.readany() == b"a"
    assert intake.at_eof()
    assert await intake.readany() == b""


async def test_the_connection_knows_whether_the_parser_is_inside_a_chunk() -> None:
    """As the parser's calls say."""
    intake, connection = made()
    intake.begin_http_chunk_receiving()
    assert connection.in_chunk
    intake.end_http_chunk_receiving()
    assert not connection.in_chunk
