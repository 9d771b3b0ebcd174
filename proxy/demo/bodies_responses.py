"""Healthy responses, streamed and whole, and the parts of those that run in the background.

Knows their shapes as recorded from the real service; ids and texts are invented. Must not know
faults, HTTP or attempts at recovery.
"""

from __future__ import annotations

import re
from typing import Any

from proxy.demo.answers import Asked
from proxy.demo.shapes import EPOCH, TEXT, Split, Stream, event, input_output, words

_MADE = re.compile(r".*/responses/resp_demo_(.+)_a([0-9]+)")


def made_by(path: str) -> tuple[str, int]:
    """Return the model and the attempt that made the background response of a path."""
    found = _MADE.fullmatch(path)
    return (found[1], int(found[2])) if found else ("", 0)


def responses(asked: Asked, attempt: int, text: str = TEXT, split: Split = words) -> Stream:
    """Return a response of one message, or none without a text; numbered from 0."""
    at = {"item_id": f"msg_demo_a{attempt}", "output_index": 0, "content_index": 0}
    start = {"response": response(asked, attempt, "in_progress", text)}
    end = {"response": response(asked, attempt, "completed", text)}
    opening = [("response.created", start), ("response.in_progress", start)]
    if asked.background:
        queued = {"response": response(asked, attempt, "queued", text)}
        opening[:1] = [("response.created", queued), ("response.queued", queued)]
    content: list[tuple[str, dict[str, Any]]] = [
        ("response.output_item.added", {"output_index": 0, "item": _item(attempt, None)}),
        ("response.content_part.added", {**at, "part": _part("")}),
    ]
    content += [
        ("response.output_text.delta", {**at, "delta": word, "logprobs": []})
        for word in split(text)
    ]
    closing: list[tuple[str, dict[str, Any]]] = [
        ("response.output_text.done", {**at, "text": text, "logprobs": []}),
        ("response.content_part.done", {**at, "part": _part(text)}),
        ("response.output_item.done", {"output_index": 0, "item": _item(attempt, text)}),
        ("response.completed", end),
    ]
    if not text:
        content, closing = [], closing[-1:]
    numbered = [
        event({"type": name, **fields, "sequence_number": number}, name)
        for number, (name, fields) in enumerate([*opening, *content, *closing])
    ]
    first, last = len(opening), len(opening) + len(content)
    return Stream(tuple(numbered[:first]), tuple(numbered[first:last]), tuple(numbered[last:]))


def response(asked: Asked, attempt: int, status: str, text: str) -> dict[str, Any]:
    """Return the object that a response is, in one of its states."""
    done = status == "completed"
    # One that runs on can be asked for again, and its id is all that is asked by.
    maker = f"{asked.model}_" if asked.background else ""
    usage = {
        **input_output(text),
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    return {
        "id": f"resp_demo_{maker}a{attempt}",
        "object": "response",
        "created_at": EPOCH + attempt,
        "status": status,
        "background": asked.background,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": asked.model,
        "output": [_item(attempt, text)] if done and text else [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage if done else None,
        "metadata": {},
    }


def _item(attempt: int, text: str | None) -> dict[str, Any]:
    return {
        "id": f"msg_demo_a{attempt}",
        "type": "message",
        "status": "in_progress" if text is None else "completed",
        "content": [] if text is None else [_part(text)],
        "role": "assistant",
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
