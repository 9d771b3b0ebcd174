"""The way out: events pass the hold, are noted in the journal, and leave as bytes.

Knows what waits and what was given. Must not know why an event is given, or states.
"""

from __future__ import annotations

from proxy.core.attempt import Attempt
from proxy.core.hold import Hold
from proxy.core.journal import Journal
from proxy.core.policy import Policy
from proxy.core.request import Request
from proxy.core.sse import Event


class Outlet:
    """Everything that the client of one stream is given goes through here."""

    def __init__(self, request: Request, policy: Policy, *, keeps: bool) -> None:
        """Start with nothing given; ``keeps`` says whether content is remembered."""
        self.journal = Journal(policy.journal_max_bytes, keeps, request.starting_after)
        self.hold = Hold(policy)
        self.answered = False
        """Whether a 200 is out, or must go out with the bytes returned."""

    def give(self, events: list[Event]) -> bytes:
        """Give events as they are."""
        return b"".join([self.journal.give(event) for event in events])

    def pass_on(self, run: bytes, data: list[bytes]) -> bytes:
        """Give a run of events, of each the data, that is encoded as they would be."""
        self.journal.give_run(run, data)
        return run

    def put(self, event: Event, attempt: Attempt, *, opening: bool) -> bytes:
        """Give an event, unless it has to wait; ``opening`` says that openers may go alone."""
        hold = self.hold
        ready = hold.take(event, attempt.grammar)
        # An opener that lacks its blank line comes at the end, where an attempt may yet follow.
        if self.answered and opening and not hold.content and not attempt.closed:
            ready += hold.give_up_openers()
        self.answered = self.answered or bool(ready)
        return self.give(ready)

    def flush(self) -> bytes:
        """Give all that waits."""
        self.answered = True
        return self.give(self.hold.release())

    def commit(self) -> bytes:
        """Answer with a 200 now, and give the openers that wait."""
        self.answered = True
        return self.give(self.hold.give_up_openers())
