"""The server's edges: requests that are no HTTP, handlers that fail, clients that leave."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from aiohttp import web

from edge.loopback import HOST, Got, ask, our_server, read_answer, reset, talk

CANARY = "canary4711"
FIXED = {
    "error": {
        "message": "The request is not valid HTTP.",
        "type": "invalid_request_error",
        "param": None,
        "code": "bad_request",
    }
}

GET = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\n"
SECRET = f"Authorization: Bearer {CANARY}".encode()

MALFORMED = {
    "a control character in a header": GET + SECRET + b"\x01\r\n\r\n",
    "a null in a header": GET + SECRET + b"\x00\r\n\r\n",
    "a control character in a name": GET + b"X-" + CANARY.encode() + b"\x01: 1\r\n\r\n",
    "a lone carriage return": GET + SECRET + b"\rX: 1\r\n\r\n",
    "a header without a colon": GET + CANARY.encode() + b"\r\n\r\n",
    "a space before the colon": GET + b"Authorization : Bearer " + CANARY.encode() + b"\r\n\r\n",
    "a request line of two words": b"GET " + CANARY.encode() + b"\r\n\r\n",
    "a request line of five words": b"GET / a b " + CANARY.encode() + b"\r\n\r\n",
    "a version that is none": b"GET /" + CANARY.encode() + b" HTTQ/1.1\r\n\r\n",
    "a method that is none": b"G\x01T /" + CANARY.encode() + b" HTTP/1.1\r\n\r\n",
    "the greeting of TLS": b"\x16\x03\x01\x02\x00\x01\x00" + CANARY.encode() + b"\r\n\r\n",
    "two lengths": POST + SECRET + b"\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
    "a length that is none": POST + SECRET + b"\r\nContent-Length: -1\r\n\r\n",
    "a length and a coding": POST
    + SECRET
    + b"\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an over-long header": GET + SECRET + b"x" * 70_000 + b"\r\n\r\n",
    "an over-long target": b"GET /" + CANARY.encode() + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
}


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    """Answer with the target."""
    return web.Response(text=request.raw_path)


def said(caplog: pytest.LogCaptureFixture) -> str:
    """Return all that was logged, with tracebacks."""
    form = logging.Formatter()
    return "\n".join(form.format(record) for record in caplog.records)


def internal(got: Got) -> None:
    """Check the answer that tells of a bug of our own."""
    assert got.status == 500
    assert got.headers["content-type"] == "application/json"
    error = json.loads(got.body)["error"]
    assert error == {
        "message": "The proxy failed by a bug of its own.",
        "type": "upstream_error",
        "param": None,
        "code": "internal_error",
    }


# --- requests that are no HTTP ----------------------------------------------------------


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_no_http_is_answered_by_a_fixed_text(
    request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing the client sent comes back or is logged: there may be a key in it."""
    caplog.set_level(logging.DEBUG)
    async with our_server(echo) as port:
        answer = await talk(port, request_bytes)
        assert (await ask(port, GET + b"\r\n")).status == 200  # it goes on serving others
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *headers = head.split(b"\r\n")
    assert first.split(b" ", 1)[1] == b"400 Bad Request"
    assert b"Content-Type: application/json" in headers
    assert b"Server: wholestream" in headers
    assert b"x-should-retry: false" in headers
    assert json.loads(body) == FIXED
    assert CANARY not in said(caplog)


async def test_a_malformed_request_behind_a_good_one_ends_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No byte after it is read as a request: that would be a smuggled one."""
    caplog.set_level(logging.DEBUG)
    async with our_server(echo) as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(GET + b"\r\n")
        assert (await read_answer(reader)).status == 200
        writer.write(MALFORMED["two lengths"] + GET + b"\r\n")
        rest = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert rest.count(b"HTTP/1.") == 1
    assert rest.split()[1] == b"400"
    assert CANARY not in rest.decode() + said(caplog)


# --- handlers that fail -----------------------------------------------------------------


async def test_a_handler_that_raises_is_a_500_and_one_log_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The answer tells nothing of the inside; the log has the traceback."""

    async def handle(_request: web.BaseRequest) -> web.StreamResponse:
        raise LookupError(CANARY)

    async with our_server(handle) as port:
        got = await ask(port, GET + b"\r\n")
    internal(got)
    assert got.headers["connection"] == "close"
    assert CANARY.encode() not in got.body
    assert b"Traceback" not in got.body
    (record,) = caplog.records
    assert (record.name, record.levelname, record.getMessage()) == ("wholestream", "ERROR", "bug")
    assert "LookupError" in said(caplog)


async def test_a_handler_that_raises_after_its_headers_never_looks_finished(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The connection ends inside the body; no second answer follows the first."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"begun")
        raise LookupError(CANARY)

    async with our_server(handle) as port:
        answer = await talk(port, GET + b"\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"\r\n5\r\nbegun\r\n")
    assert [record.getMessage() for record in caplog.records] == ["bug"]


# --- clients that leave, and clients that stay ------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_cancels_the_handler(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, wherever it is, so that the upstream can be left too."""
    caplog.set_level(logging.DEBUG, logger="wholestream")
    reached, cancelled = asyncio.Event(), asyncio.Event()

    async def handle(_request: web.BaseRequest) -> web.StreamResponse:
        reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return web.Response()

    async with our_server(handle) as port:
        _, writer = await asyncio.open_connection(HOST, port)
        writer.write(GET + b"\r\n")
        await reached.wait()
        if how == "reset":
            reset(writer)
        else:
            writer.close()
            await writer.wait_closed()
        await cancelled.wait()
    assert [record for record in caplog.records if record.name == "wholestream"] == []


async def test_a_connection_serves_one_request_after_another() -> None:
    """Applications keep connections in a pool."""
    async with our_server(echo) as port:
        last = GET.replace(b"/v1/models", b"/2") + b"Connection: close\r\n\r\n"
        answer = await talk(port, GET.replace(b"/v1/models", b"/1") + b"\r\n" + last)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert answer.index(b"\r\n\r\n/1") < answer.index(b"\r\n\r\n/2")


async def test_no_request_is_logged_by_the_server(caplog: pytest.LogCaptureFixture) -> None:
    """An access log would hold paths and queries."""
    caplog.set_level(logging.DEBUG)
    async with our_server(echo) as port:
        target = f"GET /v1/{CANARY}?key={CANARY} HTTP/1.1\r\nReferer: {CANARY}\r\n".encode()
        assert (await ask(port, target + b"Host: localhost\r\n\r\n")).status == 200
    assert [record for record in caplog.records if record.name != "asyncio"] == []
    assert CANARY not in said(caplog)


async def test_a_compressed_body_reaches_the_handler_as_it_was_sent() -> None:
    """It is the upstream's to read, byte for byte."""
    seen = b""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal seen
        seen = await request.read()
        return web.Response()

    async with our_server(handle) as port:
        head = POST + b"Content-Encoding: gzip\r\nContent-Length: 6\r\n\r\n"
        assert (await ask(port, head + b"\x1f\x8bzzzz")).status == 200
    assert seen == b"\x1f\x8bzzzz"
