"""What one upstream's events are: mended, read, joined, believed or not, one after the other.

Knows the repairs, the grammar, the splice and the doubts of one attempt, and finds the faults
that lie in single events. Must not know reads, how a body ends, or other attempts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from proxy.core.doubt import Doubt
from proxy.core.errors import plain_error, status_told
from proxy.core.fault import Fault
from proxy.core.grammars import Kind, grammar_for
from proxy.core.grammars.anew import TooMuchError
from proxy.core.grammars.base import DONE
from proxy.core.policy import SAFE, Policy, Quirks
from proxy.core.recovery import Splice
from proxy.core.repairs import clean_text, is_beginning, join, mend
from proxy.core.repairs.shapes import shaper_for
from proxy.core.request import Request
from proxy.core.sse import STRAY, Event

_BEHIND_AN_ANSWER = frozenset({None, Fault.MALFORMED_EVENT, Fault.OVERSIZE_EVENT})
"""Faults that are none behind a finished answer, the absent one included."""

_WHOLE = b'"chat.completion"'
"""What a completion in one piece calls itself; in a string it would have escapes around it."""


class Judgement:
    """Takes one attempt's events. ``splice`` joins it to what the client has of earlier ones.

    ``terminal`` becomes True with the stream's last event, ``fault`` is set when an event is at
    fault; after either, or when the answer does not fit what was given, ``settled``: nothing
    more is taken.
    """

    def __init__(  # noqa: PLR0913 - an attempt is made of so much
        self,
        request: Request,
        policy: Policy,
        count: Callable[[str], None],
        splice: Splice | None = None,
        quirks: Quirks = SAFE,
        *,
        first: bool = True,
    ) -> None:
        """Start before the first event; ``count`` is told the name of each repair.

        ``quirks`` are those of whom was asked, ``first`` says that nobody was asked before.
        """
        self._policy = policy
        self._count = count
        self._splice = splice
        self.grammar = grammar_for(request, quirks)
        self._shaper = shaper_for(self.grammar, policy.journal_max_bytes, count)
        # What is joined to content that was given is compared with that.
        doubted = SAFE if self.spliced else quirks
        self._doubt = Doubt(self.grammar, doubted, policy.journal_max_bytes, first=first)
        self._half: Event | None = None
        # Most streams are as they should be: what is found out here is not asked of every event.
        self._direct = splice is None and self._doubt.idle
        self._strips = not self.grammar.named and quirks.foreign_events == "drop"
        self.terminal = False
        self.fault: Fault | None = None
        self.detail = ""
        """What is known of the fault beyond its name."""
        self.tail = b""
        """The bytes that could not be given on."""
        self.error_event: Event | None = None
        self.withheld: list[Event] = []
        """The end of a finished answer that is not believed, to be given if nothing else can be."""

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

    def finish(self) -> list[Event]:
        """Take the end of an answer that is whole without a terminal event."""
        events: list[Event] = []
        self._give(self._doubt.release(), events)
        return events + (self._splice.close() if self._splice else [])

    def translated(self) -> None:
        """Note that the upstream's error event was given an ending that strict clients hear."""
        if self.grammar.added_ending and not self.grammar.error_is_native:
            self._count(self.grammar.added_ending)

    def _last_words(self, events: list[Event]) -> list[Event]:
        """Judge what waited for something that did not come."""
        if self.terminal or self.mismatch or self.fault not in _BEHIND_AN_ANSWER:
            return events
        if self._half is not None and self.fault is None:
            half, self._half = self._half, None
            self._end(Kind.MALFORMED, half, events)
        if self.grammar.whole(clean=True):
            mark = self.grammar.end_mark()
            self._disbelieve([mark] if mark else [])
        return events

    def _take(self, event: Event, events: list[Event]) -> None:
        if self._half is not None:
            half, self._half = self._half, None
            joined = join(half, event)
            if joined is not None:
                self._count("joined_events")
                event = joined
            elif not self._ends_by(event, Kind.ERROR):  # an error says more than what it broke off
                self._end(Kind.MALFORMED, half, events)
                if self.settled:
                    return
        if event.name == STRAY:
            self._stray(event)
            return
        came = event
        repairs: list[str] = []
        if not (event.data.isascii() and event.name.isascii()):
            event = clean_text(event, repairs.append)
        # Legal data of several lines is JSON to its grammar, but must leave as one line.
        if b"\n" in event.data or not self._judge(event, events):
            self._mend(event, events)
        if self._half is event:
            self._half = came  # it may have been cut inside a character
            return
        for repair in repairs:
            self._count(repair)

    def _judge(self, event: Event, events: list[Event]) -> bool:
        """Read an event of one line, and do what follows; False: it is malformed."""
        if self._shaper is not None:
            shaped = self._shaper.take(event)
            if shaped is None:
                return True
            event = shaped
        if not self.grammar.events and _WHOLE in event.data and self._tell_whole(event, events):
            return True
        kind = self.grammar.read(event)
        if kind is Kind.EVENT:
            if self._strips and event.name:
                event = self._nameless(event)
            if self._direct:
                events.append(event)
            else:
                self._pass(event, events)
        elif kind is not Kind.MALFORMED:
            self._end(kind, event, events)
        return kind is not Kind.MALFORMED

    def _tell_whole(self, event: Event, events: list[Event]) -> bool:
        """Tell a whole completion that came as the only chunk; say whether it was one."""
        if self._ends_by(event, Kind.ERROR):
            return False
        try:
            parts = self.grammar.unroll(event.data, self._policy.max_event_bytes)
        except (RecursionError, TooMuchError):
            return False
        if parts:
            self._count("json_to_sse")
        for part in parts:  # only the last of them can settle anything
            self._judge(part, events)
        return bool(parts)

    def _mend(self, event: Event, events: list[Event]) -> None:
        mended = mend(event, self._count)
        for part in mended or ():
            if not self._judge(part, events):
                self._end(Kind.MALFORMED, part, events)
            if self.settled:
                return
        if mended is not None:
            return
        named = b"error: " if event.name == b"error" else b""
        error = plain_error(named + event.data)
        if error is not None:
            self.grammar.events += 1  # as for an error in JSON: the answer has begun
            self.grammar.error = error
            self._fail(Fault.IN_STREAM_ERROR, event.encode()[:-2])
        elif is_beginning(event.data):
            self._half = event
        else:
            self._end(Kind.MALFORMED, event, events)

    def _ends_by(self, event: Event, *kinds: Kind) -> bool:
        """Say whether an event would end the stream in one of some ways; it is not taken."""
        if event.name == STRAY:
            return False
        cleaned = clean_text(event, lambda _repair: None)
        return copy.deepcopy(self.grammar).read(cleaned) in kinds

    def _stray(self, event: Event) -> None:
        """Leave out a block without fields, as WHATWG has it, unless it is no stream at all."""
        if not self.grammar.events and event.data.lstrip().startswith(b"<"):
            self._fail(Fault.MALFORMED_EVENT, event.data)
            status = status_told(event.data)
            self.detail = f"it sent an HTML page: {status}" if status else "it sent an HTML page"

    def _nameless(self, event: Event) -> Event:
        """Take off a name where events have none: some clients would take it for another kind."""
        self._count("dropped_event_name")
        return Event(b"", event.data)

    def _pass(self, event: Event, events: list[Event]) -> None:
        self._give([event] if self._doubt.idle else self._doubt.take(event), events)

    def _give(self, taken: list[Event], events: list[Event]) -> None:
        for event in taken:
            if self._splice is None:
                events.append(event)
            else:
                events += self._splice.take(event)

    def _disbelieve(self, last: list[Event]) -> bool:
        """Say whether a finished answer is none, and which fault it is then."""
        if self._doubt.notice is not None:
            self.grammar.error = self._doubt.notice
            self._fail(Fault.IN_STREAM_ERROR, b"")
            return True
        if self._doubt.empty:
            self.withheld = [*self._doubt.release(), *last]
            self._fail(Fault.EMPTY_STREAM, b"")
            self.detail = "it is finished and has no content"
            return True
        return False

    def _end(self, kind: Kind, event: Event, events: list[Event]) -> None:
        if kind is Kind.TERMINAL:
            if event.data.startswith(DONE) and event.data != DONE:
                self._count("done_form")
                event = Event(event.name, DONE)
            event = self._nameless(event) if self._strips and event.name else event
            if self._disbelieve([event]):
                return
            last: list[Event] = []
            for missing in self.grammar.missing():
                self._count("added_finish_reason")
                self._pass(missing, last)
            self._pass(event, last)
            last += self.finish()
            self.terminal = bool(last) and not self.mismatch
            events += last if self.terminal else []
        elif kind is Kind.SURPLUS:
            self._count(self.grammar.surplus)
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
