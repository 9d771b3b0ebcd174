"""A client that sees HTTP as it is, and the contract's rules for what it sees.

Knows HTTP/1.1 as far as the proxy speaks it, and the canonical form of streams. Nothing of the
proxy's own code is used to read what it sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from support import DONE, whole_events

HEARTBEAT = b": heartbeat\n\n"
PATHS = {
    "chat_completions": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "images": "/v1/images/generations",
    "audio": "/v1/audio/speech",
    "threads": "/v1/threads/thread_15/runs",
    "other": "/v1/harbour/progress",
}
PATIENCE_S = 30.0
"""Nothing that is waited for takes this long, unless it never comes."""

Pairs = Sequence[tuple[str, str]]


@dataclass
class Reply:
    """One answer as it came: ``chunks`` are HTTP chunks, or reads where there are none.

    ``end`` is ``clean`` as the framing has it, ``cut`` where the connection closed before
    that, ``reset`` where it was reset, ``fin`` where nothing but the close delimits the body.
    """

    status: int
    pairs: list[tuple[str, str]]
    version: str = "HTTP/1.1"
    chunks: list[bytes] = field(default_factory=list)
    end: Literal["clean", "cut", "reset", "fin"] = "cut"

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks)

    def headers(self, name: str) -> list[str]:
        """Return all values of a header."""
        return [value for key, value in self.pairs if key.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """Return a header that is there at most once."""
        values = self.headers(name)
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def events(self) -> list[tuple[bytes, bytes]]:
        """Name and data of all events, proved to be canonical and whole in every chunk."""
        return [event for chunk in self.chunks for event in whole_events(between(chunk))]

    @property
    def payloads(self) -> list[bytes]:
        """The data of all events."""
        return [data for _, data in self.events]

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object of a body in OpenAI's shape."""
        found: dict[str, Any] = self.json["error"]
        assert {"message", "type", "param", "code"} <= set(found)
        return found


def between(chunk: bytes) -> bytes:
    """Take out heartbeats that stand between events; any other stays, and is not canonical."""
    blocks = chunk.split(b"\n\n")
    return b"\n\n".join(block for block in blocks if block + b"\n\n" != HEARTBEAT)


class Wire:
    """One connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take the two halves of a connection."""
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def ask(  # noqa: PLR0913 - a request has so many parts
        self,
        target: str,
        body: bytes | None = None,
        *,
        method: str = "POST",
        headers: Pairs = (),
        version: str = "HTTP/1.1",
        host: str = "127.0.0.1",
    ) -> None:
        """Send one request; a body is taken for JSON unless the headers name its type."""
        lines = [f"{method} {target} {version}", f"Host: {host}"]
        named = {name.lower() for name, _ in headers}
        if body is not None and "content-type" not in named:
            lines.append("Content-Type: application/json")
        if body is not None and not named & {"content-length", "transfer-encoding"}:
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name}: {value}" for name, value in headers]
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))

    async def head(self) -> Reply:
        """Read a head."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        version, status = first.split(" ")[:2]
        pairs = [(name, value.strip()) for name, _, value in (li.partition(":") for li in lines)]
        return Reply(int(status), pairs, version)

    async def chunk(self) -> bytes:
        """Read one chunk, nothing at the last one. Raises IncompleteReadError at a cut."""
        async with asyncio.timeout(PATIENCE_S):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            data = await self.reader.readexactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def rest(self, reply: Reply, method: str = "POST") -> Reply:
        """Read the body to its end."""
        reply.end = "cut"
        try:
            if method == "HEAD" or reply.status in {204, 304}:
                pass
            elif reply.header("transfer-encoding") == "chunked":
                while chunk := await self.chunk():
                    reply.chunks.append(chunk)
            elif (length := reply.header("content-length")) is not None:
                async with asyncio.timeout(PATIENCE_S):
                    reply.chunks.append(await self.reader.readexactly(int(length)))
            else:
                await self._to_close(reply)
                return reply
        except asyncio.IncompleteReadError as error:
            reply.chunks += [error.partial] * bool(error.partial)
        except ConnectionResetError:
            reply.end = "reset"
        else:
            reply.end = "clean"
        return reply

    async def _to_close(self, reply: Reply) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while data := await self.reader.read(2**16):
                reply.chunks.append(data)
        reply.end = "fin"

    async def closed(self) -> bool:
        """Say whether the connection is closed by the other side, waiting a little for it."""
        try:
            async with asyncio.timeout(5):
                return await self.reader.read(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    def read_no_more(self) -> None:
        """Let what comes pile up in the kernel, and then at the other side."""
        assert isinstance(self.writer.transport, asyncio.Transport)
        self.writer.transport.pause_reading()

    def read_on(self) -> None:
        """Take what has piled up."""
        assert isinstance(self.writer.transport, asyncio.Transport)
        self.writer.transport.resume_reading()

    async def leave(self) -> None:
        """Close the connection."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Wire]:
    """Open a connection, close it in the end."""
    wire = Wire(*await asyncio.open_connection("127.0.0.1", port, limit=2**26))
    try:
        yield wire
    finally:
        await wire.leave()


async def call(  # noqa: PLR0913 - a request has so many parts
    port: int,
    target: str,
    body: bytes | None = None,
    *,
    method: str = "POST",
    headers: Pairs = (),
    version: str = "HTTP/1.1",
) -> Reply:
    """Make one request on a connection of its own and read the whole answer."""
    async with connected(port) as wire:
        await wire.ask(target, body, method=method, headers=headers, version=version)
        return await wire.rest(await wire.head(), method)


def asking(model: str, **fields: object) -> bytes:
    """Write the JSON body of a request for a stream."""
    return json.dumps({"model": model, "stream": True, **fields}).encode()


async def stream(
    port: int,
    model: str,
    endpoint: str = "chat_completions",
    headers: Pairs = (),
    **fields: object,
) -> Reply:
    """Ask for a stream on a connection of its own and read the whole answer."""
    return await call(port, PATHS[endpoint], asking(model, **fields), headers=headers)


# --- the contract's rules -------------------------------------------------------------------


def check_stream_headers(reply: Reply) -> None:
    """Assert the headers that a stream has, always."""
    assert reply.status == 200
    assert reply.header("content-type") == "text/event-stream; charset=utf-8"
    assert reply.header("cache-control") == "no-cache, no-transform"
    assert reply.header("x-accel-buffering") == "no"
    assert reply.header("x-wholestream-request-id")
    assert reply.header("content-encoding") is None
    assert reply.header("content-length") is None
    assert "close" not in (reply.header("connection") or "").lower()


def check_complete(reply: Reply, endpoint: str = "chat_completions") -> None:
    """Assert a stream that ends with success, once."""
    check_stream_headers(reply)
    assert reply.end == "clean"
    assert not [data for data in reply.payloads if _is_error(data)]
    if endpoint in {"chat_completions", "completions"}:
        assert reply.payloads.count(b"[DONE]") == 1
        assert reply.body.endswith(DONE)
    elif endpoint == "responses":
        terminals = {"response.completed", "response.incomplete", "response.cancelled"}
        assert [_type(data) in terminals for data in reply.payloads].count(True) == 1
        assert _type(reply.payloads[-1]) in terminals
        assert b"[DONE]" not in reply.payloads


def check_failed(reply: Reply, endpoint: str = "chat_completions") -> dict[str, Any]:
    """Assert a stream that ends with one honest error in its endpoint's dialect; return it."""
    check_stream_headers(reply)
    assert reply.end == "clean"
    assert b"[DONE]" not in reply.payloads
    *before, last = reply.payloads
    if endpoint != "responses":
        assert not any(_is_error(data) for data in before)
        error: dict[str, Any] = json.loads(last)["error"]
        return error
    failed = json.loads(last)
    assert reply.events[-1][0] == b"response.failed"
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    _check_response_error(before, failed)
    told = json.loads(before[-1]).get("error") if before else None
    found: dict[str, Any] = told if isinstance(told, dict) else failed["response"]["error"]
    return found


def _check_response_error(before: list[bytes], failed: dict[str, Any]) -> None:
    numbers = [json.loads(data)["sequence_number"] for data in before]
    assert [*numbers, failed["sequence_number"]] == list(range(len(numbers) + 1))
    ids = {json.loads(data)["response"]["id"] for data in before if b'"response":{' in data}
    assert ids <= {failed["response"]["id"]}
    assert [_is_error(data) for data in before].count(True) <= 1


def _is_error(data: bytes) -> bool:
    if data == b"[DONE]":
        return False
    found = json.loads(data)
    return isinstance(found, dict) and (bool(found.get("error")) or found.get("type") == "error")


def _type(data: bytes) -> str:
    return str(json.loads(data).get("type")) if data.startswith(b"{") else ""


def data_of(events: Iterable[bytes]) -> list[bytes]:
    """Return the payloads of events that are written in the canonical form."""
    return [data for event in events for _, data in whole_events(event)]
