"""Whole streams of chunks with what some servers put into them, or leave out.

Knows the fields of chat completions and legacy completions. Must not know names or expectations:
those are the scenarios' table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

from proxy.demo.answers import Answer, Asked, Piece, sse
from proxy.demo.bodies import stream_for
from proxy.demo.misbehaviour import GIVEN
from proxy.demo.misbehaviour_forms import middle
from proxy.demo.shapes import DONE, TEXT, event, payload_of, words

FILTERED_TEXT = "".join(words(TEXT)[:GIVEN])

_FILTERED = {"hate": {"filtered": False, "severity": "safe"}}
_NAMELESS = {"id": "", "object": "", "created": 0, "model": ""}
"""What Azure puts into chunks of its own."""

Chunk = dict[str, Any]


def azure(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Put a chunk without choices in front, and one with nothing but a filter's result behind."""
    results = {"prompt_index": 0, "content_filter_results": _FILTERED}
    first = {**_NAMELESS, "choices": [], "prompt_filter_results": [results]}
    offsets = {"check_offset": 0, "start_offset": 0, "end_offset": 9}
    judged = {"content_filter_offsets": offsets, "content_filter_results": _FILTERED}
    choice = {"index": 0, "finish_reason": None, "logprobs": None, **judged}
    later = {**_NAMELESS, "choices": [choice]}
    at = middle(events)
    return (event(first), *events[:at], event(later), *events[at:])


def no_finish_reason(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Leave every finish reason null."""
    return _each_choice(events, lambda choice: {**choice, "finish_reason": None})


def filtered(asked: Asked, attempt: int) -> Answer:
    """Stop after some words with the finish reason of a filter."""

    def judged(choice: Chunk) -> Chunk:
        return {**choice, "finish_reason": choice["finish_reason"] and "content_filter"}

    return sse(*_each_choice(stream_for(asked, attempt, FILTERED_TEXT).events, judged))


def null_fields(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Put null where an object, a text or a list should be, and leave required fields out."""
    for number, chunk in enumerate(_chunks(events)):
        if number % 2:
            del chunk["object"], chunk["created"]
        chunk["choices"] = [_with_nulls(choice) for choice in chunk["choices"]]
        yield event(chunk)
    yield DONE


def _with_nulls(choice: Chunk) -> Chunk:
    if "text" in choice:
        return {**choice, "text": choice["text"] or None}
    delta = choice["delta"]
    nulls = {"role": None, "refusal": None, "tool_calls": None, "function_call": None}
    full = {**nulls, **delta, "content": delta.get("content") or None}
    return {**choice, "delta": full if delta else None}


def nan(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Put a number into the probabilities of one chunk that JSON does not have."""
    at = middle(events)
    chunk = _chunk(events[at])
    for choice in chunk["choices"]:
        said: Chunk = {"token": "a", "bytes": None, "logprob": math.nan, "top_logprobs": []}
        legacy = {"tokens": ["a"], "token_logprobs": [math.nan], "top_logprobs": None}
        choice["logprobs"] = legacy if "text" in choice else {"content": [said], "refusal": None}
    return (*events[:at], event(chunk), *events[at + 1 :])


def usage_after_finish(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Count between the finish reason and the end mark, asked for it or not."""
    *chunks, done = events
    last = _chunk(chunks[-1])
    usage = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
    counted = () if not last["choices"] else (event({**last, "choices": [], "usage": usage}),)
    return (*chunks, *counted, done)


def foreign_event(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Name every chunk, and tell of other things between them."""
    named = [b"event: message\n" + block for block in events]
    progress = event({"tool": "web_search", "status": "running"}, "hermes.tool.progress")
    at = middle(events)
    return (progress, *named[:at], progress, *named[at:])


def bare_done(events: tuple[bytes, ...]) -> Iterable[Piece]:
    """Write the end mark without its brackets."""
    return (*events[:-1], b"data: DONE\n\n")


def _each_choice(events: tuple[bytes, ...], change: Callable[[Chunk], Chunk]) -> Iterable[bytes]:
    for chunk in _chunks(events):
        yield event({**chunk, "choices": [change(choice) for choice in chunk["choices"]]})
    yield DONE


def _chunks(events: tuple[bytes, ...]) -> list[Chunk]:
    return [_chunk(block) for block in events[:-1]]


def _chunk(block: bytes) -> Chunk:
    found: Chunk = json.loads(payload_of(block)[1])
    return found
