"""aiohttp's low-level server, with its error pages and its logging of foreign bytes taken out.

Knows the server defaults that bite (docs/architecture.md). Must not know what is served. A
malformed header line is logged in full and sent back in the 400 by aiohttp, keys included;
here it is answered with a fixed text.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from proxy.core.errors import error_reply
from proxy.logs import LOG
from proxy.raw import Raw
from proxy.replies import error_response

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

KEEPALIVE_S = 20.0
"""Longer than the pools of httpx (5 s) and undici (4 s); also the deadline for slow headers."""

_LINGER_S = 2.0

_SILENT = logging.getLogger("aiohttp.silent")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False
_SILENT.disabled = True


class _QuietHandler(Raw, RequestHandler):
    """One client connection."""

    def data_received(self, data: bytes) -> None:
        """Take bytes; break off a body whose chunks are none.

        aiohttp queues the error behind the request and leaves its reader waiting (3.14.5).
        """
        super().data_received(data)
        request = self._current_request
        if request is not None and self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            body = request.content
            if not body.is_eof() and body.exception() is None:
                body.set_exception(web.RequestPayloadError())

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - quotes the client's bytes
    ) -> web.StreamResponse:
        """Answer without quoting anything."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            LOG.error("bug", exc_info=exc)
            reply = error_reply(status, "internal_error", "The proxy failed by a bug of its own.")
        else:
            text = "The request is not valid HTTP."
            reply = error_reply(status, "bad_request", text, "invalid_request_error")
        if request.writer.output_size > 0:
            raise ConnectionError
        response = error_response(reply)
        response.force_close()
        return response


class QuietServer(web.Server):
    """Serves a handler; a client that leaves cancels it at once."""

    def __init__(self, handler: Handler) -> None:
        """Set every default that matters."""
        super().__init__(
            handler,
            # Off by default in production and on in pytest-aiohttp, which hides its absence.
            handler_cancellation=True,
        )

    def __call__(self) -> RequestHandler:
        """Make the protocol for one connection."""
        return _QuietHandler(
            self,
            loop=self._loop,
            access_log=_SILENT,
            logger=_SILENT,
            keepalive_timeout=KEEPALIVE_S,
            auto_decompress=False,
            lingering_time=_LINGER_S,
        )
