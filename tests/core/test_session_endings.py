"""The session: honest endings, each in its endpoint's words, and never more than one."""

from __future__ import annotations

from typing import Any

import pytest
from support import (
    ANSWER,
    CLEAN,
    CREATED,
    CUT,
    DONE,
    HI,
    RESET,
    ROLE,
    RUNNING,
    STOP,
    ask,
    begin,
    chunk,
    facts,
    fail,
    feed,
    finish,
    payloads,
    spoken,
    sse,
    start,
    told,
)

from proxy.core.commands import Finish, Open, internal_error, shutdown_error
from proxy.core.errors import UpstreamError
from proxy.core.fault import AttemptEnd, Fault, IncidentOutcome, Phase, StreamOutcome
from proxy.core.policy import Target
from proxy.core.request import Request
from proxy.core.states import State

# --- honest endings after content ---


@pytest.mark.parametrize(
    ("family", "first"),
    [
        ("chat", HI),
        ("completions", {"choices": [{"index": 0, "text": "Hi"}]}),
        ("images", {"type": "image_generation.partial_image"}),
        ("audio", {"type": "speech.audio.delta"}),
        ("other", {"any": 1}),
    ],
)
def test_after_content_a_cut_ends_with_one_error_event(family: str, first: Any) -> None:
    """The contract's object, no [DONE], whatever the endpoint."""
    session = start(ask(family))
    feed(session, sse(first), b'data: {"half')
    (error,) = payloads(finish(session, RESET).body)
    assert set(error) == {"error"}
    message = error["error"].pop("message")
    assert error["error"] == {
        "type": "upstream_error",
        "param": None,
        "code": "stream_incomplete",
        "retryable": True,
    }
    assert message.startswith("The upstream reset the connection. The 1 event before")
    assert message.endswith("[reset]")
    assert facts(session) == [(Fault.RESET, Phase.MID_CONTENT, IncidentOutcome.SURFACED)]
    assert session.report().outcome is StreamOutcome.FAILED


def test_a_thread_hears_its_error_by_name() -> None:
    """``event: error``, as its SDKs expect."""
    session = start(ask("threads"))
    feed(session, sse({"object": "thread.run"}, name="thread.run.created"))
    assert finish(session, RESET).body.startswith(b'event: error\ndata: {"error":{"message":')


def test_a_response_hears_error_and_failed() -> None:
    """Next numbers, original id; never completed."""
    session = start(ask("responses"))
    feed(session, sse(CREATED, RUNNING, spoken(2)))
    end = finish(session, CUT)
    assert end.body.startswith(b"event: error\n")
    assert b"\n\nevent: response.failed\n" in end.body
    error, failed = payloads(end.body)
    assert (error["sequence_number"], failed["sequence_number"]) == (3, 4)
    assert error["error"]["code"] == error["code"] == "stream_incomplete"
    assert failed["response"]["id"] == "resp_1"
    assert failed["response"]["status"] == "failed"


def test_the_edges_detail_is_told() -> None:
    """Next to the plain sentence, in the event and in the incident."""
    session = start()
    feed(session, sse(HI))
    end = finish(session, AttemptEnd(Fault.STALL, age_s=301.5, detail="silent for 300 s"))
    assert "(silent for 300 s)" in payloads(end.body)[0]["error"]["message"]
    (incident,) = session.report().incidents
    assert (incident.age_s, incident.detail) == (301.5, "silent for 300 s")


def test_an_error_before_any_event_says_that_nothing_was_received() -> None:
    """A 200 may be out without a single event."""
    session = start(max_attempts=1)
    session.commit_by_time()
    error = payloads(finish(session).body)[0]["error"]
    assert "No part of the answer was received" in error["message"]


def test_a_native_error_after_content_passes_as_it_came() -> None:
    """And the [DONE] behind it does not."""
    session = start()
    given = feed(session, sse(HI))
    native = b'data: {"error": {"message":"m", "code":"c"}}\n\n'
    assert feed(session, native + DONE) == b""
    assert session.settled
    assert finish(session).body == native
    assert given == sse(HI)
    assert facts(session) == [(Fault.IN_STREAM_ERROR, Phase.MID_CONTENT, IncidentOutcome.SURFACED)]


def test_an_error_in_a_form_of_its_own_is_told_in_the_endpoints() -> None:
    """Message kept, shape normalised."""
    session = start()
    feed(session, sse(HI, {"error": "STREAM_EXPLODED"}) + DONE)
    error = payloads(finish(session).body)[0]["error"]
    assert (error["message"], error["code"]) == ("STREAM_EXPLODED", "stream_incomplete")


def test_a_deterministic_error_after_content_is_not_called_retryable() -> None:
    """The same request would fail again."""
    session = start(ask("responses"))
    told_flat = {"type": "error", "code": "invalid_prompt", "message": "m"}
    feed(session, sse(CREATED, spoken(1), told_flat))
    error = payloads(finish(session).body)[0]["error"]
    assert "retryable" not in error
    assert error["code"] == "invalid_prompt"


# --- errors told inside a stream before content ---


@pytest.mark.parametrize(
    ("code", "status"),
    [("context_length_exceeded", 400), ("invalid_api_key", 401), ("insufficient_quota", 429)],
)
def test_a_deterministic_error_first_becomes_the_real_status(code: str, status: int) -> None:
    """Repeating it would be a bug of its own (vllm-project/vllm#27194)."""
    session = start()
    feed(session, sse(ROLE, {"error": {"message": "m", "code": code}}) + DONE)
    end = finish(session)
    assert end.reply is not None
    assert (end.reply.status, told(end)["code"]) == (status, code)
    assert end.body == b""


def test_a_transient_error_first_is_restarted() -> None:
    """Overload passes."""
    session = start()
    feed(session, sse({"error": {"message": "m", "code": "server_is_overloaded"}}) + DONE)
    fail(session)
    assert feed(session, ANSWER) == ANSWER


def test_a_transient_error_that_stays_becomes_a_reply_with_a_time() -> None:
    """503 and Retry-After, once the attempts are spent."""
    session = start(max_attempts=1)
    feed(session, sse({"error": {"message": "m", "type": "overloaded_error"}}))
    end = finish(session)
    assert end.reply is not None
    assert (end.reply.status, end.reply.retry_after_s) == (503, 1)
    assert not end.reply.should_retry


# --- failures before anything was sent ---


@pytest.mark.parametrize(
    ("fault", "head", "status", "code"),
    [
        (Fault.CONNECT_ERROR, False, 502, "upstream_unreachable"),
        (Fault.RESET, False, 502, "upstream_unreachable"),
        (Fault.RESET, True, 502, "stream_incomplete"),
        (Fault.CUT_BETWEEN_EVENTS, True, 502, "stream_incomplete"),
        (Fault.MALFORMED_EVENT, True, 502, "stream_incomplete"),
        (Fault.FIRST_EVENT_TIMEOUT, False, 504, "upstream_timeout"),
        (Fault.STALL, True, 504, "upstream_timeout"),
        (None, True, 502, "empty_stream"),
    ],
)
def test_a_failure_before_anything_was_sent_is_a_real_status(
    fault: Fault | None,
    head: bool,  # noqa: FBT001
    status: int,
    code: str,
) -> None:
    """In OpenAI's shape, not to be retried: the proxy has done that."""
    session = start(max_attempts=1) if head else begin(max_attempts=1)
    end = finish(session, AttemptEnd(fault, detail="d"))
    assert end.reply is not None
    assert (end.reply.status, end.reply.should_retry) == (status, False)
    error = told(end)
    assert (error["type"], error["param"], error["code"]) == ("upstream_error", None, code)
    assert "(d). 1 attempt was made." in error["message"]


def test_the_reply_says_how_many_attempts_were_made() -> None:
    """So that nobody adds retries on top unknowingly."""
    session = start(max_attempts=2)
    fail(session)
    assert "2 attempts were made" in told(finish(session, RESET))["message"]


# --- error statuses of the upstream ---


def status(code: int, body: bytes = b"", **fields: Any) -> AttemptEnd:
    """Return the end of an attempt that was answered with an error status."""
    return AttemptEnd(Fault.HTTP_STATUS, status=code, body=body, **fields)


@pytest.mark.parametrize("code", [400, 401, 404, 422])
def test_the_requests_own_fault_is_passed_on_and_no_incident(code: int) -> None:
    """The upstream's reply is the answer."""
    session = begin()
    assert finish(session, status(code)) == Finish(pass_on=True)
    assert session.report().incidents == ()
    assert session.report().outcome is StreamOutcome.FAILED


def test_a_retryable_status_is_retried_and_then_passed_on() -> None:
    """With its own wait in between."""
    session = begin(max_attempts=2)
    again = Open(ask(), Target(), floor_s=2.0, spread_s=0.5)
    assert session.receive_end(status(503, retry_after_s=2.0), 0.0) == again
    assert finish(session, status(503)) == Finish(pass_on=True)
    outcomes = [IncidentOutcome.RESTARTED, IncidentOutcome.SURFACED]
    expected = [(Fault.HTTP_STATUS, Phase.BEFORE_HEADERS, outcome) for outcome in outcomes]
    assert facts(session) == expected
    assert [i.status for i in session.report().incidents] == [503, 503]


def test_a_wait_that_is_too_long_is_the_clients() -> None:
    """The reply goes on unchanged, Retry-After with it."""
    assert finish(begin(), status(429, retry_after_s=3600.0)) == Finish(pass_on=True)


def test_a_spent_quota_is_not_retried() -> None:
    """A 429 that will not pass."""
    session = begin()
    body = b'{"error":{"code":"insufficient_quota","message":"m"}}'
    assert finish(session, status(429, body)) == Finish(pass_on=True)


def test_a_refusal_after_a_restart_is_passed_on_and_closes_the_recovery() -> None:
    """Every restart has a result."""
    session = start()
    fail(session)
    assert finish(session, status(400)) == Finish(pass_on=True)
    assert session.report().recoveries == (("restart", "failed"),)


@pytest.mark.parametrize(("code", "retryable"), [(400, False), (503, True)])
def test_an_error_status_after_the_commit_is_told_in_the_stream(
    code: int,
    retryable: bool,  # noqa: FBT001
) -> None:
    """A 200 is out, so the body of the reply must never follow it as stream data."""
    session = begin(max_attempts=1)
    session.commit_by_time()
    end = finish(session, status(code, b'{"error":{"message":"m","code":"c"}}'))
    assert not end.pass_on
    error = payloads(end.body)[0]["error"]
    assert (error["message"], error.get("retryable", False)) == ("m", retryable)


# --- complete without a mark, late faults ---


@pytest.mark.parametrize("end", [CLEAN, CUT, RESET])
def test_a_finished_chat_that_lacks_done_gets_it(end: AttemptEnd) -> None:
    """Every choice has its finish_reason: it is complete, however it ended."""
    session = start()
    given = feed(session, sse(ROLE, HI, STOP)) + finish(session, end).body
    assert given == ANSWER
    report = session.report()
    assert (report.outcome, report.repairs) == (StreamOutcome.COMPLETE, {"added_done": 1})
    repaired = (end.fault, Phase.AFTER_TERMINAL, IncidentOutcome.REPAIRED)
    assert facts(session) == ([repaired] if end.fault else [])


def test_a_clean_end_inside_an_event_after_the_finish_is_counted() -> None:
    """The usage chunk was cut: the answer is whole, the fault is one all the same."""
    session = start()
    given = feed(session, sse(ROLE, HI, STOP) + b'data: {"usage":{"tot') + finish(session).body
    assert given == ANSWER
    repaired = (Fault.CUT_MID_EVENT, Phase.AFTER_TERMINAL, IncidentOutcome.REPAIRED)
    assert facts(session) == [repaired]


def test_done_is_not_added_while_a_choice_is_open() -> None:
    """Law 4."""
    session = start(ask(n=2))
    feed(session, sse(HI, STOP))
    end = finish(session)
    assert "error" in payloads(end.body)[0]
    assert session.report().repairs == {}


def test_done_behind_an_open_choice_is_not_passed() -> None:
    """A gateway's own [DONE] must not hide a cut (router-for-me/CLIProxyAPI#4884)."""
    session = start(ask(n=2))
    feed(session, sse(HI, STOP) + DONE)
    assert "error" in payloads(finish(session).body)[0]
    assert facts(session)[0][0] is Fault.CLEAN_EOF


def test_done_alone_is_an_empty_stream() -> None:
    """It is restarted, then told."""
    session = start(max_attempts=1)
    feed(session, DONE)
    assert told(finish(session))["code"] == "empty_stream"


@pytest.mark.parametrize("end", [RESET, CUT])
def test_a_fault_after_the_terminal_is_swallowed_and_counted(end: AttemptEnd) -> None:
    """The client has everything."""
    session = start()
    feed(session, ANSWER)
    assert finish(session, end) == Finish()
    assert facts(session) == [(end.fault, Phase.AFTER_TERMINAL, IncidentOutcome.SWALLOWED)]
    assert session.report().outcome is StreamOutcome.COMPLETE


@pytest.mark.parametrize("end", [CLEAN, CUT, RESET])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_terminal_event_that_lacks_its_blank_line_is_given(end: AttemptEnd, missing: int) -> None:
    """It parses, so it is whole (openai/openai-node#2725)."""
    session = start()
    given = feed(session, ANSWER[:-missing]) + finish(session, end).body
    assert given == ANSWER
    assert session.report().repairs == {"closed_final_event": 1}
    fault = Fault.CUT_MID_EVENT if end is CUT else end.fault
    swallowed = (fault, Phase.AFTER_TERMINAL, IncidentOutcome.SWALLOWED)
    assert facts(session) == ([swallowed] if fault else [])


# --- ends that are not the upstream's ---


def test_a_client_that_leaves_is_no_failure() -> None:
    """Its outcome says so, and no incident is made of it."""
    session = start()
    feed(session, sse(HI))
    session.abandon()
    report = session.report()
    assert (report.outcome, report.incidents) == (StreamOutcome.CLIENT_CLOSED, ())
    assert session.state is not State.FAILED


def test_a_client_that_leaves_after_the_end_changes_nothing() -> None:
    """It got everything."""
    session = start()
    feed(session, ANSWER)
    session.abandon()
    assert session.report().outcome is StreamOutcome.COMPLETE


def test_an_abort_before_the_commit_is_a_status_worth_a_retry() -> None:
    """Another process will take it."""
    session = start()
    feed(session, sse(ROLE))
    end = session.abort(shutdown_error())
    assert session.state is State.FAILED
    assert end.reply is not None
    assert (end.reply.status, end.reply.should_retry, end.reply.retry_after_s) == (503, True, 1)
    assert told(end)["code"] == "overloaded"
    assert session.report().outcome is StreamOutcome.ABORTED


@pytest.mark.parametrize("error", [shutdown_error(), internal_error()])
def test_an_abort_after_the_commit_is_loud(error: UpstreamError) -> None:
    """Never a bare clean end."""
    session = start(ask("responses", store=False))
    feed(session, sse(CREATED, spoken(1)))
    first, second = payloads(session.abort(error).body)
    assert (first["message"], first["sequence_number"]) == (error.message, 2)
    assert second["type"] == "response.failed"
    assert session.abort(error) == Finish()


def test_an_abort_while_joining_gives_what_was_held() -> None:
    """The numbers stay without a gap."""
    session = start(ask("responses", store=False))
    feed(session, sse(CREATED))
    session.commit_by_time()
    fail(session)
    feed(session, sse(CREATED, RUNNING))
    numbers = [e["sequence_number"] for e in payloads(session.abort(shutdown_error()).body)]
    assert numbers == [1, 2, 3]


def test_an_abort_after_the_end_says_nothing() -> None:
    """One ending is enough."""
    session = start()
    feed(session, ANSWER)
    assert session.abort(shutdown_error()) == Finish()
    assert session.report().outcome is StreamOutcome.COMPLETE


@pytest.mark.parametrize(
    ("end", "outcome", "count"),
    [(CLEAN, StreamOutcome.COMPLETE, 0), (RESET, StreamOutcome.FAILED, 1)],
)
def test_an_answer_that_was_no_stream_is_noted(
    end: AttemptEnd, outcome: StreamOutcome, count: int
) -> None:
    """It went to the client as it was, whole or not."""
    session = begin()
    session.passed_on(end, 0.0)
    assert session.report().outcome is outcome
    assert len(session.incidents) == count
    session.passed_on(CLEAN, 0.0)
    assert session.report().outcome is outcome


def test_a_broken_event_behind_a_finished_answer_is_as_good_as_none() -> None:
    """Every choice has its finish_reason: the end mark is added and the incident counted."""
    session = start()
    feed(session, sse(HI, chunk(finish="stop")), b"data: not json\n\n")
    assert finish(session).body == b"data: [DONE]\n\n"
    (incident,) = session.incidents
    assert (incident.fault, incident.phase) == (Fault.MALFORMED_EVENT, Phase.AFTER_TERMINAL)
    assert session.report().outcome is StreamOutcome.COMPLETE


def test_an_error_that_lacks_only_its_blank_line_is_still_told_after_a_reset() -> None:
    """The upstream's own word says more than the reset behind it."""
    session = start(max_attempts=1)
    feed(session, sse(HI), sse({"error": {"message": "gone", "code": "server_error"}})[:-1])
    (error,) = payloads(finish(session, RESET).body)
    assert error["error"]["message"] == "gone"
    (incident,) = session.incidents
    assert incident.fault is Fault.IN_STREAM_ERROR


def test_a_reattached_stream_that_never_spoke_is_numbered_from_its_cursor() -> None:
    """The error takes the number after ``starting_after``."""
    target = "/responses/resp_1?stream=true&starting_after=41"
    session = start(Request("GET", target), max_attempts=1)
    session.commit_by_time()
    error, _ = payloads(finish(session, RESET).body)
    assert error["sequence_number"] == 42


def test_no_event_is_named_by_what_its_data_says_of_line_ends() -> None:
    """A type with a line end in it would begin a new field."""
    evil = b'event: a\ndata: {"type":"x\\ndata: EVIL\\nid: 7"} {"type":"b.c"}\n\n'
    given = feed(start(ask("other")), evil)
    assert [event for event in given.split(b"\n\n") if event] == [
        b'data: {"type":"x\\ndata: EVIL\\nid: 7"}',
        b'event: b.c\ndata: {"type":"b.c"}',
    ]


@pytest.mark.parametrize("family", ["chat", "responses", "images", "other"])
def test_json_too_deep_to_decode_must_at_least_be_closed(family: str) -> None:
    """Closed, it passes unchanged; left open, it is no JSON."""
    deep = b'{"text":"[\\"{","x":' + b"[" * 30_000
    whole = deep + b"]" * 30_000 + b"}"
    assert b"data: " + whole + b"\n\n" in feed(start(ask(family)), b"data: " + whole + b"\n\n")
    session = start(ask(family), max_attempts=1)
    assert feed(session, b"data: " + deep + b"\n\n") == b""
    finish(session)
    assert session.incidents[-1].fault is Fault.MALFORMED_EVENT


def test_a_body_cut_behind_an_error_status_is_no_second_incident() -> None:
    """The attempt is counted once, as what it was first."""
    session = start(max_attempts=1)
    assert finish(session, AttemptEnd(Fault.HTTP_STATUS, status=500)).pass_on
    session.passed_on(AttemptEnd(Fault.CUT_BETWEEN_EVENTS, status=500), 0.0)
    assert [incident.fault for incident in session.incidents] == [Fault.HTTP_STATUS]
