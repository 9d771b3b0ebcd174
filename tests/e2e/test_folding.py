"""The quirk ``aggregate``: events for a request that asked for none become one object, or an error.

The simplest cases of each endpoint are in ``test_catalogue_forms``.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
from typing import Any

import pytest
import pytest_asyncio
from support import STREAMS
from support import sse as events_of

from e2e.child import QUICK, Metrics, Proxy, eventually, idle
from e2e.conftest import Starter
from e2e.doors import DOORS, Door
from e2e.stage import CHUNKED, EVENT_STREAM, Exchange, Stage
from e2e.wire import PATHS, Reply, call, connected
from proxy.demo.answers import EVENT_STREAM as EVENTS
from proxy.demo.answers import Answer, Pause, error_reply, reply, sse
from proxy.demo.bodies import TEXT, json_for
from proxy.demo.upstream import MisbehavingUpstream

FOLDS = ("--quirks-aggregate", "true")
SMALL_CAP = ("--max-event-bytes", "4096")
FOLDED = ["chat", "completions", "responses"]

_CHAT = {"id": "chatcmpl-twins3", "created": 1790000003, "model": "gpt-harbour"}
_TOOLS = {"id": "chatcmpl-tools2", "created": 1790000002, "model": "gpt-harbour"}
_COUNTED = {"id": "chatcmpl-usage4", "created": 1790000004, "model": "gpt-harbour-mini"}
_LEGACY = {"id": "cmpl-legacy9", "created": 1790000009, "model": "harbour-instruct"}


def _choice(index: int, finish: str, **message: Any) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", **message},
        "finish_reason": finish,
    }


def _tool(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


CALLS = [
    _tool("call_tide01", "tide_table", '{"port":"Zürich 🏔"}'),
    _tool("call_wind02", "wind", '{"knots":true}'),
]

ADDED_UP: dict[str, dict[str, Any]] = {
    "chat-n2": {
        **_CHAT,
        "object": "chat.completion",
        "choices": [
            _choice(0, "length", content="North."),
            _choice(1, "stop", content="South wind"),
        ],
    },
    "chat-tools-parallel": {
        **_TOOLS,
        "object": "chat.completion",
        "service_tier": "default",
        "system_fingerprint": None,
        "choices": [_choice(0, "tool_calls", content=None, tool_calls=CALLS)],
    },
    "chat-usage-moderation": {
        **_COUNTED,
        "object": "chat.completion",
        "system_fingerprint": "fp_5a17",
        "choices": [_choice(0, "stop", content="Aye, aye")],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
        "moderation": {"results": [{"flagged": False, "categories": {"violence": False}}]},
    },
    "completions-text": {
        **_LEGACY,
        "object": "text_completion",
        "choices": [
            {
                "text": "Once upon a tide 🌊",
                "index": 0,
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7},
    },
}
"""What the invented streams add up to, written by hand."""


def _last_response(name: str) -> Any:
    last = STREAMS[name].rstrip(b"\n").rpartition(b"data: ")[2]
    return json.loads(last)["response"]


ADDED_UP |= {
    name: _last_response(name)
    for name in ("responses-text", "responses-function-call", "responses-incomplete")
}


async def ask(proxy: Proxy, door: Door, model: str, **fields: Any) -> Reply:
    """Ask for an answer in one piece."""
    body = json.dumps({"model": model, "temperature": 1, **fields}).encode()
    return await call(proxy.port, door.target, body)


def check_object(reply: Reply) -> None:
    """Assert what an answer in one piece looks like, and that nothing of a stream is left."""
    assert (reply.status, reply.end) == (200, "clean")
    assert reply.header("content-type") == "application/json"
    assert reply.header("content-length") == str(len(reply.body))
    assert reply.header("transfer-encoding") is None
    assert reply.header("cache-control") is None
    assert reply.header("x-accel-buffering") is None
    assert reply.header("content-encoding") is None
    assert reply.header("x-wholestream-request-id")


def check_no_success(reply: Reply, status: int = 502) -> None:
    """Assert an error in OpenAI's shape."""
    assert reply.status == status
    assert reply.header("content-type") == "application/json"
    assert {"message", "type", "param", "code"} <= set(reply.error)


async def counted(proxy: Proxy, before: Metrics, outcome: str, code: str = "2xx") -> Metrics:
    """Return what was counted since; one stream and one answered request among it."""

    async def check() -> Metrics:
        after = (await idle(proxy)).since(before)
        assert after.labelled("wholestream_streams_total", "outcome") == {(outcome,): 1.0}
        assert after.labelled("wholestream_requests_total", "code") == {(code,): 1.0}
        return after

    return await eventually(check)


@pytest_asyncio.fixture(name="folding", loop_scope="session")
async def _folding(started: Starter, upstream: MisbehavingUpstream) -> Proxy:
    return await started(upstream.base_url, *QUICK, *FOLDS)


@pytest.mark.parametrize("name", ADDED_UP)
async def test_events_add_up_to_what_they_say(
    folding: Proxy, upstream: MisbehavingUpstream, name: str
) -> None:
    """Every choice, tool call, count and whatever else stands beside them."""
    endpoint = name.partition("-")[0].replace("chat", "chat_completions")
    upstream.script(f"folded-{name}", sse(STREAMS[name]))
    before = await idle(folding)
    body = json.dumps({"model": f"folded-{name}", **({"n": 2} if name == "chat-n2" else {})})
    got = await call(folding.port, PATHS[endpoint], body.encode())
    check_object(got)
    assert got.json == ADDED_UP[name]
    after = await counted(folding, before, "complete")
    assert after.incidents == {}
    repairs = after.labelled("wholestream_repairs_total", "endpoint", "repair")
    assert repairs == {(endpoint, "sse_to_json"): 1.0}


async def test_events_that_were_mended_add_up_as_well(
    folding: Proxy, upstream: MisbehavingUpstream
) -> None:
    """Compressed, with comments, without ``[DONE]``: the object is the same."""
    body = b": hello\n\n" + STREAMS["chat-n2"].removesuffix(b"data: [DONE]\n\n")
    zipped = (*EVENTS, ("Content-Encoding", "gzip"))
    upstream.script("folded-mended", Answer(headers=zipped, pieces=(gzip.compress(body),)))
    before = await idle(folding)
    got = await ask(folding, DOORS["chat"], "folded-mended", n=2)
    check_object(got)
    assert got.json == ADDED_UP["chat-n2"]
    after = await counted(folding, before, "complete")
    found = set(after.labelled("wholestream_repairs_total", "repair"))
    assert found == {("sse_to_json",), ("decoded_body",), ("dropped_comment",), ("added_done",)}


@pytest.mark.parametrize("way", ["fin", "clean", "reset", "error"])
@pytest.mark.parametrize("name", FOLDED)
async def test_a_cut_while_events_are_gathered_is_invisible(
    folding: Proxy, upstream: MisbehavingUpstream, name: str, way: str
) -> None:
    """Nothing was given yet, so the answer is the next attempt's, and says how many there were."""
    door, model = DOORS[name], f"folded-cut-{name}-{way}"
    some = door.stream(model, 1).events[:-3]
    told = b'data: {"error":{"message":"Died.","code":"server_error"}}\n\n'
    first = {
        "fin": sse(*some, end="fin"),
        "clean": sse(*some),
        "reset": sse(*some, Pause(0.1), end="reset"),
        "error": sse(*some, told),
    }[way]
    upstream.script(model, [first, sse(*door.stream(model, 2).events)])
    before = await idle(folding)
    got = await ask(folding, door, model)
    check_object(got)
    assert "a2" in got.json["id"]
    assert got.header("x-wholestream-attempts") == "2"
    after = await counted(folding, before, "recovered")
    [(_, _, outcome)] = after.incidents
    assert outcome == "restarted"


@pytest.mark.parametrize("name", FOLDED)
async def test_the_next_attempt_may_be_in_one_piece(
    folding: Proxy, upstream: MisbehavingUpstream, name: str
) -> None:
    """Whoever answers events to one request need not do so to the next."""
    door, model = DOORS[name], f"folded-then-{name}"
    told = json_for(door.asked(model), 2)
    some = door.stream(model, 1).events[:-3]
    upstream.script(model, [sse(*some), reply(200, told)])
    before = await idle(folding)
    got = await ask(folding, door, model)
    check_object(got)
    assert got.json["id"] == told["id"]
    assert TEXT in json.dumps(got.json)
    await counted(folding, before, "recovered")


@pytest.mark.parametrize("name", FOLDED)
async def test_a_cut_in_every_attempt_is_a_status_and_never_half_an_object(
    folding: Proxy, upstream: MisbehavingUpstream, name: str
) -> None:
    """An honest error, after all attempts."""
    door, model = DOORS[name], f"folded-always-{name}"
    upstream.script(model, sse(*door.stream(model, 1).events[:-3], end="fin"))
    before = await idle(folding)
    got = await ask(folding, door, model)
    check_no_success(got)
    assert got.error["code"] == "stream_incomplete"
    assert got.header("x-should-retry") == "false"
    after = await counted(folding, before, "failed", "5xx")
    assert sum(after.incidents.values()) == 3
    assert ("sse_to_json",) not in after.labelled("wholestream_repairs_total", "repair")


async def test_an_upstream_that_falls_silent_is_a_status(
    folding: Proxy, upstream: MisbehavingUpstream
) -> None:
    """There are no heartbeats to send, but there is an end."""
    door, model = DOORS["chat"], "folded-silent"
    upstream.script(model, sse(*door.stream(model, 1).events[:-3], end="hold"))
    before = await idle(folding)
    got = await ask(folding, door, model)
    check_no_success(got, 504)
    await counted(folding, before, "failed", "5xx")


async def test_a_refusal_in_the_events_is_the_status_that_it_stands_for(
    folding: Proxy, upstream: MisbehavingUpstream
) -> None:
    """As it would have been had the upstream answered in one piece."""
    told = events_of({"error": {"message": "Too long.", "code": "context_length_exceeded"}})
    upstream.script("folded-refused", sse(told))
    got = await ask(folding, DOORS["chat"], "folded-refused")
    check_no_success(got, 400)
    assert got.error["code"] == "context_length_exceeded"


async def test_an_http_error_passes_as_it_is(folding: Proxy, upstream: MisbehavingUpstream) -> None:
    """It is in one piece already."""
    answer = error_reply(404, "model_not_found", "No such model.")
    upstream.script("folded-404", answer)
    got = await ask(folding, DOORS["chat"], "folded-404")
    assert (got.status, [got.body]) == (404, list(answer.pieces))


@pytest.mark.parametrize("status", [400, 503])
@pytest.mark.parametrize("name", FOLDED)
async def test_an_http_error_behind_events_that_broke_passes_as_it_is(
    folding: Proxy, upstream: MisbehavingUpstream, name: str, status: int
) -> None:
    """Of what was to be gathered nothing is left to be made an object of."""
    door, model = DOORS[name], f"folded-then-{status}-{name}"
    answer = error_reply(status, "context_length_exceeded", "Too long.")
    upstream.script(model, [sse(end="fin"), answer])
    got = await ask(folding, door, model)
    assert (got.status, [got.body]) == (status, list(answer.pieces))
    assert got.header("content-length") == str(len(got.body))
    assert got.header("x-wholestream-attempts") == ("2" if status == 400 else "3")


@pytest.mark.parametrize("size", [3000, 600_000])
async def test_more_than_an_event_may_have_is_an_honest_error(
    started: Starter, upstream: MisbehavingUpstream, size: int
) -> None:
    """What is gathered is bounded by the cap of an event; below it all is well."""
    proxy = await started(upstream.base_url, *QUICK, *FOLDS, *SMALL_CAP)
    text = "x" * 100
    some = [{"choices": [{"index": 0, "delta": {"content": text}}]}] * (size // 150)
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    model = f"folded-large-{size}"
    upstream.script(model, sse(events_of(*some, last, "[DONE]")))
    before = await idle(proxy)
    got = await ask(proxy, DOORS["chat"], model)
    if size < 4096:
        check_object(got)
        assert got.json["choices"][0]["message"]["content"] == text * (size // 150)
        await counted(proxy, before, "complete")
        return
    check_no_success(got)
    assert got.error["code"] == "stream_incomplete"
    assert "max_event_bytes" in got.error["message"]
    after = await counted(proxy, before, "failed", "5xx")
    assert after.labelled("wholestream_repairs_total", "repair") == {}


async def test_events_are_gathered_for_nobody_who_left(started: Starter, stage: Stage) -> None:
    """The upstream is left at once, though nothing was ever written."""
    proxy = await started(stage.base_url, *FOLDS)
    events = DOORS["chat"].stream("m").events

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        await exchange.chunk(b"".join(events[:4]))
        await exchange.left()

    async def gathering() -> None:
        assert (await proxy.scrape()).in_flight == 1

    before = await idle(proxy)
    async with connected(proxy.port) as wire:
        staged = stage.plays("gathered for nobody", play)
        await wire.ask(PATHS["chat_completions"], b'{"model":"m"}', headers=[staged])
        await eventually(gathering)
    await stage.over("gathered for nobody")

    async def check() -> None:
        after = (await idle(proxy)).since(before)
        assert after.streams == {("chat_completions", "client_closed"): 1.0}
        assert after.incidents == {}

    await eventually(check)


async def test_a_drain_ends_what_is_gathered_with_a_status(alone: Starter, stage: Stage) -> None:
    """A whole answer is waited for; the rest is told, and is no success."""
    proxy = await alone(stage.base_url, *FOLDS, "--drain-timeout-s", "0.5")
    events = DOORS["chat"].stream("m").events
    begun, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def play(exchange: Exchange) -> None:
        body = json.loads(await exchange.body())
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        await exchange.chunk(b"".join(events[:4]))
        begun.release()
        if body["model"] == "stays":
            await exchange.left()
            return
        await go_on.wait()
        await exchange.chunk(b"".join(events[4:]))
        await exchange.chunk(b"")

    staged = stage.plays("drained", play)
    asked = [
        asyncio.create_task(
            call(
                proxy.port,
                PATHS["chat_completions"],
                json.dumps({"model": model}).encode(),
                headers=[staged],
            )
        )
        for model in ("finishes", "stays")
    ]
    for _ in asked:
        await begun.acquire()
    proxy.process.send_signal(signal.SIGTERM)
    go_on.set()
    finished, ended = await asyncio.gather(*asked)
    check_object(finished)
    check_no_success(ended, 503)
    assert await proxy.ended() == 0
