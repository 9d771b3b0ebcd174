"""An upstream of WebSockets, and clients of it: aiohttp's own on both sides.

Knows the library, whose halves share nothing with the proxy but the bytes. A handshake is taken to
the play that its header ``x-stage`` names, as in ``stage``.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, web

from e2e.child import Proxy
from e2e.stage import Exchange
from e2e.wire import PATIENCE_S

SocketPlay = Callable[[web.Request], Awaitable[Any]]
Client = ClientWebSocketResponse[bool]
KEY = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
HANDSHAKE = (("Connection", "Upgrade"), ("Upgrade", "websocket"), KEY)
"""The headers of a handshake by hand, of which those that the proxy looks at."""

SWITCHED = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
"""An answer to it that satisfies the proxy, though no real client."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_RESPONSE = web.RequestKey("response", web.StreamResponse)


class Sockets:
    """The upstream."""

    def __init__(self) -> None:
        """Nothing is played yet."""
        self._plays: dict[str, SocketPlay] = {}
        self._outcomes: dict[str, asyncio.Queue[asyncio.Future[Any]]] = {}
        self._runner: web.AppRunner | None = None
        self.base_url = ""
        """What the proxy's upstream is to be."""

    async def __aenter__(self) -> Self:
        """Start to listen."""
        application = web.Application()
        application.router.add_get("/v1/{rest:.*}", self._serve)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    def plays(self, name: str, play: SocketPlay) -> dict[str, str]:
        """Answer handshakes of a name by a play; return the header that names it."""
        self._plays[name] = play
        self._outcomes[name] = asyncio.Queue()
        return {"x-stage": name}

    async def over(self, name: str) -> Any:
        """Wait for the next play of a name to be over; return or raise what it did."""
        async with asyncio.timeout(PATIENCE_S):
            return await (await self._outcomes[name].get())

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        name = request.headers["x-stage"]
        playing = asyncio.ensure_future(self._plays[name](request))
        self._outcomes[name].put_nowait(playing)
        await asyncio.wait({playing})
        return answer_of(request)


def answer_of(request: web.Request) -> web.StreamResponse:
    """Return what a play has answered with."""
    return request.get(_RESPONSE) or web.Response()


def refuse(request: web.Request, response: web.StreamResponse) -> None:
    """Answer a handshake by something other than a 101."""
    request[_RESPONSE] = response


async def switch(exchange: Exchange, behind: bytes = b"") -> None:
    """Answer a handshake by hand, as a real client wants it (RFC 6455, 4.2.2)."""
    [key] = exchange.headers(KEY[0])
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    accept = f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\n\r\n"
    await exchange.send(SWITCHED.removesuffix("\r\n").encode() + accept.encode() + behind)


async def accepted(request: web.Request, **options: Any) -> web.WebSocketResponse:
    """Answer a handshake by a 101."""
    socket = web.WebSocketResponse(max_msg_size=0, **options)
    request[_RESPONSE] = socket
    await socket.prepare(request)
    return socket


async def echo(request: web.Request) -> web.WebSocketResponse:
    """Send everything back, until the other side closes."""
    socket = await accepted(request, protocols=("realtime",))
    async for got in socket:
        await (socket.send_str if got.type is WSMsgType.TEXT else socket.send_bytes)(got.data)
    return socket


@contextlib.asynccontextmanager
async def talking(
    proxy: Proxy, headers: Mapping[str, str], target: str = "/realtime", **options: Any
) -> AsyncIterator[Client]:
    """Open a WebSocket through the proxy, with a client that waits for nothing for ever."""
    async with ClientSession() as session, asyncio.timeout(PATIENCE_S):
        url = f"{proxy.base_url}{target}"
        async with session.ws_connect(url, headers=headers, max_msg_size=0, **options) as socket:
            yield socket
