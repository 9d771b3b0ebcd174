"""Healthy answers of an OpenAI-compatible server, as whole SSE events and as JSON.

Knows the shapes of chat completions, completions and responses as recorded from the real
service; ids and texts are invented. Must not know faults, HTTP or attempts at recovery.

Every id, fingerprint and time carries the number of the attempt that it belongs to, so that
a proxy which mixes the identities of two attempts is caught.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from proxy.demo.answers import Asked

TEXT = "Whole streams end well, and a broken one says that it broke."
TOOL_ARGUMENTS = '{"city":"Lisbon","days":3,"units":"metric","alerts":true}'

_TOOL_PIECE = 6
_EPOCH = 1_790_000_000
_DONE = b"data: [DONE]\n\n"
_MADE = re.compile(r".*/responses/resp_demo_(.+)_a([0-9]+)")

Split: TypeAlias = Callable[[str], list[str]]


@dataclass(frozen=True, slots=True)
class Stream:
    """A healthy stream: openers without content, events with content, the ending."""

    opening: tuple[bytes, ...]
    content: tuple[bytes, ...]
    closing: tuple[bytes, ...]

    @property
    def events(self) -> tuple[bytes, ...]:
        """All events in order."""
        return self.opening + self.content + self.closing


def words(text: str) -> list[str]:
    """Split a text into words, each with the space before it."""
    return re.findall(r" ?[^ ]+", text)


def stream_for(asked: Asked, attempt: int, text: str = TEXT, split: Split = words) -> Stream:
    """Return the healthy stream of the endpoint that was asked, a piece of text an event."""
    made = {"responses": responses, "completions": completion}.get(asked.endpoint, chat)
    return made(asked, attempt, text, split)


def json_for(asked: Asked, attempt: int, text: str = TEXT) -> dict[str, Any]:
    """Return the healthy JSON answer of the endpoint that was asked."""
    if asked.endpoint == "responses":
        return _response(asked, attempt, "completed", text)
    usage = _chat_usage(text)
    if asked.endpoint == "completions":
        choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": "stop"}
        return {**_completion_head(asked, attempt), "choices": [choice], "usage": usage}
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    head = {**_chat_head(asked, attempt), "object": "chat.completion"}
    return {**head, "choices": [choice], "usage": usage}


def error_event(asked: Asked, code: str, message: str, kind: str, number: int = 0) -> bytes:
    """Return an error told inside a stream; ``number`` is its sequence number if it has one."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    if asked.endpoint != "responses":
        return _event({"error": error})
    flat = {"code": code, "message": message, "param": None, "sequence_number": number}
    return _event({"type": "error", **flat}, "error")


def made_by(path: str) -> tuple[str, int]:
    """Return the model and the attempt that made the background response of a path."""
    found = _MADE.fullmatch(path)
    return (found[1], int(found[2])) if found else ("", 0)


def payload_of(event: bytes) -> tuple[bytes, bytes]:
    """Split an event of one data line into what stands before its payload, and the payload."""
    head, mark, rest = event.partition(b"data: ")
    return head + mark, rest.rstrip(b"\n")


# --- chat completions and completions -------------------------------------------------------


def chat(asked: Asked, attempt: int, text: str = TEXT, split: Split = words) -> Stream:
    """Return a chat completion of one choice."""
    role = {"role": "assistant", "content": "", "refusal": None}
    return Stream(
        opening=(_chat_chunk(asked, attempt, role),),
        content=tuple(_chat_chunk(asked, attempt, {"content": word}) for word in split(text)),
        closing=_chat_closing(asked, attempt, "stop", text),
    )


def chat_tool(asked: Asked, attempt: int) -> Stream:
    """Return a chat completion that calls one tool, its arguments in small pieces."""
    function = {"name": "get_forecast", "arguments": ""}
    call = {"index": 0, "id": f"call_demo_a{attempt}", "type": "function", "function": function}
    first: dict[str, Any] = {
        "role": "assistant",
        "content": None,
        "tool_calls": [call],
        "refusal": None,
    }
    starts = range(0, len(TOOL_ARGUMENTS), _TOOL_PIECE)
    pieces = [TOOL_ARGUMENTS[start : start + _TOOL_PIECE] for start in starts]
    deltas: list[dict[str, Any]] = [
        {"tool_calls": [{"index": 0, "function": {"arguments": p}}]} for p in pieces
    ]
    return Stream(
        opening=(),
        content=tuple(_chat_chunk(asked, attempt, delta) for delta in [first, *deltas]),
        closing=_chat_closing(asked, attempt, "tool_calls", TOOL_ARGUMENTS),
    )


def completion(asked: Asked, attempt: int, text: str = TEXT, split: Split = words) -> Stream:
    """Return a legacy completion: content from the first event on."""
    closing = [_completion_chunk(asked, attempt, "", "stop")]
    if asked.usage:
        closing.append(_usage_chunk(_completion_head(asked, attempt), text))
    return Stream(
        opening=(),
        content=tuple(_completion_chunk(asked, attempt, word, None) for word in split(text)),
        closing=(*closing, _DONE),
    )


def _chat_head(asked: Asked, attempt: int) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-demo-a{attempt}",
        "object": "chat.completion.chunk",
        "created": _EPOCH + attempt,
        "model": asked.model,
        "service_tier": "default",
        "system_fingerprint": f"fp_demo_a{attempt}",
    }


def _chat_chunk(
    asked: Asked, attempt: int, delta: dict[str, Any], finish: str | None = None
) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    usage = {"usage": None} if asked.usage else {}
    chunk = {**_chat_head(asked, attempt), "choices": [choice], **usage, "obfuscation": "xW3"}
    return _event(chunk)


def _chat_closing(asked: Asked, attempt: int, finish: str, text: str) -> tuple[bytes, ...]:
    closing = [_chat_chunk(asked, attempt, {}, finish)]
    if asked.usage:
        closing.append(_usage_chunk(_chat_head(asked, attempt), text))
    return (*closing, _DONE)


def _usage_chunk(head: dict[str, Any], text: str) -> bytes:
    return _event({**head, "choices": [], "usage": _chat_usage(text)})


def _chat_usage(text: str) -> dict[str, Any]:
    given = len(words(text))
    return {"prompt_tokens": 9, "completion_tokens": given, "total_tokens": 9 + given}


def _completion_head(asked: Asked, attempt: int) -> dict[str, Any]:
    return {
        "id": f"cmpl-demo-a{attempt}",
        "object": "text_completion",
        "created": _EPOCH + attempt,
        "model": asked.model,
    }


def _completion_chunk(asked: Asked, attempt: int, text: str, finish: str | None) -> bytes:
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}
    usage = {"usage": None} if asked.usage else {}
    return _event({**_completion_head(asked, attempt), "choices": [choice], **usage})


# --- responses ------------------------------------------------------------------------------


def responses(asked: Asked, attempt: int, text: str = TEXT, split: Split = words) -> Stream:
    """Return a response of one message, with sequence numbers from 0."""
    at = {"item_id": f"msg_demo_a{attempt}", "output_index": 0, "content_index": 0}
    start = {"response": _response(asked, attempt, "in_progress", text)}
    end = {"response": _response(asked, attempt, "completed", text)}
    opening = [("response.created", start), ("response.in_progress", start)]
    if asked.background:
        queued = {"response": _response(asked, attempt, "queued", text)}
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
    numbered = [
        _event({"type": name, **fields, "sequence_number": number}, name)
        for number, (name, fields) in enumerate([*opening, *content, *closing])
    ]
    first, last = len(opening), len(opening) + len(content)
    return Stream(tuple(numbered[:first]), tuple(numbered[first:last]), tuple(numbered[last:]))


def _response(asked: Asked, attempt: int, status: str, text: str) -> dict[str, Any]:
    done = status == "completed"
    # One that runs on can be asked for again, and its id is all that is asked by.
    maker = f"{asked.model}_" if asked.background else ""
    given = len(words(text))
    usage = {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": given,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 9 + given,
    }
    return {
        "id": f"resp_demo_{maker}a{attempt}",
        "object": "response",
        "created_at": _EPOCH + attempt,
        "status": status,
        "background": asked.background,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": asked.model,
        "output": [_item(attempt, text)] if done else [],
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


# --- both -----------------------------------------------------------------------------------


def _event(value: dict[str, Any], name: str = "") -> bytes:
    data = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return (f"event: {name}\n" if name else "").encode() + f"data: {data}\n\n".encode()
