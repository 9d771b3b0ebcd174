"""What one process does for applications: the API listener, all behind it, and its drain.

Knows the order of starting and stopping. Must not know requests, nor who else serves the same
port. The drain first turns unready, then stops accepting, then waits, and ends loudly what is
left.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable

from proxy.api import Api
from proxy.edge import Edge
from proxy.gate import Gate
from proxy.listening import Listener
from proxy.logs import LOG
from proxy.settings import Settings

_SAY_EVERY_S = 5.0
_LOOK_EVERY_S = 0.02
LAST_WORDS_S = 0.5
"""How long streams that are ended may take to say so."""


class Service:
    """The API of one process."""

    def __init__(self, settings: Settings, pseudonym: str = "") -> None:
        """Make the parts; must be called in the running loop.

        ``pseudonym`` is how all processes of an instance sign ``Via``; without one, a new one.
        """
        self.settings = settings
        self.edge = Edge(settings, pseudonym)
        self._api = Api(self.edge, Gate(settings))
        self._listener = Listener(self._api.handle)
        self._stop = asyncio.Event()
        self._now = asyncio.Event()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._listener.port

    async def start(self, *, shared: bool = False) -> None:
        """Listen, on a port ``shared`` with other processes or alone.

        Raises SettingsError when the address cannot be had.
        """
        settings = self.settings
        await self._listener.start(settings.host, settings.port, "port", shared=shared)
        self._api.port = self.port

    def stop(self) -> None:
        """Begin to drain; the second call ends at once."""
        if self._stop.is_set():
            self._now.set()
        self._stop.set()

    async def until_drained(self) -> None:
        """Serve until told to stop, then drain."""
        await self._stop.wait()
        edge, settings = self.edge, self.settings
        edge.draining = True
        edge.metrics.draining.set(1)
        LOG.info("draining", extra={"fields": {"in_flight": len(edge.under_way)}})
        await self._sleep(settings.drain_grace_s)
        edge.closed = True
        await self._listener.accept_no_more()
        await self._wait_for_streams(settings.drain_timeout_s)
        left = len(edge.under_way)
        for relay in list(edge.under_way):
            relay.abort()
        await self._wait_for_streams(LAST_WORDS_S, hurry=False)
        LOG.info("drained", extra={"fields": {"ended_loudly": left}})

    async def close(self) -> None:
        """Close the listener and everything behind it."""
        await self._listener.close()
        await self.edge.close()

    async def _wait_for_streams(self, timeout_s: float, *, hurry: bool = True) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        said = loop.time()
        while self.edge.under_way and loop.time() < deadline:
            if hurry and self._now.is_set():
                return
            await asyncio.sleep(_LOOK_EVERY_S)
            if loop.time() - said >= _SAY_EVERY_S:
                said = loop.time()
                fields = {"in_flight": len(self.edge.under_way)}
                LOG.info("waiting for streams", extra={"fields": fields})

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._now.wait(), seconds)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop of a process; nothing for Python's own."""
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 - not to be had on Windows

    return uvloop.new_event_loop
