"""One client connection: asks, and reads answers to their end, cheaply.

Knows HTTP/1.1 answers on raw bytes and ``wire``'s marks: it notes when each event came, and says
whether the stream was whole. Must not know when to ask, nor what the figures are for.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from bench import wire

_TAIL = 24
"""Bytes of the body kept to see how it ends."""


@dataclass(slots=True)
class Tally:
    """What all connections of a run noted. Times are nanoseconds."""

    latency: array[int] = field(default_factory=lambda: array("q"))
    first: array[int] = field(default_factory=lambda: array("q"))
    events: int = 0
    bytes: int = 0
    whole: int = 0
    failures: list[str] = field(default_factory=list)


class Call:
    """One answer: its head, its body, and whether it was whole."""

    __slots__ = (
        *("_body", "_carry", "_head", "_left", "_tail", "_tally"),
        *("asked_ns", "ask", "chunked", "marks", "over", "wrong"),
    )

    def __init__(self, ask: wire.Ask, tally: Tally, asked_ns: int) -> None:
        """Take what was asked for, and when it should have been."""
        self.ask, self.asked_ns, self._tally = ask, asked_ns, tally
        self.marks, self.over, self.wrong, self.chunked = 0, False, "", True
        self._head: bytes | None = b""
        self._body = self._carry = self._tail = b""
        self._left = 0

    def feed(self, data: bytes) -> None:
        """Take one read. Sets ``over`` at the end of the body or where it makes no sense."""
        if self._head is not None:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._head = None
            self._begin(head)
        if self.over:
            return
        payload = self._unchunk(data) if self.chunked else self._measure(data)
        if payload:
            self._note(payload)
        if self.over:
            self._judge()

    def _begin(self, head: bytes) -> None:
        status, _, fields = head.lower().partition(b"\r\n")
        self.chunked = b"transfer-encoding: chunked" in fields
        if not status.startswith(b"http/1.1 200"):
            self.over, self.wrong = True, head.partition(b"\r\n")[0].decode(errors="replace")
        elif not self.chunked:
            _, found, rest = fields.partition(b"content-length:")
            self._left = int(rest.partition(b"\r\n")[0]) if found else 0
            self.over, self.wrong = (False, "") if found else (True, "a body without an end")

    def _measure(self, data: bytes) -> bytes:
        self._left -= len(data)
        self.over = self._left <= 0
        return data

    def _unchunk(self, data: bytes) -> bytes:
        """Return what the chunks of this read hold."""
        at, size, pieces = 0, len(data), []
        if self._body:
            data, size, self._body = self._body + data, len(self._body) + size, b""
        while at < size:
            if self._left > 2:  # noqa: PLR2004 - more than the CR LF after the chunk
                piece = data[at : min(size, at + self._left - 2)]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
            elif self._left:
                skipped = min(self._left, size - at)
                at += skipped
                self._left -= skipped
            else:
                line_end = data.find(b"\r\n", at)
                # The last chunk is told with its blank line: 0 CR LF CR LF.
                if line_end < 0 or (data[at] == 0x30 and size < line_end + 4):  # noqa: PLR2004
                    self._body = data[at:]
                    break
                length = int(data[at:line_end].partition(b";")[0], 16)
                if not length:
                    self.over = True
                    break
                at, self._left = line_end + 2, length + 2
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _note(self, payload: bytes) -> None:
        """Count the marks; take the time of those that tell one."""
        now, tally = time.monotonic_ns(), self._tally
        tally.bytes += len(payload)
        self._tail = payload[-_TAIL:] if len(payload) >= _TAIL else (self._tail + payload)[-_TAIL:]
        if self._carry:
            payload = self._carry + payload
        at = payload.find(wire.MARK)
        timed, before = self.ask.timed, self.marks
        while at >= 0 and at + wire.STAMP <= len(payload):
            if not timed:
                last = len(payload) - wire.STAMP
                self.marks += payload.count(wire.MARK, 0, last + len(wire.MARK))
                at = payload.find(wire.MARK, last + 1)
                break
            self.marks += 1
            tally.latency.append(now - int(payload[at + len(wire.MARK) : at + wire.STAMP]))
            at = payload.find(wire.MARK, at + wire.STAMP)
        if self.marks and not before:
            tally.first.append(now - self.asked_ns)
        self._carry = payload[at:] if at >= 0 else payload[1 - len(wire.MARK) :]

    def _judge(self) -> None:
        """Say what is wrong with an answer that is over."""
        if self.marks != self.ask.marks:
            self.wrong = f"{self.marks} events of {self.ask.marks}"
        elif self.ask.kind != "json" and not self._tail.endswith(wire.DONE):
            self.wrong = f"no [DONE] but {self._tail!r}"


class Caller(asyncio.Protocol):
    """One connection that is used for one call after another."""

    def __init__(self, over: Callable[[Caller, Call], None]) -> None:
        """Take whom to tell of each call's end."""
        self._over = over
        self._call: Call | None = None
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self.transport, self.open = transport, True

    def connection_lost(self, exc: Exception | None) -> None:
        """End the call that was under way."""
        self.open = False
        if self._call:
            self._call.wrong = f"the connection was lost: {exc or 'closed'}"
            self._finish(self._call)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        call = self._call
        if call is not None:
            call.feed(data)
            if call.over:
                self._finish(call)

    def ask(self, call: Call, request: bytes) -> None:
        """Send a request."""
        self._call = call
        self.transport.write(request)

    def _finish(self, call: Call) -> None:
        self._call = None
        self._over(self, call)
