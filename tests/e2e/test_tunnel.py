"""WebSockets through the proxy: what the two ends say to each other is theirs, and only theirs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import WSMsgType, WSServerHandshakeError, web

from e2e.child import Proxy, eventually
from e2e.conftest import Starter
from e2e.sockets import Client, Sockets, accepted, echo, refuse, talking

IMPATIENT = (
    *("--connect-timeout-s", "0.5", "--first-event-timeout-s", "0.2", "--stall-timeout-s", "0.2"),
    *("--commit-after-s", "0.1", "--heartbeat-s", "0.1", "--log-level", "debug"),
)
"""Each timeout there is, short."""

IDLE_S = 2.5
TEXT = "Grüße, 世界 \U0001f30d"
SIZES = (0, 1, 125, 126, 65_535, 65_536, 4 * 2**20)
"""On both sides of each border of RFC 6455 (5.2), and what no read takes at once."""

ORIGIN = "https://app.example"


@pytest_asyncio.fixture(name="sockets", scope="module", loop_scope="session")
async def _sockets() -> AsyncIterator[Sockets]:
    """Return the upstream of WebSockets."""
    async with Sockets() as server:
        yield server


@pytest_asyncio.fixture(name="impatient", loop_scope="session")
async def _impatient(started: Starter, sockets: Sockets) -> Proxy:
    """Return a proxy in front of it that gives up everything else soon."""
    return await started(sockets.base_url, *IMPATIENT, "--allowed-origins", ORIGIN)


# --- what the two ends say ------------------------------------------------------------------


async def test_texts_and_bytes_of_every_size_are_echoed(impatient: Proxy, sockets: Sockets) -> None:
    """Each as it was sent, in its order, the next on its way before the last is back."""
    headers = sockets.plays("echo", echo)
    async with talking(impatient, headers) as socket:
        for size in SIZES:
            await socket.send_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
            await socket.send_str(TEXT * (size // len(TEXT.encode())))
        for size in SIZES:
            sent = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
            assert await socket.receive_bytes() == sent
            assert await socket.receive_str() == TEXT * (size // len(TEXT.encode()))
    assert (await sockets.over("echo")).close_code == 1000


async def test_both_ends_may_talk_at_once(impatient: Proxy, sockets: Sockets) -> None:
    """Neither waits for the other: 20 MB each way at the same time."""
    part, times = b"y" * 100_000, 200

    async def play(request: web.Request) -> int:
        socket = await accepted(request)
        talk = asyncio.ensure_future(_say(socket, part, times))
        heard = [len(got.data) async for got in socket]
        await talk
        return sum(heard)

    async with talking(impatient, sockets.plays("both", play)) as socket:
        talk = asyncio.ensure_future(_say(socket, part, times))
        heard = 0
        while heard < len(part) * times:
            heard += len(await socket.receive_bytes())
        await talk
    assert await sockets.over("both") == len(part) * times


async def _say(socket: Client | web.WebSocketResponse, part: bytes, times: int) -> None:
    for _ in range(times):
        await socket.send_bytes(part)


async def test_subprotocol_and_compression_are_agreed_on_by_the_ends(
    impatient: Proxy, sockets: Sockets
) -> None:
    """The proxy takes no part in it: what was compressed crosses as it is."""
    agreed: list[object] = []

    async def play(request: web.Request) -> None:
        socket = await accepted(request, protocols=("realtime", "other"))
        agreed.extend([socket.ws_protocol, socket.compress])
        async for got in socket:
            await socket.send_str(got.data)

    text = "compress me " * 100_000
    headers = {**sockets.plays("agreed", play), "X-Request-ID": "agreed-1"}
    protocols = ("unknown", "realtime")
    async with talking(impatient, headers, protocols=protocols, compress=15) as socket:
        assert (socket.protocol, socket.compress) == ("realtime", 15)
        await socket.send_str(text)
        assert await socket.receive_str() == text
    await sockets.over("agreed")
    assert agreed == ["realtime", 15]

    async def told() -> None:
        [line] = [li for li in impatient.log if li["event"] == "tunnel"][-1:]
        assert line["request_id"] == "agreed-1"
        assert 0 < line["bytes_up"] < len(text) / 10
        assert 0 < line["bytes_down"] < len(text) / 10

    await eventually(told)


async def test_pings_are_answered_by_the_other_end(impatient: Proxy, sockets: Sockets) -> None:
    """In both directions, with what they carry."""

    async def play(request: web.Request) -> tuple[WSMsgType, bytes]:
        socket = await accepted(request, autoping=False)
        ping = await socket.receive()
        assert (ping.type, ping.data) == (WSMsgType.PING, b"from the client")
        await socket.pong(ping.data)
        await socket.ping(b"from the upstream")
        pong = await socket.receive()
        return pong.type, pong.data

    async with talking(impatient, sockets.plays("ping", play), autoping=False) as socket:
        await socket.ping(b"from the client")
        pong = await socket.receive()
        assert (pong.type, pong.data) == (WSMsgType.PONG, b"from the client")
        ping = await socket.receive()
        assert (ping.type, ping.data) == (WSMsgType.PING, b"from the upstream")
        await socket.pong(ping.data)
        assert await sockets.over("ping") == (WSMsgType.PONG, b"from the upstream")


@pytest.mark.parametrize("closes", ["client", "upstream"])
async def test_code_and_reason_of_a_close_reach_the_other_end(
    impatient: Proxy, sockets: Sockets, closes: str
) -> None:
    """Whoever closes first; and its own code comes back to it, as the answer."""
    heard: list[tuple[object, object]] = []

    async def play(request: web.Request) -> int | None:
        socket = await accepted(request, autoclose=False)
        if closes == "upstream":
            await socket.close(code=4002, message=b"enough")
        else:
            got = await socket.receive()
            heard.append((got.data, got.extra))
            await socket.close(code=got.data)
        return socket.close_code

    headers = sockets.plays(f"close {closes}", play)
    async with talking(impatient, headers, autoclose=False) as socket:
        if closes == "client":
            await socket.close(code=4001, message=b"done")
            assert socket.close_code == 4001
        else:
            got = await socket.receive()
            heard.append((got.data, got.extra))
            await socket.close(code=got.data)
    code, reason = (4001, "done") if closes == "client" else (4002, "enough")
    assert heard == [(code, reason)]
    assert await sockets.over(f"close {closes}") == code


async def test_a_silence_longer_than_every_timeout_changes_nothing(
    impatient: Proxy, sockets: Sockets
) -> None:
    """No clock runs in a tunnel: not the stream's, not the client's, not for connecting."""
    async with talking(impatient, sockets.plays("idle", echo)) as socket:
        await asyncio.sleep(IDLE_S)
        await socket.send_str("still here")
        assert await socket.receive_str() == "still here"
        await asyncio.sleep(IDLE_S)
        await socket.send_str("still")
        assert await socket.receive_str() == "still"
    assert (await sockets.over("idle")).close_code == 1000


async def test_an_upstream_may_take_long_to_answer_the_handshake(
    impatient: Proxy, sockets: Sockets
) -> None:
    """There is no limit but that for connecting, as for every request that asks for no stream."""

    async def play(request: web.Request) -> None:
        await asyncio.sleep(1)
        socket = await accepted(request)
        await socket.send_str("at last")
        await socket.close()

    async with talking(impatient, sockets.plays("late", play)) as socket:
        assert await socket.receive_str() == "at last"
    await sockets.over("late")


async def test_a_refusal_reads_as_one_in_a_real_client(impatient: Proxy, sockets: Sockets) -> None:
    """As it would without the proxy."""

    async def play(request: web.Request) -> None:
        told = {"error": {"code": "invalid_api_key"}}
        refuse(request, web.json_response(told, status=401))

    headers = sockets.plays("401", play)
    with pytest.raises(WSServerHandshakeError) as caught:
        async with talking(impatient, headers):
            pass
    assert caught.value.status == 401


async def test_a_handshake_of_an_origin_that_is_listed_is_let_in(
    impatient: Proxy, sockets: Sockets
) -> None:
    """And the upstream is told of it: it may have a list of its own."""
    seen: list[str] = []

    async def play(request: web.Request) -> None:
        seen.append(request.headers["Origin"])
        await echo(request)

    async with talking(impatient, sockets.plays("page", play), origin=ORIGIN) as socket:
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello"
    assert seen == [ORIGIN]


# --- what is counted and told ---------------------------------------------------------------


async def test_a_tunnel_is_counted_but_not_as_a_stream(impatient: Proxy, sockets: Sockets) -> None:
    """As one request that went well, by the time the client knows it; and while it lasts."""
    before = await impatient.scrape()
    headers = sockets.plays("counted", echo)
    async with talking(impatient, headers, "/responses?stream=true") as socket:
        during = await impatient.scrape()
        assert during.total("wholestream_tunnels_in_flight") == 1
        counted = during.since(before)
        name = "wholestream_requests_total"
        assert counted.labelled(name, "endpoint", "code") == {("responses", "2xx"): 1.0}
        assert during.in_flight == 0
        await socket.send_str("x")
        await socket.receive_str()
    await sockets.over("counted")

    async def over() -> None:
        after = await impatient.scrape()
        assert after.total("wholestream_tunnels_in_flight") == 0
        assert after.since(before).streams == {}
        attempts = "wholestream_upstream_attempts_total"
        assert after.since(before).labelled(attempts, "reason") == {("first",): 1.0}

    await eventually(over)


async def test_nothing_that_is_said_or_secret_is_found_where_somebody_looks(
    alone: Starter, sockets: Sockets
) -> None:
    """Browsers carry the key in the subprotocol; neither it nor the rest is told anywhere."""
    proxy = await alone(sockets.base_url, *IMPATIENT)
    headers = {
        **sockets.plays("secret", echo),
        "Authorization": "Bearer sk-kwyjiboAUTH0123456789",
        "Cookie": "kwyjibo=1",
    }
    protocols = ("realtime", "openai-insecure-api-key.kwyjiboKEY")
    target = "/realtime?api_key=kwyjiboQUERY"
    async with talking(proxy, headers, target, protocols=protocols) as socket:
        await socket.send_str("kwyjiboTEXT")
        assert await socket.receive_str() == "kwyjiboTEXT"
    await sockets.over("secret")

    async def told() -> None:
        assert [line for line in proxy.log if line["event"] == "tunnel"]

    await eventually(told)
    pages = [(await proxy.admin(path)).body.decode() for path in ("/metrics", "/api/incidents")]
    assert "kwyjibo" not in json.dumps([proxy.stdout, proxy.stderr, *pages])
