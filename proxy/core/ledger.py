"""The accounts of one stream: attempts, incidents, recoveries, repairs. Each fact once.

Knows what is counted and reported. Must not know why anything happened.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from proxy.core.attempt import Attempt
from proxy.core.commands import Report
from proxy.core.fault import AttemptEnd, Fault, Incident, IncidentOutcome, Phase, StreamOutcome
from proxy.core.hold import Hold
from proxy.core.journal import Journal
from proxy.core.recovery import Plan

TAIL_BYTES = 2048
"""So much of the bytes that could not be given is kept in an incident."""


class Ledger:
    """Grows with the stream; ``report`` closes it."""

    def __init__(self, journal: Journal) -> None:
        """Start with nothing; ``journal`` is read, never written."""
        self._journal = journal
        self._recoveries: list[tuple[str, str]] = []
        self._plan: Plan | None = None
        self._before = (0, 0)
        self.incidents: list[Incident] = []
        self.repairs: Counter[str] = Counter()
        self.discarded_bytes = 0
        self.discarded_events = 0

    @property
    def closed_incidents(self) -> list[Incident]:
        """The incidents of which it is known what became of them: all, or all but the last."""
        return self.incidents if self._plan is None else self.incidents[:-1]

    def repaired(self, repair: str) -> None:
        """Count a repair."""
        self.repairs[repair] += 1

    def begun(self, hold: Hold) -> None:
        """Note that an attempt begins, with what of an earlier one still waits."""
        self._before = (self._journal.events + hold.held, self._journal.size + hold.size)

    def discard(self, attempt: Attempt, kept: Hold | None = None) -> None:
        """Count what was received in an attempt and goes to nobody; ``kept`` still waits."""
        events, size = self._before
        given = self._journal.events + (kept.held if kept else 0) - events
        sent = self._journal.size + (kept.size if kept else 0) - size
        self.discarded_events += max(0, attempt.grammar.events - max(0, given))
        self.discarded_bytes += max(0, attempt.received - max(0, sent))

    def planned(self, plan: Plan) -> None:
        """Note that a plan was chosen."""
        self._plan = plan

    def recovered(self, result: str) -> None:
        """Note how the plan under way turned out, if there is one."""
        if self._plan is not None:
            self._recoveries.append((self._plan.strategy, result))
            self._plan = None

    def note(  # noqa: PLR0913 - an incident is made of so many facts
        self,
        fault: Fault,
        phase: Phase,
        outcome: IncidentOutcome,
        *,
        end: AttemptEnd,
        attempt: Attempt,
        number: int,
    ) -> None:
        """Note one incident, of the attempt with this number."""
        incident = Incident(
            fault=fault,
            phase=phase,
            outcome=outcome,
            attempt=number,
            age_s=end.age_s,
            status=end.status,
            events=self._journal.events,
            size=self._journal.size,
            offset=attempt.offset,
            tail=attempt.tail[:TAIL_BYTES],
            detail=end.detail,
        )
        self.incidents.append(incident)

    def amend(self, outcome: IncidentOutcome) -> None:
        """Note what became of the last incident in the end."""
        self.incidents[-1] = replace(self.incidents[-1], outcome=outcome)

    def ended(self, outcome: IncidentOutcome, result: str = "") -> None:
        """Note that it will never be known whether the plan under way saves the answer."""
        if self._plan is not None:
            self.amend(outcome)
            self._recoveries += [(self._plan.strategy, result)] if result else []
            self._plan = None

    def report(
        self, outcome: StreamOutcome, usage: bytes, attempts: tuple[str, ...], *, capped: bool
    ) -> Report:
        """Return the facts of a stream that is over; a whole one may have been recovered."""
        if outcome is StreamOutcome.COMPLETE and self._recoveries:
            outcome = StreamOutcome.RECOVERED
        return Report(
            outcome=outcome,
            attempts=attempts,
            incidents=tuple(self.incidents),
            recoveries=tuple(self._recoveries),
            repairs=dict(self.repairs),
            events=self._journal.events,
            size=self._journal.size,
            discarded_bytes=self.discarded_bytes,
            usage=usage,
            discarded_events=self.discarded_events,
            capped=capped,
        )
