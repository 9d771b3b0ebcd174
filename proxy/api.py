"""The API listener: lets requests in, reads what must be kept, starts a relay for each.

Knows the paths that are served and the caps on bodies. Must not know streams.
"""

from __future__ import annotations

from dataclasses import replace

from aiohttp import HttpVersion11, web

from proxy.asking import Body
from proxy.core.errors import Reply, error_reply
from proxy.core.grammars import endpoint_of
from proxy.core.request import Request
from proxy.edge import Edge
from proxy.gate import Gate
from proxy.metrics import code_label
from proxy.relay import Relay
from proxy.replies import SERVER, error_response
from proxy.settings import base_url
from proxy.tunnel import Tunnel, asks_tunnel
from proxy.uploads import Upload, opened

_BASE = "/v1"
_LOOP = 508
_KIND = "invalid_request_error"
_STREAMING_UPLOADS = frozenset({"audio", "images"})
"""Only these may ask for a stream; all other uploads are not looked at."""


class _RefusedError(Exception):
    """A request that is not let in."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


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
        cors = self._gate.cors(client)
        try:
            self._admit(client)
            if client.method == "OPTIONS" and "Access-Control-Request-Method" in client.headers:
                return web.Response(status=204, headers={"Server": SERVER, **cors})
            request, body = await self._request(client)
        except _RefusedError as refused:
            response = error_response(refused.reply, cors)
            self._edge.metrics.requests.labels("other", code_label(refused.reply.status)).inc()
            # The body may not be read; what is left of it must not become the next request.
            response.force_close()
            return response
        if asks_tunnel(client, request):
            return await Tunnel(self._edge, client, request, cors).run()
        return await Relay(self._edge, client, request, body, cors).run()

    def _admit(self, client: web.BaseRequest) -> None:
        refusal = self._gate.refuse(client) or self._refuse(client)
        if refusal is not None:
            raise _RefusedError(refusal)

    async def _request(self, client: web.BaseRequest) -> tuple[Request, Body]:
        own = not _is_below_base(client.raw_path)
        target = client.raw_path if own else client.raw_path[len(_BASE) :]
        if not self._edge.upstreams.can_send(target, own=own):
            raise _RefusedError(error_reply(400, "bad_request", _BAD_TARGET, _KIND))
        recovery = client.headers.get("X-Wholestream-Recovery", "").strip().lower() != "off"
        request = Request(client.method, target, None, recovery, own_path=own)
        if not _is_upload(client):
            body = await self._read(client)
            return replace(request, body=body), body
        await _invite(client)
        if endpoint_of(request) not in _STREAMING_UPLOADS:
            return request, Upload(b"", client.content)
        try:
            form, upload = await opened(client.content, client.headers.get("Content-Type", ""))
        except web.RequestPayloadError:
            raise _RefusedError(error_reply(400, "bad_request", _BAD_BODY, _KIND)) from None
        return replace(request, form=form), upload

    def _refuse(self, client: web.BaseRequest) -> Reply | None:
        if self._edge.closed:
            text = "The proxy is shutting down. Try again: another instance may answer."
            return Reply(503, error_reply(503, "overloaded", text).body, True, 1)  # noqa: FBT003
        path = client.raw_path.partition("?")[0]
        if not _is_below_base(path) and not self._edge.upstreams[""].owns(path):
            base = base_url(self._edge.settings.host, self.port)
            text = f"Nothing is served here. Set OPENAI_BASE_URL={base}/v1"
            if path.startswith("/openai/"):
                text += ', or for clients of Azure the setting profile = "azure"'
            return error_reply(404, "not_found", text, _KIND)
        if any(self._edge.pseudonym in via for via in client.headers.getall("Via", ())):
            text = "The request came back to this proxy. Point the setting upstream elsewhere."
            return error_reply(_LOOP, "loop_detected", text, _KIND)
        return None

    async def _read(self, client: web.BaseRequest) -> bytes:
        """Read a body that may have to be sent again."""
        cap = self._edge.settings.max_request_bytes
        if (client.content_length or 0) > cap:
            raise _RefusedError(_too_large(cap))
        await _invite(client)
        parts: list[bytes] = []
        size = 0
        try:
            while part := await client.content.readany():
                parts.append(part)
                size += len(part)
                if size > cap:
                    raise _RefusedError(_too_large(cap))
        except web.RequestPayloadError:
            raise _RefusedError(error_reply(400, "bad_request", _BAD_BODY, _KIND)) from None
        return b"".join(parts)


_BAD_BODY = "The request body is not complete, or not valid HTTP."
_BAD_TARGET = "The request target cannot be sent on byte for byte."


async def _invite(client: web.BaseRequest) -> None:
    """Ask for the body where the client waits for that; aiohttp's low-level server does not."""
    expected = client.headers.get("Expect", "").lower() == "100-continue"
    if expected and client.version == HttpVersion11:
        await client.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.writer.output_size = 0  # the answer has not begun


def _is_below_base(path: str) -> bool:
    path = path.partition("?")[0]
    return path == _BASE or path.startswith(_BASE + "/")


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
