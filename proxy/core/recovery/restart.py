"""Restart: ask the same question again while the client has no content.

Applies before the commit, to faults that may pass. Promises that the client cannot tell: what
was held back of the failed attempt is thrown away, and openers that the clock made us give
keep their identity. Costs the user a second billed generation, at most ``max_attempts`` - 1
of them, and nothing else.
"""

from __future__ import annotations

from proxy.core.fault import IncidentOutcome
from proxy.core.recovery.situation import Plan, Situation

STRATEGY = "restart"


def plan(situation: Situation) -> Plan | None:
    """Return the restart to make, or None."""
    if not _may(situation):
        return None
    if situation.end.stale and not situation.stale_used:
        # The upstream closed an idle pooled connection as we wrote to it: nothing was asked
        # yet, so asking again at once, on a fresh connection, costs nobody anything.
        return Plan(STRATEGY, IncidentOutcome.RESTARTED, free=True)
    policy = situation.policy
    if situation.attempts >= policy.max_attempts:
        return None
    ceiling = min(policy.backoff_max_s, policy.backoff_base_s * 2 ** (situation.attempts - 1))
    asked = situation.end.retry_after_s
    if asked is None:
        return Plan(STRATEGY, IncidentOutcome.RESTARTED, spread_s=ceiling)
    if asked > policy.retry_after_max_s:
        return None
    # Jitter on top of what was asked for, so that clients told the same do not return together.
    return Plan(
        STRATEGY,
        IncidentOutcome.RESTARTED,
        floor_s=asked,
        spread_s=min(ceiling, policy.backoff_base_s),
    )


def _may(situation: Situation) -> bool:
    request, journal = situation.request, situation.journal
    return (
        request.recovery
        and request.replayable
        and not journal.content
        and not journal.full
        and not situation.hopeless
        and situation.grammar.may_restart(openers_given=bool(journal.openers))
    )
