"""From a finished response to the events that tell it: nothing left out, nothing invented."""

from __future__ import annotations

from typing import Any

import pytest
from support import STREAMS, ask, payloads, raw

from proxy.core.grammars import grammar_for
from proxy.core.grammars import unroll as telling
from proxy.core.grammars.base import Kind
from proxy.core.sse import Event

LARGEST = 2**20
RESPONSE = {"id": "resp_1", "object": "response", "status": "completed", "output": []}


def unroll(response: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all events of a response."""
    return list(telling.unroll(response))


def finished(*output: Any, **fields: Any) -> dict[str, Any]:
    """Return a response that has ended."""
    return {**RESPONSE, "output": list(output), **fields}


def told(*output: Any) -> list[dict[str, Any]]:
    """Return the events of the items, without the lifecycle around them and their numbers."""
    events = unroll(finished(*output))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    inner = events[1:-1]
    return [{k: v for k, v in event.items() if k != "sequence_number"} for event in inner]


def kinds(*output: Any) -> list[str]:
    """Return the types of the items' events."""
    return [event["type"].removeprefix("response.") for event in told(*output)]


def heard(events: list[dict[str, Any]]) -> dict[tuple[Any, ...], str]:
    """Add up the deltas of events, slot by slot, as a client does."""
    texts: dict[tuple[Any, ...], str] = {}
    for event in events:
        if "delta" in event:
            parts = (event["output_index"], event.get("content_index"), event.get("summary_index"))
            slot = (event["type"], *parts)
            texts[slot] = texts.get(slot, "") + event["delta"]
    return texts


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed"])
def test_a_response_that_has_ended_is_told_from_created_to_its_end(status: str) -> None:
    """The last event has the whole object, as the stream's would."""
    response = finished(status=status, usage={"total_tokens": 3})
    first, last = unroll(response)
    assert first == {
        "type": "response.created",
        "response": {**response, "status": "in_progress", "usage": None},
        "sequence_number": 0,
    }
    assert last == {"type": f"response.{status}", "response": response, "sequence_number": 1}


@pytest.mark.parametrize(
    "response",
    [{}, {"status": "queued"}, {"status": "in_progress"}, {"status": None}, {"status": []}],
)
def test_a_response_that_runs_on_has_nothing_to_tell(response: dict[str, Any]) -> None:
    """Its end is not known yet."""
    assert unroll(response) == []


def test_the_answer_is_not_told_before_its_time() -> None:
    """A response that has just been created has no output yet."""
    first, *_ = unroll(finished({"type": "message", "content": []}))
    assert first["response"]["output"] == []


def test_a_message_is_opened_spoken_and_closed() -> None:
    """Every event has the places and ids of its item and part."""
    part = {"type": "output_text", "text": "Ahoy", "annotations": []}
    item = {"id": "msg_1", "type": "message", "status": "completed", "content": [part]}
    at = {"output_index": 0, "item_id": "msg_1", "content_index": 0}
    opened = {**item, "status": "in_progress", "content": []}
    assert told(item) == [
        {"type": "response.output_item.added", "output_index": 0, "item": opened},
        {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
        {"type": "response.output_text.delta", **at, "delta": "Ahoy", "logprobs": []},
        {"type": "response.output_text.done", **at, "text": "Ahoy", "logprobs": []},
        {"type": "response.content_part.done", **at, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
    ]


@pytest.mark.parametrize(
    ("kind", "field", "name"),
    [
        ("function_call", "arguments", "function_call_arguments"),
        ("custom_tool_call", "input", "custom_tool_call_input"),
        ("mcp_call", "arguments", "mcp_call_arguments"),
        ("code_interpreter_call", "code", "code_interpreter_call_code"),
    ],
)
def test_a_call_is_told_with_the_text_that_it_streams(kind: str, field: str, name: str) -> None:
    """Opened without it, closed with it."""
    item = {"id": "c_1", "type": kind, "status": "completed", field: '{"a":1}'}
    at = {"output_index": 0, "item_id": "c_1"}
    assert told(item) == [
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**item, "status": "in_progress", field: ""},
        },
        {"type": f"response.{name}.delta", **at, "delta": '{"a":1}'},
        {"type": f"response.{name}.done", **at, field: '{"a":1}'},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
    ]


def test_reasoning_is_told_with_its_summary() -> None:
    """Summary parts have their own family of events, contents the usual one."""
    item = {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "so"}, {"type": "summary_text", "text": ""}],
        "content": [{"type": "reasoning_text", "text": "hm"}],
    }
    assert kinds(item) == [
        "output_item.added",
        *("content_part.added", "reasoning_text.delta", "reasoning_text.done", "content_part.done"),
        "reasoning_summary_part.added",
        *("reasoning_summary_text.delta", "reasoning_summary_text.done"),
        "reasoning_summary_part.done",
        *("reasoning_summary_part.added", "reasoning_summary_text.done"),
        "reasoning_summary_part.done",
        "output_item.done",
    ]
    assert [event["summary_index"] for event in told(item) if "summary_index" in event] == [
        *(0, 0, 0, 0),
        *(1, 1, 1),
    ]


def test_a_refusal_is_told_under_its_own_name() -> None:
    """Its text stands in another field."""
    refusal = {"type": "refusal", "refusal": "No."}
    events = told({"type": "message", "content": [refusal]})
    assert events[1]["part"] == {"type": "refusal", "refusal": ""}
    assert events[2]["type"] == "response.refusal.delta"
    assert events[3]["refusal"] == "No."


@pytest.mark.parametrize(
    "item",
    [
        {"type": "web_search_call", "id": "ws_1", "action": {"query": "q"}},
        {"type": "function_call"},
        {"type": "function_call", "arguments": None},
        {"type": "vendor.item"},
        {"type": []},
        {"type": "message", "content": "text"},
        {"type": "message", "content": [5, None]},
        {},
    ],
    ids=str,
)
def test_an_item_without_streamed_texts_is_opened_and_closed(item: dict[str, Any]) -> None:
    """What it holds is in its end."""
    assert kinds(item) == ["output_item.added", "output_item.done"]
    assert told(item)[-1]["item"] == item


@pytest.mark.parametrize(
    "part", [{"type": "output_image", "url": "u"}, {"type": []}, {"type": "output_text", "text": 5}]
)
def test_a_part_without_a_streamed_text_is_opened_and_closed(part: dict[str, Any]) -> None:
    """It comes whole."""
    events = told({"type": "message", "content": [part]})
    middle = [event["type"] for event in events[1:-1]]
    assert middle == ["response.content_part.added", "response.content_part.done"]
    assert events[-2]["part"] == part


@pytest.mark.parametrize("output", [None, 5, {}, "text", [5, None, "text"]])
def test_an_output_of_another_shape_has_no_items(output: Any) -> None:
    """The two lifecycle events are left."""
    assert len(unroll({**RESPONSE, "output": output})) == 2


def test_items_keep_their_places_past_what_is_no_item() -> None:
    """The index is that in the list."""
    events = told({"type": "a"}, None, {"type": "b"})
    assert [event["output_index"] for event in events] == [0, 0, 2, 2]


@pytest.mark.parametrize("name", ["text", "background", "function-call"])
def test_the_end_of_a_stream_unrolls_to_what_the_stream_said(name: str) -> None:
    """Texts add up to the same, and the grammar takes every event to the terminal one."""
    stream = payloads(STREAMS[f"responses-{name}"])
    response = stream[-1]["response"]
    events = unroll(response)
    assert heard(events) == heard(stream)
    grammar = grammar_for(ask("responses"))
    read = [grammar.read(Event(b"", raw(event))) for event in events]
    assert read == [*[Kind.EVENT] * (len(events) - 1), Kind.TERMINAL]


def test_a_grammar_names_the_events_that_it_unrolls() -> None:
    """As the stream's own are named; what is no document has none."""
    grammar = grammar_for(ask("responses"))
    names = [event.name for event in grammar.unroll(raw(RESPONSE), LARGEST)]
    assert names == [b"response.created", b"response.completed"]
    for data in (b"", b"5", b"<html>", b"{}", b"\xff"):
        assert grammar.unroll(data, LARGEST) == []
