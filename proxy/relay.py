"""The driver: one client request, from its first byte to the last of its answer.

Executes the session's commands: waits, opens attempts, has their answers taken, and ends the
response. Decides nothing about streams: that is ``core.session``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from http import HTTPStatus

from aiohttp import web

from proxy.answer import Answer, UpstreamFault
from proxy.asking import Asker, Body
from proxy.core.commands import Finish, Open, internal_error, shutdown_error
from proxy.core.fault import Fault
from proxy.core.request import Request
from proxy.core.states import State
from proxy.edge import Edge
from proxy.exchange import exchange_of
from proxy.logs import LOG
from proxy.reception import Next, Reception

_LINGER_BYTES = 64 * 1024
_LINGER_S = 1.0


class Relay:
    """One client request under way."""

    def __init__(
        self,
        edge: Edge,
        client: web.BaseRequest,
        request: Request,
        body: Body,
        cors: Mapping[str, str],
    ) -> None:
        """Take a request whose body is read, or is to be streamed on."""
        self._edge = edge
        self._x = exchange_of(edge, client, request, cors)
        if body is not None and not isinstance(body, bytes):
            body = _noting(body, self._x.body_was_sent)
        self._asker = Asker(edge, client, request, body)
        self._kept: list[Answer] = []
        self._task = asyncio.current_task()
        self._aborted = False

    async def run(self) -> web.StreamResponse:
        """Serve the request to its end, whatever happens."""
        x = self._x
        self._edge.under_way.add(self)
        if x.stream:
            x.is_stream()
        try:
            return await self._drive()
        except asyncio.CancelledError:
            if not self._aborted or self._task is None:
                raise
            self._task.uncancel()
            return await self._finish(x.session.abort(shutdown_error()))
        except ConnectionError:
            return x.down.break_off()  # the client left
        except Exception:  # noqa: BLE001 - whatever it is, it is a bug, and the client is told
            LOG.exception("bug", extra={"fields": {"request_id": x.record.id}})
            return await self._finish(x.session.abort(internal_error()))
        finally:
            self._edge.under_way.discard(self)
            x.session.abandon()
            x.record.end(x.down.status)
            for answer in (x.answer, *self._kept):
                if answer is not None:
                    answer.close()

    def abort(self) -> None:
        """End this request loudly, now."""
        self._aborted = True
        if self._task is not None:
            self._task.cancel()

    async def _drive(self) -> web.StreamResponse:
        x = self._x
        command: Next = x.session.begin(x.clocks.now())
        while isinstance(command, Open):
            await self._leave(command)
            wait = command.floor_s + command.spread_s * random.random()  # noqa: S311 - jitter
            if wait:
                await x.patiently(asyncio.sleep(wait))
            x.record.waited(wait)
            command = await self._attempt(command)
        return await self._finish(command) if isinstance(command, Finish) else command

    async def _leave(self, command: Open) -> None:
        """Give the last of the attempt before, and part from it."""
        x = self._x
        if command.body:
            await x.down.open_stream(x.answer, x.record.asked)
            await x.down.write(command.body)
        if x.answer is not None:
            self._kept.append(x.answer) if command.keep else x.answer.close()
            x.answer = None

    async def _attempt(self, command: Open) -> Next:
        x = self._x
        x.clocks.attempt_begins()
        again = x.record.asked > 0
        x.record.asked += 1
        # A form may ask for a stream behind its file, where nobody looks.
        may_stream = x.stream or x.request.form is not None
        opening = self._asker.ask(command, stream=may_stream, fresh=again)
        try:
            answer = x.answer = await x.patiently(opening, x.limit)
        except UpstreamFault as broken:
            return x.end(broken.fault, detail=broken.detail, stale=broken.stale)
        except TimeoutError:
            return x.end(Fault.FIRST_EVENT_TIMEOUT)
        x.body_was_sent()  # as far as the upstream wanted it
        x.record.answered(answer.headers.get("x-request-id", ""))
        return await Reception(x, answer, command).take()

    async def _finish(self, finish: Finish) -> web.StreamResponse:
        x = self._x
        if x.down.passing:
            # It is half passed on; a clean end would call it whole.
            return x.down.break_off()
        if finish.reply is not None:
            return x.down.refuse(finish.reply, x.record.asked)
        await x.down.open_stream(x.answer, x.record.asked)
        if x.down.collecting:
            response = await x.down.end(x.unsent + finish.body)
            if response.status == HTTPStatus.OK:
                x.record.repaired("sse_to_json")
            x.record.end(response.status)
        else:
            # Counted before the last byte is out: who reads the end may scrape the next moment.
            x.record.end(x.down.status)
            response = await x.down.end(x.unsent + finish.body)
        well = x.session.state is not State.FAILED and not x.broken
        if well and x.answer is not None and x.session.settled and not x.answer.taken:
            self._edge.spawn(self._linger(x.answer))
            x.answer = None
        return response

    async def _linger(self, answer: Answer) -> None:
        """Read past the terminal event: for the connection's reuse, and to know."""
        x = self._x
        try:
            if not await answer.ends(_LINGER_BYTES, _LINGER_S):
                self._edge.metrics.repairs.labels(x.record.endpoint, "ended_body").inc()
        except UpstreamFault as broken:
            x.end(broken.fault)
        finally:
            answer.close()


async def _noting(body: AsyncIterable[bytes], sent: Callable[[], None]) -> AsyncIterator[bytes]:
    """Give a body in its pieces, and note its end."""
    async for piece in body:
        yield piece
    sent()
