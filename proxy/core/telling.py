"""How a client is told that its answer broke, and how that is put in words.

Knows the last words of a stream: its endpoint's terminal error event where a 200 is out, an HTTP
reply where nothing is. Must not know how it came to this.
"""

from __future__ import annotations

from proxy.core.attempt import Attempt
from proxy.core.commands import Finish, http_reply, own_error
from proxy.core.course import Failure
from proxy.core.errors import (
    STREAM_INCOMPLETE,
    Reply,
    UpstreamError,
    error_reply,
    read_error,
    reply_of,
)
from proxy.core.fault import Fault
from proxy.core.grammars import Grammar
from proxy.core.journal import Journal
from proxy.core.sse import EventSplitter

_NOT_ONE = "The upstream's stream was complete, but does not add up to an answer in one piece."


def in_stream(failure: Failure, attempt: Attempt, journal: Journal) -> Finish:
    """End a stream of which the client has the 200."""
    cause = failure.cause
    error = cause.error or own_error(cause.fault, failure.detail, journal.events)
    if failure.last and cause.fault is Fault.IN_STREAM_ERROR:
        attempt.translated()
    return Finish(last_words(error, attempt, journal, native=failure.last))


def last_words(
    error: UpstreamError, attempt: Attempt, journal: Journal, *, native: bool = False
) -> bytes:
    """Return the terminal error event(s), the upstream's own where clients understand it."""
    events = attempt.grammar.error_events(error, journal)
    if native and attempt.error_event is not None and attempt.grammar.error_is_native:
        events = [attempt.error_event]
    return b"".join([journal.give(event) for event in events])


def in_one_piece(grammar: Grammar, body: bytes, *, failed: bool) -> Reply:
    """Return what the events of a stream add up to, or the error that ended it."""
    events = EventSplitter(len(body) + 1, lambda _repair: None).feed(body)
    if failed:
        return reply_of(read_error(events[-1].data))
    try:
        whole = grammar.fold(events)
    except RecursionError:
        whole = b""  # nested too deeply to be added up
    return Reply(200, whole) if whole else error_reply(502, STREAM_INCOMPLETE, _NOT_ONE)


def by_status(failure: Failure) -> Finish:
    """End a request of which the client has nothing yet."""
    cause = failure.cause
    if cause.fault is Fault.HTTP_STATUS and failure.last:
        return Finish(pass_on=True)
    if cause.error is not None:
        return Finish(reply=reply_of(cause.error))
    reply = http_reply(cause.fault, failure.phase, failure.attempts, failure.detail)
    return Finish(reply=reply)
