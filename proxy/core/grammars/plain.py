"""Any other event stream: framing and transport faults, ``[DONE]`` if it is seen.

What such a stream means is not known, so a proper end of the body counts as complete, errors
inside it are the client's to read, and a request is not repeated once its answer has begun.
"""

from __future__ import annotations

import msgspec

from proxy.core.errors import UpstreamError, dumps
from proxy.core.grammars.base import DONE, Grammar, Kind, error_object, is_json
from proxy.core.journal import Journal
from proxy.core.sse import Event

_validate = msgspec.json.Decoder(msgspec.Raw).decode


class PlainGrammar(Grammar):
    """One attempt of a stream whose language is not known."""

    reads_again = False
    only_events = False
    unrolls = False
    error_name = b""

    def read(self, event: Event) -> Kind:
        """Let JSON pass; ``[DONE]`` ends the stream."""
        if event.data.startswith(DONE):
            return Kind.TERMINAL
        try:
            _validate(event.data)
        except (msgspec.MsgspecError, RecursionError):
            if not is_json(event.data):
                return Kind.MALFORMED
        self.events += 1
        return Kind.EVENT

    def has_content(self, event: Event) -> bool:  # noqa: ARG002 - every event may be content
        """Say yes: nothing is known about the event."""
        return True

    def whole(self, *, clean: bool) -> bool:
        """Ask for no more than a clean end where nothing is promised."""
        return clean

    def error_events(self, error: UpstreamError, journal: Journal) -> list[Event]:  # noqa: ARG002
        """Return a top-level ``error`` object."""
        return [Event(self.error_name, dumps({"error": error_object(error)}))]
