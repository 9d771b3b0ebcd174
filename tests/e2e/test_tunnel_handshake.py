"""The handshake of a WebSocket: what of it crosses, who may make it, what is no answer to it."""

from __future__ import annotations

import asyncio

import pytest

from e2e.child import Proxy
from e2e.conftest import Starter
from e2e.sockets import HANDSHAKE, KEY, SWITCHED
from e2e.stage import JSON, Exchange, Stage, plain, through
from e2e.wire import Pairs, call, connected

# --- the handshake --------------------------------------------------------------------------


async def test_the_handshake_is_sent_as_it_came_but_for_what_is_hop_by_hop(
    staged: Proxy, stage: Stage
) -> None:
    """Target byte for byte, what is the WebSocket's own, and the switch asked for anew."""

    async def play(exchange: Exchange) -> None:
        await exchange.send(SWITCHED.replace("\r\n\r\n", "\r\nSet-Cookie: a=1\r\n\r\n").encode())
        await exchange.left()

    asked = [
        ("Connection", "keep-alive, UPGRADE, X-Hop"),
        ("Upgrade", "WebSocket"),
        KEY,
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Protocol", "realtime, openai-beta.realtime-v1"),
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
        ("Authorization", "Bearer k"),
        ("X-Hop", "1"),
        ("X-Wholestream-Recovery", "off"),
        ("X-Request-ID", "handshake-1"),
        stage.plays("handshake", play),
    ]
    target = "/v1/realtime?model=gpt%2Drealtime&&x=%7E;y=%2F"
    async with connected(staged.port) as wire:
        await wire.ask(target, method="GET", headers=asked)
        got = await wire.head()
        assert got.status == 101
        assert got.header("connection") == "Upgrade"
        assert got.header("upgrade") == "websocket"
        assert got.header("x-wholestream-request-id") == "handshake-1"
        for name in ("set-cookie", "content-length", "transfer-encoding", "content-type"):
            assert got.headers(name) == []
    await stage.over("handshake")
    [exchange] = stage.exchanges["handshake"]
    assert exchange.target == target
    assert exchange.headers("connection") == ["Upgrade"]
    assert exchange.headers("upgrade") == ["websocket"]
    for name, value in asked[2:7]:
        assert exchange.headers(name) == [value]
    assert exchange.headers("x-hop") == exchange.headers("x-wholestream-recovery") == []
    assert exchange.headers("via")


@pytest.mark.parametrize("size", [15, 700_000])
async def test_bytes_right_behind_the_handshake_are_not_lost(
    staged: Proxy, stage: Stage, size: int
) -> None:
    """Neither those in one segment with it, on either side, nor more than is read ahead."""
    early, late = b"e" * size, b"l" * size

    async def play(exchange: Exchange) -> bytes:
        await asyncio.sleep(0.1)  # what the client sends meanwhile has to wait somewhere
        await exchange.send(SWITCHED.encode() + late)
        return await exchange.reader.readexactly(size)

    lines = "".join(f"{key}: {value}\r\n" for key, value in [*HANDSHAKE, stage.plays("tail", play)])
    head = f"GET /v1/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n"
    async with connected(staged.port) as wire:
        sending = asyncio.ensure_future(wire.send(head.encode() + early))
        assert (await wire.head()).status == 101
        assert await wire.reader.read(-1) == late
        await sending
    assert await stage.over("tail") == early


REFUSALS: dict[str, tuple[int, Pairs, bytes]] = {
    "401": (401, [JSON, ("Content-Length", "13"), ("www-authenticate", "B")], b'{"error":"n"}'),
    "429": (429, [("Content-Length", "2"), ("retry-after", "7"), ("x-request-id", "r")], b"no"),
    "503": (503, [("Content-Length", "4")], b"busy"),
    "200": (200, [("Transfer-Encoding", "chunked")], b"2\r\nok\r\n0\r\n\r\n"),
    "302": (302, [("Location", "https://elsewhere.example"), ("Content-Length", "0")], b""),
    "426": (426, [("Upgrade", "websocket"), ("Content-Length", "0")], b""),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_an_answer_other_than_a_switch_passes_as_it_is(
    staged: Proxy, stage: Stage, name: str
) -> None:
    """Status, headers and body; it is asked once, and the client's connection can be used on."""
    status, pairs, sent = REFUSALS[name]
    before = await staged.scrape()

    async def play(exchange: Exchange) -> None:
        await exchange.answer(status, pairs, sent)

    async with connected(staged.port) as wire:
        headers = [*HANDSHAKE, stage.plays(f"refused {name}", play)]
        await wire.ask("/v1/realtime", method="GET", headers=headers)
        got = await wire.rest(await wire.head())
        await wire.ask("/nowhere", method="GET")
        assert (await wire.head()).status == 404
    assert got.status == status
    assert got.body == (b"ok" if name == "200" else sent)
    assert got.end == "clean"
    assert got.header("x-wholestream-request-id")
    for header, value in pairs:
        expected = [value] if header != "Upgrade" else []
        assert got.headers(header) == expected
    assert len(stage.exchanges[f"refused {name}"]) == 1
    after = (await staged.scrape()).since(before)
    assert after.labelled("wholestream_upstream_attempts_total", "reason") == {("first",): 1.0}
    assert after.total("wholestream_incomplete_chunks_total") == 0


@pytest.mark.parametrize(
    "head",
    [
        SWITCHED.replace("Upgrade: websocket", "Upgrade: h2c"),
        "HTTP/1.1 101 Go\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Go\r\nUpgrade: websocket\r\n\r\n",
        "SSH-2.0-x\r\n\r\n",
    ],
)
async def test_a_switch_to_something_else_is_no_answer(
    staged: Proxy, stage: Stage, head: str
) -> None:
    """Whatever comes behind it is not given to the client."""

    async def play(exchange: Exchange) -> None:
        await exchange.send(head.encode() + b"smuggled")
        await exchange.left()

    headers = [*HANDSHAKE, stage.plays("elsewhere", play)]
    got = await call(staged.port, "/v1/realtime", method="GET", headers=headers)
    await stage.over("elsewhere")
    assert (got.status, got.end) == (502, "clean")
    assert b"smuggled" not in got.body


async def test_a_switch_that_nobody_asked_for_is_none(staged: Proxy, stage: Stage) -> None:
    """A request that asks for no WebSocket is never answered by one."""

    async def play(exchange: Exchange) -> None:
        await exchange.send(SWITCHED.encode() + b"smuggled")
        await exchange.left()

    headers = [stage.plays("unsolicited", play), ("X-Wholestream-Recovery", "off")]
    got = await call(staged.port, "/v1/realtime", method="GET", headers=headers)
    assert (got.status, got.end) == (502, "clean")
    assert b"smuggled" not in got.body


NO_HANDSHAKES: dict[str, tuple[str, str, Pairs, bytes | None]] = {
    "HTTP/1.0": ("GET", "HTTP/1.0", HANDSHAKE, None),
    "a POST": ("POST", "HTTP/1.1", HANDSHAKE, b"{}"),
    "a DELETE": ("DELETE", "HTTP/1.1", HANDSHAKE, None),
    "a body": ("GET", "HTTP/1.1", HANDSHAKE, b"{}"),
    "an upload": ("GET", "HTTP/1.1", [*HANDSHAKE, ("Content-Type", "text/plain")], b"x"),
    "no Connection": ("GET", "HTTP/1.1", HANDSHAKE[1:], None),
    "no Upgrade": ("GET", "HTTP/1.1", HANDSHAKE[:1], None),
    "h2c": ("GET", "HTTP/1.1", [HANDSHAKE[0], ("Upgrade", "h2c")], None),
    "a choice": ("GET", "HTTP/1.1", [HANDSHAKE[0], ("Upgrade", "websocket, h2c")], None),
}


@pytest.mark.parametrize("name", NO_HANDSHAKES)
async def test_what_is_no_handshake_is_a_request_like_any_other(
    staged: Proxy, stage: Stage, name: str
) -> None:
    """Its ``Upgrade`` is not sent on, and its answer is read as HTTP."""
    method, version, headers, body = NO_HANDSHAKES[name]
    exchange, got = await through(
        staged.port,
        stage,
        plain(b'{"a":1}'),
        name=name,
        target="/v1/realtime",
        method=method,
        version=version,
        headers=headers,
        body=body,
    )
    assert (got.status, got.body) == (200, b'{"a":1}')
    assert exchange.headers("upgrade") == []
    assert "upgrade" not in ",".join(exchange.headers("connection")).lower()


async def test_a_request_behind_one_that_looks_like_a_handshake_is_not_swallowed(
    staged: Proxy, stage: Stage
) -> None:
    """A GET that names an upgrade without asking for it, and a handshake in one segment with it."""

    async def play(exchange: Exchange) -> None:
        if exchange.headers("upgrade"):
            await exchange.send(SWITCHED.encode() + b"switched")
        else:
            await exchange.answer(*plain(b"first"))

    staging = "{}: {}\r\n".format(*stage.plays("pipelined", play))
    lines = "".join(f"{key}: {value}\r\n" for key, value in HANDSHAKE)
    first = f"GET /v1/a HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n{staging}\r\n"
    second = f"GET /v1/b HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}{staging}\r\n"
    async with connected(staged.port) as wire:
        await wire.send((first + second).encode())
        assert (await wire.rest(await wire.head())).body == b"first"
        assert (await wire.head()).status == 101
        assert await wire.reader.read() == b"switched"


# --- who may come in, whom nobody reaches ---------------------------------------------------


@pytest.mark.parametrize(
    ("target", "more", "status"),
    [
        ("/v1/realtime", ("Origin", "https://evil.example"), 403),
        ("/v1/realtime", ("Sec-Fetch-Site", "cross-site"), 403),
        ("/realtime", ("X", "1"), 404),
        ("//v1/realtime", ("X", "1"), 400),
    ],
)
async def test_a_handshake_is_let_in_by_the_same_rules_as_any_request(
    staged: Proxy, target: str, more: tuple[str, str], status: int
) -> None:
    """A page in a browser can open a WebSocket to anywhere: only its ``Origin`` tells."""
    got = await call(staged.port, target, method="GET", headers=[*HANDSHAKE, more])
    assert got.status == status
    assert got.error["type"] == "invalid_request_error"


async def test_a_path_of_the_upstream_s_own_is_asked_for_as_it_stands(
    started: Starter, stage: Stage
) -> None:
    """Azure's handshake is outside of ``/v1``, and needs a query that not every client sends."""
    query = "api-version=2025-04-01"
    proxy = await started(stage.base_url, "--quirks-paths", "/openai", "--quirks-query", query)

    async def play(exchange: Exchange) -> None:
        await exchange.send(SWITCHED.encode())

    async with connected(proxy.port) as wire:
        staged = stage.plays("azure", play)
        target = "/openai/realtime?deployment=d"
        await wire.ask(target, method="GET", headers=[*HANDSHAKE, staged])
        assert (await wire.head()).status == 101
    await stage.over("azure")
    [exchange] = stage.exchanges["azure"]
    assert exchange.target.removeprefix("/v1") == f"{target}&{query}"


async def test_an_upstream_that_cannot_be_reached_is_a_502(alone: Starter) -> None:
    """Asked once, counted as one fault, told like any other."""
    async with Stage() as gone:
        url = gone.base_url
    proxy = await alone(url)
    got = await call(proxy.port, "/v1/realtime", method="GET", headers=HANDSHAKE)
    assert (got.status, got.error["code"]) == (502, "upstream_unreachable")
    assert got.header("x-wholestream-request-id")
    after = await proxy.scrape()
    assert after.incidents == {("connect_error", "before_headers", "surfaced"): 1.0}
    assert after.labelled("wholestream_upstream_attempts_total", "reason") == {("first",): 1.0}
    assert after.labelled("wholestream_requests_total", "code") == {("5xx",): 1.0}
    assert after.total("wholestream_tunnels_in_flight") == 0
