"""The benchmark's own upstream: ``python -m bench.upstream --port 9100``.

Knows HTTP/1.1 on raw bytes, and sends what ``wire.Ask`` asks for: a paced stream (one HTTP chunk
and one write per event), an unpaced one (one chunk per event, or one per write with
``chunk=read``; about 64 KB of events are joined into one write), one that is idle until it is
released, or one JSON object. Must not know who asks.

Its own cost must not be the bottleneck: events are made beforehand but for their time.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import time
from functools import lru_cache
from typing import cast

import uvloop

from bench import wire
from bench.numbers import percentiles
from bench.wheel import SLOT_NS, Wheel

WRITE_BYTES = 65536
_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_JSON = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_LAST = b"0\r\n\r\n"


@lru_cache(maxsize=32)
def block(size: int, count: int, chunk: str) -> bytes:
    """Return ``count`` unpaced events as they are written at once."""
    if chunk == "read":
        return wire.chunk(wire.event(size) * count)
    return wire.chunk(wire.event(size)) * count


@lru_cache(maxsize=32)
def ending(size: int) -> bytes:
    """Return how a stream ends: the finish, ``[DONE]`` and the end of the body."""
    return wire.chunk(wire.finish(size)) + wire.chunk(wire.DONE) + _LAST


def answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    """Return a whole answer with a JSON body."""
    return _JSON % (status, len(body), body)


class Unpaced:
    """A stream as fast as the transport takes it."""

    def __init__(self, connection: Connection, ask: wire.Ask) -> None:
        """Begin to send."""
        self._connection, self._ask, self._left = connection, ask, ask.events
        self._a_write = max(1, WRITE_BYTES // ask.size)
        connection.write(_STREAM + wire.chunk(wire.opener(ask.size)))
        self.pump()

    def pump(self) -> None:
        """Write until the transport has enough or nothing is left."""
        ask, connection = self._ask, self._connection
        while self._left and not connection.paused:
            count = min(self._left, self._a_write)
            self._left -= count
            data = block(ask.size, count, ask.chunk)
            connection.write(data if self._left else data + ending(ask.size))
        if not self._left:
            connection.unpaced = None


class Paced:
    """A stream on a schedule: its first event at once, the others in a phase of their own."""

    def __init__(self, connection: Connection, ask: wire.Ask, wheel: Wheel) -> None:
        """Send the first event, plan the others."""
        self._connection, self._left, self._end = connection, ask.events - 1, ending(ask.size)
        before, self._after = wire.halves(ask.size)
        self._before = b"%x\r\n%b" % (len(before) + 19 + len(self._after), before)
        self._after += b"\r\n"
        self._interval = int(1e9 / ask.rate)
        first = wire.chunk(wire.event(ask.size, time.monotonic_ns()))
        connection.write(_STREAM + wire.chunk(wire.opener(ask.size)) + first)
        self.due_ns = wheel.phase_ns(self._interval)
        if self._left:
            wheel.add(self)
        else:
            connection.write(self._end)

    def tick(self) -> bool:
        """Send the event that is due; a client that left ends it."""
        data = b"%b%019d%b" % (self._before, self.due_ns, self._after)
        self.due_ns += self._interval
        self._left -= 1
        self._connection.write(data if self._left else data + self._end)
        return self._left > 0 and not self._connection.lost


class Idle:
    """A stream that says nothing after its first event, until it is released."""

    def __init__(self, connection: Connection, ask: wire.Ask) -> None:
        """Send the first event."""
        self._connection, self._size, self.due_ns = connection, ask.size, 0
        first = wire.chunk(wire.event(ask.size, time.monotonic_ns()))
        connection.write(_STREAM + wire.chunk(wire.opener(ask.size)) + first)

    def tick(self) -> bool:
        """Send one more event and end."""
        event = wire.chunk(wire.event(self._size, self.due_ns))
        self._connection.write(event + ending(self._size))
        return False


class Upstream:
    """What all connections share."""

    def __init__(self, loop: asyncio.AbstractEventLoop, slot_ns: int) -> None:
        """Take the loop, and how fine the pacing shall be."""
        self.wheel = Wheel(loop, slot_ns)
        self.idle: list[Idle] = []
        self._document = answer(wire.document())

    def play(self, connection: Connection, ask: wire.Ask) -> None:
        """Send what is asked for."""
        if ask.kind == "json":
            connection.write(self._document)
        elif ask.kind == "idle":
            self.idle.append(Idle(connection, ask))
        elif ask.rate > 0:
            Paced(connection, ask, self.wheel)
        else:
            connection.unpaced = Unpaced(connection, ask)

    def release(self, within_s: float) -> int:
        """Let all idle streams go on, spread over so many seconds; return how many."""
        streams, self.idle = self.idle, []
        for stream in streams:
            stream.due_ns = self.wheel.phase_ns(int(within_s * 1e9))
            self.wheel.add(stream)
        return len(streams)

    def stats(self) -> dict[str, object]:
        """Return the lateness since the last time, in µs, and the CPU time so far, in seconds."""
        late, used = self.wheel.late_ns, resource.getrusage(resource.RUSAGE_SELF)
        told = percentiles(late, 1e3)
        del late[:]
        return {"late_us": told, "cpu_s": used.ru_utime + used.ru_stime}


class Connection(asyncio.Protocol):
    """One connection: requests in, one after another, answers out."""

    def __init__(self, upstream: Upstream) -> None:
        """Take what the connections share."""
        self._upstream = upstream
        self._received = b""
        self.paused = self.lost = False
        self.unpaced: Unpaced | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        transport = cast("asyncio.WriteTransport", transport)  # uvloop's is none by inheritance
        self._transport = transport
        self.write = transport.write

    def pause_writing(self) -> None:
        """Note that the transport has enough."""
        self.paused = True

    def resume_writing(self) -> None:
        """Go on with an unpaced stream."""
        self.paused = False
        if self.unpaced:
            self.unpaced.pump()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - either is the end
        """End what is sent."""
        self.lost, self.unpaced = True, None

    def data_received(self, data: bytes) -> None:
        """Answer each request that is whole."""
        self._received += data
        while (at := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:at]
            length = _length(head)
            if len(self._received) < at + 4 + length:
                return
            body = self._received[at + 4 : at + 4 + length]
            self._received = self._received[at + 4 + length :]
            self._answer(head.split(b" ", 2)[1].decode(), body)

    def _answer(self, path: str, body: bytes) -> None:
        if path == wire.STATS:
            self.write(answer(json.dumps(self._upstream.stats()).encode()))
        elif path == wire.RELEASE:
            released = self._upstream.release(json.loads(body)["within_s"])
            self.write(answer(json.dumps({"released": released}).encode()))
        elif path.endswith("/chat/completions"):
            try:
                ask = wire.Ask.of(json.loads(body)["model"])
            except (ValueError, KeyError) as error:
                self.write(answer(json.dumps({"error": str(error)}).encode(), b"400 Bad Request"))
            else:
                self._upstream.play(self, ask)
        else:
            self.write(answer(b"{}", b"404 Not Found"))


def _length(head: bytes) -> int:
    """Return the length of the body. Raises ValueError for a chunked one: none of us sends it."""
    lower = head.lower()
    if b"\r\ntransfer-encoding:" in lower:
        raise ValueError("chunked requests are not understood")
    _, found, rest = lower.partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


async def serve(host: str, port: int, slot_ns: int = SLOT_NS) -> asyncio.AbstractServer:
    """Listen; port 0 is a free one."""
    loop = asyncio.get_running_loop()
    upstream = Upstream(loop, slot_ns)
    return await loop.create_server(lambda: Connection(upstream), host, port, backlog=8192)


async def _forever(host: str, port: int, slot_ns: int) -> None:
    server = await serve(host, port, slot_ns)
    await server.serve_forever()


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(prog="python -m bench.upstream", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--slot-us", type=int, default=SLOT_NS // 1000)
    told = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    gc.freeze()  # what is there now stays; it need not be looked through again
    uvloop.run(_forever(told.host, told.port, told.slot_us * 1000))


if __name__ == "__main__":
    main()
