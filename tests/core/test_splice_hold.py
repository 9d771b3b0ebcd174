"""Hold: what waits until it is complete, so that no app ever acts on half of it."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from splices import (
    ANSWERS,
    FEEDS,
    Answer,
    Heard,
    Payload,
    Run,
    again,
    broken,
    called,
    encode,
    function,
    message,
    response,
    run,
    said,
)
from support import CLEAN, DONE, RESET, ask, payloads

from proxy.core.budget import RetryBudget
from proxy.core.commands import Finish
from proxy.core.fault import AttemptEnd, Fault
from proxy.core.policy import Policy
from proxy.core.session import StreamSession

CALLS = Policy(backoff_base_s=0.0, hold="tool_calls")
ALL = Policy(backoff_base_s=0.0, hold="all")
TOOLS = ANSWERS["parallel tools"]
SPOKEN_FIRST = Answer(ask(), [said(role="assistant", content="I see."), *TOOLS.payloads[1:]])
TWINS = Answer(
    ask(n=2),
    [
        said(role="assistant", content=""),
        called(0, '{"a"', "tide"),
        said(1, role="assistant", content="Aye"),
        called(0, ":1}"),
        said(1, content=", aye"),
        said(finish="tool_calls"),
        said(1, "stop"),
    ],
)
LEGACY = ANSWERS["legacy function"]
HOLDING = {
    "tools": TOOLS,
    "text first": SPOKEN_FIRST,
    "two choices": TWINS,
    "legacy": LEGACY,
    "responses": Answer(ask("responses"), response(function(0, '{"port"', ':"Kiel"}'))),
    "responses text first": Answer(
        ask("responses"), response(message(0, "Hm", "m"), function(1, "{", "}"))
    ),
    "responses text last": Answer(
        ask("responses"), response(function(0, "{", "}"), message(1, "Hm", "m"))
    ),
}


def arguments(out: bytes) -> dict[tuple[Any, ...], str]:
    """Return the arguments that an SDK has, call by call."""
    texts = Heard(out).texts
    return {slot: text for slot, text in texts.items() if "arguments" in str(slot[-1])}


def steps(answer: Answer, policy: Policy, feed: str = "whole") -> list[bytes]:
    """Return all that the client has after each event of an answer."""
    session = StreamSession(answer.request, policy, RetryBudget(0.2, 9.0))
    session.begin(0.0)
    session.receive_head()
    found, out, start = [], b"", 0
    for end in answer.ends:
        for read in FEEDS[feed](answer.body[start:end]):
            out += session.receive_data(read)
        found.append(out)
        start = end
    command = session.receive_end(CLEAN, 0.0)
    assert isinstance(command, Finish)
    assert command.body == b""
    return found


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("answer", HOLDING.values(), ids=HOLDING)
def test_arguments_appear_only_complete(answer: Answer, feed: str) -> None:
    """After each event the client has whole arguments or none."""
    whole = arguments(answer.body)
    for out in steps(answer, CALLS, feed):
        for slot, text in arguments(out).items():
            assert text == whole[slot]
    assert Heard(out).check().meaning == Heard(answer.body).meaning


@pytest.mark.parametrize("name", ["tools", "text first", "legacy"])
def test_a_call_is_complete_with_its_choice(name: str) -> None:
    """Until the finish reason a fragment may follow, so that nothing of a call is given."""
    answer = HOLDING[name]
    for out in steps(answer, CALLS)[: answer.finished - 1]:
        assert b"arguments" not in out
    for out in steps(answer, CALLS)[answer.finished - 1 :]:
        assert arguments(out) == arguments(answer.body)


def test_text_streams_on() -> None:
    """What belongs to no call does not wait, be it in front of one or of another choice."""
    for at, out in enumerate(steps(ANSWERS["text"], CALLS)):
        assert out == (ANSWERS["text"].body[: ANSWERS["text"].ends[at]] if at else b"")
    assert b"I see." in steps(SPOKEN_FIRST, CALLS)[0]
    found = steps(TWINS, CALLS)
    assert b'"Aye"' in found[2]
    assert b'", aye"' in found[4]
    assert b"tide" not in found[4]


def test_text_of_a_response_streams_on_in_front_of_a_call() -> None:
    """Behind the beginning of a call its events wait, or the numbers would be out of order."""
    answer = HOLDING["responses text first"]
    for at, out in enumerate(steps(answer, CALLS)):
        if answer.content <= at + 1 <= 8:
            assert out == answer.body[: answer.ends[at]]


@pytest.mark.parametrize("name", ["tools", "legacy", "responses"])
def test_a_cut_while_a_call_waits_is_an_invisible_restart(name: str) -> None:
    """Every byte up to the end of the call: nothing was given, so nobody knows."""
    answer = HOLDING[name]
    last = answer.finished if "choices" in answer.payloads[0] else len(answer.ends) - 1
    for offset in range(answer.ends[last - 1]):
        second = again(answer)
        made = run(answer.request, CALLS, broken(answer.body, offset), second)
        assert made.outs[0] == b""
        assert made.out == second
        assert made.recoveries == [("restart", "success")]
        assert made.facts == [("reset", "before_content", "restarted")]


@pytest.mark.parametrize("answer", HOLDING.values(), ids=HOLDING)
def test_a_failure_never_shows_half_a_call(answer: Answer) -> None:
    """At every byte: whole arguments or none, then one error."""
    policy = Policy(backoff_base_s=0.0, hold="tool_calls", max_attempts=1)
    whole = arguments(answer.body)
    for offset in range(0, len(answer.body), 3):
        made = run(answer.request, policy, broken(answer.body, offset))
        if made.outcome == "failed":
            for slot, text in arguments(made.out).items():
                assert text == whole[slot]
            check_one_error(made)


def check_one_error(made: Run) -> None:
    """Hold a failure against the contract: a real status, or one error in the stream."""
    if made.finish.reply is not None:
        assert made.out == b""
        return
    found = payloads(made.out)
    assert sum(isinstance(event, dict) and "error" in event for event in found) == 1
    assert not made.out.endswith(DONE)


@pytest.mark.parametrize("answer", [SPOKEN_FIRST, TWINS], ids=["text first", "two choices"])
def test_a_cut_while_a_call_waits_behind_text_is_replayed(answer: Answer) -> None:
    """What was given of the text is found again, and the call follows whole."""
    policy = Policy(backoff_base_s=0.0, hold="tool_calls", replay="always")
    for events in range(3, answer.finished):
        for spelling in ("letters", "lumps"):
            cut = broken(answer.body, answer.ends[events - 1] + 9)
            made = run(answer.request, policy, cut, again(answer, spelling))
            assert made.heard.meaning == Heard(answer.body).meaning
            assert made.outcome == "recovered"


RUN = Answer(
    ask("responses", background=True),
    response(message(0, "Slow ", "boat"), function(1, "{", "}"), message(2, "Hm", "m")),
)


@pytest.mark.parametrize("policy", [CALLS, ALL], ids=["tool calls", "all"])
def test_a_held_call_survives_a_resume(policy: Policy) -> None:
    """What waits of a background run stays good, and goes out whole and in order."""
    whole = arguments(RUN.body)
    for offset in range(RUN.ends[0], RUN.ends[-1] - 2, 3):
        rest = RUN.body[RUN.ends[RUN.events(offset) - 1] :]
        made = run(RUN.request, policy, broken(RUN.body, offset), rest)
        assert made.out == RUN.body
        for out in (made.outs[0], b"".join(made.outs)):
            assert arguments(out) in ({}, whole)


@pytest.mark.parametrize("policy", [CALLS, ALL], ids=["tool calls", "all"])
def test_a_held_call_that_is_polled_is_given_whole(policy: Policy) -> None:
    """The poll tells it once, from its beginning."""
    document = json.dumps(RUN.payloads[-1]["response"]).encode()
    gone = AttemptEnd(Fault.HTTP_STATUS, status=404)
    for end in RUN.ends[:-1]:
        made = run(RUN.request, policy, broken(RUN.body, end), (None, gone), document)
        assert made.heard.texts == Heard(RUN.body).texts
        assert made.outcome == "recovered"


def test_a_resume_that_fails_never_shows_half_a_call() -> None:
    """Not even when the resumed stream is cut inside the same call."""
    policy = Policy(backoff_base_s=0.0, hold="tool_calls", max_attempts=2)
    whole = arguments(RUN.body)
    for first, second in itertools.combinations(range(1, len(RUN.ends)), 2):
        cut = broken(RUN.body, RUN.ends[first - 1])
        rest = RUN.body[RUN.ends[first - 1] : RUN.ends[second - 1]]
        made = run(RUN.request, policy, cut, (rest, RESET))
        assert arguments(made.out) in ({}, whole)
        check_one_error(made)


# --- hold = "all" ---


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_nothing_is_given_before_the_end(answer: Answer) -> None:
    """Then all of it, byte for byte."""
    found = steps(answer, ALL)
    assert set(found[:-1]) == {b""}
    assert found[-1] == answer.body


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_with_all_held_a_cut_at_any_byte_is_invisible(answer: Answer) -> None:
    """The second answer is given as it is, identity and all."""
    second = again(answer)
    step = 1 if len(answer.body) < 1000 else 7
    for offset in range(0, answer.ends[-1] - 2, step):
        if "choices" in answer.payloads[0] and answer.events(offset) >= answer.finished:
            continue
        made = run(answer.request, ALL, broken(answer.body, offset), second)
        assert made.outs[0] == b""
        assert made.out == second
        assert made.outcome == "recovered"
        assert [fact[1:] for fact in made.facts] == [("before_content", "restarted")]


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_with_all_held_a_failure_has_a_real_status(answer: Answer) -> None:
    """Nothing was sent, so nothing need be taken back."""
    for events in range(answer.finished if "choices" in answer.payloads[0] else len(answer.ends)):
        cut = broken(answer.body, answer.ends[events - 1] if events else 0)
        made = run(answer.request, ALL, cut, cut, cut)
        assert made.out == b""
        assert made.finish.reply is not None
        assert made.finish.reply.status == 502
        assert len(made.facts) == 3


def test_with_all_held_the_clock_gives_headers_only() -> None:
    """Then a failure is one error in the stream, behind openers at most."""
    answer = ANSWERS["text"]
    for events in range(1, answer.finished):
        session = StreamSession(
            answer.request, Policy(hold="all", max_attempts=1), RetryBudget(0, 1)
        )
        session.begin(0.0)
        session.receive_head()
        assert session.receive_data(answer.body[: answer.ends[events - 1]]) == b""
        assert session.commit_by_time() == b""
        command = session.receive_end(RESET, 0.0)
        assert isinstance(command, Finish)
        heard = Heard(command.body)
        assert len(heard.errors) == 1
        assert heard.texts == {}


def test_an_answer_too_long_to_be_held_streams_on() -> None:
    """The hold is bounded, and a healthy stream never fails by it."""
    for policy in (
        Policy(hold="all", journal_max_bytes=300),
        Policy(hold="tool_calls", journal_max_bytes=300),
    ):
        for answer in (TOOLS, ANSWERS["text"], HOLDING["responses"]):
            found = steps(answer, policy)
            assert found[-1] == answer.body


def test_calls_of_a_response_are_held_one_by_one() -> None:
    """Each is given with its own last event."""
    answer = Answer(ask("responses"), response(function(0, "{", "}"), function(1, "[", "]")))
    given = [len(arguments(out)) for out in steps(answer, CALLS)]
    done = [at for at, event in enumerate(answer.payloads) if event["type"].endswith("item.done")]
    assert given == [sum(place <= at for place in done) for at in range(len(answer.ends))]


def custom(place: int, *fragments: str) -> list[Payload]:
    """Make the events of a custom tool call."""
    events: list[Payload] = json.loads(
        json.dumps(function(place, *fragments))
        .replace("function_call_arguments", "custom_tool_call_input")
        .replace("function_call", "custom_tool_call")
        .replace("arguments", "input")
    )
    return events


def test_custom_tool_calls_are_held_as_well() -> None:
    """They are run by the app in the same way."""
    answer = Answer(ask("responses"), response(custom(0, "a", "b")))
    for at, out in enumerate(steps(answer, CALLS)):
        assert (b"custom_tool_call" in out) == (at + 1 >= len(answer.ends) - 1)
    assert encode(answer.payloads) == steps(answer, CALLS)[-1]


def test_what_shares_a_chunk_with_a_call_is_not_overtaken() -> None:
    """The other choice's text waits with it, and whatever follows in that choice."""
    first = {**said(0, content="Hello "), "choices": []}
    call = said(1, tool_calls=[{"index": 0, "id": "c", "function": {"name": "f"}}])
    first["choices"] = [*said(0, content="Hello ")["choices"], *call["choices"]]
    body = encode(
        [first, said(0, content="world"), said(1, finish="tool_calls"), said(0, finish="stop")]
    )
    made = run(ask(n=2), Policy(hold="tool_calls"), body)
    assert made.heard.texts[0, "content"] == "Hello world"
