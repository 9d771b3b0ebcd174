"""One attempt: the upstream's body read event by event, mended, judged.

Knows the splitter, the repairs and the grammar, and finds the faults that lie in the bytes
themselves. Must not know other attempts, the client, or what is done about a fault.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from proxy.core.fault import AttemptEnd, Fault
from proxy.core.grammars import Kind, grammar_for
from proxy.core.grammars.base import DONE, is_json
from proxy.core.policy import Policy
from proxy.core.recovery import Splice
from proxy.core.repairs import clean_text, mend
from proxy.core.request import Request
from proxy.core.sse import Event, EventSplitter


class Attempt:
    """Reads one attempt. ``splice`` joins it to what the client has of earlier ones.

    ``terminal`` becomes True with the stream's last event, ``fault`` is set when the bytes
    themselves are at fault; after either, or when the answer does not fit what was given,
    ``settled``: nothing more is taken.
    """

    def __init__(
        self,
        request: Request,
        policy: Policy,
        count: Callable[[str], None],
        splice: Splice | None = None,
    ) -> None:
        """Start before the first byte; ``count`` is told the name of each repair."""
        self._policy = policy
        self._count = count
        self._splitter = EventSplitter(policy.max_event_bytes, count)
        self._splice = splice
        self.grammar = grammar_for(request)
        self.document: bytearray | None = None
        """Where the answer is to be one JSON document: what of it has come."""
        self.head = False
        """Whether the upstream answered with a 200."""
        self.terminal = False
        self.fault: Fault | None = None
        self.error_event: Event | None = None
        self.closed = False
        self.partial = False
        """Whether the body stopped inside an event; known after ``close``."""
        self.tail = b""
        """The bytes that could not be given on, and in ``offset`` where they began."""
        self._read = b""
        self._pending_at = 0
        self.offset = 0

    @property
    def settled(self) -> bool:
        """Whether this attempt has nothing more to say."""
        return self.terminal or self.fault is not None or bool(self.mismatch)

    @property
    def spliced(self) -> bool:
        """Whether the attempt is joined to content that was given before."""
        return self._splice is not None and bool(self._splice.kind)

    @property
    def mismatch(self) -> str:
        """Why the answer does not fit what was given, or an empty string."""
        return self._splice.mismatch if self._splice else ""

    @property
    def received(self) -> int:
        """Bytes of body read so far."""
        return self._splitter.received + len(self.document or b"")

    def feed(self, data: bytes) -> list[Event]:
        """Take one read, return the events to be given on, the terminal one last."""
        if self.document is not None:
            return self._gather(data)
        events: list[Event] = []
        self._read = data
        self._pending_at = self._splitter.offset
        for event in self._splitter.feed(data):
            self._take(event, events)
            if self.settled:
                return events
        if self._splitter.oversize:
            self._fail(Fault.OVERSIZE_EVENT, self._splitter.pending)
        return events

    def close(self, end: AttemptEnd) -> list[Event]:
        """Take the end of the body: an event that lacks only its blank line is still used.

        After a clean end that is any event with whole JSON data; after a broken one only a
        terminal event or an error (openai/openai-node#2725).
        """
        self.closed = True
        events: list[Event] = []
        if self.document is not None:
            return self._unroll(end)
        pending = self._splitter.pending
        if not pending or self.settled:
            return events
        self.tail = pending
        self.offset = self._splitter.offset
        event = self._splitter.close()
        if event is None:
            lines = pending.split(b"\n")
            self.partial = not all(line.startswith(b":") for line in lines if line)
            return events
        whole = event.data == DONE or (event.data.startswith(b"{") and is_json(event.data))
        if not whole or (end.fault is not None and not self._would_end(event)):
            self.partial = True
            return events
        self._count("closed_final_event")
        self.partial = end.fault is not None
        self.tail = b""
        self._take(event, events)
        return events

    def finish(self) -> list[Event]:
        """Take the end of an answer that is whole without a terminal event."""
        return self._splice.close() if self._splice else []

    def _gather(self, data: bytes) -> list[Event]:
        document = self.document = bytearray() if self.document is None else self.document
        document += data
        if len(document) > self._policy.max_event_bytes:
            self._fail(Fault.OVERSIZE_EVENT, b"")
        return []

    def _unroll(self, end: AttemptEnd) -> list[Event]:
        """Tell a document event by event; one that is not finished has no end to tell."""
        events: list[Event] = []
        found = (
            [] if self.settled or end.fault else self.grammar.unroll(bytes(self.document or b""))
        )
        for event in found:
            self._take(event, events)
            if self.settled:
                return events
        self.fault = self.fault or (None if end.fault else Fault.CLEAN_EOF)
        return events

    def name_fault(self, end: AttemptEnd) -> Fault:
        """Name what ended this attempt by where its bytes stop, which the edge cannot see."""
        if self.fault is not None:
            return self.fault
        if end.fault is not None and end.fault is not Fault.CUT_BETWEEN_EVENTS:
            return end.fault
        if self.partial:
            return Fault.CUT_MID_EVENT
        if end.fault is not None:
            return end.fault
        return Fault.CLEAN_EOF if self.grammar.events else Fault.EMPTY_STREAM

    def _take(self, event: Event, events: list[Event]) -> None:
        if not (event.data.isascii() and event.name.isascii()):
            event = clean_text(event, self._count)
        # Legal data of several lines is JSON to its grammar, but must leave as one line.
        kind = Kind.MALFORMED if b"\n" in event.data else self.grammar.read(event)
        if kind is Kind.EVENT:
            self._pass(event, events)
        elif kind is not Kind.MALFORMED:
            self._end(kind, event, events)
        else:
            self._mend(event, events)

    def _mend(self, event: Event, events: list[Event]) -> None:
        mended = mend(event, self._count)
        if mended is None:
            self._end(Kind.MALFORMED, event, events)
            return
        for part in mended:
            kind = self.grammar.read(part)
            if kind is Kind.EVENT:
                self._pass(part, events)
            else:
                self._end(kind, part, events)
            if self.settled:
                return

    def _pass(self, event: Event, events: list[Event]) -> None:
        if self._splice is None:
            events.append(event)
        else:
            events += self._splice.take(event)

    def _end(self, kind: Kind, event: Event, events: list[Event]) -> None:
        if kind is Kind.TERMINAL:
            if event.data.startswith(DONE) and event.data != DONE:
                self._count("done_form")
                event = Event(event.name, DONE)
            last: list[Event] = []
            self._pass(event, last)
            last += self.finish()
            self.terminal = bool(last) and not self.mismatch
            events += last if self.terminal else []
        elif kind is Kind.SURPLUS:
            self._count("dropped_done")
        elif kind is Kind.ERROR:
            joined: list[Event] = []
            self._pass(event, joined)
            self.error_event = joined[-1] if joined else None
            self._fail(Fault.IN_STREAM_ERROR, event.encode()[:-2])
        elif kind is Kind.UNFINISHED:
            some = self.grammar.events > 0
            self._fail(Fault.CLEAN_EOF if some else Fault.EMPTY_STREAM, event.encode()[:-2])
        elif self._policy.skip_malformed:
            self._count("dropped_malformed")
        else:
            self._fail(Fault.MALFORMED_EVENT, event.encode()[:-2])

    def _fail(self, fault: Fault, tail: bytes) -> None:
        self.fault = fault
        self.tail = tail
        found = self._read.find(tail)
        # What is not found as it is began in an earlier read.
        start = self.received - len(self._read) + found
        self.offset = self._pending_at if found < 0 else start

    def _would_end(self, event: Event) -> bool:
        kind = copy.deepcopy(self.grammar).read(event)
        return kind is Kind.TERMINAL or kind is Kind.ERROR
