"""One worker process, from inside: it serves, obeys and tells.

Knows the channel to its parent, which is all that it listens to: a signal for the whole
process group must not count twice, so SIGINT and SIGTERM are the parent's. Must not know other
workers. Where the parent is gone, it ends.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import pickle
import signal
import socket
from typing import Any

from proxy.channel import ORDERS, Channel, Listening, Order, Refused, Report, Setup, Told
from proxy.logs import LOG, set_up
from proxy.service import Service, loop_factory
from proxy.settings import Settings, SettingsError
from proxy.totals import families

SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})

_EVERY_S = 1.0
_SHARE = 0.01
"""Telling unasked may take so much of the process's time: it is done less often where it costs."""


def main(fd: int) -> None:
    """Be a worker; ``fd`` is the socket to the parent. Started with SIGNALS blocked."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    set_up("info", "auto")
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_work(socket.socket(fileno=fd)))
    except Exception:  # noqa: BLE001 - told as everything else is, not as a bare traceback
        LOG.exception("bug")
        raise SystemExit(1) from None


async def _work(end: socket.socket) -> None:
    channel = await Channel.over(end, ORDERS)
    setup = await channel.hear()
    if isinstance(setup, Setup):
        settings: Settings = pickle.loads(setup.settings)  # noqa: S301 - from our own parent
        set_up(settings.log_level, settings.log_format)
        logging.getLogger().handlers[0].addFilter(_Numbered(setup.number))
        await Worker(channel, Service(settings, setup.pseudonym)).run()
    await channel.close()


class Worker:
    """A service that obeys its parent."""

    def __init__(self, channel: Channel[Order], service: Service) -> None:
        """Take both."""
        self._channel = channel
        self._service = service
        self._last: dict[str, Any] | None = None

    async def run(self) -> None:
        """Serve until told to stop, or until nobody is there to tell it."""
        service = self._service
        tasks: list[asyncio.Task[None]] = []
        try:
            await service.start(shared=True)
            self._channel.say(Listening())
            tasks = [asyncio.create_task(work()) for work in (self._obey, self._tell_regularly)]
            for task in tasks:
                task.add_done_callback(_log_a_bug)
            await service.until_drained()
        except SettingsError as error:
            self._channel.say(Refused(str(error)))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await service.close()
        self._tell()

    async def _obey(self) -> None:
        try:
            while (order := await self._channel.hear()) is not None:
                if isinstance(order, Report):
                    self._tell(order.question)
                else:
                    self._service.stop()
        finally:
            # Nobody is left to say when: at once.
            self._service.stop()
            self._service.stop()

    async def _tell_regularly(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            self._tell()
            took = clock() - began
            await self._channel.heard()
            await asyncio.sleep(max(_EVERY_S, took / _SHARE))

    def _tell(self, question: int = 0) -> None:
        metrics = self._service.edge.metrics
        metrics.refresh()
        self._channel.say(Told(question, families(metrics.registry), self._new_incidents()))

    def _new_incidents(self) -> list[tuple[float, bytes]]:
        newest = self._service.edge.ring.newest()
        records = list(itertools.takewhile(lambda one: one is not self._last, newest))
        self._last = newest[0] if newest else None
        return [(record["time"], json.dumps(record).encode()) for record in reversed(records)]


def _log_a_bug(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        LOG.error("bug", exc_info=error)


class _Numbered(logging.Filter):
    """Says in each line which worker it comes from."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the number."""
        fields = record.__dict__.get("fields", {})
        record.__dict__["fields"] = {"worker": self._number, **fields}
        return True
