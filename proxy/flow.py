"""The hot path: what one read of the upstream holds leaves for the client in one write.

Called by the connection itself, so that no task is woken and nothing is queued while a stream is
as it should be. Whatever is not (an end, a fault, silence, a heartbeat that is due) is left to
the task that waits for it here. Must not know what an event is, or decide anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from proxy.answer import Answer
from proxy.core.shortcut import BEFORE, BEHIND, Shortcut
from proxy.exchange import Exchange
from proxy.pool import Wire

_PATIENCE_S = 1.0
"""How often it is seen whether a client that was behind still is."""

_LONGEST_S = 15.0
"""How often it is looked at the latest, if only to sort in what was observed."""


def _head(size: int) -> bytes:
    """Return how a chunk of so many bytes begins that is one event without a name."""
    return b"%x\r\n%b" % (size, BEFORE)


_HEADS = [_head(size) for size in range(0x1000)]
"""Those of events as they mostly are, made beforehand."""

_MIDDLING, _DIGITS = 0x100, 3
"""The smallest chunk whose size has as many digits as that of the largest in ``_HEADS``."""

_HEAD = len(_HEADS[-1])
_END = BEHIND + b"\r\n"
_TAIL = len(_END)
_FRAME = _DIGITS + len(b"\r\n\r\n")
"""What is not the chunk's data in a read that is one chunk with such a size."""


class Flow:
    """The steady part of one answer, whose stream is open towards the client."""

    def __init__(self, exchange: Exchange, answer: Answer) -> None:
        """Take an answer; nothing is relayed before ``run``."""
        self._x = exchange
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._turn: asyncio.Future[None] = self._loop.create_future()
        self._grammar = exchange.session.grammar
        self._client = exchange.down.wire
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False
        self._held = False
        self._wire: Wire | None = None
        self._take: Shortcut | None = None
        """What is asked of each read, while the way is clear for it."""

    async def run(self) -> None:
        """Relay until the task has to look: how it stands is in the session and the answer."""
        wire = self._wire = self._answer.wire
        if wire is None:
            return
        wire.push_to(self._feed, self._lane(wire) if self._x.down.chunked else None)
        self._client.held_up, self._client.resumed = self._close, self._feed
        try:
            self._look()
            self._feed()
            await self._turn
        finally:
            wire.pull(self._feed)
            self._client.held_up = self._client.resumed = None
            if self._timer is not None:
                self._timer.cancel()

    def _lane(self, wire: Wire) -> Callable[[bytes], None]:
        """Return what relays a read as it is, if that is one chunk with one ordinary event.

        Nothing of such a chunk needs to be parsed: it is compared with the one way in which
        servers write it, and the client gets its very bytes. What is used at each event is
        looked up once, and nothing is called that need not be (docs/performance.md).
        """
        down, clocks, record = self._x.down, self._x.clocks, self._x.record
        write, now, receive = down.write_raw, self._loop.time, wire.receive

        def lane(read: bytes) -> None:
            began = time.perf_counter()
            take, size = self._take, len(read) - _FRAME
            if _MIDDLING <= size < len(_HEADS):
                head, start = _HEADS[size], _HEAD
            else:
                head = _head(size + _DIGITS - max(read.find(b"\r"), 1))
                start = len(head)
            if take is None or read[:start] != head or read[-_TAIL:] != _END:
                receive(read)
                return
            try:
                if not take(read[start:-_TAIL]):
                    receive(read)
                    return
                write(read)
            except Exception as bug:  # noqa: BLE001 - as below
                self._fail(bug)
                return
            at = now()
            record.gaps.observe(at - clocks.last_event)
            clocks.last_event = down.last_write = at
            record.overheads.observe(time.perf_counter() - began)

        return lane

    def _feed(self) -> None:
        """Relay all that came, unless the client is behind: what waits then holds the sender up."""
        wire = self._wire
        if wire is None or self._busy or self._turn.done():
            return  # letting the connection go on may feed us from within
        self._busy = True
        try:
            while not self._turn.done() and not self._paused() and (data := self._answer.take()):
                self._relay(data)
            if self._answer.over:
                # The connection may be another answer's before a client that is behind has all.
                wire.pull(self._feed)
                if not self._paused():
                    self._stop()
            clear = wire.between and not (self._client.writing_paused or self._turn.done())
            self._take = self._x.session.shortcut() if clear else None
        except Exception as bug:  # noqa: BLE001 - it is the task that tells of it
            self._fail(bug)
        finally:
            self._busy = False

    def _close(self) -> None:
        """Let no read pass but those that are looked at: the client is behind."""
        self._take = None

    def _relay(self, data: bytes) -> None:
        x = self._x
        began = time.perf_counter()
        out = x.receive(data)
        if out:
            x.down.push(out)
            x.record.wrote(began)
        if x.session.settled or self._grammar.finished:
            self._stop()

    def _paused(self) -> bool:
        """Say whether the client is behind; silence counts from when it has caught up."""
        held, self._held = self._held, self._client.writing_paused
        if held and not self._held:
            self._x.clocks.event_came()
        return self._held

    def _look(self) -> None:
        """Leave when anything is due. Looked at when it may be, not at each event."""
        self._x.record.settle()
        now, due = self._loop.time(), min(self._x.limit(), self._x.due())
        if self._paused():
            due = now + _PATIENCE_S
        elif due <= now:
            self._stop()
            return
        self._timer = self._loop.call_at(min(due, now + _LONGEST_S), self._look)

    def _fail(self, bug: Exception) -> None:
        """Have the task tell of a bug, unless it is that the client left, which ends the task."""
        self._take = None
        if not self._turn.done() and not self._x.down.left:
            self._turn.set_exception(bug)

    def _stop(self) -> None:
        self._take = None
        if not self._turn.done():
            self._turn.set_result(None)
