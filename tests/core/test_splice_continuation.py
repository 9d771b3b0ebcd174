"""Continuation: the target goes on from the partial answer, in the way it declares.

What is sent and what is given is worked out from the texts alone.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from splices import FEEDS, Attempt, Run, called, encode, legacy, run, said
from support import RESET, ask

from proxy.core.fault import AttemptEnd, Fault
from proxy.core.policy import Continuation, Policy
from proxy.core.request import Request

CHAT_WAYS: tuple[Continuation, ...] = ("prefill", "vllm", "prefix", "instructed")
WAYS: tuple[Continuation, ...] = ("completions", *CHAT_WAYS)
GIVEN, REST = ("The ferry ", "sails at"), " eight o'clock 🛳."
PARTIAL = "".join(GIVEN)
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "When?"}]
TURN = {"role": "assistant", "content": PARTIAL}


def policy(way: Continuation, **more: Any) -> Policy:
    """Make a policy with a declared way."""
    return Policy(backoff_base_s=0.0, continuation=way, **more)


def asked(way: Continuation, **fields: Any) -> Request:
    """Make the client's request."""
    if way == "completions":
        return ask("completions", **{"prompt": "Q: When? A: ", **fields})
    return ask(**{"messages": MESSAGES, **fields})


def opening(way: Continuation, *texts: str) -> Attempt:
    """Make an attempt that breaks behind some texts."""
    if way == "completions":
        return encode([legacy(text) for text in texts]).removesuffix(b"data: [DONE]\n\n"), RESET
    spoken = [said(content=text) for text in texts]
    body = encode([said(role="assistant", content=""), *spoken])
    return body.removesuffix(b"data: [DONE]\n\n"), RESET


def answer(way: Continuation, *texts: str) -> bytes:
    """Make a whole answer of another identity."""
    if way == "completions":
        events = [*(legacy(text) for text in texts), legacy("", "stop")]
    else:
        events = [
            said(role="assistant", content=""),
            *(said(content=text) for text in texts),
            said(finish="stop"),
        ]
    return encode([{**event, "id": "c2", "created": 2, "model": "m2"} for event in events])


def echo(way: Continuation, text: str) -> str:
    """Return what an answer begins with that is the client's already."""
    return {"prefix": text, "instructed": anchor(text)}.get(way, "")


def anchor(text: str) -> str:
    """Return the last words of a text of more than 80 characters, or all of it."""
    text = text.strip()
    return text if len(text) <= 80 else text[-80:].partition(" ")[2]


def continued(
    way: Continuation, *texts: str, given: tuple[str, ...] = GIVEN, feed: str = "whole"
) -> Run:
    """Run a request whose first attempt breaks, and whose second one says the texts."""
    return run(asked(way), policy(way), opening(way, *given), answer(way, *texts), feed=feed)


def heard_text(made: Run) -> str:
    """Return all the text that the client has."""
    return "".join(value for slot, value in made.heard.texts.items() if slot[1] != "finish")


def check_success(made: Run, text: str) -> None:
    """Hold a continued answer against the text that it must have."""
    assert heard_text(made) == text
    assert made.heard.errors == []
    assert made.heard.done == 1
    assert made.heard.texts[0, "finish"] == "stop"
    assert made.facts == [("reset", "mid_content", "continued")]
    assert made.recoveries == [("continuation", "success")]
    assert made.outcome == "recovered"


def check_failure(made: Run, text: str) -> None:
    """Hold an answer that could not be continued against what the client had."""
    assert heard_text(made) == text
    assert [error["error"]["code"] for error in made.heard.errors] == ["stream_incomplete"]
    assert made.heard.done == 0
    assert made.outcome == "failed"


SENT: dict[Continuation, dict[str, Any]] = {
    "completions": {"prompt": f"Q: When? A: {PARTIAL}", "echo": False},
    "prefill": {"messages": [*MESSAGES, TURN]},
    "vllm": {
        "messages": [*MESSAGES, TURN],
        "continue_final_message": True,
        "add_generation_prompt": False,
    },
    "prefix": {"messages": [*MESSAGES, {**TURN, "prefix": True}]},
}


@pytest.mark.parametrize("way", SENT)
def test_what_is_sent_is_the_request_with_the_partial_answer(way: Continuation) -> None:
    """Nothing else in the body changes."""
    fields = {"stop": ["END"], "temperature": 0.5, "user": "ü"}
    made = run(asked(way, **fields), policy(way), opening(way, *GIVEN), answer(way, "!"))
    (command,) = made.opens
    sent = json.loads(command.request.body or b"")
    assert sent == {**asked(way, **fields).json, **SENT[way]}
    assert (command.request.method, command.request.target) == ("POST", asked(way).target)


def test_an_instruction_asks_for_the_last_words() -> None:
    """The partial answer is a turn of its own, the order to go on is the user's."""
    made = run(asked("instructed"), policy("instructed"), opening("instructed", *GIVEN), b"", b"")
    *first, turn, order = json.loads(made.opens[0].request.body or b"")["messages"]
    assert (first, turn) == (MESSAGES, TURN)
    assert order["role"] == "user"
    assert json.dumps(PARTIAL) in order["content"]


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("way", WAYS)
def test_the_answer_goes_on_without_a_trace(way: Continuation, feed: str) -> None:
    """One identity, one role, one end, and every character once."""
    for split in range(len(REST) + 1):
        begin = echo(way, PARTIAL)
        made = continued(way, begin + REST[:split], REST[split:], feed=feed)
        check_success(made, PARTIAL + REST)


@pytest.mark.parametrize("way", WAYS)
def test_an_echo_is_taken_off_however_it_is_split(way: Continuation) -> None:
    """At every place, into two deltas and into single characters."""
    begin = anchor(PARTIAL) if way == "instructed" else PARTIAL
    for split in range(len(begin + REST)):
        text = begin + REST
        check_success(continued(way, text[:split], text[split:]), PARTIAL + REST)
    check_success(continued(way, *(begin + REST)), PARTIAL + REST)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("white", [" ", "\n", "  ", "\n\n", " \n"])
def test_white_space_at_the_seam_is_given_once(way: Continuation, white: str) -> None:
    """What was given at the end of the partial answer may be repeated, or left out."""
    given = ("The ferry sails at", white)
    text = "".join(given)
    begin = {"prefix": text, "instructed": anchor(text)}.get(way, "")
    for repeated in (white, ""):
        body = begin + (repeated if way != "prefix" else "") + "eight"
        for split in range(len(body)):
            made = continued(way, body[:split], body[split:], given=given)
            check_success(made, text + "eight")


@pytest.mark.parametrize("way", ["prefill", "prefix"])
def test_a_word_that_merely_begins_alike_is_no_echo(way: Continuation) -> None:
    """What differs from the partial answer is new text, all of it."""
    for at in range(1, 8):
        text = PARTIAL[:at] + "¤" + REST
        for split in range(len(text)):
            made = continued(way, text[:split], text[split:])
            check_success(made, PARTIAL + text)


@pytest.mark.parametrize("way", ["completions", "prefill", "vllm", "prefix"])
def test_an_answer_that_begins_anew_is_not_given(way: Continuation) -> None:
    """A target that ignores what it was given says much of it again, then other words or none."""
    for at in range(8, len(PARTIAL)):
        for text in (PARTIAL[:at] + "¤ else", PARTIAL[:at], "\n" + PARTIAL[:at]):
            made = continued(way, text[:3], text[3:])
            check_failure(made, PARTIAL)
            assert made.recoveries == [("continuation", "mismatch")]


@pytest.mark.parametrize("white", ["", " ", "\n"])
def test_an_echo_is_known_by_its_words(white: str) -> None:
    """Templates trim the partial answer, or begin a line."""
    given = ("The ferry sails at", white) if white else GIVEN
    for text in ("\n" + PARTIAL, PARTIAL):
        made = continued("prefill", text, white, REST.lstrip(), given=given)
        assert heard_text(made).split() == (PARTIAL + REST).split() or not white


LONG = (
    "Long ago the keeper of the old light by the harbour wrote a letter, "
    "and then she waited for the"
)


@pytest.mark.parametrize("white", ["", " ", "\n"])
def test_the_anchor_is_verified_at_every_split(white: str) -> None:
    """White space in front of it is allowed, nothing else is."""
    text = white + anchor(LONG) + " spring."
    for split in range(len(text)):
        made = continued("instructed", text[:split], text[split:], given=(LONG,))
        check_success(made, LONG + " spring.")
    check_success(continued("instructed", *text, given=(LONG,)), LONG + " spring.")


def test_an_anchor_that_is_wrong_anywhere_is_a_mismatch() -> None:
    """Nothing of the answer is given."""
    words = anchor(LONG)
    for at in range(len(words)):
        text = f"{words[:at]}¤{words[at + 1 :]} spring."
        for texts in ((text,), tuple(text), (text[:at], text[at:])):
            made = continued("instructed", *texts, given=(LONG,))
            check_failure(made, LONG)
            assert made.recoveries == [("continuation", "mismatch")]
            assert made.facts == [("reset", "mid_content", "surfaced")]


@pytest.mark.parametrize("text", ["", "Sorry, ", "the", anchor(LONG)[:-1], " "])
def test_an_answer_without_the_whole_anchor_is_a_mismatch(text: str) -> None:
    """It ended before the words that were asked for."""
    made = continued("instructed", text, given=(LONG,))
    check_failure(made, LONG)
    assert made.recoveries == [("continuation", "mismatch")]


@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("way", WAYS)
def test_ceilings_are_lowered_by_what_was_given(way: Continuation, key: str) -> None:
    """One token an event at least was spent."""
    made = run(asked(way, **{key: 9}), policy(way), opening(way, *GIVEN), b"", b"")
    assert json.loads(made.opens[0].request.body or b"")[key] == 7
    assert made.outcome == "failed"


@pytest.mark.parametrize("ceiling", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_a_ceiling_that_is_used_up_is_an_honest_error(way: Continuation, ceiling: int) -> None:
    """There is nothing left to ask for."""
    made = run(asked(way, max_tokens=ceiling), policy(way), opening(way, *GIVEN))
    check_failure(made, PARTIAL)
    assert made.recoveries == []


TOOL = {"type": "function", "function": {"name": "go"}}
UNFIT: dict[str, dict[str, Any]] = {
    "tools": {"tools": [TOOL]},
    "functions": {"functions": [{"name": "go"}]},
    "structured output": {"response_format": {"type": "json_object"}},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {}}},
    "log probabilities": {"logprobs": True},
    "top log probabilities": {"top_logprobs": 2},
    "audio": {"modalities": ["text", "audio"], "audio": {"voice": "x"}},
    "audio by modality": {"modalities": ["audio"]},
    "two choices": {"n": 2},
    "ends in an answer": {"messages": [*MESSAGES, {"role": "assistant", "content": "It"}]},
    "no messages": {"messages": None},
    "empty messages": {"messages": []},
}


@pytest.mark.parametrize("fields", UNFIT.values(), ids=UNFIT)
@pytest.mark.parametrize("way", CHAT_WAYS)
def test_such_a_chat_is_never_continued(way: Continuation, fields: dict[str, Any]) -> None:
    """Where a continuation could change more than text."""
    made = run(asked(way, **fields), policy(way), opening(way, *GIVEN))
    check_failure(made, PARTIAL)
    assert made.facts == [("reset", "mid_content", "surfaced")]


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ["Q"]},
        {"prompt": [1, 2]},
        {"prompt": None},
        {"suffix": "end"},
        {"echo": True},
        {"best_of": 2},
        {"n": 2},
        {"logprobs": 1},
        {"logprobs": 0},
    ],
    ids=str,
)
def test_such_a_completion_is_never_continued(fields: dict[str, Any]) -> None:
    """Where text is not simply appended to text."""
    made = run(
        asked("completions", **fields), policy("completions"), opening("completions", *GIVEN)
    )
    check_failure(made, PARTIAL)


SPOKEN = {
    "reasoning": [said(reasoning_content="Hm"), said(content=PARTIAL)],
    "refusal": [said(content=PARTIAL), said(refusal="I")],
    "tool call": [said(content=PARTIAL), called(0, "{", "go")],
    "legacy call": [said(content=PARTIAL), said(function_call={"name": "go", "arguments": ""})],
    "audio": [said(content=PARTIAL), said(audio={"id": "a", "data": "AAAA"})],
    "a second choice": [said(content=PARTIAL), said(1, content="x")],
}


@pytest.mark.parametrize("events", SPOKEN.values(), ids=SPOKEN)
@pytest.mark.parametrize("way", CHAT_WAYS)
def test_an_answer_of_more_than_text_is_never_continued(
    way: Continuation, events: list[dict[str, Any]]
) -> None:
    """What was given decides as well."""
    body = encode(events).removesuffix(b"data: [DONE]\n\n")
    made = run(asked(way), policy(way), (body, RESET))
    assert made.out.startswith(body)
    assert made.outcome == "failed"


@pytest.mark.parametrize("way", CHAT_WAYS)
def test_a_continuation_that_is_no_plain_text_is_not_given(way: Continuation) -> None:
    """A tool call or a refusal in the middle of a sentence is another answer."""
    for event in (called(0, "{}", "go"), said(refusal="No"), said(reasoning_content="Hm")):
        body = encode([said(role="assistant", content=""), event, said(finish="stop")])
        made = run(asked(way), policy(way), opening(way, *GIVEN), body)
        check_failure(made, PARTIAL)
        assert made.recoveries == [("continuation", "mismatch")]


@pytest.mark.parametrize("way", WAYS)
def test_a_second_cut_is_continued_from_the_longer_text(way: Continuation) -> None:
    """What the client has by then is what is sent."""
    for split in range(2, len(REST)):  # white space alone waits: it may belong to an echo
        longer = PARTIAL + REST[:split]
        second = opening(way, echo(way, PARTIAL), REST[:split])
        last = answer(way, echo(way, longer), REST[split:])
        made = run(asked(way), policy(way), opening(way, *GIVEN), second, last)
        assert heard_text(made) == PARTIAL + REST
        assert [fact[2] for fact in made.facts] == ["continued"] * 2
        assert json.dumps(longer) in json.dumps(made.opens[1].request.json) or way == "completions"


@pytest.mark.parametrize("way", WAYS)
def test_a_target_that_refuses_does_not_hide_what_broke(way: Continuation) -> None:
    """Its 400 is counted, the client is told of the cut."""
    refusal = AttemptEnd(Fault.HTTP_STATUS, status=400, body=b'{"error":{"message":"no prefill"}}')
    made = run(asked(way), policy(way), opening(way, *GIVEN), (None, refusal))
    check_failure(made, PARTIAL)
    assert "[reset]" in made.heard.errors[0]["error"]["message"]
    assert made.recoveries == [("continuation", "failed")]
    assert [(fact[0], fact[2]) for fact in made.facts] == [
        ("reset", "continued"),
        ("http_status", "surfaced"),
    ]


@pytest.mark.parametrize("way", WAYS)
def test_without_a_declaration_nothing_is_continued(way: Continuation) -> None:
    """Off by default, and a way of one endpoint is none of the other's."""
    wrong: Continuation = "prefill" if way == "completions" else "completions"
    for chosen in (Policy(), policy(wrong)):
        check_failure(run(asked(way), chosen, opening(way, *GIVEN)), PARTIAL)
    off = Request("POST", asked(way).target, asked(way).body, recovery=False)
    check_failure(run(off, policy(way), opening(way, *GIVEN)), PARTIAL)


def test_the_usage_is_that_of_the_attempt_that_finished() -> None:
    """It passes, and a moderation that saw but a part does not."""
    body = answer("prefill", REST).removesuffix(b"data: [DONE]\n\n")
    extra = [{**said(), "choices": [], "usage": {"total_tokens": 3}}]
    extra += [{**said(), "choices": [], "moderation": {"results": []}}]
    whole = body + encode(extra)
    made = run(asked("prefill"), policy("prefill"), opening("prefill", *GIVEN), whole)
    check_success(made, PARTIAL + REST)
    assert made.heard.rest == [("usage", {"total_tokens": 3})]
    assert b"moderation" not in made.out
