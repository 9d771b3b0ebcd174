"""What is no stream passes as it is, both ways, without being held back or gathered."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json

import pytest

from e2e.child import Proxy
from e2e.stage import CHUNKED, JSON, MULTIPART, Exchange, Stage, plain, through
from e2e.wire import PATHS, call, connected

CHAT = PATHS["chat_completions"]
BIG = 20 * 2**20
GROWTH_KIB = 10 * 1024
SOON_S = 1.0


# --- in lockstep ----------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [True, False])
async def test_an_upload_is_streamed_as_it_comes(
    staged: Proxy, stage: Stage, *, chunked: bool
) -> None:
    """In lockstep: the client sends a part only when the upstream has the one before."""
    parts = [b"--b\r\n", b"x" * 1000, b"\x00\xff" * 500, b"\r\n--b--"]
    arrived = asyncio.Queue[bytes]()

    async def play(exchange: Exchange) -> bytes:
        data = b""
        while len(data) < sum(map(len, parts)):
            part = await exchange.part()
            data += part
            arrived.put_nowait(part)
        await exchange.answer(*plain(b'{"id":"file-1"}'))
        return data

    length = ("Content-Length", str(sum(map(len, parts))))
    headers = [stage.plays(f"upload {chunked}", play), MULTIPART, *CHUNKED]
    if not chunked:
        headers[-1] = length
    async with connected(staged.port) as wire:
        await wire.ask("/v1/files", headers=headers)
        for part in parts:
            await wire.send(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
            seen = b""
            while len(seen) < len(part):
                async with asyncio.timeout(10):
                    seen += await arrived.get()
            assert seen == part
        await wire.send(b"0\r\n\r\n" if chunked else b"")
        got = await wire.rest(await wire.head())
    assert got.json == {"id": "file-1"}
    assert await stage.over(f"upload {chunked}") == b"".join(parts)


async def test_a_slow_binary_answer_is_streamed_as_it_comes(staged: Proxy, stage: Stage) -> None:
    """In lockstep: the upstream sends a part only when the client has the one before."""
    parts = [b"ID3\x00", b"data: no event\n\n", b"\xff\xfb" * 700, b"end"]
    got = asyncio.Semaphore(0)

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(200, [("Content-Type", "audio/mpeg"), *CHUNKED])
        for part in parts:
            await exchange.chunk(part)
            await got.acquire()
        await exchange.chunk(b"")

    staging = stage.plays("audio", play)
    async with connected(staged.port) as wire:
        await wire.ask("/v1/audio/speech", b"{}", headers=[staging])
        reply = await wire.head()
        for part in parts:
            seen = b""
            while len(seen) < len(part):
                seen += await wire.chunk()
            assert seen == part
            got.release()
        assert await wire.chunk() == b""
    assert reply.header("content-type") == "audio/mpeg"


async def test_an_upload_is_given_up_when_its_client_leaves(staged: Proxy, stage: Stage) -> None:
    """The upstream sees an incomplete body, never a shorter whole one."""
    begun = asyncio.Event()

    async def play(exchange: Exchange) -> bytes:
        data = await exchange.part()
        begun.set()
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while part := await exchange.part():
                data += part
            pytest.fail("the upload looks whole")
        return data

    staging = stage.plays("half upload", play)
    async with connected(staged.port) as wire:
        await wire.ask("/v1/files", headers=[staging, MULTIPART, *CHUNKED])
        await wire.send(b"5\r\n--b\r\n\r\n")
        await begun.wait()
        await wire.leave()
        async with asyncio.timeout(SOON_S):
            assert await stage.over("half upload") == b"--b\r\n"


async def test_a_big_upload_costs_no_memory(staged: Proxy, stage: Stage) -> None:
    """20 MB go through while the proxy's memory stays flat, and arrive whole."""
    piece = bytes(range(256)) * 1024

    async def play(exchange: Exchange) -> tuple[int, int]:
        length = int(exchange.headers("content-length")[0])
        most = received = 0
        while received < length:
            data = await exchange.part()
            received += len(data)
            # As slow as a client is fast: what is gathered anywhere would be gathered here.
            await asyncio.sleep(0)
            most = max(most, staged.rss_kib())
        await exchange.answer(*plain())
        return received, most

    before = staged.rss_kib()
    headers = [stage.plays("big upload", play), MULTIPART, ("Content-Length", str(BIG))]
    async with connected(staged.port) as wire:
        await wire.ask("/v1/files", headers=headers)
        for _ in range(BIG // len(piece)):
            await wire.send(piece)
        got = await wire.rest(await wire.head())
    received, most = await stage.over("big upload")
    assert (got.status, received) == (200, BIG)
    assert most - before < GROWTH_KIB


async def test_a_big_download_costs_no_memory(staged: Proxy, stage: Stage) -> None:
    """A client that does not read 20 MB of JSON holds the upstream up, not the memory."""
    sent = 0

    async def play(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.body()
        await exchange.answer(200, [JSON, ("Content-Length", str(BIG))])
        exchange.writer.transport.set_write_buffer_limits(high=0)
        with contextlib.suppress(ConnectionError):
            for _ in range(BIG // 2**16):
                await exchange.send(b" " * 2**16)
                sent += 1

    before = staged.rss_kib()
    async with connected(staged.port) as wire:
        wire.read_no_more()
        await wire.ask("/v1/files/f/content", method="GET", headers=[stage.plays("big", play)])
        await asyncio.sleep(1)
        most = staged.rss_kib()
        wire.read_on()
        got = await wire.rest(await wire.head())
    assert (got.end, len(got.body)) == ("clean", BIG)
    assert most - before < GROWTH_KIB


# --- byte for byte --------------------------------------------------------------------------

TARGETS = [
    "/v1/models?limit=2&after=a%2Fb&x=%zz",
    "/v1/files?purpose=a+b%20c&q=%C3%BC",
    "/v1/files//double?&&=",
    "/v1/a/../b/./c",
    "/v1/%2e%2e/x;y=1",
    "/v1/threads/thread_1/messages?order=desc&include[]=a&include%5B%5D=b",
    "/v1/x?y?z=//http://e.example/",
    "/v1",
]


@pytest.mark.parametrize("target", TARGETS)
async def test_path_and_query_are_sent_on_byte_for_byte(
    staged: Proxy, stage: Stage, target: str
) -> None:
    """Nothing is decoded, normalised or put in order."""
    exchange, got = await through(staged.port, stage, plain(), name=target, target=target)
    assert exchange.target == target
    assert got.status == 200


async def test_headers_are_kept_and_multiplied_as_they_are(staged: Proxy, stage: Stage) -> None:
    """Several headers of one name stay several, in both directions, with their values."""
    asked = [("X-Many", "1"), ("X-Many", "2, 3"), ("Accept", "a/b"), ("User-Agent", "me/1")]
    told = [("X-More", "b"), ("X-More", "a"), ("x-odd", 'one  two; "three"')]
    exchange, got = await through(
        staged.port, stage, plain(b"{}", *told), name="headers", headers=asked
    )
    assert exchange.headers("x-many") == ["1", "2, 3"]
    assert exchange.headers("accept") == ["a/b"]
    assert exchange.headers("user-agent") == ["me/1"]
    assert got.headers("x-more") == ["b", "a"]
    assert got.header("x-odd") == 'one  two; "three"'


async def test_a_body_is_sent_on_byte_for_byte(staged: Proxy, stage: Stage) -> None:
    """JSON is not written anew, whatever it looks like."""
    body = b'{ "stream" :false,"b":1.0e0, "a":"\\ud83d\xc3\xbc" , "a":NaN}\n'

    async def play(exchange: Exchange) -> bytes:
        data = await exchange.body()
        await exchange.answer(*plain(b'{"z":1, "a":2.50}'))
        return data

    got = await call(staged.port, CHAT, body, headers=[stage.plays("body", play)])
    assert await stage.over("body") == body
    assert got.body == b'{"z":1, "a":2.50}'


async def test_hop_by_hop_headers_cross_in_neither_direction(staged: Proxy, stage: Stage) -> None:
    """The standard ones and those that ``Connection`` names; nothing is invented upstream."""
    asked = [
        ("Connection", "keep-alive, X-Hop"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=9"),
        ("Proxy-Authorization", "Basic abc"),
        ("TE", "trailers"),
        ("Trailer", "x"),
        ("Upgrade", "h2c"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("Forwarded", "for=10.0.0.1"),
        ("X-Stays", "yes"),
    ]
    told = [
        ("Connection", "X-Back"),
        ("X-Back", "1"),
        ("Keep-Alive", "timeout=9"),
        ("Proxy-Authenticate", "Basic"),
        ("Trailer", "x"),
        ("Upgrade", "h2c"),
        ("X-Stays", "too"),
    ]
    exchange, got = await through(
        staged.port, stage, plain(b"{}", *told), name="hop", headers=asked
    )
    assert [name for name, _ in asked[1:-1] if exchange.headers(name)] == []
    assert "x-hop" not in ",".join(exchange.headers("connection")).lower()
    assert exchange.headers("x-stays") == ["yes"]
    assert [name for name, _ in told[1:-1] if got.headers(name)] == []
    assert got.header("x-stays") == "too"
    assert not [name for name, _ in exchange.pairs if name.lower().startswith("x-forwarded")]


async def test_connection_cannot_take_the_key_away(staged: Proxy, stage: Stage) -> None:
    """``Connection: authorization`` is an attack or a mistake; the key arrives all the same."""
    headers = [("Connection", "close, authorization"), ("Authorization", "Bearer k")]
    exchange, got = await through(staged.port, stage, plain(), name="connection", headers=headers)
    assert exchange.headers("authorization") == ["Bearer k"]
    assert got.status == 200


async def test_headers_that_would_bind_the_client_to_the_upstream_are_dropped(
    staged: Proxy, stage: Stage
) -> None:
    """Cookies of the provider's edge, other addresses and transport security stay behind."""
    told = [
        ("Set-Cookie", "__cf_bm=1"),
        ("Set-Cookie", "b=2"),
        ("Alt-Svc", 'h3=":443"'),
        ("Strict-Transport-Security", "max-age=1"),
        ("openai-organization", "org"),
    ]
    _, got = await through(staged.port, stage, plain(b"{}", *told), name="bind")
    for name in ("set-cookie", "alt-svc", "strict-transport-security"):
        assert got.headers(name) == []
    assert got.header("openai-organization") == "org"


async def test_compressed_json_passes_untouched(staged: Proxy, stage: Stage) -> None:
    """A client that asked for gzip gets the upstream's own bytes."""
    body = gzip.compress(b'{"a":1}' * 50)
    answer = plain(body, ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding"))
    exchange, got = await through(
        staged.port, stage, answer, name="gzip", headers=[("Accept-Encoding", "gzip, br")]
    )
    assert exchange.headers("accept-encoding") == ["gzip, br"]
    assert got.header("content-encoding") == "gzip"
    assert got.body == body


async def test_a_compressed_upload_passes_untouched(staged: Proxy, stage: Stage) -> None:
    """A JSON body that cannot be read is streamed on like any other upload."""
    body = gzip.compress(json.dumps({"model": "m"}).encode())

    async def play(exchange: Exchange) -> bytes:
        data = await exchange.body()
        await exchange.answer(*plain())
        return data

    headers = [stage.plays("gzip up", play), ("Content-Encoding", "gzip")]
    await call(staged.port, CHAT, body, headers=headers)
    assert await stage.over("gzip up") == body
    [exchange] = stage.exchanges["gzip up"]
    assert exchange.headers("content-encoding") == ["gzip"]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_passes_unfollowed(staged: Proxy, stage: Stage, status: int) -> None:
    """The client is told; nobody else is sent its key."""
    async with Stage() as elsewhere:
        location = f"{elsewhere.base_url}/files"
        answer = (status, [("Location", location), ("Content-Length", "0")], b"")
        headers = [("Authorization", "Bearer k")]
        exchange, got = await through(
            staged.port,
            stage,
            answer,
            name=f"to {status}",
            headers=headers,
            method="POST",
            body=b"{}",
        )
        assert (got.status, got.header("location")) == (status, location)
        assert exchange.headers("authorization") == ["Bearer k"]
        assert elsewhere.exchanges == {}
