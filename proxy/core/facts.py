"""What may be asked of a session at any time: how it stands, what was tried, what was counted.

Knows the parts that a session is made of, and reads them. Must not change any of them.
"""

from __future__ import annotations

from proxy.core.attempt import Attempt
from proxy.core.budget import Breakers, RetryBudget
from proxy.core.commands import Report, Try
from proxy.core.course import Course
from proxy.core.errors import Reply, retryable_status
from proxy.core.fault import Incident, StreamOutcome
from proxy.core.grammars import Grammar
from proxy.core.ledger import Ledger
from proxy.core.outlet import Outlet
from proxy.core.policy import Policy
from proxy.core.recovery import may_join
from proxy.core.request import Request
from proxy.core.states import State
from proxy.core.telling import in_one_piece


class Facts:
    """The parts of one client's stream, and what they say. Only the session changes ``state``."""

    state: State

    def __init__(
        self, request: Request, policy: Policy, budget: RetryBudget, breakers: Breakers
    ) -> None:
        """Make the parts; nothing is asked yet."""
        self._policy = policy
        self._budget = budget
        self._course = Course(request, policy, budget, breakers)
        self._out = Outlet(request, policy, keeps=may_join(request, policy))
        self._journal = self._out.journal
        self._ledger = Ledger(self._journal)
        self._outcome: StreamOutcome | None = None
        self._attempt = Attempt(request, policy, self._ledger.repaired, quirks=policy.quirks)

    @property
    def answered(self) -> bool:
        """Whether a 200 is out, or must go out with the bytes returned."""
        return self._out.answered

    @property
    def settled(self) -> bool:
        """Whether the attempt has nothing more to say, so that reading may stop."""
        return self._attempt.settled

    @property
    def grammar(self) -> Grammar:
        """What is known of the attempt's stream. Not to be fed."""
        return self._attempt.grammar

    @property
    def data_events(self) -> int:
        """Data events read in this attempt; comments do not count (coder/coder#26005)."""
        return self._attempt.grammar.events + self._attempt.grammar.foreign

    @property
    def incidents(self) -> list[Incident]:
        """The incidents so far of which it is known what became of them. Not to be changed."""
        return self._ledger.closed_incidents

    @property
    def tries(self) -> list[Try]:
        """The attempts begun so far. Not to be changed."""
        return self._course.tries

    @property
    def attempts(self) -> int:
        """How many attempts were begun so far."""
        return len(self._course.tries)

    def wants_body(self, status: int) -> bool:
        """Say whether the body of an answer with an error status is looked at."""
        return self._out.answered or retryable_status(status) or self._course.has_fallback

    @property
    def folds(self) -> bool:
        """Whether events are to become one JSON object, as no stream was asked for."""
        grammar = self._attempt.grammar
        return grammar.folds and grammar.quirks.aggregate and not grammar.request.asks_stream

    def fold(self, body: bytes) -> Reply:
        """Return a stream that is over, all of its events, as the reply in one piece."""
        return in_one_piece(self._attempt.grammar, body, failed=self.state is State.FAILED)

    def report(self) -> Report:
        """Return the facts of a stream that is over."""
        ended = StreamOutcome.COMPLETE if self.state is State.COMPLETE else StreamOutcome.FAILED
        return self._ledger.report(
            self._outcome or ended,
            self._attempt.grammar.usage,
            tuple(attempt.reason for attempt in self._course.tries),
            capped=self._course.cap_s is not None,
        )
