"""What a scenario is: named misbehaviour, and what an application must see of it.

Knows when it happens. Must not know which scenarios there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from proxy.demo.answers import Answer, Answering, Asked
from proxy.demo.bodies import TEXT
from proxy.demo.misbehaviour import healthy

Expected: TypeAlias = Literal["complete", "honest error", "upstream error"]
When: TypeAlias = Literal["always", "first", "reused"]
Way: TypeAlias = Literal["plain", "cold", "background"]

FIELDS: dict[Way, dict[str, Any]] = {
    "plain": {},
    # A response that is kept has an id that an application may use: another is no substitute.
    "cold": {"temperature": 0, "store": False},
    "background": {"background": True},
}
"""The ways to ask, and what a request says for each of them."""

CHAT = frozenset({"chat_completions"})
CHATS = CHAT | {"completions"}
RESPONSES = frozenset({"responses"})
STREAMED = CHATS | RESPONSES
"""Those whose answers are read piece by piece, and asked for again before their content."""

ENDED = STREAMED | {"images", "audio", "threads"}
"""Those whose last event is known. Images, audio and threads are not asked again once any event
came, and uploads not at all."""

EVERY = ENDED | {"agents"}
"""The events of a session have no end of their own, so that a clean one is no fault."""

TEXTS = EVERY - {"images"}
"""Those whose events have text in them as it is."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One named misbehaviour.

    ``fault`` is the fault or the repair of the contract that it shows, or empty. ``expected``
    is what an application sees through the proxy: a ``complete`` answer, an ``honest error``
    after an exact prefix of ``text``, or the ``upstream error`` unchanged.

    It happens ``always``, on the ``first`` of every two attempts, or on a ``reused``
    connection; with ``any_body`` also where no stream was asked for. ``then`` answers where it
    does not happen. Asked in the way of its ``rescue`` the answer is complete all the same.
    ``finishes`` says whether a whole answer tells that it is finished.
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
    then: Answering = healthy
    rescue: Way = "plain"
    finishes: bool = True

    def happens(self, asked: Asked, attempt: int) -> bool:
        """Say whether this attempt is answered by misbehaviour."""
        now = {"always": True, "first": attempt % 2 == 1, "reused": asked.reused}
        return self._reaches(asked) and now[self.when]

    def answer(self, asked: Asked, attempt: int) -> Answer:
        """Answer one request, as a healthy server would where nothing is to happen."""
        if self.happens(asked, attempt):
            return self.misbehave(asked, attempt)
        return self.then(asked, attempt) if self._reaches(asked) else healthy(asked, attempt)

    def expects(self, way: Way) -> Expected:
        """Return what an application sees that asks in a way."""
        return "complete" if way == self.rescue != "plain" else self.expected

    def _reaches(self, asked: Asked) -> bool:
        return self.any_body or (asked.stream and asked.endpoint in self.endpoints)
