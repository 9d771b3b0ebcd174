"""Faults of the transport, and of where an answer ends.

Knows the bytes as they are after HTTP's own framing was taken off. Must not know sockets: a case
whose fault is made of more than bytes names the test that has them.
"""

from __future__ import annotations

from typing import Any

from support import ANSWER, CLEAN, CUT, DONE, HI, RESET, ROLE, STOP, ask, chunk, sse

from catalogue.tale import (
    BEGUN,
    RESPONSE,
    SPEAKING,
    Case,
    Part,
    Replied,
    Tale,
    Told,
    breaks,
    compact,
    passes,
    restarted,
    says,
    whole,
)
from proxy.core.fault import AttemptEnd, Fault
from proxy.core.policy import Quirks

STALL = AttemptEnd(Fault.STALL, silence_s=300.0)
SILENT = AttemptEnd(Fault.FIRST_EVENT_TIMEOUT, silence_s=300.0)
REFUSED = AttemptEnd(Fault.CONNECT_ERROR)
STALE = AttemptEnd(Fault.RESET, stale=True)

COLD = ask(temperature=0)
RESPONSES = ask("responses", store=False)
HALF = b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"Hel'
OTHER_PIECES = sse(ROLE, chunk(content="H"), chunk(content="i there"), STOP) + DONE
JOINED = BEGUN + compact(chunk(content=" there"), STOP) + DONE


def _joined(first: bytes, fault: str, end: AttemptEnd = CLEAN) -> Tale:
    """Break an answer after content, and make it whole by one that says the same."""
    parts = (Part(first, end), Part(OTHER_PIECES))
    return Tale(parts, JOINED, faults=(f"{fault}/mid_content/replayed",), request=COLD)


def _call(arguments: str, finish: str | None = None) -> dict[str, Any]:
    call = {"index": 0, "function": {"arguments": arguments}}
    return chunk(tool_calls=[call], finish=finish)


def _cut_at(age_s: float) -> AttemptEnd:
    return AttemptEnd(Fault.CUT_BETWEEN_EVENTS, age_s=age_s)


OPENED = {"index": 0, "id": "call_1", "type": "function"}
CALL = chunk(
    role="assistant", tool_calls=[{**OPENED, "function": {"name": "weather", "arguments": ""}}]
)
CALLED = sse(CALL, _call('{"city":'), _call('"Lisbon"}'), chunk(finish="tool_calls")) + DONE
SHORT = sse(CALL, _call('{"city":'), _call('"Lis'))
LENGTH = Quirks(tool_arguments="length")

ENDS = (
    Case(
        *(1, "clean-eof-no-terminal"),
        {
            "after content": breaks(BEGUN, BEGUN, "clean_eof"),
            "of a response": breaks(SPEAKING, SPEAKING, "clean_eof", request=RESPONSES),
            "before content": restarted(Part(sse(ROLE)), "clean_eof", ANSWER),
            "of an answer that can be asked for again": _joined(BEGUN, "clean_eof"),
        },
        {
            "an answer that ends in mid-sentence and says so": passes(
                sse(ROLE, chunk(content="Hi and"), chunk(finish="length")) + DONE
            ),
            "a response that is incomplete and says so": passes(
                RESPONSE.replace(b"response.completed", b"response.incomplete"), RESPONSES
            ),
        },
    ),
    Case(
        *(2, "mid-chunk-cut"),
        {
            "after content": breaks(BEGUN + HALF, BEGUN, "cut_mid_event", CUT),
            "inside of a character": breaks(
                BEGUN + HALF + b"\xe2\x82", BEGUN, "cut_mid_event", CUT
            ),
            "in the name of an event": breaks(
                SPEAKING + b"event: respon", SPEAKING, "cut_mid_event", CUT, request=RESPONSES
            ),
            "before content": restarted(Part(HALF, CUT), "cut_mid_event", ANSWER),
            "of an answer that can be asked for again": _joined(BEGUN + HALF, "cut_mid_event", CUT),
        },
        {"JSON that breaks off, as text": passes(says('{"choices":[{"index":0,"del'))},
        tests=(
            "tests/test_every_cut.py::test_no_cut_of_any_kind_is_silent",
            "tests/e2e/test_cuts_on_the_wire.py::test_a_chat_cut_at_every_byte_never_ends_silently",
        ),
    ),
    Case(
        *(7, "upstream-stall-open"),
        {
            "after content": breaks(BEGUN, BEGUN, "stall", STALL),
            "inside of an event": breaks(BEGUN + HALF, BEGUN, "stall", STALL),
            "with comments": breaks(
                BEGUN + b": ping\n\n", BEGUN, "stall", STALL, repairs={"dropped_comment": 1}
            ),
            "before the headers": restarted(
                Part(end=SILENT, head=False), "first_event_timeout", ANSWER
            ),
            "before the first event": restarted(Part(end=SILENT), "first_event_timeout", ANSWER),
            "behind the opener": restarted(Part(sse(ROLE), STALL), "stall", ANSWER),
        },
        {"an answer that comes late": passes(ANSWER)},
        tests=("tests/e2e/test_restarts.py::test_comments_do_not_count_as_a_first_event",),
        alike_tests=(
            "tests/e2e/test_latency_and_leaving.py::test_a_slow_client_is_not_taken_for_a_stalled_upstream",
        ),
    ),
    Case(
        *(12, "tool-args-truncated"),
        {
            "cut in the arguments": breaks(SHORT, SHORT, "clean_eof"),
            "cut in an event of them": breaks(
                sse(CALL, _call('{"ci')) + HALF,
                sse(CALL, _call('{"ci')),
                "cut_mid_event",
                CUT,
            ),
            "held until it is complete": restarted(
                Part(SHORT), "clean_eof", CALLED, hold="tool_calls"
            ),
            "called finished": passes(SHORT + sse(chunk(finish="tool_calls")) + DONE),
            "called finished, where that is not believed": whole(
                SHORT + sse(chunk(finish="tool_calls")) + DONE,
                SHORT + compact(chunk(finish="length")) + DONE,
                None,
                "rewrote_finish_reason",
                quirks=LENGTH,
            ),
        },
        {
            "arguments that are whole": passes(CALLED, quirks=LENGTH),
            "a call without any": passes(
                sse(CALL, chunk(finish="tool_calls")) + DONE, quirks=LENGTH
            ),
        },
        tests=("tests/e2e/test_recovery_holds.py::test_half_a_tool_call_is_never_seen",),
    ),
    Case(
        *(13, "missing-done"),
        {
            "after every finish reason": whole(sse(ROLE, HI, STOP), ANSWER, None, "added_done"),
            "where the connection breaks": Tale(
                (Part(sse(ROLE, HI, STOP), CUT),),
                ANSWER,
                faults=("cut_between_events/after_terminal/repaired",),
                repairs={"added_done": 1},
            ),
            "while a choice is open": breaks(
                sse(HI, chunk(index=1, content="Ho"), STOP),
                sse(HI, chunk(index=1, content="Ho"), STOP),
                "clean_eof",
                request=ask(n=2),
            ),
        },
        {
            "an end mark in the text": passes(says("The end is data: [DONE] and nothing else")),
            "a response, which has none": passes(RESPONSE, RESPONSES),
        },
    ),
    Case(
        *(15, "tcp-reset"),
        {
            "after content": breaks(BEGUN, BEGUN, "reset", RESET),
            "inside of an event": breaks(BEGUN + HALF, BEGUN, "reset", RESET),
            "before the headers": restarted(Part(end=RESET, head=False), "reset", ANSWER),
            "of an answer that can be asked for again": _joined(BEGUN, "reset", RESET),
            "where nobody listens": restarted(
                Part(end=REFUSED, head=False), "connect_error", ANSWER
            ),
        },
        {"an answer about resets": passes(says("read ECONNRESET"))},
        tests=(
            "tests/edge/test_upstream_breaks.py::test_all_that_came_before_a_break_is_returned_before_it",
        ),
        alike_tests=(
            "tests/edge/test_upstream_breaks.py::test_a_whole_body_is_no_break_whatever_the_connection_does_then",
        ),
    ),
    Case(
        *(16, "retry-duplicates-output"),
        {
            "what was given is given once": _joined(BEGUN, "clean_eof"),
            "an answer in other words gives nothing": Tale(
                (Part(BEGUN), Part(says("Ho there"))),
                BEGUN,
                Told(says="another answer did not fit"),
                ("clean_eof/mid_content/surfaced",),
                request=COLD,
            ),
            "one that may differ is not asked for": breaks(BEGUN, BEGUN, "clean_eof"),
            "openers that were given are not repeated": Tale(
                (Part(sse(ROLE)), Part(ANSWER)),
                sse(ROLE) + compact(HI, STOP) + DONE,
                faults=("clean_eof/before_content/restarted",),
                committed=True,
            ),
        },
        {"an answer that repeats itself": passes(sse(ROLE, HI, HI, HI, STOP) + DONE, COLD)},
        tests=("tests/e2e/test_recovery_sockets.py::test_every_place_of_a_cut_is_mended",),
    ),
    Case(
        *(17, "conn-reuse-race"),
        {
            "at once and for free": restarted(
                Part(end=STALE, head=False), "reset", ANSWER, max_attempts=1
            )
        },
        {"an answer on a connection that is used again": passes(ANSWER)},
        tests=(
            "tests/e2e/test_restarts.py::test_pooled_connections_that_went_stale_are_invisible_and_free",
        ),
        alike_tests=(
            "tests/edge/test_upstream_breaks.py::test_a_pooled_connection_that_dies_before_any_answer_was_stale",
        ),
    ),
    Case(
        *(22, "empty-200"),
        {
            "no byte": restarted(Part(), "empty_stream", ANSWER),
            "the end mark alone": restarted(Part(DONE), "empty_stream", ANSWER),
            "comments alone, each time": Tale(
                (Part(b": a\n\n"), Part(b": b\n\n"), Part(b": c\n\n")),
                b"",
                Replied(502, "empty_stream"),
                ("empty_stream/before_content/restarted",) * 2
                + ("empty_stream/before_content/surfaced",),
                {"dropped_comment": 3},
            ),
        },
        {"an answer that says nothing and finishes": passes(sse(ROLE, STOP) + DONE)},
    ),
    Case(
        *(25, "synthetic-done-masks-cut"),
        {
            "none is added": breaks(BEGUN, BEGUN, "clean_eof"),
            "one that a gateway added": breaks(
                sse(ROLE, HI) + DONE,
                BEGUN,
                "clean_eof",
                limits={"quirks": Quirks(finish_reason="required")},
            ),
            "one behind an open choice": breaks(
                sse(HI, chunk(index=1, content="Ho"), STOP) + DONE,
                sse(HI, chunk(index=1, content="Ho"), STOP),
                "clean_eof",
            ),
            "one in an unfinished response": breaks(
                SPEAKING + DONE,
                SPEAKING,
                "clean_eof",
                request=RESPONSES,
                repairs={"dropped_done": 1},
            ),
        },
        {
            "one that every choice deserves": passes(
                sse(HI, chunk(index=1, content="Ho"), STOP, chunk(index=1, finish="stop")) + DONE,
                ask(n=2),
                quirks=Quirks(finish_reason="required"),
            )
        },
        tests=("tests/test_every_cut.py::test_no_cut_of_any_kind_is_silent",),
    ),
    Case(
        *(33, "hard-lifetime-cap"),
        {
            "twice at the same age": Tale(
                (Part(sse(ROLE), _cut_at(180.0)), Part(sse(ROLE), _cut_at(180.5))),
                b"",
                Replied(502, "stream_incomplete", "cut twice at the same age, 180 s"),
                (
                    "cut_between_events/before_content/restarted",
                    "cut_between_events/before_content/surfaced",
                ),
            ),
            "after content": Tale(
                (Part(BEGUN, _cut_at(180.0)), Part(sse(ROLE, chunk(content="H")), _cut_at(180.5))),
                BEGUN,
                Told(says="cut twice at the same age"),
                (
                    "cut_between_events/mid_content/replayed",
                    "cut_between_events/mid_content/surfaced",
                ),
                request=COLD,
            ),
            "at other ages it is none": Tale(
                (
                    Part(sse(ROLE), _cut_at(30.0)),
                    Part(sse(ROLE), _cut_at(180.0)),
                    Part(ANSWER, AttemptEnd(age_s=400.0)),
                ),
                ANSWER,
                faults=("cut_between_events/before_content/restarted",) * 2,
            ),
        },
        {"a whole answer that took long": passes(ANSWER)},
        alike_tests=(
            "tests/core/test_course.py::test_only_cuts_of_an_answer_that_ran_have_an_age",
        ),
    ),
    Case(
        *(35, "cut-after-terminal"),
        {
            "with half an event behind the end": whole(ANSWER + HALF, ANSWER),
            "a cut": Tale(
                (Part(ANSWER, CUT),),
                ANSWER,
                faults=("cut_between_events/after_terminal/swallowed",),
            ),
            "a reset": Tale(
                (Part(ANSWER, RESET),), ANSWER, faults=("reset/after_terminal/swallowed",)
            ),
            "of a response": Tale(
                (Part(RESPONSE, RESET),),
                RESPONSE,
                faults=("reset/after_terminal/swallowed",),
                request=RESPONSES,
            ),
        },
        {"a proper end": passes(ANSWER)},
    ),
    Case(
        *(38, "http2-reset-goaway"),
        {
            "as a cut": breaks(BEGUN, BEGUN, "cut_between_events", CUT),
            "as a reset": breaks(BEGUN, BEGUN, "reset", RESET),
            "as a clean end": breaks(BEGUN, BEGUN, "clean_eof"),
            "before content": restarted(Part(sse(ROLE), CUT), "cut_between_events", ANSWER),
            "of an answer that can be asked for again": _joined(BEGUN, "cut_between_events", CUT),
        },
        {"an answer about it": passes(says("stream error: stream ID 53; INTERNAL_ERROR"))},
        alike_tests=(
            "tests/edge/test_upstream_breaks.py::test_a_whole_body_is_no_break_whatever_the_connection_does_then",
        ),
    ),
    Case(
        *(43, "rolling-deploy-cut"),
        {
            "before content": restarted(Part(sse(ROLE), CUT), "cut_between_events", ANSWER),
            "while nobody listens": restarted(
                Part(end=REFUSED, head=False), "connect_error", ANSWER
            ),
            "told politely": restarted(Part(sse(ROLE)), "clean_eof", ANSWER),
            "after content": breaks(BEGUN, BEGUN, "cut_between_events", CUT),
        },
        {"an answer that was let finish": passes(ANSWER)},
        tests=(
            "tests/e2e/test_restarts.py::test_a_connection_refused_until_the_upstream_is_up_is_invisible",
            "tests/e2e/test_drain.py::test_a_drain_lets_streams_finish_and_ends_the_rest_loudly",
        ),
    ),
    Case(
        *(47, "tls-eof-no-close-notify"),
        {
            "before the end": breaks(BEGUN, BEGUN, "cut_between_events", CUT),
            "behind the end": Tale(
                (Part(ANSWER, CUT),),
                ANSWER,
                faults=("cut_between_events/after_terminal/swallowed",),
            ),
        },
        tests=("tests/e2e/test_catalogue_tls.py::test_a_cut_of_tls_is_a_cut",),
        alike_tests=(
            "tests/e2e/test_catalogue_tls.py::test_a_whole_answer_is_whole_however_tls_ends",
        ),
    ),
    Case(
        *(58, "close-delimited-body"),
        {
            "without its end": breaks(BEGUN, BEGUN, "clean_eof"),
            "inside of an event": breaks(BEGUN + HALF, BEGUN, "cut_mid_event"),
            "before content": restarted(Part(sse(ROLE)), "clean_eof", ANSWER),
        },
        {"a whole one": passes(ANSWER)},
        tests=(
            "tests/e2e/test_cuts_on_the_wire.py::test_a_stream_cut_around_every_border_never_ends_silently",
        ),
        alike_tests=(
            "tests/e2e/test_catalogue_edges.py::test_a_body_that_the_close_ends_is_whole_where_its_answer_is",
        ),
    ),
)
