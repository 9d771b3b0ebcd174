"""One JSON value in two events: joined if there is no doubt, otherwise a malformed event.

Whatever comes behind a half, nothing of the half is given, and never a success that hides it.
"""

from __future__ import annotations

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
    HI,
    RESET,
    ROLE,
    RUNNING,
    STOP,
    ask,
    chunk,
    hear,
    lifecycle,
    raw,
    spoken,
    sse,
    start,
    whole_events,
)

from proxy.core.commands import Finish, Open
from proxy.core.fault import Fault, IncidentOutcome, Phase
from proxy.core.repairs import is_beginning, join
from proxy.core.sse import STRAY, Event

SAID = raw(
    {
        "choices": [{"index": 0, "delta": {"content": 'Ah\\oy "é" 🐳, {'}, "logprobs": None}],
        "n": [1, -2.5e3, True, False],
    }
)
"""A chunk with everything in it that JSON has."""

NAMED = "response.output_text.delta"
MALFORMED = [(Fault.MALFORMED_EVENT, Phase.MID_CONTENT, IncidentOutcome.SURFACED)]


def before(*events: Any) -> bytes:
    """Return the beginning of a chat answer, and what follows it."""
    return sse(ROLE, HI, *events)


def halves(data: bytes, place: int, *, prefix: bytes = b"data: ") -> bytes:
    """Write one value as two events; the second one may lack its field (litellm#30224)."""
    return b"data: %b\n\n%b%b\n\n" % (data[:place], prefix, data[place:])


# --- what is joined ---


@pytest.mark.parametrize("prefix", [b"data: ", b""], ids=["data", "bare"])
@pytest.mark.parametrize("place", [1, 2, 12, 30, 37, 44, 60, 75, 99, len(SAID) - 1])
def test_a_value_in_two_events_is_one(place: int, prefix: bytes) -> None:
    """The bytes are those that the upstream meant, and it is counted once."""
    body = before() + halves(SAID, place, prefix=prefix) + sse(STOP) + DONE
    heard = hear(body)
    assert heard.out == before(SAID, STOP) + DONE
    assert (heard.repairs, heard.facts) == ({"joined_events": 1}, [])


@pytest.mark.parametrize("end", [CLEAN, CUT, RESET], ids=["clean", "cut", "reset"])
def test_a_value_is_joined_wherever_it_was_cut(end: Any) -> None:
    """At every byte: in an escape, a word, a number."""
    joined = 0
    for place in range(1, len(SAID)):
        session = start()
        out = session.receive_data(before() + halves(SAID, place) + sse(STOP) + DONE)
        command = session.receive_end(end, 0.0)
        assert isinstance(command, Finish)
        report = session.report()
        joined += report.repairs == {"joined_events": 1}
        assert out == before(SAID, STOP) + DONE
    assert joined == len(SAID) - 1


def test_a_value_cut_inside_a_character_is_joined() -> None:
    """Some cut by bytes; what looked broken in the half is whole again, so nothing is counted."""
    data = '{"choices":[{"index":0,"delta":{"content":"\u2027é🐳"}}]}'.encode()
    for place in range(data.index(b"\xe2") + 1, data.index(b'"}}')):
        heard = hear(before() + halves(data, place) + sse(STOP) + DONE)
        assert heard.out == before(data, STOP) + DONE
        assert heard.repairs == {"joined_events": 1}


def test_a_half_that_is_broken_by_itself_is_mended_once() -> None:
    """Repairs of text are made to the whole."""
    data = b'{"choices":[{"index":0,"delta":{"content":"a\xff\xe2\x80\xa8b"}}]}'
    heard = hear(before() + halves(data, data.index(b"b")) + sse(STOP) + DONE)
    assert heard.repairs == {"joined_events": 1, "escaped_separator": 1} or heard.facts == MALFORMED


def test_the_first_half_names_the_event() -> None:
    """A name stands before its data."""
    whole = raw(spoken(2))
    first, rest = whole[:50], whole[50:]
    end = sse(lifecycle("completed", 3))
    body = sse(CREATED, RUNNING) + sse(first, name=NAMED) + sse(rest) + end
    heard = hear(body, ask("responses"))
    assert heard.out == sse(CREATED, RUNNING) + sse(whole, name=NAMED) + end
    assert heard.repairs == {"joined_events": 1}


def test_a_comment_between_the_halves_is_nothing() -> None:
    """Keep-alives come at any time."""
    first, rest = sse(SAID[:10]), sse(SAID[10:])
    heard = hear(before() + first + b": ping\n\n" + rest + sse(STOP) + DONE)
    assert heard.out == before(SAID, STOP) + DONE


def test_two_values_in_four_events_are_two() -> None:
    """Each by itself."""
    body = before() + halves(SAID, 20) + halves(SAID, 40) + sse(STOP) + DONE
    heard = hear(body)
    assert heard.out == before(SAID, SAID, STOP) + DONE
    assert heard.repairs == {"joined_events": 2}


def test_a_joined_value_is_judged_as_any_other() -> None:
    """An error is an error."""
    error = raw({"error": {"message": "Compute error."}})
    heard = hear(before() + halves(error, 12) + DONE)
    assert heard.facts == [(Fault.IN_STREAM_ERROR, Phase.MID_CONTENT, IncidentOutcome.SURFACED)]


@given(st.integers(1, len(SAID) - 1), st.integers(0, 10))
def test_no_reading_makes_a_difference(place: int, seed: int) -> None:
    """However the reads are cut."""
    from support import cut_randomly, feed  # noqa: PLC0415

    body = before() + halves(SAID, place, prefix=b"") + sse(STOP) + DONE
    one, other = start(), start()
    assert one.receive_data(body) == feed(other, *cut_randomly(body, seed))
    assert one.report().repairs == other.report().repairs


# --- what is not ---

HALF = sse(SAID[:10])
BEHIND = {
    "[DONE]": DONE,
    "a bare DONE": sse("DONE"),
    "a clean end": b"",
    "a whole event": sse(STOP) + DONE,
    "another half": sse(SAID[:40]) + sse(SAID[40:]) + DONE,
    "the half again": HALF + sse(SAID[10:]) + sse(STOP) + DONE,
    "three parts": sse(SAID[30:40]) + sse(SAID[40:]) + sse(STOP) + DONE,
    "text": sse("hello") + sse(STOP) + DONE,
    "a bare line": b"hello\n\n" + sse(STOP) + DONE,
    "a page": b"<html>\n\n" + sse(STOP) + DONE,
    "a rest that looks like a comment": SAID[10:] + b"\n\n" + sse(STOP) + DONE,
    "a wrapped comment": sse(": ping") + sse(SAID[10:]) + sse(STOP) + DONE,
    "its rest without a blank line": b"data: " + SAID[10:],
    "its rest without a field or a blank line": SAID[10:],
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
def test_a_half_without_its_rest_is_malformed(behind: bytes) -> None:
    """Nothing of it is given, nothing behind it, and no success."""
    heard = hear(before() + HALF + behind)
    given_, error = heard.out[: len(before())], heard.out[len(before()) :]
    assert given_ == before()
    ((_, told),) = whole_events(error)
    assert b"stream_incomplete" in told
    assert heard.facts == MALFORMED
    assert "joined_events" not in heard.repairs
    assert heard.session.report().incidents[0].tail == HALF[:-2]


def test_an_error_behind_a_half_says_why_it_broke_off() -> None:
    """Its words, its status, and whether to ask again are what counts; the half is not given."""
    told = {"error": {"message": "m", "code": "insufficient_quota"}}
    heard = hear(before() + HALF + sse(told) + DONE)
    assert heard.out == before() + sse(told)
    assert heard.facts == [(Fault.IN_STREAM_ERROR, Phase.MID_CONTENT, IncidentOutcome.SURFACED)]


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
def test_a_half_before_any_content_is_restarted(behind: bytes) -> None:
    """The client notices nothing."""
    heard = hear(sse(ROLE) + HALF + behind)
    assert isinstance(heard.command, Open)
    assert heard.out == b""
    before_ = [(Fault.MALFORMED_EVENT, Phase.BEFORE_CONTENT, IncidentOutcome.RESTARTED)]
    assert heard.facts == before_


@pytest.mark.parametrize("end", [CUT, RESET], ids=["cut", "reset"])
def test_a_half_before_a_cut_is_what_is_told(end: Any) -> None:
    """It was a fault before the cut came."""
    assert hear(before() + HALF, end=end).facts == MALFORMED


def test_a_half_behind_a_finished_answer_is_as_good_as_none() -> None:
    """Every choice has its reason: the end mark is added, the half is counted."""
    heard = hear(before(STOP) + HALF)
    assert heard.out == before(STOP) + DONE
    assert heard.facts == [(Fault.MALFORMED_EVENT, Phase.AFTER_TERMINAL, IncidentOutcome.REPAIRED)]


def test_a_half_may_be_skipped_by_setting() -> None:
    """A hole is preferred, and what follows is judged by itself."""
    body = before() + HALF + sse(chunk(content="!"), STOP) + DONE
    heard = hear(body, skip_malformed=True)
    assert heard.out == before(chunk(content="!"), STOP) + DONE
    assert (heard.repairs, heard.facts) == ({"dropped_malformed": 1}, [])


def test_by_setting_a_half_and_its_rest_are_still_one() -> None:
    """What can be mended is not skipped."""
    heard = hear(before() + halves(SAID, 30) + sse(STOP) + DONE, skip_malformed=True)
    assert heard.out == before(SAID, STOP) + DONE
    assert heard.repairs == {"joined_events": 1}


@pytest.mark.parametrize("behind", [b"", DONE], ids=["clean end", "[DONE]"])
def test_a_half_that_is_skipped_claims_nothing(behind: bytes) -> None:
    """An answer whose end was lost with it is not complete."""
    heard = hear(before() + HALF + behind, skip_malformed=True)
    assert heard.repairs["dropped_malformed"] == 1
    if not behind:
        assert [fault for fault, _, _ in heard.facts] == [Fault.CLEAN_EOF]


@pytest.mark.parametrize(
    "whole",
    ['{"choices":[{"index":0,"delta":{"content":"{\\"a\\":"}}]}', raw(chunk(content="half {"))],
)
def test_text_that_looks_like_a_half_is_text(whole: Any) -> None:
    """Inside a string it is what the model said."""
    body = sse(ROLE, whole, chunk(content='1}"'), STOP) + DONE
    heard = hear(body)
    assert (heard.out, heard.repairs) == (body, {})


def test_a_healthy_answer_is_never_held_up() -> None:
    """Each event goes out with its blank line."""
    session = start()
    assert session.receive_data(ANSWER[: -len(DONE)]) == ANSWER[: -len(DONE)]


# --- the two questions by themselves ---


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b'{"',
        b'{"a',
        b'{"a":tr',
        b'{"a":"x\\',
        b'{"a":"x\\ud8',
        b'{"a":-',
        b'{"a":1e',
        b'{"a"',
        b'{"a":',
        b'{"a":1',
        b'{"a":"x',
        b'{"a":[',
    ],
)
def test_what_stops_inside_its_json_is_a_beginning(data: bytes) -> None:
    """Something may follow."""
    assert is_beginning(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b'"x',
        b"[1,",
        b"{}",
        b'{"a":1}',
        b'{"a":1}}',
        b'{"a":1} x',
        b"{'a':",
        b'{"a" 1',
        b'{"a":"\0',
        b"{\xff",
        b"{\0",
        b'{"a":' + b"[" * 100_000,
        b'{"a":' + b"1" * 5000 + b"}",
    ],
)
def test_what_is_whole_or_wrong_is_no_beginning(data: bytes) -> None:
    """Nothing could make it JSON, or nothing needs to."""
    assert not is_beginning(data)


@pytest.mark.parametrize(
    ("half", "rest", "whole"),
    [
        (b'{"a":', b"1}", b'{"a":1}'),
        (b'{"a":"x', b'y"}', b'{"a":"xy"}'),
        (b'{"a":', b"{}", None),
        (b'{"a":', b'{"b":1}', None),
        (b'{"a":"x', b"[DONE]", None),
        (b'{"a":"x', b'[DONE]"}', None),
        (b'{"a":"x', b"y", None),
        (b'{"a":"x\xc3', b'\xa9"}', b'{"a":"x\xc3\xa9"}'),
        (b'{"a":"x\xc3', b'y"}', None),
    ],
)
def test_two_parts_are_one_only_if_nothing_else_is_possible(
    half: bytes, rest: bytes, whole: bytes | None
) -> None:
    """The second one must be no JSON by itself, and both together must be."""
    joined = None if whole is None else Event(b"n", whole)
    for name in (b"", b"n", STRAY):
        assert join(Event(b"n", half), Event(name, rest)) == joined
    assert join(Event(b"n", half), Event(b"m", rest)) is None  # it is an event of its own
