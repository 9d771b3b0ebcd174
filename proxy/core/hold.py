"""What of an attempt is held back, and until when.

Openers wait for content, so that a restart leaves no trace. By policy tool calls wait until they
are complete, so that no app ever runs half of one, or everything waits for the end. Knows which
events wait; must not know what a held event is kept from, nor what is done when the attempt fails.
"""

from __future__ import annotations

from proxy.core.grammars import Grammar
from proxy.core.policy import Policy
from proxy.core.sse import Event


class Hold:
    """The events of one stream that wait. Grows no larger than ``journal_max_bytes``."""

    def __init__(self, policy: Policy) -> None:
        """Hold nothing yet."""
        self._mode = policy.hold
        self._cap = policy.journal_max_bytes
        self.openers: list[Event] = []
        self._rest: list[Event] = []
        self.size = 0
        self.content = False
        """Whether an event with content came, given or not."""

    @property
    def selective(self) -> bool:
        """Whether events may have to wait although content was given."""
        return self._mode == "tool_calls"

    @property
    def waiting(self) -> list[Event]:
        """The events that wait."""
        return [*self.openers, *self._rest]

    @property
    def held(self) -> int:
        """How many events wait."""
        return len(self.openers) + len(self._rest)

    def take(self, event: Event, grammar: Grammar) -> list[Event]:
        """Take an event, return those that need not wait any longer, in order."""
        self.content = self.content or grammar.has_content(event)
        if not self.content:
            return self._wait(event, self.openers)
        if self._mode == "all":
            return self._wait(event, self._rest)
        if self._mode == "tool_calls" and grammar.in_call(event):
            waiting = self._wait(event, self._rest)
            return waiting if grammar.open_calls else [*waiting, *self.release()]
        if self._rest:  # text of another choice streams on
            return [*self._openers_out(), event]
        return [*self.release(), event]

    def give_up_openers(self) -> list[Event]:
        """Return the openers held, because the time is up, unless all is to be held."""
        return [] if self._mode == "all" else self._openers_out()

    def release(self) -> list[Event]:
        """Return all that waits."""
        out = [*self._openers_out(), *self._rest]
        self._rest.clear()
        self.size = 0
        return out

    def forget(self, *, content: bool) -> None:
        """Drop what waits, of an attempt that failed; ``content`` says if any was given before."""
        self.openers.clear()
        self._rest.clear()
        self.size = 0
        self.content = content

    def _wait(self, event: Event, among: list[Event]) -> list[Event]:
        among.append(event)
        self.size += len(event.encode())
        if self.size <= self._cap:
            return []
        # The hold must not grow without bound, nor fail a healthy stream: it ends early.
        self._mode = "none"
        return self.release()

    def _openers_out(self) -> list[Event]:
        openers, self.openers = self.openers, []
        self.size -= sum(len(event.encode()) for event in openers)
        return openers
