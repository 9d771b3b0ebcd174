"""The driver: one client request, from its first byte to the last of its answer.

Executes the session's commands: opens attempts, waits, relays reads, keeps the clocks
(first event, stall, commit, heartbeat) and ends the response. Decides nothing about streams:
that is ``core.session``. What is no stream is passed on as it comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from aiohttp import web

from proxy.asking import Asker, Body
from proxy.clocks import Clocks, patiently
from proxy.core.commands import Finish, Open, internal_error, shutdown_error
from proxy.core.course import KEY_REFUSED
from proxy.core.fault import AttemptEnd, Fault
from proxy.core.request import Request
from proxy.core.session import StreamSession
from proxy.core.states import State
from proxy.decoding import Decoder, UnknownCodingError
from proxy.downstream import Downstream
from proxy.edge import Edge
from proxy.headers import is_event_stream
from proxy.logs import LOG
from proxy.record import Record
from proxy.replies import SERVER
from proxy.sniff import sniffed
from proxy.upstream import Answer, UpstreamFault

_ERROR_BODY_BYTES = 64 * 1024
_ERROR_BODY_S = 5.0
_LINGER_BYTES = 64 * 1024
_LINGER_S = 1.0

_T = TypeVar("_T")
_Headers = Mapping[str, str]
_Next = Open | Finish | web.StreamResponse
"""What follows an attempt: another, an end to be written, or a response that is written."""


class Relay:
    """One client request under way."""

    def __init__(
        self, edge: Edge, client: web.BaseRequest, request: Request, body: Body, cors: _Headers
    ) -> None:
        """Take a request whose body is read, or is to be streamed on."""
        self._edge = edge
        self._client = client
        self._request = request
        self._asker = Asker(edge, client, request, body)
        self._clocks = Clocks(edge.settings)
        self._stream = request.asks_stream
        self._session = StreamSession(request, edge.policy, edge.budget, edge.breakers)
        self._record = Record(edge, client, request, self._session, self._clocks.now)
        own = {"Server": SERVER, "x-wholestream-request-id": self._record.id, **cors}
        self._down = Downstream(client, own)
        self._answer: Answer | None = None
        self._kept: list[Answer] = []
        self._unsent = b""
        self._broken = False
        self._task = asyncio.current_task()
        self._aborted = False

    async def run(self) -> web.StreamResponse:
        """Serve the request to its end, whatever happens."""
        self._edge.under_way.add(self)
        if self._stream:
            self._record.is_stream()
        try:
            return await self._drive()
        except asyncio.CancelledError:
            if not self._aborted or self._task is None:
                raise
            self._task.uncancel()
            return await self._finish(self._session.abort(shutdown_error()))
        except ConnectionError:
            return self._down.break_off()  # the client left
        except Exception:  # noqa: BLE001 - whatever it is, it is a bug, and the client is told
            LOG.exception("bug", extra={"fields": {"request_id": self._record.id}})
            return await self._finish(self._session.abort(internal_error()))
        finally:
            self._edge.under_way.discard(self)
            self._session.abandon()
            self._record.end(self._down.status)
            for answer in (self._answer, *self._kept):
                if answer is not None:
                    answer.close()

    def abort(self) -> None:
        """End this request loudly, now."""
        self._aborted = True
        if self._task is not None:
            self._task.cancel()

    async def _drive(self) -> web.StreamResponse:
        command: _Next = self._session.begin(self._clocks.now())
        while isinstance(command, Open):
            await self._leave(command)
            wait = command.floor_s + command.spread_s * random.random()  # noqa: S311 - jitter
            if wait:
                await self._patiently(asyncio.sleep(wait), math.inf)
            self._record.waited(wait)
            command = await self._attempt(command)
        return await self._finish(command) if isinstance(command, Finish) else command

    async def _leave(self, command: Open) -> None:
        """Give the last of the attempt before, and part from it."""
        if command.body:
            await self._down.open_stream(self._answer, self._record.asked)
            await self._down.write(command.body)
        if self._answer is not None:
            self._kept.append(self._answer) if command.keep else self._answer.close()
            self._answer = None

    async def _attempt(self, command: Open) -> _Next:
        self._clocks.attempt_begins()
        again = self._record.asked > 0
        self._record.asked += 1
        opening = self._asker.ask(command, stream=self._stream, fresh=again)
        try:
            self._answer = await self._patiently(opening, self._limit())
        except UpstreamFault as broken:
            return self._end(broken.fault, detail=broken.detail, stale=broken.stale)
        except TimeoutError:
            return self._end(Fault.FIRST_EVENT_TIMEOUT)
        self._record.answered(self._answer.headers.get("x-request-id", ""))
        return await self._take_answer(self._answer, command)

    async def _take_answer(self, answer: Answer, command: Open) -> _Next:
        good = 200 <= answer.status < 300  # noqa: PLR2004 - HTTP's numbers
        if self._request.method == "HEAD":
            return await self._pass_on(answer)  # there is no body to frame
        if good and (command.document or is_event_stream(answer.headers)):
            return await self._read_stream(answer)
        if not self._stream and not (command.target.upstream and answer.status in KEY_REFUSED):
            return await self._pass_on(answer)
        return await (self._sniff(answer, command) if good else self._refused(answer))

    async def _refused(self, answer: Answer) -> _Next:
        body = b""
        if self._session.wants_body(answer.status):
            with contextlib.suppress(UpstreamFault):
                reading = answer.read_head(_ERROR_BODY_BYTES, _ERROR_BODY_S)
                body = await self._patiently(reading, math.inf)
        end = AttemptEnd(
            Fault.HTTP_STATUS,
            age_s=self._clocks.age_s,
            silence_s=self._clocks.gap_s,
            status=answer.status,
            retry_after_s=answer.retry_after_s,
            body=body,
        )
        command = self._decide(end)
        if isinstance(command, Finish) and command.pass_on:
            return await self._pass_on(answer, body)
        return command

    async def _sniff(self, answer: Answer, command: Open) -> _Next:
        """Find out whether an answer that does not call itself a stream is one all the same."""
        try:
            data, verdict = await sniffed(lambda: self._patiently(answer.read(), self._limit()))
        except UpstreamFault as broken:
            return self._end(broken.fault)
        except TimeoutError:
            return self._end(Fault.FIRST_EVENT_TIMEOUT)
        if verdict:
            self._record.repaired("set_content_type")
            return await self._read_stream(answer, data)
        # What a re-attachment is answered with is no answer to what the client asked.
        if self._session.answered or command.request.method != self._request.method:
            return self._end(Fault.MALFORMED_EVENT, detail="the answer was no event stream")
        return await self._pass_on(answer, data)

    async def _read_stream(self, answer: Answer, data: bytes = b"") -> Open | Finish:
        self._stream = True
        self._record.is_stream()
        try:
            decoder = Decoder(answer.headers.get("Content-Encoding", ""))
        except UnknownCodingError:
            return self._end(Fault.MALFORMED_EVENT, detail="its compression cannot be decoded")
        self._session.receive_head()
        while True:
            if data:
                await self._take(data, decoder)
                if self._session.settled:
                    return self._end(None)
            try:
                data = await answer.read(min(self._limit(), self._due()))
            except UpstreamFault as broken:
                return self._end(broken.fault)
            except TimeoutError:
                if self._clocks.now() >= self._limit():
                    some = self._session.data_events > 0
                    return self._end(Fault.STALL if some else Fault.FIRST_EVENT_TIMEOUT)
                data = b""
                if self._clocks.now() >= self._due():
                    await self._tick()
                continue
            if not data:
                return self._end(None)

    async def _take(self, data: bytes, decoder: Decoder) -> None:
        """Give one read to the session and write at once what it returns."""
        began, gap = time.perf_counter(), self._clocks.gap_s
        before = self._session.data_events
        out = b"".join([self._session.receive_data(piece) for piece in decoder.feed(data)])
        events = self._session.data_events > before
        if decoder.active:
            self._record.repaired("decoded_body")
        if events:
            self._record.events_came(gap)
        if self._session.state is State.COMPLETE:
            self._unsent = out
        elif out:
            await self._down.open_stream(self._answer, self._record.asked)
            await self._down.write(out)
            self._record.wrote(time.perf_counter() - began)
        if events:
            # Only now: while a slow client held us up, the upstream was not being read.
            self._clocks.event_came()

    def _limit(self) -> float:
        if not self._stream:
            return math.inf
        return self._clocks.upstream_limit(begun=self._session.data_events > 0)

    def _due(self) -> float:
        if not self._stream:
            return math.inf
        return self._clocks.client_due(self._down.last_write if self._down.response else None)

    async def _tick(self) -> None:
        if self._down.response is not None:
            await self._down.beat()
            return
        held = self._session.commit_by_time()
        await self._down.open_stream(self._answer, self._record.asked)
        await self._down.write(held)

    async def _patiently(self, work: Coroutine[Any, Any, _T], limit: float) -> _T:
        return await patiently(work, limit, self._due, self._tick)

    def _end(self, fault: Fault | None, *, detail: str = "", stale: bool = False) -> Open | Finish:
        self._broken = fault is not None
        clocks = self._clocks
        end = AttemptEnd(fault, clocks.age_s, clocks.gap_s, stale=stale, detail=detail)
        return self._decide(end)

    def _decide(self, end: AttemptEnd) -> Open | Finish:
        command = self._session.receive_end(end, self._clocks.now())
        self._record.note_incidents()
        if isinstance(command, Open):
            self._record.broke()
        return command

    async def _finish(self, finish: Finish) -> web.StreamResponse:
        if self._down.passing:
            # It is half passed on; a clean end would call it whole.
            return self._down.break_off()
        if finish.reply is not None:
            return self._down.refuse(finish.reply, self._record.asked)
        await self._down.open_stream(self._answer, self._record.asked)
        # Counted before the last byte is out: who reads the end may scrape the next moment.
        self._record.end(self._down.status)
        response = await self._down.end(self._unsent + finish.body)
        well = self._session.state is not State.FAILED and not self._broken
        if well and self._answer is not None and self._session.settled:
            self._edge.spawn(self._linger(self._answer))
            self._answer = None
        return response

    async def _linger(self, answer: Answer) -> None:
        """Read past the terminal event: for the connection's reuse, and to know."""
        try:
            await answer.read_head(_LINGER_BYTES, _LINGER_S)
        except UpstreamFault as broken:
            self._end(broken.fault)
        finally:
            answer.close()

    async def _pass_on(self, answer: Answer, data: bytes = b"") -> web.StreamResponse:
        """Give the upstream's answer to the client as it comes."""
        patience = self._edge.settings.stall_timeout_s if self._stream else None
        fault = await self._down.pass_on(answer, data, self._record.asked, patience)
        end = AttemptEnd(fault, self._clocks.age_s, self._clocks.gap_s, answer.status)
        self._session.passed_on(end, self._clocks.now())
        self._record.note_incidents()
        self._record.end(answer.status)
        return self._down.break_off() if fault else await self._down.end()
