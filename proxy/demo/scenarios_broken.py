"""Scenarios of answers that stop, before their content or in the middle.

Knows names, faults and expectations. The ways to stop are in ``misbehaviour``.
"""

from __future__ import annotations

from proxy.demo import misbehaviour as do
from proxy.demo import misbehaviour_forms as form
from proxy.demo.bodies import TOOL_ARGUMENTS
from proxy.demo.scenario import CHAT, ENDED, EVERY, Scenario

STOPS = (
    Scenario(
        "ws-cut-before-content-once",
        "cut_between_events",
        "complete",
        do.stopped("fin", given=0),
        "The connection closes before any content; the next attempt is well.",
        when="first",
        endpoints=ENDED - {"threads"},
    ),
    Scenario(
        "ws-cut-mid-event",
        "cut_mid_event",
        "honest error",
        do.cut_mid_event,
        "The connection closes in the middle of an event.",
        endpoints=EVERY,
    ),
    Scenario(
        "ws-cut-between-events",
        "cut_between_events",
        "honest error",
        do.stopped("fin"),
        "The connection closes between two events, without the last chunk.",
        endpoints=EVERY,
    ),
    Scenario(
        "ws-gateway-reset-mid-stream",
        "cut_between_events",
        "honest error",
        do.stopped("fin", given=3),
        "What is left of an HTTP/2 reset behind a gateway: the connection closes between two"
        " events, without the last chunk.",
        endpoints=EVERY,
    ),
    Scenario(
        "ws-lifetime-cap",
        "cut_between_events",
        "honest error",
        do.cut_at_age,
        "Every attempt is cut between two events 1.2 s after it began, while data flows.",
        endpoints=EVERY,
    ),
    Scenario(
        "ws-clean-eof",
        "clean_eof",
        "honest error",
        do.stopped("clean"),
        "The body ends as HTTP says it should, but the answer is not finished.",
        endpoints=ENDED,
    ),
    Scenario(
        "ws-close-delimited",
        "clean_eof",
        "honest error",
        do.stopped("fin", framing="close"),
        "A body that is delimited by nothing but the end of the connection stops early.",
        endpoints=ENDED,
    ),
    Scenario(
        "ws-gzip-cut",
        "clean_eof",
        "honest error",
        form.gzip_cut,
        "A compressed stream that ends, as HTTP says it should, inside of what was compressed.",
        endpoints=ENDED,
    ),
    Scenario(
        "ws-reset-mid-stream",
        "reset",
        "honest error",
        do.stopped("reset"),
        "The connection is reset after some content.",
        endpoints=EVERY,
    ),
    Scenario(
        "ws-reset-before-headers-once",
        "reset",
        "complete",
        do.no_answer("reset"),
        "The connection is reset before any byte of an answer; the next attempt is well.",
        when="first",
        any_body=True,
        endpoints=EVERY,
    ),
    Scenario(
        "ws-stale-connection",
        "reset",
        "complete",
        do.no_answer("fin"),
        "A connection kept alive is closed just as the next request comes.",
        when="reused",
        any_body=True,
        endpoints=EVERY,
    ),
    Scenario(
        "ws-empty-200-once",
        "empty_stream",
        "complete",
        do.empty,
        "A 200 without a single event; the next attempt is well.",
        when="first",
        endpoints=ENDED,
    ),
    Scenario(
        "ws-empty-200",
        "empty_stream",
        "honest error",
        do.empty,
        "A 200 without a single event, every time.",
        endpoints=ENDED,
    ),
    Scenario(
        "ws-stall-mid-stream",
        "stall",
        "honest error",
        do.stopped("hold"),
        "The stream falls silent after some content, its connection stays open.",
        endpoints=ENDED,
    ),
    Scenario(
        "ws-stall-before-first-event-once",
        "first_event_timeout",
        "complete",
        do.silent(head=True),
        "A 200, then silence; the next attempt is well.",
        when="first",
        endpoints=ENDED,
    ),
    Scenario(
        "ws-stall-before-headers-once",
        "first_event_timeout",
        "complete",
        do.silent(head=False),
        "No answer at all on an open connection; the next attempt is well.",
        when="first",
        endpoints=ENDED,
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
