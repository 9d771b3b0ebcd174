"""Which endpoint a captured body is of: told by its first events, for nobody kept the request.

Knows how payloads name themselves. Must not know what makes an answer whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from proxy.core.document import read_document
from proxy.core.grammars.base import DONE, loads
from proxy.core.policy import Policy
from proxy.core.repairs import mend
from proxy.core.request import Request
from proxy.core.sse import EventSplitter

_PATHS = {
    "chat_completions": "/chat/completions",
    "completions": "/completions",
    "responses": "/responses",
    "images": "/images/generations",
    "audio": "/audio/transcriptions",
    "threads": "/threads/runs",
    "other": "/other",
}
ENDPOINTS = tuple(_PATHS)

_FIRST_EVENTS = 8
"""So many are asked: Azure's first one is empty, and any may be broken."""

_BEGINNINGS = {
    "chat.completion": "chat_completions",
    "text_completion": "completions",
    "response": "responses",
    "image_generation.": "images",
    "image_edit.": "images",
    "transcript.": "audio",
    "speech.": "audio",
    "thread": "threads",
    "agent.session": "other",
}
"""How the ``type`` or the ``object`` of a payload begins."""


def request_for(endpoint: str) -> Request:
    """Return the request that a body of this endpoint may answer, and that nobody repeats."""
    # How many images were asked for is not known, and of an upload need not be.
    body, form = (None, {"stream": "true"}) if endpoint == "images" else (b'{"stream":true}', None)
    return Request("POST", _PATHS[endpoint], body, recovery=False, form=form)


def endpoint_of_events(blocks: Iterable[tuple[int, bytes]]) -> str:
    """Return the endpoint that the first events are of; empty where there is no event at all."""
    data = _first_data(blocks)
    return _told(data) or ("other" if data else "")


def endpoint_of_document(body: bytes) -> str:
    """Return the endpoint that a JSON answer is of, or nothing."""
    return _told([read_document(body).data])


def _first_data(blocks: Iterable[tuple[int, bytes]]) -> list[bytes]:
    splitter = EventSplitter(Policy().max_event_bytes, _uncounted)
    data: list[bytes] = []
    for _, block in blocks:
        for event in splitter.feed(block):
            mended = None if loads(event.data) else mend(event, _uncounted)
            data += [part.data for part in mended or [event]]
        if len(data) >= _FIRST_EVENTS:
            return data
    last = splitter.close()
    return [*data, last.data] if last else data


def _uncounted(_: str) -> None:
    """Count no repair: the reading does."""


def _told(data: list[bytes]) -> str:
    """Ask all for what is sure, before any for what is not."""
    found = [loads(text) for text in data]
    marks = ["chat_completions" for text in data if text.startswith(DONE)]
    return next(filter(None, [*map(_named, found), *map(_hinted, found), *marks]), "")


def _named(found: dict[str, Any]) -> str:
    for name in (found.get("type"), found.get("object")):
        for beginning, endpoint in _BEGINNINGS.items():
            if isinstance(name, str) and name.startswith(beginning):
                return endpoint
    choices = found.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return "completions" if "text" in choices[0] else "chat_completions"
    return ""


def _hinted(found: dict[str, Any]) -> str:
    if "sequence_number" in found:
        return "responses"
    if "choices" in found or "error" in found or found.get("type") == "error":
        return "chat_completions"
    if isinstance(found.get("data"), list) and "created" in found:
        return "images"
    return "audio" if isinstance(found.get("text"), str) else ""
