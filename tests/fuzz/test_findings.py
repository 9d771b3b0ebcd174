"""What fuzzing found: each a small case of its own, and what must come of it."""

from __future__ import annotations

import json
import sys
from types import FrameType

import pytest
from splices import ALWAYS, Heard, broken, called, encode, renamed, run, said
from support import (
    CLEAN,
    DONE,
    FAMILIES,
    RESET,
    ask,
    facts,
    feed,
    finish,
    payloads,
    sse,
    start,
    told,
)

from proxy.core.commands import Open
from proxy.core.fault import Fault, IncidentOutcome, Phase, StreamOutcome
from proxy.core.policy import Quirks
from proxy.core.request import Request
from proxy.headers import to_client, to_upstream

NOTICE = "The harbour is full."
OOPS = b"data: {oops}\n\n"


def test_a_request_body_that_is_not_utf8_is_looked_at() -> None:
    """The strict decoder has an exception of its own for that, and it is no MsgspecError."""
    request = Request("POST", "/chat/completions", b'{"stream":true,"model":"\xff"}')
    assert request.choices == 1
    assert request.model in {"", "\ufffd"}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_event_in_bad_utf8_behind_half_a_one_is_no_exception(family: str) -> None:
    """It is looked at before it is mended, to see whether it is an error."""
    session = start(ask(family), max_attempts=1)
    feed(session, b'data: {"a":\n\n', b'data: {"type":"\xff"}\n\n')
    session.receive_end(CLEAN, 0.0)
    assert [incident.fault for incident in session.report().incidents] == [Fault.MALFORMED_EVENT]


def test_what_waits_for_a_notice_is_given_where_a_broken_event_follows_the_answer() -> None:
    """The answer is finished, and all of it is given before the end mark that it lacks."""
    session = start(quirks=Quirks(overload_texts=(NOTICE,)))
    chunks = [said(role="assistant", content="The har"), said(finish="stop")]
    out = feed(session, sse(*chunks), OOPS)
    out += finish(session).body
    assert payloads(out) == [*chunks, "[DONE]"]
    assert facts(session) == [
        (Fault.MALFORMED_EVENT, Phase.AFTER_TERMINAL, IncidentOutcome.REPAIRED)
    ]


def test_a_notice_is_one_where_a_broken_event_follows_it() -> None:
    """It stays an error: what comes behind it makes it no answer."""
    session = start(quirks=Quirks(overload_texts=(NOTICE,)), max_attempts=1)
    out = feed(session, sse(said(role="assistant", content=NOTICE), said(finish="stop")), OOPS)
    command = session.receive_end(CLEAN, 0.0)
    assert not isinstance(command, Open)
    assert out == command.body == b""
    assert told(command)["message"] == NOTICE
    assert session.report().outcome is StreamOutcome.FAILED


def test_what_waits_for_a_notice_is_given_where_an_empty_answer_is_believed() -> None:
    """Nobody else can be asked, so the answer is given, with its chunks and not by [DONE] alone."""
    session = start(max_attempts=1, quirks=Quirks(overload_texts=(NOTICE,), empty_answer="restart"))
    chunks = [said(role="assistant", content=""), said(finish="stop")]
    out = feed(session, sse(*chunks), DONE)
    out += finish(session).body
    assert payloads(out) == [*chunks, "[DONE]"]


def test_a_cut_behind_an_empty_answer_that_is_believed_is_an_incident() -> None:
    """The end came late, but it came."""
    session = start(max_attempts=1, quirks=Quirks(empty_answer="restart"))
    feed(session, sse(said(role="assistant", content=""), said(finish="stop")))
    finish(session, RESET)
    assert facts(session) == [(Fault.RESET, Phase.AFTER_TERMINAL, IncidentOutcome.SWALLOWED)]


def test_a_reason_or_an_error_that_is_zero_is_none() -> None:
    """Programs say ``"error":0`` of what went well; no SDK raises on it."""
    session = start()
    chunks = [{**said(content="Hi"), "error": 0}, {**said(finish="stop"), "error": []}]
    assert payloads(feed(session, sse(*chunks), DONE)) == [*chunks, "[DONE]"]


def test_a_choice_that_only_the_first_answer_opened_is_not_left_open_behind_an_end_mark() -> None:
    """The second answer says nothing of it, so it is another one."""
    opened = [said(role="assistant", content="Hi"), said(1, role="assistant", content="")]
    first, second = encode(opened).removesuffix(DONE), encode([opened[0], said(finish="stop")])
    made = run(ask(), ALWAYS, broken(first, len(first)), second)
    assert made.recoveries == [("replay", "mismatch")]
    assert made.outcome == "failed"


def test_a_call_without_an_index_keeps_its_place_where_the_one_before_it_was_given() -> None:
    """Its place in the list is its index: without the first, the second would be the first."""
    calls = [called(0, "{}", "tide"), called(1, "{}", "wind")]
    first = encode([said(role="assistant", content=None), calls[0]]).removesuffix(DONE)
    parts = [chunk["choices"][0]["delta"]["tool_calls"][0] for chunk in calls]
    both = [{key: part[key] for key in part if key != "index"} for part in parts]
    lump = said(role="assistant", content=None, tool_calls=both)
    second = encode([renamed(lump, "x"), said(finish="tool_calls")])
    made = run(ask(), ALWAYS, broken(first, len(first)), second)
    texts = Heard(made.out).texts
    assert made.outcome == "recovered"
    assert (texts[0, 0, "name"], texts[0, 1, "name"]) == ("tide", "wind")


def test_a_raw_line_end_behind_a_backslash_is_not_escaped() -> None:
    """The backslash would be escaped by that, and a text be made up of what was none."""
    session = start(max_attempts=1)
    feed(session, b'data: {"choices":[{"delta":{"content":"a\x01b\\\ndata: c"}}]}\n\n')
    session.receive_end(CLEAN, 0.0)
    assert [incident.fault for incident in session.report().incidents] == [Fault.MALFORMED_EVENT]


def test_a_header_whose_name_has_an_underscore_crosses() -> None:
    """It is a letter like any other in a name (RFC 9110, 5.6.2)."""
    sent = [("X_Trace_Id", "15"), ("x-plain", "1")]
    assert to_upstream(sent, via="1.1 a", stream=False)["X_Trace_Id"] == "15"
    assert to_client(sent, stream=True)["X_Trace_Id"] == "15"
    assert json.dumps(dict(to_client(sent, stream=False))) == json.dumps(dict(sent))


def test_an_event_is_decoded_as_often_whether_it_has_few_choices_or_many() -> None:
    """Decoding it for each of its choices would cost the square of its size."""
    assert decodings(500) == decodings(5)


def decodings(choices: int) -> int:
    """Count how often JSON is decoded for one event with so many choices."""
    session, count = start(), 0
    read = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}] * choices})

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        count += event == "call" and frame.f_code is json.loads.__code__

    sys.setprofile(profile)
    try:
        session.receive_data(read)
    finally:
        sys.setprofile(None)
    return count
