"""The API listener: lets requests in, reads what must be kept, starts a relay for each.

Knows the paths that are served and the caps on bodies. Must not know streams.
"""

from __future__ import annotations

from aiohttp import web

from proxy.core.errors import Reply, error_reply
from proxy.core.request import Request
from proxy.edge import Edge
from proxy.gate import Gate
from proxy.relay import Relay
from proxy.replies import error_response
from proxy.upstream import BadTargetError

_BASE = "/v1"
_LOOP = 508
_KIND = "invalid_request_error"


class Api:
    """Handles the requests of the API listener."""

    def __init__(self, edge: Edge, gate: Gate) -> None:
        """Take what all requests share."""
        self._edge = edge
        self._gate = gate
        self.port = edge.settings.port
        """The port listened on, for the text of the 404."""

    async def handle(self, client: web.BaseRequest) -> web.StreamResponse:
        """Serve one request."""
        refusal = self._gate.refuse(client) or self._refuse(client)
        cors = self._gate.cors(client)
        if refusal is not None:
            return self._refused(refusal, cors)
        if client.method == "OPTIONS" and "Access-Control-Request-Method" in client.headers:
            return web.Response(status=204, headers=cors)
        target = client.raw_path[len(_BASE) :]
        try:
            self._edge.upstream.url(target)
        except BadTargetError:
            return self._refused(error_reply(400, "bad_request", _BAD_TARGET, _KIND), cors)
        recovery = client.headers.get("X-Wholestream-Recovery", "").strip().lower() != "off"
        if _is_upload(client):
            request = Request(client.method, target, None, recovery)
            return await Relay(self._edge, client, request, client.content, cors).run()
        body = await self._read(client)
        if body is None:
            return self._refused(_too_large(self._edge.settings.max_request_bytes), cors)
        request = Request(client.method, target, body, recovery)
        return await Relay(self._edge, client, request, body, cors).run()

    def _refuse(self, client: web.BaseRequest) -> Reply | None:
        if self._edge.closed:
            text = "The proxy is shutting down. Try again: another instance may answer."
            return Reply(503, error_reply(503, "overloaded", text).body, True, 1)  # noqa: FBT003
        path = client.raw_path.partition("?")[0]
        if path != _BASE and not path.startswith(_BASE + "/"):
            settings = self._edge.settings
            host = settings.host if ":" not in settings.host else f"[{settings.host}]"
            text = f"Nothing is served here. Set OPENAI_BASE_URL=http://{host}:{self.port}/v1"
            return error_reply(404, "not_found", text, _KIND)
        if self._edge.pseudonym in client.headers.get("Via", ""):
            text = "The request came back to this proxy. Point the setting upstream elsewhere."
            return error_reply(_LOOP, "loop_detected", text, _KIND)
        return None

    async def _read(self, client: web.BaseRequest) -> bytes | None:
        """Read a body that may have to be sent again; None when it is too large."""
        cap = self._edge.settings.max_request_bytes
        if (client.content_length or 0) > cap:
            return None
        parts: list[bytes] = []
        size = 0
        while part := await client.content.readany():
            parts.append(part)
            size += len(part)
            if size > cap:
                return None
        return b"".join(parts)

    def _refused(self, reply: Reply, cors: dict[str, str]) -> web.Response:
        response = error_response(reply, cors)
        # The body may not be read; what is left of it must not become the next request.
        response.force_close()
        return response


_BAD_TARGET = "The request target cannot be sent on byte for byte."


def _is_upload(client: web.BaseRequest) -> bool:
    """Say whether a body is streamed through: whatever is not JSON that we can read."""
    if not client.can_read_body:
        return False
    kind = client.headers.get("Content-Type", "application/json").partition(";")[0].strip().lower()
    is_json = kind == "application/json" or kind.endswith("+json")
    return not is_json or "Content-Encoding" in client.headers


def _too_large(cap: int) -> Reply:
    text = f"The request body is larger than the setting max_request_bytes allows ({cap} bytes)."
    return error_reply(413, "request_too_large", text, _KIND)
