"""The session while it saves an answer: what it asks for, and what becomes of the incident."""

from __future__ import annotations

from typing import Any

import pytest
from support import (
    ANSWER,
    CLEAN,
    CREATED,
    CUT,
    HI,
    RESET,
    ROLE,
    RUNNING,
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

from proxy.core.budget import Breakers, RetryBudget
from proxy.core.commands import Open, Try, shutdown_error
from proxy.core.fault import AttemptEnd, Fault, IncidentOutcome, Phase, StreamOutcome
from proxy.core.policy import Fallback, Policy, Target
from proxy.core.session import StreamSession
from proxy.core.states import State

BACKGROUND = ask("responses", background=True)
ELSEWHERE = (Fallback(("*",), (Target("b"),)),)


def status(code: int) -> AttemptEnd:
    """Return the end of an attempt that was answered with an error status."""
    return AttemptEnd(Fault.HTTP_STATUS, status=code)


# --- what the edge is told ---


def test_the_first_command_says_whom_to_ask_for_what() -> None:
    """The client's own request, at once."""
    session = StreamSession(ask(), Policy(), RetryBudget(0.2, 1.0))
    assert session.attempts == 0
    assert session.begin(0.0) == Open(ask(), Target())
    assert session.tries == [Try("first", "first", Target())]


def test_a_target_whose_circuit_is_open_is_not_asked_first() -> None:
    """The circuits are shared by all streams of a process."""
    breakers = Breakers(failures=1)
    breakers.of("", "m").failed(0.0)
    session = StreamSession(ask(), Policy(fallbacks=ELSEWHERE), RetryBudget(0.2, 1.0), breakers)
    assert session.begin(0.0).target == Target("b")


def test_each_attempt_says_why_and_by_which_way_it_was_made() -> None:
    """For the log and the metrics, while the stream still runs."""
    session = start()
    fail(session)
    assert session.tries[1] == Try("restart", "reset", Target())
    assert session.attempts == 2


@pytest.mark.parametrize(("code", "wanted"), [(400, False), (404, False), (429, True), (503, True)])
def test_the_body_of_a_refusal_is_left_to_the_client(code: int, wanted: bool) -> None:  # noqa: FBT001
    """It passes unread where nothing else could be done about it."""
    assert begin().wants_body(code) is wanted


def test_the_body_of_a_refusal_is_read_where_it_decides() -> None:
    """With somebody else to ask, or with a 200 out that it can not follow."""
    assert begin(fallbacks=ELSEWHERE).wants_body(400)
    session = begin()
    session.commit_by_time()
    assert session.wants_body(400)


# --- while an answer is joined ---


def test_a_recovery_is_an_incident_once_it_is_known_what_became_of_it() -> None:
    """Until the first event of the new attempt it may still fail."""
    session = start(BACKGROUND)
    feed(session, sse(CREATED, spoken(1)))
    fail(session)
    assert session.incidents == []
    assert len(session.report().incidents) == 1
    feed(session, sse(spoken(2)))
    assert [incident.outcome for incident in session.incidents] == [IncidentOutcome.RESUMED]
    assert session.report().recoveries == (("resume", "success"),)


def test_a_client_that_leaves_while_its_answer_is_saved_is_gone() -> None:
    """Nobody knows whether it would have been."""
    session = start(BACKGROUND)
    feed(session, sse(CREATED, spoken(1)))
    fail(session)
    session.abandon()
    assert facts(session) == [(Fault.RESET, Phase.MID_CONTENT, IncidentOutcome.CLIENT_GONE)]
    assert session.report().outcome is StreamOutcome.CLIENT_CLOSED


def test_a_client_that_leaves_during_a_restart_is_what_became_of_the_fault() -> None:
    """Nobody knows whether the restart would have helped, and it may not even have been made."""
    session = start()
    fail(session)
    assert session.incidents == []
    session.abandon()
    assert facts(session)[0][2] is IncidentOutcome.CLIENT_GONE
    assert len(session.incidents) == 1


def test_the_connection_of_a_response_that_may_be_queued_is_kept() -> None:
    """Left before it runs, it might stay so; once it speaks it runs."""
    session = start(BACKGROUND)
    feed(session, sse(CREATED))
    assert fail(session).keep
    feed(session, sse(RUNNING, spoken(2)))
    assert not fail(session).keep


def test_openers_that_wait_stay_good_when_their_response_is_resumed() -> None:
    """They are given once, with what comes behind them."""
    session = start(BACKGROUND)
    assert feed(session, sse(CREATED)) == b""
    fail(session)
    end = lifecycle("completed", 3)
    out = feed(session, sse(RUNNING, spoken(2), end))
    assert payloads(out) == [CREATED, RUNNING, spoken(2), end]
    assert session.report().outcome is StreamOutcome.RECOVERED


def test_the_clock_gives_nothing_out_while_an_answer_is_joined() -> None:
    """The openers that wait are those of an attempt that must prove itself first."""
    session = start(BACKGROUND, hold="all")
    feed(session, sse(CREATED, spoken(1)))
    fail(session)
    assert session.commit_by_time() == b""
    assert session.answered


@pytest.mark.parametrize("missing", [1, 2])
def test_what_came_with_the_end_is_given_before_the_answer_goes_on(missing: int) -> None:
    """An event that lacks only its blank line counts as given, so it must be."""
    session = start(BACKGROUND)
    given = feed(session, sse(CREATED, spoken(1), spoken(2))[:-missing])
    command = fail(session, CLEAN)
    given += command.body
    assert payloads(given) == [CREATED, spoken(1), spoken(2)]
    assert command.request.target.endswith("starting_after=2")
    assert session.report().size == len(given)


def test_an_answer_that_does_not_fit_is_dropped_and_the_first_fault_is_told() -> None:
    """Nothing of it is given; the message says why there is no more."""
    session = start(ask(temperature=0))
    given = feed(session, sse(HI))
    assert fail(session).request == ask(temperature=0)
    other = sse(chunk(content="Ahoy"))
    assert feed(session, other) == b""
    assert session.settled
    end = finish(session)
    (error,) = payloads(end.body)
    assert "another answer did not fit" in error["error"]["message"]
    assert "[reset]" in error["error"]["message"]
    assert given == sse(HI)
    report = session.report()
    assert report.recoveries == (("replay", "mismatch"),)
    assert facts(session) == [(Fault.RESET, Phase.MID_CONTENT, IncidentOutcome.SURFACED)]
    assert (report.discarded_events, report.discarded_bytes) == (1, len(other))


def test_an_answer_that_stops_short_of_the_seam_does_not_fit() -> None:
    """It is complete in itself, and less than was given."""
    session = start(ask(temperature=0))
    feed(session, sse(chunk(content="Hi you")))
    fail(session)
    assert feed(session, sse(HI, chunk(finish="stop"))) == b""
    assert "it ended before" in payloads(finish(session).body)[0]["error"]["message"]


def test_who_was_to_help_and_refused_is_not_what_is_told() -> None:
    """The client hears of the reset; the refusal is an incident of its own."""
    session = begin(max_attempts=1, fallbacks=ELSEWHERE)
    command = session.receive_end(RESET, 0.0)
    assert isinstance(command, Open)
    assert command.target == Target("b")
    end = finish(session, status(401))
    assert not end.pass_on
    assert "[reset]" in told(end)["message"]
    outcomes = [IncidentOutcome.FELL_BACK, IncidentOutcome.SURFACED]
    assert [outcome for _, _, outcome in facts(session)] == outcomes


def test_a_shutdown_while_an_answer_is_joined_is_told_behind_what_was_given() -> None:
    """The recovery counts as failed."""
    session = start(BACKGROUND)
    feed(session, sse(CREATED, spoken(1)))
    fail(session)
    assert session.state is State.SPLICING
    error, _ = payloads(session.abort(shutdown_error()).body)
    assert error["sequence_number"] == 2
    assert session.report().recoveries == (("resume", "failed"),)


def test_attempts_cut_at_the_same_age_are_reported_as_capped() -> None:
    """Something limits the lifetime of the connections, and the client is told so."""
    session = start(ask(temperature=0), max_attempts=9)
    given = feed(session, sse(HI))
    old = AttemptEnd(Fault.CLEAN_EOF, age_s=60.0)
    fail(session, old)
    given += feed(session, sse(HI, chunk(content=" you")))
    (error,) = payloads(finish(session, old).body)
    assert "cut twice at the same age" in error["error"]["message"]
    assert session.report().capped
    assert payloads(given) == [HI, chunk(content=" you")]


# --- answers that are no stream ---


@pytest.mark.parametrize(
    ("end", "open_"), [(CLEAN, False), (status(400), True), (CUT, True), (RESET, True)]
)
def test_what_is_passed_on_moves_the_circuit(end: AttemptEnd, open_: bool) -> None:  # noqa: FBT001
    """A whole answer is a success of the target, a broken one is none."""
    breakers = Breakers(failures=1)
    session = StreamSession(ask(), Policy(), RetryBudget(0.0, 0.0), breakers)
    session.begin(0.0)
    session.passed_on(end, 0.0)
    assert breakers.of("", "m").is_open is open_


def test_a_server_error_that_is_passed_on_whole_is_no_success() -> None:
    """Its target failed, though its body came to the end."""
    breakers, budget = Breakers(failures=1), RetryBudget(1.0, 0.0)
    session = StreamSession(ask(), Policy(), budget, breakers)
    session.begin(0.0)
    session.passed_on(AttemptEnd(status=500), 0.0)
    assert breakers.of("", "m").is_open
    assert budget.tokens == 0.0
    assert session.report().incidents == ()


# --- holds ---


@pytest.mark.parametrize("broken", [sse(ROLE, HI), sse(ROLE, HI, chunk(content=" you"))])
def test_where_everything_is_held_any_cut_is_a_restart_or_a_status(broken: bytes) -> None:
    """The client never sees half an answer."""
    session = start(hold="all", max_attempts=2)
    assert feed(session, broken) == b""
    fail(session)
    assert feed(session, ANSWER) == ANSWER
    session = start(hold="all", max_attempts=1)
    feed(session, broken)
    end = finish(session, RESET)
    assert (end.body, told(end)["code"]) == (b"", "stream_incomplete")
    assert session.report().discarded_bytes == len(broken)


def test_a_tool_call_that_was_cut_is_never_given() -> None:
    """The error stands behind the text; no app runs half a call."""
    call: dict[str, Any] = {"index": 0, "function": {"name": "f", "arguments": '{"a"'}}
    session = start(hold="tool_calls")
    given = feed(session, sse(HI), sse(chunk(tool_calls=[call])))
    assert payloads(given) == [HI]
    (error,) = payloads(finish(session, CUT).body)
    assert error["error"]["code"] == "stream_incomplete"
