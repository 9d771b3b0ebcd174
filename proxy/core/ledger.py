"""The accounts of one stream: attempts, incidents, recoveries, repairs. Each fact once.

Knows what is counted and reported. Must not know why anything happened.
"""

from __future__ import annotations

from collections import Counter

from proxy.core.attempt import Attempt
from proxy.core.commands import Report
from proxy.core.fault import AttemptEnd, Fault, Incident, IncidentOutcome, Phase, StreamOutcome
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
        self.reasons: list[str] = []
        """Why each attempt was made: ``first`` or a fault's name."""
        self.free_attempts = 0
        self.incidents: list[Incident] = []
        self.repairs: Counter[str] = Counter()
        self.discarded_bytes = 0

    def repaired(self, repair: str) -> None:
        """Count a repair."""
        self.repairs[repair] += 1

    def planned(self, plan: Plan, thrown_away: int) -> None:
        """Note that a plan was chosen, and how many bytes of the failed attempt it gives up."""
        self._plan = plan
        self.free_attempts += plan.free
        self.discarded_bytes += thrown_away

    def recovered(self, result: str) -> None:
        """Note how the plan under way turned out, if there is one."""
        if self._plan is not None:
            self._recoveries.append((self._plan.strategy, result))
            self._plan = None

    def note(
        self,
        fault: Fault,
        phase: Phase,
        outcome: IncidentOutcome,
        end: AttemptEnd,
        attempt: Attempt,
    ) -> None:
        """Note one incident."""
        incident = Incident(
            fault=fault,
            phase=phase,
            outcome=outcome,
            attempt=len(self.reasons),
            age_s=end.age_s,
            status=end.status,
            events=self._journal.events,
            size=self._journal.size,
            offset=attempt.offset,
            tail=attempt.tail[:TAIL_BYTES],
            detail=end.detail,
        )
        self.incidents.append(incident)

    def report(self, outcome: StreamOutcome, usage: bytes) -> Report:
        """Return the facts of a stream that is over; a whole one may have been recovered."""
        if outcome is StreamOutcome.COMPLETE and self._recoveries:
            outcome = StreamOutcome.RECOVERED
        return Report(
            outcome=outcome,
            attempts=tuple(self.reasons),
            incidents=tuple(self.incidents),
            recoveries=tuple(self._recoveries),
            repairs=dict(self.repairs),
            events=self._journal.events,
            size=self._journal.size,
            discarded_bytes=self.discarded_bytes,
            usage=usage,
        )
