"""Healthy answers of an OpenAI-compatible server, as whole SSE events and as JSON: the table.

Knows which endpoint has which bodies, and how each tells an error inside its stream. Must not
know faults, HTTP or attempts at recovery.

Every id, fingerprint and time carries the number of the attempt that it belongs to, so that
a proxy which mixes the identities of two attempts is caught.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from proxy.demo.answers import Asked
from proxy.demo.bodies_chat import (
    TOOL_ARGUMENTS,
    chat,
    chat_document,
    chat_tool,
    completion,
    completion_document,
)
from proxy.demo.bodies_media import audio, images, images_document, transcription_document
from proxy.demo.bodies_responses import made_by, response, responses
from proxy.demo.bodies_runs import agents, event_ids, run, session, threads
from proxy.demo.shapes import TEXT, Split, Stream, event, payload_of, words

__all__ = [
    "TEXT",
    "TOOL_ARGUMENTS",
    "Stream",
    "chat_tool",
    "error_event",
    "json_for",
    "made_by",
    "payload_of",
    "stream_for",
    "words",
]

Making: TypeAlias = Callable[[Asked, int, str, Split], Stream]

_STREAMS: dict[str, Making] = {
    "chat_completions": chat,
    "completions": completion,
    "responses": responses,
    "images": images,
    "audio": audio,
    "threads": threads,
    "agents": agents,
}

_DOCUMENTS: dict[str, Callable[[Asked, int, str], dict[str, Any]]] = {
    "chat_completions": chat_document,
    "completions": completion_document,
    "responses": lambda asked, attempt, text: response(asked, attempt, "completed", text),
    "images": images_document,
    "audio": lambda _asked, _attempt, text: transcription_document(text),
    # What a stream would tell in the end is not there yet when these are answered.
    "threads": lambda asked, attempt, _text: run(asked, attempt, "queued"),
    "agents": lambda asked, attempt, _text: session(asked, attempt, "in_progress"),
}


def stream_for(asked: Asked, attempt: int, text: str = TEXT, split: Split = words) -> Stream:
    """Return the healthy stream of the endpoint that was asked, a piece of text an event."""
    return _STREAMS.get(asked.endpoint, chat)(asked, attempt, text, split)


def json_for(asked: Asked, attempt: int, text: str = TEXT) -> dict[str, Any]:
    """Return the healthy JSON answer of the endpoint that was asked."""
    return _DOCUMENTS.get(asked.endpoint, chat_document)(asked, attempt, text)


def error_event(  # noqa: PLR0913 - so many parts has an error
    asked: Asked, code: str, message: str, kind: str, number: int = 0, *, attempt: int = 1
) -> bytes:
    """Return an error told inside a stream, in the language of its endpoint.

    ``number`` is how many events of the ``attempt`` came before it.
    """
    error = {"message": message, "type": kind, "param": None, "code": code}
    if asked.endpoint == "responses":
        flat = {"code": code, "message": message, "param": None, "sequence_number": number}
        return event({"type": "error", **flat}, "error")
    if asked.endpoint == "threads":
        return event(error, "error")
    if asked.endpoint == "agents":
        return event({"type": "error", "error": error, **event_ids(asked, attempt, number)})
    return event({"error": error})
