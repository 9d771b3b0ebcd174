"""Ways to fail: errors by status and inside a stream, and bytes that are no events.

Knows the forms of errors that are met in the field. Must not know names or expectations: those
are the scenarios' table.
"""

from __future__ import annotations

import json

from proxy.demo.answers import Answer, Answering, Asked, Headers, error_reply, sse
from proxy.demo.bodies import error_event, stream_for
from proxy.demo.misbehaviour import GIVEN, stopped
from proxy.demo.shapes import DONE, event, payload_of

OVERSIZE_BYTES = 2 * 2**20
"""The size of an oversize event. It shows where ``max_event_bytes`` is set below it."""

PREFILL = (
    "This model does not support assistant message prefill."
    " The conversation must end with a user message."
)

WORKER_DIED = "The worker died."

_WRITE_BYTES = 2**16
_HTML: Headers = (("Content-Type", "text/html"),)


# --- by status ------------------------------------------------------------------------------


def status(code: int, name: str, message: str, headers: Headers = ()) -> Answering:
    """Answer with an HTTP error status."""

    def answer(asked: Asked, attempt: int) -> Answer:  # noqa: ARG001 - nothing depends on it
        return error_reply(code, name, message, headers)

    return answer


def page(title: str) -> bytes:
    """Return the page with which nginx reports an error."""
    lines = (
        "<html>",
        f"<head><title>{title}</title></head>",
        "<body>",
        f"<center><h1>{title}</h1></center>",
        "<hr><center>nginx</center>",
        "</body>",
        "</html>",
    )
    return "".join(f"{line}\r\n" for line in lines).encode()


def gateway_timeout(asked: Asked, attempt: int) -> Answer:  # noqa: ARG001 - nothing depends on it
    """Answer as a gateway that waited too long."""
    body = page("504 Gateway Time-out")
    return Answer(status=504, headers=_HTML, framing="length", pieces=(body,))


def prefill_rejected(asked: Asked, attempt: int) -> Answer:
    """End cleanly in the middle, and refuse to go on from the beginning of an answer."""
    if asked.prefilled:
        return error_reply(400, "invalid_request_error", PREFILL)
    return stopped("clean")(asked, attempt)


# --- inside of a stream ---------------------------------------------------------------------


def told_error(
    code: str, message: str, kind: str, *, given: int = 0, nested: bool = False
) -> Answering:
    """Tell an error inside a 200, first thing or after ``given`` events with content.

    Responses tell it flat, as specified, or ``nested``, as is met as well (opencode#25730).
    """

    def answer(asked: Asked, attempt: int) -> Answer:
        before = stream_for(asked, attempt).given(given) if given else ()
        error = error_event(asked, code, message, kind, len(before), attempt=attempt)
        if nested and asked.endpoint == "responses":
            error = _nested(error, kind)
        return sse(*before, error, *_mark(asked))

    return answer


def error_string(asked: Asked, attempt: int) -> Answer:
    """Tell an error, after some content, that is a string and no object."""
    told = event({"error": WORKER_DIED})
    return sse(*stream_for(asked, attempt).given(GIVEN), told, *_mark(asked))


def text_error(asked: Asked, attempt: int) -> Answer:
    """Tell an error, after some content, as plain text in the data of an event."""
    told = f"data: error: {WORKER_DIED}\n\n".encode()
    return sse(*stream_for(asked, attempt).given(GIVEN), told)


def error_inside_event(asked: Asked, attempt: int) -> Answer:
    """Tell an error on the next line of an event that broke off."""
    stream = stream_for(asked, attempt)
    broken = stream.content[stream.kept(GIVEN)]
    told = error_event(asked, "stream_read_error", "The upstream is gone.", "upstream_error")
    inside = broken[: len(broken) // 2] + b"\ndata: " + payload_of(told)[1] + b"\n\n"
    return sse(*stream.given(GIVEN), inside)


def _nested(error: bytes, kind: str) -> bytes:
    flat = json.loads(payload_of(error)[1])
    inner = {"type": kind, "code": flat["code"], "message": flat["message"], "param": None}
    number = flat["sequence_number"]
    return event({"type": "error", "sequence_number": number, "error": inner}, "error")


def _mark(asked: Asked) -> tuple[bytes, ...]:
    # As vLLM does: the end mark follows the error all the same.
    return (DONE,) if asked.endpoint in {"chat_completions", "completions"} else ()


# --- no events ------------------------------------------------------------------------------


def html(asked: Asked, attempt: int) -> Answer:  # noqa: ARG001 - nothing depends on it
    """Answer 200 with a page that calls itself an event stream."""
    return sse(page("502 Bad Gateway"))


def malformed(asked: Asked, attempt: int) -> Answer:
    """Send an event whose JSON breaks off, then go on as if nothing had been."""
    stream = stream_for(asked, attempt)
    at = stream.kept(GIVEN)
    broken = stream.content[at][:-20] + b"\n\n"
    return sse(*stream.given(GIVEN), broken, *stream.content[at + 1 :], *stream.closing)


def no_delimiter(asked: Asked, attempt: int) -> Answer:
    """Send bytes without a line end, more than anybody should keep."""
    flood = (b"x" * _WRITE_BYTES,) * (OVERSIZE_BYTES // _WRITE_BYTES)
    return sse(*stream_for(asked, attempt).given(GIVEN), b'data: {"padding":"', *flood)
