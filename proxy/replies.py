"""Error replies of the proxy's own, as aiohttp responses.

Knows the headers that SDKs read on an error. Must not know why it came to it.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from proxy.core.errors import Reply

SERVER = "wholestream"


def error_response(reply: Reply, headers: Mapping[str, str] | None = None) -> web.Response:
    """Turn a reply into a response; ``x-should-retry`` steers the official SDKs."""
    response = web.Response(status=reply.status, body=reply.body, headers=headers)
    response.headers["Content-Type"] = "application/json"
    response.headers["Server"] = SERVER
    response.headers["x-should-retry"] = "true" if reply.should_retry else "false"
    if reply.retry_after_s is not None:
        response.headers["Retry-After"] = str(reply.retry_after_s)
    return response
