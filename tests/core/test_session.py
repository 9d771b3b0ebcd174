"""The session: holding, commit, and restarts that the client cannot see."""

from __future__ import annotations

from dataclasses import replace

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
    lifecycle,
    payloads,
    spoken,
    sse,
    start,
    told,
)

from proxy.core.budget import RetryBudget
from proxy.core.commands import Finish, Open
from proxy.core.fault import AttemptEnd, Fault, IncidentOutcome, Phase, StreamOutcome
from proxy.core.policy import Target
from proxy.core.states import State

RESPONSE = sse(CREATED, RUNNING, spoken(2), lifecycle("completed", 3))

TOLD_BY_THE_EDGE = [
    Fault.CONNECT_ERROR,
    Fault.RESET,
    Fault.CUT_BETWEEN_EVENTS,
    Fault.STALL,
    Fault.FIRST_EVENT_TIMEOUT,
    Fault.MALFORMED_EVENT,
]


AGAIN = Open(ask(), Target())
"""The same request to the same target at once."""


# --- holding and commit ---


def test_openers_are_held_until_content_comes() -> None:
    """Then they go out in their order, with the content and nothing changed."""
    session = start()
    assert feed(session, sse(ROLE)) == b""
    assert not session.answered
    assert feed(session, sse(HI)) == sse(ROLE, HI)
    assert session.answered
    assert session.state is State.STREAMING


def test_after_the_commit_every_read_gives_its_events_at_once() -> None:
    """Half an event gives nothing, its other half gives it whole."""
    session = start()
    feed(session, sse(HI))
    event = sse(chunk(content="🐳"))
    assert feed(session, event[:-20]) == b""
    assert feed(session, event[-20:]) == event
    assert feed(session, sse(chunk())) == sse(chunk())


def test_the_terminal_event_ends_the_reading() -> None:
    """Whatever the upstream does after it is not the client's trouble."""
    session = start()
    assert feed(session, ANSWER + sse({"error": {"message": "late"}})) == ANSWER
    assert session.settled
    assert feed(session, sse(HI)) == b""
    assert finish(session) == Finish()
    assert session.state is State.COMPLETE


def test_an_answer_without_any_content_is_given_with_its_terminal() -> None:
    """All tokens may go to hidden reasoning."""
    session = start()
    body = sse(ROLE, STOP) + DONE
    assert feed(session, body) == body
    assert not session.report().incidents


@pytest.mark.parametrize("family", ["images", "threads", "other"])
def test_where_nothing_is_known_nothing_is_held(family: str) -> None:
    """The first event commits."""
    assert feed(start(ask(family)), sse({"any": 1})) == sse({"any": 1})


def test_the_commit_by_time_gives_what_was_held() -> None:
    """From then on openers go out as they come."""
    session = start()
    feed(session, sse(ROLE))
    assert session.commit_by_time() == sse(ROLE)
    assert session.answered
    assert session.state is State.OPENING
    assert feed(session, sse(chunk())) == sse(chunk())
    assert session.commit_by_time() == b""


def test_the_commit_by_time_before_any_answer_gives_nothing() -> None:
    """A 200 goes out, heartbeats may follow."""
    session = begin()
    assert session.commit_by_time() == b""
    assert session.answered


def test_the_commit_by_time_after_content_changes_nothing() -> None:
    """The timer may come late."""
    session = start()
    feed(session, sse(HI))
    assert session.commit_by_time() == b""


def test_data_events_count_events_and_not_comments() -> None:
    """The clocks ask for them: comments prove no life of the generation (coder/coder#26005)."""
    session = start()
    feed(session, b": ping\n\n" + sse(ROLE, ROLE))
    assert session.data_events == 2


# --- restarts that the client cannot see ---


@pytest.mark.parametrize("fault", TOLD_BY_THE_EDGE)
def test_a_fault_before_content_is_restarted_unseen(fault: Fault) -> None:
    """The client gets the second answer as if it were the first."""
    session = start()
    assert feed(session, sse({**ROLE, "id": "chatcmpl-0"})) == b""
    assert fail(session, AttemptEnd(fault)) == replace(AGAIN, spread_s=0.5)
    assert feed(session, ANSWER) == ANSWER
    finish(session)
    report = session.report()
    assert report.outcome is StreamOutcome.RECOVERED
    assert report.attempts == ("first", fault.value)
    assert report.recoveries == (("restart", "success"),)
    assert facts(session) == [(fault, Phase.BEFORE_CONTENT, IncidentOutcome.RESTARTED)]


def test_a_fault_before_the_headers_is_told_so() -> None:
    """The phase says that no answer had begun."""
    session = begin()
    fail(session, AttemptEnd(Fault.CONNECT_ERROR))
    assert facts(session)[0][1] is Phase.BEFORE_HEADERS


def test_each_failed_restart_is_counted_and_the_last_one_surfaces() -> None:
    """Attempts are counted with the first."""
    session = start(max_attempts=3)
    assert fail(session) == replace(AGAIN, spread_s=0.5)
    assert fail(session) == replace(AGAIN, spread_s=1.0)
    assert told(finish(session, RESET))["code"] == "stream_incomplete"
    report = session.report()
    assert report.outcome is StreamOutcome.FAILED
    assert report.attempts == ("first", "reset", "reset")
    assert report.recoveries == (("restart", "failed"),) * 2
    outcomes = [IncidentOutcome.RESTARTED] * 2 + [IncidentOutcome.SURFACED]
    assert [i.outcome for i in report.incidents] == outcomes
    assert [i.attempt for i in report.incidents] == [1, 2, 3]


def test_a_stale_connection_costs_no_attempt_and_no_budget() -> None:
    """Nothing was asked yet."""
    session = begin(budget=RetryBudget(0.0, 0.0), max_attempts=1)
    assert fail(session, AttemptEnd(Fault.RESET, stale=True)) == AGAIN
    assert feed(session, ANSWER) == ANSWER
    assert session.report().attempts == ("first", "reset")


def test_the_free_retry_does_not_use_up_an_attempt() -> None:
    """Two attempts remain of two."""
    session = begin(max_attempts=2)
    fail(session, AttemptEnd(Fault.RESET, stale=True))
    fail(session)
    finish(session, RESET)


def test_an_exhausted_budget_stops_restarts() -> None:
    """A failing upstream is not hit by a storm."""
    budget = RetryBudget(0.2, 0.0)
    session = start(budget=budget)
    assert told(finish(session, RESET))["code"] == "stream_incomplete"
    assert budget.exhausted == 1
    assert facts(session) == [(Fault.RESET, Phase.BEFORE_CONTENT, IncidentOutcome.SURFACED)]


def test_every_complete_stream_deposits_into_the_shared_budget() -> None:
    """Five of them pay for one repetition; those that only began pay nothing."""
    budget = RetryBudget(0.2, 0.0)
    sessions = [start(budget=budget) for _ in range(7)]
    finish(sessions[0], RESET)
    for session in sessions[1:6]:
        feed(session, ANSWER)
        finish(session)
    fail(sessions[6])
    finish(sessions[6], RESET)


def test_a_request_that_wants_no_recovery_gets_none() -> None:
    """Framing and honest endings stay."""
    session = start(ask(recovery=False))
    assert finish(session, RESET).reply is not None


def test_what_was_thrown_away_is_counted() -> None:
    """All events and bytes of the attempt that was replaced."""
    session = start()
    feed(session, sse(ROLE), b"data: {")
    fail(session)
    feed(session, ANSWER)
    report = session.report()
    assert (report.discarded_events, report.discarded_bytes) == (1, len(sse(ROLE)) + 7)


# --- restarts behind openers that the client has ---


def test_a_chat_restart_behind_given_openers_keeps_the_identity() -> None:
    """One role, one id, and the client cannot tell."""
    session = start()
    feed(session, sse(ROLE))
    given = session.commit_by_time()
    fail(session)
    assert session.state is State.SPLICING
    other = {"id": "chatcmpl-2", "created": 2, "model": "m-2"}
    given += feed(session, sse(*({**event, **other} for event in (ROLE, HI, STOP))) + DONE)
    finish(session)
    assert payloads(given) == [ROLE, HI, STOP, "[DONE]"]
    assert session.report().outcome is StreamOutcome.RECOVERED


def test_a_responses_restart_behind_given_openers_keeps_id_and_numbers() -> None:
    """Possible where nothing is stored: the id is good for nothing else."""
    session = start(ask("responses", store=False))
    feed(session, sse(CREATED, RUNNING))
    given = session.commit_by_time()
    fail(session)
    second = (lifecycle(kind, n, "resp_2") for n, kind in enumerate(("created", "in_progress")))
    given += feed(session, sse(*second))
    given += feed(session, sse(spoken(2), lifecycle("completed", 3, "resp_2")))
    finish(session)
    assert payloads(given) == payloads(RESPONSE)


def test_a_stored_response_is_not_replaced_behind_its_id() -> None:
    """The app may use the id it has, so the failure is told."""
    session = start(ask("responses"))
    feed(session, sse(CREATED))
    session.commit_by_time()
    end = finish(session, RESET)
    error, failed = payloads(end.body)
    assert (error["sequence_number"], failed["sequence_number"]) == (1, 2)
    assert failed["response"]["id"] == "resp_1"


def test_openers_are_not_repeated_by_a_third_attempt() -> None:
    """Identity is that of what the client has, not of the attempt between."""
    session = start()
    feed(session, sse(ROLE))
    given = session.commit_by_time()
    fail(session)
    given += feed(session, sse({**chunk(), "id": "chatcmpl-2", "choices": []}))
    fail(session)
    given += feed(session, sse({**ROLE, "id": "chatcmpl-3"}, {**HI, "id": "chatcmpl-3"}))
    assert payloads(given) == [ROLE, HI]


def test_an_answer_without_content_can_be_joined_on() -> None:
    """Its finish and its end are given with the terminal event."""
    session = start()
    feed(session, sse(ROLE))
    given = session.commit_by_time()
    fail(session)
    given += feed(session, sse(ROLE, STOP)) + finish(session).body
    assert payloads(given) == [ROLE, STOP, "[DONE]"]


def test_a_failure_behind_given_openers_continues_their_numbers() -> None:
    """Openers that were held go out before the error, so that no number is missing."""
    session = start(ask("responses", store=False), max_attempts=2)
    feed(session, sse(CREATED))
    given = session.commit_by_time()
    fail(session)
    feed(session, sse(lifecycle("created", 0, "resp_2"), lifecycle("in_progress", 1, "resp_2")))
    given += finish(session, RESET).body
    events = payloads(given)
    assert [event["sequence_number"] for event in events] == [0, 1, 2, 3]
    kinds = ["response.created", "response.in_progress", "error", "response.failed"]
    assert [event["type"] for event in events] == kinds
    assert {e["response"]["id"] for e in events if "response" in e} == {"resp_1"}
    assert events[2]["message"].count("The 2 events before") == 1


def test_an_error_of_the_joined_attempt_takes_the_next_number() -> None:
    """An error event of the upstream is told anew and takes no number of its own."""
    session = start(ask("responses", store=False), max_attempts=2)
    feed(session, sse(CREATED))
    session.commit_by_time()
    fail(session)
    feed(session, sse(CREATED, {"type": "error", "message": "m", "sequence_number": 1}))
    error, failed = payloads(finish(session).body)
    assert (error["sequence_number"], failed["sequence_number"]) == (1, 2)


def test_a_native_failure_of_the_joined_attempt_has_the_first_identity() -> None:
    """Upstream's own words, the client's own id."""
    session = start(ask("responses", store=False), max_attempts=2)
    feed(session, sse(CREATED))
    session.commit_by_time()
    fail(session)
    broken = lifecycle("failed", 1, "resp_2", error={"code": "server_error", "message": "m"})
    feed(session, sse(lifecycle("created", 0, "resp_2"), broken))
    end = finish(session)
    first = lifecycle("failed", 1, error={"code": "server_error", "message": "m"})
    assert payloads(end.body) == [first]


def test_an_opener_that_lacks_its_blank_line_is_not_lost_between_attempts() -> None:
    """It comes with the end of its attempt, when another one may follow."""
    session = start()
    given = session.commit_by_time()
    given += feed(session, sse(ROLE)[:-1])
    command = session.receive_end(CLEAN, 0.0)
    assert isinstance(command, Open)
    session.receive_head()
    given += feed(session, ANSWER)
    assert given == ANSWER


def test_an_opener_that_lacks_its_blank_line_goes_before_the_error() -> None:
    """Where no attempt follows, it is given."""
    session = start(max_attempts=1)
    session.commit_by_time()
    feed(session, sse(ROLE)[:-1])
    assert payloads(finish(session).body)[0] == ROLE


# --- the caps of what is held and remembered ---


def test_a_hold_that_grows_past_its_cap_ends_early() -> None:
    """Contentless chunks without end fail no stream and are not kept: they are given."""
    session = start(journal_max_bytes=1000)
    openers = [sse({**ROLE, "obfuscation": "x" * 300}) for _ in range(4)]
    given = [feed(session, opener) for opener in openers]
    assert given == [b"", b"", b"".join(openers[:3]), openers[3]]
    assert session.answered


def test_behind_openers_that_are_not_remembered_nothing_is_joined_on() -> None:
    """Their identity is forgotten, so the fault is told."""
    session = start(journal_max_bytes=100, max_attempts=3)
    assert feed(session, sse({**ROLE, "obfuscation": "x" * 300}))
    assert isinstance(finish(session, RESET), Finish)
    assert session.report().outcome is StreamOutcome.FAILED


def test_what_comes_after_the_end_was_told_is_not_given() -> None:
    """The client has its ending."""
    session = start(max_attempts=1)
    finish(session, CUT)
    assert feed(session, sse(HI)) == b""
