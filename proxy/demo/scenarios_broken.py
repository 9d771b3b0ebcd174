"""Scenarios of answers that break: the stream stops, or an error takes its place.

Knows names, faults and expectations. The ways to break are in ``misbehaviour``.
"""

from __future__ import annotations

from proxy.demo import misbehaviour as do
from proxy.demo.bodies import TOOL_ARGUMENTS
from proxy.demo.scenario import CHAT, Scenario

STOPS = (
    Scenario(
        "ws-cut-before-content-once",
        "cut_between_events",
        "complete",
        do.stopped("fin", given=0),
        "The connection closes before any content; the next attempt is well.",
        when="first",
    ),
    Scenario(
        "ws-cut-mid-event",
        "cut_mid_event",
        "honest error",
        do.cut_mid_event,
        "The connection closes in the middle of an event.",
    ),
    Scenario(
        "ws-cut-between-events",
        "cut_between_events",
        "honest error",
        do.stopped("fin"),
        "The connection closes between two events, without the last chunk.",
    ),
    Scenario(
        "ws-clean-eof",
        "clean_eof",
        "honest error",
        do.stopped("clean"),
        "The body ends as HTTP says it should, but the answer is not finished.",
    ),
    Scenario(
        "ws-close-delimited",
        "clean_eof",
        "honest error",
        do.stopped("fin", framing="close"),
        "A body that is delimited by nothing but the end of the connection stops early.",
    ),
    Scenario(
        "ws-close-delimited-whole",
        "",
        "complete",
        do.whole_then("clean", framing="close"),
        "A whole body, delimited by the end of the connection.",
    ),
    Scenario(
        "ws-reset-mid-stream",
        "reset",
        "honest error",
        do.stopped("reset"),
        "The connection is reset after some content.",
    ),
    Scenario(
        "ws-reset-before-headers-once",
        "reset",
        "complete",
        do.no_answer("reset"),
        "The connection is reset before any byte of an answer; the next attempt is well.",
        when="first",
        any_body=True,
    ),
    Scenario(
        "ws-stale-connection",
        "reset",
        "complete",
        do.no_answer("fin"),
        "A connection kept alive is closed just as the next request comes.",
        when="reused",
        any_body=True,
    ),
    Scenario(
        "ws-empty-200-once",
        "empty_stream",
        "complete",
        do.empty,
        "A 200 without a single event; the next attempt is well.",
        when="first",
    ),
    Scenario(
        "ws-empty-200",
        "empty_stream",
        "honest error",
        do.empty,
        "A 200 without a single event, every time.",
    ),
    Scenario(
        "ws-stall-mid-stream",
        "stall",
        "honest error",
        do.stopped("hold"),
        "The stream falls silent after some content, its connection stays open.",
    ),
    Scenario(
        "ws-stall-before-first-event-once",
        "first_event_timeout",
        "complete",
        do.silent(head=True),
        "A 200, then silence; the next attempt is well.",
        when="first",
    ),
    Scenario(
        "ws-stall-before-headers-once",
        "first_event_timeout",
        "complete",
        do.silent(head=False),
        "No answer at all on an open connection; the next attempt is well.",
        when="first",
    ),
    Scenario(
        "ws-tool-call-cut",
        "clean_eof",
        "honest error",
        do.tool_call_cut,
        "The body ends cleanly in the middle of a tool call's arguments.",
        endpoints=CHAT,
        text=TOOL_ARGUMENTS,
    ),
)

ERRORS = (
    Scenario(
        "ws-500-once",
        "http_status",
        "complete",
        do.status(500, "server_error", "The server had an error."),
        "A 500; the next attempt is well.",
        when="first",
        any_body=True,
    ),
    Scenario(
        "ws-503-always",
        "http_status",
        "upstream error",
        do.status(503, "overloaded", "The engine is currently overloaded."),
        "A 503, every time.",
        any_body=True,
    ),
    Scenario(
        "ws-429-retry-after-1",
        "http_status",
        "complete",
        do.status(429, "rate_limit_exceeded", "Slow down.", (("Retry-After", "1"),)),
        "A 429 that asks for one second; the next attempt is well.",
        when="first",
        any_body=True,
    ),
    Scenario(
        "ws-429-retry-after-120",
        "http_status",
        "upstream error",
        do.status(429, "rate_limit_exceeded", "Slow down.", (("Retry-After", "120"),)),
        "A 429 that asks for two minutes, every time.",
        any_body=True,
    ),
    Scenario(
        "ws-overloaded-first-event-once",
        "in_stream_error",
        "complete",
        do.told_error("overloaded", "The model is overloaded.", "server_error"),
        "A 200 whose first event says overloaded; the next attempt is well.",
        when="first",
    ),
    Scenario(
        "ws-error-first-event-deterministic",
        "in_stream_error",
        "honest error",
        do.told_error("context_length_exceeded", "Too long.", "invalid_request_error"),
        "A 200 whose first event refuses the request for good.",
    ),
    Scenario(
        "ws-error-mid-stream",
        "in_stream_error",
        "honest error",
        do.told_error("server_error", "The worker died.", "server_error", given=do.GIVEN),
        "An error event after some content, followed by [DONE] all the same.",
    ),
    Scenario(
        "ws-malformed-event",
        "malformed_event",
        "honest error",
        do.malformed,
        "An event whose JSON breaks off; the stream goes on after it.",
    ),
    Scenario(
        "ws-oversize-event",
        "oversize_event",
        "honest error",
        do.oversize,
        "An event of 128 KiB, which is too much where max_event_bytes is less.",
    ),
)
