"""Ways to misbehave: functions from a request and its attempt to an answer. Here: to stop.

Knows how a healthy stream is broken off, whatever its endpoint. Must not know names or
expectations: those are the scenarios' table. Errors are in ``misbehaviour_errors``, unusual
forms in ``misbehaviour_forms`` and ``misbehaviour_chats``.
"""

from __future__ import annotations

from proxy.demo.answers import (
    AUDIO,
    Answer,
    Answering,
    Asked,
    End,
    Framing,
    Pause,
    Piece,
    Raw,
    error_reply,
    reply,
    sse,
)
from proxy.demo.bodies import chat_tool, json_for, stream_for
from proxy.demo.bodies_media import speaks
from proxy.demo.shapes import TEXT, words

GIVEN = 5
"""So many events with content are sent before a stream breaks, or all but one of a short one."""

LIFETIME_S = 1.2
"""The age at which a capped stream is cut."""

SETTLE = Pause(0.1)
"""Lets the client read first: a reset destroys what its kernel has and nobody read."""


def healthy(asked: Asked, attempt: int) -> Answer:
    """Answer as a server should."""
    if asked.endpoint == "other":
        return error_reply(404, "unknown_url", "This upstream has no such endpoint.")
    if asked.stream:
        return sse(*stream_for(asked, attempt).events[asked.after + 1 :])
    if asked.endpoint == "audio" and speaks(asked):
        return Answer(headers=AUDIO, pieces=tuple(word.encode() for word in words(TEXT)))
    return reply(200, json_for(asked, attempt))


def stopped(end: End, *, framing: Framing = "chunked", given: int = GIVEN) -> Answering:
    """Stop after the openers and ``given`` events with content."""

    def answer(asked: Asked, attempt: int) -> Answer:
        stream = stream_for(asked, attempt)
        settle = (SETTLE,) if end == "reset" else ()
        return sse(*stream.given(given), *settle, end=end, framing=framing)

    return answer


def cut_mid_event(asked: Asked, attempt: int) -> Answer:
    """Close inside an event and inside the chunk that it came in."""
    stream = stream_for(asked, attempt)
    event = stream.content[stream.kept(GIVEN)]
    half = Raw(b"%x\r\n%b" % (len(event), event[: len(event) // 2]))
    return sse(*stream.given(GIVEN), half, end="fin")


def cut_at_age(asked: Asked, attempt: int) -> Answer:
    """Close between two events at the same age each time, while data flows."""
    stream = stream_for(asked, attempt)
    content = stream.content[: stream.kept(GIVEN)]
    gap = Pause(LIFETIME_S / len(content))
    flowing: list[Piece] = [piece for event in content for piece in (gap, event)]
    return sse(*stream.opening, *flowing, end="fin")


def tool_call_cut(asked: Asked, attempt: int) -> Answer:
    """End as if all were well in the middle of a tool call's arguments."""
    return sse(*chat_tool(asked, attempt).content[:GIVEN])


def empty(asked: Asked, attempt: int) -> Answer:  # noqa: ARG001 - nothing depends on it
    """Answer 200 and end cleanly without an event."""
    return sse()


def silent(*, head: bool) -> Answering:
    """Send nothing, with or without a status line, and hold the connection open."""

    def answer(asked: Asked, attempt: int) -> Answer:  # noqa: ARG001 - nothing depends on it
        return Answer(status=200 if head else 0, end="hold")

    return answer


def no_answer(end: End) -> Answering:
    """End the connection before any byte of an answer."""

    def answer(asked: Asked, attempt: int) -> Answer:  # noqa: ARG001 - nothing depends on it
        return Answer(status=0, end=end)

    return answer


def whole_then(end: End, *, framing: Framing = "chunked") -> Answering:
    """Give the whole stream, then end as told."""

    def answer(asked: Asked, attempt: int) -> Answer:
        settle = (SETTLE,) if end == "reset" else ()
        return sse(*stream_for(asked, attempt).events, *settle, end=end, framing=framing)

    return answer
