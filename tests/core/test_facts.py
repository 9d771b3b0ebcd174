"""What may be asked of a session, and an answer in one piece where no stream was asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import (
    ANSWER,
    CREATED,
    CUT,
    DONE,
    HI,
    RESET,
    ROLE,
    STOP,
    ask,
    begin,
    chunk,
    feed,
    finish,
    lifecycle,
    spoken,
    sse,
    start,
)

from proxy.core.policy import Quirks
from proxy.core.request import Request
from proxy.core.session import StreamSession

AGGREGATE = Quirks(aggregate=True)
TOOL = sse({"tool": "x"}, name="hermes.tool.progress")


def folding(family: str = "chat", **fields: Any) -> StreamSession:
    """Begin a session that is to give its answer in one piece."""
    return start(ask(family, stream=False, **fields), quirks=AGGREGATE, max_attempts=1)


def in_one_piece(session: StreamSession, body: bytes) -> Any:
    """Read a stream to its end, return status and body of the reply."""
    out = feed(session, body)
    out += finish(session).body
    reply = session.fold(out)
    return reply.status, json.loads(reply.body)


# --- how it stands ---


def test_the_grammar_shows_what_is_known_of_the_attempt() -> None:
    """The edge asks it whether silence is an end."""
    session = start()
    assert not session.grammar.finished
    feed(session, sse(ROLE, HI, STOP))
    assert session.grammar.finished
    assert (session.grammar.events, session.data_events) == (3, 3)


def test_events_of_another_language_are_a_sign_of_life() -> None:
    """They are no part of the answer, but the upstream is not silent."""
    session = start()
    feed(session, TOOL + sse(ROLE) + b": ping\n\n" + TOOL)
    assert (session.grammar.events, session.data_events) == (1, 3)


def test_a_new_attempt_begins_with_nothing() -> None:
    """Its grammar is its own."""
    session = start()
    feed(session, TOOL + sse(ROLE))
    session.receive_end(RESET, 0.0)
    assert (session.grammar.events, session.data_events, session.attempts) == (0, 0, 2)


@pytest.mark.parametrize(
    ("family", "aggregate", "stream", "folds"),
    [
        ("chat", True, False, True),
        ("chat", True, True, False),
        ("chat", False, False, False),
        ("completions", True, False, True),
        ("responses", True, None, True),
        ("images", True, False, False),
        ("threads", True, False, False),
        ("other", True, False, False),
    ],
)
def test_events_become_one_object_only_by_setting_and_if_none_were_asked_for(
    family: str,
    aggregate: bool,  # noqa: FBT001 - a parameter
    stream: Any,
    folds: bool,  # noqa: FBT001 - the expectation
) -> None:
    """Where the endpoint has such a form."""
    session = begin(ask(family, stream=stream), quirks=Quirks(aggregate=aggregate))
    assert session.folds is folds


# --- in one piece ---


def test_a_whole_chat_in_one_piece_is_the_answer() -> None:
    """As from a server that was not asked for a stream."""
    usage = {**HI, "choices": [], "usage": {"total_tokens": 2}}
    status, whole = in_one_piece(folding(), sse(ROLE, HI, STOP, usage) + DONE)
    message = {"role": "assistant", "content": "Hi"}
    assert status == 200
    assert whole == {
        "id": "chatcmpl-1",
        "created": 1,
        "model": "m",
        "usage": {"total_tokens": 2},
        "object": None,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }


def test_a_whole_response_in_one_piece_is_the_response() -> None:
    """As its last event has it."""
    last = lifecycle("completed", 2, status="completed", output=[{"type": "message"}])
    status, whole = in_one_piece(folding("responses"), sse(CREATED, spoken(1), last))
    assert (status, whole) == (200, last["response"])


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (sse(ROLE, HI), 502, "stream_incomplete"),
        (sse(ROLE, HI, {"error": {"message": "m", "code": "invalid_prompt"}}), 400, None),
        (sse(ROLE, HI, {"error": {"message": "m", "code": "slow_down"}}) + DONE, 503, "slow_down"),
        (sse(ROLE, HI, "hello") + DONE, 502, "stream_incomplete"),
    ],
)
def test_a_stream_that_broke_is_its_error_and_never_half_an_answer(
    body: bytes, status: int, code: str | None
) -> None:
    """With the status that it stands for."""
    found, whole = in_one_piece(folding(), body)
    assert found == status
    assert set(whole) == {"error"}
    assert code in {None, whole["error"]["code"]}


def test_a_response_that_broke_is_its_error() -> None:
    """Told by its last event."""
    session = folding("responses")
    out = feed(session, sse(CREATED, spoken(1)))
    out += finish(session, CUT).body
    reply = session.fold(out)
    assert reply.status == 502
    assert json.loads(reply.body)["error"]["message"].startswith("The upstream's connection closed")


@pytest.mark.parametrize("last", [{"type": "response.completed"}, {"type": "response.incomplete"}])
def test_a_stream_that_does_not_add_up_is_no_success(last: Any) -> None:
    """Its end has no response in it; an empty 200 would claim one."""
    status, whole = in_one_piece(folding("responses"), sse(CREATED, last))
    assert (status, whole["error"]["code"]) == (502, "stream_incomplete")


@pytest.mark.parametrize("data", ["[1,2]", "5", "{}", '{"choices":[]}', '{"usage":{"a":1}}'])
def test_a_stream_without_a_choice_is_no_success(data: str) -> None:
    """There is no answer in it."""
    status, whole = in_one_piece(folding(), sse(data) + DONE)
    assert (status, whole["error"]["code"]) == (502, "stream_incomplete")


def test_calls_that_cannot_be_told_apart_are_no_success() -> None:
    """Glued arguments would be run."""
    calls = [{"index": 0, "id": name, "function": {"arguments": "{}"}} for name in "ab"]
    parts = [chunk(tool_calls=[call]) for call in calls]
    status, whole = in_one_piece(folding(), sse(*parts, chunk(finish="tool_calls")) + DONE)
    assert (status, whole["error"]["code"]) == (502, "stream_incomplete")


@pytest.mark.parametrize(
    ("number", "value"),
    [("1e999", 1.7976931348623157e308), ("-1e999", -1.7976931348623157e308), ("NaN", None)],
)
@pytest.mark.parametrize("family", ["chat", "responses"])
def test_numbers_that_json_has_none_for_do_not_spoil_the_object(
    family: str, number: str, value: float | None
) -> None:
    """What is written anew is JSON."""
    body = sse('{"choices":[{"delta":{"content":"a"},"x":0}]}'.replace("0", number), STOP) + DONE
    if family == "responses":
        last = '{"type":"response.completed","response":{"output":[],"x":0}}'
        body = sse(CREATED, last.replace("0", number))
    session = folding(family)
    out = feed(session, body) + finish(session).body
    reply = session.fold(out)
    found = json.loads(reply.body, parse_constant=pytest.fail)
    found = found if family == "responses" else found["choices"][0]
    assert (reply.status, found["x"]) == (200, value)


@pytest.mark.parametrize("depth", [500, 900, *range(975, 992)])
def test_a_stream_nested_however_deeply_raises_nothing(depth: int) -> None:
    """Added up, or an error."""
    nest = "[" * depth + "]" * depth
    data = f'{{"choices":[{{"index":0,"delta":{{"content":"a","x":{nest}}}}}]}}'
    session = folding()
    out = feed(session, sse(data, data, STOP) + DONE)
    finish(session)
    assert session.fold(out).status in {200, 502}


def test_what_was_repaired_on_the_way_is_in_the_object() -> None:
    """The same events, in another form."""
    call = [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}]
    quirks = Quirks(aggregate=True, tool_arguments="length")
    session = start(ask(stream=False), quirks=quirks)
    body = sse(ROLE, chunk(tool_calls=call), chunk(finish="tool_calls"), name="chunk") + DONE
    _, whole = in_one_piece(session, body)
    assert whole["choices"][0]["finish_reason"] == "length"


def test_an_upload_may_be_answered_in_one_piece_as_well() -> None:
    """Where its form says no stream."""
    request = Request("POST", "/chat/completions", None, form={"stream": "false"})
    session = start(request, quirks=AGGREGATE)
    assert session.folds
    assert in_one_piece(session, ANSWER)[0] == 200
