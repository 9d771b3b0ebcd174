"""The ladder: strategies asked in order after a fault. To add one: a file, and a line here.

Each rung is a pure function from a ``Situation`` to a ``Plan`` or None. When no rung answers,
or the shared budget has nothing left, the endpoint's own terminal error event goes out: that
last rung is the session's and never fails.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.core.recovery import restart
from proxy.core.recovery.situation import Plan, Situation

__all__ = ["LADDER", "Plan", "Situation", "climb"]

LADDER: dict[str, Callable[[Situation], Plan | None]] = {
    restart.STRATEGY: restart.plan,
}


def climb(situation: Situation) -> Plan | None:
    """Return the first plan that a rung offers."""
    for rung in LADDER.values():
        plan = rung(situation)
        if plan is not None:
            return plan
    return None
