"""What all bodies are made of: texts, words, whole SSE events.

Knows the form of an event. Must not know endpoints, faults or HTTP.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

TEXT = "Whole streams end well, and a broken one says that it broke."
EPOCH = 1_790_000_000
DONE = b"data: [DONE]\n\n"

PROMPT_UNITS = 9
"""So much is counted for every request, whatever it said."""

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

    def given(self, count: int) -> tuple[bytes, ...]:
        """Return the openers and so many events with content, but never the last of these."""
        return self.opening + self.content[: self.kept(count)]

    def kept(self, count: int) -> int:
        """Return how many events with content may be given of a stream that is to break."""
        return max(min(count, len(self.content) - 1), 0)


def words(text: str) -> list[str]:
    """Split a text into words, each with the space before it."""
    return re.findall(r" ?[^ ]+", text)


def event(value: dict[str, Any], name: str = "") -> bytes:
    """Return one event."""
    data = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return (f"event: {name}\n" if name else "").encode() + f"data: {data}\n\n".encode()


def payload_of(block: bytes) -> tuple[bytes, bytes]:
    """Split an event of one data line into what stands before its payload, and the payload."""
    head, mark, rest = block.partition(b"data: ")
    return head + mark, rest.rstrip(b"\n")


def input_output(text: str) -> dict[str, int]:
    """Return the counts of what was asked and answered, as all but the chats name them."""
    given = len(words(text))
    counted = {"input_tokens": PROMPT_UNITS, "output_tokens": given}
    return {**counted, "total_tokens": PROMPT_UNITS + given}
