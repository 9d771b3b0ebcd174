"""The client's side of one request: headers once, whole writes, one end.

Knows aiohttp's responses. Must not know what the bytes mean or when they are due.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from http import HTTPStatus
from typing import cast

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

from proxy.answer import Answer, UpstreamFault
from proxy.core.errors import Reply, retryable_status
from proxy.core.fault import Fault
from proxy.headers import STREAM_HEADERS, to_client
from proxy.raw import Raw
from proxy.replies import error_response

_LARGE = 16 * 1024
"""From so many bytes on they are handed over in pieces, as copying them costs more."""

_ATTEMPTS = "x-wholestream-attempts"


class _Late(web.StreamResponse):
    """A response whose headers leave with the first bytes, in one segment, or when told to."""

    _send_headers_immediately = False


class Downstream:
    """Writes one response. ``headers`` are the proxy's own, sent with whatever is answered."""

    def __init__(
        self, client: web.BaseRequest, headers: dict[str, str], cap: int = 16 * 2**20
    ) -> None:
        """Take a request that is not answered yet; ``cap`` is how much may be collected."""
        self._client = client
        self._own = headers
        self._loop = asyncio.get_running_loop()
        self.chunked = client.version >= HttpVersion11
        """Whether a stream is written in chunks."""
        self.response: web.StreamResponse | None = None
        self.passing = False
        """Whether an answer is passed on as it is, so that no words of ours may be added."""
        self.last_write = self._loop.time()
        self._cap = cap
        self._fold: Callable[[bytes], Reply] | None = None
        self._collected = bytearray()
        self._kept: CIMultiDict[str] = CIMultiDict()

    @property
    def collecting(self) -> bool:
        """Whether nothing is sent before all is there."""
        return self._fold is not None and not self.passing

    @property
    def overfull(self) -> bool:
        """Whether more was collected than may be; whoever writes has to ask."""
        return len(self._collected) > self._cap

    def collect(self, fold: Callable[[bytes], Reply]) -> None:
        """Send nothing of a stream before its end, and then what ``fold`` makes of it."""
        self._fold = fold

    @property
    def status(self) -> int:
        """The status sent, or 0 before that."""
        return self.response.status if self.response else 0

    async def open_stream(self, answer: Answer | None, attempts: int) -> None:
        """Send a 200 and a stream's headers, once, with those of an answer if there is one."""
        if self.response is not None:
            return
        headers = to_client(answer.headers.items() if answer else (), stream=True)
        headers.update(self._own)
        if attempts > 1:
            headers[_ATTEMPTS] = str(attempts)
        if self.collecting:
            self._kept = headers
            return
        await self._begin(_Late(headers=headers))

    async def pass_on(
        self, answer: Answer, data: bytes, attempts: int, patience_s: float | None
    ) -> Fault | None:
        """Send an answer as it comes, ``data`` of it being read; return what broke it off.

        ``patience_s`` is the longest silence, or None.
        """
        self.passing = True
        self._collected.clear()  # by an attempt before, whose answer this is not
        await self._open_passing(answer, attempts)
        await self.write(data or answer.take(), flush=True)
        try:
            while data := await answer.read(patience_s and self._loop.time() + patience_s):
                await self.write(data)
        except UpstreamFault as broken:
            return broken.fault
        except TimeoutError:
            return Fault.STALL
        return None

    async def _open_passing(self, answer: Answer, attempts: int) -> None:
        headers = to_client(answer.headers.items(), stream=False)
        headers.update(self._own)
        if attempts > 1:
            headers[_ATTEMPTS] = str(attempts)
            if retryable_status(answer.status):
                # Our attempts are spent; an SDK's own would multiply them.
                headers.setdefault("x-should-retry", "false")
        await self._begin(_Late(status=answer.status, headers=headers))

    def refuse(self, reply: Reply, attempts: int) -> web.StreamResponse:
        """Make the response an error of the proxy's own."""
        response = error_response(reply, self._own)
        if attempts > 1:
            response.headers[_ATTEMPTS] = str(attempts)
        self.response = response
        return response

    async def write(self, data: bytes, *, flush: bool = False) -> None:
        """Write at once, if there is anything; waits only while the client's buffer is full.

        With ``flush`` the headers are written at once even if there is nothing else.
        """
        if self.collecting:
            self._collected += data
        elif data and self.response is not None:
            await self.response.write(data)
            self.last_write = self._loop.time()
        elif flush and self.response is not None:
            self._client.writer.send_headers()

    def push(self, data: bytes) -> None:
        """Write at once, in one chunk. Only where the headers are out and nothing is collected."""
        transport = self._client.transport
        if transport is not None and not transport.is_closing():
            if not self.chunked:
                transport.write(data)
            elif len(data) < _LARGE:
                transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            else:
                transport.writelines([b"%x\r\n" % len(data), data, b"\r\n"])
            self.last_write = self._loop.time()

    @property
    def write_raw(self) -> Callable[[bytes], None]:
        """What writes bytes as they are, chunks and all, where ``push`` may be called."""
        transport = self._client.transport
        return transport.write if transport is not None else _nowhere

    @property
    def left(self) -> bool:
        """Whether the client's connection is closed, or about to be; uvloop raises on a write."""
        transport = self._client.transport
        return transport is None or transport.is_closing()

    @property
    def wire(self) -> Raw:
        """The connection, to be told by it how fast the client is."""
        return cast("Raw", self._client.protocol)

    def _folded(self, fold: Callable[[bytes], Reply]) -> web.StreamResponse:
        reply = fold(bytes(self._collected))
        if reply.status != HTTPStatus.OK:
            own = {*self._own, _ATTEMPTS}
            return error_response(reply, {k: v for k, v in self._kept.items() if k in own})
        headers = CIMultiDict(self._kept)
        for name in STREAM_HEADERS:
            headers.pop(name, None)
        headers["Content-Type"] = "application/json"
        return web.Response(body=reply.body, headers=headers)

    async def beat(self) -> None:
        """Write a comment, a whole block, so that nothing on the way takes silence for an end."""
        await self.write(b": heartbeat\n\n")

    async def end(self, data: bytes = b"") -> web.StreamResponse:
        """Write the last bytes and the body's end.

        In one segment if possible: split, they look cut to some (node-fetch/node-fetch#1576).
        """
        if self._fold is not None and not self.passing:
            await self.write(data)
            self.response = self._folded(self._fold)
            return self.response
        response = self.response or web.Response()
        if data or response.prepared:
            await response.write_eof(data)
        return response

    def break_off(self) -> web.StreamResponse:
        """Close so that the client sees an incomplete body (RFC 9112, 8)."""
        transport = self._client.transport
        if transport is not None and self._client.version < HttpVersion11:
            # Without chunks the end of the connection is the end of the body, but for a reset.
            pair = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pair)
            transport.abort()
        elif transport is not None:
            transport.close()
        return self.response or web.Response()

    async def _begin(self, response: web.StreamResponse) -> None:
        self.response = response
        if self._client.version < HttpVersion11 and response.content_length is None:
            # Nothing but the close ends such a body; aiohttp 3.14.5 would keep it open.
            response.force_close()
            response.headers.pop("Connection", None)
        await response.prepare(self._client)
        self.last_write = self._loop.time()


def _nowhere(_data: bytes) -> None:
    """Write to a client that left."""
