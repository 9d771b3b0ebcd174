"""What came of a body: the same bytes as aiohttp's own reader has, held up as soon, taken at once.

Both are filled by aiohttp's parser, as they are by a socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from aiohttp import ClientPayloadError, StreamReader
from aiohttp.client_proto import ResponseHandler
from hypothesis import given
from hypothesis import strategies as st
from support import cut_at

from edge.flowing import LAST, http
from proxy.intake import Intake
from proxy.pool import Wire

LIMIT = 1000
HIGH = 2 * LIMIT
MOST = LIMIT // 16
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TO_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"


class Tap(asyncio.Transport):
    """A connection that knows whether it is read from."""

    paused = False

    def pause_reading(self) -> None:
        """Give nothing."""
        self.paused = True

    def resume_reading(self) -> None:
        """Give again."""
        self.paused = False

    def is_closing(self) -> bool:
        """Say that it is open."""
        return False


class Body:
    """The body of an answer, and the connection on which it comes."""

    def __init__(self, kind: type[ResponseHandler], head: bytes = CHUNKED) -> None:
        """Begin an answer."""
        self.tap, self.wire = Tap(), kind(asyncio.get_running_loop())
        self.wire.connection_made(self.tap)
        self.wire.set_response_params(
            read_bufsize=LIMIT, auto_decompress=False, read_until_eof=True
        )
        self.wire.data_received(head)
        [((_, self.reader), _)] = self.wire._buffer
        self._waiting: list[bytes] = []

    def comes(self, *pieces: bytes) -> None:
        """Let pieces come, as far as they are read."""
        self._waiting += pieces
        while self._waiting and not self.tap.paused:
            self.wire.data_received(self._waiting.pop(0))

    def take(self) -> bytes:
        """Take what there is; what was held up comes."""
        intake = self.reader
        data = intake.take() if isinstance(intake, Intake) else intake.read_nowait(-1)
        self.comes()
        return data

    async def rest(self) -> bytes:
        """Take all."""
        data = b""
        while more := await self.reader.readany():
            data += more
            self.comes()
        return data


def both(head: bytes = CHUNKED) -> tuple[Body, Body]:
    """Make a body of ours and one of aiohttp's."""
    ours, theirs = Body(Wire, head), Body(ResponseHandler, head)
    assert (type(ours.reader), type(theirs.reader)) == (Intake, StreamReader)
    return ours, theirs


def run(work: Any) -> None:
    """Run a coroutine."""
    asyncio.run(work)


# --- the same bytes ---


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=700), max_size=12),
    places=st.lists(st.integers(0, 5000), max_size=12),
    takes=st.lists(st.booleans()),
)
def test_the_same_comes_out_as_of_aiohttp_s_reader(
    chunks: list[bytes], places: list[int], takes: Iterable[bool]
) -> None:
    """However the body is cut into chunks and reads, and whenever it is taken."""
    pieces = cut_at(b"".join(map(http, chunks)) + LAST, *places)

    async def work() -> None:
        found = []
        for body in both():
            came = b""
            for piece, taken in zip(pieces, [*takes, *[False] * len(pieces)], strict=False):
                body.comes(piece)
                came += body.take() if taken else b""
            came += await body.rest()
            assert body.reader.at_eof()
            assert body.reader.total_bytes == len(came)
            found.append(came)
        assert found == [b"".join(chunks)] * 2

    run(work())


async def test_it_can_be_read_in_parts_as_well() -> None:
    """As whoever reads the body of an error does; what is taken behind that is the rest."""
    for body in both():
        body.comes(http(b"0123456789"), http(b"abc"))
        assert await body.reader.read(4) == b"0123"
        assert await body.reader.readexactly(7) == b"456789a"
        assert body.take() == b"bc"
        body.comes(http(b"de"), http(b"fg"), LAST)
        assert await body.reader.read(1) == b"d"
        assert body.take() == b"efg"
        assert body.take() == b""
        assert await body.reader.read() == b""


async def test_who_waits_is_woken_by_what_comes() -> None:
    """Once, with all that came by then."""
    for body in both():
        reading = asyncio.ensure_future(body.reader.readany())
        await asyncio.sleep(0)
        body.comes(http(b"one"), http(b"two"))
        assert await reading == b"onetwo"


async def test_who_no_longer_waits_is_not_woken() -> None:
    """A deadline may have passed in the same moment."""
    for body in both():
        reading = asyncio.ensure_future(body.reader.readany())
        await asyncio.sleep(0)
        reading.cancel()
        body.comes(http(b"one"))
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert body.take() == b"one"


# --- held up ---


@pytest.mark.parametrize("head", [CHUNKED, TO_CLOSE], ids=["chunked", "to the close"])
@pytest.mark.parametrize("size", [HIGH - 1, HIGH, HIGH + 1, 9 * HIGH])
async def test_it_is_held_up_by_as_many_bytes_as_aiohttp_s_reader(size: int, head: bytes) -> None:
    """More than twice the limit wait, and no more come."""
    for body in both(head):
        data = bytes(size)
        body.comes(http(data) if head == CHUNKED else data)
        assert body.tap.paused == (size > HIGH)
        assert len(body.take()) == size
        assert not body.tap.paused


async def test_it_is_held_up_by_as_many_chunks_as_aiohttp_s_reader() -> None:
    """Each costs more than its bytes."""
    for body in both():
        body.comes(*[http(b"x")] * MOST)
        assert not body.tap.paused
        body.comes(http(b"x"))
        assert body.tap.paused
        assert body.take() == b"x" * (MOST + 1)
        assert not body.tap.paused


async def test_it_is_held_up_by_pieces_of_one_chunk_as_well() -> None:
    """There aiohttp's reader counts bytes alone, and joins tens of thousands of pieces."""
    ours, theirs = both()
    for body in (ours, theirs):
        body.comes(b"%x\r\n" % HIGH, *[b"x"] * (MOST + 1))
    assert (ours.tap.paused, theirs.tap.paused) == (True, False)
    assert ours.take() == b"x" * (MOST + 1)
    assert not ours.tap.paused


async def test_nothing_is_lost_of_a_read_that_is_held_up_in_its_middle() -> None:
    """The parser goes on with it when what came before is taken, and may be held up again."""
    chunks = [bytes([65 + number]) * LIMIT for number in range(9)]
    for body in both():
        body.comes(b"".join(map(http, chunks)), LAST)
        assert body.tap.paused
        takes = [body.take() for _ in range(9)]
        assert b"".join(takes) == b"".join(chunks)
        assert not body.tap.paused
        assert body.reader.at_eof()
        assert max(map(len, takes)) <= HIGH + LIMIT


async def test_what_is_let_through_by_a_take_is_not_part_of_it() -> None:
    """It has come then, and is there for the next one."""
    body = Body(Wire)
    body.comes(http(b"x" * (HIGH + 1)) + http(b"y"))
    assert body.take() == b"x" * (HIGH + 1)
    assert body.reader.total_bytes == HIGH + 2
    assert body.take() == b"y"


# --- the end ---


async def test_the_end_is_known_before_all_is_taken() -> None:
    """What came may be untaken."""
    body = Body(Wire)
    intake = body.reader
    assert isinstance(intake, Intake)
    body.comes(http(b"one"))
    assert not intake.is_eof()
    body.comes(LAST)
    assert intake.is_eof()
    assert not intake.at_eof()
    assert (body.take(), body.take()) == (b"one", b"")
    assert intake.at_eof()


async def test_what_came_before_a_break_can_be_taken_behind_it() -> None:
    """Aiohttp's own reader gives it to nobody: it raises at once."""
    for body in both():
        body.comes(http(b"one"), b"5\r\ntw")
        body.wire.connection_lost(None)
        assert isinstance(body.reader.exception(), ClientPayloadError)
        with pytest.raises(ClientPayloadError):
            await body.reader.readany()
        if isinstance(body.reader, Intake):
            assert not body.reader.is_eof()
            assert (body.reader.take(), body.reader.take()) == (b"onetw", b"")


async def test_what_is_taken_behind_the_end_is_no_pace_of_the_next_answer() -> None:
    """The connection may be used again before all is taken of the answer before."""
    one = Body(Wire)
    one.comes(http(b"one") + LAST)
    one.wire.set_response_params(read_bufsize=LIMIT, auto_decompress=False)
    one.comes(CHUNKED + http(bytes(HIGH + 1)))
    assert one.tap.paused
    assert one.take() == b"one"
    assert one.tap.paused


@pytest.mark.parametrize("head", [CHUNKED, TO_CLOSE], ids=["chunked", "to the close"])
async def test_the_end_of_the_connection_is_the_end_of_what_it_delimits(head: bytes) -> None:
    """And a break of anything else."""
    ours, theirs = both(head)
    for body in (ours, theirs):
        body.comes(http(b"one") if head == CHUNKED else b"one")
        body.wire.connection_lost(None)
        assert body.reader.is_eof() == (head == TO_CLOSE)
    assert ours.take() == b"one"


# --- made of another one ---


async def test_a_reader_is_turned_into_one_with_all_that_it_holds() -> None:
    """It may have begun to be filled: a head and a body come in one read."""
    wire = Body(Wire).wire
    reader = StreamReader(wire, LIMIT, loop=asyncio.get_running_loop())
    reader.begin_http_chunk_receiving()
    reader.feed_data(b"one")
    reader.end_http_chunk_receiving()
    reader.feed_data(b"two")
    Intake.of(reader)
    assert isinstance(reader, Intake)
    reader.end_http_chunk_receiving()
    reader.feed_data(b"")
    reader.feed_data(b"three")
    assert reader.take() == b"onetwothree"
    reader.feed_eof()
    assert await reader.readany() == b""


async def test_a_head_and_all_of_its_body_may_be_one_read() -> None:
    """It is over then before anybody has seen it."""
    for body in both(CHUNKED + http(b"one") + http(b"two") + LAST):
        assert await body.rest() == b"onetwo"


async def test_the_connection_knows_whether_the_parser_is_inside_a_chunk() -> None:
    """From its size line to the line end behind its data; it is taken for inside before that."""
    wire = Body(Wire).wire
    assert isinstance(wire, Wire)
    told = [wire.in_chunk]
    for piece in (b"3", b"\r\n", b"on", b"e", b"\r", b"\n", b"2\r\n", b"no\r\n", b"0\r\n", b"\r\n"):
        wire.data_received(piece)
        told.append(wire.in_chunk)
    inside = [True, True, True, True, True, True, False, True, False, True, False]
    assert told == inside


async def test_without_chunks_the_connection_is_always_inside_of_one() -> None:
    """So that nothing is ever taken for the beginning of a chunk."""
    wire = Body(Wire, TO_CLOSE).wire
    assert isinstance(wire, Wire)
    wire.data_received(http(b"one"))
    assert wire.in_chunk
