"""The telling: the last words of a stream, in the endpoint's words or as a status."""

from __future__ import annotations

from typing import Any

import pytest
from support import HI, ask, lifecycle, payloads, sse, told

from proxy.core.attempt import Attempt
from proxy.core.commands import Finish, shutdown_error
from proxy.core.course import Cause, Failure
from proxy.core.errors import UpstreamError, read_error
from proxy.core.fault import AttemptEnd, Fault, Phase
from proxy.core.grammars.chat import ChatGrammar
from proxy.core.journal import Journal
from proxy.core.policy import Policy
from proxy.core.sse import Event
from proxy.core.telling import by_status, in_one_piece, in_stream, last_words

NATIVE = sse({"error": {"message": "gone", "code": "server_error"}})


def failure(
    fault: Fault = Fault.RESET, error: UpstreamError | None = None, **fields: Any
) -> Failure:
    """Return a failure of the last of two attempts, before content."""
    cause = Cause(fault, AttemptEnd(fault), error)
    plain: dict[str, Any] = {"last": True, "cap_s": None, "mismatch": ""}
    return Failure(cause, Phase.BEFORE_CONTENT, 2, **{**plain, **fields})


def broken(body: bytes = b"") -> Attempt:
    """Return an attempt that read so much."""
    attempt = Attempt(ask(), Policy(), pytest.fail)
    attempt.feed(body)
    return attempt


def behind(*payloads: Any) -> Journal:
    """Return the journal of a client that has some events."""
    journal = Journal(10_000)
    for event in Attempt(ask(), Policy(), pytest.fail).feed(sse(*payloads)):
        journal.give(event)
    return journal


# --- nothing is out ---


def test_an_error_status_at_hand_is_passed_on() -> None:
    """Nobody can put it better than the upstream."""
    assert by_status(failure(Fault.HTTP_STATUS)) == Finish(pass_on=True)


def test_an_error_status_of_an_earlier_attempt_is_told_anew() -> None:
    """Its reply is gone, its words are not."""
    error = read_error(b'{"error":{"message":"busy","code":"slow_down"}}', 503)
    end = by_status(failure(Fault.HTTP_STATUS, error, last=False))
    assert not end.pass_on
    assert end.reply is not None
    assert (end.reply.status, told(end)["message"]) == (503, "busy")


def test_an_error_told_in_the_stream_becomes_its_status() -> None:
    """The upstream's own word."""
    error = read_error(b'{"error":{"message":"m","code":"context_length_exceeded"}}')
    end = by_status(failure(Fault.IN_STREAM_ERROR, error))
    assert end.reply is not None
    assert (end.reply.status, told(end)["message"]) == (400, "m")


def test_a_broken_answer_becomes_a_status_with_all_that_is_known() -> None:
    """The fault, the cap, the misfit, and how many attempts were made."""
    end = by_status(failure(cap_s=60.0, mismatch="it differs"))
    assert end.reply is not None
    assert end.reply.status == 502
    message = told(end)["message"]
    assert "cut twice at the same age, 60 s" in message
    assert "another answer did not fit: it differs" in message
    assert "2 attempts were made" in message


# --- a 200 is out ---


def test_in_a_stream_the_fault_is_told_as_an_error_event() -> None:
    """Behind so many whole events; it is noted as given."""
    journal = behind(HI)
    before = journal.size
    end = in_stream(failure(cap_s=60.0), broken(), journal)
    (error,) = payloads(end.body)
    assert "cut twice at the same age, 60 s" in error["error"]["message"]
    assert "The 1 event before this one is whole" in error["error"]["message"]
    assert (journal.events, journal.size - before) == (2, len(end.body))


def test_in_a_stream_the_upstreams_error_is_told_in_its_words() -> None:
    """Message and code are kept."""
    error = read_error(b'{"error":{"message":"m","code":"invalid_prompt"}}', 400)
    (event,) = payloads(in_stream(failure(Fault.HTTP_STATUS, error), broken(), behind()).body)
    assert event == {"error": error.as_object()}


def test_a_native_error_passes_as_it_came_while_it_is_the_last_word() -> None:
    """An error of an attempt that was to help is not what broke the answer."""
    attempt = broken(NATIVE)
    assert attempt.grammar.error is not None
    own = failure(Fault.IN_STREAM_ERROR, attempt.grammar.error)
    assert in_stream(own, attempt, behind(HI)).body == NATIVE
    other = failure(Fault.RESET, last=False)
    (event,) = payloads(in_stream(other, broken(NATIVE), behind(HI)).body)
    assert event["error"]["code"] == "stream_incomplete"


def test_an_error_in_a_form_of_its_own_is_told_in_the_endpoints() -> None:
    """Every SDK raises on an object."""
    attempt = broken(sse({"error": "gone"}))
    assert attempt.grammar.error is not None
    body = in_stream(failure(error=attempt.grammar.error), attempt, behind()).body
    assert payloads(body)[0]["error"]["message"] == "gone"


def test_a_reason_of_the_proxys_own_is_told_whatever_the_upstream_said() -> None:
    """A shutdown is no fault of the upstream."""
    body = last_words(shutdown_error(), broken(NATIVE), behind(HI))
    (event,) = payloads(body)
    assert event["error"]["message"] == shutdown_error().message


def broken_response(*payloads: Any) -> tuple[Attempt, list[str]]:
    """Return an attempt at a response that read so much, and what was counted of it."""
    counted: list[str] = []
    attempt = Attempt(ask("responses"), Policy(), counted.append)
    attempt.feed(sse(*payloads))
    return attempt, counted


@pytest.mark.parametrize(
    ("told_by", "last", "fault", "counted"),
    [
        ({"type": "error", "message": "m"}, True, Fault.IN_STREAM_ERROR, 1),
        ({"type": "error", "message": "m"}, False, Fault.IN_STREAM_ERROR, 0),
        ({"type": "error", "message": "m"}, True, Fault.RESET, 0),
        (lifecycle("failed", 0, error={"message": "m"}), True, Fault.IN_STREAM_ERROR, 0),
    ],
    ids=["error", "an earlier one", "a cut", "response.failed"],
)
def test_an_ending_is_counted_where_the_upstream_told_only_the_error(
    told_by: Any,
    last: bool,  # noqa: FBT001 - a parameter
    fault: Fault,
    counted: int,
) -> None:
    """Once, and only where it is the upstream's error that is told, in a form not its own."""
    attempt, repairs = broken_response(told_by)
    cause = failure(fault, attempt.grammar.error, last=last)
    end = in_stream(cause, attempt, behind())
    assert payloads(end.body)[-1]["type"] == "response.failed"
    assert repairs == ["added_response_failed"] * counted


def test_no_ending_is_added_to_a_chat() -> None:
    """Its one error event is all there is."""
    attempt = broken(sse({"error": "gone"}))
    attempt.translated()
    assert attempt.grammar.added_ending == ""


def test_a_status_adds_no_ending() -> None:
    """Nothing of a stream is out."""
    attempt, repairs = broken_response({"type": "error", "message": "m"})
    by_status(failure(Fault.IN_STREAM_ERROR, attempt.grammar.error))
    assert repairs == []


# --- one object in place of a stream ---


class Bottomless(ChatGrammar):
    """Adds up what nests deeper than Python calls itself; its JSON decoder may, since 3.12."""

    def fold(self, events: list[Event]) -> bytes:
        """Do as Python does."""
        return self.fold(events)


def test_a_stream_that_cannot_be_added_up_is_an_error() -> None:
    """Input never raises."""
    reply = in_one_piece(Bottomless(ask()), sse(HI), failed=False)
    assert reply.status == 502
    assert b"does not add up" in reply.body
