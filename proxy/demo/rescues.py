"""What comes after a break: the next attempt, and the response that is asked for again.

Knows how a second answer differs from the first one, and what is left of a background response.
Must not know names or expectations: those are the scenarios' table.
"""

from __future__ import annotations

import re

from proxy.demo.answers import Answer, Answering, Asked, End, error_reply, sse
from proxy.demo.bodies import TEXT, stream_for
from proxy.demo.misbehaviour import healthy, stopped

OTHER_TEXT = "Whole rivers end in the sea, and nobody asks them where they broke."
"""Not what was given first, and so no end of it."""

WINDOW_CLOSED = (
    "This response can no longer be streamed because it is more than 5 minutes old."
    " You can still fetch it without a stream."
)

_PIECE = 7
"""Characters. A stream breaks after whole words, which is inside a piece of this size."""


def in_other_pieces(asked: Asked, attempt: int) -> Answer:
    """Give the same text whole, with other borders between the events."""
    return sse(*stream_for(asked, attempt, TEXT, _pieces).events)


def in_other_words(asked: Asked, attempt: int) -> Answer:
    """Give a whole answer that says something else."""
    return sse(*stream_for(asked, attempt, OTHER_TEXT).events)


def torn(end: End, again: Answering = healthy) -> Answering:
    """Stop after some content; ``again`` answers where the response is asked for again."""

    def answer(asked: Asked, attempt: int) -> Answer:
        return (again if asked.made else stopped(end))(asked, attempt)

    return answer


def window_closed(asked: Asked, attempt: int) -> Answer:  # noqa: ARG001 - nothing depends on it
    """Refuse to stream a response that is there, as OpenAI does after five minutes."""
    return error_reply(400, "invalid_request_error", WINDOW_CLOSED)


def _pieces(text: str) -> list[str]:
    return re.findall(f".{{1,{_PIECE}}}", text)
