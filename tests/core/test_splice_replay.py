"""Replay: the same question again, and the client has one answer.

What the client must have is worked out from the uncut answer, as an SDK would hear it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
from splices import (
    ALWAYS,
    ANSWERS,
    FEEDS,
    SPELLINGS,
    Answer,
    Heard,
    Run,
    again,
    broken,
    encode,
    function,
    lengths,
    message,
    response,
    run,
    said,
    twisted,
)
from support import CLEAN, CUT, DONE, RESET, ask, sse

from proxy.core.budget import RetryBudget
from proxy.core.commands import Finish, Open
from proxy.core.fault import AttemptEnd, Fault
from proxy.core.policy import Policy
from proxy.core.session import StreamSession

DEFAULT = Policy(backoff_base_s=0.0)
ENDS = (RESET, CUT, CLEAN)
LONGEST = 1400
"""Answers up to this many bytes are cut at every byte, longer ones at every fifth and the edges."""

LOGPROBS = (0, "logprobs")


def is_over(answer: Answer, events: int) -> bool:
    """Say whether so many events are a whole answer."""
    return events >= answer.finished


def open_offsets(answer: Answer) -> list[int]:
    """Return each offset at which the answer is not whole; of long answers those that matter."""
    edges = {end + step for end in answer.ends for step in (-3, -2, -1, 0, 1)}
    step = 1 if len(answer.body) < LONGEST else 5
    offsets = sorted(edges | set(range(0, len(answer.body), step)))
    return [at for at in offsets if not is_over(answer, answer.events(at))]


def sampled(offsets: list[int], count: int, seed: int = 0) -> list[int]:
    """Choose some."""
    chance = random.Random(seed)  # noqa: S311 - it chooses test cases
    return sorted(chance.sample(offsets, min(count, len(offsets))))


def check(answer: Answer, made: Run, *, events: int) -> None:
    """Hold a spliced answer against the uncut one."""
    heard, whole = made.heard, Heard(answer.body).check()
    tokens = heard.texts.pop(LOGPROBS, "")
    assert tokens == whole.texts.pop(LOGPROBS, "")
    assert heard.meaning == whole.meaning
    assert heard.errors == []
    assert heard.done == made.out.count(DONE) == whole.done
    assert made.out.endswith(DONE) == bool(whole.done)
    assert made.outcome == "recovered"
    given = events >= answer.content
    phase, outcome = ("mid_content", "replayed") if given else ("before_content", "restarted")
    assert {(found[1], found[2]) for found in made.facts[:1]} == {(phase, outcome)}
    assert made.recoveries[0][0] == ("replay" if given else "restart")
    assert made.recoveries[-1][1] == "success"
    assert made.outs[0] == (answer.body[: answer.ends[events - 1]] if given else b"")


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_the_same_answer_told_anew_is_heard_as_the_same(answer: Answer, spelling: str) -> None:
    """The oracle itself: other borders and ids change no meaning."""
    heard, whole = Heard(again(answer, spelling)).check(), Heard(answer.body).check()
    assert heard.meaning == whole.meaning
    assert again(answer, spelling) != answer.body


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_cut_at_any_byte_is_joined_without_a_trace(answer: Answer) -> None:
    """Every byte; the second attempt has other borders, ids, times and models."""
    for offset in open_offsets(answer):
        second = again(answer, SPELLINGS[offset % len(SPELLINGS)])
        made = run(answer.request, ALWAYS, broken(answer.body, offset), second)
        check(answer, made, events=answer.events(offset))
        assert len(made.facts) == len(made.recoveries) == 1
        assert made.facts[0][0] == "reset"


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_the_borders_of_reads_do_not_matter(answer: Answer, feed: str) -> None:
    """A sample of offsets, each spelling, every kind of end, each way to feed."""
    chosen = sampled(open_offsets(answer), 20)
    for offset, spelling, end in zip(
        chosen, itertools.cycle(SPELLINGS), itertools.cycle([RESET, CUT]), strict=False
    ):
        cut = broken(answer.body, offset, end)
        made = run(answer.request, ALWAYS, cut, again(answer, spelling), feed=feed)
        check(answer, made, events=answer.events(offset))


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_second_cut_at_any_byte_is_joined_as_well(answer: Answer, spelling: str) -> None:
    """The second attempt breaks too, anywhere; the third has the identity of the first."""
    first = sampled(open_offsets(answer), 4, seed=len(spelling))
    body = again(answer, spelling, "x")
    limit = body.rindex(b"\n\n", 0, -2)  # where its last event begins
    for number, inner in enumerate(sampled(list(range(limit)), 30, seed=1)):
        if has_finished(answer, body[:inner]):
            continue
        offset = first[number % len(first)]
        ways = [broken(answer.body, offset), broken(body, inner, ENDS[number % 2])]
        # A token that lies across a seam has no place: its probability cannot be told.
        last = "letters" if "log" in answer.body.decode() else SPELLINGS[number % 3]
        made = run(answer.request, ALWAYS, *ways, again(answer, last, "yy"))
        check(answer, made, events=answer.events(offset))
        assert len(made.facts) == 2


def has_finished(answer: Answer, body: bytes) -> bool:
    """Say whether a part of a chat stream has every finish reason."""
    whole, _, _ = body.rpartition(b"\n\n")
    return whole.count(b'"finish_reason":"') == answer.request.choices


# --- another answer ---


def places(answer: Answer) -> Iterator[tuple[int, tuple[object, ...], int, bool]]:
    """Return each cut between events, each character, and whether it was given before the cut."""
    last = min(answer.finished, len(answer.ends))
    for events in range(answer.content, last):
        given = lengths(answer.payloads[:events])
        for slot, length in lengths(answer.payloads).items():
            for at in range(length):
                yield events, slot, at, at < given.get(slot, 0)


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_that_differs_anywhere_before_the_seam_is_not_given(answer: Answer) -> None:
    """Each character of each text at each cut: nothing of it goes out, then one error."""
    for number, (events, slot, at, known) in enumerate(places(answer)):
        if known:
            other = again(twisted(answer, slot, at), SPELLINGS[number % len(SPELLINGS)])
            made = run(answer.request, ALWAYS, broken(answer.body, answer.ends[events - 1]), other)
            check_unfit(answer, made, events)


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_that_differs_behind_the_seam_is_a_good_answer(answer: Answer) -> None:
    """What the client has not got cannot be contradicted."""
    for number, (events, slot, at, known) in enumerate(places(answer)):
        if not known and number % 3 == 0:
            other = again(twisted(answer, slot, at), SPELLINGS[number % len(SPELLINGS)])
            made = run(answer.request, ALWAYS, broken(answer.body, answer.ends[events - 1]), other)
            assert made.outcome == "recovered"
            if "choices" in answer.payloads[0]:
                assert "¤" in "".join(made.heard.texts.values())


def check_unfit(answer: Answer, made: Run, events: int) -> None:
    """Hold the end of an answer that was not saved against the contract."""
    given = answer.body[: answer.ends[events - 1]]
    assert made.outs == [given, b""]
    assert made.finish.body.count(b"another answer did not fit") >= 1
    heard = made.heard
    assert len(heard.errors) == 1
    assert heard.errors[0]["error"]["code"] == "stream_incomplete"
    assert heard.done == 0
    dialect = 1 if "choices" in answer.payloads[0] else 2
    assert made.finish.body.count(b"data: ") == dialect
    assert made.facts == [("reset", "mid_content", "surfaced")]
    assert made.recoveries == [("replay", "mismatch")]
    assert made.outcome == "failed"
    assert made.session.attempts == 2


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_that_ends_before_the_seam_does_not_fit(answer: Answer) -> None:
    """A shorter answer is another answer, with its end mark or without."""
    if answer.request.choices > 1 or "choices" not in answer.payloads[0]:
        return  # they have tests of their own
    last = answer.payloads[answer.finished - 1]
    for events in range(answer.content, answer.finished):
        short = [*answer.payloads[: events - 1], last]
        for body in (encode(short), encode(short).removesuffix(DONE)):
            cut = broken(answer.body, answer.ends[events - 1])
            check_unfit(answer, run(answer.request, ALWAYS, cut, body), events)


def test_a_response_that_ends_before_the_seam_does_not_fit() -> None:
    """Nothing of the shorter one is given, in the error's response object neither."""
    for name, item in (("text", message(0, "Calm ")), ("function", function(0, '{"'))):
        answer = ANSWERS[f"responses {name}"]
        short = again(Answer(answer.request, response(item)), "same")
        for events in range(6, len(answer.ends)):
            made = run(answer.request, ALWAYS, broken(answer.body, answer.ends[events - 1]), short)
            check_unfit(answer, made, events)
            assert b"msg_0x" not in made.out
            assert b"fc_0x" not in made.out


TWINS = ANSWERS["two choices"]
UNFIT = {
    "another finish reason": [*TWINS.payloads[:5], said(1, "length"), *TWINS.payloads[6:]],
    "a longer text": [*TWINS.payloads[:4], said(1, content="thern"), *TWINS.payloads[5:]],
    "a shorter text": [*TWINS.payloads[:4], said(1, content="t"), *TWINS.payloads[5:]],
}


@pytest.mark.parametrize("payloads", UNFIT.values(), ids=UNFIT)
def test_a_choice_that_was_finished_stays_as_it_was(payloads: list[dict[str, object]]) -> None:
    """Of two choices one was finished before the cut, and the new answer has it otherwise."""
    made = run(TWINS.request, ALWAYS, broken(TWINS.body, TWINS.ends[5]), encode(payloads))
    check_unfit(TWINS, made, 6)


@pytest.mark.parametrize("code", ["server_error", "rate_limit_exceeded"])
@pytest.mark.parametrize("events", range(5))
def test_a_passing_error_before_the_seam_is_followed_by_a_third_attempt(
    events: int, code: str
) -> None:
    """The error of an attempt that was to help is not the client's."""
    text = ANSWERS["text"]
    error = sse({"error": {"message": "busy", "type": "x", "code": code}})
    body = text.body[: text.ends[events - 1] if events else 0] + error
    cut = broken(text.body, text.ends[3])
    made = run(text.request, ALWAYS, cut, body, again(text))
    check(text, made, events=4)
    assert made.recoveries == [("replay", "failed"), ("replay", "success")]
    assert [fact[0] for fact in made.facts] == ["reset", "in_stream_error"]


# --- where it must not be ---


def test_by_default_nothing_is_repeated_after_content() -> None:
    """Only a deterministic request may be repeated then."""
    text = ANSWERS["text"]
    for offset in range(text.ends[text.content - 1], text.ends[text.finished - 1], 5):
        made = run(text.request, DEFAULT, broken(text.body, offset))
        assert made.facts[0][2] == "surfaced"
        assert made.outcome == "failed"


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 0.0}, {"seed": 7}])
def test_a_deterministic_request_is_repeated_by_default(fields: dict[str, Any]) -> None:
    """The client itself asked for the same answer each time."""
    text = Answer(ask(**fields), ANSWERS["text"].payloads)
    made = run(text.request, DEFAULT, broken(text.body, text.ends[2]), again(text))
    check(text, made, events=3)


@pytest.mark.parametrize("fields", [{"temperature": 0.1}, {"temperature": False}, {"seed": None}])
def test_a_request_that_is_not_deterministic_is_not(fields: dict[str, Any]) -> None:
    """Neither a low temperature nor an empty seed promises anything."""
    text = ANSWERS["text"]
    made = run(ask(**fields), DEFAULT, broken(text.body, text.ends[2]))
    assert made.outcome == "failed"


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_the_client_and_the_policy_may_forbid_it(answer: Answer) -> None:
    """Neither a client that said off, nor ``replay = never``, is asked twice."""
    cut = broken(answer.body, answer.ends[answer.content - 1])
    cold = {**answer.request.json, "temperature": 0}
    off = (
        ask(answer.request.path.rpartition("/chat")[2].strip("/"), recovery=False, **cold)
        if answer.request.path != "/chat/completions"
        else ask(recovery=False, **cold)
    )
    for made in (
        run(off, ALWAYS, cut),
        run(answer.request.saying(cold), Policy(replay="never"), cut),
    ):
        assert (made.outcome, made.recoveries) == ("failed", [])


@pytest.mark.parametrize("fields", [{}, {"store": True}, {"store": None}])
def test_a_response_that_the_upstream_keeps_is_never_replaced(fields: dict[str, Any]) -> None:
    """The app may use the id it was given."""
    for name in ("responses text", "responses function", "responses items"):
        answer = ANSWERS[name]
        for events in range(answer.content, len(answer.ends)):
            cut = broken(answer.body, answer.ends[events - 1])
            made = run(ask("responses", **fields), ALWAYS, cut)
            assert (made.outcome, made.recoveries) == ("failed", [])


def item(kind: str) -> list[dict[str, object]]:
    """Make the events of an item that cannot be replayed."""
    events = function(0, "{}")
    for event in (events[0], events[-1]):
        event["item"] = {"id": "it_0", "type": kind, "status": "in_progress"}
    return [events[0], events[-1]]


@pytest.mark.parametrize("kind", ["reasoning", "web_search_call", "code_interpreter_call"])
def test_reasoning_and_hosted_tools_are_never_replayed(kind: str) -> None:
    """Reasoning is bound to its response; a tool of the upstream's may have had its effect."""
    body = encode(response(item(kind), message(1, "Calm ", "seas")))
    answer = Answer(ask("responses", store=False), response(item(kind), message(1, "a", "b")))
    for events in range(answer.content, len(answer.ends)):
        made = run(answer.request, ALWAYS, broken(body, body.find(b'"sequence_number":4}') + 22))
        assert (made.outcome, made.recoveries) == ("failed", [])
        made = run(answer.request, ALWAYS, broken(answer.body, answer.ends[events - 1]))
        assert (made.outcome, made.recoveries) == ("failed", [])


@pytest.mark.parametrize("hold", ["none", "all"])
def test_a_hosted_tool_that_was_merely_seen_is_not_run_twice(hold: str) -> None:
    """What counts is that the upstream ran it, not that the client heard of it."""
    answer = Answer(ask("responses", store=False), response(item("web_search_call")))
    policy = Policy(replay="always", hold=hold)  # type: ignore[arg-type]
    made = run(answer.request, policy, broken(answer.body, answer.ends[2]))
    assert made.session.attempts == 1


def test_a_hosted_tool_of_the_second_attempt_forbids_a_third() -> None:
    """The same holds for each attempt."""
    answer = ANSWERS["responses text"]
    other = Answer(answer.request, response(item("web_search_call")))
    cut, seen = broken(answer.body, answer.ends[4]), broken(other.body, other.ends[2])
    made = run(answer.request, ALWAYS, cut, seen)
    assert made.outcome == "failed"
    assert made.session.attempts == 2


def test_an_answer_too_long_to_be_remembered_is_not_replayed() -> None:
    """Without all that was given nothing can be compared."""
    text = ANSWERS["text"]
    policy = Policy(replay="always", journal_max_bytes=200)
    made = run(text.request, policy, broken(text.body, text.ends[3]))
    assert (made.outcome, made.recoveries) == ("failed", [])


REFUSAL = AttemptEnd(Fault.HTTP_STATUS, status=401, body=b'{"error":{"message":"no"}}')


def test_a_refused_replay_does_not_hide_what_broke() -> None:
    """The client is told of the cut, not of the 401; both are counted."""
    text = ANSWERS["text"]
    made = run(text.request, ALWAYS, broken(text.body, text.ends[3]), (None, REFUSAL))
    assert "[reset]" in made.heard.errors[0]["error"]["message"]
    assert [fact[0] for fact in made.facts] == ["reset", "http_status"]
    assert made.recoveries == [("replay", "failed")]


def test_openers_that_the_clock_gave_keep_their_identity() -> None:
    """A restart behind them has their ids, roles once, and numbers that go on."""
    for answer in ANSWERS.values():
        made = run_late(answer)
        assert made.heard.meaning == Heard(answer.body).meaning


def run_late(answer: Answer) -> Run:
    """Cut behind an opener that the clock has given."""
    session = StreamSession(answer.request, ALWAYS, RetryBudget(0.2, 9.0))
    session.begin(0.0)
    session.receive_head()
    made = Run(session, [session.commit_by_time()])
    opener = answer.body[: answer.ends[0]] if answer.content > 1 else b""
    made.outs.append(session.receive_data(opener))
    assert made.outs[-1] == opener
    assert isinstance(session.receive_end(RESET, 0.0), Open)
    session.receive_head()
    made.outs.append(session.receive_data(again(answer)))
    command = session.receive_end(CLEAN, 0.0)
    assert isinstance(command, Finish)
    made.finish = command
    return made
