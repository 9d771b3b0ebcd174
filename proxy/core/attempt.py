"""One attempt: the upstream's body, from its first read to its end.

Knows the splitter, documents, and what it means where the bytes stop; what single events are is
for ``judgement``. Must not know other attempts, the client, or what is done about a fault.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.core.document import Document, read_document
from proxy.core.fault import AttemptEnd, Fault
from proxy.core.grammars import Kind
from proxy.core.grammars.anew import TooMuchError
from proxy.core.grammars.base import DONE, DONE_EVENT, REFUSALS, is_json
from proxy.core.journal import Journal
from proxy.core.judgement import Judgement
from proxy.core.policy import SAFE, Policy, Quirks
from proxy.core.recovery import Splice
from proxy.core.repairs import is_clean
from proxy.core.request import Request
from proxy.core.shortcut import Shortcut, shortcut
from proxy.core.sse import STRAY, Event, EventSplitter, size_of

_OF_EVENTS = (b'"delta"', b'chunk"', b'"type":"response.', b'"type": "response.')
"""Words that stand in events, and in no answer in one piece."""

_NO_OBJECT = frozenset({Fault.CUT_MID_EVENT, Fault.MALFORMED_EVENT})


class Attempt(Judgement):
    """Reads one attempt, and judges its events as they come."""

    def __init__(  # noqa: PLR0913 - as the base class
        self,
        request: Request,
        policy: Policy,
        count: Callable[[str], None],
        splice: Splice | None = None,
        quirks: Quirks = SAFE,
        *,
        first: bool = True,
    ) -> None:
        """Start before the first byte; see the base class."""
        super().__init__(request, policy, count, splice, quirks, first=first)
        self._splitter = EventSplitter(policy.max_event_bytes, count, strays=True)
        self.document: bytearray | None = None
        """Where the answer is one JSON document: what of it has come."""
        self._guessed = False
        self.converts = False
        """Whether it should have been a stream."""
        self.head = False
        """Whether the upstream answered with a 200."""
        self.closed = False
        self.partial = False
        """Whether the body stopped inside an event; known after ``close``."""
        self._run = self._half_tail = b""
        self._run_at = self._half_at = 0
        self.offset = 0
        """Where in the body the bytes of ``tail`` began."""

    @property
    def received(self) -> int:
        """Bytes of body read so far."""
        return self._splitter.received + len(self.document or b"")

    def feed(self, data: bytes) -> list[Event]:
        """Take one read, return the events to be given on, the terminal one last."""
        return self.judge(self.cut(data))

    def cut(self, data: bytes) -> bytes:
        """Take one read, return what of it is whole events, as they came, to be judged."""
        if self.document is None and not self._splitter.received and self._begins_json(data):
            self.document = bytearray()
            self.converts = self._guessed = True
        if self.document is not None:
            self._gather(data)
            return b""
        self._run_at = self._splitter.offset
        return self._splitter.cut(data)

    @property
    def overfull(self) -> bool:
        """Whether there is something to be judged although nothing is whole."""
        return self._splitter.oversize

    def skim(self, run: bytes) -> tuple[list[bytes], int]:
        """Return the data of the first events of a run that are ordinary, and their size in it.

        That is most of all traffic: there ``judge`` would change nothing, and give what the run
        holds already. They are taken; the rest of the run is to be judged. None of them has a
        name.
        """
        read = self._ordinary
        if read is None or not run.startswith(b"data: ") or len(run) > self._policy.max_event_bytes:
            return [], 0
        data, lines = _data_of(run)
        if lines != 2 * len(data) or not (run.isascii() or is_clean(run)):
            return [], 0
        taken, size = 0, len(run)
        try:
            for one in data:
                read(one)
                taken += 1
        except REFUSALS:
            del data[taken:]
            size = size_of(data)
        self.grammar.events += taken
        self._run_at += size
        return data, size

    def shortcut(self, journal: Journal) -> Shortcut | None:
        """Return the shortcut, or None where this attempt stands so that there is none."""
        read = None if self.settled or self.document is not None else self._ordinary
        if read is None or not self._splitter.idle:
            return None
        return shortcut(read, self._policy.max_event_bytes, self._splitter, self.grammar, journal)

    @property
    def _ordinary(self) -> Callable[[bytes], object] | None:
        mends = self._shaper is not None or self._half is not None or self._splitter.dangling
        return None if mends or not self._direct else self.grammar.ordinary

    def judge(self, run: bytes, rest: bytes = b"") -> list[Event]:
        """Take what was cut, event by event; return those to be given on, the terminal one last.

        ``rest`` was cut with it, and is to be judged next.
        """
        events: list[Event] = []
        self._run = run
        for event in self._splitter.parse(run):
            self._take(event, events)
            if self.settled:
                return events
            if self._half is not None:
                self._half_tail = self._half.encode()[:-2]
                self._half_at = self._run_at + max(0, run.find(self._half_tail + b"\n\n"))
        if self._splitter.stopped or (self._splitter.oversize and not rest):
            shown = self._splitter.pending
            self._fail(Fault.OVERSIZE_EVENT, shown)
            if shown not in run:  # it is what came behind
                self.offset = self._run_at + len(run)
        self._run, self._run_at = b"", self._run_at + len(run)
        return events

    def _begins_json(self, data: bytes) -> bool:
        """Say whether a body that calls itself events begins like an answer in one piece.

        Events that lack their ``data:`` begin like that as well, but are told by their words.
        """
        asked = self.grammar.unrolls and self.grammar.request.asks_stream and not self._guessed
        json = asked and data.lstrip().startswith(b"{")
        return json and not any(word in data for word in _OF_EVENTS)

    def close(self, end: AttemptEnd) -> list[Event]:
        """Take the end of the body: an event that lacks only its blank line is still used.

        After a clean end that is any event with whole JSON data; after a broken one only a
        terminal event or an error (openai/openai-node#2725).
        """
        self.closed = True
        events = self._reconsidered()
        if self.document is not None:
            return self._unroll(end)
        if not self.settled and self._splitter.pending:
            self._close_pending(end, events)
        return self._last_words(events)

    def _reconsidered(self) -> list[Event]:
        """Take a body that was held for an answer in one piece, and is none, as events."""
        body = bytes(self.document or b"")
        if not self._guessed or self.settled or read_document(body).fault not in _NO_OBJECT:
            return []
        self.document, self.converts = None, False
        return self.feed(body)

    def _close_pending(self, end: AttemptEnd, events: list[Event]) -> None:
        self.tail = pending = self._splitter.pending
        self.offset = self._splitter.offset
        event = self._splitter.close()
        if event is None:
            lines = pending.split(b"\n")
            self.partial = not all(line.startswith(b":") for line in lines if line)
            return
        whole = event.data == DONE or (event.data.startswith(b"{") and is_json(event.data))
        if whole and (end.fault is None or self._ends_by(event, Kind.TERMINAL, Kind.ERROR)):
            self._count("closed_final_event")
            self.partial = end.fault is not None
            self.tail = b""
            self._take(event, events)
            return
        self.partial = True
        if event.name == STRAY:
            self._stray(event)

    def _gather(self, data: bytes) -> None:
        document = self.document = bytearray() if self.document is None else self.document
        document += data
        if len(document) > self._policy.max_event_bytes:
            self._fail(Fault.OVERSIZE_EVENT, b"")

    def _unroll(self, end: AttemptEnd) -> list[Event]:
        """Tell a document event by event; one that is not finished has no end to tell."""
        events: list[Event] = []
        body = bytes(self.document or b"")
        if self.converts and body:
            self.grammar.events += 1  # an answer has begun, whatever it turns out to be
        if self.settled:
            return events
        if end.fault is not None:
            self.partial, self.tail = self.converts and bool(body), body
            return events
        for event in self._told(body):
            self._take(event, events)
            if self.settled:
                break
        whole = bool(events) and self.grammar.whole(clean=True)
        self.fault = self.fault or (None if self.terminal or whole else Fault.CLEAN_EOF)
        if self.fault is not None and self.grammar.reads_again and not self.withheld:
            # All of it is known before any of it is given: another attempt leaves no trace.
            self.error_event = None
            return []
        if events and self.converts:
            self._count("json_to_sse")
        return events

    def _told(self, body: bytes) -> list[Event]:
        document = read_document(body) if self.converts else Document(body)
        if document.fault is not None:
            self.grammar.error = document.error
            self._fail(document.fault, body)
            self.detail = document.detail
            return []
        try:
            events = self.grammar.unroll(document.data, self._policy.max_event_bytes)
        except RecursionError:
            return []  # what nests too deeply to be written again cannot be told
        except TooMuchError:
            self._fail(Fault.MALFORMED_EVENT, body)
            self.detail = "told in events, its JSON would be more than any answer is"
            return []
        return [*events, DONE_EVENT] if events and document.marked else events

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

    def _fail(self, fault: Fault, tail: bytes) -> None:
        super()._fail(fault, tail)
        found = self._run.find(tail + b"\n\n")  # its beginning alone may be that of others
        if found < 0 and tail == self._half_tail:
            self.offset = self._half_at
        else:
            self.offset = self._run_at + max(0, self._run.find(tail) if found < 0 else found)


def _data_of(run: bytes) -> tuple[list[bytes], int]:
    """Return the data of a run of events without a name, and its lines.

    A large event is searched and copied but once: it costs more than all else that is done.
    """
    if run.find(b"\n") == len(run) - 2:
        return [run[6:-2]], 2
    lines = run.count(b"\n")
    data = run.split(b"\n\ndata: ")
    data[0], data[-1] = data[0][6:], data[-1][:-2]
    return data, lines
