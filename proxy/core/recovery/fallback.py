"""Fallback: ask the next target.

Applies once the attempts on a target are spent or of no use: it is silent, its circuit is open,
it was cut at the same age twice, the prompt is too long for its model, its account is spent.
Never to a request's own fault, never to a refusal of its content. Before content the next
target's answer is given as it is, with its model's name in it; after content it must fit what
was given, by replay or continuation as the policy and the target allow. Costs a generation at
the other target's price.
"""

from __future__ import annotations

from proxy.core.fault import Fault, IncidentOutcome
from proxy.core.policy import Target
from proxy.core.recovery import continuation, replay, restart
from proxy.core.recovery.situation import Plan, Situation
from proxy.core.recovery.splice import Splice
from proxy.core.request import Request

STRATEGY = "fallback"


def plan(situation: Situation) -> Plan | None:
    """Return the request to the next target, or None."""
    target = situation.onward
    if target is None or not _may(situation):
        return None
    found = _joined(situation, target)
    return found and Plan(STRATEGY, IncidentOutcome.FELL_BACK, *found, onward=True)


def _may(situation: Situation) -> bool:
    error = situation.error
    refused = error is not None and not (error.transient or error.elsewhere)
    return not refused and situation.fault is not Fault.OVERSIZE_EVENT


def _joined(situation: Situation, target: Target) -> tuple[Request, Splice | None] | None:
    request = situation.request.asking(target.model)
    if not situation.journal.content:
        return (request, situation.identity) if restart.may_begin_anew(situation) else None
    splice = replay.joined(situation)
    if splice is not None:
        return request, splice
    return continuation.continued(situation, target)
