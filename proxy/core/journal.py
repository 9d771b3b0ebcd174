"""What the client has been given so far.

Knows counts and the contentless openers given, which hold the stream's identity. Must not
know how to use them: that is for the recovery that joins a new attempt on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.core.sse import Event


@dataclass(slots=True)
class Journal:
    """Grows with the stream, never shrinks."""

    events: int = 0
    size: int = 0
    content: bool = False
    openers: list[Event] = field(default_factory=list)
    full: bool = False
    """Whether more openers were given than are remembered, so that nothing can follow them."""

    def give(self, encoded: bytes) -> bytes:
        """Note one encoded event on its way to the client, and return it."""
        self.events += 1
        self.size += len(encoded)
        return encoded
