"""The chat grammar's ending: with a finish reason, without one, and where one is added.

Nothing here may claim a success that the upstream did not give.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import (
    ANSWER,
    CLEAN,
    CUT,
    DONE,
    HI,
    RESET,
    ROLE,
    STOP,
    ask,
    chunk,
    feed,
    finish,
    hear,
    payloads,
    raw,
    sse,
    start,
)

from proxy.core.fault import Fault, IncidentOutcome, Phase
from proxy.core.grammars import grammar_for
from proxy.core.grammars.base import Kind
from proxy.core.policy import FinishReason, Quirks
from proxy.core.sse import Event

REQUIRED, ADDED = Quirks(finish_reason="required"), Quirks(finish_reason="added")
OPTIONAL = Quirks()
CUT_SHORT = [(Fault.CLEAN_EOF, Phase.MID_CONTENT, IncidentOutcome.SURFACED)]

CALL = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}
SPOKEN = {"id": "audio_1", "expires_at": 5, "data": "AA=="}
"""Spoken answers have no finish reason at all."""

OPEN = {
    "text": sse(ROLE, HI),
    "a call": sse(ROLE, chunk(tool_calls=[CALL])),
    "a call of old": sse(ROLE, chunk(function_call={"name": "f", "arguments": "{"})),
    "a call, then text": sse(chunk(tool_calls=[CALL]), HI),
    "speech": sse(ROLE, chunk(audio=SPOKEN)),
}


def read(quirks: Quirks, *events: Any, **fields: Any) -> Kind:
    """Read events, return what the last one was."""
    grammar = grammar_for(ask("chat", **fields), quirks)
    return [grammar.read(Event(b"", raw(event))) for event in events][-1]


# --- [DONE] without a finish reason ---


@pytest.mark.parametrize("body", OPEN.values(), ids=OPEN)
def test_an_end_mark_alone_is_believed_by_default(body: bytes) -> None:
    """Some servers never send a reason (anomalyco/opencode#43882)."""
    heard = hear(body + DONE)
    assert (heard.out, heard.facts, heard.repairs) == (body + DONE, [], {})


@pytest.mark.parametrize("what", ["text", "a call", "a call of old", "a call, then text"])
def test_an_end_mark_alone_is_a_cut_where_a_reason_is_required(what: str) -> None:
    """A server may send it after any exception (vLLM does)."""
    heard = hear(OPEN[what] + DONE, quirks=REQUIRED)
    assert heard.facts == CUT_SHORT
    assert DONE not in heard.out


def test_a_spoken_answer_needs_no_reason() -> None:
    """It never has one (openai-node, ChatCompletionStream.ts)."""
    heard = hear(OPEN["speech"] + DONE, quirks=REQUIRED)
    assert (heard.out, heard.facts) == (OPEN["speech"] + DONE, [])
    text = sse(ROLE, chunk(content='"audio"')) + DONE
    assert hear(text, quirks=REQUIRED).facts == CUT_SHORT


@pytest.mark.parametrize("quirks", [OPTIONAL, REQUIRED, ADDED], ids=lambda q: q.finish_reason)
def test_an_answer_with_its_reason_is_the_same_under_each_quirk(quirks: Quirks) -> None:
    """Byte by byte."""
    heard = hear(ANSWER, quirks=quirks)
    assert (heard.out, heard.facts, heard.repairs) == (ANSWER, [], {})


@pytest.mark.parametrize("quirks", [OPTIONAL, REQUIRED, ADDED], ids=lambda q: q.finish_reason)
def test_no_quirk_finishes_one_choice_for_another(quirks: Quirks) -> None:
    """A choice that is open beside one that is not was cut."""
    heard = hear(sse(HI, STOP) + DONE, ask(n=2), quirks=quirks)
    assert heard.facts == CUT_SHORT
    assert DONE not in heard.out


@pytest.mark.parametrize("quirks", [OPTIONAL, REQUIRED, ADDED], ids=lambda q: q.finish_reason)
@pytest.mark.parametrize("end", [CLEAN, CUT, RESET], ids=["clean", "cut", "reset"])
@pytest.mark.parametrize("body", OPEN.values(), ids=OPEN)
def test_no_quirk_finishes_what_has_no_end_mark(body: bytes, end: Any, quirks: Quirks) -> None:
    """Neither a reason nor ``[DONE]``: nobody said that it is whole."""
    heard = hear(body, end=end, quirks=quirks)
    assert heard.facts == [
        (end.fault or Fault.CLEAN_EOF, Phase.MID_CONTENT, IncidentOutcome.SURFACED)
    ]
    assert b"[DONE]" not in heard.out
    assert b'"stop"' not in heard.out
    assert heard.repairs == {}


@pytest.mark.parametrize("quirks", [OPTIONAL, REQUIRED, ADDED], ids=lambda q: q.finish_reason)
def test_no_quirk_makes_an_answer_of_an_end_mark(quirks: Quirks) -> None:
    """Nothing came before it."""
    heard = hear(DONE, quirks=quirks)
    assert [fault for fault, _, _ in heard.facts] == [Fault.EMPTY_STREAM]


# --- a finish reason that is added ---


def test_a_reason_that_never_comes_is_added_by_setting() -> None:
    """In a last chunk with the answer's identity, in front of the end mark."""
    heard = hear(sse(ROLE, HI) + DONE, quirks=ADDED)
    last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert payloads(heard.out) == [
        ROLE,
        HI,
        {"id": "chatcmpl-1", "created": 1, "model": "m", "choices": [last]},
        "[DONE]",
    ]
    assert (heard.repairs, heard.facts) == ({"added_finish_reason": 1}, [])


def test_it_is_added_behind_the_statistics() -> None:
    """They are part of no choice, and are not repeated."""
    usage = {**HI, "choices": [], "usage": {"total_tokens": 1}}
    heard = hear(sse(HI, usage) + DONE, quirks=ADDED)
    added = payloads(heard.out)[-2]
    assert set(added) == {"id", "created", "model", "choices"}


def test_it_is_added_for_every_choice() -> None:
    """None of them was finished."""
    parts = [chunk(index=index, content="a") for index in (1, 0, 2)]
    heard = hear(sse(*parts) + DONE, ask(n=2), quirks=ADDED)
    added = payloads(heard.out)[-2]["choices"]
    assert [choice["index"] for choice in added] == [0, 1, 2]
    assert {choice["finish_reason"] for choice in added} == {"stop"}


def test_a_legacy_completion_gets_a_text() -> None:
    """Its form is another."""
    heard = hear(sse({"choices": [{"text": "a"}]}) + DONE, ask("completions"), quirks=ADDED)
    (added,) = payloads(heard.out)[-2]["choices"]
    assert added == {"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}


@pytest.mark.parametrize("what", ["a call", "a call of old", "a call, then text", "speech"])
def test_it_is_never_added_where_something_was_called_or_spoken(what: str) -> None:
    """Half a call with a reason is run; speech has none. What came passes as it is."""
    heard = hear(OPEN[what] + DONE, quirks=ADDED)
    assert (heard.out, heard.repairs) == (OPEN[what] + DONE, {})


def test_a_last_chunk_of_an_odd_shape_gives_no_identity() -> None:
    """Nothing is invented in its place."""
    heard = hear(sse(HI, 5) + DONE, quirks=ADDED)
    assert set(payloads(heard.out)[-2]) == {"choices"}


def test_an_error_is_no_end() -> None:
    """Nothing is added behind it."""
    heard = hear(sse(HI, {"error": {"message": "m"}}) + DONE, quirks=ADDED)
    assert heard.repairs == {}
    assert b'"stop"' not in heard.out


EVENTS = st.sampled_from(
    [ROLE, HI, STOP, chunk(tool_calls=[CALL]), chunk(audio=SPOKEN), chunk(index=1, content="b")]
)


@given(
    st.lists(EVENTS, max_size=5),
    st.booleans(),
    st.sampled_from([CLEAN, CUT, RESET]),
    st.sampled_from(["optional", "required", "added"]),
)
def test_success_is_claimed_only_where_the_upstream_did(
    events: list[Any],
    mark: bool,  # noqa: FBT001 - a parameter
    end: Any,
    reason: FinishReason,
) -> None:
    """``[DONE]`` needs the upstream's own, or a reason for every choice that was seen."""
    session = start(quirks=Quirks(finish_reason=reason), max_attempts=1)
    out = feed(session, sse(*events) + (DONE if mark else b""))
    out += finish(session, end).body
    seen = {choice["index"] for event in events for choice in event["choices"]} | {0}
    ended = {0} if STOP in events else set[int]()
    if DONE in out:
        assert (mark and events) or seen == ended
        assert not ended or seen == ended
        assert ended or reason != "required" or chunk(audio=SPOKEN) in events
    if b'"finish_reason":"stop"' in out and STOP not in events:
        assert reason == "added"
        assert mark
        assert chunk(tool_calls=[CALL]) not in events


# --- what is known before the end ---


@pytest.mark.parametrize(
    ("events", "n", "finished"),
    [
        ([], 1, False),
        ([HI], 1, False),
        ([HI, STOP], 1, True),
        ([STOP], 2, False),
        ([STOP, chunk(index=1, finish="length")], 2, True),
        ([STOP, chunk(index=1)], 1, False),
        ([chunk(finish="")], 1, False),
    ],
)
def test_an_answer_is_finished_with_the_last_choice(
    events: list[Any],
    n: int,
    finished: bool,  # noqa: FBT001 - the expectation
) -> None:
    """Only statistics and the end mark can follow, so that silence then is an end."""
    grammar = grammar_for(ask("chat", n=n))
    for event in events:
        grammar.read(Event(b"", raw(event)))
    assert grammar.finished is finished


@pytest.mark.parametrize("family", ["responses", "images", "audio", "threads", "other"])
def test_no_other_endpoint_is_finished_before_its_end(family: str) -> None:
    """Nor is anything missing in it that could be added, nor is its success a lack of words."""
    grammar = grammar_for(ask(family), ADDED)
    grammar.read(Event(b"", b'{"type":"x"}'))
    assert not grammar.finished
    assert grammar.missing() == []
    if family != "responses":
        assert not grammar.empty
        assert grammar.fold([]) == b""


@pytest.mark.parametrize(
    ("reasons", "empty"),
    [([], True), (["stop"], True), (["stop", "stop"], True), (["length"], False)],
)
def test_an_answer_is_empty_by_itself_alone(
    reasons: list[str],
    empty: bool,  # noqa: FBT001 - the expectation
) -> None:
    """What a limit or a filter stopped had a reason to be."""
    grammar = grammar_for(ask())
    for index, reason in enumerate(reasons):
        grammar.read(Event(b"", raw(chunk(index=index, finish=reason))))
    assert grammar.empty is empty


def test_the_kind_of_an_end_mark_depends_on_what_came() -> None:
    """The three questions in one place."""
    assert read(OPTIONAL, HI, "[DONE]") is Kind.TERMINAL
    assert read(REQUIRED, HI, "[DONE]") is Kind.UNFINISHED
    assert read(ADDED, HI, "[DONE]") is Kind.TERMINAL
    assert read(REQUIRED, HI, STOP, "[DONE]") is Kind.TERMINAL
    assert read(REQUIRED, chunk(finish="content_filter"), "[DONE]") is Kind.TERMINAL
    assert read(OPTIONAL, "[DONE]") is Kind.UNFINISHED
    assert read(ADDED, HI, STOP, "[DONE]", n=2) is Kind.UNFINISHED
