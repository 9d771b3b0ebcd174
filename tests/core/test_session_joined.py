"""A stream that was joined on and fails after all, or counts what it threw away."""

from __future__ import annotations

import pytest
from support import (
    CREATED,
    CUT,
    RESET,
    RUNNING,
    ask,
    fail,
    feed,
    finish,
    lifecycle,
    payloads,
    spoken,
    sse,
    start,
)

BACKGROUND = ask("responses", background=True)
CALL = {"type": "response.output_item.added", "output_index": 0, "item": {"type": "function_call"}}


@pytest.mark.parametrize("hold", ["all", "tool_calls"])
def test_what_was_held_and_dropped_leaves_no_gap_in_the_numbers(hold: str) -> None:
    """The error takes the number after the last one given, not after the last one read."""
    session = start(BACKGROUND, hold=hold, max_attempts=2)
    given = session.commit_by_time()
    given += feed(session, sse(CREATED, RUNNING, {**CALL, "sequence_number": 2}))
    fail(session, CUT)
    given += finish(session, CUT).body
    numbers = [event["sequence_number"] for event in payloads(given)]
    assert numbers == list(range(len(numbers)))


def test_an_error_behind_a_keepalive_keeps_the_id_that_was_given() -> None:
    """The first event given need not be the one with the response."""
    session = start(ask("responses", store=False), max_attempts=2)
    feed(session, sse({"type": "keepalive", "sequence_number": 0}, lifecycle("created", 1)))
    session.commit_by_time()
    fail(session)
    feed(session, sse(lifecycle("created", 0, "resp_2")))
    _, failed = payloads(finish(session, RESET).body)
    assert failed["response"]["id"] == "resp_1"


@pytest.mark.parametrize("depth", [600, 900])
def test_a_deep_event_that_was_given_does_not_stop_a_recovery(depth: int) -> None:
    """Input never raises."""
    deep = b'{"type":"x","sequence_number":1,"x":' + b"[" * depth + b"]" * depth + b"}"
    session = start(BACKGROUND)
    feed(session, sse(CREATED, deep))
    fail(session)
    assert session.attempts == 2


def test_the_tail_of_an_attempt_that_is_resumed_was_thrown_away() -> None:
    """Received, and given to nobody."""
    session = start(BACKGROUND)
    feed(session, sse(CREATED), b'data: {"half')
    fail(session)
    feed(session, sse(RUNNING, spoken(2), lifecycle("completed", 3)))
    assert session.report().discarded_bytes == 12


def test_what_is_dropped_behind_held_openers_is_counted_to_the_byte() -> None:
    """The hold and the journal must measure in the same way."""
    session = start(BACKGROUND)
    feed(session, sse(CREATED))
    fail(session)
    feed(session, sse(CREATED, RUNNING, spoken(2), lifecycle("completed", 3)))
    assert session.report().discarded_bytes == len(sse(CREATED))
