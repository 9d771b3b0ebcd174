"""The course: whom a stream is asked of, in which order, and when it is enough."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support import HI, ask, raw

from proxy.core.budget import Breakers, RetryBudget
from proxy.core.course import Cause, Course, Failure, route
from proxy.core.errors import read_error
from proxy.core.fault import AttemptEnd, Fault, Phase
from proxy.core.grammars import grammar_for
from proxy.core.journal import Journal
from proxy.core.policy import Fallback, Policy, Target
from proxy.core.recovery import Plan
from proxy.core.request import Request
from proxy.core.sse import Event

A, B, C = Target(), Target("b"), Target("c", "m-3")
ROUTE = Policy(fallbacks=(Fallback(("m*",), (B, C)),), max_attempts=2)
ALONE = Policy(max_attempts=9)


class Way:
    """A course, and the few facts that it is asked with. Nothing was given to the client."""

    def __init__(
        self,
        policy: Policy = ROUTE,
        request: Request | None = None,
        *,
        breakers: Breakers | None = None,
        budget: RetryBudget | None = None,
    ) -> None:
        """Begin the first attempt at the time 0."""
        self.request = request or ask()
        self.breakers = breakers or Breakers()
        self.course = Course(self.request, policy, budget or RetryBudget(0.0, 100.0), self.breakers)
        self.grammar = grammar_for(self.request)
        self.journal = Journal(10_000, keeps=True)
        self.course.start(0.0)

    def answer(self, payload: Any = HI) -> Way:
        """Have the attempt give an event to the client."""
        event = Event(b"", raw(payload))
        self.grammar.read(event)
        self.journal.give(event)
        self.journal.content = True
        return self

    def fail(self, fault: Fault = Fault.RESET, error: bytes = b"", **end: Any) -> Plan | None:
        """End the attempt, begin the one that is planned."""
        status = end.get("status", 0)
        told = read_error(error, status) if error or status else None
        cause = Cause(fault, AttemptEnd(fault, **end), told)
        return self._follow(self.course.after(cause, self.grammar, self.journal, 0.0))

    def misfit(self) -> Plan | None:
        """Have the attempt say something else than was given."""
        self.course.rule_out()
        return self._follow(self.course.again(self.grammar, self.journal, 0.0))

    def refuse(self, status: int = 401) -> Plan | None:
        """Answer the attempt with a status that will not pass."""
        return self.fail(Fault.HTTP_STATUS, b'{"error":{"message":"no"}}', status=status)

    def _follow(self, plan: Plan | None) -> Plan | None:
        if plan is not None:
            self.course.follow(plan)
        return plan

    @property
    def asked(self) -> list[Target]:
        """Whom each attempt was sent to."""
        return [attempt.target for attempt in self.course.tries]

    @property
    def strategies(self) -> list[str]:
        """By which strategy each attempt was made."""
        return [attempt.strategy for attempt in self.course.tries]


# --- the route ---


@pytest.mark.parametrize(
    ("model", "targets"),
    [
        ("gpt-x", (B,)),
        ("gpt-x-mini", (C,)),
        ("o9", (C, B)),
        ("GPT-X", ()),
        ("gpt", ()),
        ("", ()),
    ],
)
def test_the_first_rule_whose_glob_matches_the_model_decides(
    model: str, targets: tuple[Target, ...]
) -> None:
    """The primary comes first in any case."""
    rules = (
        Fallback(("*-mini",), (C,)),
        Fallback(("gpt-?", "claude*"), (B,)),
        Fallback(("o[89]",), (C, B)),
        Fallback(("gpt-x", "o9"), (B, B)),
    )
    assert route(ask(model=model), Policy(fallbacks=rules)) == (A, *targets)


@pytest.mark.parametrize(
    "request_",
    [
        Request("POST", "/chat/completions", b"{}"),
        Request("POST", "/chat/completions", b"no json"),
        Request("POST", "/audio/transcriptions", None),
        Request("GET", "/responses/resp_1?stream=true"),
        ask(recovery=False),
    ],
    ids=["no model", "no JSON", "upload", "re-attachment", "recovery off"],
)
def test_what_only_the_primary_can_answer_has_no_fallback(request_: Request) -> None:
    """What it asks for lives there, or no other model could be named, or none is wanted."""
    assert route(request_, Policy(fallbacks=(Fallback(("*",), (B,)),))) == (A,)


def test_the_primary_has_the_continuation_that_was_declared_for_it() -> None:
    """Each target has its own."""
    assert route(ask(), Policy(continuation="vllm")) == (Target(continuation="vllm"),)


# --- the first attempt ---


def test_the_primary_is_asked_first_with_the_clients_own_bytes() -> None:
    """Nothing is encoded anew while all is well."""
    way = Way()
    assert way.course.asked is way.request
    assert (way.course.target, way.strategies, way.course.tries[0].reason) == (
        A,
        ["first"],
        "first",
    )
    assert way.course.has_fallback


def test_a_stream_begins_at_the_first_target_whose_circuit_is_closed() -> None:
    """With its model in the body."""
    breakers = Breakers(failures=1)
    breakers.of("", "m").failed(0.0)
    assert Way(breakers=breakers).course.target == B
    breakers.of("b", "m").failed(0.0)
    way = Way(breakers=breakers)
    assert way.course.target == C
    assert way.course.asked.model == "m-3"


def test_where_every_circuit_is_open_the_primary_is_asked_all_the_same() -> None:
    """An open circuit alone fails no request."""
    breakers = Breakers(failures=1)
    for upstream, model in (("", "m"), ("b", "m"), ("c", "m-3")):
        breakers.of(upstream, model).failed(0.0)
    assert Way(breakers=breakers).course.target == A


def test_one_stream_probes_a_circuit_and_the_next_goes_past_it() -> None:
    """Half open is for one."""
    breakers = Breakers(failures=1, open_s=0.0)
    breakers.of("", "m").failed(0.0)
    assert Way(breakers=breakers).course.target == A
    assert Way(breakers=breakers).course.target == B


def test_circuits_are_those_of_the_model_that_is_asked_for() -> None:
    """Another model of the same upstream may be well."""
    breakers = Breakers(failures=1)
    breakers.of("", "other").failed(0.0)
    assert Way(breakers=breakers).course.target == A


def test_who_wants_no_recovery_has_no_fallback() -> None:
    """It is asked of the primary, whatever its circuit says."""
    breakers = Breakers(failures=1)
    breakers.of("", "m").failed(0.0)
    way = Way(request=ask(recovery=False), breakers=breakers)
    assert not way.course.has_fallback
    assert way.fail() is None
    assert way.asked == [A]


# --- from target to target ---


def test_the_attempts_on_a_target_are_spent_before_the_next_is_asked() -> None:
    """Each target has as many, and the model of the last one is in its body."""
    way = Way()
    while way.fail():
        pass
    assert way.asked == [A, A, B, B, C, C]
    assert way.strategies == ["first", "restart", "fallback", "restart", "fallback", "restart"]
    assert {attempt.reason for attempt in way.course.tries[1:]} == {"reset"}
    assert way.course.asked.model == "m-3"


@pytest.mark.parametrize(
    ("fault", "end"),
    [
        (Fault.STALL, {}),
        (Fault.FIRST_EVENT_TIMEOUT, {}),
        (Fault.RESET, {"silence_s": 150.0}),
        (Fault.HTTP_STATUS, {"status": 503, "retry_after_s": 61.0}),
    ],
)
def test_a_target_that_takes_long_is_not_waited_for_twice(
    fault: Fault, end: dict[str, Any]
) -> None:
    """Where there is another one."""
    way = Way()
    way.fail(fault, **end)
    assert way.asked == [A, B]


def test_a_target_whose_circuit_opened_is_left_at_once() -> None:
    """Its other attempts would fail as well."""
    way = Way(breakers=Breakers(failures=1))
    way.fail()
    assert way.asked == [A, B]
    assert way.breakers.of("", "m").is_open


def test_a_circuit_that_opened_keeps_no_request_from_its_only_target() -> None:
    """There is nobody else to ask."""
    way = Way(ALONE, breakers=Breakers(failures=1))
    way.fail()
    assert way.asked == [A, A]


def test_a_target_whose_circuit_is_open_is_passed_over() -> None:
    """On the way as at the beginning."""
    breakers = Breakers(failures=1)
    breakers.of("b", "m").failed(0.0)
    way = Way(breakers=breakers)
    way.fail(Fault.STALL)
    assert way.asked == [A, C]


def test_a_prompt_too_long_goes_on_to_another_model() -> None:
    """The same request may be short enough there."""
    way = Way()
    way.fail(Fault.HTTP_STATUS, b'{"error":{"code":"context_length_exceeded"}}', status=400)
    assert way.asked == [A, B]
    assert not way.breakers.of("", "m").is_open


@pytest.mark.parametrize("code", ["invalid_prompt", "content_policy_violation", "invalid_api_key"])
def test_a_refusal_of_the_request_goes_on_to_nobody(code: str) -> None:
    """Its content is refused, or its key is wrong: that is the client's answer."""
    way = Way()
    error = raw({"error": {"code": code}})
    assert way.fail(Fault.HTTP_STATUS, error, status=400) is None
    assert Way().fail(Fault.IN_STREAM_ERROR, error) is None


def test_a_refusal_by_who_was_to_help_does_not_hide_what_went_wrong() -> None:
    """The next one is asked; in the end the first fault is told, not the refusal."""
    way = Way(replace(ROUTE, max_attempts=1))
    way.fail()
    way.refuse()
    assert way.asked == [A, B, C]
    assert [attempt.reason for attempt in way.course.tries] == ["first", "reset", "http_status"]
    assert way.refuse() is None
    assert way.course.cause is not None
    assert way.course.cause.fault is Fault.RESET


def test_who_has_helped_is_the_answer_from_then_on() -> None:
    """What breaks it after it gave content is what the client is told."""
    way = Way(replace(ROUTE, max_attempts=1))
    way.fail()
    way.course.joined()
    assert way.fail(Fault.STALL) is not None
    assert way.asked == [A, B, C]
    assert way.course.cause is not None
    assert way.course.cause.fault is Fault.STALL


def test_content_closes_a_circuit_on_trial() -> None:
    """The probe was answered."""
    breakers = Breakers(failures=1, open_s=0.0)
    breakers.of("", "m").failed(0.0)
    way = Way(breakers=breakers)
    way.course.joined()
    assert not breakers.of("", "m").is_open


def test_a_target_that_refused_is_not_asked_again() -> None:
    """Even if it has attempts left."""
    way = Way(replace(ROUTE, max_attempts=5))
    way.fail(Fault.STALL)
    way.refuse(403)
    assert way.asked == [A, B, C]


def test_who_refuses_a_request_is_well() -> None:
    """His circuit stays closed, whoever else's opens."""
    way = Way(replace(ROUTE, max_attempts=1), breakers=Breakers(failures=1))
    way.refuse(400)
    assert way.breakers.states() == {("", "m"): False, ("b", "m"): False, ("c", "m-3"): False}


def test_a_refusal_of_a_repetition_is_the_answer() -> None:
    """The same target first broke and then said no: its no is newer."""
    way = Way(ALONE)
    way.fail()
    assert way.refuse(400) is None
    assert way.course.cause is not None
    assert way.course.cause.fault is Fault.HTTP_STATUS


# --- the budget ---


def test_asking_the_same_target_again_is_taken_from_the_budget() -> None:
    """On whichever target; without any left it is spared, and the next one is asked."""
    budget = RetryBudget(0.0, 0.1)
    way = Way(replace(ROUTE, max_attempts=3), budget=budget)
    while way.fail():
        pass
    assert way.asked == [A, A, A, B, B, C]
    assert budget.exhausted == 2


def test_a_probe_that_is_refused_makes_room_for_another_one() -> None:
    """A refusal says nothing about the target's health."""
    way = Way(ALONE, breakers=Breakers(failures=1))
    way.fail()
    way.refuse(400)
    assert way.breakers.of("", "m").allows(99.0)


def test_a_stale_connection_is_free_and_does_not_count() -> None:
    """Once; neither an attempt nor the budget is charged."""
    way = Way(Policy(max_attempts=1), budget=RetryBudget(0.0, 0.0))
    plan = way.fail(stale=True)
    assert plan is not None
    assert plan.free
    assert way.fail(stale=True) is None
    assert way.asked == [A, A]


# --- lifetimes ---


@pytest.mark.parametrize(
    ("ages", "capped"),
    [
        ((60.0, 60.0), True),
        ((60.0, 61.9), True),
        ((61.9, 60.0), True),
        ((60.0, 62.1), False),
        ((5.0, 5.5), True),
        ((5.0, 5.7), False),
        ((1.0, 1.05), True),
        ((0.9, 0.9), False),
        ((60.0, 10.0), False),
        ((60.0, 10.0, 60.5), True),
    ],
)
def test_two_cuts_at_the_same_age_are_a_cap_on_the_lifetime(
    ages: tuple[float, ...],
    capped: bool,  # noqa: FBT001
) -> None:
    """Within 2 s, or a tenth of the age; the same request would be cut there again."""
    way = Way(ALONE)
    way.grammar.read(Event(b"", raw(HI)))
    plans = [way.fail(Fault.CLEAN_EOF, age_s=age) for age in ages]
    assert (plans[-1] is None) is capped
    assert way.course.cap_s == (ages[-1] if capped else None)


@pytest.mark.parametrize(
    ("fault", "events", "capped"),
    [
        (Fault.RESET, 1, True),
        (Fault.CUT_MID_EVENT, 1, True),
        (Fault.CUT_BETWEEN_EVENTS, 1, True),
        (Fault.STALL, 1, False),
        (Fault.MALFORMED_EVENT, 1, False),
        (Fault.RESET, 0, False),
    ],
)
def test_only_cuts_of_an_answer_that_ran_have_an_age(
    fault: Fault,
    events: int,
    capped: bool,  # noqa: FBT001
) -> None:
    """An upstream that never answers has no lifetime to limit."""
    way = Way(ALONE)
    for _ in range(events):
        way.grammar.read(Event(b"", raw(HI)))
    way.fail(fault, age_s=60.0)
    assert (way.fail(fault, age_s=60.0) is None) is capped


def test_a_cap_of_one_target_says_nothing_about_the_next() -> None:
    """It is asked, and its own cuts are counted anew."""
    way = Way(replace(ROUTE, max_attempts=3))
    way.grammar.read(Event(b"", raw(HI)))
    for _ in range(4):
        way.fail(age_s=60.0)
    assert way.asked == [A, A, B, B, C]


def test_an_answer_that_is_capped_is_not_replayed_either() -> None:
    """It would be cut before it got there."""
    way = Way(ALONE, ask(temperature=0)).answer()
    way.fail(age_s=100.0)
    assert way.strategies == ["first", "replay"]
    assert way.fail(age_s=100.0) is None


# --- answers that do not fit ---


def test_a_way_that_did_not_fit_is_not_tried_there_again() -> None:
    """Another target may still say the same."""
    way = Way(request=ask(temperature=0)).answer()
    way.fail()
    assert (way.strategies, way.asked) == (["first", "replay"], [A, A])
    way.misfit()
    assert (way.strategies[2:], way.asked[2:]) == (["fallback"], [B])
    assert [attempt.reason for attempt in way.course.tries[1:]] == ["reset", "reset"]


def test_where_nothing_fits_the_client_is_told() -> None:
    """Alone, the other ways being off."""
    way = Way(ALONE, ask(temperature=0)).answer()
    way.fail()
    assert way.misfit() is None
    assert way.course.cause is not None
    assert way.course.cause.fault is Fault.RESET


def test_without_a_fault_there_is_nothing_to_go_back_to() -> None:
    """Asked before anything broke."""
    assert Way().misfit() is None


# --- what the client is told ---


def test_the_failure_told_is_the_one_that_broke_the_answer() -> None:
    """Its own end is told to be the last only where it was."""
    way = Way(ALONE)
    end = AttemptEnd(Fault.RESET)
    failure = way.course.failure(Phase.BEFORE_HEADERS, end, "")
    assert (failure.cause.fault, failure.last, failure.attempts) == (Fault.CLEAN_EOF, True, 1)
    cause = Cause(Fault.RESET, end, None)
    way.course.after(cause, way.grammar, way.journal, 0.0)
    assert way.course.failure(Phase.MID_CONTENT, end, "").cause is cause
    assert way.course.failure(Phase.MID_CONTENT, end, "").last
    assert not way.course.failure(Phase.MID_CONTENT, AttemptEnd(Fault.RESET), "").last


def test_a_refusal_of_the_clients_own_key_is_passed_on_and_of_no_other() -> None:
    """Another upstream's 401 may show a key that the client must not see."""
    end = AttemptEnd(Fault.HTTP_STATUS, status=401)
    cause = Cause(Fault.HTTP_STATUS, end, read_error(b"{}", 401))
    way = Way(ALONE)
    way.course.after(cause, way.grammar, way.journal, 0.0)
    assert way.course.is_plain_refusal(cause)
    assert not way.course.is_plain_refusal(replace(cause))
    away = Way(replace(ROUTE, max_attempts=1), breakers=Breakers(failures=1))
    away.breakers.of("", "m").failed(0.0)
    away.course.start(0.0)
    assert away.course.target == B
    away.course.after(cause, away.grammar, away.journal, 0.0)
    assert not away.course.is_plain_refusal(cause)
    told = away.course.failure(Phase.BEFORE_HEADERS, end, "")
    assert (told.cause.error, told.last) == (None, False)


@pytest.mark.parametrize(
    ("told", "cap_s", "mismatch", "detail"),
    [
        ("", None, "", ""),
        ("refused", None, "", "refused"),
        ("", 60.04, "", "cut twice at the same age, 60 s: something limits its lifetime"),
        ("", None, "it differs", "another answer did not fit: it differs"),
        (
            "x",
            1.0,
            "y",
            "x; cut twice at the same age, 1 s: something limits its lifetime; another",
        ),
    ],
)
def test_what_is_known_beyond_the_fault_is_told_in_words(
    told: str, cap_s: float | None, mismatch: str, detail: str
) -> None:
    """The edge's detail, a cap on the lifetime, and why another answer did not fit."""
    cause = Cause(Fault.RESET, AttemptEnd(Fault.RESET, detail=told), None)
    failure = Failure(cause, Phase.MID_CONTENT, 1, last=True, cap_s=cap_s, mismatch=mismatch)
    assert failure.detail.startswith(detail)
    assert bool(failure.detail) is bool(detail)


# --- a circuit that is open from the start ---


def opened(*names: str) -> Breakers:
    """Return breakers of which some are open."""
    breakers = Breakers(failures=1)
    for name in names:
        breakers.of(name, "m-3" if name == "c" else "m").failed(0.0)
    return breakers


def test_where_nobody_else_is_left_the_primary_is_asked_after_all() -> None:
    """An open circuit is a reason to ask others first, not to ask nobody."""
    way = Way(replace(ROUTE, max_attempts=1), breakers=opened(""))
    while way.fail():
        pass
    assert way.asked == [B, C, A]


def test_a_primary_that_is_asked_last_answers_for_itself() -> None:
    """What it says is the answer, not what others said before it."""
    way = Way(replace(ROUTE, max_attempts=1), breakers=opened("", "c"))
    way.refuse(401)
    assert way.asked == [B, A]
    way.refuse(404)
    assert way.course.cause is not None
    assert way.course.cause.end.status == 404


@pytest.mark.parametrize("closed", [True, False])
def test_nobody_else_is_asked_to_say_what_one_has_refused(closed: bool) -> None:  # noqa: FBT001
    """Whoever it was that refused the content."""
    error = b'{"error":{"message":"no","code":"content_policy_violation"}}'
    way = Way(replace(ROUTE, max_attempts=1), breakers=None if closed else opened(""))
    if closed:
        way.fail()
    assert way.asked[-1] == B
    assert way.fail(Fault.HTTP_STATUS, error, status=400) is None


@pytest.mark.parametrize("path", ["/embeddings", "/threads/t/runs", "/fine_tuning/jobs", "/files"])
def test_what_no_other_model_can_answer_stays_at_the_primary(path: str) -> None:
    """An embedding of another model is no embedding."""
    request = Request("POST", path, b'{"model":"m","stream":true}')
    assert route(request, ROUTE) == (A,)


@pytest.mark.parametrize("field", ["previous_response_id", "conversation"])
def test_what_goes_on_from_what_the_primary_keeps_stays_there(field: str) -> None:
    """Another of its models may answer, another upstream knows nothing of it."""
    near = Target(model="near")
    policy = Policy(fallbacks=(Fallback(("m",), (B, near, C)),))
    bound = Request("POST", "/responses", b'{"model":"m","%b":"x"}' % field.encode())
    assert route(bound, policy) == (A, near)
    assert route(ask("responses"), policy) == (A, B, near, C)
