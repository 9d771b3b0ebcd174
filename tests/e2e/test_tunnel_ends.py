"""How a WebSocket through the proxy ends, and what it holds meanwhile: never more than a little."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import WSMsgType

from e2e.child import Proxy, eventually
from e2e.conftest import Starter
from e2e.sockets import HANDSHAKE, SWITCHED, switch, talking
from e2e.stage import Exchange, Stage
from e2e.wire import Reply, Wire, connected
from proxy.demo.wire import reset

SOON_S = 1.0
"""The contract's 100 ms, with room for a busy machine."""

MANY = 100
PART = bytes(range(256)) * 256
PARTS = 800
"""Together 50 MiB, of which the two kernels take a few."""

GROWTH_KIB = 16 * 1024
HELLO = b"\x81\x05hello"
CLOSE = b"\x88\x02\x03\xe8"
COMPLAINTS = re.compile(r"(?i)never (?:retrieved|awaited)|traceback|unclosed|destroyed|\bbug\b")


@contextlib.asynccontextmanager
async def _opened(proxy: Proxy, stage: Stage, name: str, play: Play) -> AsyncIterator[Wire]:
    """Open a tunnel by hand, to a play that goes on from the switch."""

    async def switched(exchange: Exchange) -> object:
        await exchange.send(SWITCHED.encode())
        return await play(exchange)

    async with connected(proxy.port) as wire:
        await _ask(wire, stage.plays(name, switched))
        assert (await wire.head()).status == 101
        yield wire


Play = Callable[[Exchange], Awaitable[object]]


async def _ask(wire: Wire, staged: tuple[str, str]) -> None:
    await wire.ask("/v1/realtime", method="GET", headers=[*HANDSHAKE, staged])


async def _under_way(proxy: Proxy, number: int) -> None:
    async def check() -> None:
        assert (await proxy.scrape()).total("wholestream_tunnels_in_flight") == number

    await eventually(check)


def _leave(wire: Wire, how: str) -> None:
    if how == "half":
        wire.writer.write_eof()
        return
    if how == "reset":
        reset(wire.writer)
    wire.writer.close()


def _open_files(proxy: Proxy) -> int:
    return len(list(Path(f"/proc/{proxy.pid}/fd").iterdir()))


# --- the client leaves ----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fin", "reset", "half"])
@pytest.mark.parametrize("phase", ["unanswered", "silent", "talking", "flooded"])
async def test_a_client_that_leaves_closes_the_upstream(
    staged: Proxy, stage: Stage, phase: str, how: str
) -> None:
    """At once, whatever is under way; and the upstream is not blamed for it.

    A client that closes its sending half has left, though something waits to be read by it.
    """
    reached = asyncio.Event()
    name = f"leaving {phase} {how}"

    async def play(exchange: Exchange) -> None:
        if phase != "unanswered":
            await exchange.send(SWITCHED.encode())
        reached.set()
        with contextlib.suppress(ConnectionError):
            while phase == "flooded":
                await exchange.send(PART)
        await exchange.left()

    before = await staged.scrape()
    async with connected(staged.port) as wire:
        await _ask(wire, stage.plays(name, play))
        await reached.wait()
        if phase != "unanswered":
            assert (await wire.head()).status == 101
        if phase == "talking":
            await wire.send(HELLO)
        if phase == "flooded":
            wire.read_no_more()
            await asyncio.sleep(0.3)  # until everything on the way is full
        _leave(wire, how)
        async with asyncio.timeout(SOON_S):
            await stage.over(name)
    await _under_way(staged, 0)
    after = (await staged.scrape()).since(before)
    assert after.total("wholestream_incomplete_chunks_total") == 0
    assert len(stage.exchanges[name]) == 1


async def test_what_a_client_said_before_it_left_is_read_by_the_upstream(
    staged: Proxy, stage: Stage
) -> None:
    """Even by one that is late to read, and though it is more than anybody keeps."""
    sent = PART * 200

    async def play(exchange: Exchange) -> bytes:
        exchange.writer.transport.set_write_buffer_limits(high=0)
        await asyncio.sleep(0.3)
        heard = b""
        with contextlib.suppress(ConnectionError):
            while data := await exchange.reader.read(2**16):
                heard += data
        return hashlib.sha256(heard).digest()

    async with _opened(staged, stage, "last words", play) as wire:
        await wire.send(sent)
        await wire.leave()
        assert await stage.over("last words") == hashlib.sha256(sent).digest()
    await _under_way(staged, 0)


async def test_an_upstream_that_does_not_read_cannot_keep_what_the_client_left(
    staged: Proxy, stage: Stage
) -> None:
    """It finds the end behind what it was sent, once it reads."""
    read_on = asyncio.Event()

    async def play(exchange: Exchange) -> None:
        assert isinstance(exchange.writer.transport, asyncio.Transport)
        exchange.writer.transport.pause_reading()
        await read_on.wait()
        exchange.writer.transport.resume_reading()
        await exchange.left()

    async with _opened(staged, stage, "deaf", play) as wire:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                for _ in range(PARTS):
                    await wire.send(PART)
        wire.writer.transport.abort()
        await asyncio.sleep(0.1)
        read_on.set()
        async with asyncio.timeout(SOON_S):
            await stage.over("deaf")
    await _under_way(staged, 0)


async def test_tunnels_leave_nothing_behind(alone: Starter, stage: Stage) -> None:
    """A hundred at once, ended in every way there is, under asyncio's debug mode."""
    debug = {"PYTHONASYNCIODEBUG": "1", "PYTHONWARNINGS": "always"}
    proxy = await alone(stage.base_url, **debug)
    before = _open_files(proxy)
    enough = asyncio.Event()

    async def stay(exchange: Exchange) -> None:
        await exchange.left()

    async def cut(exchange: Exchange) -> None:
        await exchange.send(HELLO)
        await enough.wait()
        exchange.reset()

    async def close(exchange: Exchange) -> None:
        await enough.wait()
        await exchange.send(CLOSE)

    async def tunnel(number: int) -> None:
        play = (stay, cut, close, stay)[number % 4]
        async with _opened(proxy, stage, f"one of many {number}", play) as wire:
            await enough.wait()
            if play is stay:
                _leave(wire, ("fin", "reset")[number // 4 % 2])
            else:
                await wire.reader.read()
        await stage.over(f"one of many {number}")

    tunnels = [asyncio.ensure_future(tunnel(number)) for number in range(MANY)]
    await _under_way(proxy, MANY)
    enough.set()
    await asyncio.gather(*tunnels)
    await _under_way(proxy, 0)

    async def closed() -> None:
        assert _open_files(proxy) <= before + 1  # the admin connection just made

    await eventually(closed)
    proxy.process.send_signal(signal.SIGTERM)
    assert await proxy.ended() == 0
    assert [line for line in proxy.stderr.splitlines() if COMPLAINTS.search(line)] == []


# --- the upstream ends ----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fin", "reset", "fin in the middle", "reset in the middle"])
async def test_a_cut_is_never_a_clean_close(staged: Proxy, stage: Stage, how: str) -> None:
    """A real client gets what was whole, then 1006: the connection ended without a close."""

    async def play(exchange: Exchange) -> None:
        await switch(exchange, HELLO)
        if "middle" in how:
            await exchange.send(b"\x82\x7e\x10\x00" + b"half of 4096")
        await exchange.part()
        if "reset" in how:
            exchange.reset()

    headers = dict([stage.plays(f"cut {how}", play)])
    async with talking(staged, headers) as socket:
        assert await socket.receive_str() == "hello"
        await socket.send_str("go on")
        got = await socket.receive()
        assert got.type in {WSMsgType.CLOSED, WSMsgType.ERROR}
        assert socket.close_code == 1006
    await _under_way(staged, 0)


async def test_all_that_came_before_an_end_reaches_the_client(staged: Proxy, stage: Stage) -> None:
    """Also one that reads slowly, and all of 50 MiB; then the end, and nothing in between."""

    async def play(exchange: Exchange) -> None:
        for _ in range(PARTS):
            await exchange.send(PART)
        await exchange.send(CLOSE)

    async with _opened(staged, stage, "all of it", play) as wire:
        wire.read_no_more()
        await asyncio.sleep(0.3)
        wire.read_on()
        heard = await wire.reader.read(-1)
    assert heard == PART * PARTS + CLOSE
    await _under_way(staged, 0)


async def test_a_client_that_still_talks_gets_all_that_came_before_the_end(
    staged: Proxy, stage: Stage
) -> None:
    """What it says is dropped, without the reset that would cost it what it has not read yet."""

    async def play(exchange: Exchange) -> None:
        listening = asyncio.ensure_future(exchange.left())
        for _ in range(100):
            await exchange.send(PART)
        exchange.writer.write_eof()
        await listening

    async def talk(wire: Wire) -> None:
        while True:
            await wire.send(HELLO)
            await asyncio.sleep(0.001)

    async with _opened(staged, stage, "still talks", play) as wire:
        wire.read_no_more()
        talking_on = asyncio.ensure_future(talk(wire))
        await asyncio.sleep(0.5)
        wire.read_on()
        assert await wire.reader.read(-1) == PART * 100
        talking_on.cancel()
        await stage.over("still talks")
    await _under_way(staged, 0)


async def test_an_end_is_told_though_the_upstream_has_not_read_everything(
    staged: Proxy, stage: Stage
) -> None:
    """It closed its sending half; what the client still sends is taken, and dropped."""
    stuck, told = asyncio.Event(), asyncio.Event()

    async def play(exchange: Exchange) -> None:
        assert isinstance(exchange.writer.transport, asyncio.Transport)
        exchange.writer.transport.pause_reading()
        await exchange.send(HELLO)
        await stuck.wait()
        exchange.writer.write_eof()
        await told.wait()

    async def pour(wire: Wire) -> None:
        for _ in range(PARTS):
            await wire.send(PART)

    async with _opened(staged, stage, "half an end", play) as wire:
        pouring = asyncio.ensure_future(pour(wire))
        await asyncio.sleep(0.5)
        assert not pouring.done()
        stuck.set()
        async with asyncio.timeout(SOON_S):
            assert await wire.reader.read(-1) == HELLO
        await pouring
        told.set()
        await stage.over("half an end")
    await _under_way(staged, 0)


# --- nobody reads ---------------------------------------------------------------------------


async def test_a_client_that_does_not_read_holds_up_the_upstream_and_costs_no_memory(
    alone: Starter, stage: Stage
) -> None:
    """The upstream is stopped after what kernels take; later the client gets everything."""
    proxy = await alone(stage.base_url)
    sent = 0

    async def play(exchange: Exchange) -> None:
        nonlocal sent
        exchange.writer.transport.set_write_buffer_limits(high=0)
        for _ in range(PARTS):
            await exchange.send(PART)
            sent += 1

    async with _opened(proxy, stage, "slow client", play) as wire:
        wire.read_no_more()
        await _stuck(proxy, lambda: sent)
        wire.read_on()
        assert await wire.reader.read(-1) == PART * PARTS


async def test_an_upstream_that_does_not_read_holds_up_the_client_and_costs_no_memory(
    alone: Starter, stage: Stage
) -> None:
    """The same in the other direction."""
    proxy = await alone(stage.base_url)
    read_on = asyncio.Event()
    sent = 0

    async def play(exchange: Exchange) -> bytes:
        assert isinstance(exchange.writer.transport, asyncio.Transport)
        exchange.writer.transport.pause_reading()
        await read_on.wait()
        exchange.writer.transport.resume_reading()
        return await exchange.reader.readexactly(len(PART) * PARTS)

    async def pour(wire: Wire) -> None:
        nonlocal sent
        for _ in range(PARTS):
            await wire.send(PART)
            sent += 1

    async with _opened(proxy, stage, "slow upstream", play) as wire:
        wire.writer.transport.set_write_buffer_limits(high=0)
        pouring = asyncio.ensure_future(pour(wire))
        await _stuck(proxy, lambda: sent)
        read_on.set()
        await pouring
        assert await stage.over("slow upstream") == PART * PARTS


async def _stuck(proxy: Proxy, sent: Callable[[], int]) -> None:
    """Wait until no more is taken; assert that this is soon, and at what cost."""
    rss = most = proxy.rss_kib()
    while True:
        last = sent()
        for _ in range(10):
            await asyncio.sleep(0.05)
            most = max(most, proxy.rss_kib())
        if last and last == sent():
            break
    assert sent() < PARTS
    assert most - rss < GROWTH_KIB


# --- the proxy ends -------------------------------------------------------------------------


async def test_a_drain_waits_for_tunnels_and_cuts_those_that_are_left(
    alone: Starter, stage: Stage
) -> None:
    """One ends in the time it has; of the others each side is told by the end of the connection.

    A client that reads nothing cannot hold up the end, nor one whose handshake is not answered:
    that one is told 503.
    """
    proxy = await alone(stage.base_url, "--drain-timeout-s", "0.8")
    reached = asyncio.Event()

    async def stay(exchange: Exchange) -> None:
        await switch(exchange, HELLO)
        await exchange.left()

    async def flood(exchange: Exchange) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await exchange.send(PART)

    async def short(exchange: Exchange) -> None:
        await exchange.reader.readexactly(len(HELLO))
        await exchange.send(CLOSE)

    async def unanswered(exchange: Exchange) -> None:
        reached.set()
        await exchange.left()

    async with (
        talking(proxy, dict([stage.plays("stays", stay)])) as socket,
        _opened(proxy, stage, "floods", flood) as deaf,
        _opened(proxy, stage, "ends", short) as wire,
        connected(proxy.port) as waiting,
    ):
        deaf.read_no_more()
        assert await socket.receive_str() == "hello"
        await _ask(waiting, stage.plays("unanswered", unanswered))
        await reached.wait()
        proxy.process.send_signal(signal.SIGTERM)
        await _unready(proxy)
        await wire.send(HELLO)
        assert await wire.reader.read() == CLOSE
        assert (await socket.receive()).type is WSMsgType.CLOSED
        assert socket.close_code == 1006
        told: Reply = await waiting.rest(await waiting.head())
        assert (told.status, told.header("x-should-retry")) == (503, "true")
        async with asyncio.timeout(3):
            assert await proxy.ended() == 0
        for name in ("stays", "floods", "unanswered"):
            await stage.over(name)
    assert [line["ended_loudly"] for line in proxy.log if line["event"] == "drained"] == [3]


async def _unready(proxy: Proxy) -> None:
    async def check() -> None:
        assert (await proxy.admin("/readyz")).status == 503

    await eventually(check)


async def test_a_second_signal_ends_tunnels_at_once(alone: Starter, stage: Stage) -> None:
    """As it does with streams."""
    proxy = await alone(stage.base_url, "--drain-timeout-s", "60")

    async def stay(exchange: Exchange) -> None:
        await exchange.left()

    async with _opened(proxy, stage, "twice", stay) as wire:
        proxy.process.send_signal(signal.SIGTERM)
        await _unready(proxy)
        proxy.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(2):
            assert await wire.reader.read() == b""
            assert await proxy.ended() == 0
    await stage.over("twice")
