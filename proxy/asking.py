"""From a command of the core to a request on the wire.

Knows whose headers and body go along. Must not know when a request is sent or why.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Coroutine
from typing import Any

from aiohttp import web

from proxy.answer import Answer
from proxy.core.commands import Open
from proxy.core.request import Request
from proxy.edge import Edge
from proxy.headers import to_upstream

_OF_THE_BODY = ("Content-Length", "Content-MD5", "Content-Digest", "Digest", "Idempotency-Key")

Body = bytes | AsyncIterable[bytes] | None


class Asker:
    """Sends the requests of one client; ``body`` is the client's own, read or to be streamed."""

    def __init__(self, edge: Edge, client: web.BaseRequest, request: Request, body: Body) -> None:
        """Take what the client sent."""
        self._edge = edge
        self._client = client
        self._request = request
        self._body = body

    def ask(self, command: Open, *, stream: bool, fresh: bool) -> Coroutine[Any, Any, Answer]:
        """Send what a command says; ``fresh`` asks for a connection of its own."""
        request = command.request
        upstream = self._edge.upstreams[command.target.upstream]
        headers = to_upstream(self._client.headers.items(), via=self._edge.via, stream=stream)
        body = self._body
        if request is not self._request:
            # Another body, or none: what was said of the first one is not true of it.
            body = request.body
            for name in (*_OF_THE_BODY, *(() if body else ("Content-Type",))):
                headers.popall(name, None)
        headers, target = upstream.dress(headers), upstream.aim(request.target)
        own = request.own_path
        return upstream.open(request.method, target, headers, body, fresh=fresh, own=own)
