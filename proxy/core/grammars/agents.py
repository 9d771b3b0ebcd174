"""Agents sessions: a turn that is asked for, or the events of a session as they come.

Known from the types of OpenAI's SDK alone, no recording exists; they have no label of their own.
A POST is answered by one turn: complete is what told how that turn or its session came out. The
events of a session are asked for by GET and have no end of their own: a body that ends properly
was not cut short, and silence means that nothing happens. Errors are items like any other, which
the SDK hands to the application.
"""

from __future__ import annotations

import msgspec

from proxy.core.errors import UpstreamError, dumps
from proxy.core.grammars.base import Kind, error_object
from proxy.core.grammars.plain import PlainGrammar
from proxy.core.journal import Journal
from proxy.core.policy import SAFE, Quirks
from proxy.core.request import Request
from proxy.core.sse import Event

_SESSIONS = "/agents/sessions"
_SESSION = "agent.session."
_OUTCOMES = frozenset(
    _SESSION + end
    for end in (
        *("turn.completed", "turn.failed", "turn.cancelled"),
        *("idle", "failed", "requires_action", "budget_reached"),
    )
)


class _Peek(msgspec.Struct, gc=False):
    type: str = ""


_decode = msgspec.json.Decoder(_Peek).decode


def is_agents(request: Request) -> bool:
    """Say whether a request is for agents sessions."""
    return request.path == _SESSIONS or request.path.startswith(_SESSIONS + "/")


class AgentsGrammar(PlainGrammar):
    """One attempt of an agents stream."""

    def __init__(self, request: Request, quirks: Quirks = SAFE) -> None:
        """Expect a turn's outcome of a POST, nothing of a GET."""
        super().__init__(request, quirks)
        self.open_ended = request.method == "GET"
        self._ours = self._over = False

    def read(self, event: Event) -> Kind:
        """Look for the outcome of the turn; see the base class."""
        kind = super().read(event)
        if kind is Kind.EVENT and not self._over:
            name = _type_of(event.data)
            self._ours = self._ours or name.startswith(_SESSION)
            self._over = name in _OUTCOMES
        return kind

    def whole(self, *, clean: bool) -> bool:
        """Say whether the turn's outcome was told, or none was promised."""
        told = self.events > 0 and (self._over or not self._ours)
        return clean and (told or self.open_ended)

    def error_events(self, error: UpstreamError, journal: Journal) -> list[Event]:  # noqa: ARG002
        """Return an item of the type ``error``, as the SDK expects it."""
        return [Event(b"", dumps({"type": "error", "error": error_object(error)}))]


def _type_of(data: bytes) -> str:
    try:
        return _decode(data).type
    except (msgspec.MsgspecError, RecursionError):
        return ""
