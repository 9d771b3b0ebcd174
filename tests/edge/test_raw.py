"""Two connections that have left HTTP: every byte, in its order, at the pace of the slower one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import pytest
from aiohttp import web
from multidict import CIMultiDict

from edge.loopback import HOST, LOOPS, made, our_server, raw_server, read_request, reset
from proxy.answer import UpstreamFault
from proxy.core.fault import Fault
from proxy.raw import Raw, Way
from proxy.upstream import Upstream

ASKING = CIMultiDict({"Connection": "Upgrade", "Upgrade": "websocket"})
SWITCHED = b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\n"
HANDSHAKE = (
    b"GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
)
BIG = bytes(range(256)) * 65_536
"""16 MiB: more than two kernels take."""

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

on_both_loops = pytest.mark.parametrize("loop", LOOPS)


class Joint:
    """What was seen of the two ways between the connections."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.told: list[str] = []
        self.ways: list[Way] = []
        self.over = asyncio.Event()
        self.wait = asyncio.Event()
        self.wait.set()

    def end(self, side: str) -> None:
        """Take note of an end."""
        self.told.append(side)
        self.over.set()


async def _talk(upstream_s: Play, client_s: Play, joint: Joint) -> None:
    """Join a connection of our server to one of our pool, as plain as can be."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await upstream_s(reader, writer)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        answer = await upstream.open("GET", "/x", ASKING, None, fresh=True)
        response = web.StreamResponse(status=101, headers=ASKING)
        response.force_close()
        await response.prepare(request)
        client, wire = cast("Raw", request.protocol), answer.switched
        assert wire is not None
        joint.ways = [
            Way(client, wire, lambda: joint.end("client")),
            Way(wire, client, lambda: joint.end("upstream")),
        ]
        try:
            await joint.wait.wait()
            for way in joint.ways:
                way.open()
            await joint.over.wait()
        finally:
            answer.close()
        return response

    async with raw_server(play) as port, _pool(port) as upstream, our_server(handle) as ours:
        reader, writer = await asyncio.open_connection(HOST, ours)
        try:
            await client_s(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def _pool(port: int) -> AsyncIterator[Upstream]:
    upstream = Upstream(made(upstream=f"http://{HOST}:{port}"))
    try:
        yield upstream
    finally:
        await upstream.close()


def talk(loop: str, upstream_s: Play, client_s: Play, joint: Callable[[], Joint] = Joint) -> Joint:
    """Run both sides on one of the loops."""

    async def work() -> Joint:
        made = joint()
        async with asyncio.timeout(30):
            await _talk(upstream_s, client_s, made)
        return made

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(work())


async def _handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HANDSHAKE)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")


# --- bytes ------------------------------------------------------------------------------


@on_both_loops
@pytest.mark.parametrize("size", [1, 100_000])
def test_what_comes_behind_the_last_of_http_is_the_first_that_is_sent(loop: str, size: int) -> None:
    """On both sides, in one segment with it, and before anybody asked for it."""
    early, late, more = b"e" * size, b"l" * size, b"m" * 10

    async def upstream_s(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCHED + late)
        assert await reader.readexactly(size + 10) == early + more
        writer.write(more)

    async def client_s(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HANDSHAKE + early)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(more)
        assert await reader.readexactly(size + 10) == late + more

    joint = talk(loop, upstream_s, client_s)
    assert [way.size for way in joint.ways] == [size + 10, size + 10]


@on_both_loops
def test_each_side_may_talk_while_the_other_does(loop: str) -> None:
    """16 MiB each way at once, whole and in order."""

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BIG)
        assert await reader.readexactly(len(BIG)) == BIG
        await writer.drain()

    async def upstream_s(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCHED)
        await both(reader, writer)
        await reader.read()

    async def client_s(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _handshake(reader, writer)
        await both(reader, writer)

    assert talk(loop, upstream_s, client_s).told[0] == "client"


@on_both_loops
@pytest.mark.parametrize("slow", ["client", "upstream"])
def test_a_side_that_does_not_read_holds_up_the_other(loop: str, slow: str) -> None:
    """No more is taken than waits in one buffer and the kernels; nothing is lost by it."""
    taken = [0]
    read_on = asyncio.Event()

    async def pour(writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=0)
        for at in range(0, len(BIG), 2**16):
            writer.write(BIG[at : at + 2**16])
            await writer.drain()
            taken[0] = at

    async def sip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = cast("asyncio.Transport", writer.transport)
        transport.pause_reading()
        last = -1
        while last != taken[0] or not last:
            last = taken[0]
            await asyncio.sleep(0.3)
        assert last < len(BIG) - 2**20
        transport.resume_reading()
        assert await reader.readexactly(len(BIG)) == BIG
        read_on.set()

    async def upstream_s(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCHED)
        await (sip(reader, writer) if slow == "upstream" else pour(writer))
        await read_on.wait()

    async def client_s(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _handshake(reader, writer)
        await (sip(reader, writer) if slow == "client" else pour(writer))
        await read_on.wait()

    talk(loop, upstream_s, client_s)


# --- ends -------------------------------------------------------------------------------


@on_both_loops
@pytest.mark.parametrize("how", ["fin", "reset", "half"])
@pytest.mark.parametrize("side", ["client", "upstream"])
def test_an_end_is_told_once_and_to_the_other_side(loop: str, side: str, how: str) -> None:
    """However the connection ends, and behind the last byte that came."""

    async def leave(writer: asyncio.StreamWriter) -> None:
        if how == "half":
            writer.write_eof()
        else:
            writer.write(b"bye")
            await asyncio.sleep(0.05)  # a reset takes along what is still on its way
            (reset if how == "reset" else asyncio.StreamWriter.close)(writer)

    async def stay(reader: asyncio.StreamReader) -> None:
        assert await reader.read() == (b"" if how == "half" else b"bye")

    async def upstream_s(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCHED)
        await (leave(writer) if side == "upstream" else stay(reader))
        with contextlib.suppress(ConnectionError):
            await reader.read()

    async def client_s(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _handshake(reader, writer)
        await (leave(writer) if side == "client" else stay(reader))
        with contextlib.suppress(ConnectionError):
            await reader.read()

    joint = talk(loop, upstream_s, client_s)
    assert joint.told[0] == side
    assert joint.told.count(side) == 1
    assert [way.ended for way in joint.ways][side == "upstream"]


@on_both_loops
def test_a_connection_that_was_lost_before_is_told_as_soon_as_somebody_listens(loop: str) -> None:
    """With what it had said."""

    def waiting() -> Joint:
        joint = Joint()
        joint.wait.clear()
        asyncio.get_running_loop().call_later(0.2, joint.wait.set)
        return joint

    async def upstream_s(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCHED + b"last words")

    async def client_s(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _handshake(reader, writer)
        assert await reader.read() == b"last words"

    assert talk(loop, upstream_s, client_s, waiting).told[0] == "upstream"


# --- who has left HTTP ------------------------------------------------------------------


async def _answered(answer: bytes, headers: CIMultiDict[str]) -> Raw | None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await reader.read()

    async with raw_server(play) as port, _pool(port) as upstream:
        got = await upstream.open("GET", "/x", headers, None, fresh=True)
        got.close()
        return got.switched


async def test_an_upgrade_that_was_asked_for_gives_the_connection() -> None:
    """However the name is spelt."""
    assert isinstance(await _answered(SWITCHED, ASKING), Raw)


async def test_an_answer_that_only_offers_an_upgrade_does_not() -> None:
    """It is an answer in HTTP like any other."""
    offer = SWITCHED.replace(b"101 Go", b"200 OK\r\nContent-Length: 9")
    assert await _answered(offer, ASKING) is None


@pytest.mark.parametrize(
    ("answer", "headers"),
    [
        (SWITCHED, CIMultiDict[str]()),
        (SWITCHED.replace(b"WebSocket", b"h2c"), ASKING),
        (SWITCHED.replace(b"Upgrade: WebSocket\r\n", b""), ASKING),
        (SWITCHED.replace(b"Connection: upgrade\r\n", b""), ASKING),
    ],
)
async def test_any_other_switch_is_a_fault(answer: bytes, headers: CIMultiDict[str]) -> None:
    """Unasked for, to another protocol, or only half said."""
    with pytest.raises(UpstreamFault) as caught:
        await _answered(answer + b"raw", headers)
    assert caught.value.fault is Fault.RESET
