"""What of an answer waits because the answer may yet turn out to be none.

Two upstream habits look like success: an overload notice told as the text of a whole answer
(decolua/9router#3232), and a finished answer without any content (NOirBRight/CodexHub#43). Both
are believed unless a quirk of the upstream says otherwise. Knows texts and whether there were
any; must not know what is done about it.
"""

from __future__ import annotations

from typing import Any

from proxy.core.errors import UpstreamError
from proxy.core.grammars import Grammar
from proxy.core.grammars.chat_seam import choices_of
from proxy.core.grammars.seam import characters, parsed, units
from proxy.core.policy import Quirks
from proxy.core.sse import Event

_CONTENT = frozenset({"content", "text", "response.output_text"})
"""Where a slot's name has one of these, its text is the answer's own."""


class Doubt:
    """Looks at one attempt's events in order. ``first`` says that nothing was asked before."""

    def __init__(self, grammar: Grammar, quirks: Quirks, cap: int, *, first: bool) -> None:
        """Believe everything that no quirk speaks of; ``cap`` bounds in bytes what waits."""
        self._grammar = grammar
        self._seam = grammar.seam([]) if quirks.overload_texts else None
        texts = quirks.overload_texts if self._seam else ()
        # In UTF-16's units, as deltas may be cut inside a character.
        self._notices = tuple(units(text) for text in texts)
        self._wants_content = first and quirks.empty_answer == "restart"
        self._said = ""
        self._left = cap
        self._held: list[Event] = []

    @property
    def idle(self) -> bool:
        """Whether there is nothing left to doubt."""
        return not (self._notices or self._wants_content)

    def take(self, event: Event) -> list[Event]:
        """Take an event, return those that need not wait: all, once the text is no notice."""
        if self._wants_content and self._grammar.has_content(event):
            self._wants_content = False
        if not self._notices:
            return [event]
        self._held.append(event)
        self._left -= len(event.data)
        if self._left >= 0 and self._may_be_notice(event):
            return []
        self._notices = ()
        held, self._held = self._held, []
        return held

    @property
    def notice(self) -> UpstreamError | None:
        """The error that a finished answer's text stands for, if it is nothing but a notice."""
        if self._said not in self._notices:
            return None
        said = characters(self._said)
        return UpstreamError(said, "server_error", "overloaded", None, 503, transient=True)

    @property
    def empty(self) -> bool:
        """Whether a finished answer had nothing in it that anybody could have wanted."""
        again = self._grammar.may_restart(openers_given=False)
        return self._wants_content and again and self._grammar.empty

    def release(self) -> list[Event]:
        """Return what waits, the doubt being over."""
        held, self._held = self._held, []
        return held

    def _may_be_notice(self, event: Event) -> bool:
        found = parsed(event.data)
        pieces = self._seam.pieces(found) if self._seam else []
        if _acts(found) or not all(_CONTENT & set(map(str, piece.slot)) for piece in pieces):
            return False
        self._said += "".join(piece.text for piece in pieces)
        return any(notice.startswith(self._said) for notice in self._notices)


def _acts(found: dict[str, Any]) -> bool:
    """Say whether an event has more in it than a message: a tool call, another item."""
    item = found.get("item")
    deltas = [choice.get("delta") for choice in choices_of(found)]
    calls = [
        delta.get("tool_calls") or delta.get("function_call")
        for delta in deltas
        if isinstance(delta, dict)
    ]
    return any(calls) or (isinstance(item, dict) and item.get("type") != "message")
