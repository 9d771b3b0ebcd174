"""Events pass at once, and a client that leaves, or does not read, is felt by the upstream."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from support import sse as event

from e2e.child import QUICK, Metrics, Proxy, eventually, idle
from e2e.conftest import Starter
from e2e.stage import CHUNKED, EVENT_STREAM, Exchange, Stage
from e2e.wire import PATHS, Wire, asking, check_complete, connected
from proxy.demo.answers import Answer, Asked, error_reply
from proxy.demo.bodies import stream_for
from proxy.demo.upstream import MisbehavingUpstream

SOON_S = 1.0
"""The contract's 100 ms, with room for a busy machine."""

CHAT = PATHS["chat_completions"]
BIG_EVENT = event({"choices": [{"index": 0, "delta": {"content": "x" * 60_000}}]})
BIG_EVENTS = 1000
GROWTH_KIB = 16 * 1024


@pytest_asyncio.fixture(name="patient", loop_scope="session")
async def _patient(started: Starter, stage: Stage) -> Proxy:
    """Return a proxy that never gives up or says anything by itself."""
    return await started(stage.base_url, "--backoff-base-s", "30", "--backoff-max-s", "30")


async def _counted_as_left(proxy: Proxy, before: Metrics) -> Metrics:
    async def check() -> Metrics:
        after = (await idle(proxy)).since(before)
        assert after.streams == {("chat_completions", "client_closed"): 1.0}
        return after

    return await eventually(check)


# --- at once --------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["chat_completions", "completions", "responses", "other"])
async def test_every_event_is_written_when_it_arrives(
    patient: Proxy, stage: Stage, endpoint: str
) -> None:
    """In lockstep: the upstream sends an event only when the client has the one before."""
    events = stream_for(Asked(endpoint, "m"), 1).events
    openers = len(stream_for(Asked(endpoint, "m"), 1).opening) if endpoint != "other" else 0
    got = asyncio.Semaphore(0)

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        for number, data in enumerate(events):
            # Openers are held until there is content.
            if number > openers:
                await got.acquire()
            await exchange.chunk(data)

    staged = stage.plays(f"lockstep {endpoint}", play)
    async with connected(patient.port) as wire:
        await wire.ask(PATHS[endpoint], asking("m"), headers=[staged])
        reply = await wire.head()
        while sum(chunk.count(b"\n\n") for chunk in reply.chunks) < len(events):
            reply.chunks.append(await wire.chunk())
            got.release()
        # The end is not waited for either: the last chunk follows the terminal event.
        if endpoint != "other":
            assert await wire.chunk() == b""
    assert reply.body == b"".join(events)
    assert len(reply.chunks) >= len(events) - openers


async def test_the_end_does_not_wait_for_the_upstream_s(patient: Proxy, stage: Stage) -> None:
    """After the terminal event the body is ended at once, though the upstream's stays open."""
    events = stream_for(Asked(model="m"), 1).events

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        await exchange.chunk(b"".join(events))
        await exchange.left()

    staged = stage.plays("open end", play)
    async with connected(patient.port) as wire:
        await wire.ask(CHAT, asking("m"), headers=[staged])
        async with asyncio.timeout(SOON_S):
            reply = await wire.rest(await wire.head())
        check_complete(reply)
        # The client's connection is as good as new.
        await wire.ask("/nowhere", method="GET")
        assert (await wire.head()).status == 404


# --- leaving --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("phase", ["before headers", "before the first event", "mid-stream"])
async def test_the_upstream_connection_is_closed_when_the_client_leaves(
    patient: Proxy, stage: Stage, phase: str, how: str
) -> None:
    """At once, in each phase, however the client leaves; the upstream is not blamed."""
    reached = asyncio.Event()
    name = f"leaving {phase} {how}"
    content = b"".join(stream_for(Asked(model="m"), 1).events[:4])

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        if phase != "before headers":
            await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        if phase == "mid-stream":
            await exchange.chunk(content)
        reached.set()
        await exchange.left()

    staged = stage.plays(name, play)
    before = await idle(patient)
    async with connected(patient.port) as wire:
        await wire.ask(CHAT, asking("m"), headers=[staged])
        await reached.wait()
        if phase == "mid-stream":
            await wire.head()
            assert await wire.chunk()
        assert (await patient.scrape()).in_flight == 1
        _leave(wire, how)
        async with asyncio.timeout(SOON_S):
            await stage.over(name)
    after = await _counted_as_left(patient, before)
    assert after.total("wholestream_incomplete_chunks_total") == 0
    assert len(stage.exchanges[name]) == 1


async def test_no_attempt_is_made_for_a_client_that_left_in_the_back_off(
    started: Starter, upstream: MisbehavingUpstream
) -> None:
    """The wait ends with the client, and what was not asked is not counted as asked."""
    proxy = await started(upstream.base_url, *QUICK, "--commit-after-s", "30")
    limited = error_reply(429, "rate_limit_exceeded", "Slow.", (("Retry-After", "1"),))
    upstream.script("left-429", limited)
    before = await idle(proxy)
    async with connected(proxy.port) as wire:
        seen = len(upstream.requests)
        await wire.ask(CHAT, asking("left-429"))

        await upstream.wait_requests(seen + 1)
        await asyncio.sleep(0.2)  # the answer is read, the back-off has begun
    after = await _counted_as_left(proxy, before)
    assert after.total("wholestream_upstream_attempts_total") == 1
    # Nobody will know what would have become of it.
    assert after.incidents == {("http_status", "before_headers", "client_gone"): 1.0}
    await asyncio.sleep(1.3)  # longer than the back-off would have been
    assert sum(request.model == "left-429" for request in upstream.requests) == 1


async def test_a_connection_being_made_is_given_up_when_the_client_leaves(
    alone: Starter,
) -> None:
    """An upstream whose queue is full answers no SYN; the attempt to connect ends at once."""
    with _full_listener() as port:
        others = _connecting_to(port)
        proxy = await alone(f"http://127.0.0.1:{port}/v1", "--connect-timeout-s", "60")
        before = await idle(proxy)
        async with connected(proxy.port) as wire:
            await wire.ask(CHAT, asking("m"))

            async def connecting() -> None:
                assert _connecting_to(port) == others + 1

            await eventually(connecting)

        async def given_up() -> None:
            assert _connecting_to(port) == others

        await eventually(given_up, SOON_S)
        await _counted_as_left(proxy, before)


async def test_a_background_response_is_left_alone_when_its_client_leaves(
    patient: Proxy, stage: Stage
) -> None:
    """Only the stream is closed: nothing is sent upstream that would cancel the response."""
    reached = asyncio.Event()

    async def play(exchange: Exchange) -> bytes:
        await exchange.body()
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        await exchange.chunk(b"".join(stream_for(Asked("responses", "m"), 1).events[:4]))
        reached.set()
        return await exchange.reader.read()

    staged = stage.plays("background", play)
    async with connected(patient.port) as wire:
        await wire.ask(PATHS["responses"], asking("m", background=True), headers=[staged])
        await reached.wait()
        await wire.head()
        await wire.leave()
        async with asyncio.timeout(SOON_S):
            assert await stage.over("background") == b""
    assert len(stage.exchanges["background"]) == 1


def _leave(wire: Wire, how: str) -> None:
    if how == "reset":
        wire.writer.transport.abort()
    wire.writer.close()


@contextlib.contextmanager
def _full_listener() -> Iterator[int]:
    """Listen with a queue that is full: the kernel drops whatever SYN comes."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.settimeout(0)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def _connecting_to(port: int) -> int:
    """Count the sockets that wait for an answer to their SYN, whoever made them."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "02" for row in rows)


# --- not reading ----------------------------------------------------------------------------


async def test_a_client_that_does_not_read_holds_up_the_upstream_and_costs_no_memory(
    alone: Starter, stage: Stage
) -> None:
    """60 MB are offered; the proxy takes a little, waits, and lets go when the client leaves."""
    proxy = await alone(stage.base_url)
    sent = 0

    async def play(exchange: Exchange) -> int:
        nonlocal sent
        await exchange.body()
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        exchange.writer.transport.set_write_buffer_limits(high=0)
        with contextlib.suppress(ConnectionError):
            for _ in range(BIG_EVENTS):
                await exchange.chunk(BIG_EVENT)
                sent += 1
        return sent

    staged = stage.plays("slow reader", play)
    before, rss = await idle(proxy), proxy.rss_kib()
    async with connected(proxy.port) as wire:
        wire.read_no_more()
        await wire.ask(CHAT, asking("m"), headers=[staged])
        most = rss
        while True:
            last = sent
            for _ in range(10):
                await asyncio.sleep(0.05)
                most = max(most, proxy.rss_kib())
            if last and last == sent:
                break
        assert sent < BIG_EVENTS
        assert most - rss < GROWTH_KIB
        wire.writer.transport.abort()
        async with asyncio.timeout(SOON_S):
            await stage.over("slow reader")
    await _counted_as_left(proxy, before)


async def test_a_slow_client_is_not_taken_for_a_stalled_upstream(
    started: Starter, stage: Stage
) -> None:
    """While the client holds everything up, the upstream's clock stands still."""
    proxy = await started(stage.base_url, *QUICK)

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        for _ in range(300):
            await exchange.chunk(BIG_EVENT)
        finish = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        await exchange.chunk(event(finish, "[DONE]"))
        await exchange.chunk(b"")

    staged = stage.plays("late reader", play)
    before = await idle(proxy)
    async with connected(proxy.port) as wire:
        wire.read_no_more()
        await wire.ask(CHAT, asking("m"), headers=[staged])
        await asyncio.sleep(1.6)  # longer than the stall timeout
        wire.read_on()
        reply = await wire.rest(await wire.head())
    check_complete(reply)
    assert reply.body.count(BIG_EVENT) == 300
    assert (await idle(proxy)).since(before).incidents == {}


async def test_others_are_served_while_many_clients_do_not_read(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """Twenty clients that hold up their streams do not hold up anybody else's."""
    upstream.script("flood", Answer(pieces=(BIG_EVENT,) * 200))
    async with contextlib.AsyncExitStack() as clients:
        for _ in range(20):
            wire = await clients.enter_async_context(connected(proxy.port))
            wire.read_no_more()
            await wire.ask(CHAT, asking("flood"))
        async with asyncio.timeout(5), connected(proxy.port) as wire:
            await wire.ask(CHAT, asking("ws-ok"))
            check_complete(await wire.rest(await wire.head()))
    await idle(proxy)
