"""The ring of incident records, with the broken bytes masked.

Knows how an incident looks from outside, as JSON. Must not know where it came from. What is
kept of bytes is governed by ``capture``: masked keeps structure and lengths, so that a cut can
be understood, and no text of anybody.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.core.fault import EXPLANATIONS, Incident

RING_SIZE = 200

_KNOWN_KEYS = frozenset(
    b"arguments audio choices code content content_index created created_at data delta error "
    b"event finish_reason function id index item item_id logprobs message model name object "
    b"output output_index part param queued reasoning reasoning_content refusal response role "
    b"sequence_number service_tier status system_fingerprint text tool_calls type usage".split()
)
_FIELD = re.compile(rb"^(?:data|event|id|retry):", re.MULTILINE)
_KEY = re.compile(rb'"([a-z_]{1,32})"(?=\s*:)')
_TEXT = re.compile(rb"[^\s{}\[\]:,\"\\]")


def mask(data: bytes) -> str:
    """Replace every character that could be text; keep structure, field names, known keys.

    >>> mask(b'data: {"content":"Hello there')
    'data: {"content":"xxxxx xxxxx'
    """
    kept = [found.span() for found in _FIELD.finditer(data)]
    kept += [found.span(1) for found in _KEY.finditer(data) if found[1] in _KNOWN_KEYS]
    masked = bytearray(_TEXT.sub(b"x", data))
    for start, end in kept:
        masked[start:end] = data[start:end]
    return masked.decode("ascii", "replace")


class IncidentRing:
    """The newest incidents, oldest first dropped."""

    def __init__(self, capture: str) -> None:
        """Take the ``capture`` setting: masked, raw or off."""
        self._capture = capture
        self._ring: deque[dict[str, Any]] = deque(maxlen=RING_SIZE)

    def add(
        self,
        incident: Incident,
        *,
        facts: dict[str, str],
        attempts: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, Any]:
        """Keep an incident; ``facts`` are request id, endpoint, model and upstream.

        ``attempts`` are those made for the request so far, this one and later ones included.
        """
        record = {
            "time": round(time.time(), 3),
            **facts,
            "fault": incident.fault.value,
            "phase": incident.phase.value,
            "outcome": incident.outcome.value,
            "attempt": incident.attempt,
            "status": incident.status or None,
            "age_s": round(incident.age_s, 3),
            "events": incident.events,
            "bytes": incident.size,
            "explanation": EXPLANATIONS[incident.fault],
            "detail": incident.detail or None,
            "attempts": list(attempts),
            "tail": self._shown(incident.tail),
            "tail_offset": incident.offset,
            "tail_bytes": len(incident.tail),
        }
        self._ring.append(record)
        return record

    def newest(self) -> list[dict[str, Any]]:
        """Return the records, newest first."""
        return list(reversed(self._ring))

    def _shown(self, tail: bytes) -> str | None:
        if self._capture == "off":
            return None
        if self._capture == "raw":
            return tail.decode("utf-8", "backslashreplace")
        return mask(tail)
