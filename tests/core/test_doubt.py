"""Answers that look like success and are none: overload as text, an end without any content."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import (
    ANSWER,
    CLEAN,
    CREATED,
    CUT,
    DONE,
    RESET,
    ROLE,
    RUNNING,
    STOP,
    ask,
    chunk,
    fail,
    feed,
    finish,
    hear,
    lifecycle,
    payloads,
    raw,
    spoken,
    sse,
    start,
    told,
)

from proxy.core.attempt import Attempt
from proxy.core.commands import Finish, Open
from proxy.core.fault import Fault, IncidentOutcome, Phase, StreamOutcome
from proxy.core.grammars.chat_seam import ChatSeam
from proxy.core.policy import Fallback, Policy, Quirks, Target
from proxy.core.recovery.splice import Identity
from proxy.core.request import Request

NOTICE = "Our servers are currently overloaded. Please try again later."
OTHER = "Überlastet 🐳"
QUIRKS = Quirks(overload_texts=(NOTICE, OTHER))
WANTED = Quirks(empty_answer="restart")
RESTARTED, SURFACED = IncidentOutcome.RESTARTED, IncidentOutcome.SURFACED
OVERLOADED = [(Fault.IN_STREAM_ERROR, Phase.BEFORE_CONTENT, RESTARTED)]
EMPTY = [(Fault.EMPTY_STREAM, Phase.BEFORE_CONTENT, RESTARTED)]


def chat(*texts: str, end: bytes = DONE) -> bytes:
    """Make a chat answer of these deltas."""
    return sse(ROLE, *(chunk(content=text) for text in texts), STOP) + end


def legacy(*texts: str) -> bytes:
    """Make a legacy completion of these texts."""
    parts = [{"index": 0, "text": text, "finish_reason": None} for text in texts]
    last = {"index": 0, "text": "", "finish_reason": "stop"}
    return sse(*({"choices": [part]} for part in [*parts, last])) + DONE


def responses(*texts: str, item: Any = None) -> bytes:
    """Make a response of these deltas, with all that repeats them."""
    at: dict[str, Any] = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    text = "".join(texts)
    part = {"type": "output_text", "text": text}
    whole = item or {"type": "message", "content": [part]}
    events: list[dict[str, Any]] = [
        {"type": "response.output_item.added", "item": {**whole, "content": []}},
        {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
        *({"type": "response.output_text.delta", **at, "delta": one} for one in texts),
        {"type": "response.output_text.done", **at, "text": text},
        {"type": "response.content_part.done", **at, "part": part},
        {"type": "response.output_item.done", "item": whole},
        lifecycle("completed", 0, status="completed", output=[whole]),
    ]
    numbered = [{**event, "sequence_number": number + 2} for number, event in enumerate(events)]
    return sse(CREATED, RUNNING, *numbered)


FORMS: dict[str, tuple[str, bytes]] = {
    "one delta": ("chat", chat(NOTICE)),
    "many deltas": ("chat", chat(*NOTICE)),
    "another notice": ("chat", chat(*OTHER)),
    "half a character a delta": ("chat", chat("Überlastet ", "\ud83d", "\udc33")),
    "without [DONE]": ("chat", chat(NOTICE, end=b"")),
    "without a role": ("chat", sse(chunk(content=NOTICE, finish="stop")) + DONE),
    "with statistics": ("chat", chat(NOTICE, end=sse({"choices": [], "usage": {"x": 1}}) + DONE)),
    "legacy": ("completions", legacy(*NOTICE)),
    "a response": ("responses", responses(NOTICE)),
    "a response of many deltas": ("responses", responses(*NOTICE)),
}


@pytest.mark.parametrize(("family", "body"), FORMS.values(), ids=FORMS)
def test_an_answer_that_is_nothing_but_a_notice_is_overload(family: str, body: bytes) -> None:
    """Nothing of it is given, and it is asked again (decolua/9router#3232)."""
    heard = hear(body, ask(family), quirks=QUIRKS)
    assert (heard.out, heard.facts) == (b"", OVERLOADED)
    assert isinstance(heard.command, Open)


@pytest.mark.parametrize(("family", "body"), FORMS.values(), ids=FORMS)
def test_without_the_quirk_a_notice_is_an_answer(family: str, body: bytes) -> None:
    """It may be what the model was asked to say."""
    heard = hear(body, ask(family))
    assert heard.out == body.removesuffix(DONE) + (DONE if family != "responses" else b"")
    assert heard.facts == []


def test_a_restart_gives_the_whole_answer_and_nothing_of_the_notice() -> None:
    """And a second notice is one as well."""
    session = start(quirks=QUIRKS)
    for _ in range(2):
        assert feed(session, chat(*NOTICE)) == b""
        assert session.settled
        fail(session, CLEAN)
    assert feed(session, ANSWER) == ANSWER
    assert finish(session).body == b""
    report = session.report()
    assert report.outcome is StreamOutcome.RECOVERED
    assert report.recoveries == (("restart", "failed"), ("restart", "success"))


def test_a_notice_that_stays_is_a_503() -> None:
    """With the upstream's words, and a time after which to come again."""
    session = start(quirks=QUIRKS, max_attempts=2)
    feed(session, chat(NOTICE))
    fail(session, CLEAN)
    feed(session, chat(NOTICE))
    command = finish(session)
    assert command.reply is not None
    assert (command.reply.status, command.reply.retry_after_s) == (503, 1)
    assert (told(command)["code"], told(command)["message"]) == ("overloaded", NOTICE)
    assert session.report().outcome is StreamOutcome.FAILED


@pytest.mark.parametrize("family", ["chat", "completions", "responses"])
def test_a_notice_that_stays_behind_a_200_is_the_error_event(family: str) -> None:
    """The client never has it as text."""
    body = {"chat": chat, "completions": legacy, "responses": responses}[family](*NOTICE)
    request = ask(family, store=False)
    heard = hear(body, request, quirks=QUIRKS, max_attempts=1, committed=True)
    first, *more = payloads(heard.out)
    assert first["error"]["message"] == NOTICE
    assert first["error"]["retryable"] is True
    assert [event["type"] for event in more] == ["response.failed"] * (family == "responses")


# --- what is no notice ---

NEAR = {
    "it goes on": chat(NOTICE, " And so on."),
    "it goes on later": chat(*NOTICE, "", "."),
    "it turns": chat("Our serv", "ants are well."),
    "it stops short": chat(NOTICE[:-1]),
    "it begins late": chat(" " + NOTICE),
    "another case": chat(NOTICE.lower()),
    "no text": chat(),
    "twice": chat(NOTICE, NOTICE),
    "as a refusal": sse(ROLE, chunk(refusal=NOTICE), STOP) + DONE,
    "as reasoning": sse(ROLE, chunk(reasoning_content=NOTICE), STOP) + DONE,
    "behind reasoning": sse(ROLE, chunk(reasoning="hm"), chunk(content=NOTICE), STOP) + DONE,
    "as a call": sse(
        chunk(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": NOTICE}}]),
        chunk(finish="tool_calls"),
    )
    + DONE,
    "with a call": sse(
        chunk(content=NOTICE), chunk(tool_calls=[{"index": 0, "id": "a"}]), chunk(finish="stop")
    )
    + DONE,
    "with a call of old": sse(chunk(content=NOTICE), chunk(function_call={"x": 1}), STOP) + DONE,
    "with an odd delta": sse(chunk(content=NOTICE), {"choices": [{"delta": 5}]}, chunk(content="!"))
    + sse(STOP)
    + DONE,
    "as a list of parts": sse(chunk(content=[{"type": "text", "text": NOTICE}]), STOP) + DONE,
}


@pytest.mark.parametrize("body", NEAR.values(), ids=NEAR)
def test_what_only_resembles_a_notice_is_given_whole(body: bytes) -> None:
    """Every byte of it, in order."""
    heard = hear(body, quirks=QUIRKS)
    assert (heard.out, heard.facts, heard.repairs) == (body, [], {})


@pytest.mark.parametrize(
    "body",
    [
        responses(NOTICE, "!"),
        responses("Our ", "ships"),
        responses(NOTICE[:-1]),
        responses().replace(b"output_text", b"refusal"),
        responses(*NOTICE).replace(b"output_text", b"refusal"),
        responses(NOTICE).replace(b"output_text", b"reasoning_text"),
        responses(NOTICE, item={"type": "function_call", "name": "f", "arguments": ""}),
        responses(NOTICE, item={"type": "web_search_call"}),
    ],
)
def test_a_response_that_only_resembles_a_notice_is_given_whole(body: bytes) -> None:
    """The same for events."""
    heard = hear(body, ask("responses"), quirks=QUIRKS)
    assert (heard.out, heard.facts) == (body, [])


@given(st.lists(st.sampled_from([*NOTICE[:20], NOTICE[:5], NOTICE[5:], NOTICE, "", "x"])))
def test_any_text_is_given_whole_or_is_a_notice(texts: list[str]) -> None:
    """However it is cut: the doubt ends with the first difference, and loses nothing."""
    body = chat(*texts)
    session = start(quirks=QUIRKS)
    out = feed(session, body)
    if "".join(texts) == NOTICE:
        assert (out, session._attempt.fault) == (b"", Fault.IN_STREAM_ERROR)
    else:
        assert out == body


def test_text_goes_out_as_soon_as_it_can_be_no_notice() -> None:
    """A healthy answer is held up by its first letters alone."""
    session = start(quirks=QUIRKS)
    assert feed(session, sse(ROLE, chunk(content="Our "))) == b""
    given_ = feed(session, sse(chunk(content="ship")))
    assert given_ == sse(ROLE, chunk(content="Our "), chunk(content="ship"))
    assert feed(session, sse(chunk(content="s"))) == sse(chunk(content="s"))


def test_what_waits_is_bounded() -> None:
    """Chunks that say nothing cannot fill the memory; they are given, and a notice with them."""
    nothing = sse(chunk(content=""))
    session = start(quirks=QUIRKS, journal_max_bytes=4 * len(nothing))
    feed(session, nothing * 100)
    assert len(session._attempt._doubt._held) < 5
    assert feed(session, sse(chunk(content=NOTICE))).endswith(sse(chunk(content=NOTICE)))


def test_an_endpoint_whose_texts_are_not_known_is_never_doubted() -> None:
    """A transcription may say anything."""
    body = sse({"type": "transcript.text.done", "text": NOTICE})
    assert hear(body, ask("audio"), quirks=QUIRKS).out == body
    delta = sse({"type": "transcript.text.delta", "delta": NOTICE[:3]})
    assert feed(start(ask("audio"), quirks=QUIRKS), delta) == delta


@pytest.mark.parametrize("end", [CUT, RESET, CLEAN], ids=["cut", "reset", "clean"])
def test_a_cut_inside_a_notice_is_a_cut(end: Any) -> None:
    """Nothing was given, so the client hears nothing of it."""
    heard = hear(sse(ROLE, chunk(content=NOTICE[:9])), end=end, quirks=QUIRKS)
    assert (heard.out, isinstance(heard.command, Open)) == (b"", True)
    last = hear(
        sse(ROLE, chunk(content=NOTICE[:9])),
        end=end,
        quirks=QUIRKS,
        max_attempts=1,
        committed=True,
    )
    (only,) = payloads(last.out)
    assert only["error"]["code"] == "stream_incomplete"


@pytest.mark.parametrize("family", ["chat", "responses"])
def test_an_error_while_in_doubt_is_told_in_its_own_words(family: str) -> None:
    """Behind a 200, as the last word."""
    error = {"type": "error", "error": {"message": "Compute error.", "code": "server_error"}}
    first = sse(ROLE if family == "chat" else CREATED)
    heard = hear(first + sse(error), ask(family), quirks=QUIRKS, max_attempts=1, committed=True)
    assert payloads(heard.out)[0]["error"]["message"] == "Compute error."
    assert heard.facts == [(Fault.IN_STREAM_ERROR, Phase.BEFORE_CONTENT, SURFACED)]


class Joined(Identity):
    """Joins to content, as far as anybody can see."""

    kind = "replay"


def test_what_is_joined_to_content_that_was_given_is_not_doubted() -> None:
    """It is compared with that; what stands behind openers alone is doubted as any other."""
    attempts = [
        Attempt(ask(), Policy(), pytest.fail, splice(ChatSeam([])), QUIRKS)
        for splice in (Joined, Identity)
    ]
    joined, behind_openers = (attempt.feed(chat(NOTICE)) for attempt in attempts)
    assert joined[-1].data == b"[DONE]"
    assert (behind_openers, attempts[1].fault) == ([], Fault.IN_STREAM_ERROR)


def test_a_half_of_a_notice_that_is_finished_is_an_answer() -> None:
    """With or without its end mark, it is given when nothing more can come."""
    body = chat(*NOTICE[:-1], end=b"")
    heard = hear(body, quirks=QUIRKS)
    assert (heard.out, heard.facts, heard.repairs) == (body + DONE, [], {"added_done": 1})


def test_a_fallback_has_quirks_of_its_own() -> None:
    """What the primary says of overload, another may mean."""
    other = Fallback(("*",), (Target("spare"),))
    session = start(quirks=QUIRKS, max_attempts=1, fallbacks=(other,))
    feed(session, chat(NOTICE))
    fail(session, CLEAN)
    assert feed(session, chat(NOTICE)) == chat(NOTICE)


# --- an answer without content ---

NOTHING: dict[str, tuple[str, bytes]] = {
    "chat": ("chat", chat()),
    "chat without [DONE]": ("chat", chat(end=b"")),
    "empty deltas": ("chat", chat("", "")),
    "no choice at all": ("chat", sse({"choices": [], "usage": {"completion_tokens": 0}}) + DONE),
    "no finish reason": ("chat", sse(ROLE) + DONE),
    "legacy": ("completions", legacy("")),
    "response": (
        "responses",
        sse(CREATED, RUNNING, lifecycle("completed", 2, status="completed")),
    ),
}


@pytest.mark.parametrize(("family", "body"), NOTHING.values(), ids=NOTHING)
def test_an_empty_answer_is_asked_again_where_a_quirk_says_so(family: str, body: bytes) -> None:
    """Once (NOirBRight/CodexHub#43)."""
    heard = hear(body, ask(family), quirks=WANTED)
    assert (heard.out, heard.facts) == (b"", EMPTY)
    assert heard.session.report().incidents[0].detail == "it is finished and has no content"
    session = copy.deepcopy(heard.session)
    session.receive_head()
    out = feed(session, body)
    out += finish(session).body
    assert out == body.removesuffix(DONE) + (DONE if family != "responses" else b"")


@pytest.mark.parametrize(("family", "body"), NOTHING.values(), ids=NOTHING)
def test_without_the_quirk_an_empty_answer_is_an_answer(family: str, body: bytes) -> None:
    """Nothing to say is legal."""
    heard = hear(body, ask(family))
    assert isinstance(heard.command, Finish)
    assert heard.facts == []


FULL: dict[str, tuple[Request, bytes]] = {
    "content": (ask(), ANSWER),
    "a call": (ask(), sse(chunk(tool_calls=[{"index": 0, "id": "a"}]), STOP) + DONE),
    "content of one choice": (
        ask(n=2),
        sse(chunk(content="a"), STOP, chunk(index=1, finish="stop")) + DONE,
    ),
    "a limit": (ask(), sse(ROLE, chunk(finish="length")) + DONE),
    "a filter": (ask(), sse(ROLE, chunk(finish="content_filter")) + DONE),
    "a filter of one choice": (
        ask(n=2),
        sse(STOP, chunk(index=1, finish="content_filter")) + DONE,
    ),
    "a response that speaks": (ask("responses"), responses("Hi")),
    "a response whose end has no output": (
        ask("responses"),
        sse(CREATED, spoken(1), lifecycle("completed", 2, status="completed")),
    ),
    "a response with output in its end alone": (
        ask("responses"),
        sse(CREATED, lifecycle("completed", 1, status="completed", output=[{"type": "x"}])),
    ),
    "a response that is incomplete": (
        ask("responses"),
        sse(CREATED, lifecycle("incomplete", 1, status="incomplete")),
    ),
    "a run in the background": (
        ask("responses", background=True),
        sse(CREATED, lifecycle("completed", 1, status="completed")),
    ),
    "no recovery wanted": (ask(recovery=False), chat()),
    "an image": (ask("images"), sse({"type": "image_generation.completed"})),
}


@pytest.mark.parametrize(("request_", "body"), FULL.values(), ids=FULL)
def test_an_answer_that_is_not_empty_or_cannot_be_asked_again_is_given(
    request_: Request, body: bytes
) -> None:
    """A limit and a filter are an answer; a run is not made twice for nothing."""
    heard = hear(body, request_, quirks=WANTED)
    assert (heard.out, heard.facts) == (body, [])


@pytest.mark.parametrize(("family", "body"), NOTHING.values(), ids=NOTHING)
def test_an_empty_answer_is_better_than_none(family: str, body: bytes) -> None:
    """Where nobody else can be asked, it is given, and it is no fault."""
    heard = hear(body, ask(family), quirks=WANTED, max_attempts=1)
    assert heard.out == body.removesuffix(DONE) + (DONE if family != "responses" else b"")
    assert heard.facts == []
    assert heard.session.report().outcome is StreamOutcome.COMPLETE


def test_an_empty_answer_in_one_piece_is_one() -> None:
    """The same in another form; and so is a notice."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    heard = hear(raw({"choices": [choice]}), document=True, quirks=WANTED)
    assert (heard.out, heard.facts) == (b"", EMPTY)
    last = hear(raw({"choices": [choice]}), document=True, quirks=WANTED, max_attempts=1)
    assert (last.facts, last.repairs) == ([], {"json_to_sse": 1})
    assert [event["choices"][0]["finish_reason"] for event in payloads(last.out)[:-1]] == [
        *(None, None, "stop"),
    ]
    message["content"] = NOTICE
    heard = hear(raw({"choices": [choice]}), document=True, quirks=QUIRKS)
    assert (heard.out, heard.facts, heard.repairs) == (b"", OVERLOADED, {})


def test_both_doubts_may_be_had_at_once() -> None:
    """Each ends by itself."""
    both = Quirks(overload_texts=(NOTICE,), empty_answer="restart")
    assert hear(chat(*NOTICE), quirks=both).facts == OVERLOADED
    assert hear(chat(), quirks=both).facts == EMPTY
    assert hear(ANSWER, quirks=both).out == ANSWER
