"""Tunnels through the whole proxy in one process: on both loops, over TLS, and what is let go when.

How WebSockets fare in them is tested end to end, in ``tests/e2e``.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest

from edge.loopback import HOST, LOOPS, ask, certificate, made, raw_server, read_request
from proxy import server, tunnel
from proxy.app import App

SWITCHED = b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
HANDSHAKE = (
    b"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
)
PART = bytes(2**16)
PARTS = 300
"""Together more than two kernels take."""

SHORT_S = 0.1

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

on_both_loops = pytest.mark.parametrize("loop", LOOPS)


class Line:
    """A tunnel, from the client's side; the proxy in the middle can be looked into."""

    def __init__(
        self, app: App, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Take a connection on which the switch has been answered."""
        self.app = app
        self.reader = reader
        self.writer = writer

    def count(self) -> float:
        """Return how many tunnels are under way, as the metric says it."""
        return next(iter(self.app.edge.metrics.tunnels.collect())).samples[0].value

    async def gone(self) -> None:
        """Wait until the tunnel is over."""
        while self.count():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def line(upstream_s: Play, where: Path | None = None) -> AsyncIterator[Line]:
    """Open a tunnel to an upstream's play; with a directory for a certificate, over TLS."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(SWITCHED)
        await upstream_s(reader, writer)

    options, settings, scheme = {}, {}, f"http://{HOST}"
    if where is not None:
        chain, key = certificate(where, "localhost")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(chain, key)
        options, settings = {"ssl": context}, {"ca_bundle": chain}
        scheme = "https://localhost"
    async with raw_server(play, **options) as port:
        app = App(made(port=0, admin_port=0, upstream=f"{scheme}:{port}", **settings))
        await app.start()
        reader, writer = await asyncio.open_connection(HOST, app.port)
        try:
            writer.write(HANDSHAKE)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            yield Line(app, reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            await app.close()


def run(loop: str, work: Awaitable[None]) -> None:
    """Run on one of the loops."""

    async def limited() -> None:
        async with asyncio.timeout(30):
            await work

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(limited())


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back."""
    while data := await reader.read(2**16):
        writer.write(data)
        await writer.drain()


# --- for as long as it lasts ------------------------------------------------------------


@on_both_loops
def test_a_tunnel_outlives_the_deadline_of_idle_connections(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server closes connections that are idle, but this one is not: it has a tunnel."""
    monkeypatch.setattr(server, "KEEPALIVE_S", SHORT_S)

    async def work() -> None:
        async with line(echo) as opened:
            await asyncio.sleep(5 * SHORT_S)
            opened.writer.write(b"still here")
            assert await opened.reader.readexactly(10) == b"still here"
            assert opened.count() == 1

    run(loop, work())


async def test_a_tunnel_has_a_connection_of_its_own() -> None:
    """One from the pool may turn out to be dead, and nothing is asked twice here."""
    connections = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while head := await read_request(reader):
            plain = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            writer.write(SWITCHED if b"websocket" in head else plain)

    async with raw_server(play) as port:
        app = App(made(port=0, admin_port=0, upstream=f"http://{HOST}:{port}"))
        await app.start()
        plain = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert [(await ask(app.port, plain)).status for _ in range(2)] == [200, 200]
        assert connections == 1
        reader, writer = await asyncio.open_connection(HOST, app.port)
        writer.write(HANDSHAKE)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert connections == 2
        writer.close()
        await writer.wait_closed()
        await app.close()


@on_both_loops
def test_a_tunnel_over_tls_is_held_up_by_an_upstream_that_does_not_read(
    loop: str, tmp_path: Path
) -> None:
    """And goes on when it does, both ways, with nothing lost; in the end nothing is left."""
    go_on = asyncio.Event()

    async def late_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cast("asyncio.Transport", writer.transport).pause_reading()
        await go_on.wait()
        cast("asyncio.Transport", writer.transport).resume_reading()
        await echo(reader, writer)

    async def work() -> None:
        async with line(late_echo, tmp_path) as opened:

            async def pour() -> None:
                for _ in range(PARTS):
                    opened.writer.write(PART)
                    await opened.writer.drain()

            pouring = asyncio.ensure_future(pour())
            await asyncio.sleep(0.5)
            assert not pouring.done()
            go_on.set()
            assert await opened.reader.readexactly(len(PART) * PARTS) == PART * PARTS
            await pouring
            opened.writer.close()
            await opened.gone()

    run(loop, work())


@on_both_loops
@pytest.mark.parametrize("how", ["close", "cut"])
def test_an_upstream_s_end_over_tls_comes_behind_its_last_words(
    loop: str, tmp_path: Path, how: str
) -> None:
    """Whether TLS is told to end or the connection is gone without it."""

    async def leave(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"last words")
        await writer.drain()
        await asyncio.sleep(0.1)
        if how == "cut":
            writer.transport.abort()

    async def work() -> None:
        async with line(leave, tmp_path) as opened:
            assert await opened.reader.read() == b"last words"
            opened.writer.close()
            await opened.gone()

    run(loop, work())


@on_both_loops
def test_a_client_that_leaves_ends_the_upstream_over_tls(loop: str, tmp_path: Path) -> None:
    """At once, and with what the client had said."""
    heard: list[bytes] = []
    over = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        over.set()

    async def work() -> None:
        async with line(listen, tmp_path) as opened:
            opened.writer.write(b"last words")
            opened.writer.close()
            async with asyncio.timeout(1):
                await over.wait()
            await opened.gone()

    run(loop, work())
    assert heard == [b"last words"]


# --- let go -----------------------------------------------------------------------------


@on_both_loops
@pytest.mark.parametrize("late", [True, False])
def test_an_upstream_that_ended_but_reads_nothing_is_let_go(
    loop: str, *, late: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not at once: it may be slow. But nobody keeps what it does not want for ever."""
    monkeypatch.setattr(tunnel, "_LAST_WORDS_S", 5 * SHORT_S)
    caplog.set_level("DEBUG", logger="wholestream")
    stuck, heard = asyncio.Event(), asyncio.Event()
    got = 0

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        transport = cast("asyncio.Transport", writer.transport)
        transport.pause_reading()
        await stuck.wait()
        writer.write_eof()
        await asyncio.sleep(10 * SHORT_S if late else SHORT_S)
        transport.resume_reading()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(2**16):
                got += len(data)
        heard.set()

    async def work() -> None:
        async with line(deaf) as opened:
            opened.writer.transport.set_write_buffer_limits(high=0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5 * SHORT_S):
                    for _ in range(PARTS):
                        opened.writer.write(PART)
                        await opened.writer.drain()
            stuck.set()
            assert await opened.reader.read() == b""
            opened.writer.close()
            await opened.gone()
            await heard.wait()

    run(loop, work())
    [told] = [record.__dict__["fields"] for record in caplog.records if record.msg == "tunnel"]
    assert told["ended_by"] == "upstream"
    assert (0 < got < told["bytes_up"]) if late else (got == told["bytes_up"])


@on_both_loops
def test_a_client_that_read_the_end_but_stays_is_let_go(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has everything; and a drain does not wait for it even so long."""
    monkeypatch.setattr(tunnel, "_LAST_WORDS_S", 5 * SHORT_S)

    async def leave(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"last words")

    async def work() -> None:
        async with line(leave) as opened:
            assert await opened.reader.read() == b"last words"
            assert opened.count() == 1
            assert opened.app.edge.under_way == set()
            await opened.gone()

    run(loop, work())


@on_both_loops
def test_a_client_that_has_not_read_the_end_is_waited_for(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes: the bytes are there, and it may yet want them."""
    monkeypatch.setattr(tunnel, "_LAST_WORDS_S", SHORT_S)
    step = bytes(2**13)
    opened_line: list[Line] = []
    sent = 0

    def unread() -> int:
        """Return how much the proxy has that even the client's kernel did not take."""
        if not opened_line:
            return 0
        [under_way] = opened_line[0].app.edge.under_way
        transport = cast("tunnel.Tunnel", under_way)._client.transport
        return 0 if transport is None else transport.get_write_buffer_size()

    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while not unread():
            writer.write(step)
            await writer.drain()
            sent += len(step)
            await asyncio.sleep(0.001)

    async def work() -> None:
        async with line(pour) as opened:
            transport = cast("asyncio.Transport", opened.writer.transport)
            transport.pause_reading()
            opened_line.append(opened)
            while not unread():  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.01)
            await asyncio.sleep(10 * SHORT_S)
            assert opened.count() == len(opened.app.edge.under_way) == 1
            transport.resume_reading()
            assert len(await opened.reader.read()) == sent
            await opened.gone()

    run(loop, work())
