"""The ladder: strategies asked in order after a fault. To add one: a file, and a line here.

Each rung is a pure function from a ``Situation`` to a ``Plan`` or None. When no rung answers,
or the shared budget has nothing left, the endpoint's own terminal error event goes out: that
last rung is the session's and never fails.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.core.policy import Policy
from proxy.core.recovery import continuation, fallback, replay, restart, resume
from proxy.core.recovery.situation import Plan, Situation
from proxy.core.recovery.splice import Splice
from proxy.core.request import Request

__all__ = ["LADDER", "Plan", "Situation", "Splice", "climb", "may_join"]

LADDER: dict[str, Callable[[Situation], Plan | None]] = {
    resume.STRATEGY: resume.plan,
    restart.STRATEGY: restart.plan,
    replay.STRATEGY: replay.plan,
    continuation.STRATEGY: continuation.plan,
    fallback.STRATEGY: fallback.plan,
}


def climb(situation: Situation) -> Plan | None:
    """Return the first plan that a rung offers."""
    for rung in LADDER.values():
        plan = rung(situation)
        if plan is not None:
            return plan
    return None


def may_join(request: Request, policy: Policy) -> bool:
    """Say whether a new attempt might have to be joined on to content: it is then remembered."""
    if not (request.recovery and request.replayable and request.asks_stream):
        return False
    ways = [policy.continuation, *(t.continuation for f in policy.fallbacks for t in f.to)]
    resumed = policy.resume and (request.background or request.method == "GET")
    joined = resumed or replay.may_replay(request, policy.replay)
    return joined or any(way != "off" for way in ways)
