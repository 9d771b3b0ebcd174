"""Real sockets on loopback: raw servers, a raw client, and our own server around a handler.

Knows enough HTTP/1.1 to ask and to read one answer. Must not judge what comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web

from proxy.server import Handler, QuietServer
from proxy.settings import Settings

HOST = "127.0.0.1"

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
"""The loops the proxy runs on."""

Pairs = list[tuple[str, str]]
"""Headers as they came."""

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""What a raw server does with one connection, which is closed afterwards."""


def made(**values: Any) -> Settings:
    """Make settings without a file."""
    return Settings(**values)


@contextlib.asynccontextmanager
async def raw_server(play: Play, **options: Any) -> AsyncIterator[int]:
    """Serve raw connections on a free port; ``options`` are those of ``asyncio.start_server``."""
    plays: dict[asyncio.Task[None], asyncio.Event] = {}

    async def perform(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, EOFError):
            await play(reader, writer)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # In a task of its own: CPython 3.11 logs a cancelled connection as an error.
        playing = asyncio.create_task(perform(reader, writer))
        over = plays[playing] = asyncio.Event()
        await asyncio.wait({playing})
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        over.set()

    server = await asyncio.start_server(serve, HOST, 0, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for playing, over in list(plays.items()):
            playing.cancel()
            await over.wait()
        await server.wait_closed()
        for playing in plays:
            if not playing.cancelled():
                playing.result()


@contextlib.asynccontextmanager
async def our_server(handler: Handler) -> AsyncIterator[int]:
    """Serve a handler by the proxy's own server on a free port."""
    runner = web.ServerRunner(QuietServer(handler), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST."""
    writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    writer.transport.abort()


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that tells nobody when it happens."""
    while not condition():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Read a request with a Content-Length or without a body."""
    head = await reader.readuntil(b"\r\n\r\n")
    return head + await reader.readexactly(_length(head) or 0)


@dataclass(frozen=True)
class Got:
    """One answer; ``status`` 0 means that the connection closed without one."""

    status: int
    headers: dict[str, str]
    body: bytes


async def ask(port: int, request: bytes) -> Got:
    """Send bytes to a port and read one answer, or up to the end of the connection."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(request)
        return await read_answer(reader, head_only=request.startswith(b"HEAD "))
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def talk(port: int, data: bytes) -> bytes:
    """Send bytes to a port, return all that comes back until the connection ends."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(data)
        return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader, *, head_only: bool = False) -> Got:
    """Read one answer."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return Got(0, {}, b"")
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    pairs = (line.split(": ", 1) for line in lines)
    headers = {name.lower(): value for name, value in pairs}
    length = _length(head)
    if head_only:
        body = b""
    elif length is None:
        body = await reader.read()
    else:
        body = await reader.readexactly(length)
    return Got(int(first.split()[1]), headers, body)


def _length(head: bytes) -> int | None:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return None


def certificate(where: Path, host: str) -> tuple[Path, Path]:
    """Make a self-signed certificate for a host name; return the paths of it and of its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command to make a certificate with")
    made, key = where / f"{host}.pem", where / f"{host}.key"
    words = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2 "
        f"-subj /CN={host} -addext subjectAltName=DNS:{host} -out {made} -keyout {key}"
    )
    subprocess.run([openssl, *words.split()], check=True, capture_output=True)  # noqa: S603
    return made, key
