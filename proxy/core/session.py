"""The session: the state machine of one client's stream, over any number of attempts.

The waist between core and edge. The edge tells ``receive_head`` when a 200 arrived, gives
``receive_data`` every read and writes what it returns, and calls ``receive_end`` once when the
attempt is over; it stops reading when ``settled``. When the commit timer is up it calls
``commit_by_time``. ``abandon`` and ``abort`` are for a client that left and for a shutdown.

Knows states, holds what must be held, counts faults. Must not know which endpoint it serves
(that is ``grammars``), how anything is recovered (``recovery``), or the time.
"""

from __future__ import annotations

from proxy.core.attempt import Attempt
from proxy.core.budget import RetryBudget
from proxy.core.commands import Finish, Open, Report, http_reply, own_error
from proxy.core.errors import UpstreamError, read_error, reply_of, retryable_status
from proxy.core.fault import AttemptEnd, Fault, Incident, IncidentOutcome, Phase, StreamOutcome
from proxy.core.journal import Journal
from proxy.core.ledger import Ledger
from proxy.core.policy import Policy
from proxy.core.recovery import Plan, Situation, climb
from proxy.core.request import Request
from proxy.core.sse import Event
from proxy.core.states import FINAL, TRANSITIONS, Signal, State


class StreamSession:
    """One client's stream. ``budget`` is shared with all other streams."""

    def __init__(self, request: Request, policy: Policy, budget: RetryBudget) -> None:
        """Begin the first attempt."""
        self.state = State.OPENING
        self.answered = False
        """Whether a 200 is out, or must go out with the bytes returned."""
        self._request = request
        self._policy = policy
        self._budget = budget
        self._journal = Journal()
        self._held: list[Event] = []
        self._held_size = 0
        self._ledger = Ledger(self._journal)
        self._outcome: StreamOutcome | None = None
        budget.deposit()
        self._begin("first")

    @property
    def settled(self) -> bool:
        """Whether the attempt has nothing more to say, so that reading may stop."""
        return self._attempt.settled

    @property
    def failed(self) -> bool:
        """Whether the client was told of a failure."""
        return self.state is State.FAILED

    @property
    def data_events(self) -> int:
        """Data events read in this attempt; comments do not count (coder/coder#26005)."""
        return self._attempt.grammar.events

    @property
    def incidents(self) -> list[Incident]:
        """The incidents so far, in order. Not to be changed."""
        return self._ledger.incidents

    @property
    def attempts(self) -> int:
        """Attempts begun so far."""
        return len(self._ledger.reasons)

    # --- while the attempt runs ---------------------------------------------------------

    def receive_head(self) -> None:
        """Note that the attempt was answered with a 200."""
        self._attempt.head = True

    def receive_data(self, data: bytes) -> bytes:
        """Take one read, return what goes to the client now: whole events, or nothing."""
        if self._attempt.settled or self.state in FINAL:
            return b""
        return self._give(self._attempt.feed(data))

    def commit_by_time(self) -> bytes:
        """Stop holding: a 200 goes out now, with the openers that came so far."""
        self.answered = True
        if self.state is not State.OPENING:
            return b""
        self._remember(self._held)
        return self._flush()

    def _give(self, events: list[Event]) -> bytes:
        if self.state is State.STREAMING and not self._attempt.terminal:
            return self._encode(events)
        last = events.pop() if self._attempt.terminal else None
        out = [self._open_with(event) for event in events]
        if last is not None:
            out += [self._flush(), self._journal.give(last.encode())]
            self._go(Signal.TERMINAL)
            self._ledger.recovered("success")
        return b"".join(out)

    def _open_with(self, event: Event) -> bytes:
        if self.state is State.STREAMING:
            return self._journal.give(event.encode())
        if self._attempt.grammar.has_content(event):
            self._go(Signal.CONTENT)
            self._journal.content = True
            self._ledger.recovered("success")
            return self._flush() + self._journal.give(event.encode())
        # An opener that lacks its blank line comes at the end, where an attempt may yet follow.
        if self.answered and self.state is State.OPENING and not self._attempt.closed:
            self._remember([event])
            return self._journal.give(event.encode())
        self._held.append(event)
        self._held_size += len(event.data)
        # The hold must not grow without bound, nor fail a healthy stream: it ends early.
        too_much = self._held_size > self._policy.journal_max_bytes
        return self.commit_by_time() if too_much else b""

    def _remember(self, openers: list[Event]) -> None:
        journal = self._journal
        journal.openers += openers
        size = sum(len(event.data) for event in journal.openers)
        if size > self._policy.journal_max_bytes:
            journal.full = True
            journal.openers.clear()

    def _flush(self) -> bytes:
        self.answered = True
        out = self._encode(self._held)
        self._held.clear()
        return out

    def _encode(self, events: list[Event]) -> bytes:
        return b"".join([self._journal.give(event.encode()) for event in events])

    # --- the end of an attempt ----------------------------------------------------------

    def receive_end(self, end: AttemptEnd, now: float) -> Open | Finish:
        """Decide what follows an attempt: another one, or the end of the client's response.

        ``now`` is monotonic seconds, for the budget. After a COMPLETE stream a fault may be
        told late; it is noted and changes nothing.
        """
        attempt = self._attempt
        body = b"" if self.state in FINAL else self._give(attempt.close(end))
        if self.state in FINAL:
            if end.fault is not None:
                fault = attempt.name_fault(end)
                self._note(fault, end, Phase.AFTER_TERMINAL, IncidentOutcome.SWALLOWED)
            return Finish(body)
        fault = attempt.name_fault(end)
        clean = end.fault is None and attempt.fault is None and not attempt.partial
        # Behind a finished answer a broken event is as good as none.
        sound = attempt.fault in {None, Fault.MALFORMED_EVENT, Fault.OVERSIZE_EVENT}
        if sound and attempt.head and attempt.grammar.whole(clean=clean):
            if not clean:
                self._note(fault, end, Phase.AFTER_TERMINAL, IncidentOutcome.REPAIRED)
            return Finish(body + self._complete_unmarked())
        return self._decide(fault, end, now, body)

    def _complete_unmarked(self) -> bytes:
        mark = self._attempt.grammar.end_mark()
        if mark is not None:
            self._ledger.repaired("added_done")
            self._held.append(mark)
        body = self._flush()
        self._go(Signal.TERMINAL)
        self._ledger.recovered("success")
        return body

    def _decide(self, fault: Fault, end: AttemptEnd, now: float, body: bytes) -> Open | Finish:
        error = self._attempt.grammar.error
        if fault is Fault.HTTP_STATUS:
            error = read_error(end.body, end.status)
            if not self.answered and not retryable_status(end.status):
                # The request's own fault: the upstream's reply is the answer, no incident.
                self._ledger.recovered("failed")
                self._go(Signal.GIVE_UP)
                return Finish(pass_on=True)
        hopeless = fault is Fault.OVERSIZE_EVENT or (error is not None and not error.transient)
        plan = climb(self._situation(fault, end, hopeless=hopeless))
        if plan is not None and not plan.free and not self._budget.withdraw(now):
            plan = None
        outcome = IncidentOutcome.SURFACED if plan is None else plan.outcome
        phase = self._phase()
        self._note(fault, end, phase, outcome)
        self._ledger.recovered("failed")
        if plan is not None:
            return self._follow(plan, fault)
        self._go(Signal.GIVE_UP)
        if self.answered:
            body += self._flush()  # the numbers of openers still held are taken
            error = error or own_error(fault, end.detail, self._journal.events)
            return Finish(body + self._tell(error))
        if fault is Fault.HTTP_STATUS:
            return Finish(pass_on=True)
        if error is not None:
            return Finish(reply=reply_of(error))
        return Finish(reply=http_reply(fault, phase, self.attempts, end.detail))

    def _situation(self, fault: Fault, end: AttemptEnd, *, hopeless: bool) -> Situation:
        return Situation(
            request=self._request,
            policy=self._policy,
            journal=self._journal,
            grammar=self._attempt.grammar,
            fault=fault,
            end=end,
            attempts=self.attempts - self._ledger.free_attempts,
            hopeless=hopeless,
            stale_used=self._ledger.free_attempts > 0,
        )

    def _follow(self, plan: Plan, fault: Fault) -> Open:
        self._ledger.planned(plan, self._attempt.received)
        self._go(Signal.SPLICE if self._journal.openers else Signal.RESTART)
        self._begin(fault.value)
        return Open(plan.floor_s, plan.spread_s)

    def _tell(self, error: UpstreamError) -> bytes:
        """Return the terminal error event(s), the upstream's own where clients understand it."""
        attempt = self._attempt
        if attempt.error_event is not None and attempt.grammar.error_is_native:
            events = [attempt.error_event]
        else:
            events = attempt.grammar.error_events(error, retryable=error.transient)
        return self._encode(events)

    # --- ends that are not the upstream's -----------------------------------------------

    def abandon(self) -> None:
        """Note that the client left."""
        if self.state not in FINAL:
            self._outcome = StreamOutcome.CLIENT_CLOSED

    def passed_on(self, end: AttemptEnd) -> None:
        """Note that the upstream's answer was no stream and went to the client as it was."""
        told = any(incident.attempt == self.attempts for incident in self.incidents)
        if end.fault is not None and not told:
            self._note(end.fault, end, Phase.MID_CONTENT, IncidentOutcome.SURFACED)
        self._ledger.recovered("success" if end.fault is None else "failed")
        if self.state not in FINAL:
            self._go(Signal.TERMINAL if end.fault is None else Signal.GIVE_UP)

    def abort(self, error: UpstreamError) -> Finish:
        """End loudly for a reason of the proxy's own."""
        if self.state in FINAL:
            return Finish()
        self._outcome = StreamOutcome.ABORTED
        self._ledger.recovered("failed")
        self._go(Signal.GIVE_UP)
        if self.answered:
            events = self._attempt.grammar.error_events(error, retryable=error.transient)
            return Finish(self._flush() + self._encode(events))
        return Finish(reply=reply_of(error, should_retry=True))

    def report(self) -> Report:
        """Return the facts of a stream that is over."""
        whole = self.state is State.COMPLETE
        ended = StreamOutcome.COMPLETE if whole else StreamOutcome.FAILED
        return self._ledger.report(self._outcome or ended, self._attempt.grammar.usage)

    # --- small parts --------------------------------------------------------------------

    def _begin(self, reason: str) -> None:
        self._ledger.reasons.append(reason)
        self._held.clear()
        self._held_size = 0
        self._attempt = Attempt(
            self._request, self._policy, self._ledger.repaired, self._journal.openers
        )

    def _go(self, signal: Signal) -> None:
        self.state = TRANSITIONS[self.state][signal]

    def _phase(self) -> Phase:
        if self._journal.content:
            return Phase.MID_CONTENT
        return Phase.BEFORE_CONTENT if self._attempt.head else Phase.BEFORE_HEADERS

    def _note(self, fault: Fault, end: AttemptEnd, phase: Phase, outcome: IncidentOutcome) -> None:
        self._ledger.note(fault, phase, outcome, end, self._attempt)
