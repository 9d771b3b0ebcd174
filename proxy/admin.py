"""The admin listener: metrics, health, readiness, incidents. Read-only, no bodies, no keys.

Knows the paths. Must not know how the numbers came about.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import web

from proxy.core.errors import error_reply
from proxy.edge import Edge
from proxy.gate import Gate
from proxy.replies import SERVER, error_response

_Page = tuple[int, bytes, str]
"""Status, body, content type."""

_NOT_FOUND = error_reply(
    404, "not_found", "Served here: /metrics, /healthz, /readyz, /api/incidents"
)
_TEXT = "text/plain; charset=utf-8"

PROBES = frozenset({"/metrics", "/healthz", "/readyz"})
_HEADERS = {
    "Server": SERVER,
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'self'",
}


class Source(Protocol):
    """What is shown: of one process, or of several together."""

    def unready(self) -> str:
        """Return in a word why no requests are taken; nothing where they are."""

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Return the exposition that an ``Accept`` header asks for, and its content type."""

    async def incidents(self) -> list[bytes]:
        """Return the incidents as JSON objects, newest first."""


class Own:
    """What this process has to show."""

    def __init__(self, edge: Edge) -> None:
        """Take what its requests share."""
        self._edge = edge

    def unready(self) -> str:
        """Return whether it drains, in a word."""
        return "draining" if self._edge.draining else ""

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Return its exposition and the content type of that."""
        return self._edge.metrics.expose(accept)

    async def incidents(self) -> list[bytes]:
        """Return its incidents, newest first."""
        return [json.dumps(record).encode() for record in self._edge.ring.newest()]


class Admin:
    """Handles the requests of the admin listener."""

    def __init__(self, source: Source, gate: Gate) -> None:
        """Take what is shown."""
        self._source = source
        self._gate = gate
        self._pages: dict[str, Callable[[web.BaseRequest], Awaitable[_Page]]] = {
            "/metrics": self._metrics,
            "/healthz": self._health,
            "/readyz": self._ready,
            "/api/incidents": self._incidents,
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve one request."""
        refusal = self._gate.refuse(request)
        if refusal is None and request.method not in {"GET", "HEAD"}:
            refusal = error_reply(405, "method_not_allowed", "This listener is read-only: use GET.")
        page = self._pages.get(request.raw_path.partition("?")[0])
        if refusal is not None or page is None:
            return error_response(refusal or _NOT_FOUND)
        status, body, kind = await page(request)
        return web.Response(status=status, body=body, headers={**_HEADERS, "Content-Type": kind})

    async def _metrics(self, request: web.BaseRequest) -> _Page:
        return 200, *await self._source.metrics(request.headers.get("Accept", ""))

    async def _health(self, _request: web.BaseRequest) -> _Page:
        return 200, b"ok\n", _TEXT

    async def _ready(self, _request: web.BaseRequest) -> _Page:
        unready = self._source.unready()
        return (503 if unready else 200), f"{unready or 'ready'}\n".encode(), _TEXT

    async def _incidents(self, _request: web.BaseRequest) -> _Page:
        records = b", ".join(await self._source.incidents())
        return 200, b'{"incidents": [' + records + b"]}", "application/json"
