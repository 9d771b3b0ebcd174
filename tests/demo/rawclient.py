"""A client that shows the wire as it is: no library between the test and the bytes.

Knows enough HTTP/1.1 to ask. Must not judge what comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

from proxy.demo.answers import Answer, Asked, Pause, Raw
from proxy.demo.upstream import MisbehavingUpstream

PATHS = {
    "chat_completions": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "images": "/v1/images/generations",
    "edits": "/v1/images/edits",
    "audio": "/v1/audio/transcriptions",
    "speech": "/v1/audio/speech",
    "threads": "/v1/threads/runs",
    "agents": "/v1/agents/sessions",
}
"""The doors to knock at: an endpoint's name, or that of another one it has."""

SIDE_DOORS = {"edits": "images", "speech": "audio"}
"""Doors that are another endpoint's."""

SPEAKING = {"speech": {"stream_format": "sse"}}
"""What is said at a door to be answered with a stream, beside what is said at all."""


def doors(endpoints: frozenset[str]) -> list[str]:
    """Return all doors of some endpoints."""
    return [door for door in PATHS if SIDE_DOORS.get(door, door) in endpoints]


def knock(door: str, model: str, *, reused: bool = False) -> Asked:
    """Return what the upstream understands where ``Client.post`` asks at a door."""
    endpoint = SIDE_DOORS.get(door, door)
    return Asked(endpoint, model, reused=reused, path=PATHS[door])


class Client:
    """One connection to the upstream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take the two halves of a connection."""
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def post(self, model: str, door: str = "chat_completions", **fields: object) -> None:
        """Ask for a stream, or for what ``fields`` say."""
        told = {"model": model, "stream": True, **SPEAKING.get(door, {}), **fields}
        body = json.dumps(told).encode()
        head = f"POST {PATHS[door]} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        await self.send(head.encode() + body)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read a head: its status and headers, names in lower case."""
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        pairs = (line.split(": ", 1) for line in lines)
        return int(first.split()[1]), {name.lower(): value for name, value in pairs}

    async def chunks(self) -> list[bytes]:
        """Read a chunked body to its last chunk."""
        found: list[bytes] = []
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            found.append(await self.reader.readexactly(size))
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return found

    async def json(self) -> dict[str, object]:
        """Read head and body of a JSON answer."""
        _, headers = await self.head()
        found = json.loads(await self.reader.readexactly(int(headers["content-length"])))
        assert isinstance(found, dict)
        return found

    async def rest(self) -> tuple[bytes, str]:
        """Read to the end: what came, and whether it ended by ``fin`` or by ``reset``."""
        data = bytearray()
        try:
            while read := await self.reader.read(2**16):
                data += read
        except ConnectionResetError:
            return bytes(data), "reset"
        return bytes(data), "fin"

    async def leave(self) -> None:
        """Close the connection."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def connected(upstream: MisbehavingUpstream) -> AsyncIterator[Client]:
    """Open a connection, close it in the end."""
    client = Client(*await asyncio.open_connection("127.0.0.1", upstream.port))
    try:
        yield client
    finally:
        await client.leave()


def on_the_wire(answer: Answer) -> bytes:
    """Return the bytes of a body as its framing has them, up to its end."""
    body = b""
    for piece in answer.pieces:
        if isinstance(piece, Raw):
            body += piece.data
        elif isinstance(piece, bytes):
            chunked = answer.framing == "chunked" and answer.status
            body += b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
        else:
            assert isinstance(piece, Pause)
    return body
