"""An upstream whose every answer is a coroutine of the test: for lockstep, and to watch leaving.

Knows HTTP/1.1 by hand. A request is taken to the play that its header ``x-stage`` names.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeAlias

from e2e.wire import PATIENCE_S, Pairs, Reply, call
from proxy.demo.wire import reset

EVENT_STREAM: Pairs = (("Content-Type", "text/event-stream"),)
CHUNKED: Pairs = (("Transfer-Encoding", "chunked"),)
JSON = ("Content-Type", "application/json")
MULTIPART = ("Content-Type", "multipart/form-data; boundary=b")


class Exchange:
    """One request, its head read and its body not, to be answered by the play."""

    def __init__(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Take a request whose head is read."""
        self.head = head
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        self.method, self.target, self.version = first.split(" ")
        parts = (line.partition(":") for line in lines)
        self.pairs = [(name, value.strip()) for name, _, value in parts]
        self.reader = reader
        self.writer = writer

    def headers(self, name: str) -> list[str]:
        """Return all values of a header."""
        return [value for key, value in self.pairs if key.lower() == name.lower()]

    async def part(self) -> bytes:
        """Read the next part of the body: one chunk, or what there is; nothing at its end."""
        async with asyncio.timeout(PATIENCE_S):
            if "chunked" not in self.headers("transfer-encoding"):
                return await self.reader.read(2**16)
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def body(self) -> bytes:
        """Read the whole body."""
        async with asyncio.timeout(PATIENCE_S):
            if self.headers("transfer-encoding"):
                parts = []
                while part := await self.part():
                    parts.append(part)
                return b"".join(parts)
            length = int((self.headers("content-length") or ["0"])[0])
            return await self.reader.readexactly(length)

    async def answer(self, status: int = 200, headers: Pairs = (), body: bytes = b"") -> None:
        """Send a head, and the beginning of the body with it."""
        lines = [f"HTTP/1.1 {status} Whatever"]
        lines += [f"{name}: {value}" for name, value in headers]
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        """Send one chunk; an empty one is the last."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def left(self) -> None:
        """Wait until the other side has closed the connection, in whatever way."""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(2**16):
                    pass

    def reset(self) -> None:
        """Reset the connection."""
        reset(self.writer)


Play = Callable[[Exchange], Awaitable[Any]]


class Stage:
    """The upstream. After a play the connection is closed."""

    def __init__(self) -> None:
        """Nothing is played yet."""
        self._plays: dict[str, Play] = {}
        self._outcomes: dict[str, asyncio.Queue[asyncio.Task[Any]]] = {}
        self._server: asyncio.Server | None = None
        self._under_way: set[asyncio.Task[Any]] = set()
        self.port = 0
        self.exchanges: dict[str, list[Exchange]] = {}

    async def __aenter__(self) -> Self:
        """Start to listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
        for task in list(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    @property
    def base_url(self) -> str:
        """What the proxy's upstream is to be."""
        return f"http://127.0.0.1:{self.port}/v1"

    def plays(self, name: str, play: Play) -> tuple[str, str]:
        """Answer requests of a name by a play; return the header that names it."""
        self._plays[name] = play
        self._outcomes[name] = asyncio.Queue()
        self.exchanges[name] = []
        return ("x-stage", name)

    async def over(self, name: str) -> Any:
        """Wait for the next play of a name to be over; return or raise what it did."""
        async with asyncio.timeout(PATIENCE_S):
            task = await self._outcomes[name].get()
            return await task

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        exchange = Exchange(head, reader, writer)
        name = (exchange.headers("x-stage") or [""])[0]
        self.exchanges[name].append(exchange)
        task = asyncio.ensure_future(self._plays[name](exchange))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        self._outcomes[name].put_nowait(task)
        await asyncio.wait({task})
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


Told: TypeAlias = tuple[int, Pairs, bytes]
"""Status, headers and body of an answer."""


def plain(body: bytes = b"{}", *pairs: tuple[str, str]) -> Told:
    """Return a JSON answer."""
    return 200, [JSON, ("Content-Length", str(len(body))), *pairs], body


async def through(  # noqa: PLR0913 - a call has so many parts
    port: int,
    stage: Stage,
    told: Told,
    *,
    name: str,
    target: str = "/v1/files",
    method: str = "GET",
    headers: Pairs = (),
    version: str = "HTTP/1.1",
    body: bytes | None = None,
) -> tuple[Exchange, Reply]:
    """Make one call through the proxy that is answered at once; return what each side saw."""

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(*told)

    pairs = [stage.plays(name, play), *headers]
    got = await call(port, target, body, method=method, headers=pairs, version=version)
    await stage.over(name)
    [exchange] = stage.exchanges[name]
    return exchange, got
