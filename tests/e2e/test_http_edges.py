"""The edges of HTTP: bodiless and cut answers, refusals, old clients, interim answers."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from support import sse as event

from e2e.child import Proxy, eventually
from e2e.conftest import Starter
from e2e.stage import CHUNKED, EVENT_STREAM, JSON, MULTIPART, Exchange, Stage, plain, through
from e2e.wire import PATHS, Pairs, asking, call, check_complete, connected
from proxy.demo.answers import Asked
from proxy.demo.bodies import stream_for
from proxy.demo.upstream import MisbehavingUpstream

CHAT = PATHS["chat_completions"]


# --- answers without a body, and incomplete ones --------------------------------------------


@pytest.mark.parametrize(
    ("method", "status", "pairs"),
    [
        ("HEAD", 200, [JSON, ("Content-Length", "1234")]),
        ("DELETE", 204, []),
        ("GET", 304, [("ETag", '"1"')]),
        ("OPTIONS", 200, [("Allow", "GET"), ("Content-Length", "0")]),
    ],
)
async def test_an_answer_without_a_body_passes_and_leaves_the_connection_usable(
    staged: Proxy, stage: Stage, method: str, status: int, pairs: Pairs
) -> None:
    """Status and headers are the upstream's; the next request on the connection is served."""
    name = f"bodiless {method}"

    async def play(exchange: Exchange) -> None:
        await exchange.answer(status, pairs)

    headers = [stage.plays(name, play)]
    async with connected(staged.port) as wire:
        await wire.ask("/v1/files/f", method=method, headers=headers)
        got = await wire.rest(await wire.head(), method)
        assert got.status == status
        for header, value in pairs:
            assert got.headers(header) == [value]
        assert got.body == b""
        await wire.ask("/nowhere", method="GET")
        assert (await wire.rest(await wire.head())).status == 404


@pytest.mark.parametrize("framing", ["length", "chunked", "mid-chunk"])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_json_body_cut_by_the_upstream_is_seen_as_incomplete(
    staged: Proxy, stage: Stage, framing: str, version: str, how: str
) -> None:
    """Never a clean end of half a body, whatever the framing on either side."""
    name = f"half {framing} {version} {how}"
    half = b'{"data":[1,2,'

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        if framing == "length":
            await exchange.answer(200, [JSON, ("Content-Length", "50")], half)
        else:
            size = b"30" if framing == "mid-chunk" else b"%x" % len(half)
            end = b"" if framing == "mid-chunk" else b"\r\n"
            await exchange.answer(200, [JSON, *CHUNKED], size + b"\r\n" + half + end)
        await asyncio.sleep(0.05)
        if how == "reset":
            exchange.reset()

    async with connected(staged.port) as wire:
        headers = [stage.plays(name, play)]
        await wire.ask("/v1/files", method="GET", headers=headers, version=version)
        got = await wire.head()
        try:
            got = await wire.rest(got)
        except ConnectionResetError:
            got.end = "reset"
    assert got.end in {"cut", "reset"}
    assert half.startswith(got.body)


async def test_an_answer_that_is_never_an_event_stream_passes_where_nothing_else_is_known(
    staged: Proxy, stage: Stage
) -> None:
    """What another endpoint means by its JSON is not ours to say."""
    _, got = await through(
        staged.port,
        stage,
        plain(b'{"id":1}'),
        name="json",
        target=PATHS["other"],
        method="POST",
        body=asking("m"),
    )
    assert (got.status, got.json) == (200, {"id": 1})
    assert got.header("content-type") == "application/json"


# --- refused --------------------------------------------------------------------------------


async def test_a_body_over_the_cap_is_refused_before_it_is_read(
    started: Starter, stage: Stage
) -> None:
    """The 413 comes though not one byte of the body was sent, and names the setting."""
    proxy = await started(stage.base_url, "--max-request-bytes", "1000")
    async with connected(proxy.port) as wire:
        await wire.ask(CHAT, headers=[JSON, ("Content-Length", "1001")])
        got = await wire.rest(await wire.head())
        assert await wire.closed()
    assert got.status == 413
    assert "max_request_bytes" in got.error["message"]
    async with connected(proxy.port) as wire:
        await wire.ask(CHAT, headers=[JSON, *CHUNKED])
        with contextlib.suppress(ConnectionError):
            for _ in range(3):
                await wire.send(b"200\r\n" + b" " * 512 + b"\r\n")
        assert (await wire.head()).status == 413


async def test_an_upload_has_no_cap(started: Starter, stage: Stage) -> None:
    """The cap is for what must be kept to be repeated."""
    proxy = await started(stage.base_url, "--max-request-bytes", "1000")

    async def play(exchange: Exchange) -> int:
        length = len(await exchange.body())
        await exchange.answer(*plain())
        return length

    headers = [stage.plays("no cap", play), MULTIPART]
    got = await call(proxy.port, "/v1/files", b"x" * 5000, headers=headers)
    assert (got.status, await stage.over("no cap")) == (200, 5000)


@pytest.mark.parametrize("target", ["/", "/chat/completions", "/v2/models", "/v1x", "/metrics"])
async def test_a_path_elsewhere_is_a_404_that_names_the_base_url(
    staged: Proxy, target: str
) -> None:
    """In OpenAI's shape, with the port that is listened on."""
    got = await call(staged.port, target, method="GET")
    assert got.status == 404
    assert f"http://127.0.0.1:{staged.port}/v1" in got.error["message"]


# --- old and brief clients ------------------------------------------------------------------


@pytest.mark.parametrize("connection", ["none", "keep-alive", "close"])
@pytest.mark.parametrize("kind", [EVENT_STREAM, (JSON, *CHUNKED)], ids=["stream", "plain"])
async def test_an_http_1_0_client_gets_a_body_that_the_close_ends(
    staged: Proxy, stage: Stage, kind: Pairs, connection: str
) -> None:
    """Whole, without chunks, and ended at once, whatever the client hoped to keep alive."""
    whole = b"".join(stream_for(Asked(model="m"), 1).events)
    body = whole if kind is EVENT_STREAM else b"%x\r\n%b\r\n0\r\n\r\n" % (len(whole), whole)
    async with asyncio.timeout(5):
        _, got = await through(
            staged.port,
            stage,
            (200, kind, body),
            name=f"old {connection} {kind[0][1]}",
            target=CHAT,
            method="POST",
            body=asking("m"),
            version="HTTP/1.0",
            headers=[("Connection", connection)] if connection != "none" else [],
        )
    assert got.end == "fin"
    assert got.header("transfer-encoding") is None
    assert got.body == whole


async def test_a_stream_never_says_that_the_connection_closes(staged: Proxy, stage: Stage) -> None:
    """Even to a client that said so; the connection is closed all the same."""
    answer = (200, EVENT_STREAM, b"".join(stream_for(Asked(model="m"), 1).events))

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(*answer)

    headers = [stage.plays("close", play), ("Connection", "close")]
    async with connected(staged.port) as wire:
        await wire.ask(CHAT, asking("m"), headers=headers)
        got = await wire.rest(await wire.head())
        assert await wire.closed()
    check_complete(got)


async def test_a_connection_serves_one_request_after_another(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """Streams, errors and plain answers take turns on one connection."""
    upstream.rewind()
    async with connected(proxy.port) as wire:
        for model, status in (("ws-ok", 200), ("ws-empty-200", 502), ("ws-ok", 200)):
            await wire.ask(CHAT, asking(model))
            assert (await wire.rest(await wire.head())).status == status
        await wire.ask(CHAT, json.dumps({"model": "ws-ok"}).encode())
        assert (await wire.rest(await wire.head())).status == 200


async def test_an_event_stream_that_nobody_asked_for_is_a_stream_all_the_same(
    staged: Proxy, stage: Stage
) -> None:
    """What the answer says counts, not what the request asked: heartbeats, endings, count."""
    before = await staged.scrape()
    body = event({"a": 1}, {"b": 2})
    answer = (200, EVENT_STREAM, body)
    _, got = await through(staged.port, stage, answer, name="unasked", target="/v1/agents/events")
    check_complete(got, "other")
    assert got.body == body

    async def counted() -> None:
        after = (await staged.scrape()).since(before)
        assert after.streams == {("other", "complete"): 1.0}

    await eventually(counted)


async def test_a_client_that_waits_for_100_continue_is_told_to_go_on(
    staged: Proxy, stage: Stage
) -> None:
    """The body is sent only after the interim answer, as curl does with large ones."""

    async def play(exchange: Exchange) -> bytes:
        data = await exchange.body()
        await exchange.answer(*plain())
        return data

    headers = [stage.plays("expect", play), JSON, ("Content-Length", "2")]
    async with connected(staged.port) as wire:
        await wire.ask("/v1/files", headers=[*headers, ("Expect", "100-continue")])
        assert (await wire.head()).status == 100
        await wire.send(b"{}")
        assert (await wire.rest(await wire.head())).status == 200
    assert await stage.over("expect") == b"{}"
    assert stage.exchanges["expect"][0].headers("expect") == []
