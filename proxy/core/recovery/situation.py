"""What a recovery strategy is asked about, and what it may answer.

Knows plain facts. Must not know how they came about.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.core.fault import AttemptEnd, Fault, IncidentOutcome
from proxy.core.grammars import Grammar
from proxy.core.journal import Journal
from proxy.core.policy import Policy
from proxy.core.request import Request


@dataclass(frozen=True, slots=True)
class Situation:
    """One failed attempt, as the ladder sees it.

    ``attempts`` counts the attempts made on this target; ``hopeless`` says that the same
    request would fail in the same way; ``stale_used`` that the free retry was taken before.
    """

    request: Request
    policy: Policy
    journal: Journal
    grammar: Grammar
    fault: Fault
    end: AttemptEnd
    attempts: int
    hopeless: bool
    stale_used: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next: ask again after a wait.

    The wait is ``floor_s`` plus a random share of ``spread_s`` (full jitter); ``free`` plans
    cost neither an attempt nor the budget. ``outcome`` is what the incident is counted as.
    """

    strategy: str
    outcome: IncidentOutcome
    floor_s: float = 0.0
    spread_s: float = 0.0
    free: bool = False
