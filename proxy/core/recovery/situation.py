"""What a recovery strategy is asked about, and what it may answer.

Knows plain facts, and the few questions that every strategy asks of them. Must not know how the
facts came about.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.core.errors import UpstreamError
from proxy.core.fault import AttemptEnd, Fault, IncidentOutcome
from proxy.core.grammars import Grammar
from proxy.core.journal import Journal
from proxy.core.policy import Policy, Target
from proxy.core.recovery.splice import Identity, Splice
from proxy.core.request import Request


@dataclass(frozen=True, slots=True)
class Situation:
    """One failed attempt, as the ladder sees it.

    ``request`` is the client's own, ``asked`` the one that failed, ``target`` whom it was sent
    to and ``onward`` the next target that may be asked. ``attempts`` counts the attempts made
    on this target; ``stale_used`` says that the free retry was taken before, ``capped`` that its
    attempts were cut at the same age, ``shut`` that it is not to be asked again: it refused, the
    budget spares it, or its circuit is open and there is another one. ``ruled_out`` has the
    strategies that did not fit here.
    """

    request: Request
    policy: Policy
    journal: Journal
    grammar: Grammar
    fault: Fault
    end: AttemptEnd
    attempts: int
    target: Target
    asked: Request
    strategy: str = ""
    onward: Target | None = None
    error: UpstreamError | None = None
    stale_used: bool = False
    capped: bool = False
    shut: bool = False
    ruled_out: frozenset[str] = frozenset()

    @property
    def hopeless(self) -> bool:
        """Whether the same request would fail in the same way."""
        refused = self.error is not None and not self.error.transient
        return refused or self.fault is Fault.OVERSIZE_EVENT

    @property
    def silent(self) -> bool:
        """Whether this route kept still so long that its repetition would cost more of that."""
        timed_out = self.fault in {Fault.FIRST_EVENT_TIMEOUT, Fault.STALL}
        return timed_out or self.end.silence_s >= self.policy.stall_timeout_s / 2

    @property
    def may_repeat(self) -> bool:
        """Whether the same target may be asked once more, for whatever is then joined."""
        if self.hopeless or self.shut or self.attempts >= self.policy.max_attempts:
            return False
        # Where there is another route, a silent one is not waited for twice.
        return self.onward is None or not self.silent

    @property
    def has_body(self) -> bool:
        """Whether the request can be sent again, and the client lets us."""
        return self.request.recovery and self.request.replayable

    @property
    def wait(self) -> tuple[float, float] | None:
        """Floor and spread of the wait before the same target is asked; None: too long."""
        policy, asked = self.policy, self.end.retry_after_s
        step = max(0, self.attempts - 1)
        ceiling = min(policy.backoff_max_s, policy.backoff_base_s * 2**step)
        if asked is None:
            return 0.0, ceiling
        if asked > policy.retry_after_max_s:
            return None
        # Jitter on top, so that clients told the same do not return together.
        return asked, min(ceiling, policy.backoff_base_s)

    @property
    def identity(self) -> Splice | None:
        """The splice behind openers that were given, if any were."""
        seam = self.grammar.seam(self.journal.given) if self.journal.given else None
        return Identity(seam) if seam else None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next: ask again after a wait, and join the answer on.

    The wait is ``floor_s`` plus a random share of ``spread_s`` (full jitter). ``outcome`` is
    what the incident is counted as; ``onward`` says that ``request`` goes to the next target;
    ``free`` plans cost neither an attempt nor the budget; with ``goes_on`` what is held of the
    failed attempt stays good; ``document`` says that the answer is one JSON object.
    """

    strategy: str
    outcome: IncidentOutcome
    request: Request
    splice: Splice | None = None
    floor_s: float = 0.0
    spread_s: float = 0.0
    onward: bool = False
    free: bool = False
    goes_on: bool = False
    document: bool = False
