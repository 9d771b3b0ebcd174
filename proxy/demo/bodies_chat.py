"""Healthy chat completions and legacy completions, streamed and whole.

Knows their shapes as recorded from the real service; ids and texts are invented. Must not know
faults, HTTP or attempts at recovery.
"""

from __future__ import annotations

from typing import Any

from proxy.demo.answers import Asked
from proxy.demo.shapes import DONE, EPOCH, PROMPT_UNITS, TEXT, Split, Stream, event, words

TOOL_ARGUMENTS = '{"city":"Lisbon","days":3,"units":"metric","alerts":true}'

_TOOL_PIECE = 6


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
        closing=(*closing, DONE),
    )


def chat_document(asked: Asked, attempt: int, text: str) -> dict[str, Any]:
    """Return a chat completion in one piece."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    head = {**_chat_head(asked, attempt), "object": "chat.completion"}
    return {**head, "choices": [choice], "usage": _chat_usage(text)}


def completion_document(asked: Asked, attempt: int, text: str) -> dict[str, Any]:
    """Return a legacy completion in one piece."""
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": "stop"}
    head = _completion_head(asked, attempt)
    return {**head, "choices": [choice], "usage": _chat_usage(text)}


def _chat_head(asked: Asked, attempt: int) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-demo-a{attempt}",
        "object": "chat.completion.chunk",
        "created": EPOCH + attempt,
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
    return event(chunk)


def _chat_closing(asked: Asked, attempt: int, finish: str, text: str) -> tuple[bytes, ...]:
    closing = [_chat_chunk(asked, attempt, {}, finish)]
    if asked.usage:
        closing.append(_usage_chunk(_chat_head(asked, attempt), text))
    return (*closing, DONE)


def _usage_chunk(head: dict[str, Any], text: str) -> bytes:
    return event({**head, "choices": [], "usage": _chat_usage(text)})


def _chat_usage(text: str) -> dict[str, Any]:
    given = len(words(text))
    counted = {"prompt_tokens": PROMPT_UNITS, "completion_tokens": given}
    return {**counted, "total_tokens": PROMPT_UNITS + given}


def _completion_head(asked: Asked, attempt: int) -> dict[str, Any]:
    return {
        "id": f"cmpl-demo-a{attempt}",
        "object": "text_completion",
        "created": EPOCH + attempt,
        "model": asked.model,
    }


def _completion_chunk(asked: Asked, attempt: int, text: str, finish: str | None) -> bytes:
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}
    usage = {"usage": None} if asked.usage else {}
    return event({**_completion_head(asked, attempt), "choices": [choice], **usage})
