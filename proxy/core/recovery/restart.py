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
    if not may_begin_anew(situation):
        return None
    request, outcome = situation.request.asking(situation.target.model), IncidentOutcome.RESTARTED
    if situation.end.stale and not situation.stale_used:
        # The upstream closed an idle pooled connection as we wrote to it: nothing was asked
        # yet, so asking again at once, on a fresh connection, costs nobody anything.
        return Plan(STRATEGY, outcome, request, situation.identity, free=True)
    wait = situation.wait
    if wait is None or situation.capped or not situation.may_repeat:
        return None
    return Plan(STRATEGY, outcome, request, situation.identity, *wait)


def may_begin_anew(situation: Situation) -> bool:
    """Say whether a new answer, from whomever, can take the place of the one that failed."""
    journal = situation.journal
    return (
        situation.has_body
        # A re-attachment that failed says nothing about a second run.
        and situation.asked.method == situation.request.method
        and not journal.content
        and journal.complete
        and situation.grammar.may_restart(openers_given=bool(journal.given))
    )
