"""The clocks of one request: when the upstream's patience is up, when the client must hear.

Knows loop time and the settings. Must not know what is awaited. All times are loop times in
seconds; a timer is armed once a wait, never once an event.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from proxy.settings import Settings

_T = TypeVar("_T")

FINISH_GRACE_S = 2.0
"""Statistics follow the last finish reason at once, some servers' connections never end."""

USAGE_GRACE_S = 30.0
"""Where they were asked for and are owed, counting may take a while (a gateway that bills)."""


class Clocks:
    """The clocks of a stream; a request that is none has no limits."""

    def __init__(self, settings: Settings) -> None:
        """Start now; must be called in the running loop."""
        self._settings = settings
        self.now = asyncio.get_running_loop().time
        self._commit_at = self.now() + settings.commit_after_s
        self._opened = self.last_event = self.now()

    @property
    def age_s(self) -> float:
        """Seconds since the attempt's request was sent."""
        return self.now() - self._opened

    @property
    def gap_s(self) -> float:
        """Seconds since the last data event of the attempt, or since its beginning."""
        return self.now() - self.last_event

    def attempt_begins(self) -> None:
        """Start the clocks of an attempt."""
        self._opened = self.last_event = self.now()

    def event_came(self) -> float:
        """Start the stall clock anew, return the seconds since it was last started."""
        before, self.last_event = self.last_event, self.now()
        return self.last_event - before

    def body_was_sent(self) -> None:
        """Start all clocks anew: an upload may have taken longer than any of them."""
        self.attempt_begins()
        self._commit_at = self.now() + self._settings.commit_after_s

    def upstream_limit(self, *, begun: bool, finished: bool = False, owed: bool = False) -> float:
        """Return when silence becomes a fault; ``begun`` once a data event came.

        Once all is ``finished`` but an end mark, it becomes the end, and soon; not as soon where
        statistics are ``owed``.
        """
        if begun:
            stall = self._settings.stall_timeout_s
            grace = USAGE_GRACE_S if owed else FINISH_GRACE_S
            return self.last_event + (min(stall, grace) if finished else stall)
        return self._opened + self._settings.first_event_timeout_s

    def client_due(self, last_write: float | None) -> float:
        """Return when the client must hear something; None means that no headers are out."""
        if last_write is None:
            return self._commit_at
        beat = self._settings.heartbeat_s
        return last_write + beat if beat else math.inf


async def patiently(
    work: Coroutine[Any, Any, _T],
    limit: Callable[[], float],
    due: Callable[[], float],
    tick: Callable[[], Awaitable[None]],
    turn: asyncio.Event | None = None,
) -> _T:
    """Await ``work``, calling ``tick`` whenever ``due``. Raises TimeoutError at ``limit``.

    Both are asked anew at each tick, and when ``turn`` is set, if that is to change them. Work
    that is given up, by the limit or by cancellation, is cancelled, and what it may still have
    opened is closed.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    turning = None if turn is None else loop.create_task(turn.wait())
    taken = False
    try:
        while True:
            until = min(limit(), due()) - loop.time()
            waiting = {task} if turning is None or turning.done() else {task, turning}
            await asyncio.wait(
                waiting,
                timeout=None if until == math.inf else max(0.0, until),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if task.done():
                taken = True
                return task.result()
            if loop.time() >= limit():
                raise TimeoutError
            if loop.time() >= due():
                await tick()
    finally:
        if turning is not None:
            turning.cancel()
        if not taken:
            # It may even be done: in the very moment in which it was given up.
            task.add_done_callback(_discard)
            task.cancel()


def _discard(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is None:
        close = getattr(task.result(), "close", None)
        if close is not None:
            close()
