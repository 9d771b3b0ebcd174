"""The running proxy: one process with two listeners, or a parent with workers.

Knows what makes up a process and its signals. Must not know requests.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Protocol

from proxy.admin import PROBES, Admin, Own
from proxy.crew import GaveUpError
from proxy.edge import Edge
from proxy.gate import Gate
from proxy.listening import Listener, refuse_self
from proxy.logs import LOG
from proxy.parent import Parent
from proxy.service import Service, loop_factory
from proxy.settings import Settings, base_url
from proxy.version import __version__


class Running(Protocol):
    """The running proxy, in however many processes."""

    @property
    def settings(self) -> Settings:
        """What it was set to."""

    @property
    def port(self) -> int:
        """The port of the API."""

    @property
    def admin_port(self) -> int:
        """The port of the admin listener."""

    async def run(self, started: Callable[[Running], None]) -> None:
        """Serve until told to stop, then drain."""


class App:
    """The proxy in one process."""

    def __init__(self, settings: Settings) -> None:
        """Make the parts; must be called in the running loop."""
        refuse_self(settings)
        self.settings = settings
        self._service = Service(settings)
        admin = Admin(Own(self.edge), Gate(settings, PROBES))
        self._admin = Listener(admin.handle)

    @property
    def edge(self) -> Edge:
        """What its requests share."""
        return self._service.edge

    @property
    def port(self) -> int:
        """The port of the API."""
        return self._service.port

    @property
    def admin_port(self) -> int:
        """The port of the admin listener."""
        return self._admin.port

    async def start(self) -> None:
        """Listen. Raises SettingsError when an address cannot be had."""
        settings = self.settings
        await self._admin.start(settings.admin_host, settings.admin_port, "admin_port")
        await self._service.start()

    def stop(self) -> None:
        """Begin to drain; the second call ends at once."""
        self._service.stop()

    async def run(self, started: Callable[[Running], None]) -> None:
        """Serve until told to stop, then drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            await self.start()
            started(self)
            await self._service.until_drained()
        finally:
            await self.close()

    async def close(self) -> None:
        """Close both listeners and everything behind them."""
        await self._admin.close()
        await self._service.close()


def serve(settings: Settings, started: Callable[[Running], None]) -> int:
    """Run until a signal, return the exit code. Raises SettingsError when it cannot start."""

    async def main() -> None:
        app = App(settings) if settings.workers == 1 else Parent(settings)
        await app.run(started)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            runner.run(main())
        except GaveUpError as error:
            LOG.error(str(error))
            return 1
    return 0


def describe(app: Running) -> dict[str, str]:
    """Return what a user needs to know at the start."""
    api = base_url(app.settings.host, app.port)
    admin = base_url(app.settings.admin_host, app.admin_port)
    return {
        "version": __version__,
        "base_url": f"{api}/v1",
        "export": f"export OPENAI_BASE_URL={api}/v1",
        "metrics": f"{admin}/metrics",
        "admin": f"{admin}/api/incidents",
        "upstream": app.settings.upstream,
    }
