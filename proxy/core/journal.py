"""What the client has been given so far.

Knows counts, and the events themselves as far as a recovery may need them: the contentless
openers always, which hold the stream's identity, and content only where ``keeps`` says that a
new attempt might have to be joined on to it. Must not know how that is done.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.core.sse import Event

_IDENTIFYING = 4
"""So many events are remembered in any case: an error event needs the identity in them."""


@dataclass(slots=True)
class Journal:
    """Grows with the stream. ``cap`` bounds in bytes what is remembered.

    ``after`` is the sequence number after which the client asked to go on, or -1.
    """

    cap: int
    keeps: bool = False
    after: int = -1
    events: int = 0
    size: int = 0
    content: bool = False
    given: list[Event] = field(default_factory=list)
    last: bytes = b""
    """The data of the last event."""
    waiting: list[Event] = field(default_factory=list)
    """What is held back of the attempt that ended, and may yet be given."""
    full: bool = False
    """Whether more was given than is remembered, so that nothing can be joined on."""
    _kept: int = 0

    @property
    def remembers(self) -> bool:
        """Whether events are kept, and not just counted."""
        return self.keeps or not self.content

    @property
    def complete(self) -> bool:
        """Whether ``given`` is all that the client has."""
        return not self.full and (self.keeps or not self.content)

    def give(self, event: Event) -> bytes:
        """Note one event on its way to the client, and return it encoded."""
        encoded = event.encode()
        self.events += 1
        self.size += len(encoded)
        self.last = event.data
        if self.remembers:
            self._remember(event, len(encoded))
        return encoded

    def give_run(self, run: bytes, data: list[bytes]) -> None:
        """Note events without a name on their way, ``run`` being all of them as they are sent."""
        if self.remembers:
            for one in data:
                self.give(Event(b"", one))
            return
        self.events += len(data)
        self.size += len(run)
        self.last = data[-1]

    def _remember(self, event: Event, size: int) -> None:
        if self.full:
            return
        self._kept += size
        if self._kept > self.cap:
            self.full = True
            del self.given[_IDENTIFYING:]
            return
        self.given.append(event)
