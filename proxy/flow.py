"""The hot path: what one read of the upstream holds leaves for the client in one write.

Called by the connection itself, so that no task is woken and nothing is queued while a stream is
as it should be. Whatever is not (an end, a fault, silence, a heartbeat that is due) is left to
the task that waits for it here. Must not know what an event is, or decide anything.
"""

from __future__ import annotations

import asyncio
import math
import time

from proxy.exchange import Exchange
from proxy.upstream import Answer


class Flow:
    """The steady part of one answer, whose stream is open towards the client."""

    def __init__(self, exchange: Exchange, answer: Answer) -> None:
        """Take an answer; nothing is relayed before ``run``."""
        self._x = exchange
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._turn: asyncio.Future[None] = self._loop.create_future()
        self._grammar = exchange.session.grammar
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False
        self._held = False

    async def run(self) -> None:
        """Relay until the task has to look: how it stands is in the session and the answer."""
        if not self._answer.push_to(self._feed):
            return
        self._x.down.when_resumed(self._feed)
        try:
            self._look()
            self._feed()
            await self._turn
        finally:
            self._answer.push_to(None)
            self._x.down.when_resumed(None)
            if self._timer is not None:
                self._timer.cancel()

    def _feed(self) -> None:
        """Relay all that came, unless the client is behind: what waits then holds the sender up."""
        if self._busy or self._turn.done():
            return  # letting the connection go on may feed us from within
        self._busy = True
        try:
            while not self._turn.done() and not self._paused() and (data := self._answer.take()):
                self._relay(data)
            if self._answer.over and not self._paused():
                self._stop()
        except Exception as bug:  # noqa: BLE001 - it is the task that tells of it
            self._turn.set_exception(bug)
        finally:
            self._busy = False

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
        held, self._held = self._held, self._x.down.full
        if held and not self._held:
            self._x.clocks.event_came()
        return self._held

    def _look(self) -> None:
        """Leave when anything is due. Looked at when it may be, not at each event."""
        now, due = self._loop.time(), min(self._x.limit(), self._x.due())
        if self._held:
            due = now + _PATIENCE_S
        elif due <= now:
            self._stop()
            return
        if due < math.inf:
            self._timer = self._loop.call_at(due, self._look)

    def _stop(self) -> None:
        if not self._turn.done():
            self._turn.set_result(None)


_PATIENCE_S = 1.0
"""How often it is seen whether a client that was behind still is."""
