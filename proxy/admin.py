"""The admin listener: metrics, health, readiness, incidents. Read-only, no bodies, no keys.

Knows the paths. Must not know how the numbers came about.
"""

from __future__ import annotations

import json
from collections.abc import Callable

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


class Admin:
    """Handles the requests of the admin listener."""

    def __init__(self, edge: Edge, gate: Gate) -> None:
        """Take what is shown."""
        self._edge = edge
        self._gate = gate
        self._pages: dict[str, Callable[[web.BaseRequest], _Page]] = {
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
        status, body, kind = page(request)
        return web.Response(status=status, body=body, headers={**_HEADERS, "Content-Type": kind})

    def _metrics(self, request: web.BaseRequest) -> _Page:
        return 200, *self._edge.metrics.expose(request.headers.get("Accept", ""))

    def _health(self, _request: web.BaseRequest) -> _Page:
        return 200, b"ok\n", _TEXT

    def _ready(self, _request: web.BaseRequest) -> _Page:
        return (503, b"draining\n", _TEXT) if self._edge.draining else (200, b"ready\n", _TEXT)

    def _incidents(self, _request: web.BaseRequest) -> _Page:
        return 200, json.dumps({"incidents": self._edge.ring.newest()}).encode(), "application/json"
