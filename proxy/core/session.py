"""The session: the state machine of one client's stream, over any number of attempts.

The waist between core and edge. The edge asks ``begin`` whom to ask first, tells
``receive_head`` when a 200 arrived, gives ``receive_data`` every read and writes what it returns,
and calls ``receive_end`` once when the attempt is over; it stops reading when ``settled``. When
the commit timer is up it calls ``commit_by_time``. ``abandon`` and ``abort`` are for a client
that left and for a shutdown.

Knows states, gives what may be given, counts faults. Must not know which endpoint it serves
(that is ``grammars``), how anything is recovered (``recovery``), or the time.
"""

from __future__ import annotations

from dataclasses import replace

from proxy.core.attempt import Attempt
from proxy.core.budget import Breakers, RetryBudget
from proxy.core.commands import Finish, Open
from proxy.core.course import Cause
from proxy.core.errors import UpstreamError, read_error, reply_of, retryable_status
from proxy.core.facts import Facts
from proxy.core.fault import AttemptEnd, Fault, IncidentOutcome, Phase, StreamOutcome
from proxy.core.policy import Policy
from proxy.core.recovery import Plan, Splice
from proxy.core.request import Request
from proxy.core.shortcut import Shortcut
from proxy.core.sse import Event, split_after
from proxy.core.states import FINAL, TRANSITIONS, Signal, State
from proxy.core.telling import by_status, in_stream, last_words

_OPENERS = 3
"""So many events at the most come before the content, nearly always."""


class StreamSession(Facts):
    """One client's stream. ``budget`` and ``breakers`` are shared with all other streams."""

    def __init__(
        self,
        request: Request,
        policy: Policy,
        budget: RetryBudget,
        breakers: Breakers | None = None,
    ) -> None:
        """Prepare; nothing is asked before ``begin``."""
        super().__init__(request, policy, budget, breakers or Breakers())
        self.state = State.OPENING
        self._last_end = AttemptEnd()

    def begin(self, now: float) -> Open:
        """Begin the first attempt. ``now`` is monotonic seconds, here and below."""
        self._course.start(now)
        if self._course.is_as_asked:
            self._ledger.begun(self._out.hold)
        else:
            self._begin()
        return Open(self._course.asked, self._course.target)

    def receive_head(self, *, document: bool = False) -> None:
        """Note that the attempt was answered with a 200; ``document``: by JSON, not by events."""
        self._attempt.head = True
        if document:
            self._attempt.document, self._attempt.converts = bytearray(), True

    def receive_data(self, data: bytes) -> bytes:
        """Take one read, return what goes to the client now: whole events, or nothing."""
        if self._attempt.settled or self.state in FINAL:
            return b""
        attempt = self._attempt
        run = attempt.cut(data)
        if self.state is State.STREAMING:
            return self._pass(run)
        first, rest = split_after(run, _OPENERS)
        given = self._give(attempt.judge(first, rest))
        return given + self._pass(rest) if rest and not attempt.settled else given

    def _pass(self, run: bytes) -> bytes:
        """Give what was cut, of which most is ordinary once there was content."""
        attempt, given = self._attempt, b""
        steady = self.state is State.STREAMING and not self._out.hold.selective
        ordinary, size = attempt.skim(run) if steady else ([], 0)
        if ordinary:
            given, run = self._out.pass_on(run[:size], ordinary), run[size:]
        return given + self._give(attempt.judge(run)) if run or attempt.overfull else given

    def shortcut(self) -> Shortcut | None:
        """Return what may be asked to take a read instead of ``receive_data``, if anything.

        It is to be asked for anew after each ``receive_data``: then all may stand otherwise.
        """
        waits = self._out.hold.selective or self._journal.remembers
        if waits or self.state is not State.STREAMING:
            return None
        return self._attempt.shortcut(self._journal)

    def commit_by_time(self) -> bytes:
        """Stop holding: a 200 goes out now, with the openers that came so far."""
        if self.state is State.OPENING:
            return self._out.commit()
        self._out.answered = True
        return b""

    def _give(self, events: list[Event]) -> bytes:
        attempt = self._attempt
        if not attempt.terminal and self.state is State.STREAMING and not self._out.hold.selective:
            return self._out.give(events)
        last = [events.pop()] if attempt.terminal else []
        given = [self._put(event) for event in events]
        if last:
            given += [self._out.flush(), self._out.give(last)]
            self._complete()
        return b"".join(given)

    def _put(self, event: Event) -> bytes:
        given = self._out.put(event, self._attempt, opening=self.state is State.OPENING)
        if given and self._out.hold.content and self.state is not State.STREAMING:
            self._go(Signal.CONTENT)
            self._journal.content = True
            self._course.joined()
            self._ledger.recovered("success")
        return given

    def _complete(self) -> None:
        self._go(Signal.TERMINAL)
        self._budget.deposit()
        self._course.breaker.succeeded()
        self._ledger.recovered("success")
        if self._attempt.spliced:
            self._ledger.discard(self._attempt)

    # --- the end of an attempt ----------------------------------------------------------

    def receive_end(self, end: AttemptEnd, now: float) -> Open | Finish:
        """Decide what follows an attempt: another one, or the end of the client's response.

        After a COMPLETE stream a fault may be told late; it is noted and changes nothing.
        """
        attempt = self._attempt
        body = b"" if self.state in FINAL else self._give(attempt.close(end))
        if attempt.detail:
            end = replace(end, detail=attempt.detail)
        self._last_end = end
        self._journal.waiting = self._out.hold.waiting
        if self.state in FINAL:
            if end.fault is not None:
                fault = attempt.name_fault(end)
                self._note(fault, end, Phase.AFTER_TERMINAL, IncidentOutcome.SWALLOWED)
            return Finish(body)
        fault = attempt.name_fault(end)
        clean = end.fault is None and attempt.fault is None and not attempt.partial
        # Behind a finished answer a broken event is as good as none.
        sound = attempt.fault in {None, Fault.MALFORMED_EVENT, Fault.OVERSIZE_EVENT}
        whole = sound and attempt.head and attempt.grammar.whole(clean=clean)
        if whole and not attempt.mismatch:
            body += self._give(attempt.finish())
        if attempt.mismatch and self._course.helps:
            return self._unfit(now, body)
        if attempt.mismatch:
            # It had become the answer, so this is what breaks it.
            fault, end = Fault.MALFORMED_EVENT, replace(end, detail=attempt.mismatch)
            self._last_end, whole = end, False
        if whole:
            if not clean:
                self._note(fault, end, Phase.AFTER_TERMINAL, IncidentOutcome.REPAIRED)
            return Finish(body + self._complete_unmarked())
        return self._decide(fault, end, now, body)

    def _complete_unmarked(self) -> bytes:
        mark = self._attempt.grammar.end_mark()
        if mark is not None:
            self._ledger.repaired("added_done")
        body = self._out.flush() + self._out.give([mark] if mark else [])
        self._complete()
        return body

    def _decide(self, fault: Fault, end: AttemptEnd, now: float, body: bytes) -> Open | Finish:
        course, error = self._course, self._attempt.grammar.error
        if fault is Fault.HTTP_STATUS:
            error = read_error(end.body, end.status)
        cause = Cause(fault, end, error)
        plan = course.after(cause, self._attempt.grammar, self._journal, now)
        if plan is None and self._attempt.withheld:
            if end.fault is not None:
                self._note(end.fault, end, Phase.AFTER_TERMINAL, IncidentOutcome.SWALLOWED)
            return Finish(body + self._believe())
        self._ledger.recovered("failed")
        if plan is None and not self._out.answered and course.is_plain_refusal(cause):
            # The request's own fault: the upstream's reply is the answer, no incident.
            self._go(Signal.GIVE_UP)
            return Finish(pass_on=True)
        outcome = IncidentOutcome.SURFACED if plan is None else plan.outcome
        self._note(fault, end, self._phase(), outcome)
        return self._follow(plan, body) if plan else self._give_up(body)

    def _believe(self) -> bytes:
        """Give an answer without content after all: nobody can be asked for a better one."""
        body = self._out.flush() + self._out.give(self._attempt.withheld)
        self._complete()
        return body

    def _unfit(self, now: float, body: bytes) -> Open | Finish:
        """Go back to what broke the answer: what was to save it says something else."""
        self._course.breaker.answered()
        self._course.rule_out()
        self._ledger.recovered("mismatch")
        plan = self._course.again(self._attempt.grammar, self._journal, now)
        self._ledger.amend(IncidentOutcome.SURFACED if plan is None else plan.outcome)
        return self._follow(plan, body) if plan else self._give_up(body)

    def _follow(self, plan: Plan, body: bytes) -> Open:
        self._ledger.planned(plan)
        self._ledger.discard(self._attempt, self._out.hold if plan.goes_on else None)
        self._go(Signal.SPLICE if self._journal.events else Signal.RESTART)
        # A background response that is left before it runs may stay queued (protocol of the API).
        keep = plan.goes_on and not self._journal.content
        course = self._course
        course.follow(plan)
        self._begin(plan.splice, goes_on=plan.goes_on, document=plan.document)
        waits = (plan.floor_s, plan.spread_s)
        return Open(course.asked, course.target, plan.document, keep, *waits, body)

    def _give_up(self, body: bytes) -> Finish:
        """Tell the client what broke its answer."""
        attempt = self._attempt
        self._go(Signal.GIVE_UP)
        if attempt.spliced or (self._out.hold.content and not self._journal.content):
            self._ledger.discard(attempt)
        failure = self._course.failure(self._phase(), self._last_end, attempt.mismatch)
        if not self._out.answered:
            return by_status(failure)
        body += self._out.give(self._out.hold.openers)  # SDKs want them in front of an error
        return Finish(body + in_stream(failure, attempt, self._journal).body)

    # --- ends that are not the upstream's -----------------------------------------------

    def abandon(self) -> None:
        """Note that the client left."""
        if self.state not in FINAL:
            self._outcome = StreamOutcome.CLIENT_CLOSED
            self._course.released()
            self._ledger.ended(IncidentOutcome.CLIENT_GONE)

    def passed_on(self, end: AttemptEnd, now: float) -> None:
        """Note that the upstream's answer was no stream and went to the client as it was."""
        told = any(incident.attempt == self.attempts for incident in self._ledger.incidents)
        if end.fault is not None and not told:
            self._note(end.fault, end, Phase.MID_CONTENT, IncidentOutcome.SURFACED)
        whole = end.fault is None
        self._ledger.recovered("success" if whole else "failed")
        if self.state in FINAL:
            return
        if whole and not retryable_status(end.status):
            self._budget.deposit()
            self._course.breaker.succeeded()
        else:
            self._course.breaker.failed(now)
        self._go(Signal.TERMINAL if whole else Signal.GIVE_UP)

    def abort(self, error: UpstreamError) -> Finish:
        """End loudly for a reason of the proxy's own."""
        if self.state in FINAL:
            return Finish()
        self._outcome = StreamOutcome.ABORTED
        self._course.released()
        self._ledger.ended(IncidentOutcome.SURFACED, "failed")
        self._go(Signal.GIVE_UP)
        if self._out.answered:
            body = self._out.give(self._out.hold.openers)
            return Finish(body + last_words(error, self._attempt, self._journal))
        return Finish(reply=reply_of(error, should_retry=True))

    def _begin(
        self, splice: Splice | None = None, *, goes_on: bool = False, document: bool = False
    ) -> None:
        calls = self._attempt.grammar.open_calls if goes_on else set()
        if not goes_on:
            self._out.hold.forget(content=self._journal.content)
        quirks, first = self._course.target.quirks, self.attempts == 1
        parts = (self._course.asked, self._policy, self._ledger.repaired, splice, quirks)
        self._attempt = Attempt(*parts, first=first)
        self._attempt.grammar.open_calls = calls
        self._attempt.document = bytearray() if document else None
        self._ledger.begun(self._out.hold)

    def _go(self, signal: Signal) -> None:
        self.state = TRANSITIONS[self.state][signal]

    def _phase(self) -> Phase:
        if self._journal.content:
            return Phase.MID_CONTENT
        return Phase.BEFORE_CONTENT if self._attempt.head else Phase.BEFORE_HEADERS

    def _note(self, fault: Fault, end: AttemptEnd, phase: Phase, outcome: IncidentOutcome) -> None:
        attempt, number = self._attempt, self.attempts
        self._ledger.note(fault, phase, outcome, end=end, attempt=attempt, number=number)
