"""Catalogue: how bodies end on the client's side and on the upstream's, and who leaves or lags."""

from __future__ import annotations

import asyncio
import socket

import pytest
from support import DONE
from support import sse as event

from e2e.child import Metrics, Proxy, eventually, idle
from e2e.conftest import Starter
from e2e.stage import CHUNKED, EVENT_STREAM, Exchange, Stage
from e2e.wire import PATHS, PATIENCE_S, asking, check_complete, connected, stream
from proxy.demo.answers import Answer, Asked, Pause, sse
from proxy.demo.bodies import stream_for
from proxy.demo.upstream import MisbehavingUpstream

LAST_CHUNK = b"0\r\n\r\n"
ROUNDS = 20
BIG_EVENT = event({"choices": [{"index": 0, "delta": {"content": "x" * 60_000}}]})
USAGE = event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})


def events_of(model: str, endpoint: str = "chat_completions") -> tuple[bytes, ...]:
    """Return the events of a whole answer."""
    return stream_for(Asked(endpoint, model), 1).events


async def counted(proxy: Proxy, before: Metrics, repairs: dict[str, float]) -> Metrics:
    """Wait until a stream and its repairs are counted, and nothing else is."""

    async def check() -> Metrics:
        after = (await idle(proxy)).since(before)
        found = after.labelled("wholestream_repairs_total", "repair")
        assert {name: count for (name,), count in found.items()} == repairs
        return after

    return await eventually(check)


# --- the end of the client's body -----------------------------------------------------------


class Reads:
    """What each read of a client's socket gave, in order."""

    def __init__(self) -> None:
        """Nothing was read yet."""
        self.all: list[bytes] = []
        self._more = asyncio.Event()

    async def take(self, port: int, path: str, staged: tuple[str, str]) -> None:
        """Ask for a stream, and read until the last chunk."""
        loop, body = asyncio.get_running_loop(), asking("m")
        lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
        lines += [f"Content-Length: {len(body)}", ": ".join(staged), "", ""]
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setblocking(False)  # noqa: FBT003 - a socket's method
            await loop.sock_sendall(client, "\r\n".join(lines).encode() + body)
            while not self.all or not self.all[-1].endswith(LAST_CHUNK):
                async with asyncio.timeout(PATIENCE_S):
                    self.all.append(await loop.sock_recv(client, 2**16))
                assert self.all[-1]
                self._more.set()

    async def until(self, data: bytes) -> None:
        """Wait until something was read."""
        while data not in b"".join(self.all):
            self._more.clear()
            await self._more.wait()


@pytest.mark.parametrize("endpoint", ["chat_completions", "responses"])
async def test_the_last_event_and_the_end_of_the_body_are_one_segment(
    staged: Proxy, stage: Stage, endpoint: str
) -> None:
    """Split from its event, or in itself, the last chunk looks cut to some clients.

    In lockstep, so that no writes can meet in the client's kernel but those of the end; twenty
    times, as two writes would sometimes meet there all the same.
    """
    events, openers = events_of("m", endpoint), len(stream_for(Asked(endpoint, "m"), 1).opening)
    reads = Reads()

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        for number, data in enumerate(events[:-1]):
            await exchange.chunk(data)
            if number >= openers:
                await reads.until(data)
        await exchange.chunk(events[-1])
        await exchange.chunk(b"")

    header = stage.plays(f"one segment {endpoint}", play)
    for _ in range(ROUNDS):
        reads = Reads()
        await reads.take(staged.port, PATHS[endpoint], header)
        assert reads.all[-1] == b"%x\r\n%b\r\n" % (len(events[-1]), events[-1]) + LAST_CHUNK


async def test_a_last_chunk_that_comes_byte_by_byte_is_an_end_like_any_other(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """At the upstream as well nobody may take that for a cut."""
    upstream.rewind("ws-last-chunk-apart")
    before = await idle(proxy)
    check_complete(await stream(proxy.port, "ws-last-chunk-apart"))
    assert (await counted(proxy, before, {})).incidents == {}


# --- the end of the upstream's body ---------------------------------------------------------


async def test_a_body_that_is_left_open_is_ended(proxy: Proxy) -> None:
    """Behind the end mark at once, behind the last finish reason after a moment."""
    before = await idle(proxy)
    check_complete(await stream(proxy.port, "ws-terminal-then-open"))
    after = await counted(proxy, before, {"ended_body": 1.0})
    assert after.incidents == {}
    before = await idle(proxy)
    got = await stream(proxy.port, "ws-finish-then-open")
    check_complete(got)
    after = await counted(proxy, before, {"ended_body": 1.0, "added_done": 1.0})
    assert after.incidents == {}
    assert after.streams == {("chat_completions", "complete"): 1.0}


async def test_statistics_that_come_late_are_waited_for(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """They may follow the last finish reason with some delay, and the end mark them."""
    *chunks, done = events_of("late usage")
    moment = Pause(0.4)
    upstream.script("late usage", sse(*chunks, moment, USAGE, moment, done))
    before = await idle(proxy)
    got = await stream(proxy.port, "late usage")
    check_complete(got)
    assert got.body == b"".join((*chunks, USAGE, DONE))
    assert (await counted(proxy, before, {})).incidents == {}


async def test_a_body_that_the_close_ends_is_whole_where_its_answer_is(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """Without any framing of HTTP's the end mark is what says so; the client has chunks."""
    upstream.script("by close", sse(*events_of("by close"), framing="close"))
    before = await idle(proxy)
    got = await stream(proxy.port, "by close")
    check_complete(got)
    assert got.header("transfer-encoding") == "chunked"
    assert got.body == b"".join(events_of("by close"))
    assert (await counted(proxy, before, {})).incidents == {}


# --- who leaves, and who lags ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_client_that_leaves_while_it_is_written_to_is_no_error(
    alone: Starter, upstream: MisbehavingUpstream, how: str
) -> None:
    """It has left, whatever a write says then: no traceback, no fault, no word of it in the log."""
    proxy = await alone(upstream.base_url)
    upstream.script("flood", Answer(pieces=(BIG_EVENT,) * 400))
    asked = len(upstream.requests)
    for left in (0, 1, 20):
        async with connected(proxy.port) as wire:
            await wire.ask(PATHS["chat_completions"], asking("flood"))
            await wire.head()
            for _ in range(left):
                await wire.chunk()
            if how == "reset":
                wire.writer.transport.abort()
    await idle(proxy)

    async def check() -> None:
        metrics = await proxy.scrape()
        assert metrics.streams == {("chat_completions", "client_closed"): 3.0}
        assert metrics.incidents == {}

    await eventually(check)
    for request in upstream.requests[asked:]:
        await upstream.wait_closed(request.connection)
    loud = [line for line in proxy.log if line["level"] in {"warning", "error", "critical"}]
    assert loud == []


async def test_a_client_that_reads_slowly_has_all_of_it_in_the_end(
    alone: Starter, upstream: MisbehavingUpstream
) -> None:
    """It is waited for, and counted as any other."""
    proxy = await alone(upstream.base_url)
    pieces = (*events_of("lag")[:-1], *(BIG_EVENT,) * 100, *events_of("lag")[-1:])
    upstream.script("lag", sse(*pieces))
    async with connected(proxy.port) as wire:
        await wire.ask(PATHS["chat_completions"], asking("lag"))
        got = await wire.head()
        for _ in range(5):
            wire.read_no_more()
            await asyncio.sleep(0.1)
            wire.read_on()
            got.chunks.append(await wire.chunk())
        await wire.rest(got)
    check_complete(got)
    assert got.body == b"".join(pieces)

    async def check() -> None:
        metrics = await proxy.scrape()
        assert metrics.streams == {("chat_completions", "complete"): 1.0}
        assert metrics.incidents == {}

    await eventually(check)
