"""When content is long in coming: 200 and heartbeats in time, and what becomes of faults then."""

from __future__ import annotations

import asyncio
import json

import pytest
import pytest_asyncio

from e2e.child import QUICK, Proxy, idle
from e2e.conftest import Starter
from e2e.stage import CHUNKED, EVENT_STREAM, Exchange, Stage
from e2e.wire import (
    HEARTBEAT,
    PATHS,
    Reply,
    Wire,
    asking,
    check_complete,
    check_failed,
    check_stream_headers,
    connected,
    data_of,
    stream,
)
from proxy.demo.answers import Answer, Asked, Pause, Piece, error_reply, sse
from proxy.demo.bodies import TEXT, Stream, stream_for
from proxy.demo.upstream import MisbehavingUpstream

SOON = (
    *QUICK,
    *("--commit-after-s", "0.2"),
    *("--heartbeat-s", "0.15"),
    *("--first-event-timeout-s", "20"),
    *("--stall-timeout-s", "20"),
)
SILENCES = ("before the status line", "before the first event", "after the openers")


@pytest_asyncio.fixture(name="soon", loop_scope="session")
async def _soon(started: Starter, stage: Stage) -> Proxy:
    return await started(stage.base_url, *SOON)


@pytest_asyncio.fixture(name="scripted", loop_scope="session")
async def _scripted(started: Starter, upstream: MisbehavingUpstream) -> Proxy:
    return await started(upstream.base_url, *SOON)


async def _hears(wire: Wire, heartbeats: int) -> tuple[Reply, list[bytes]]:
    """Read the head and chunks until so many heartbeats were heard; return all chunks."""
    reply = await wire.head()
    chunks: list[bytes] = []
    while sum(chunk == HEARTBEAT for chunk in chunks) < heartbeats:
        chunks.append(await wire.chunk())
    return reply, chunks


@pytest.mark.parametrize("silence", SILENCES)
@pytest.mark.parametrize("endpoint", ["chat_completions", "responses"])
async def test_a_silent_upstream_is_bridged_by_a_200_and_heartbeats(
    soon: Proxy, stage: Stage, silence: str, endpoint: str
) -> None:
    """In every phase of silence; what comes in the end is whole, in the canonical form."""
    heard = asyncio.Event()
    whole = stream_for(Asked(endpoint, "m"), 1)
    name = f"{silence} {endpoint}"

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        if silence == SILENCES[0]:
            await heard.wait()
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        if silence == SILENCES[1]:
            await heard.wait()
        await exchange.chunk(b"".join(whole.opening))
        if silence == SILENCES[2]:
            await heard.wait()
        await exchange.chunk(b"".join([*whole.content, *whole.closing]))
        await exchange.chunk(b"")

    staged = stage.plays(name, play)
    async with connected(soon.port) as wire:
        await wire.ask(PATHS[endpoint], asking("m"), headers=[staged])
        reply, chunks = await _hears(wire, 2)
        heard.set()
        reply = await wire.rest(reply)
    reply.chunks[:0] = chunks
    check_complete(reply, endpoint)
    assert reply.payloads == data_of(whole.events)


async def test_heartbeats_come_in_the_back_off_too(
    scripted: Proxy, upstream: MisbehavingUpstream
) -> None:
    """While the proxy waits as it was asked to, the client hears of it, and then the answer."""
    model = "soon-429"
    limited = error_reply(429, "rate_limit_exceeded", "Slow.", (("Retry-After", "1"),))
    upstream.script(model, [limited, sse(*stream_for(Asked(model=model), 2).events)])
    async with connected(scripted.port) as wire:
        await wire.ask(PATHS["chat_completions"], asking(model))
        reply, chunks = await _hears(wire, 2)
        assert sum(request.model == model for request in upstream.requests) == 1
        reply = await wire.rest(reply)
    reply.chunks[:0] = chunks
    check_complete(reply)
    assert reply.payloads == data_of(stream_for(Asked(model=model), 2).events)
    # The headers were out before the second attempt was made.
    assert reply.header("x-wholestream-attempts") is None


async def test_a_fault_after_the_timed_commit_is_told_in_band(
    scripted: Proxy, upstream: MisbehavingUpstream
) -> None:
    """A status is no longer possible, so the upstream's last error is the stream's end."""
    model = "soon-503"
    dead = error_reply(503, "overloaded", "The engine is dead.")
    upstream.script(model, Answer(503, dead.headers, "length", dead.pieces, before_s=0.3))
    before = await idle(scripted)
    reply = await stream(scripted.port, model)
    error = check_failed(reply)
    assert (error["code"], error["message"]) == ("overloaded", "The engine is dead.")
    assert sum(request.model == model for request in upstream.requests) == 3
    counted = (await idle(scripted)).since(before)
    assert counted.streams == {("chat_completions", "failed"): 1.0}


@pytest.mark.parametrize("endpoint", ["chat_completions", "completions", "responses"])
async def test_an_upstream_that_ends_without_content_is_told_in_band(
    scripted: Proxy, upstream: MisbehavingUpstream, endpoint: str
) -> None:
    """An honest error after the timed commit, whatever was given until then."""
    model = f"soon-end-{endpoint}"
    opening = stream_for(Asked(endpoint, model), 1).opening
    upstream.script(model, sse(*opening, Pause(0.5)))
    reply = await stream(scripted.port, model, endpoint)
    error = check_failed(reply, endpoint)
    assert error["code"] == "stream_incomplete"
    assert reply.payloads[: len(opening)] == data_of(opening)


async def _spliced(proxy: Proxy, stage: Stage, endpoint: str, **fields: object) -> Reply:
    """Cut an attempt after its openers were given by the clock; the next one is whole."""
    heard = asyncio.Event()
    name = f"spliced {endpoint} {fields}"

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        attempt = len(stage.exchanges[name])
        whole = stream_for(Asked(endpoint, "m"), attempt)
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        if attempt == 1:
            await exchange.chunk(b"".join(whole.opening))
            await heard.wait()
            return
        for event in whole.events:
            await exchange.chunk(event)
        await exchange.chunk(b"")

    staged = stage.plays(name, play)
    async with connected(proxy.port) as wire:
        await wire.ask(PATHS[endpoint], asking("m", **fields), headers=[staged])
        reply, chunks = await _hears(wire, 1)
        heard.set()
        reply = await wire.rest(reply)
    reply.chunks[:0] = chunks
    check_stream_headers(reply)
    return reply


async def test_a_chat_restarted_after_the_timed_commit_keeps_one_identity(
    soon: Proxy, stage: Stage
) -> None:
    """One id, created, model and fingerprint, the role once, and the whole text."""
    before = await idle(soon)
    reply = await _spliced(soon, stage, "chat_completions")
    check_complete(reply)
    chunks = [json.loads(data) for data in reply.payloads[:-1]]
    for key in ("id", "created", "model", "system_fingerprint"):
        assert len({chunk[key] for chunk in chunks}) == 1, key
    assert chunks[0]["id"] == "chatcmpl-demo-a1"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert ["role" in delta for delta in deltas].count(True) == 1
    assert "".join(delta.get("content") or "" for delta in deltas) == TEXT
    counted = (await idle(soon)).since(before)
    assert counted.streams == {("chat_completions", "recovered"): 1.0}
    assert counted.labelled("wholestream_recoveries_total", "strategy", "result") == {
        ("restart", "success"): 1.0
    }


async def test_a_response_that_is_not_stored_keeps_one_identity_when_restarted(
    soon: Proxy, stage: Stage
) -> None:
    """One response id, contiguous sequence numbers, each lifecycle event once."""
    reply = await _spliced(soon, stage, "responses", store=False)
    check_complete(reply, "responses")
    events = [json.loads(data) for data in reply.payloads]
    whole: Stream = stream_for(Asked("responses", "m"), 2)
    assert [event["type"] for event in events] == [
        json.loads(data)["type"] for data in data_of(whole.events)
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    ids = {event["response"]["id"] for event in events if "response" in event}
    assert ids == {"resp_demo_a1"}


async def test_a_stored_response_whose_id_was_given_is_not_restarted(
    soon: Proxy, stage: Stage
) -> None:
    """The client may use the id it was given, so that another response must not take it."""
    reply = await _spliced(soon, stage, "responses")
    error = check_failed(reply, "responses")
    assert error["code"] == "stream_incomplete"
    assert len(stage.exchanges["spliced responses {}"]) == 1


async def test_heartbeats_stand_between_events_only_and_after_silence_only(
    scripted: Proxy, upstream: MisbehavingUpstream
) -> None:
    """A pause inside an event puts them between events; a busy stream has none at all."""
    model = "soon-inside"
    events = stream_for(Asked(model=model), 1).events
    middle = len(events[4]) // 2
    pieces: tuple[Piece, ...] = (
        *events[:4],
        events[4][:middle],
        Pause(0.5),
        events[4][middle:],
        *events[5:],
    )
    upstream.script(model, sse(*pieces))
    reply = await stream(scripted.port, model)
    check_complete(reply)
    assert reply.payloads == data_of(events)
    beats = [at for at, chunk in enumerate(reply.chunks) if HEARTBEAT in chunk]
    assert len(beats) >= 2
    assert all(reply.chunks[at] == HEARTBEAT for at in beats)
    assert data_of(reply.chunks[: beats[0]]) == data_of(events[:4])

    busy = await stream(scripted.port, "ws-ok")
    assert HEARTBEAT not in busy.body


async def test_heartbeats_can_be_turned_off(started: Starter, stage: Stage) -> None:
    """With 0 the headers still go out in time, and nothing but the stream follows."""
    proxy = await started(stage.base_url, *SOON, "--heartbeat-s", "0")
    heard = asyncio.Event()
    whole = stream_for(Asked(model="m"), 1)

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        await heard.wait()
        await asyncio.sleep(0.4)
        await exchange.chunk(b"".join(whole.events))
        await exchange.chunk(b"")

    staged = stage.plays("no heartbeats", play)
    async with connected(proxy.port) as wire:
        await wire.ask(PATHS["chat_completions"], asking("m"), headers=[staged])
        reply = await wire.head()
        heard.set()
        reply = await wire.rest(reply)
    check_complete(reply)
    assert reply.body == b"".join(whole.events)
