"""The restart rung: when the same question is asked again, and after which wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support import ask, lifecycle, raw

from proxy.core.fault import AttemptEnd, Fault, IncidentOutcome
from proxy.core.grammars import grammar_for
from proxy.core.journal import Journal
from proxy.core.policy import Policy
from proxy.core.recovery import LADDER, Plan, Situation, climb
from proxy.core.request import Request
from proxy.core.sse import Event

RESTARTED = IncidentOutcome.RESTARTED
RESTART = Plan("restart", RESTARTED, spread_s=0.5)
OPENER = Event(b"response.created", raw(lifecycle("created", 0)))


def situation(request: Request | None = None, **fields: Any) -> Situation:
    """Return a first attempt that was reset before any content."""
    request = request or ask()
    plain = Situation(
        request=request,
        policy=Policy(),
        journal=Journal(),
        grammar=grammar_for(request),
        fault=Fault.RESET,
        end=AttemptEnd(Fault.RESET),
        attempts=1,
        hopeless=False,
        stale_used=False,
    )
    return replace(plain, **fields)


def ended(**fields: Any) -> AttemptEnd:
    """Return an end of an attempt."""
    return AttemptEnd(Fault.RESET, **fields)


def test_restart_is_on_the_ladder() -> None:
    """The key is the value of the ``strategy`` label."""
    assert list(LADDER) == ["restart"]


@pytest.mark.parametrize("fault", Fault)
def test_any_fault_that_may_pass_is_worth_a_restart(fault: Fault) -> None:
    """While the client has no content, what broke makes no difference."""
    assert climb(situation(fault=fault, end=AttemptEnd(fault))) == RESTART


@pytest.mark.parametrize(
    "reason",
    [
        situation(ask(recovery=False)),
        situation(Request("POST", "/chat/completions", None)),
        situation(journal=Journal(content=True)),
        situation(hopeless=True),
        situation(attempts=3),
        situation(policy=Policy(max_attempts=1)),
    ],
    ids=["recovery off", "not kept", "content given", "hopeless", "attempts spent", "only one"],
)
def test_a_restart_that_would_not_be_honest_or_useful_is_not_made(reason: Situation) -> None:
    """Each of these alone is enough."""
    assert climb(reason) is None


# --- waits ---


@pytest.mark.parametrize(
    ("attempts", "ceiling"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 8.0), (40, 8.0)]
)
def test_the_ceiling_of_the_wait_doubles_up_to_its_maximum(attempts: int, ceiling: float) -> None:
    """Full jitter below an exponential ceiling."""
    policy = Policy(max_attempts=99)
    assert climb(situation(policy=policy, attempts=attempts)) == Plan(
        "restart", RESTARTED, spread_s=ceiling
    )


@pytest.mark.parametrize("asked", [0.0, 1.0, 60.0])
def test_a_wait_that_was_asked_for_is_kept_with_jitter_on_top(asked: float) -> None:
    """Clients that were told the same time do not return together."""
    plan = climb(situation(end=ended(retry_after_s=asked), attempts=2))
    assert plan == Plan("restart", RESTARTED, floor_s=asked, spread_s=0.5)


def test_the_jitter_on_top_never_exceeds_the_ceiling() -> None:
    """A small maximum bounds it as well."""
    policy = Policy(backoff_max_s=0.1)
    plan = climb(situation(policy=policy, end=ended(retry_after_s=3.0)))
    assert plan == Plan("restart", RESTARTED, floor_s=3.0, spread_s=0.1)


def test_a_wait_longer_than_the_cap_is_the_clients() -> None:
    """It is passed on, not slept."""
    assert climb(situation(end=ended(retry_after_s=60.1))) is None


# --- a connection that was stale ---


def test_a_stale_connection_is_retried_at_once_and_free() -> None:
    """Nothing was asked yet; it costs neither an attempt nor the budget."""
    stale = ended(stale=True, retry_after_s=999.0)
    free = Plan("restart", RESTARTED, free=True)
    assert climb(situation(end=stale)) == free
    assert climb(situation(end=stale, attempts=3)) == free


def test_the_free_retry_is_taken_once() -> None:
    """A second stale connection is a fault like any other."""
    assert climb(situation(end=ended(stale=True), stale_used=True)) == RESTART
    assert climb(situation(end=ended(stale=True), stale_used=True, attempts=3)) is None


def test_a_stale_connection_does_not_make_a_request_repeatable() -> None:
    """What may not be repeated may not be repeated for free."""
    assert climb(situation(ask(recovery=False), end=ended(stale=True))) is None


# --- what the endpoint allows ---


@pytest.mark.parametrize(
    ("fields", "allowed"), [({}, False), ({"store": True}, False), ({"store": False}, True)]
)
def test_openers_given_bind_a_stored_response(fields: dict[str, Any], allowed: bool) -> None:  # noqa: FBT001
    """Its id is the client's to use, so a new one cannot take its place."""
    request = ask("responses", **fields)
    assert climb(situation(request)) == RESTART
    behind = situation(request, journal=Journal(openers=[OPENER]))
    assert climb(behind) == (RESTART if allowed else None)


def test_a_background_run_that_answered_is_not_started_again() -> None:
    """It runs on at the upstream."""
    silent = situation(ask("responses", background=True))
    assert climb(silent) == RESTART
    silent.grammar.read(OPENER)
    assert climb(silent) is None


def test_openers_given_do_not_bind_a_chat() -> None:
    """Its id is of no use elsewhere."""
    assert climb(situation(journal=Journal(openers=[Event(b"", b"{}")]))) == RESTART
