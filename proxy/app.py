"""One process: two listeners, signals, drain.

Knows the order of starting and stopping. Must not know requests. The drain
first turns unready, then stops accepting, then waits, and ends loudly what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import itertools
import os
import signal
import socket
import sys
from collections.abc import Callable

from aiohttp import web
from yarl import URL

from proxy.admin import PROBES, Admin
from proxy.api import Api
from proxy.edge import Edge
from proxy.gate import Gate
from proxy.logs import LOG
from proxy.server import Handler, QuietServer
from proxy.settings import WILDCARDS, Settings, SettingsError, base_url
from proxy.version import __version__

_SAY_EVERY_S = 5.0
_LOOK_EVERY_S = 0.02
_LAST_WORDS_S = 0.5
"""How long streams that are ended may take to say so."""


class App:
    """The running proxy."""

    def __init__(self, settings: Settings) -> None:
        """Make the parts; must be called in the running loop."""
        refuse_self(settings)
        self.settings = settings
        self.edge = Edge(settings)
        self._api = Api(self.edge, Gate(settings))
        self._admin = Admin(self.edge, Gate(settings, PROBES))
        self._runners: list[web.ServerRunner] = []
        self._api_site: web.TCPSite | None = None
        self._stop = asyncio.Event()
        self._now = asyncio.Event()
        self.port = self.admin_port = 0

    async def start(self) -> None:
        """Listen. Raises SettingsError when an address cannot be had."""
        settings = self.settings
        _, self.admin_port = await self._listen(
            self._admin.handle, settings.admin_host, settings.admin_port, "admin_port"
        )
        self._api_site, self.port = await self._listen(
            self._api.handle, settings.host, settings.port, "port"
        )
        self._api.port = self.port

    def stop(self) -> None:
        """Begin to drain; the second call ends at once."""
        if self._stop.is_set():
            self._now.set()
        self._stop.set()

    async def run(self, started: Callable[[App], None]) -> None:
        """Serve until told to stop, then drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            await self.start()
            started(self)
            await self._stop.wait()
            await self._drain()
        finally:
            await self.close()

    async def close(self) -> None:
        """Close both listeners and everything behind them."""
        for runner in self._runners:
            await runner.cleanup()
        await self.edge.close()

    async def _listen(
        self, handler: Handler, host: str, port: int, setting: str
    ) -> tuple[web.TCPSite, int]:
        runner = web.ServerRunner(QuietServer(handler), shutdown_timeout=0.1)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, host, port, backlog=1024)
        try:
            await site.start()
        except (OSError, UnicodeError) as error:
            number = getattr(error, "errno", None) or 0
            if number not in errno.errorcode or number in {errno.EADDRNOTAVAIL, errno.EINVAL}:
                setting = setting.replace("port", "host")
            reason = os.strerror(number) if number in errno.errorcode else "no such address"
            text = f"{setting}: cannot listen on {host}:{port} ({reason}); choose another with"
            flag = "--" + setting.replace("_", "-")
            raise SettingsError(f"{text} {flag}") from None
        return site, runner.addresses[-1][1]

    async def _drain(self) -> None:
        edge, settings = self.edge, self.settings
        edge.draining = True
        edge.metrics.draining.set(1)
        LOG.info("draining", extra={"fields": {"in_flight": len(edge.under_way)}})
        await self._sleep(settings.drain_grace_s)
        edge.closed = True
        if self._api_site is not None:
            await self._api_site.stop()
        await self._wait_for_streams(settings.drain_timeout_s)
        left = len(edge.under_way)
        for relay in list(edge.under_way):
            relay.abort()
        await self._wait_for_streams(_LAST_WORDS_S, hurry=False)
        LOG.info("drained", extra={"fields": {"ended_loudly": left}})

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


def refuse_self(settings: Settings) -> None:
    """Raise SettingsError if an upstream is this proxy: every request would come back."""
    listeners = ((settings.host, settings.port), (settings.admin_host, settings.admin_port))
    upstreams = {"upstream": settings.upstream}
    upstreams |= {f"upstreams.{one.name}.base_url": one.base_url for one in settings.upstreams}
    for (name, base), (host, port) in itertools.product(upstreams.items(), listeners):
        url = URL(base)
        if port == url.port and _meet(_addresses(url.host or ""), _addresses(host)):
            text = f"{name}: points at this proxy itself; set it to the API to be called, such as"
            raise SettingsError(f"{text} https://api.openai.com/v1")


def _meet(theirs: set[str], own: set[str]) -> bool:
    """Say whether a connection to their addresses may arrive at a listener on our own."""
    if own & WILDCARDS:
        return any(_is_local(address) for address in theirs)
    if theirs & WILDCARDS:
        # A connection to "any address" is one to this machine.
        return any(ipaddress.ip_address(address).is_loopback for address in own)
    return bool(theirs & own)


def _addresses(host: str) -> set[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {str(entry[4][0]).removeprefix("::ffff:") for entry in found}


def _is_local(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def serve(settings: Settings, started: Callable[[App], None]) -> None:
    """Run until a signal. Raises SettingsError when it cannot start."""

    async def main() -> None:
        await App(settings).run(started)

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 - not to be had on Windows

    return uvloop.new_event_loop


def describe(app: App) -> dict[str, str]:
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
