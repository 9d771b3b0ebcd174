"""A whole proxy in this process, with its client and its upstream in the hands of the test.

Knows how to make one write of the upstream one read of the proxy, and which of these reads were
parsed. Must not judge what comes of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import termios
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from itertools import chain
from typing import Any
from unittest import mock

from e2e.stage import CHUNKED, EVENT_STREAM, Exchange
from e2e.wire import PATHS, Reply, asking, connected
from e2e.wire import Wire as Client
from support import sse

from edge.loopback import HOST, LOOPS, made, raw_server, until
from proxy.app import App
from proxy.pool import Wire

CHAT = PATHS["chat_completions"]
PATIENCE_S = 30.0
LAST = b"0\r\n\r\n"


def on(loop: str, work: Coroutine[Any, Any, None]) -> None:
    """Run a test in a loop of the given kind, which must have nothing to complain of."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        complaints = listen(runner.get_loop())
        runner.run(work)
    assert not complaints


def listen(loop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    """Return a list that what the loop complains of will be in."""
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    return complaints


def http(data: bytes) -> bytes:
    """Write one HTTP chunk, as servers do."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Upstream(Exchange):
    """One connection to the upstream, and the request that came on it last."""

    wires: Callable[[], Iterator[Wire]]

    @property
    def wire(self) -> Wire:
        """The proxy's end of it."""
        port = self.writer.get_extra_info("peername")[1]
        found = (wire for wire in self.wires() if _port(wire) == port)
        return next(found)

    async def begin(self, *headers: tuple[str, str]) -> None:
        """Begin a stream; in chunks, unless other headers are given."""
        await self.answer(200, [*EVENT_STREAM, *(headers or CHUNKED)])

    async def reads(self, *pieces: bytes) -> None:
        """Send pieces, of which the proxy reads each before the next one is sent."""
        wire = self.wire
        async with asyncio.timeout(PATIENCE_S):
            for piece in pieces:
                if not _is_open(wire):
                    return
                self.writer.write(piece)
                await until(lambda: not self.writer.transport.get_write_buffer_size())
                await until(lambda: not (_is_open(wire) and _unread(wire)))

    async def steady(self, *events: object) -> None:
        """Begin a stream and send events of it, of which the first has content: the lane is open.

        Two reads of it are parsed: one before the flow begins, and the one that opens the lane.
        """
        await self.begin()
        first, *rest = events
        await self.reads(http(sse(first)))
        async with asyncio.timeout(PATIENCE_S):
            await until(lambda: self.wire.sink is not None)
        await self.reads(*(http(sse(event)) for event in rest))

    async def again(self) -> None:
        """Take the next request on the same connection."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
        self.__init__(head, self.reader, self.writer)  # type: ignore[misc]
        await self.body()


class Rig:
    """The proxy, and the connections to its upstream that nobody has taken yet."""

    def __init__(self, app: App, waiting: asyncio.Queue[Upstream]) -> None:
        """Take a running proxy."""
        self.app = app
        self._waiting = waiting
        self.parsed: list[bytes] = []
        """The reads that a lane was given and did not take."""

    def wires(self) -> Iterator[Wire]:
        """Return the proxy's connections to the upstream."""
        clients = self.app.edge.upstreams[""]._clients
        for session in (clients.pooled, clients.unpooled):
            pool: Any = session.connector
            idle = (wire for wires in pool._conns.values() for wire, _ in wires)
            yield from (wire for wire in chain(pool._acquired, idle) if isinstance(wire, Wire))

    async def asked(self) -> Upstream:
        """Take the next request on a connection of its own."""
        async with asyncio.timeout(PATIENCE_S):
            upstream = await self._waiting.get()
            await upstream.body()
        upstream.wires = self.wires
        return upstream

    @contextlib.asynccontextmanager
    async def calling(
        self, version: str = "HTTP/1.1", **fields: object
    ) -> AsyncIterator[tuple[Client, Upstream]]:
        """Ask for a chat; return both ends."""
        async with connected(self.app.port) as client:
            pairs = [("X-Request-ID", "same")]
            await client.ask(CHAT, asking("m", **fields), headers=pairs, version=version)
            yield client, await self.asked()

    @property
    def exchange(self) -> Any:
        """The one exchange that is under way."""
        [relay] = self.app.edge.under_way
        return relay._x  # type: ignore[attr-defined]

    @property
    def receive(self) -> Callable[[Wire, bytes], None]:
        """What a lane is to give its reads to, which are noted on the way."""
        receive = Wire.receive

        def spy(wire: Wire, data: bytes) -> None:
            self.parsed.append(data)
            receive(wire, data)

        return spy

    def count(self, name: str) -> float:
        """Add up the samples of one name."""
        families = self.app.edge.metrics.registry.collect()
        return sum(one.value for of in families for one in of.samples if one.name == name)


@contextlib.asynccontextmanager
async def rigged(tls: Any = None, **values: object) -> AsyncIterator[Rig]:
    """Run a proxy that asks once, in front of an upstream that the test plays."""
    waiting: asyncio.Queue[Upstream] = asyncio.Queue()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting.put_nowait(Upstream(await reader.readuntil(b"\r\n\r\n"), reader, writer))
        await asyncio.Event().wait()

    scheme = "https" if tls else "http"
    async with raw_server(play, ssl=tls) as port:
        upstream = f"{scheme}://{HOST}:{port}/v1"
        quick = {"port": 0, "admin_port": 0, "max_attempts": 1}
        app = App(made(upstream=upstream, **{**quick, **values}))
        rig = Rig(app, waiting)
        try:
            await app.start()
            with mock.patch.object(Wire, "receive", rig.receive):
                yield rig
        finally:
            await app.close()


async def heard(client: Client) -> Reply:
    """Read a whole answer."""
    return await client.rest(await client.head())


@contextlib.contextmanager
def without_lane() -> Iterator[None]:
    """Have every read parsed."""
    push_to = Wire.push_to

    def plain(wire: Wire, sink: Callable[[], None], _lane: object) -> None:
        push_to(wire, sink, None)

    with mock.patch.object(Wire, "push_to", plain):
        yield


def _port(wire: Wire) -> int:
    address = wire.transport.get_extra_info("sockname") if wire.transport else (HOST, 0)
    return int(address[1])


def _is_open(wire: Wire) -> bool:
    return wire.transport is not None and not wire.transport.is_closing()


def _unread(wire: Wire) -> int:
    """Say how many bytes wait at a socket."""
    assert wire.transport is not None
    number = wire.transport.get_extra_info("socket").fileno()
    return int.from_bytes(fcntl.ioctl(number, termios.FIONREAD, bytes(4)), "little")
