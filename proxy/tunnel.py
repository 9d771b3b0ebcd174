"""A WebSocket through the proxy: one handshake, then bytes both ways until one side ends.

Knows the handshake's headers (RFC 6455, 4) and whose end ends what. Must not know WebSocket
itself: compression, pings and closing are between the two ends. No clock runs in a tunnel, so
that it may be silent for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from aiohttp import HttpVersion11, web

from proxy.answer import Answer, UpstreamFault
from proxy.core.commands import Finish, Open, internal_error, shutdown_error
from proxy.core.errors import UpstreamError
from proxy.core.fault import AttemptEnd, Fault
from proxy.core.request import Request
from proxy.edge import Edge
from proxy.exchange import exchange_of
from proxy.headers import to_client, to_upstream
from proxy.logs import LOG
from proxy.raw import Raw, Way
from proxy.replies import SERVER

_SWITCH = {"Connection": "Upgrade", "Upgrade": "websocket"}
"""Hop by hop, so that each side is told anew."""

_LAST_WORDS_S = 5.0
"""How long an upstream that reads nothing may keep what a client said before it left, and a client
that has read everything its connection."""


def asks_tunnel(client: web.BaseRequest, request: Request) -> bool:
    """Say whether a request is a WebSocket's handshake: a GET of HTTP/1.1 (RFC 6455, 4.1)."""
    named = ",".join(client.headers.getall("Connection", ())).lower().split(",")
    asked = ",".join(client.headers.getall("Upgrade", ())).lower().strip()
    if asked != "websocket" or "upgrade" not in {name.strip() for name in named}:
        return False
    plain = client.method == "GET" and client.version == HttpVersion11 and request.body == b""
    # The parser must see it in the same way, or it would read the next bytes as a request.
    return plain and isinstance(client.protocol, Raw) and client.protocol.upgraded


class Tunnel:
    """One WebSocket under way."""

    def __init__(
        self, edge: Edge, client: web.BaseRequest, request: Request, cors: Mapping[str, str]
    ) -> None:
        """Take a handshake that is let in."""
        self._edge = edge
        self._client = client
        # Another try is the client's to make: a handshake may be answered by a question.
        self._request = replace(request, recovery=False)
        self._x = exchange_of(edge, client, self._request, cors)
        self._task = asyncio.current_task()
        self._aborted = False

    async def run(self) -> web.StreamResponse:
        """Serve it to its end, whatever happens."""
        x = self._x
        self._edge.under_way.add(self)
        try:
            return await self._drive()
        except asyncio.CancelledError:
            if not self._aborted or self._task is None:
                raise
            self._task.uncancel()
            return self._end_loudly(shutdown_error())
        except ConnectionError:
            return x.down.break_off()  # the client left
        except Exception:  # noqa: BLE001 - whatever it is, it is a bug, and the client is told
            LOG.exception("bug", extra={"fields": {"request_id": x.record.id}})
            return self._end_loudly(internal_error())
        finally:
            self._edge.under_way.discard(self)
            x.session.abandon()
            x.record.end(x.down.status)
            self._leave_upstream()

    def abort(self) -> None:
        """End it loudly, now."""
        self._aborted = True
        if self._task is not None:
            self._task.cancel()

    async def _drive(self) -> web.StreamResponse:
        x = self._x
        opening = x.session.begin(x.clocks.now())
        x.record.asked += 1
        x.record.waited(0.0)
        try:
            answer = x.answer = await self._ask(opening)
        except UpstreamFault as broken:
            finish = x.end(broken.fault, detail=broken.detail)
            # Without recovery there is nothing else to do, and nothing is out.
            reply = finish.reply if isinstance(finish, Finish) else None
            return x.down.break_off() if reply is None else x.down.refuse(reply, 1)
        x.record.answered(answer.headers.get("x-request-id", ""))
        if answer.switched is not None:
            return await self._join(answer, answer.switched)
        fault = await x.down.pass_on(answer, b"", 1, None)
        self._count(answer, fault)
        return x.down.break_off() if fault else await x.down.end()

    async def _ask(self, opening: Open) -> Answer:
        request, upstream = self._request, self._edge.upstreams[opening.target.upstream]
        headers = to_upstream(self._client.headers.items(), via=self._edge.via, stream=False)
        headers = upstream.dress(headers)
        headers.update(_SWITCH)
        target, own = upstream.aim(request.target), request.own_path
        # A pooled connection may turn out to be dead, and there is no second attempt.
        return await upstream.open("GET", target, headers, None, fresh=True, own=own)

    async def _join(self, answer: Answer, wire: Raw) -> web.StreamResponse:
        """Pass the 101 on, and from there on everything."""
        headers = to_client(answer.headers.items(), stream=False)
        headers.update({"Server": SERVER, "x-wholestream-request-id": self._x.record.id, **_SWITCH})
        response = web.StreamResponse(status=answer.status, headers=headers)
        response.force_close()
        self._x.down.response = response
        self._count(answer, None)
        with self._edge.metrics.tunnels.track_inprogress():
            await response.prepare(self._client)
            await self._carry(cast("Raw", self._client.protocol), wire)
        return response

    async def _carry(self, client: Raw, wire: Raw) -> None:
        over, began = asyncio.Event(), self._x.clocks.now()
        up, down = Way(client, wire, over.set), Way(wire, client, over.set)
        try:
            up.open()
            down.open()
            await over.wait()
            if not up.ended:
                over.clear()
                await self._part(client, over)
        finally:
            fields = {
                "request_id": self._x.record.id,
                "endpoint": self._x.record.endpoint,
                "ended_by": "upstream" if down.ended else "client" if up.ended else "proxy",
                "bytes_up": up.size,
                "bytes_down": down.size,
                "duration_ms": round((self._x.clocks.now() - began) * 1000, 1),
            }
            LOG.debug("tunnel", extra={"fields": fields})

    async def _part(self, client: Raw, over: asyncio.Event) -> None:
        """End the client's connection behind all that the upstream said.

        What the client still sends is read and dropped. Closed at once, the connection would be
        reset by it, and what the client has not read yet be lost (RFC 9112, 9.6).
        """
        transport = client.transport
        if transport is None or transport.is_closing():
            return
        transport.write_eof()
        client.resume_reading()
        taken = False
        while not taken and not over.is_set():
            taken = not transport.get_write_buffer_size()
            if taken:
                self._edge.under_way.discard(self)  # a drain need not wait for the rest
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_S):
                    await over.wait()
        transport.close()

    def _end_loudly(self, error: UpstreamError) -> web.StreamResponse:
        """Say so where HTTP still can; a WebSocket is cut, which no client takes for a close."""
        finish, down = self._x.session.abort(error), self._x.down
        if finish.reply is None or down.response is not None:
            return down.break_off()
        return down.refuse(finish.reply, 1)

    def _count(self, answer: Answer, fault: Fault | None) -> None:
        """Count what the client is answered with; the rest is between the two ends."""
        x = self._x
        end = AttemptEnd(fault, x.clocks.age_s, x.clocks.gap_s, answer.status)
        x.session.passed_on(end, x.clocks.now())
        x.record.end(answer.status)

    def _leave_upstream(self) -> None:
        answer, self._x.answer = self._x.answer, None
        if answer is None:
            return
        transport = None if answer.switched is None else answer.switched.transport
        answer.close()
        if transport is not None and transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(_LAST_WORDS_S, transport.abort)
