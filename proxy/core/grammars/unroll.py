"""From a finished response, as a poll returns it, to the events that tell it.

A response that can no longer be streamed can still be fetched. Its object holds every text
whole, so the events that a stream would have had can be made from it; deltas are not cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_TERMINALS = frozenset({"completed", "incomplete", "failed"})
"""The ends that a stream has an event for; a cancelled response has none."""

_TEXTS = {"output_text": "text", "refusal": "refusal", "reasoning_text": "text"}
"""Content parts that are streamed, and where their text stands."""

_CALLS = {
    "function_call": ("function_call_arguments", "arguments"),
    "custom_tool_call": ("custom_tool_call_input", "input"),
    "mcp_call": ("mcp_call_arguments", "arguments"),
    "code_interpreter_call": ("code_interpreter_call_code", "code"),
}
"""Items with one streamed text: the name of its events, and where it stands."""


def unroll(response: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Tell the events of a response that has ended one by one; none if it has not."""
    status = str(response.get("status"))
    events = _events(response, status) if status in _TERMINALS else ()
    for number, event in enumerate(events):
        yield {**event, "sequence_number": number}


def _events(response: dict[str, Any], status: str) -> Iterator[dict[str, Any]]:
    opened = {**response, "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": opened}
    output = response.get("output")
    for place, item in enumerate(output if isinstance(output, list) else []):
        if isinstance(item, dict):
            yield from _item(item, place)
    yield {"type": f"response.{status}", "response": response}


def _item(item: dict[str, Any], place: int) -> Iterator[dict[str, Any]]:
    at = {"output_index": place}
    opened = {**item, "status": "in_progress"}
    lists = [key for key in ("content", "summary") if isinstance(item.get(key), list)]
    opened.update({key: [] for key in lists})
    name, field = _CALLS.get(str(item.get("type")), ("", ""))
    if field in item:
        opened[field] = ""
    yield {"type": "response.output_item.added", **at, "item": opened}
    at["item_id"] = item.get("id", "")
    if isinstance(item.get(field), str):
        yield from _text(f"response.{name}", field, item[field], at)
    for key in lists:
        for index, part in enumerate(item[key]):
            if isinstance(part, dict):
                yield from _part(key, part, {**at, f"{key}_index": index})
    yield {"type": "response.output_item.done", "output_index": place, "item": item}


def _part(key: str, part: dict[str, Any], at: dict[str, Any]) -> Iterator[dict[str, Any]]:
    summary = key == "summary"
    family = "response.reasoning_summary_part" if summary else "response.content_part"
    name = str(part.get("type"))
    field = "text" if summary else _TEXTS.get(name, "")
    text = part.get(field)
    yield {"type": f"{family}.added", **at, "part": {**part, field: ""} if field else part}
    if isinstance(text, str):
        stem = "reasoning_summary_text" if summary else name
        yield from _text(f"response.{stem}", field, text, at)
    yield {"type": f"{family}.done", **at, "part": part}


def _text(stem: str, field: str, text: str, at: dict[str, Any]) -> Iterator[dict[str, Any]]:
    # Both official SDKs have this as required.
    more: dict[str, Any] = {"logprobs": []} if stem == "response.output_text" else {}
    if text:
        yield {"type": f"{stem}.delta", **at, "delta": text, **more}
    yield {"type": f"{stem}.done", **at, field: text, **more}
