"""Errors told inside of a stream, or by a status, and what is mistaken for one.

Knows the forms in which they are met. Must not know HTTP: a status is what the edge tells of it.
"""

from __future__ import annotations

import json
from typing import Any

from support import ANSWER, CREATED, DONE, HI, ROLE, STOP, ask, chunk, lifecycle, raw, sse

from catalogue.tale import (
    BEGUN,
    RESPONSE,
    SPEAKING,
    Case,
    Ending,
    Part,
    PassedOn,
    Replied,
    Tale,
    Told,
    breaks,
    named,
    passes,
    restarted,
    says,
)
from proxy.core.fault import AttemptEnd, Fault
from proxy.core.policy import Quirks

RESPONSES = ask("responses", store=False)
COLD = ask(temperature=0)

OVERLOADED = "Our servers are currently overloaded. Please try again later."
BUSY = {"type": "service_unavailable_error", "code": "server_is_overloaded", "message": OVERLOADED}
NESTED: dict[str, Any] = {"type": "error", "sequence_number": 2, "error": {**BUSY, "param": None}}
FLAT: dict[str, Any] = {
    "type": "error",
    "code": "server_error",
    "message": "The worker died.",
    "param": None,
}
FLAT = {**FLAT, "sequence_number": 2}
OBJECT = {"error": {"message": "It died.", "type": "server_error", "param": None, "code": "boom"}}
CODELESS = {"error": {"message": "Compute error."}, "message": "Compute error."}
VALIDATION = {"error": "Input validation error: top_p", "error_type": "validation"}
PAGE = b"<html>\n<head><title>502 Bad Gateway</title></head>\n\n<hr><center>nginx</center></html>\n"
PREFILL = "This model does not support assistant message prefill."


def _status(status: int, body: bytes = b"", after_s: float | None = None) -> Part:
    end = AttemptEnd(Fault.HTTP_STATUS, status=status, body=body, retry_after_s=after_s)
    return Part(end=end, head=False)


def _error(code: str, kind: str = "server_error", message: str = "No.") -> bytes:
    return raw({"error": {"message": message, "type": kind, "param": None, "code": code}})


def _fails(event: bytes, code: str | None = "stream_incomplete", text: str = "") -> Tale:
    """Tell an error after content, and an end mark behind it, which is not given."""
    told = Told(code, text)
    return breaks(BEGUN + event + DONE, BEGUN, "in_stream_error", ending=told)


def _given_up(part: Part, fault: str, ending: Ending, phase: str = "before_content") -> Tale:
    """Three attempts that fail alike, and what the client is told in the end."""
    facts = [f"{fault}/{phase}/{outcome}" for outcome in ("restarted", "restarted", "surfaced")]
    return Tale((part,) * 3, b"", ending, tuple(facts))


NOTICE = Quirks(overload_texts=(OVERLOADED,))
EMPTY = Quirks(empty_answer="restart")
SILENT = named(CREATED, lifecycle("completed", 1, status="completed", usage={"output_tokens": 0}))

ERRORS = (
    Case(
        *(4, "in-stream-error-200"),
        {
            "an object": _fails(sse(OBJECT), "boom", "It died."),
            "a string": _fails(sse({"error": "STREAM_EXPLODED"}), text="STREAM_EXPLODED"),
            "without a code": _fails(sse(CODELESS), None, text="Compute error."),
            "an event by name": _fails(sse({"message": "It died."}, name="error"), text="It died."),
            "of a response, flat": breaks(
                SPEAKING + named(FLAT),
                SPEAKING,
                "in_stream_error",
                request=RESPONSES,
                repairs={"added_response_failed": 1},
                ending=Told("server_error", "The worker died."),
            ),
            "first, and it may pass": restarted(
                Part(sse(OBJECT) + DONE), "in_stream_error", ANSWER
            ),
            "first, and it will not pass": Tale(
                (Part(sse(VALIDATION)),),
                b"",
                Replied(400, None, "top_p"),
                ("in_stream_error/before_content/surfaced",),
            ),
            "first, and the quota is spent": Tale(
                (
                    Part(
                        sse({"error": {"code": "insufficient_quota", "message": "quota exceeded"}})
                    ),
                ),
                b"",
                Replied(429, "insufficient_quota"),
                ("in_stream_error/before_content/surfaced",),
            ),
        },
        {
            "an error as text": passes(says(json.dumps(OBJECT))),
            "no error": passes(sse({**ROLE, "error": None}, {**HI, "error": ""}, STOP) + DONE),
            "an error of a tool": passes(
                sse(ROLE, {**HI, "tool": {"error": {"message": "none"}}}, STOP) + DONE
            ),
        },
    ),
    Case(
        *(8, "overload-mid-stream"),
        {
            "after content": _fails(sse({"error": BUSY}), "server_is_overloaded", OVERLOADED),
            "as Anthropic says it": _fails(
                sse(
                    {
                        "type": "error",
                        "error": {"type": "overloaded_error", "message": "Overloaded"},
                    },
                    name="error",
                ),
                None,
                text="Overloaded",
            ),
            "of a response, nested": breaks(
                SPEAKING + named(NESTED),
                SPEAKING,
                "in_stream_error",
                request=RESPONSES,
                repairs={"added_response_failed": 1},
                ending=Told("server_is_overloaded", OVERLOADED),
            ),
            "first": restarted(Part(sse({"error": BUSY})), "in_stream_error", ANSWER),
            "first, each time": _given_up(
                Part(sse({"error": BUSY})),
                "in_stream_error",
                Replied(503, "server_is_overloaded", OVERLOADED),
            ),
        },
        {"the same as text": passes(says(OVERLOADED))},
    ),
    Case(
        *(9, "intermediary-idle-timeout"),
        {
            "a gateway's 504": restarted(
                _status(504, b"<html><h1>504 Gateway Time-out</h1></html>"), "http_status", ANSWER
            ),
            "524, each time": _given_up(_status(524), "http_status", PassedOn(), "before_headers"),
        },
        {"a page as text": passes(says("<html><h1>504 Gateway Time-out</h1></html>"))},
        tests=(
            "tests/e2e/test_timed_commit.py::test_a_silent_upstream_is_bridged_by_a_200_and_heartbeats",
        ),
    ),
    Case(
        *(10, "http-429-503"),
        {
            "with a time": Tale(
                (_status(429, _error("rate_limit_exceeded"), 1.0), Part(ANSWER)),
                ANSWER,
                faults=("http_status/before_headers/restarted",),
                waits_s=1.0,
            ),
            "with a time that is too long": Tale(
                (_status(429, _error("rate_limit_exceeded"), 16 * 86400.0),),
                b"",
                PassedOn(),
                ("http_status/before_headers/surfaced",),
            ),
            "a quota that is spent": Tale(
                (_status(429, _error("insufficient_quota")),),
                b"",
                PassedOn(),
                ("http_status/before_headers/surfaced",),
            ),
            "503": restarted(_status(503), "http_status", ANSWER),
            "behind a 200 that is out": Tale(
                (_status(503, _error("overloaded")),) * 3,
                b"",
                Told("overloaded"),
                ("http_status/before_headers/restarted",) * 2
                + ("http_status/before_headers/surfaced",),
                committed=True,
            ),
        },
        {"the same as text": passes(says("HTTP/2 429\r\nretry-after: 1"))},
        alike_tests=(
            "tests/core/test_session_endings.py::test_the_requests_own_fault_is_passed_on_and_no_incident",
            "tests/e2e/test_restarts.py::test_an_error_of_the_request_s_own_is_passed_unchanged_after_one_attempt",
        ),
    ),
    Case(
        *(41, "error-event-ignored"),
        {
            "an error and nothing more": breaks(
                SPEAKING + named(FLAT),
                SPEAKING,
                "in_stream_error",
                request=RESPONSES,
                repairs={"added_response_failed": 1},
                ending=Told("server_error", "The worker died."),
            ),
            "with an end mark": breaks(
                SPEAKING + named(FLAT) + DONE,
                SPEAKING,
                "in_stream_error",
                request=RESPONSES,
                repairs={"added_response_failed": 1},
                ending=Told("server_error", "The worker died."),
            ),
            "before content": restarted(
                Part(named(CREATED, FLAT)), "in_stream_error", RESPONSE, RESPONSES
            ),
        },
        {
            "an error of an item": passes(
                named(
                    CREATED,
                    {
                        "type": "response.mcp_call.failed",
                        "sequence_number": 1,
                        "error": {"code": "x"},
                    },
                    lifecycle("completed", 2),
                ),
                RESPONSES,
            )
        },
        alike_tests=(
            "tests/core/test_session_endings.py::test_a_native_error_after_content_passes_as_it_came",
        ),
    ),
    Case(
        *(42, "content-filter-abort"),
        {
            "after some words": passes(sse(ROLE, HI, chunk(finish="content_filter")) + DONE),
            "before any": passes(sse(ROLE, chunk(finish="content_filter")) + DONE),
            "before any, where empty answers are asked again": passes(
                sse(ROLE, chunk(finish="content_filter")) + DONE, quirks=EMPTY
            ),
            "of a response": passes(
                named(
                    CREATED,
                    lifecycle("incomplete", 1, incomplete_details={"reason": "content_filter"}),
                ),
                RESPONSES,
            ),
            "told as an error": Tale(
                (Part(sse({"error": {"code": "content_filter", "message": "Filtered."}})),),
                b"",
                Replied(400, "content_filter"),
                ("in_stream_error/before_content/surfaced",),
            ),
            "by a status": Tale((_status(400, _error("content_filter")),), b"", PassedOn()),
        },
        {
            "a filter's results": passes(
                sse({**ROLE, "content_filter_results": {}}, HI, STOP) + DONE
            )
        },
    ),
    Case(
        *(54, "raw-text-error-in-data, html-in-200"),
        {
            "text": breaks(
                BEGUN + b"data: error: The worker died.\n\n",
                BEGUN,
                "in_stream_error",
                ending=Told(says="The worker died."),
            ),
            "text first": restarted(Part(b"data: error: It died.\n\n"), "in_stream_error", ANSWER),
            "any other text": breaks(
                BEGUN + b"data: Internal Server Error\n\n", BEGUN, "malformed_event"
            ),
            "a page": restarted(Part(PAGE), "malformed_event", ANSWER),
            "a page, each time": _given_up(
                Part(PAGE),
                "malformed_event",
                Replied(502, "stream_incomplete", "an HTML page: 502 Bad Gateway"),
            ),
        },
        {
            "an error as text": passes(says("error: The worker died.")),
            "a page as text": passes(says(PAGE.decode())),
        },
    ),
    Case(
        *(55, "proxy-error-inside-event"),
        {
            "an error on the next line": breaks(
                BEGUN + b'data: {"id":"chatcmpl-1","choices":[{"ind\n' + sse(OBJECT),
                BEGUN,
                "malformed_event",
            ),
            "of a response": breaks(
                SPEAKING
                + b'event: response.completed\ndata: {"type":"response.completed","resp\n'
                + sse(FLAT),
                SPEAKING,
                "malformed_event",
                request=RESPONSES,
            ),
        },
        {"an error on the next line, as text": passes(says(f"{{\ndata: {json.dumps(OBJECT)}\n\n"))},
        tests=("tests/test_every_cut.py::test_no_cut_of_any_kind_is_silent",),
    ),
    Case(
        *(56, "overload-as-content"),
        {
            "by default": passes(says(OVERLOADED)),
            "where it is known": restarted(
                Part(says(OVERLOADED)), "in_stream_error", ANSWER, quirks=NOTICE
            ),
            "where it is known, each time": Tale(
                (Part(says(OVERLOADED)),) * 3,
                b"",
                Replied(503, "overloaded", OVERLOADED),
                ("in_stream_error/before_content/restarted",) * 2
                + ("in_stream_error/before_content/surfaced",),
                limits={"quirks": NOTICE},
            ),
        },
        {
            "an answer that only begins so": passes(
                says(f"{OVERLOADED} So they said."), quirks=NOTICE
            ),
            "half of it": passes(says(OVERLOADED[:40]), quirks=NOTICE),
            "an answer that quotes it": passes(says(f'"{OVERLOADED}"'), quirks=NOTICE),
        },
    ),
    Case(
        *(57, "empty-completed"),
        {
            "by default": passes(SILENT, RESPONSES),
            "where it is asked again": restarted(
                Part(SILENT), "empty_stream", RESPONSE, RESPONSES, quirks=EMPTY
            ),
            "of a chat": restarted(
                Part(sse(ROLE, STOP) + DONE), "empty_stream", ANSWER, quirks=EMPTY
            ),
            "a second time it is believed": Tale(
                (Part(sse(ROLE, STOP) + DONE),) * 2,
                sse(ROLE, STOP) + DONE,
                faults=("empty_stream/before_content/restarted",),
                limits={"quirks": EMPTY},
            ),
        },
        {
            "one that a limit stopped": passes(
                sse(ROLE, chunk(finish="length")) + DONE, quirks=EMPTY
            ),
            "one with content": passes(ANSWER, quirks=EMPTY),
        },
    ),
    Case(
        *(61, "prefill-rejected"),
        {
            "the first error is told": Tale(
                (Part(BEGUN), _status(400, _error("invalid", "invalid_request_error", PREFILL))),
                BEGUN,
                Told(says="[clean_eof]"),
                ("clean_eof/mid_content/continued", "http_status/mid_content/surfaced"),
                request=ask(messages=[{"role": "user", "content": "Hi?"}]),
                limits={"continuation": "prefill"},
            ),
        },
        {"the same as text": passes(says(PREFILL))},
        alike_tests=(
            "tests/core/test_splice_continuation.py::test_the_answer_goes_on_without_a_trace",
        ),
    ),
)
