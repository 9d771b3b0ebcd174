"""The restart rung: when the same question is asked again, and after which wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support import ask, lifecycle, raw

from proxy.core.errors import read_error
from proxy.core.fault import AttemptEnd, Fault, IncidentOutcome
from proxy.core.grammars import Grammar, grammar_for
from proxy.core.journal import Journal
from proxy.core.policy import Fallback, Policy, Target
from proxy.core.recovery import LADDER, Plan, Situation, climb, may_join
from proxy.core.recovery.splice import Identity
from proxy.core.request import Request
from proxy.core.sse import Event

RESTARTED = IncidentOutcome.RESTARTED
RESTART = Plan("restart", RESTARTED, ask(), spread_s=0.5)
OPENER = Event(b"response.created", raw(lifecycle("created", 0)))


def situation(request: Request | None = None, **fields: Any) -> Situation:
    """Return a first attempt that was reset before any content."""
    request = request or ask()
    plain = Situation(
        request=request,
        policy=Policy(),
        journal=Journal(10_000),
        grammar=grammar_for(request),
        fault=Fault.RESET,
        end=AttemptEnd(Fault.RESET),
        attempts=1,
        target=Target(),
        asked=request,
    )
    return replace(plain, **fields)


def behind(*events: Event, content: bool = False) -> Journal:
    """Return the journal of a client that has some events."""
    journal = Journal(10_000)
    for event in events:
        journal.give(event)
    journal.content = content
    return journal


def answered(family: str) -> Grammar:
    """Return the grammar of an attempt that gave an event."""
    grammar = grammar_for(ask(family))
    grammar.read(Event(b"", b"{}"))
    return grammar


def ended(**fields: Any) -> AttemptEnd:
    """Return an end of an attempt."""
    return AttemptEnd(Fault.RESET, **fields)


def test_the_ladder_is_the_contracts() -> None:
    """The keys are the values of the ``strategy`` label, the cheapest rung is asked first."""
    assert list(LADDER) == ["resume", "restart", "replay", "continuation", "fallback"]


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.OVERSIZE_EVENT])
def test_any_fault_that_may_pass_is_worth_a_restart(fault: Fault) -> None:
    """While the client has no content, what broke makes no difference."""
    assert climb(situation(fault=fault, end=AttemptEnd(fault))) == RESTART


@pytest.mark.parametrize(
    "reason",
    [
        situation(ask(recovery=False)),
        situation(Request("POST", "/chat/completions", None)),
        situation(journal=behind(content=True)),
        situation(error=read_error(b'{"error":{"code":"invalid_prompt"}}')),
        situation(fault=Fault.OVERSIZE_EVENT),
        situation(attempts=3),
        situation(policy=Policy(max_attempts=1)),
        situation(capped=True),
        situation(shut=True),
        situation(asked=Request("GET", "/chat/completions/c_1")),
        situation(fault=Fault.STALL, onward=Target("b")),
        situation(end=ended(silence_s=150.0), onward=Target("b")),
        situation(grammar=answered("other")),
        situation(journal=Journal(1, events=1, full=True)),
    ],
    ids=[
        *("recovery off", "not kept", "content given", "refused", "oversize", "attempts spent"),
        *("only one", "capped", "shut", "re-attachment", "silent", "silent for long"),
        *("had its effect", "openers not remembered"),
    ],
)
def test_a_restart_that_would_not_be_honest_or_useful_is_not_made(reason: Situation) -> None:
    """Each of these alone is enough."""
    assert LADDER["restart"](reason) is None


@pytest.mark.parametrize("error", [b'{"error":{"code":"server_error"}}', b'{"error":"gone"}'])
def test_an_error_that_may_pass_is_worth_a_restart(error: bytes) -> None:
    """Only what the request itself is to blame for would fail again."""
    told = situation(fault=Fault.IN_STREAM_ERROR, error=read_error(error))
    assert climb(told) == RESTART


def test_a_silent_target_is_asked_again_where_there_is_no_other() -> None:
    """Waiting once more is better than no answer."""
    assert climb(situation(fault=Fault.STALL, end=ended(silence_s=300.0))) == RESTART


def test_a_loud_target_is_asked_again_before_another_one() -> None:
    """A reset costs little time."""
    assert climb(situation(end=ended(silence_s=149.0), onward=Target("b"))) == RESTART


def test_the_target_is_asked_for_its_own_model() -> None:
    """As its first attempt was."""
    plan = climb(situation(target=Target("b", "m-2")))
    assert plan is not None
    assert plan.request.json == ask(model="m-2").json


# --- what is remembered for it ---


@pytest.mark.parametrize(
    ("request_", "policy", "may"),
    [
        (ask(), Policy(), False),
        (ask(temperature=0), Policy(), True),
        (ask(temperature=0), Policy(replay="never"), False),
        (ask(), Policy(replay="always"), True),
        (ask(recovery=False), Policy(replay="always"), False),
        (ask(stream=False), Policy(replay="always"), False),
        (Request("POST", "/x", None), Policy(replay="always"), False),
        (ask("responses", background=True), Policy(), True),
        (ask("responses", background=True), Policy(resume=False), False),
        (Request("GET", "/responses/r_1?stream=true"), Policy(), True),
        (ask(), Policy(continuation="prefill"), True),
        (ask(), Policy(fallbacks=(Fallback(("*",), (Target("b"),)),)), False),
        (ask(), Policy(fallbacks=(Fallback(("*",), (Target("b", "", "vllm"),)),)), True),
    ],
)
def test_content_is_remembered_only_where_it_might_be_joined_on_to(
    request_: Request,
    policy: Policy,
    may: bool,  # noqa: FBT001
) -> None:
    """A healthy stream that nothing could be joined to costs no memory."""
    assert may_join(request_, policy) is may


# --- waits ---


@pytest.mark.parametrize(
    ("attempts", "ceiling"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 8.0), (40, 8.0)]
)
def test_the_ceiling_of_the_wait_doubles_up_to_its_maximum(attempts: int, ceiling: float) -> None:
    """Full jitter below an exponential ceiling."""
    policy = Policy(max_attempts=99)
    assert climb(situation(policy=policy, attempts=attempts)) == Plan(
        "restart", RESTARTED, ask(), spread_s=ceiling
    )


@pytest.mark.parametrize("asked", [0.0, 1.0, 60.0])
def test_a_wait_that_was_asked_for_is_kept_with_jitter_on_top(asked: float) -> None:
    """Clients that were told the same time do not return together."""
    plan = climb(situation(end=ended(retry_after_s=asked), attempts=2))
    assert plan == Plan("restart", RESTARTED, ask(), floor_s=asked, spread_s=0.5)


def test_the_jitter_on_top_never_exceeds_the_ceiling() -> None:
    """A small maximum bounds it as well."""
    policy = Policy(backoff_max_s=0.1)
    plan = climb(situation(policy=policy, end=ended(retry_after_s=3.0)))
    assert plan == Plan("restart", RESTARTED, ask(), floor_s=3.0, spread_s=0.1)


def test_a_wait_longer_than_the_cap_is_the_clients() -> None:
    """It is passed on, not slept."""
    assert climb(situation(end=ended(retry_after_s=60.1))) is None


# --- a connection that was stale ---


def test_a_stale_connection_is_retried_at_once_and_free() -> None:
    """Nothing was asked yet; it costs neither an attempt nor the budget."""
    stale = ended(stale=True, retry_after_s=999.0)
    free = Plan("restart", RESTARTED, ask(), free=True)
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
    assert climb(situation(request)) == replace(RESTART, request=request)
    plan = climb(situation(request, journal=behind(OPENER)))
    assert (plan is not None and isinstance(plan.splice, Identity)) is allowed


def test_a_background_run_that_answered_is_not_started_again() -> None:
    """It runs on at the upstream."""
    request = ask("responses", background=True)
    silent = situation(request)
    assert climb(silent) == replace(RESTART, request=request)
    silent.grammar.read(OPENER)
    assert LADDER["restart"](silent) is None


def test_openers_given_do_not_bind_a_chat() -> None:
    """Its id is of no use elsewhere."""
    plan = climb(situation(journal=behind(Event(b"", b"{}"))))
    assert plan is not None
    assert isinstance(plan.splice, Identity)


def test_where_there_is_no_seam_nothing_is_joined() -> None:
    """An endpoint whose events are not known has none, and no openers either."""
    assert situation(ask("other"), journal=behind(OPENER)).identity is None
    assert situation().identity is None
