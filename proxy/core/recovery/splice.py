"""What a splice is: how the events of a new attempt are joined to what the client has.

A splice sees each event of one attempt and returns the events to give. Nothing is ever taken
back, so it returns nothing until it is sure. Must not know why the attempt was made.
"""

from __future__ import annotations

import abc

from proxy.core.grammars.base import DONE
from proxy.core.grammars.seam import Seam, parsed, written
from proxy.core.sse import Event


class Splice(abc.ABC):
    """Joins one attempt. ``mismatch`` says why it does not fit, once that is known."""

    kind = ""
    """The strategy that is ruled out when it does not fit."""
    mismatch = ""
    aligned = False
    """Whether all that was given has been found again, so that events may pass."""

    @abc.abstractmethod
    def take(self, event: Event) -> list[Event]:
        """Take an event, return those to give now. After a mismatch nothing more is taken."""

    def close(self) -> list[Event]:
        """Take the end of the answer: what waited is returned, or the mismatch is known."""
        if not self.aligned:
            self.mismatch = self.mismatch or "it ended before the place where the first broke off"
        return []


class Identity(Splice):
    """Behind openers alone: nothing to find again, but one identity to keep."""

    aligned = True

    def __init__(self, seam: Seam) -> None:
        """Take the seam of what was given."""
        self._seam = seam

    def take(self, event: Event) -> list[Event]:
        """Give each event with the identity of the first attempt."""
        return fitted(self._seam, event)


def fitted(seam: Seam, event: Event) -> list[Event]:
    """Return an event that passes, in the identity of the first attempt."""
    found = parsed(event.data)
    if event.data == DONE or not found:
        return [event]
    return [written(event, found)] if seam.fit(found) else []
