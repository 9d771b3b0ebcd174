"""Whole events that say too little, too much, it twice, or in another form than was asked for.

Knows the languages of the endpoints. Must not know how their bytes come.
"""

from __future__ import annotations

import math
from typing import Any

from support import (
    ANSWER,
    CREATED,
    CUT,
    DONE,
    HI,
    ROLE,
    STOP,
    ask,
    chunk,
    lifecycle,
    raw,
    spoken,
    sse,
)

from catalogue.tale import (
    BEGUN,
    RESPONSE,
    Case,
    Part,
    Replied,
    Tale,
    Told,
    breaks,
    compact,
    named,
    packed,
    passes,
    restarted,
    says,
    whole,
)
from proxy.core.fault import AttemptEnd, Fault
from proxy.core.policy import Quirks

RESPONSES = ask("responses", store=False)
BACKGROUND = ask("responses", background=True)

# --- choices and fields ---------------------------------------------------------------------

BARE = {"id": "", "object": "", "created": 0, "model": "", "choices": []}
FILTERED = {**BARE, "prompt_filter_results": [{"prompt_index": 0}]}
NO_DELTA = {**BARE, "choices": [{"index": 0, "finish_reason": None, "content_filter_results": {}}]}
STOPPED = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
"""The choice of a chunk that a quirk adds."""
USAGE = {**BARE, "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
AZURE = sse(FILTERED, ROLE, HI, NO_DELTA, STOP) + DONE
NO_CHOICES = Quirks(empty_choices="drop")

FILL = Quirks(fill_fields=True)
FULL_TOP = {"id": "chatcmpl-1", "created": 1, "model": "m", "object": "chat.completion.chunk"}
NULLED = {"id": "chatcmpl-1", "created": 1, "choices": [{"delta": None}]}
CALL = {"id": "call_1", "function": {"name": "f", "arguments": None}}
NULLED_CALL = {**NULLED, "choices": [{"index": 0, "delta": {"tool_calls": [CALL]}}]}


def _full(choice: dict[str, Any]) -> dict[str, Any]:
    """Write a chunk that lacks nothing, its keys in the order in which they are filled in."""
    return {**FULL_TOP, "choices": [choice]}


def _filled(choice: dict[str, Any]) -> dict[str, Any]:
    order = ("id", "created", "choices", "model", "object")
    return {key: {**FULL_TOP, "choices": [choice]}[key] for key in order}


FILLED_CALL = {
    "id": "call_1",
    "function": {"name": "f", "arguments": ""},
    "index": 0,
    "type": "function",
}
LACKING = sse(NULLED, NULLED_CALL, _full({"index": 0, "delta": {}, "finish_reason": "stop"})) + DONE
FILLED = (
    compact(
        _filled({"delta": {}, "index": 0, "finish_reason": None}),
        _filled({"index": 0, "delta": {"tool_calls": [FILLED_CALL]}, "finish_reason": None}),
    )
    + sse(_full({"index": 0, "delta": {}, "finish_reason": "stop"}))
    + DONE
)

_COMPLETED = lifecycle("completed", 2)
NULL = Quirks(nan="null")


def _unlikely(logprob: float | None) -> dict[str, Any]:
    return {**HI, "logprobs": {"content": [{"token": "Hi", "logprob": logprob}]}}


PROGRESS = sse({"tool": "web_search", "status": "running"}, name="hermes.tool.progress")
NAMED = sse(ROLE, HI, STOP, name="message") + DONE

# --- answers in another form ----------------------------------------------------------------

MESSAGE = {"role": "assistant", "content": "Hi"}
CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
FINISHED = {"index": 0, "message": MESSAGE, "finish_reason": "stop"}
COMPLETION = {**CHUNK, "object": "chat.completion", "choices": [FINISHED]}


def _told(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {**CHUNK, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


SPOKEN = {"finish_reason": None, "index": 0, "delta": {"content": "Hi"}}
IN_CHUNKS = (
    compact(
        _told({"role": "assistant", "content": ""}),
        {**CHUNK, "choices": [SPOKEN]},
        _told({}, "stop"),
    )
    + DONE
)
INVALID = {"error": {"message": "top_p", "type": "invalid_request_error", "code": "bad"}}

PART = {"type": "output_text", "text": "Hi", "annotations": []}
ITEM = {"type": "message", "id": "msg_1", "role": "assistant", "content": [PART]}
ITEM |= {"status": "completed"}
ENDED = {"id": "resp_1", "object": "response", "status": "completed", "output": [ITEM]}
AT = {"output_index": 0, "item_id": "msg_1", "content_index": 0}
OPEN_ITEM = {**ITEM, "status": "in_progress", "content": []}
STEPS: tuple[dict[str, Any], ...] = (
    {
        "type": "response.created",
        "response": {**ENDED, "status": "in_progress", "output": [], "usage": None},
    },
    {"type": "response.output_item.added", "output_index": 0, "item": OPEN_ITEM},
    {"type": "response.content_part.added", **AT, "part": {**PART, "text": ""}},
    {"type": "response.output_text.delta", **AT, "delta": "Hi", "logprobs": []},
    {"type": "response.output_text.done", **AT, "text": "Hi", "logprobs": []},
    {"type": "response.content_part.done", **AT, "part": PART},
    {"type": "response.output_item.done", "output_index": 0, "item": ITEM},
    {"type": "response.completed", "response": ENDED},
)
NUMBERED = [{**step, "sequence_number": number} for number, step in enumerate(STEPS)]
IN_EVENTS = packed(*NUMBERED)
"""A whole response, event by event."""

# --- a response that runs on ----------------------------------------------------------------

TORN = named(*NUMBERED[:4])
CLOSED = AttemptEnd(Fault.HTTP_STATUS, status=400, body=raw({"error": {"message": "Too old."}}))
RESUMED = ("cut_between_events/mid_content/resumed", "http_status/mid_content/resumed")

MEANING = (
    Case(
        *(11, "empty-choices"),
        {
            "as Azure sends them": passes(AZURE),
            "where they are to be dropped": whole(
                AZURE,
                sse(ROLE, HI, NO_DELTA, STOP) + DONE,
                None,
                "dropped_empty_choices",
                quirks=NO_CHOICES,
            ),
            "with nothing behind them": restarted(Part(sse(FILTERED)), "clean_eof", ANSWER),
        },
        {"those that count": passes(sse(ROLE, HI, STOP, USAGE) + DONE, quirks=NO_CHOICES)},
    ),
    Case(
        *(23, "missing-finish-reason"),
        {
            "with an end mark": passes(BEGUN + DONE),
            "without one": breaks(BEGUN, BEGUN, "clean_eof"),
            "where one is required": breaks(
                BEGUN + DONE,
                BEGUN,
                "clean_eof",
                limits={"quirks": Quirks(finish_reason="required")},
            ),
            "where one is added": whole(
                BEGUN + DONE,
                BEGUN
                + compact({"id": "chatcmpl-1", "created": 1, "model": "m", "choices": [STOPPED]})
                + DONE,
                None,
                "added_finish_reason",
                quirks=Quirks(finish_reason="added"),
            ),
        },
        {
            "one that came": passes(ANSWER, quirks=Quirks(finish_reason="added")),
            "a spoken answer, which has none": passes(
                sse(ROLE, chunk(audio={"id": "a", "expires_at": 1})) + DONE,
                quirks=Quirks(finish_reason="required"),
            ),
            "half a call, which is not to be run": passes(
                sse(ROLE, chunk(tool_calls=[{"index": 0, "function": {"arguments": "{"}}])) + DONE,
                quirks=Quirks(finish_reason="added"),
            ),
        },
    ),
    Case(
        *(32, "json-body-for-stream, sse-for-json"),
        {
            "a completion": Tale(
                (Part(raw(COMPLETION), document=True),), IN_CHUNKS, repairs={"json_to_sse": 1}
            ),
            "a completion with an end mark": Tale(
                (Part(raw(COMPLETION) + b"\n\n" + DONE, document=True),),
                IN_CHUNKS,
                repairs={"json_to_sse": 1},
            ),
            "a response": Tale(
                (Part(raw(ENDED), document=True),),
                IN_EVENTS,
                repairs={"json_to_sse": 1},
                request=RESPONSES,
            ),
            "an error": Tale(
                (Part(raw(INVALID), document=True),),
                b"",
                Replied(400, "bad", "top_p"),
                ("in_stream_error/before_content/surfaced",),
            ),
            "half an object": restarted(
                Part(raw(COMPLETION)[:-9], document=True), "cut_mid_event", ANSWER
            ),
        },
        {"an object as text": passes(says(str(COMPLETION)))},
        tests=(
            "tests/e2e/test_catalogue_forms.py::test_one_object_for_a_stream_is_told_in_events",
            "tests/e2e/test_catalogue_forms.py::test_events_for_a_request_of_none_become_one_object",
        ),
        alike_tests=(
            "tests/e2e/test_catalogue_forms.py::test_each_form_passes_where_it_was_asked_for",
        ),
    ),
    Case(
        *(34, "terminal-then-open"),
        {
            "behind the end nothing is waited for": Tale((Part(ANSWER),), ANSWER),
            "without an end mark": whole(sse(ROLE, HI, STOP), ANSWER, None, "added_done"),
        },
        {"statistics behind the finish reason": passes(sse(ROLE, HI, STOP, USAGE) + DONE)},
        tests=(
            "tests/e2e/test_latency_and_leaving.py::test_the_end_does_not_wait_for_the_upstream_s",
            "tests/e2e/test_catalogue_edges.py::test_a_body_that_is_left_open_is_ended",
        ),
        alike_tests=(
            "tests/e2e/test_catalogue_edges.py::test_statistics_that_come_late_are_waited_for",
        ),
    ),
    Case(
        *(36, "usage-after-finish"),
        {
            "behind the finish reason": passes(sse(ROLE, HI, STOP, USAGE) + DONE),
            "with every chunk": passes(
                sse(*({**said, "usage": USAGE["usage"]} for said in (ROLE, HI, STOP))) + DONE
            ),
            "without an end mark": whole(
                sse(ROLE, HI, STOP, USAGE), sse(ROLE, HI, STOP, USAGE) + DONE, None, "added_done"
            ),
            "alone it is no content": restarted(Part(sse(USAGE)), "clean_eof", ANSWER),
        },
        {"no usage": passes(sse(ROLE, HI, {**STOP, "usage": None}) + DONE)},
    ),
    Case(
        *(39, "null-or-missing-fields"),
        {
            "as they come": passes(LACKING),
            "where they are filled in": whole(
                LACKING, FILLED, None, *("filled_fields",) * 2, quirks=FILL
            ),
        },
        {
            "chunks that lack nothing": passes(
                sse(
                    _full({"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}),
                    _full({"index": 0, "delta": {}, "finish_reason": "stop"}),
                )
                + DONE,
                quirks=FILL,
            )
        },
    ),
    Case(
        *(40, "unknown-event-name"),
        {
            "of a chunk": whole(NAMED, ANSWER, None, *("dropped_event_name",) * 3),
            "of something else": whole(
                sse(ROLE) + PROGRESS + sse(HI) + PROGRESS + sse(STOP) + DONE,
                ANSWER,
                None,
                *("dropped_foreign_event",) * 2,
            ),
            "where they are let pass": passes(
                PROGRESS + NAMED, quirks=Quirks(foreign_events="pass")
            ),
            "alone it is no answer": Tale(
                (Part(PROGRESS), Part(ANSWER)),
                ANSWER,
                faults=("empty_stream/before_content/restarted",),
                repairs={"dropped_foreign_event": 1},
            ),
        },
        {
            "new names of a response": passes(
                named(CREATED, {"type": "response.new", "sequence_number": 1}, _COMPLETED),
                RESPONSES,
            ),
            "chunks of another kind, without a name": passes(
                sse(ROLE, {"moderation": {}}, HI, STOP) + DONE
            ),
        },
    ),
    Case(
        *(48, "duplicate-deltas"),
        {
            "with the same number": whole(
                named(CREATED, CREATED, spoken(1), spoken(1), _COMPLETED),
                RESPONSE,
                RESPONSES,
                *("dropped_duplicate",) * 2,
            ),
            "of a chat": passes(sse(ROLE, HI, HI, STOP) + DONE),
        },
        {
            "the same word twice": passes(
                named(CREATED, spoken(1), spoken(2), lifecycle("completed", 3)), RESPONSES
            ),
            "other words with the same number": passes(
                named(CREATED, spoken(1), spoken(1, "Ho"), _COMPLETED), RESPONSES
            ),
        },
    ),
    Case(
        *(49, "resume-window-closed"),
        {
            "the response has ended": Tale(
                (Part(TORN, CUT), Part(end=CLOSED, head=False), Part(raw(ENDED))),
                TORN + packed(*NUMBERED[4:]),
                faults=RESUMED,
                request=BACKGROUND,
            ),
            "the response runs on": Tale(
                (
                    Part(TORN, CUT),
                    Part(end=CLOSED, head=False),
                    Part(raw({**ENDED, "status": "in_progress"})),
                ),
                TORN,
                Told(says="[cut_between_events]"),
                (*RESUMED, "clean_eof/mid_content/surfaced"),
                request=BACKGROUND,
            ),
        },
        {"a response in the background": passes(IN_EVENTS, BACKGROUND)},
        tests=(
            "tests/e2e/test_recovery_background.py::test_where_the_window_is_closed_one_poll_completes_the_answer",
        ),
        alike_tests=(
            "tests/e2e/test_recovery_background.py::test_a_background_response_is_resumed_at_every_event_and_again",
        ),
    ),
    Case(
        *(62, "nan-infinity"),
        {
            "as it comes": passes(
                sse(ROLE, _unlikely(-math.inf), _unlikely(math.nan), STOP) + DONE
            ),
            "where it is to be null": whole(
                sse(ROLE, _unlikely(-math.inf), _unlikely(math.nan), STOP) + DONE,
                sse(ROLE) + compact(_unlikely(None), _unlikely(None)) + sse(STOP) + DONE,
                None,
                *("nan_to_null",) * 2,
                quirks=NULL,
            ),
        },
        {
            "the same as text": passes(says("NaN, Infinity"), quirks=NULL),
            "a number that JSON has": passes(
                sse(ROLE, _unlikely(-9999.0), STOP) + DONE, quirks=NULL
            ),
        },
    ),
)
