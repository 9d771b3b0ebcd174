"""Recoveries at the edge of what they can do: waits too long, answers too odd or too large."""

from __future__ import annotations

from typing import Any

import pytest
from splices import encode, legacy, run, said
from support import ANSWER, HI, RESET, ROLE, ask, lifecycle, spoken, sse

from proxy.core.fault import AttemptEnd, Fault
from proxy.core.policy import Policy
from proxy.core.request import Request

ALWAYS = Policy(backoff_base_s=0.0, replay="always")
OPENERS = sse(lifecycle("created", 0), lifecycle("in_progress", 1))
LATE = AttemptEnd(Fault.HTTP_STATUS, status=503, retry_after_s=999.0, body=b"{}")


def test_a_resume_that_is_to_wait_too_long_is_an_honest_error() -> None:
    """The wait that the upstream asks for is longer than ``retry_after_max_s``."""
    background = ask("responses", background=True)
    made = run(background, Policy(), (OPENERS + sse(spoken(2)), RESET), (b"", LATE))
    assert made.out.startswith(OPENERS + sse(spoken(2)))
    assert made.outcome == "failed"


def test_a_retrieval_of_which_nothing_came_is_asked_for_from_its_beginning() -> None:
    """There is no number after which it could go on."""
    request = Request("GET", "/responses/resp_1?stream=true")
    whole = OPENERS + sse(spoken(2), lifecycle("completed", 3))
    made = run(request, Policy(backoff_base_s=0.0), (b"", RESET), whole)
    assert made.out == whole
    assert made.opens[0].request.target == "/responses/resp_1?stream=true"


@pytest.mark.parametrize("odd", [5, '"x"', [1], None])
def test_behind_a_seam_that_is_not_found_yet_nothing_odd_is_let_in(odd: Any) -> None:
    """What cannot be taken apart cannot be matched."""
    made = run(ask(), ALWAYS, (sse(ROLE, HI), RESET), sse(odd) + ANSWER)
    assert made.out.startswith(sse(ROLE, HI))
    assert ("replay", "mismatch") in made.recoveries
    assert made.outcome == "failed"


def test_an_answer_that_goes_on_and_on_in_front_of_the_seam_is_dropped() -> None:
    """Two choices were begun; the second answer tells only one, longer than may be held."""
    small = Policy(backoff_base_s=0.0, replay="always", journal_max_bytes=2_000)
    first = encode([said(0, content="a"), said(1, content="b")]).removesuffix(b"data: [DONE]\n\n")
    second = encode([said(0, content="a" * 50) for _ in range(40)])
    made = run(ask(n=2), small, (first, RESET), second)
    assert made.out.startswith(first)
    assert ("replay", "mismatch") in made.recoveries


def test_a_continuation_must_say_itself_that_the_answer_ends() -> None:
    """The first attempt was cut, so ``[DONE]`` alone would be a success that nobody gave."""
    request = ask("completions", prompt="Say it: ")
    policy = Policy(backoff_base_s=0.0, continuation="completions")
    given = encode([legacy("ding dong ")]).removesuffix(b"data: [DONE]\n\n")
    made = run(request, policy, (given, RESET), encode([legacy("ding")]))
    assert made.out.startswith(given)
    assert b"[DONE]" not in made.out
    assert made.recoveries == [("continuation", "mismatch")]


def test_a_continuation_that_ends_while_it_might_be_an_echo_was_none() -> None:
    """A short word that is repeated is a word."""
    request = ask("completions", prompt="Say it: ")
    policy = Policy(backoff_base_s=0.0, continuation="completions")
    given = encode([legacy("ding dong ")]).removesuffix(b"data: [DONE]\n\n")
    made = run(request, policy, (given, RESET), encode([legacy("ding"), legacy("", "stop")]))
    assert made.heard.texts[0, "text"] == "ding dong ding"
    assert made.outcome == "recovered"


def test_a_continuation_that_turns_into_a_tool_call_is_a_fault_of_its_own() -> None:
    """What it gave before is given; what broke it is told and counted."""
    policy = Policy(backoff_base_s=0.0, continuation="prefill", max_attempts=2)
    given = encode([said(role="assistant", content="Once upon")])[: -len(b"data: [DONE]\n\n")]
    call = said(tool_calls=[{"index": 0, "id": "c", "function": {"name": "f"}}])
    second = encode([said(content=" a time"), call])
    made = run(ask(messages=[{"role": "user"}]), policy, (given, RESET), second)
    assert made.heard.texts == {(0, "content"): "Once upon a time"}
    assert made.facts == [
        ("reset", "mid_content", "continued"),
        ("malformed_event", "mid_content", "surfaced"),
    ]


def test_a_very_long_answer_is_not_sent_back() -> None:
    """It would be paid for once more, and compared character by character."""
    policy = Policy(backoff_base_s=0.0, continuation="prefill", journal_max_bytes=2**30)
    given = encode([said(role="assistant", content="x" * 140_000)])[: -len(b"data: [DONE]\n\n")]
    made = run(ask(messages=[{"role": "user"}]), policy, (given, RESET))
    assert made.opens == []


def test_a_resumed_stream_with_an_event_that_is_no_object_is_not_let_in() -> None:
    """It has no number, so nobody could say where it belongs: the response is polled."""
    background = ask("responses", background=True)
    whole = OPENERS + sse(spoken(2), lifecycle("completed", 3))
    for odd in (sse(5), sse([1])):
        made = run(background, ALWAYS, (OPENERS + sse(spoken(2)), RESET), odd + whole, (b"", LATE))
        assert made.opens[1].document
        assert made.out.startswith(OPENERS + sse(spoken(2)))
        assert made.outcome == "failed"


def test_an_empty_event_of_a_resumed_stream_is_nothing() -> None:
    """Some gateways send one to keep the connection."""
    background = ask("responses", background=True)
    last = sse(lifecycle("completed", 3))
    made = run(background, ALWAYS, (OPENERS + sse(spoken(2)), RESET), sse({}) + last)
    assert made.out == OPENERS + sse(spoken(2)) + last
