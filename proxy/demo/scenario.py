"""What a scenario is: named misbehaviour, and what an application must see of it.

Knows when it happens. Must not know which scenarios there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from proxy.demo.answers import Answer, Answering, Asked
from proxy.demo.bodies import TEXT
from proxy.demo.misbehaviour import healthy

Expected: TypeAlias = Literal["complete", "honest error", "upstream error"]
When: TypeAlias = Literal["always", "first", "reused"]

STREAMED = frozenset({"chat_completions", "completions", "responses"})
CHATS = frozenset({"chat_completions", "completions"})
CHAT = frozenset({"chat_completions"})


@dataclass(frozen=True, slots=True)
class Scenario:
    """One named misbehaviour.

    ``fault`` is the fault or the repair of the contract that it shows, or empty. ``expected``
    is what an application sees through the proxy: a ``complete`` answer, an ``honest error``
    after an exact prefix of ``text``, or the ``upstream error`` unchanged.

    It happens ``always``, on the ``first`` of every two attempts, or on a ``reused``
    connection; with ``any_body`` also where no stream was asked for.
    """

    name: str
    fault: str
    expected: Expected
    misbehave: Answering
    description: str
    when: When = "always"
    any_body: bool = False
    endpoints: frozenset[str] = STREAMED
    text: str = TEXT

    def happens(self, asked: Asked, attempt: int) -> bool:
        """Say whether this attempt is answered by misbehaviour."""
        reached = self.any_body or (asked.stream and asked.endpoint in self.endpoints)
        now = {"always": True, "first": attempt % 2 == 1, "reused": asked.reused}
        return reached and now[self.when]

    def answer(self, asked: Asked, attempt: int) -> Answer:
        """Answer one request, as a healthy server would where nothing is to happen."""
        if self.happens(asked, attempt):
            return self.misbehave(asked, attempt)
        return healthy(asked, attempt)
