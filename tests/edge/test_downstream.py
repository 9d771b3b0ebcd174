"""The client's side: what is on the wire for each way to begin and to end a response."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from multidict import CIMultiDict

from edge.loopback import HOST, Pairs, made, our_server, raw_server, read_request, talk
from proxy.answer import Answer
from proxy.core.errors import Reply, error_reply
from proxy.core.fault import Fault
from proxy.downstream import Downstream
from proxy.replies import error_response
from proxy.upstream import Upstream

OWN = {"Server": "wholestream", "x-wholestream-request-id": "ws_1"}
ATTEMPTS = "x-wholestream-attempts"
ASK = b"GET /v1/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
ASK_OLD = b"GET /v1/x HTTP/1.0\r\nHost: localhost\r\n\r\n"

Scene = Callable[[Downstream], Awaitable[web.StreamResponse]]


async def seen(scene: Scene, ask: bytes = ASK) -> tuple[int, CIMultiDict[str], bytes]:
    """Play a scene to a client; return status, headers and the body as it was on the wire."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return await scene(Downstream(request, OWN))

    async with our_server(handle) as port:
        answer = await talk(port, ask)
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    headers = CIMultiDict((name, value) for name, value in pairs if name != "Date")
    return int(first.split()[1]), headers, body


@contextlib.asynccontextmanager
async def answering(
    status: int, headers: Pairs, body: bytes = b"", *, silent: bool = False
) -> AsyncIterator[Answer]:
    """Have a real upstream answer; then it closes the connection, or says nothing more."""
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers)]

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        if silent:
            await reader.read()

    async with raw_server(play) as port:
        upstream = Upstream(made(upstream=f"http://{HOST}:{port}"))
        answer = await upstream.open("GET", "/x", CIMultiDict(), None)
        try:
            yield answer
        finally:
            answer.close()
            await upstream.close()


# --- streams ----------------------------------------------------------------------------


async def test_a_stream_has_the_headers_of_the_contract() -> None:
    """And those of the proxy, whether or not an upstream has answered yet."""

    async def scene(down: Downstream) -> web.StreamResponse:
        await down.open_stream(None, 1)
        return await down.end()

    status, headers, body = await seen(scene)
    assert status == 200
    assert dict(headers) == {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
        "Connection": "keep-alive",
        "Transfer-Encoding": "chunked",
        **OWN,
    }
    assert body == b"0\r\n\r\n"


async def test_a_stream_has_the_headers_of_its_answer_too() -> None:
    """Those that tell about the call, several values as several; the status is 200."""
    told = [("x-request-id", "req_1"), ("openai-x", "1"), ("openai-x", "2"), ("Server", "nginx")]
    framing = [("Content-Type", "text/plain"), ("Content-Length", "0"), ("Set-Cookie", "a=b")]

    async with answering(203, [*told, *framing]) as answer:

        async def scene(down: Downstream) -> web.StreamResponse:
            await down.open_stream(answer, 2)
            return await down.end()

        status, headers, _ = await seen(scene)
    assert (status, headers[ATTEMPTS], headers["x-request-id"]) == (200, "2", "req_1")
    assert headers.getall("openai-x") == ["1", "2"]
    assert headers.getall("Server") == ["wholestream"]
    assert headers.getall("Content-Type") == ["text/event-stream; charset=utf-8"]
    assert not {"Set-Cookie", "Content-Length"} & set(headers)


async def test_each_write_is_one_chunk_and_nothing_is_none() -> None:
    """An empty chunk would be the end of the body; the last bytes come with the end."""

    async def scene(down: Downstream) -> web.StreamResponse:
        await down.open_stream(None, 1)
        for data in (b"data: 1\n\n", b"", b"data: 2\n\ndata: 3\n\n"):
            await down.write(data)
        return await down.end(b"data: [DONE]\n\n")

    _, _, body = await seen(scene)
    wanted = (b"data: 1\n\n", b"data: 2\n\ndata: 3\n\n", b"data: [DONE]\n\n", b"")
    assert body == b"".join(b"%x\r\n%b\r\n" % (len(data), data) for data in wanted)


async def test_a_stream_for_an_old_client_ends_with_its_connection() -> None:
    """HTTP/1.0 has no chunks, so nothing else can end it, and nothing else is promised."""

    async def scene(down: Downstream) -> web.StreamResponse:
        await down.open_stream(None, 1)
        await down.write(b"data: 1\n\n")
        return await down.end(b"data: [DONE]\n\n")

    _, headers, body = await seen(scene, ASK_OLD)
    assert body == b"data: 1\n\ndata: [DONE]\n\n"
    assert "Transfer-Encoding" not in headers
    assert headers.get("Connection") != "keep-alive"


async def test_the_status_is_known_once_it_was_sent() -> None:
    """Before that it is 0, and nothing can be written."""

    async def scene(down: Downstream) -> web.StreamResponse:
        await down.write(b"too early")
        assert (down.status, down.response) == (0, None)
        before = down.last_write
        await down.open_stream(None, 1)
        assert down.status == 200
        assert down.last_write >= before
        return await down.end()

    assert (await seen(scene))[2] == b"0\r\n\r\n"


async def test_a_response_that_was_never_begun_ends_empty() -> None:
    """There is always a response to give to the server."""

    async def scene(down: Downstream) -> web.StreamResponse:
        return await down.end()

    assert (await seen(scene))[2] == b""


# --- what is no stream ------------------------------------------------------------------


async def test_an_answer_passes_with_its_status_headers_and_body() -> None:
    """Type, length and limits as the upstream sent them; what was read before comes first."""
    told = [
        ("Content-Type", "application/json"),
        ("Content-Length", "4"),
        ("retry-after", "7"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-should-retry", "true"),
    ]
    async with answering(429, told, b'{"a"') as answer:

        async def scene(down: Downstream) -> web.StreamResponse:
            first = await answer.read()
            assert await down.pass_on(answer, first, 1, None) is None
            assert down.passing
            return await down.end()

        status, headers, body = await seen(scene)
    assert (status, body) == (429, b'{"a"')
    assert [(name, headers[name]) for name, _ in told] == told
    assert ATTEMPTS not in headers


@pytest.mark.parametrize(
    ("status", "told", "shown"),
    [
        (503, [], "false"),
        (429, [], "false"),
        (429, [("x-should-retry", "true")], "true"),
        (400, [], None),
        (200, [], None),
    ],
)
async def test_an_error_after_several_attempts_asks_for_no_more_of_them(
    status: int, told: Pairs, shown: str | None
) -> None:
    """An SDK would multiply them; but the upstream's own wish stands."""
    async with answering(status, [*told, ("Content-Length", "0")]) as answer:

        async def scene(down: Downstream) -> web.StreamResponse:
            await down.pass_on(answer, b"", 3, None)
            return await down.end()

        got, headers, _ = await seen(scene)
    assert (got, headers[ATTEMPTS], headers.get("x-should-retry")) == (status, "3", shown)


def breaking(answer: Answer, fault: Fault, patience_s: float | None = None) -> Scene:
    """Pass on an answer that breaks off by a fault."""

    async def scene(down: Downstream) -> web.StreamResponse:
        assert await down.pass_on(answer, b"", 1, patience_s) is fault
        return down.break_off()

    return scene


CHUNKED = [("Transfer-Encoding", "chunked")]
HALF = b"4\r\nhalf\r\n"


async def test_an_answer_that_breaks_off_is_seen_to_be_incomplete() -> None:
    """All that came is given on, and the last chunk never comes."""
    async with answering(200, CHUNKED, HALF) as answer:
        assert (await seen(breaking(answer, Fault.CUT_BETWEEN_EVENTS)))[2] == HALF


async def test_an_answer_that_falls_silent_is_broken_off_when_patience_ends() -> None:
    """Where a stream was asked for, silence has a limit whatever came instead of one."""
    async with answering(200, CHUNKED, HALF, silent=True) as answer:
        assert (await seen(breaking(answer, Fault.STALL, 0.01)))[2] == HALF


async def test_an_answer_that_breaks_off_is_reset_for_an_old_client() -> None:
    """HTTP/1.0 has no chunks: a mere end of the connection would look like the end of the body."""
    async with answering(200, CHUNKED, HALF) as answer:
        with pytest.raises(ConnectionResetError):
            await seen(breaking(answer, Fault.CUT_BETWEEN_EVENTS), ASK_OLD)


async def test_a_response_that_was_never_begun_is_broken_off_without_an_answer() -> None:
    """The client sees the connection end."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return Downstream(request, OWN).break_off()

    async with our_server(handle) as port:
        assert await talk(port, ASK) == b""


# --- errors of the proxy's own ----------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_refusal_is_a_whole_response(attempts: int) -> None:
    """With the proxy's headers, the number of attempts where there were several, and a length."""
    reply = error_reply(502, "stream_incomplete", "It broke.")

    async def scene(down: Downstream) -> web.StreamResponse:
        return down.refuse(reply, attempts)

    status, headers, body = await seen(scene)
    assert (status, body) == (502, reply.body)
    assert headers["x-wholestream-request-id"] == "ws_1"
    assert headers["Content-Length"] == str(len(body))
    assert headers.get(ATTEMPTS) == (None if attempts == 1 else "3")


@pytest.mark.parametrize(
    ("reply", "steering"),
    [
        (Reply(502, b"{}"), ("false", None)),
        (Reply(503, b"{}", should_retry=True, retry_after_s=1), ("true", "1")),
        (Reply(429, b"{}", retry_after_s=0), ("false", "0")),
    ],
)
def test_an_error_response_steers_the_sdks(reply: Reply, steering: tuple[str, str | None]) -> None:
    """It says whether to try again, and when if that is known."""
    response = error_response(reply, {"X-Own": "1", "Server": "other"})
    headers = response.headers
    assert (response.status, response.body) == (reply.status, b"{}")
    assert (headers["x-should-retry"], headers.get("Retry-After")) == steering
    assert headers.getall("Server") == ["wholestream"]
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Own"] == "1"


# --- events gathered into one object ----------------------------------------------------


def summed(body: bytes) -> Reply:
    """Make one object of what was gathered, or an error."""
    if b"error" in body:
        return Reply(503, b'{"error":{}}', retry_after_s=1)
    return Reply(200, b'{"events":%d}' % body.count(b"\n\n"))


@pytest.mark.parametrize("attempts", [1, 3])
async def test_what_is_gathered_is_one_object_with_a_length(attempts: int) -> None:
    """The upstream's headers without those of a stream; nothing is sent before its end."""
    told = [("Content-Type", "text/event-stream"), ("x-request-id", "req_1"), ("X-Accel-X", "y")]
    async with answering(200, [*told, ("Content-Length", "0")]) as answer:

        async def scene(down: Downstream) -> web.StreamResponse:
            down.collect(summed)
            assert down.collecting
            await down.open_stream(answer, attempts)
            await down.write(b"data: 1\n\n")
            await down.beat()
            assert (down.status, down.response) == (0, None)
            return await down.end(b"data: 2\n\n")

        status, headers, body = await seen(scene)
    assert (status, body) == (200, b'{"events":3}')
    assert headers["Content-Type"] == "application/json"
    assert headers["Content-Length"] == "12"
    assert headers["x-request-id"] == "req_1"
    assert headers["X-Accel-X"] == "y"
    assert headers["x-wholestream-request-id"] == "ws_1"
    assert headers.get(ATTEMPTS) == (None if attempts == 1 else "3")
    assert not {"Cache-Control", "X-Accel-Buffering", "Transfer-Encoding"} & set(headers)


async def test_what_adds_up_to_an_error_has_its_status() -> None:
    """In the proxy's own words, with the number of attempts and without the answer's headers."""
    async with answering(200, [("x-request-id", "req_1"), ("Content-Length", "0")]) as answer:

        async def scene(down: Downstream) -> web.StreamResponse:
            down.collect(summed)
            await down.open_stream(answer, 2)
            response = await down.end(b"error")
            assert down.status == 503
            return response

        status, headers, body = await seen(scene)
    assert (status, body) == (503, b'{"error":{}}')
    assert (headers["x-should-retry"], headers["Retry-After"]) == ("false", "1")
    assert headers[ATTEMPTS] == "2"
    assert headers["x-wholestream-request-id"] == "ws_1"
    assert "x-request-id" not in headers


async def test_what_is_passed_on_is_not_what_was_gathered_before() -> None:
    """An attempt's events are forgotten where the next one's answer passes as it is."""
    async with answering(400, [("Content-Length", "4")], b"oops") as answer:

        async def scene(down: Downstream) -> web.StreamResponse:
            down.collect(summed)
            await down.write(b"data: 1\n\n")
            assert await down.pass_on(answer, b"", 2, None) is None
            assert not down.collecting
            assert not down.overfull
            return await down.end()

        status, headers, body = await seen(scene)
    assert (status, body) == (400, b"oops")
    assert headers["Content-Length"] == "4"
    assert headers[ATTEMPTS] == "2"


async def test_it_is_known_when_too_much_was_gathered() -> None:
    """A stream that is written on is never too much."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        down = Downstream(request, OWN, cap=10)
        await down.write(b"x" * 11)
        assert not down.overfull
        down.collect(summed)
        await down.write(b"x" * 10)
        assert not down.overfull
        await down.write(b"x")
        assert down.overfull
        return await down.end()

    async with our_server(handle) as port:
        assert b"200 OK" in await talk(port, ASK)
