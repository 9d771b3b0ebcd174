"""A client that is behind: the upstream is held up, memory has a bound, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from e2e.wire import HEARTBEAT, Wire, asking, connected
from support import DONE, HI, STOP, chunk, sse

from edge.flowing import CHAT, LAST, Rig, Upstream, heard, http, on, rigged, without_lane
from edge.loopback import LOOPS, until

on_both_loops = pytest.mark.parametrize("loop", LOOPS)

OPENERS = (HI, HI, HI)
ENDING = (http(sse(STOP)), http(DONE), LAST)
FEW_KIB = 2 * 256 + 2 * 64
"""What may wait in the proxy: twice the read buffer's limit, and what a transport buffers."""


def numbered(number: int, size: int = 4000) -> bytes:
    """Write an event that says which one it is."""
    return sse(chunk(content=f"{number} " + "x" * size))


class Behind:
    """A stream whose client reads nothing, up to the moment in which the proxy knows it."""

    def __init__(self, rig: Rig, client: Wire, upstream: Upstream) -> None:
        """Take both ends of a stream that is under way."""
        self.rig = rig
        self.client = client
        self.upstream = upstream
        self.given = sse(*OPENERS)

    @property
    def transport(self) -> Any:
        """The client's end."""
        return self.client.writer.transport

    async def fill(self, size: int = 4000) -> None:
        """Send events until the client is behind; only the last of them can have been parsed."""
        self.transport.pause_reading()
        while not self.rig.exchange.down.wire.writing_paused:
            await self.send(numbered(len(self.given), size))

    async def send(self, *events: bytes) -> None:
        """Send events, each in one read."""
        self.given += b"".join(events)
        await self.upstream.reads(*map(http, events))

    async def check(self, *ending: bytes) -> None:
        """Read on; all is there, in its order and without a word of the proxy in between."""
        self.transport.resume_reading()
        if ending:
            await self.upstream.reads(*ending)
        reply = await heard(self.client)
        assert reply.body == self.given + sse(STOP) + DONE
        assert reply.end == "clean"


@contextlib.asynccontextmanager
async def behind(**values: object) -> AsyncIterator[Behind]:
    """Fill a client up."""
    async with rigged(**values) as rig, rig.calling() as (client, upstream):
        await upstream.steady(*OPENERS)
        found = Behind(rig, client, upstream)
        await found.fill()
        rig.parsed.clear()
        yield found


@on_both_loops
def test_all_arrives_at_a_client_that_reads_later(loop: str) -> None:
    """What it was given before it was behind, what waited, and what came afterwards."""

    async def work() -> None:
        async with behind() as one:
            await one.send(numbered(1), numbered(2))
            assert one.rig.parsed == [http(numbered(1)), http(numbered(2))]
            one.transport.resume_reading()
            await until(lambda: not one.rig.exchange.down.wire.writing_paused)
            await one.send(numbered(3), numbered(4))
            await one.check(*ENDING)

    on(loop, work())


@on_both_loops
def test_the_lane_is_open_again_once_the_client_has_caught_up(loop: str) -> None:
    """Behind one read that is looked at."""

    async def work() -> None:
        async with behind() as one:
            await one.send(numbered(1))
            one.transport.resume_reading()
            await until(lambda: not one.rig.exchange.down.wire.writing_paused)
            await one.send(numbered(2))
            one.rig.parsed.clear()
            await one.send(numbered(3), numbered(4))
            assert one.rig.parsed == []
            await one.check(*ENDING)

    on(loop, work())


@on_both_loops
@pytest.mark.parametrize("size", [100, 4000, 100_000])
def test_the_upstream_is_held_up_and_little_waits_in_the_proxy(loop: str, size: int) -> None:
    """Whatever the size of its events; then all of it arrives."""

    async def work() -> None:
        async with behind() as one:
            intake = one.rig.exchange.answer._response.content
            writer, wire, sent = one.upstream.writer, one.upstream.wire, 0
            while not wire._reading_paused or sent % 10:
                one.given += numbered(sent, size)
                writer.write(http(numbered(sent, size)))
                await asyncio.sleep(0)
                sent += 1
            buffered = one.rig.exchange.down._client.transport.get_write_buffer_size()
            assert (intake._size + buffered) / 1024 <= FEW_KIB + 2 * size / 1024
            assert len(intake._buffer) <= intake._high_water_chunks + 1
            one.transport.resume_reading()
            writer.write(b"".join(ENDING))
            await one.check()

    on(loop, work())


@on_both_loops
def test_a_stream_that_is_over_meanwhile_arrives_whole(loop: str) -> None:
    """The upstream's connection may be gone by then."""

    async def work() -> None:
        async with behind() as one:
            await one.send(numbered(1))
            await one.upstream.reads(*ENDING)
            one.upstream.writer.close()
            await asyncio.sleep(0.05)
            await one.check()

    on(loop, work())


@on_both_loops
@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_break_meanwhile_is_told_behind_all_that_came(loop: str, how: str) -> None:
    """Late, but behind the last whole event."""

    async def work() -> None:
        async with behind() as one:
            await one.send(numbered(1))
            await one.upstream.reads(http(numbered(2))[:90])
            one.upstream.reset() if how == "reset" else one.upstream.writer.close()
            await asyncio.sleep(0.05)
            one.transport.resume_reading()
            reply = await heard(one.client)
            assert reply.body.startswith(one.given + b'data: {"error":')
            fault = b"[reset]" if how == "reset" else b"[cut_mid_event]"
            assert fault in reply.payloads[-1]

    on(loop, work())


@on_both_loops
@pytest.mark.parametrize("more", [0, 1], ids=["nothing more came", "more came"])
def test_a_client_that_is_behind_gets_no_heartbeat(loop: str, more: int) -> None:
    """It has enough to read, and whatever is on the way hears of it."""

    async def work() -> None:
        async with behind(heartbeat_s=0.1) as one:
            await one.send(*[numbered(1)] * more)
            await asyncio.sleep(0.4)
            one.transport.resume_reading()
            await one.upstream.reads(*ENDING)
            reply = await heard(one.client)
            assert HEARTBEAT not in reply.body
            assert reply.body == one.given + sse(STOP) + DONE

    on(loop, work())


@on_both_loops
def test_no_time_counts_as_silence_while_the_client_holds_the_upstream_up(loop: str) -> None:
    """What it had to say was not being read."""

    async def work() -> None:
        async with behind(stall_timeout_s=0.2) as one:
            await one.send(numbered(1))
            await asyncio.sleep(0.5)
            await one.check(*ENDING)
            assert one.rig.count("wholestream_incomplete_chunks_total") == 0

    on(loop, work())


@on_both_loops
def test_a_client_that_leaves_while_it_is_behind_lets_the_upstream_go(loop: str) -> None:
    """At once, though nothing can be written to it."""

    async def work() -> None:
        async with behind() as one:
            await one.send(numbered(1))
            one.transport.abort()
            async with asyncio.timeout(1.0):
                await one.upstream.left()
            await until(lambda: not one.rig.app.edge.under_way)

    on(loop, work())


@on_both_loops
@pytest.mark.parametrize("lane", [True, False], ids=["lane", "no lane"])
def test_who_is_next_on_a_connection_is_told_of_its_own_answer(
    loop: str,
    lane: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """Also where the one before has not yet taken all of an answer that is over."""

    async def work() -> None:
        async with behind() as one:
            await one.send(numbered(1))
            await one.upstream.reads(*ENDING)
            wire = one.upstream.wire
            assert wire.idle
            async with connected(one.rig.app.port) as client:
                await client.ask(CHAT, asking("m"))
                await one.upstream.again()
                assert one.upstream.wire is wire
                await one.upstream.begin()
                before = wire.sink
                await one.upstream.reads(http(sse(HI)))
                await until(lambda: wire.sink not in {None, before})
                await one.upstream.reads(http(sse(HI)))
                await one.check()
                rest = http(numbered(2)), http(numbered(3)), *ENDING
                await one.upstream.reads(*rest)
                async with asyncio.timeout(1.0):
                    reply = await heard(client)
                given = sse(HI, HI) + numbered(2) + numbered(3) + sse(STOP) + DONE
                assert (reply.body, reply.end) == (given, "clean")

    async def plain() -> None:
        with without_lane():
            await work()

    on(loop, work() if lane else plain())
