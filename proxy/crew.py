"""So many workers, kept alive; and what they have told, together.

Knows when a worker is replaced, and when that is hopeless. Must not know what is done with what
they tell. One that dies costs its own streams, which are counted as aborted; the others are not
touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
from typing import Any

from prometheus_client import Counter

from proxy.channel import Setup, Told
from proxy.edge import new_pseudonym
from proxy.incidents import RING_SIZE
from proxy.logs import LOG
from proxy.settings import Settings, SettingsError
from proxy.totals import Totals
from proxy.workers import Worker, ending

ANSWER_S = 1.0
"""Whoever has not told its numbers by then is shown as it last did."""

FAILED_STARTS = 5
"""After so many in a row, and with nobody serving, it is hopeless."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_STEADY_S = 10.0
"""One that has lived so long is replaced at once, however often that happens."""


class GaveUpError(Exception):
    """No worker can be started any more. The message is one line."""


class Crew:
    """The workers of an instance."""

    def __init__(self, settings: Settings, totals: Totals, restarts: Counter) -> None:
        """Take what they are to be, and where their numbers go."""
        self._settings = pickle.dumps(settings)
        self._pseudonym = new_pseudonym()
        self._totals = totals
        self._restarts = restarts
        self._incidents: list[tuple[float, bytes]] = []
        self._workers: dict[int, Worker] = {}
        self._keepers = [
            asyncio.create_task(self._keep(number)) for number in range(1, settings.workers + 1)
        ]
        for keeper in self._keepers:
            keeper.add_done_callback(self._kept)
        self._failed_starts = 0
        self._leaving = asyncio.Event()
        self.complete = asyncio.Event()
        """All of them have begun to listen."""
        self.hopeless = asyncio.Event()
        self.error: SettingsError | GaveUpError | None = None
        """Why it is."""

    @property
    def serving(self) -> int:
        """How many take requests."""
        return sum(worker.serving for worker in self._workers.values())

    @property
    def incidents(self) -> list[bytes]:
        """What they have told of incidents, as JSON, newest first."""
        return [record for _, record in reversed(self._incidents)]

    async def tell(self) -> None:
        """Let all who are there tell how things stand, as far as they answer in time."""
        asked = [worker.ask() for worker in self._workers.values()]
        if asked:
            await asyncio.wait(asked, timeout=ANSWER_S)

    def drain(self) -> None:
        """Let them serve no more, and replace none; the second time, end at once."""
        self._leaving.set()
        for worker in self._workers.values():
            worker.drain()

    async def gone(self) -> None:
        """Wait for the end of all, once they are told to go."""
        await asyncio.wait(self._keepers)

    def kill(self) -> None:
        """End those that are left, whatever they do."""
        self._leaving.set()
        for worker in self._workers.values():
            worker.kill()

    async def close(self) -> None:
        """End everything, and bury it."""
        self.kill()
        await self.gone()

    async def _keep(self, number: int) -> None:
        """Keep one place filled."""
        clock = asyncio.get_running_loop().time
        setup = Setup(number, self._settings, self._pseudonym)
        short_lives = 0
        while not self._leaving.is_set():
            born = clock()
            worker = self._workers[number] = Worker(setup, self._listening, self._told(number))
            how = await self._live(worker)
            lost = self._totals.retire(number)
            if how:
                fields = {"worker": number, "pid": worker.pid, "how": how, "streams": lost}
                LOG.error("worker died", extra={"fields": fields})
            if self._leaving.is_set():
                return
            self._judge(worker, how)
            short_lives = short_lives + 1 if clock() - born < _STEADY_S else 0
            await self._pause(min(_FIRST_PAUSE_S * 2**short_lives, _LONGEST_PAUSE_S))
            self._restarts.inc()

    async def _live(self, worker: Worker) -> str:
        """Let a worker live; return in words what it died of, nothing where it was told to go."""
        try:
            code = await worker.live()
        except OSError as error:
            return f"cannot be started ({os.strerror(error.errno or 0)})"
        return "" if code == 0 and self._leaving.is_set() else ending(code)

    def _judge(self, worker: Worker, how: str) -> None:
        """See whether there is hope, after one has died."""
        if worker.has_listened:
            return
        self._failed_starts += 1
        if worker.refusal and not self.complete.is_set():
            self._despair(SettingsError(worker.refusal))
        elif self._failed_starts >= FAILED_STARTS and not self.serving:
            text = f"giving up: no worker can be started, the last one: {how}"
            self._despair(GaveUpError(text))

    def _despair(self, error: SettingsError | GaveUpError) -> None:
        self.error = self.error or error
        self.hopeless.set()

    def _kept(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            LOG.error("bug", exc_info=error)
            self._despair(GaveUpError("giving up: a place of a worker is lost by a bug"))

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._leaving.wait(), seconds)

    def _listening(self, worker: Worker) -> None:
        self._failed_starts = 0
        say = LOG.info if self.complete.is_set() else LOG.debug
        say("worker listens", extra={"fields": {"worker": worker.number, "pid": worker.pid}})
        if self.serving == len(self._keepers):
            self.complete.set()

    def _told(self, number: int) -> Any:
        def take(told: Told) -> None:
            self._totals.tell(number, told.families)
            if told.incidents:
                both = sorted([*self._incidents, *told.incidents], key=lambda one: one[0])
                self._incidents = both[-RING_SIZE:]

        return take
