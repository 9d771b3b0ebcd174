"""The parent of workers: it holds the port, shows what they do, and knows when all must go.

Knows signals, which are its alone, and the order of starting and stopping. Must not know
requests: it serves none but the admin listener's.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from proxy.admin import PROBES, Admin
from proxy.crew import Crew
from proxy.gate import Gate
from proxy.listening import Claim, Listener, refuse_self
from proxy.logs import LOG
from proxy.metrics import Metrics
from proxy.settings import Settings
from proxy.totals import Totals

LEEWAY_S = 0.9
"""What workers may take beyond their grace and timeout; they give streams half a second of it."""


class Parent:
    """The proxy in several processes."""

    def __init__(self, settings: Settings) -> None:
        """Make the parts; must be called in the running loop."""
        refuse_self(settings)
        self.settings = settings
        self.port = 0
        """The port of the API."""
        self._metrics = Metrics("", lambda: 0.0)
        self._totals = Totals(self._metrics.registry)
        admin = Admin(self, Gate(settings, PROBES))
        self._admin = Listener(admin.handle)
        self._claim: Claim | None = None
        self._crew: Crew | None = None
        self._stop = asyncio.Event()
        self._now = asyncio.Event()

    @property
    def admin_port(self) -> int:
        """The port of the admin listener."""
        return self._admin.port

    def stop(self) -> None:
        """Begin to drain; the second call ends at once."""
        if self._stop.is_set():
            self._now.set()
        self._stop.set()

    async def run(self, started: Callable[[Parent], None]) -> None:
        """Serve until told to stop, then drain.

        Raises SettingsError when an address cannot be had, GaveUpError when no worker can be
        kept alive.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            crew = await self._start()
            await _any(self._stop, crew.complete, crew.hopeless)
            if crew.complete.is_set():
                started(self)
            await _any(self._stop, crew.hopeless)
            await self._drain(crew)
            if crew.error is not None:
                raise crew.error
        finally:
            await self.close()

    async def close(self) -> None:
        """Close everything, and end the workers that are left."""
        if self._crew is not None:
            await self._crew.close()
        await self._admin.close()
        if self._claim is not None:
            self._claim.release()

    # --- what is shown ---

    def unready(self) -> str:
        """Return in a word why no requests are taken; nothing where they are."""
        if self._stop.is_set():
            return "draining"
        return "" if self._crew is not None and self._crew.serving else "starting"

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Return the sums over all workers."""
        await self._ask()
        return self._totals.expose(accept)

    async def incidents(self) -> list[bytes]:
        """Return the newest incidents of all workers."""
        await self._ask()
        return self._crew.incidents if self._crew is not None else []

    async def _ask(self) -> None:
        if self._crew is not None:
            await self._crew.tell()

    # --- its life ---

    async def _start(self) -> Crew:
        settings = self.settings
        await self._admin.start(settings.admin_host, settings.admin_port, "admin_port")
        self._claim = Claim(settings.host, settings.port)
        self.port = self._claim.port
        own = settings.model_copy(update={"port": self.port})
        self._crew = Crew(own, self._totals, self._metrics.worker_restarts)
        return self._crew

    async def _drain(self, crew: Crew) -> None:
        """Let the workers end their streams; see that they come to an end themselves."""
        settings = self.settings
        self._stop.set()
        self._metrics.draining.set(1)
        crew.drain()
        if self._claim is not None:
            # Who comes next may have the port as soon as nobody listens on it.
            loop = asyncio.get_running_loop()
            loop.call_later(settings.drain_grace_s, self._claim.release)
        gone = asyncio.create_task(crew.gone())
        now = asyncio.create_task(self._now.wait())
        patience = settings.drain_grace_s + settings.drain_timeout_s + LEEWAY_S
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait({gone, now}, timeout=patience, return_when=first)
        if not gone.done() and now.done():
            crew.drain()
            await asyncio.wait({gone}, timeout=LEEWAY_S)
        now.cancel()
        if not gone.done():
            LOG.error("workers are killed: they do not end")
            crew.kill()
        await gone


async def _any(*events: asyncio.Event) -> None:
    """Wait for the first of some events."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
