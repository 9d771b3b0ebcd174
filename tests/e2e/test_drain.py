"""SIGTERM: unready at once, streams finish, what is left is ended loudly, exit code 0."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import pytest

from e2e.child import Proxy, eventually, idle
from e2e.conftest import Starter
from e2e.stage import CHUNKED, EVENT_STREAM, Exchange, Stage
from e2e.wire import PATHS, Reply, Wire, asking, check_complete, check_failed, connected, stream
from proxy.demo.answers import Answer, Asked
from proxy.demo.bodies import stream_for
from proxy.demo.upstream import MisbehavingUpstream

EVENTS = stream_for(Asked(model="m"), 1).events
WHOLE = b"".join(EVENTS)


class Streams:
    """Streams that are begun, and go on or end when the test says so."""

    def __init__(self, proxy: Proxy, stage: Stage, name: str) -> None:
        """Take the two sides."""
        self.stage = stage
        self.port = proxy.port
        self.name = name
        self.go_on = {"short": asyncio.Event(), "long": asyncio.Event(), "stalled": asyncio.Event()}

    async def begin(self, which: str, wire: Wire) -> Reply:
        """Begin a stream and read its first content."""
        name = f"{self.name} {which}"

        async def play(exchange: Exchange) -> None:
            await exchange.body()
            await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
            await exchange.chunk(b"".join(EVENTS[:4]))
            left = asyncio.ensure_future(exchange.left())
            going_on = asyncio.ensure_future(self.go_on[which].wait())
            await asyncio.wait({left, going_on}, return_when=asyncio.FIRST_COMPLETED)
            going_on.cancel()
            if not left.done():
                left.cancel()
                await exchange.chunk(b"".join(EVENTS[4:]))
                await exchange.chunk(b"")

        await wire.ask(
            PATHS["chat_completions"], asking("m"), headers=[self.stage.plays(name, play)]
        )
        reply = await wire.head()
        while not reply.body.startswith(b"".join(EVENTS[:4])):
            reply.chunks.append(await wire.chunk())
        return reply

    async def end(self, wire: Wire, reply: Reply) -> Reply:
        """Read the rest of a stream."""
        chunks, reply.chunks = reply.chunks, []
        await wire.rest(reply)
        reply.chunks[:0] = chunks
        return reply


async def _refused(port: int) -> None:
    try:
        async with connected(port):
            pass
    except ConnectionRefusedError:
        return
    raise AssertionError("a connection was accepted")


async def _ready(proxy: Proxy) -> tuple[int, int]:
    return (await proxy.admin("/readyz")).status, (await proxy.admin("/healthz")).status


async def test_a_drain_lets_streams_finish_and_ends_the_rest_loudly(
    alone: Starter, stage: Stage
) -> None:
    """Short and long streams end byte-exact, the stalled one is told, and the exit code is 0."""
    proxy = await alone(stage.base_url, "--drain-grace-s", "1.2", "--drain-timeout-s", "1.5")
    streams = Streams(proxy, stage, "drain")
    async with (
        connected(proxy.port) as short,
        connected(proxy.port) as long,
        connected(proxy.port) as stalled,
    ):
        replies = [
            await streams.begin(which, wire)
            for which, wire in (("short", short), ("long", long), ("stalled", stalled))
        ]
        assert await _ready(proxy) == (200, 200)
        proxy.process.send_signal(signal.SIGTERM)

        async def unready() -> None:
            assert await _ready(proxy) == (503, 200)

        await eventually(unready, 1.0)
        assert (await proxy.scrape()).total("wholestream_draining") == 1

        # In the grace new requests are served still.
        async with connected(proxy.port) as wire:
            late = Streams(proxy, stage, "late")
            late.go_on["short"].set()
            check_complete(await late.end(wire, await late.begin("short", wire)))

        streams.go_on["short"].set()
        _check_whole(await streams.end(short, replies[0]))
        await eventually(lambda: _refused(proxy.port))
        assert await _ready(proxy) == (503, 200)
        streams.go_on["long"].set()
        _check_whole(await streams.end(long, replies[1]))

        metrics = await proxy.scrape()
        assert metrics.streams == {("chat_completions", "complete"): 3.0}
        assert metrics.in_flight == 1
        ended = await streams.end(stalled, replies[2])
    error = check_failed(ended)
    assert ended.body.startswith(b"".join(EVENTS[:4]))
    assert "shutting down" in error["message"]
    assert error["retryable"] is True
    assert await proxy.ended() == 0
    assert _line(proxy, "drained")["ended_loudly"] == 1


def _check_whole(reply: Reply) -> None:
    check_complete(reply)
    assert reply.body == WHOLE


async def test_streams_that_a_drain_ends_are_counted_as_aborted(
    alone: Starter, stage: Stage
) -> None:
    """The outcome is the proxy's own doing, and no fault of the upstream is counted."""
    proxy = await alone(stage.base_url, "--drain-timeout-s", "0.3", "--log-level", "debug")
    streams = Streams(proxy, stage, "aborted")
    async with connected(proxy.port) as wire:
        reply = await streams.begin("stalled", wire)
        proxy.process.send_signal(signal.SIGTERM)
        check_failed(await streams.end(wire, reply))
    assert await proxy.ended() == 0
    assert _line(proxy, "request")["outcome"] == "aborted"
    assert proxy.incidents() == []


async def test_a_request_that_is_not_answered_yet_is_told_503_by_a_drain(
    alone: Starter, stage: Stage
) -> None:
    """Before any byte a real status is possible, and the SDK may ask another instance."""
    proxy = await alone(stage.base_url, "--drain-timeout-s", "0.3")
    reached = asyncio.Event()

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        reached.set()
        await exchange.left()

    headers = [stage.plays("unanswered", play)]
    async with connected(proxy.port) as wire:
        await wire.ask(PATHS["chat_completions"], asking("m"), headers=headers)
        await reached.wait()
        proxy.process.send_signal(signal.SIGTERM)
        got = await wire.rest(await wire.head())
    assert (got.status, got.header("x-should-retry")) == (503, "true")
    assert "shutting down" in got.error["message"]
    assert await proxy.ended() == 0


async def test_a_connection_kept_alive_is_served_no_more_after_the_grace(
    alone: Starter, stage: Stage
) -> None:
    """A pooled connection of a client is answered 503, to be tried elsewhere, and closed."""
    proxy = await alone(stage.base_url)
    streams = Streams(proxy, stage, "pooled")
    async with connected(proxy.port) as wire, connected(proxy.port) as pooled:
        reply = await streams.begin("long", wire)
        await pooled.ask("/nowhere", method="GET")
        await pooled.rest(await pooled.head())
        proxy.process.send_signal(signal.SIGTERM)
        await eventually(lambda: _refused(proxy.port))
        await pooled.ask(PATHS["chat_completions"], asking("m"))
        try:
            got = await pooled.rest(await pooled.head())
        except (asyncio.IncompleteReadError, ConnectionError):
            got = None  # closed with the listener, which says the same
        if got is not None:
            assert (got.status, got.header("retry-after")) == (503, "1")
            assert got.header("x-should-retry") == "true"
            assert await pooled.closed()
        streams.go_on["long"].set()
        _check_whole(await streams.end(wire, reply))
    assert await proxy.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_an_idle_proxy_promptly(
    alone: Starter, upstream: MisbehavingUpstream, number: signal.Signals
) -> None:
    """With no stream under way there is nothing to wait for."""
    proxy = await alone(upstream.base_url)
    check_complete(await stream(proxy.port, "ws-ok"))
    await idle(proxy)
    proxy.process.send_signal(number)
    async with asyncio.timeout(2):
        assert await proxy.ended() == 0


@pytest.mark.parametrize("grace", ["0", "60"])
async def test_a_second_signal_ends_at_once_and_loudly(
    alone: Starter, stage: Stage, grace: str
) -> None:
    """Neither the grace nor the streams are waited for, but they are told."""
    proxy = await alone(stage.base_url, "--drain-grace-s", grace, "--drain-timeout-s", "60")
    streams = Streams(proxy, stage, f"second {grace}")
    async with connected(proxy.port) as wire:
        reply = await streams.begin("stalled", wire)
        proxy.process.send_signal(signal.SIGTERM)

        async def unready() -> None:
            assert (await proxy.admin("/readyz")).status == 503

        await eventually(unready)
        proxy.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(2):
            check_failed(await streams.end(wire, reply))
            assert await proxy.ended() == 0


async def test_a_client_that_does_not_read_cannot_hold_up_the_end(
    alone: Starter, upstream: MisbehavingUpstream
) -> None:
    """The process is gone about a second after the timeout, whatever clients do."""
    proxy = await alone(upstream.base_url, "--drain-timeout-s", "0.3")
    big = {"choices": [{"index": 0, "delta": {"content": "x" * 100_000}}]}
    data = b"data: " + json.dumps(big).encode() + b"\n\n"
    upstream.script("unread", Answer(pieces=(data,) * 300))
    async with connected(proxy.port) as wire:
        wire.read_no_more()
        await wire.ask(PATHS["chat_completions"], asking("unread"))

        async def under_way() -> None:
            assert (await proxy.scrape()).in_flight == 1

        await eventually(under_way)
        proxy.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(3):
            assert await proxy.ended() == 0


async def test_all_that_is_printed_while_serving_is_one_json_object_a_line(
    alone: Starter, upstream: MisbehavingUpstream
) -> None:
    """From the first line to the last, incidents and a drain among them."""
    proxy = await alone(
        upstream.base_url,
        *("--log-level", "debug", "--drain-timeout-s", "0.2"),
        WHOLESTREAM_NO_SUCH="1",
    )
    for model in ("ws-ok", "ws-cut-mid-event", "ws-401", "ws-clean-eof"):
        await stream(proxy.port, model)
    await idle(proxy)
    proxy.process.send_signal(signal.SIGTERM)
    assert await proxy.ended() == 0
    log = proxy.log
    assert proxy.stdout == ""
    assert all({"ts", "level", "event"} <= line.keys() for line in log)
    events = [line["event"] for line in log]
    assert {"listening", "incident", "request", "draining", "drained"} <= set(events)
    assert any("WHOLESTREAM_NO_SUCH" in event for event in events)


def _line(proxy: Proxy, event: str) -> dict[str, Any]:
    [line] = [line for line in proxy.log if line["event"] == event]
    return line
