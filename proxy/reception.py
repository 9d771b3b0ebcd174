"""One answer of the upstream: what it is, and how it reaches the client.

Knows statuses, content types, first bytes and compression, and relays reads. What a stream's
bytes mean is the session's to say; what is no stream is passed on as it comes. Must not know
what is asked next.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from aiohttp import web

from proxy.answer import Answer, UpstreamFault
from proxy.core.commands import Finish, Open
from proxy.core.course import KEY_REFUSED
from proxy.core.fault import AttemptEnd, Fault
from proxy.decoding import Decoder, UnknownCodingError
from proxy.exchange import Exchange
from proxy.flow import Flow
from proxy.headers import is_event_stream
from proxy.sniff import Body, sniffed

_ERROR_BODY_BYTES = 64 * 1024
_ERROR_BODY_S = 5.0

_BELIEVED = ("text/plain", "text/vtt", "application/x-subrip", "audio/")
"""Answers that are no events and may begin with anything: ``[Music]``, ``<i>``, ``data: 5``."""

Next = Open | Finish | web.StreamResponse
"""What follows an attempt: another, an end to be written, or a response that is written."""


class Reception:
    """Takes the answer to one command."""

    def __init__(self, exchange: Exchange, answer: Answer, command: Open) -> None:
        """Take an answer whose headers are read."""
        self._x = exchange
        self._answer = answer
        self._command = command

    async def take(self) -> Next:
        """Find out what the answer is, and give it to the client as that."""
        x, answer, command = self._x, self._answer, self._command
        good = 200 <= answer.status < 300  # noqa: PLR2004 - HTTP's numbers
        if x.request.method == "HEAD":
            return await self._pass_on()  # there is no body to frame
        if good and (command.document or is_event_stream(answer.headers)):
            return await self._read_stream()
        if not x.stream and not (command.target.upstream and answer.status in KEY_REFUSED):
            return await self._pass_on()
        return await (self._sniff() if good else self._refused())

    async def _refused(self) -> Next:
        x, answer, body = self._x, self._answer, b""
        if x.session.wants_body(answer.status):
            with contextlib.suppress(UpstreamFault):
                reading = answer.read_head(_ERROR_BODY_BYTES, _ERROR_BODY_S)
                body = await x.patiently(reading)
        end = AttemptEnd(
            Fault.HTTP_STATUS,
            age_s=x.clocks.age_s,
            silence_s=x.clocks.gap_s,
            status=answer.status,
            retry_after_s=answer.retry_after_s,
            body=body,
        )
        command = x.decide(end)
        if isinstance(command, Finish) and command.pass_on:
            return await self._pass_on(body)
        return command

    async def _sniff(self) -> Next:
        """Find out what an answer is that does not call itself an event stream."""
        x, answer = self._x, self._answer
        x.session.receive_head()
        coding = answer.headers.get("Content-Encoding", "")
        try:
            data, kind = await sniffed(lambda: x.patiently(answer.read(), x.limit), coding)
        except UpstreamFault as broken:
            return x.end(broken.fault)
        except TimeoutError:
            return x.end(Fault.FIRST_EVENT_TIMEOUT)
        # What a re-attachment is answered with is no answer to what the client asked.
        same = self._command.request.method == x.request.method
        passes = same and not (x.session.grammar.only_events or x.session.answered)
        if passes and answer.headers.get("Content-Type", "").lower().startswith(_BELIEVED):
            return await self._pass_on(data)
        if kind is Body.EVENTS:
            x.record.repaired("set_content_type")
        if kind is Body.EVENTS or (same and self._can_be_told(kind)):
            read = b"" if kind is Body.NOTHING else data
            return await self._read_stream(read, document=kind is Body.JSON)
        if passes:
            return await self._pass_on(data)
        return x.end(Fault.MALFORMED_EVENT, detail="the answer was no event stream")

    def _can_be_told(self, kind: Body) -> bool:
        """Say whether the core knows what to make of a body that is no event stream."""
        grammar = self._x.session.grammar
        if kind is Body.NOTHING:
            return grammar.only_events
        return kind in {Body.JSON, Body.HTML} and grammar.unrolls

    async def _read_stream(self, data: bytes = b"", *, document: bool = False) -> Open | Finish:
        x, answer = self._x, self._answer
        if x.session.folds:
            x.down.collect(x.session.fold)
        x.is_stream()
        try:
            decoder = Decoder(answer.headers.get("Content-Encoding", ""))
        except UnknownCodingError:
            return x.end(Fault.MALFORMED_EVENT, detail="its compression cannot be decoded")
        x.session.receive_head(document=document)
        over = await self._relay(data, decoder) if data else None
        while over is None:
            over = await self._go_on(decoder)
        return over

    async def _go_on(self, decoder: Decoder) -> Open | Finish | None:
        """Relay one read, or as many as come while nothing else is to be done."""
        x, answer = self._x, self._answer
        if self._is_steady(decoder):
            await Flow(x, answer).run()
            if over := self._over():
                return over
        try:
            data = await answer.read(min(x.limit(), x.due()))
        except UpstreamFault as broken:
            return x.end(broken.fault)
        except TimeoutError:
            return await self._time_is_up()
        return await self._relay(data, decoder) if data else x.end(None)

    async def _time_is_up(self) -> Open | Finish | None:
        """Let the client hear something, or end an attempt that has been silent for too long."""
        x = self._x
        if x.clocks.now() >= x.limit():
            return self._silent()
        await self._tick()
        return None

    def _is_steady(self, decoder: Decoder) -> bool:
        """Say whether reads may go to the client straight from the connection."""
        x = self._x
        out = x.down.response is not None and not x.down.collecting
        return out and decoder.plain and not x.session.grammar.finished

    def _over(self) -> Open | Finish | None:
        """End an attempt that has nothing more to say, or that says too much to be collected."""
        x = self._x
        if x.session.settled:
            return x.end(None)
        if x.down.overfull:
            return x.end(Fault.OVERSIZE_EVENT, detail="all of them, to be one JSON object")
        return None

    async def _tick(self) -> None:
        if self._x.clocks.now() >= self._x.due():
            await self._x.tick()

    def _silent(self) -> Open | Finish:
        """End an attempt whose time is up; one that had all but its end mark is whole."""
        x, grammar = self._x, self._x.session.grammar
        if grammar.finished:
            x.record.repaired("ended_body")
            return x.end(None)
        return x.end(Fault.STALL if x.session.data_events else Fault.FIRST_EVENT_TIMEOUT)

    async def _relay(self, data: bytes, decoder: Decoder) -> Open | Finish | None:
        """Relay one read; return what follows, if that was the end of the attempt.

        A kilobyte may decode to a megabyte: that is relayed in pieces, between which others have
        their turn, and the clocks are looked at as between reads.
        """
        x, further = self._x, False
        for piece in decoder.feed(data):
            if further:
                await asyncio.sleep(0)
                await self._tick()
                if x.clocks.now() >= x.limit():
                    return self._silent()
            further = True
            await self._relay_piece(piece, decoded=decoder.active)
            if over := self._over():
                return over
        return None

    async def _relay_piece(self, data: bytes, *, decoded: bool) -> None:
        """Give the session what was read and write at once what it returns."""
        x, began = self._x, time.perf_counter()
        out = x.receive(data)
        if decoded:
            x.record.repaired("decoded_body")
        if out:
            await x.down.open_stream(self._answer, x.record.asked)
            await x.down.write(out)
            x.record.wrote(began)
            # While a slow client held us up, the upstream was not being read.
            x.clocks.event_came()

    async def _pass_on(self, data: bytes = b"") -> web.StreamResponse:
        """Give the upstream's answer to the client as it comes."""
        x, answer = self._x, self._answer
        patience = x.edge.settings.stall_timeout_s if x.stream else None
        fault = await x.down.pass_on(answer, data, x.record.asked, patience)
        end = AttemptEnd(fault, x.clocks.age_s, x.clocks.gap_s, answer.status)
        x.session.passed_on(end, x.clocks.now())
        x.record.note_incidents()
        x.record.end(answer.status)
        return x.down.break_off() if fault else await x.down.end()
