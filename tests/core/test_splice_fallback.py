"""Fallback: the next target, when the first one's attempts are spent or of no use."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from splices import (
    ANSWERS,
    SPELLINGS,
    Answer,
    Attempt,
    Heard,
    Run,
    again,
    broken,
    encode,
    run,
    said,
)
from support import CUT, DONE, RESET, ask, sse

from proxy.core.budget import Breakers, RetryBudget
from proxy.core.commands import Open
from proxy.core.fault import AttemptEnd, Fault
from proxy.core.policy import Fallback, Policy, Target
from proxy.core.session import StreamSession

SPARE = Target("spare", "m-spare")
POLICY = Policy(backoff_base_s=0.0, fallbacks=(Fallback(("m*",), (SPARE,)),))
JOINING = replace(POLICY, replay="always")
TEXT = ANSWERS["text"]
OTHER = again(TEXT)


def status(number: int, code: str = "", message: str = "no", kind: str = "") -> Attempt:
    """Make an answer with an error status."""
    error = {"message": message, "type": kind or "invalid_request_error", "code": code or None}
    body = json.dumps({"error": error}).encode()
    return None, AttemptEnd(Fault.HTTP_STATUS, status=number, body=body)


def targets(made: Run) -> list[str]:
    """Return which upstreams were asked after the first."""
    return [command.target.upstream for command in made.opens]


def check_whole(made: Run, body: bytes) -> None:
    """Hold what the client has against an answer that is given as it is."""
    assert made.out == body
    assert made.outcome == "recovered"
    assert made.facts[-1][2] == "fell_back"
    assert made.recoveries[-1] == ("fallback", "success")


def test_spent_attempts_before_content_lead_to_the_next_target() -> None:
    """The model is rewritten in the body, and the fallback's own is what the client sees."""
    for offset in range(TEXT.ends[0] + 2):
        cut = broken(TEXT.body, offset)
        made = run(TEXT.request, POLICY, cut, cut, cut, OTHER)
        assert targets(made) == ["", "", "spare"]
        assert made.opens[-1].request.json == {**TEXT.request.json, "model": "m-spare"}
        check_whole(made, OTHER)
        assert b'"model":"mx"' in made.out
        assert [fact[2] for fact in made.facts] == ["restarted", "restarted", "fell_back"]


def test_a_model_that_no_glob_names_has_no_fallback() -> None:
    """Globs are matched against the model asked for."""
    request = ask(model="gpt")
    made = run(request, POLICY, (b"", RESET), (b"", RESET), (b"", RESET))
    assert targets(made) == ["", ""]
    assert made.outcome == "failed"


def test_a_client_that_said_off_has_no_fallback() -> None:
    """Nothing is recovered for it."""
    made = run(ask(recovery=False), JOINING, broken(TEXT.body, TEXT.ends[2]))
    assert made.opens == []


@pytest.mark.parametrize("name", [name for name in ANSWERS if "completion" not in name])
def test_after_content_the_fallback_is_joined_by_replay(name: str) -> None:
    """The client has the first target's identity, model included."""
    answer = ANSWERS[name]
    policy = replace(JOINING, max_attempts=1)
    for events in range(answer.content, min(answer.finished, len(answer.ends))):
        for spelling in SPELLINGS:
            cut = broken(answer.body, answer.ends[events - 1])
            made = run(answer.request, policy, cut, again(answer, spelling))
            assert targets(made) == ["spare"]
            assert made.heard.meaning == Heard(answer.body).meaning
            assert b'"mx"' not in made.out
            assert made.facts == [("reset", "mid_content", "fell_back")]
            assert made.recoveries == [("fallback", "success")]


def test_a_fallback_that_says_something_else_is_not_given() -> None:
    """It counts as a mismatch of the fallback."""
    policy = replace(JOINING, max_attempts=1)
    body = encode([said(role="assistant", content=""), said(content="No."), said(finish="stop")])
    made = run(TEXT.request, policy, broken(TEXT.body, TEXT.ends[2]), body)
    assert made.outs[1] == b""
    assert made.recoveries == [("fallback", "mismatch")]
    assert made.facts == [("reset", "mid_content", "surfaced")]


def test_a_fallback_is_asked_after_a_mismatch_of_the_primary() -> None:
    """What the primary cannot find again another one may."""
    body = encode([said(role="assistant", content=""), said(content="No."), said(finish="stop")])
    made = run(TEXT.request, JOINING, broken(TEXT.body, TEXT.ends[2]), body, OTHER)
    assert targets(made) == ["", "spare"]
    assert made.heard.meaning == Heard(TEXT.body).meaning
    assert made.recoveries == [("replay", "mismatch"), ("fallback", "success")]
    assert made.facts == [("reset", "mid_content", "fell_back")]


def test_after_content_the_fallback_is_joined_by_continuation() -> None:
    """In the way that this target declares."""
    spare = replace(SPARE, continuation="prefill")
    policy = replace(POLICY, fallbacks=(Fallback(("*",), (spare,)),))
    request = ask(messages=[{"role": "user", "content": "When?"}])
    rest = encode([said(role="assistant", content=""), said(content="at 8"), said(finish="stop")])
    made = run(request, policy, broken(TEXT.body, TEXT.ends[2]), rest.replace(b'"m"', b'"mx"'))
    sent = made.opens[0].request.json
    assert (sent["model"], sent["messages"][-1]["content"]) == ("m-spare", "The ferry 🛳\n")
    assert made.heard.meaning == Heard(TEXT.body).meaning
    assert made.recoveries == [("fallback", "success")]


def test_after_content_a_fallback_that_cannot_be_joined_is_not_asked() -> None:
    """By default nothing is repeated then."""
    made = run(TEXT.request, POLICY, broken(TEXT.body, TEXT.ends[2]))
    assert made.facts == [("reset", "mid_content", "surfaced")]


@pytest.mark.parametrize("fault", [Fault.FIRST_EVENT_TIMEOUT, Fault.STALL])
def test_a_silent_route_is_not_waited_for_twice(fault: Fault) -> None:
    """Where there is another route it is taken at once."""
    silent = AttemptEnd(fault, age_s=300.0, silence_s=300.0)
    made = run(TEXT.request, POLICY, (b"", silent), OTHER)
    assert targets(made) == ["spare"]
    check_whole(made, OTHER)
    alone = Policy(backoff_base_s=0.0)
    assert targets(run(TEXT.request, alone, (b"", silent), OTHER)) == [""]


def test_a_stall_after_content_goes_to_the_next_target_at_once() -> None:
    """Replay on the silent route would cost as much again."""
    stall = AttemptEnd(Fault.STALL, age_s=300.0, silence_s=300.0)
    made = run(TEXT.request, JOINING, broken(TEXT.body, TEXT.ends[2], stall), OTHER)
    assert targets(made) == ["spare"]
    assert made.recoveries == [("fallback", "success")]


def test_a_prompt_that_is_too_long_is_tried_once_and_then_elsewhere() -> None:
    """The same model cannot manage it, another one may."""
    made = run(TEXT.request, POLICY, status(400, "context_length_exceeded"), OTHER)
    assert targets(made) == ["spare"]
    check_whole(made, OTHER)


def test_a_spent_account_leads_elsewhere_at_once() -> None:
    """insufficient_quota is a 429 that does not pass."""
    made = run(TEXT.request, POLICY, status(429, "insufficient_quota"), OTHER)
    assert targets(made) == ["spare"]
    check_whole(made, OTHER)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (400, "content_policy_violation"),
        (400, "content_filter"),
        (400, "invalid_value"),
        (401, "invalid_api_key"),
        (403, ""),
        (404, "model_not_found"),
        (422, ""),
    ],
)
def test_a_requests_own_fault_is_passed_on(number: int, code: str) -> None:
    """No other target is asked, and it is no incident."""
    made = run(TEXT.request, POLICY, status(number, code))
    assert made.finish.pass_on
    assert made.out == b""
    assert made.facts == []


def test_an_error_in_the_stream_decides_in_the_same_way() -> None:
    """A refusal of the content inside a stream leads nowhere, a long prompt elsewhere."""
    policy = sse({"error": {"message": "no", "type": "x", "code": "content_policy_violation"}})
    long = sse({"error": {"message": "no", "type": "x", "code": "context_length_exceeded"}})
    assert run(TEXT.request, POLICY, policy).opens == []
    check_whole(run(TEXT.request, POLICY, long, OTHER), OTHER)


@pytest.mark.parametrize("number", [400, 401, 403, 404])
def test_a_fallback_that_refuses_does_not_hide_the_primarys_fault(number: int) -> None:
    """The client is told what broke first."""
    policy = replace(POLICY, max_attempts=1)
    made = run(TEXT.request, policy, (b"", RESET), status(number, "", "no such model"))
    assert made.finish.reply is not None
    assert b"[reset]" in made.finish.reply.body
    assert b"no such model" not in made.finish.reply.body
    assert not made.finish.pass_on
    assert [(fact[0], fact[2]) for fact in made.facts] == [
        ("reset", "fell_back"),
        ("http_status", "surfaced"),
    ]


def test_the_primarys_own_error_reply_is_told_after_a_refusal() -> None:
    """A quota error stays one, whatever the fallback thinks of it."""
    made = run(TEXT.request, POLICY, status(429, "insufficient_quota", "spent"), status(401))
    assert made.finish.reply is not None
    assert made.finish.reply.status == 429
    assert b"spent" in made.finish.reply.body


def test_an_open_circuit_begins_with_the_fallback() -> None:
    """After the time to wait one probe goes to the primary, not two."""
    breakers = Breakers(failures=1, open_s=10.0)
    breakers.of("", "m").failed(0.0)
    assert first_target(breakers, 5.0) == "spare"
    assert first_target(breakers, 11.0) == ""
    assert first_target(breakers, 11.0) == "spare"
    breakers.of("spare", "m-spare").failed(11.0)
    assert first_target(breakers, 11.0) == ""  # nobody else to ask


def first_target(breakers: Breakers, now: float) -> str:
    """Begin a session, return whom it asks."""
    session = StreamSession(TEXT.request, POLICY, RetryBudget(0.2, 9.0), breakers)
    command = session.begin(now)
    assert isinstance(command, Open)
    return command.target.upstream


def test_an_open_circuit_ends_the_repetition() -> None:
    """Failures of this very stream open it: the rest of the attempts are the fallback's."""
    breakers = Breakers(failures=2, open_s=10.0)
    cut = (b"", RESET)
    made = run(TEXT.request, POLICY, cut, cut, OTHER, breakers=breakers)
    assert targets(made) == ["", "spare"]
    check_whole(made, OTHER)


def test_each_target_has_its_own_attempts() -> None:
    """Three of the primary, then three of the fallback, then an honest error."""
    cut = (b"", CUT)
    made = run(TEXT.request, POLICY, *[cut] * 6)
    assert targets(made) == ["", "", "spare", "spare", "spare"]
    assert made.outcome == "failed"
    assert len(made.facts) == 6


def test_an_empty_budget_lets_nobody_be_asked_again_but_the_next_target() -> None:
    """Who fails is spared; who is well is asked at once."""
    budget = RetryBudget(0.0, 1 / 30)
    assert budget.withdraw(0.0)
    made = run(TEXT.request, JOINING, (b"", RESET), OTHER, budget=budget)
    assert targets(made) == ["spare"]
    check_whole(made, OTHER)
    alone = replace(JOINING, fallbacks=())
    made = run(TEXT.request, alone, broken(TEXT.body, TEXT.ends[2]), budget=budget)
    assert made.opens == []
    assert budget.exhausted == 2


AGED = AttemptEnd(Fault.RESET, age_s=30.0)


def test_two_cuts_at_one_age_end_the_repetition() -> None:
    """A third attempt would be cut as well: the error names the age."""
    policy = Policy(backoff_base_s=0.0, replay="always", max_attempts=5)
    cut = broken(TEXT.body, TEXT.ends[2], AGED)
    later = broken(OTHER, len(OTHER) // 2, replace(AGED, age_s=31.0))
    made = run(TEXT.request, policy, cut, later)
    assert made.session.attempts == 2
    assert "31 s: something limits its lifetime" in made.heard.errors[0]["error"]["message"]
    assert made.session.report().capped


def test_two_cuts_at_one_age_lead_to_the_fallback() -> None:
    """Its own lifetime is another."""
    policy = replace(JOINING, max_attempts=5)
    cut = broken(TEXT.body, TEXT.ends[2], AGED)
    half = broken(OTHER, len(OTHER) // 2, AGED)
    made = run(TEXT.request, policy, cut, half, again(TEXT, "lumps", "yy"))
    assert targets(made) == ["", "spare"]
    assert made.heard.meaning == Heard(TEXT.body).meaning
    assert made.outcome == "recovered"


@pytest.mark.parametrize("ages", [(30.0, 33.0), (0.5, 0.5), (5.0, 6.0)])
def test_cuts_at_other_ages_are_no_cap(ages: tuple[float, float]) -> None:
    """Neither far from each other nor so young that nothing limits lifetimes."""
    policy = Policy(backoff_base_s=0.0, replay="always")
    first = broken(TEXT.body, TEXT.ends[2], replace(AGED, age_s=ages[0]))
    second = broken(OTHER, len(OTHER) // 2, replace(AGED, age_s=ages[1]))
    made = run(TEXT.request, policy, first, second, again(TEXT, "lumps", "yy"))
    assert made.outcome == "recovered"
    assert not made.session.report().capped


def test_a_stored_response_never_moves_to_another_target() -> None:
    """After an event nothing takes its place, whoever could be asked."""
    for fields in ({}, {"background": True}):
        answer = Answer(ask("responses", **fields), ANSWERS["responses text"].payloads)
        cut = broken(answer.body, answer.ends[4])
        policy = replace(JOINING, max_attempts=1)
        assert run(answer.request, policy, cut).opens == []


def fields_of(body: bytes) -> dict[str, Any]:
    """Return the identity in the first event of a stream."""
    found: dict[str, Any] = json.loads(body.partition(b"data: ")[2].partition(b"\n")[0])
    return {key: found[key] for key in ("id", "created", "model", "system_fingerprint")}


def test_the_identity_is_the_first_ones_even_two_targets_later() -> None:
    """Cut on the primary, cut on the first fallback, finished by the second."""
    route = (SPARE, Target("last", "m-last"))
    policy = replace(JOINING, max_attempts=1, fallbacks=(Fallback(("*",), route),))
    for offset in range(0, len(OTHER) - 300, 17):
        cut = broken(TEXT.body, TEXT.ends[2])
        made = run(TEXT.request, policy, cut, broken(OTHER, offset), again(TEXT, "same", "yy"))
        assert targets(made) == ["spare", "last"]
        assert made.heard.meaning == Heard(TEXT.body).meaning
        assert fields_of(made.out) == fields_of(TEXT.body)
        assert made.out.endswith(DONE)
