"""HAProxy with one thread and ``option http-no-delay``, without which it may hold events back."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from bench.processes import Launch
from bench.systems.base import HOST, MAX_STREAMS, Place, System, said

_CONFIG = """\
global
    nbthread 1
    maxconn {streams}
defaults
    mode http
    option http-no-delay
    option http-keep-alive
    http-reuse always
    timeout connect 10s
    timeout client 600s
    timeout server 600s
frontend bench
    bind {host}:{port} backlog 8192
    default_backend upstream
backend upstream
    server upstream {host}:{upstream_port}
"""


def _binary() -> str | None:
    return shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class HAProxy(System):
    """The machine's HAProxy."""

    name: str = "haproxy"

    def missing(self) -> str | None:
        """Look for the binary."""
        return None if _binary() else "no haproxy on this machine; try: apt-get install haproxy"

    def version(self) -> str:
        """Ask it."""
        return " ".join(said(_binary() or "haproxy", "-v").split()[:3])

    def launch(self, place: Place) -> Launch:
        """Write its configuration; it stays in the foreground."""
        config = _CONFIG.format(
            host=HOST, port=place.port, upstream_port=place.upstream_port, streams=MAX_STREAMS
        )
        argv = [_binary() or "haproxy", "-db", "-q", "-f"]
        return Launch([*argv, place.file("haproxy.cfg", config)])
