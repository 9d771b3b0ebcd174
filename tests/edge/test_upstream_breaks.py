"""How an upstream breaks, and which fault that is: raw servers on loopback, on both loops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Coroutine
from itertools import product
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from edge.loopback import (
    HOST,
    LOOPS,
    Play,
    certificate,
    made,
    raw_server,
    read_request,
    reset,
    until,
)
from proxy.answer import Answer, UpstreamFault
from proxy.core.fault import Fault
from proxy.upstream import _FAULTS, Upstream, _fault_of

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

on_both_loops = pytest.mark.parametrize("loop", LOOPS)


def run(loop: str, work: Coroutine[Any, Any, None]) -> None:
    """Run a test in a loop of the given kind."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(work)


@contextlib.asynccontextmanager
async def opened(base: str, **values: object) -> AsyncIterator[Upstream]:
    """Open the outgoing side for a base URL."""
    upstream = Upstream(made(upstream=base, **values))
    try:
        yield upstream
    finally:
        await upstream.close()


@contextlib.asynccontextmanager
async def called(upstream: Upstream) -> AsyncIterator[Answer]:
    """Send a small request, close its answer in the end."""
    answer = await upstream.open("POST", "/x", CIMultiDict(), b"{}")
    try:
        yield answer
    finally:
        answer.close()


async def fault_of_call(upstream: Upstream) -> UpstreamFault:
    """Send a small request that is not answered, return the fault."""
    with pytest.raises(UpstreamFault) as caught:
        await upstream.open("POST", "/x", CIMultiDict(), b"{}")
    assert str(caught.value) == caught.value.fault.value
    return caught.value


async def read_all(answer: Answer) -> tuple[bytes, Fault | None]:
    """Read an answer to its end or its break; the break must stay one."""
    body = b""
    fault = None
    try:
        while data := await answer.read():
            body += data
    except UpstreamFault as broken:
        fault = broken.fault
    if fault:
        with pytest.raises(UpstreamFault, match=fault.value):
            await answer.read()
    return body, fault


# --- before an answer -------------------------------------------------------------------


async def _reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


async def _close(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Close without a word."""


def _say(data: bytes) -> Play:
    async def play(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return play


BEFORE = {
    "reset": (_reset, "connection reset before an answer"),
    "closed": (_close, "connection closed before an answer"),
    "half a status line": (_say(b"HTTP/1.1 2"), "connection closed before an answer"),
    "half a head": (_say(b"HTTP/1.1 200 OK\r\nContent-"), "connection closed before an answer"),
    "another protocol": (_say(b"220 smtp.example ESMTP\r\n"), "the answer was not HTTP"),
    "a status that is none": (_say(b"HTTP/1.1 20 OK\r\n\r\n"), "the answer was not HTTP"),
    "two lengths": (
        _say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc"),
        "the answer was not HTTP",
    ),
    "an endless header": (
        _say(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n"),
        "the answer was not HTTP",
    ),
    "a NUL in a header": (_say(b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n"), "the answer was not HTTP"),
}


@on_both_loops
@pytest.mark.parametrize("name", BEFORE)
def test_a_break_before_an_answer_is_a_reset(loop: str, name: str) -> None:
    """With a detail that says which; the connection was new, so nothing was stale."""
    play, detail = BEFORE[name]

    async def work() -> None:
        async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            await play(reader, writer)

        async with raw_server(broken) as port, opened(f"http://{HOST}:{port}") as upstream:
            fault = await fault_of_call(upstream)
        assert (fault.fault, fault.detail, fault.stale) == (Fault.RESET, detail, False)

    run(loop, work())


@on_both_loops
def test_a_refused_connection_is_a_connect_error(loop: str) -> None:
    """Nobody listens."""

    async def work() -> None:
        with socket.create_server((HOST, 0)) as taken:
            port = taken.getsockname()[1]
        async with opened(f"http://{HOST}:{port}") as upstream:
            fault = await fault_of_call(upstream)
        expected = (Fault.CONNECT_ERROR, "connection refused or unreachable", False)
        assert (fault.fault, fault.detail, fault.stale) == expected

    run(loop, work())


@on_both_loops
def test_connecting_has_a_time_limit(loop: str) -> None:
    """A handshake that never comes to an end is given up."""

    async def work() -> None:
        async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            await reader.read()

        async with (
            raw_server(silent) as port,
            opened(f"https://{HOST}:{port}", connect_timeout_s=0.05) as upstream,
        ):
            fault = await fault_of_call(upstream)
        expected = (Fault.CONNECT_ERROR, "connecting took too long", False)
        assert (fault.fault, fault.detail, fault.stale) == expected

    run(loop, work())


def test_each_row_of_the_table_of_faults_counts_for_its_exceptions() -> None:
    """Also those that need a broken resolver or a library's whim to come about."""
    for kind, fault, detail in _FAULTS:
        for reused in (False, True):
            plain = kind() if kind is aiohttp.ServerDisconnectedError else kind.__new__(kind)
            told = _fault_of(plain, reused=reused)
            assert (told.fault, told.detail) == (fault, detail), kind
            assert not (told.stale and fault is Fault.CONNECT_ERROR), kind


def test_an_exception_that_is_in_no_row_is_a_bug() -> None:
    """It is raised as it is."""
    with pytest.raises(KeyError):
        _fault_of(KeyError("x"), reused=True)


def test_no_row_of_the_table_of_faults_hides_another() -> None:
    """The first match counts, so the special ones come first."""
    for number, (kind, _, _) in enumerate(_FAULTS):
        assert not any(issubclass(kind, earlier) for earlier, _, _ in _FAULTS[:number]), kind


# --- TLS --------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def tls_server(where: Path, host: str, seen: list[bytes]) -> AsyncIterator[int]:
    """Serve with a self-signed certificate for a host name."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate(where, host))

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(OK)

    async with raw_server(play, ssl=context) as port:
        yield port


@on_both_loops
@pytest.mark.parametrize(("host", "trusted"), [("localhost", False), ("other.example", True)])
def test_a_certificate_that_is_not_trusted_ends_the_call_before_the_request(
    loop: str,
    host: str,
    trusted: bool,  # noqa: FBT001 - a column of the table
    tmp_path: Path,
) -> None:
    """Signed by nobody known, or made out to somebody else: not a byte of the request is sent."""

    async def work() -> None:
        seen: list[bytes] = []
        async with tls_server(tmp_path, host, seen) as port:
            values = {"ca_bundle": tmp_path / f"{host}.pem"} if trusted else {}
            async with opened(f"https://localhost:{port}", **values) as upstream:
                fault = await fault_of_call(upstream)
        assert (fault.fault, fault.detail) == (Fault.CONNECT_ERROR, "certificate not trusted")
        assert seen == []

    run(loop, work())


@on_both_loops
def test_a_certificate_of_the_bundle_is_trusted(loop: str, tmp_path: Path) -> None:
    """The setting ca_bundle is what is trusted in place of the system's authorities."""

    async def work() -> None:
        seen: list[bytes] = []
        async with tls_server(tmp_path, "localhost", seen) as port:
            bundle = tmp_path / "localhost.pem"
            async with (
                opened(f"https://localhost:{port}", ca_bundle=bundle) as upstream,
                called(upstream) as answer,
            ):
                assert await read_all(answer) == (b"ok", None)
        assert len(seen) == 1

    run(loop, work())


@on_both_loops
def test_an_upstream_that_speaks_no_tls_is_a_connect_error(loop: str) -> None:
    """The usual mistake: https for a server that has only http."""

    async def work() -> None:
        async with (
            raw_server(_say(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port,
            opened(f"https://{HOST}:{port}") as upstream,
        ):
            fault = await fault_of_call(upstream)
        assert (fault.fault, fault.detail) == (Fault.CONNECT_ERROR, "TLS handshake failed")

    run(loop, work())


# --- a connection used again ------------------------------------------------------------

STALE: dict[str, tuple[Play, bool]] = {
    "reset": (_reset, True),
    "closed": (_close, True),
    "half a head": (_say(b"HTTP/1.1 200 OK\r\nContent-"), False),
    "half a status line": (_say(b"HTTP/1.1 2"), False),
    "another protocol": (_say(b"220 smtp.example ESMTP\r\n"), False),
}


@on_both_loops
@pytest.mark.parametrize("name", STALE)
def test_a_pooled_connection_that_dies_before_any_answer_was_stale(loop: str, name: str) -> None:
    """Only then was the request surely not answered; a byte of an answer says that it was."""
    play, stale = STALE[name]

    async def work() -> None:
        async def tired(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(OK)
            await read_request(reader)
            await play(reader, writer)

        async with raw_server(tired) as port, opened(f"http://{HOST}:{port}") as upstream:
            async with called(upstream) as answer:
                assert await read_all(answer) == (b"ok", None)
            fault = await fault_of_call(upstream)
        assert (fault.fault, fault.stale) == (Fault.RESET, stale)

    run(loop, work())


@on_both_loops
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_what_may_be_repeated_is_not_repeated_here(loop: str, method: str) -> None:
    """Who counts attempts must know of each; on a new connection, one of its own, or a used one."""
    seen = []

    async def work() -> None:
        async def fickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(await read_request(reader))
            if seen[-1].startswith(b"POST"):
                writer.write(OK)
                seen.append(await read_request(reader))
            reset(writer)

        async with raw_server(fickle) as port, opened(f"http://{HOST}:{port}") as upstream:
            for fresh in (False, True):
                with pytest.raises(UpstreamFault) as caught:
                    await upstream.open(method, "/x", CIMultiDict(), None, fresh=fresh)
                assert not caught.value.stale
            assert len(seen) == 2
            async with called(upstream) as answer:
                assert await read_all(answer) == (b"ok", None)
            with pytest.raises(UpstreamFault) as caught:
                await upstream.open(method, "/x", CIMultiDict(), None)
            assert caught.value.stale
            assert len(seen) == 4

    run(loop, work())


# --- in the middle of a body ------------------------------------------------------------

HEADS = {
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
    "close": b"HTTP/1.1 200 OK\r\n\r\n",
}
PIECES = (b"data: 1\n\n", b"data: 2\n\ndata: 3", b"x" * 70_000)


def framed(framing: str, piece: bytes) -> bytes:
    """Put a piece of a body on the wire."""
    return b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece


def expected(framing: str, end: str) -> Fault | None:
    """Return what a body that breaks off must be taken for."""
    if end == "reset":
        return Fault.RESET
    # What is delimited by the connection's end is whole at that end: only its content can tell.
    return None if framing == "close" else Fault.CUT_BETWEEN_EVENTS


@on_both_loops
@pytest.mark.parametrize(
    ("framing", "end", "late"), [*product(HEADS, ("fin", "reset"), (False, True))]
)
def test_all_that_came_before_a_break_is_returned_before_it(
    loop: str,
    framing: str,
    end: str,
    late: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """In order and whole, also to a reader who comes when all is over; then the fault is told."""

    async def work() -> None:
        arrived = asyncio.Event()

        async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(HEADS[framing])
            for piece in PIECES:
                writer.write(framed(framing, piece))
                await writer.drain()
            # A reset destroys what the kernel holds unread: the proxy must have it by then.
            await arrived.wait()
            if end == "reset":
                reset(writer)

        async with (
            raw_server(play) as port,
            opened(f"http://{HOST}:{port}") as upstream,
            called(upstream) as answer,
        ):
            content = answer._response.content
            await until(lambda: content.total_bytes == sum(map(len, PIECES)))
            arrived.set()
            await until(lambda: not late or content.is_eof() or content.exception())
            assert await read_all(answer) == (b"".join(PIECES), expected(framing, end))

    run(loop, work())


@on_both_loops
@pytest.mark.parametrize("end", ["fin", "reset"])
@pytest.mark.parametrize(
    "cut", [b"", b"5", b"5\r\n", b"5\r\nab", b"5\r\nabcde", b"zz\r\n", b"0\r\n"]
)
def test_a_chunk_that_breaks_off_is_a_break(loop: str, cut: bytes, end: str) -> None:
    """At each place of its framing; the bytes of the half chunk are returned."""

    async def work() -> None:
        arrived = asyncio.Event()

        async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(HEADS["chunked"] + framed("chunked", b"one"))
            await arrived.wait()
            writer.write(cut)
            await writer.drain()
            if end == "reset":
                reset(writer)

        async with (
            raw_server(play) as port,
            opened(f"http://{HOST}:{port}") as upstream,
            called(upstream) as answer,
        ):
            assert await answer.read() == b"one"
            arrived.set()
            body, fault = await read_all(answer)
        assert b"abcde".startswith(body)
        assert fault in {Fault.RESET, Fault.CUT_BETWEEN_EVENTS}

    run(loop, work())


@on_both_loops
@pytest.mark.parametrize("framing", HEADS)
def test_a_whole_body_is_no_break_whatever_the_connection_does_then(
    loop: str, framing: str
) -> None:
    """A chunked or measured body that is there to its last byte may be followed by a reset."""

    async def work() -> None:
        async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            head = HEADS[framing].replace(b"100000", b"3")
            last = b"0\r\n\r\n" if framing == "chunked" else b""
            writer.write(head + framed(framing, b"one") + last)
            await writer.drain()
            if framing != "close":
                await arrived.wait()
                reset(writer)

        arrived = asyncio.Event()
        async with (
            raw_server(play) as port,
            opened(f"http://{HOST}:{port}") as upstream,
            called(upstream) as answer,
        ):
            content = answer._response.content
            await until(lambda: content.total_bytes == 3)
            arrived.set()
            assert await read_all(answer) == (b"one", None)

    run(loop, work())


@on_both_loops
@pytest.mark.parametrize("body", [b"", b"one"])
def test_the_head_of_a_body_that_breaks_off_is_all_that_came(loop: str, body: bytes) -> None:
    """The fault is told at once where nothing came, else by the next read."""

    async def work() -> None:
        async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(HEADS["length"] + body)

        async with (
            raw_server(play) as port,
            opened(f"http://{HOST}:{port}") as upstream,
            called(upstream) as answer,
        ):
            if body:
                assert await answer.read_head(1000, 3600) == body
            with pytest.raises(UpstreamFault) as caught:
                await answer.read_head(1000, 3600)
        assert caught.value.fault is Fault.CUT_BETWEEN_EVENTS

    run(loop, work())


def test_the_client_library_is_new_enough() -> None:
    """Before aiohttp 3.14.5 a body that was there to its last byte could be told as cut."""
    major, minor, patch = (int(part) for part in aiohttp.__version__.split(".")[:3])
    assert (3, 14, 5) <= (major, minor, patch) < (4,)
