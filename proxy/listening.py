"""Addresses to listen on: had, shared between processes, or refused in one line.

Knows sockets and what their errors mean to whoever set the address. Must not know what is
served there.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import itertools
import os
import socket

from aiohttp import web
from yarl import URL

from proxy.server import Handler, QuietServer
from proxy.settings import WILDCARDS, Settings, SettingsError

_BACKLOG = 1024
_SHUTDOWN_S = 0.1


class Listener:
    """Serves a handler on one address of the settings."""

    def __init__(self, handler: Handler) -> None:
        """Prepare; must be called in the running loop."""
        self._runner = web.ServerRunner(QuietServer(handler), shutdown_timeout=_SHUTDOWN_S)
        self._site: web.TCPSite | None = None
        self.port = 0
        """The port that was had."""

    async def start(self, host: str, port: int, setting: str, *, shared: bool = False) -> None:
        """Listen. Raises SettingsError, naming the ``setting`` of the port, where that fails.

        A ``shared`` port may be listened on by several processes, if each of them says so.
        """
        await self._runner.setup()
        share = True if shared else None
        site = web.TCPSite(self._runner, host, port, backlog=_BACKLOG, reuse_port=share)
        try:
            await site.start()
        except (OSError, UnicodeError) as error:
            raise _cannot_listen(setting, host, port, error) from None
        self._site = site
        self.port = self._runner.addresses[-1][1]

    async def accept_no_more(self) -> None:
        """Take no new connections; those that are there go on."""
        if self._site is not None:
            await self._site.stop()

    async def close(self) -> None:
        """Close the listener and its connections."""
        await self._runner.cleanup()


class Claim:
    """A port held for the workers, who may listen on it; nobody else can have it.

    Nothing listens here, so the kernel gives no connection to it. Another program is kept out,
    and so is a second instance of this one, although both would agree to share: the port is
    taken exclusively, and opened to the workers only afterwards.
    """

    def __init__(self, host: str, port: int) -> None:
        """Take the port, any free one if it is 0. Raises SettingsError where that fails."""
        if not hasattr(socket, "SO_REUSEPORT"):
            raise SettingsError("workers: must be 1 on this system: it cannot share a port")
        self._held = contextlib.ExitStack()
        self.port = port
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=_PASSIVE)
            for family, *_, address in dict.fromkeys(found):
                held = self._held.enter_context(socket.socket(family, socket.SOCK_STREAM))
                _take(held, (str(address[0]), self.port, *address[2:]))
                self.port = held.getsockname()[1]
        except (OSError, UnicodeError) as error:
            self.release()
            raise _cannot_listen("port", host, port, error) from None

    def release(self) -> None:
        """Give the port up."""
        self._held.close()


_PASSIVE = socket.AI_PASSIVE


def _take(held: socket.socket, address: tuple[str | int, ...]) -> None:
    if held.family == socket.AF_INET6:
        # As asyncio does it: the IPv4 side is an address of its own.
        held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        held.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # Perhaps by connections of an earlier run that only wait for their time to be over.
        # With this option they do not count; without it, from then on, our claim does.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(address)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _cannot_listen(setting: str, host: str, port: int, error: Exception) -> SettingsError:
    number = getattr(error, "errno", None) or 0
    if number not in errno.errorcode or number in {errno.EADDRNOTAVAIL, errno.EINVAL}:
        setting = setting.replace("port", "host")
    reason = os.strerror(number) if number in errno.errorcode else "no such address"
    text = f"{setting}: cannot listen on {host}:{port} ({reason}); choose another with"
    return SettingsError(f"{text} --{setting.replace('_', '-')}")


# --- a proxy in front of itself ---


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
