"""Whatever an upstream sends: nothing raises, everything given is whole, the report adds up."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import (
    ANSWER,
    CLEAN,
    CUT,
    DONE,
    FAMILIES,
    HI,
    RESET,
    ROLE,
    STREAMS,
    ask,
    ask_for,
    chunk,
    cut_at,
    lifecycle,
    payloads,
    raw,
    spoken,
    sse,
    start,
    whole_events,
)

from proxy.core.commands import Finish
from proxy.core.fault import AttemptEnd, Fault, IncidentOutcome, StreamOutcome
from proxy.core.request import Request
from proxy.core.session import StreamSession
from proxy.core.states import FINAL, State

ENDS = [
    CLEAN,
    CUT,
    RESET,
    AttemptEnd(Fault.STALL),
    AttemptEnd(Fault.FIRST_EVENT_TIMEOUT),
    AttemptEnd(Fault.HTTP_STATUS, status=503),
]
Attempts = list[tuple[list[bytes], AttemptEnd]]
SAVED = {
    *(IncidentOutcome.RESTARTED, IncidentOutcome.RESUMED, IncidentOutcome.REPLAYED),
    *(IncidentOutcome.CONTINUED, IncidentOutcome.FELL_BACK),
}
"""Outcomes of an incident that another attempt follows."""

HOLDS = st.sampled_from(["none", "tool_calls", "all"])


def drive(session: StreamSession, attempts: Attempts, commit: int) -> bytes:
    """Play attempts until the session finishes, as the relay does; return what was given.

    ``commit`` is the read before which the commit timer is up.
    """
    out, count = b"", 0
    for reads, end in attempts:
        for read in reads:
            if count == commit:
                out += session.commit_by_time()
            count += 1
            if not session.settled:
                out += session.receive_data(read)
        command = session.receive_end(CLEAN if session.settled else end, 0.0)
        out += command.body
        if isinstance(command, Finish):
            return out
        session.receive_head()
    return out


def check(session: StreamSession, out: bytes) -> None:
    """Check what must hold for every stream, however it went."""
    events = whole_events(out)
    report = session.report()
    assert (report.events, report.size) == (len(events), len(out))
    saved = [i for i in report.incidents if i.outcome in SAVED]
    if all(result != "mismatch" for _, result in report.recoveries):
        assert [i.fault.value for i in saved] == list(report.attempts[1:])
        assert [i.attempt for i in saved] == list(range(1, len(report.attempts)))
    surfaced = [i for i in report.incidents if i.outcome is IncidentOutcome.SURFACED]
    assert len(surfaced) <= 1
    assert len(report.incidents) <= len(report.attempts)
    assert all(count > 0 for count in report.repairs.values())
    assert min(report.discarded_events, report.discarded_bytes) >= 0
    if session.state not in FINAL:
        return
    assert len(report.recoveries) == len(report.attempts) - 1
    recovered = StreamOutcome.RECOVERED if report.recoveries else StreamOutcome.COMPLETE
    complete = session.state is State.COMPLETE
    assert report.outcome is (recovered if complete else StreamOutcome.FAILED)
    assert not (surfaced and complete)
    if not complete:
        assert DONE not in out


# --- attempts at real shapes, broken anywhere ---

_attempt = st.tuples(
    st.floats(0, 1), st.lists(st.integers(0, 3000), max_size=3), st.sampled_from(ENDS)
)


@settings(max_examples=1000)
@given(
    name=st.sampled_from(sorted(STREAMS)),
    attempts=st.lists(_attempt, min_size=1, max_size=4),
    commit=st.integers(0, 6),
    limits=st.fixed_dictionaries(
        {"hold": HOLDS, "replay": st.sampled_from(["never", "deterministic", "always"])}
    ),
)
def test_any_course_of_attempts_adds_up(
    name: str,
    attempts: list[tuple[float, list[int], AttemptEnd]],
    commit: int,
    limits: dict[str, Any],
) -> None:
    """Each attempt is cut somewhere and ends somehow; the last one is whole."""
    body = STREAMS[name]
    cut = [(cut_at(body[: int(len(body) * share)], *at), end) for share, at, end in attempts]
    session = start(ask_for(name), max_attempts=4, **limits)
    out = drive(session, [*cut, ([body], CLEAN)], commit)
    check(session, out)
    if name.startswith("responses"):
        events = payloads(out)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert len({event["response"]["id"] for event in events if "response" in event}) <= 1


# --- bytes of any kind ---

_NEST = sys.getrecursionlimit() - 30
_PIECES = [
    *(sse(HI), sse(ROLE), ANSWER, DONE, sse(chunk(finish="stop")), sse(spoken(1))),
    *(sse(lifecycle(kind, 0)) for kind in ("created", "completed", "failed", "incomplete")),
    *(
        sse({"type": "error", "message": "m"}),
        sse({"error": "x"}),
        sse({"error": {"code": "invalid"}}),
    ),
    *(
        sse(b"DONE"),
        sse(b"data: {}"),
        sse(b": x"),
        sse(b"5"),
        sse(b"null"),
        sse(b'"id"'),
        sse(b"[]"),
    ),
    *(
        sse({"choices": [5, None]}),
        sse({"choices": [{"index": [], "delta": 5}]}),
        sse({"type": []}),
    ),
    *(sse({"choices": [{"delta": {"role": {}}, "finish_reason": [1]}]}), sse(b'{"x":NaN}')),
    *(sse({"type": "response.created", "response": 5, "sequence_number": "x"}), sse(b"{}{}")),
    *(
        sse({"type": "response.output_item.added", "output_index": [], "item": {"type": {}}}),
        sse({"type": "response.output_item.done", "output_index": {}, "item": {"id": []}}),
        sse({"type": "response.created", "response": {"id": "r", "status": []}}),
    ),
    *(sse(b'{"x":' + b"[" * n + b"]" * n + b"}") for n in (_NEST, _NEST + 15, 9 * _NEST)),
    *(
        b"event: response.created\n",
        b"event: error\n",
        b"data: ",
        b"\n\n",
        b"\r\n",
        b"\r",
        b": c\n",
    ),
    *(b'{"a":"', b'"}', b"\xff", b"\xf0\x9f", b"\x00", b"\xef\xbb\xbf", "\u2028".encode()),
    *(raw(HI), raw(lifecycle("created", 3, "resp_2")), b"x" * 700, b"id: 1\n", b"retry: 1\n"),
]
_reads = st.lists(st.lists(st.sampled_from(_PIECES), max_size=4).map(b"".join), max_size=5)


@settings(max_examples=1000)
@given(
    family=st.sampled_from(FAMILIES),
    attempts=st.lists(st.tuples(_reads, st.sampled_from(ENDS)), min_size=1, max_size=4),
    commit=st.integers(0, 8),
    fields=st.fixed_dictionaries(
        {"store": st.booleans()},
        optional={
            "n": st.just(2),
            "temperature": st.sampled_from([0, 0.5]),
            "background": st.booleans(),
            "messages": st.just([{"role": "user"}]),
        },
    ),
    limits=st.fixed_dictionaries(
        {
            "hold": HOLDS,
            "continuation": st.sampled_from(["off", "prefill", "instructed"]),
            "journal_max_bytes": st.sampled_from([300, 1_000_000]),
        }
    ),
)
def test_no_bytes_make_the_session_raise_or_give_half_an_event(
    family: str, attempts: Attempts, commit: int, fields: dict[str, Any], limits: dict[str, Any]
) -> None:
    """Input never raises: it becomes an event, a repair or a fault."""
    session = start(ask(family, **fields), max_attempts=4, max_event_bytes=4000, **limits)
    out = drive(session, attempts, commit)
    check(session, out)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_upload_is_read_like_any_other_stream(family: str) -> None:
    """Its body is not known; its answer is."""
    session = start(Request("POST", ask(family).target, None))
    check(session, drive(session, [([ANSWER], CLEAN)], 9))


# --- the report itself ---


def test_usage_is_reported_as_it_came() -> None:
    """Raw JSON, for the token metrics."""
    session = start()
    drive(session, [([sse(HI, {"choices": [], "usage": {"total_tokens": 5}})], CLEAN)], 9)
    assert session.report().usage == b'{"total_tokens": 5}'


def test_repairs_are_reported_by_their_number() -> None:
    """From framing and from events alike."""
    session = start()
    body = b": a\n\n: b\n\n" + sse(b": x", HI, chunk(finish="stop"), "[DONE] ")
    drive(session, [([body], CLEAN)], 9)
    assert session.report().repairs == {"dropped_comment": 3, "done_form": 1}
