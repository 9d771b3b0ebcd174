"""One attempt: faults in the bytes themselves, what is kept of them, and the last bytes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from support import (
    ANSWER,
    CLEAN,
    CUT,
    HI,
    RESET,
    STOP,
    ask,
    chunk,
    cut_at,
    facts,
    fail,
    feed,
    finish,
    payloads,
    raw,
    sse,
    start,
    told,
)

from proxy.core.attempt import Attempt
from proxy.core.fault import AttemptEnd, Fault, IncidentOutcome, Phase
from proxy.core.policy import Policy
from proxy.core.sse import Event


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (sse("not json"), Fault.MALFORMED_EVENT),
        (b"data: " + b"x" * 2000, Fault.OVERSIZE_EVENT),
        (sse("x" * 2000), Fault.OVERSIZE_EVENT),
    ],
)
def test_bytes_that_are_at_fault_settle_the_attempt(bad: bytes, fault: Fault) -> None:
    """The driver stops reading and asks what follows; what came before them was given."""
    session = start(max_event_bytes=1000)
    assert feed(session, sse(HI) + bad + sse(chunk(content="late"))) == sse(HI)
    assert session.settled
    assert "error" in payloads(finish(session).body)[0]
    assert facts(session) == [(fault, Phase.MID_CONTENT, IncidentOutcome.SURFACED)]


def test_a_malformed_event_before_content_is_restarted() -> None:
    """Like a cut: a hole cannot be excluded."""
    session = start()
    feed(session, sse("<html>"))
    fail(session, CLEAN)
    assert facts(session)[0][0] is Fault.MALFORMED_EVENT


def test_an_oversize_event_is_not_asked_for_again() -> None:
    """The next one would be as large."""
    session = start(max_event_bytes=1000)
    feed(session, b"data: " + b"x" * 2000)
    assert told(finish(session))["code"] == "stream_incomplete"


def test_an_incident_keeps_the_bytes_that_could_not_be_given() -> None:
    """Where they began in the body, and so much of them that they can be recognised."""
    session = start(max_attempts=1)
    tail = b"data: {" + b"x" * 5000
    feed(session, sse(HI), tail)
    finish(session, CUT)
    (incident,) = session.incidents
    assert (incident.offset, incident.tail) == (len(sse(HI)), tail[:2048])
    assert (incident.events, incident.size) == (1, len(sse(HI)))


@pytest.mark.parametrize("after", [b"", sse(HI)], ids=["last", "with more behind it"])
@pytest.mark.parametrize(
    "bad",
    [sse("not json"), sse({"error": "m"}), b"data: " + b"x" * 1500 + b"\n\n"],
    ids=["malformed", "error", "oversize"],
)
def test_an_incident_says_where_its_bytes_began(bad: bytes, after: bytes) -> None:
    """The offset is that of the tail's first byte in the upstream's body, however it was cut."""
    body = sse(HI) + bad + after
    for place in range(len(body)):
        session = start(max_attempts=1, max_event_bytes=1000)
        for read in cut_at(body, place):
            session.receive_data(read)
        finish(session)
        (incident,) = session.incidents
        assert incident.offset == len(sse(HI)), place
        assert bad.startswith(incident.tail)
        assert len(incident.tail) > 10


# --- the last bytes of a body ---


def closed(tail: bytes, end: AttemptEnd) -> tuple[list[Event], Fault, dict[str, int]]:
    """End a body after an event and a tail; return the events of the end, its fault, repairs."""
    repairs: Counter[str] = Counter()
    attempt = Attempt(ask(), Policy(), lambda name: repairs.update([name]))
    attempt.feed(sse(HI) + tail)
    return attempt.close(end), attempt.name_fault(end), dict(repairs)


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r", b"\r\n"])
def test_a_whole_event_without_its_blank_line_is_used_after_a_clean_end(ending: bytes) -> None:
    """It is one JSON value, so nothing can be missing (openai/openai-node#2725)."""
    events, fault, repairs = closed(sse(STOP)[:-2] + ending, CLEAN)
    assert [event.encode() for event in events] == [sse(STOP)]
    assert fault is Fault.CLEAN_EOF
    assert repairs["closed_final_event"] == 1


@pytest.mark.parametrize("end", [CUT, RESET])
def test_after_a_broken_end_only_a_terminal_event_is_used(end: AttemptEnd) -> None:
    """More of the answer may have been lost behind any other."""
    events, fault, repairs = closed(sse(STOP)[:-2], end)
    assert events == []
    assert fault is (Fault.CUT_MID_EVENT if end is CUT else Fault.RESET)
    assert repairs == {}


@pytest.mark.parametrize("end", [CLEAN, CUT])
@pytest.mark.parametrize(
    "tail",
    [b"d", b"data", b"data: ", b'data: {"a":1', b"data: 5", b"data: [DON", b"id: 7", b"event: x\n"],
)
def test_anything_less_than_an_object_is_cut(tail: bytes, end: AttemptEnd) -> None:
    """A number may lack its next digit."""
    events, fault, _ = closed(tail, end)
    assert (events, fault) == ([], Fault.CUT_MID_EVENT)


@pytest.mark.parametrize("tail", [b":", b": ping", b": ping\n", b": a\n: b"])
def test_half_a_comment_is_nothing(tail: bytes) -> None:
    """The stream was cut between its events."""
    assert closed(tail, CLEAN)[:2] == ([], Fault.CLEAN_EOF)
    assert closed(tail, CUT)[:2] == ([], Fault.CUT_BETWEEN_EVENTS)


def test_an_error_without_its_blank_line_is_heard() -> None:
    """After a clean end it is an event like any other."""
    session = start(max_attempts=1)
    feed(session, b'data: {"error":{"message":"m","code":"invalid_api_key"}}')
    assert told(finish(session))["code"] == "invalid_api_key"


def test_a_body_that_ended_is_closed_once() -> None:
    """After the terminal event nothing pending is looked at."""
    attempt = Attempt(ask(), Policy(), pytest.fail)
    attempt.feed(ANSWER + b'data: {"late":1}')
    assert attempt.close(CLEAN) == []
    assert attempt.name_fault(CUT) is Fault.CUT_BETWEEN_EVENTS


# --- an answer in one piece ---


def document(body: bytes, end: AttemptEnd = CLEAN, **limits: Any) -> tuple[Attempt, list[Event]]:
    """Read an answer that is one JSON object; return its attempt and the events it tells."""
    attempt = Attempt(ask("responses"), Policy(**limits), pytest.fail)
    attempt.document = bytearray()
    for read in cut_at(body, len(body) // 2):
        assert attempt.feed(read) == []
    assert attempt.received == len(body)
    return attempt, attempt.close(end)


def finished(status: str) -> bytes:
    """Return a response as a poll returns it."""
    return raw({"id": "resp_1", "status": status, "output": [], "error": {"code": "server_error"}})


def test_a_finished_document_is_told_event_by_event() -> None:
    """As the stream would have told it, to its terminal event."""
    attempt, events = document(finished("completed"))
    assert [event.name for event in events] == [b"response.created", b"response.completed"]
    assert attempt.terminal
    assert attempt.settled


@pytest.mark.parametrize("body", [finished("in_progress"), b"", b"<html>", b"{"])
def test_a_document_that_is_not_finished_has_no_end(body: bytes) -> None:
    """It runs on, or it is none: the answer is not complete."""
    attempt, events = document(body)
    assert (events, attempt.terminal) == ([], False)
    assert attempt.name_fault(CLEAN) is Fault.CLEAN_EOF


def test_a_document_whose_body_was_cut_tells_nothing() -> None:
    """The fault is the one that the edge saw."""
    attempt, events = document(finished("completed"), RESET)
    assert (events, attempt.name_fault(RESET)) == ([], Fault.RESET)


def test_a_document_that_failed_is_an_error_of_the_upstream() -> None:
    """Nothing of it is given: it is known whole before its first event is told."""
    attempt, events = document(finished("failed"))
    assert (events, attempt.error_event) == ([], None)
    assert attempt.name_fault(CLEAN) is Fault.IN_STREAM_ERROR
    assert attempt.grammar.error is not None


def test_a_document_larger_than_an_event_may_be_is_not_kept() -> None:
    """Memory has a bound there as well."""
    attempt, events = document(finished("completed"), max_event_bytes=20)
    assert events == []
    assert attempt.settled
    assert attempt.name_fault(CLEAN) is Fault.OVERSIZE_EVENT
