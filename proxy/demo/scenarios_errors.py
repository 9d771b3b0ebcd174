"""Scenarios of errors: a status, an error inside the stream, or bytes that are no event.

Knows names, faults and expectations. The ways to fail are in ``misbehaviour_errors``.
"""

from __future__ import annotations

from proxy.demo import misbehaviour_errors as fail
from proxy.demo import misbehaviour_forms as form
from proxy.demo.misbehaviour import GIVEN
from proxy.demo.scenario import ENDED, EVERY, RESPONSES, Scenario

ERRORS = (
    Scenario(
        "ws-500-once",
        "http_status",
        "complete",
        fail.status(500, "server_error", "The server had an error."),
        "A 500; the next attempt is well.",
        when="first",
        any_body=True,
        endpoints=EVERY,
    ),
    Scenario(
        "ws-gateway-timeout-once",
        "http_status",
        "complete",
        fail.gateway_timeout,
        "A gateway's 504 with an HTML page; the next attempt is well.",
        when="first",
        any_body=True,
        endpoints=EVERY,
    ),
    Scenario(
        "ws-503-always",
        "http_status",
        "upstream error",
        fail.status(503, "overloaded", "The engine is currently overloaded."),
        "A 503, every time.",
        any_body=True,
        endpoints=EVERY,
    ),
    Scenario(
        "ws-429-retry-after-1",
        "http_status",
        "complete",
        fail.status(429, "rate_limit_exceeded", "Slow down.", (("Retry-After", "1"),)),
        "A 429 that asks for one second; the next attempt is well.",
        when="first",
        any_body=True,
        endpoints=EVERY,
    ),
    Scenario(
        "ws-429-retry-after-120",
        "http_status",
        "upstream error",
        fail.status(429, "rate_limit_exceeded", "Slow down.", (("Retry-After", "120"),)),
        "A 429 that asks for two minutes, every time.",
        any_body=True,
        endpoints=EVERY,
    ),
    Scenario(
        "ws-overloaded-first-event-once",
        "in_stream_error",
        "complete",
        fail.told_error("overloaded", "The model is overloaded.", "server_error"),
        "A 200 whose first event says overloaded; the next attempt is well.",
        when="first",
    ),
    Scenario(
        "ws-error-first-event-deterministic",
        "in_stream_error",
        "honest error",
        fail.told_error("context_length_exceeded", "Too long.", "invalid_request_error"),
        "A 200 whose first event refuses the request for good.",
        endpoints=ENDED,
    ),
    Scenario(
        "ws-error-mid-stream",
        "in_stream_error",
        "honest error",
        fail.told_error("server_error", fail.WORKER_DIED, "server_error", given=GIVEN),
        "An error event after some content, followed by [DONE] all the same.",
        endpoints=ENDED,
    ),
    Scenario(
        "ws-overloaded-mid-stream",
        "in_stream_error",
        "honest error",
        fail.told_error(
            "server_is_overloaded",
            "Our servers are currently overloaded.",
            "service_unavailable_error",
            given=GIVEN,
            nested=True,
        ),
        "An event that says overloaded after some content, in a response in its nested form.",
        endpoints=ENDED,
    ),
    Scenario(
        "ws-error-event-only",
        "in_stream_error",
        "honest error",
        fail.told_error("server_error", fail.WORKER_DIED, "server_error", given=GIVEN),
        "An event named error after some content, and no response.failed.",
        endpoints=RESPONSES,
    ),
    Scenario(
        "ws-error-string",
        "in_stream_error",
        "honest error",
        fail.error_string,
        "An error after some content that is a string and no object.",
        endpoints=ENDED - RESPONSES,
    ),
    Scenario(
        "ws-text-error",
        "in_stream_error",
        "honest error",
        fail.text_error,
        "An event after some content whose data is the text of an error.",
        endpoints=ENDED,
    ),
    Scenario(
        "ws-error-inside-event",
        "malformed_event",
        "honest error",
        fail.error_inside_event,
        "Half an event, and an error on its next line.",
        endpoints=EVERY,
    ),
    Scenario(
        "ws-html-200",
        "malformed_event",
        "honest error",
        fail.html,
        "A 200 with an HTML page that calls itself an event stream.",
        endpoints=ENDED,
    ),
    Scenario(
        "ws-malformed-event",
        "malformed_event",
        "honest error",
        fail.malformed,
        "An event whose JSON breaks off; the stream goes on after it.",
        endpoints=EVERY,
    ),
    Scenario(
        "ws-oversize-event",
        "oversize_event",
        "honest error",
        form.padded(fail.OVERSIZE_BYTES),
        "An event of 2 MiB, which is too much where max_event_bytes is less.",
        endpoints=EVERY,
    ),
    Scenario(
        "ws-no-delimiter",
        "oversize_event",
        "honest error",
        fail.no_delimiter,
        "Bytes without a line end after some content, 2 MiB of them.",
        endpoints=EVERY,
    ),
)
