"""The Responses API: named events with sequence numbers, closed by a lifecycle event.

Complete is what ended with ``response.completed`` or ``response.incomplete`` (a legal ending:
the token limit or a filter). ``response.failed`` and ``error`` are the upstream's own word that
it failed. ``[DONE]`` does not belong here (caozhiyuan/copilot-api#338 broke on one) and is dropped.
"""

from __future__ import annotations

import msgspec

from proxy.core.errors import UpstreamError, dumps, read_error
from proxy.core.grammars.anew import read_anew, tell
from proxy.core.grammars.base import (
    DONE,
    Grammar,
    Kind,
    error_object,
    is_balanced,
    loads,
    parse,
    raw,
    says,
)
from proxy.core.grammars.responses_seam import (
    ADDED,
    KEEPALIVE,
    OPENERS,
    PLAIN_ITEMS,
    ResponsesSeam,
    output_of,
    type_of,
)
from proxy.core.grammars.seam import Seam
from proxy.core.grammars.unroll import unroll
from proxy.core.journal import Journal
from proxy.core.policy import SAFE, Quirks
from proxy.core.request import Request
from proxy.core.sse import Event

_NULL = msgspec.Raw(b"null")
_TERMINALS = frozenset({"response.completed", "response.incomplete", "response.cancelled"})
_ITEM_DONE = "response.output_item.done"
_OPENERS = OPENERS | {KEEPALIVE}
_CALLS = frozenset({"function_call", "custom_tool_call"})
_LIFECYCLE = _OPENERS | _TERMINALS | {"response.failed"}


class _Peek(msgspec.Struct, gc=False):
    """The fields of an event that are looked at on the way through."""

    type: str = ""
    sequence_number: int | None = None
    error: msgspec.Raw = _NULL


class _Lifecycle(msgspec.Struct, gc=False):
    response: msgspec.Raw = _NULL


_decode = msgspec.json.Decoder(_Peek).decode
_decode_lifecycle = msgspec.json.Decoder(_Lifecycle).decode


class ResponsesGrammar(Grammar):
    """One attempt of a Responses stream, created by POST or re-attached by GET."""

    folds = True
    added_ending = "added_response_failed"

    def __init__(self, request: Request, quirks: Quirks = SAFE) -> None:
        """Start with no response known."""
        super().__init__(request, quirks)
        self.sequence = request.starting_after
        """The number of the last event read."""
        self._response = b""
        self._last = b""
        self._counts = False
        self._effects = False

    def read(self, event: Event) -> Kind:
        """Peek at an event; see the base class."""
        data = event.data
        if data.startswith(DONE):
            self.surplus = "dropped_done"
            return Kind.SURPLUS
        peek = _peek(data)
        if peek is None:
            return Kind.MALFORMED
        counts = self._counts or peek.type in OPENERS
        if data == self._last and counts and peek.sequence_number == self.sequence:
            # Never by text alone: "ha" may follow "ha" (lidge-jun/opencodex#361).
            self.surplus = "dropped_duplicate"
            return Kind.SURPLUS
        self._last = data
        self.events += 1
        name = peek.type or event.name.decode("utf-8", "replace")
        if name == "error" or (not peek.type and says(peek.error)):
            self.error = read_error(data)
            return Kind.ERROR
        number = peek.sequence_number
        # Some servers give every event the same number, which says nothing.
        self._counts = self._counts or number == self.sequence + 1 > 0
        # Never back: a resumed stream may begin with events that were read before.
        self.sequence = self.sequence + 1 if number is None else max(self.sequence, number)
        if name == ADDED:
            item = loads(data).get("item")
            kind = type_of(item) if isinstance(item, dict) else ""
            self._effects = self._effects or kind not in PLAIN_ITEMS
        return self._read_lifecycle(name, data) if name in _LIFECYCLE else Kind.EVENT

    @property
    def response_id(self) -> str:
        """The id that the upstream gave, or an empty string."""
        found = loads(self._response).get("id")
        return found if isinstance(found, str) else ""

    def _read_lifecycle(self, name: str, data: bytes) -> Kind:
        response = _response_of(data)
        if response:
            self._response = response
        if name == "response.failed":
            self.error = read_error(data)
            self.error_is_native = True
            return Kind.ERROR
        if name not in _TERMINALS:
            return Kind.EVENT
        self.usage = _usage_of(response)
        return Kind.TERMINAL

    def has_content(self, event: Event) -> bool:
        """Anything but the contentless openers."""
        peek = _peek(event.data)
        name = (peek.type if peek else "") or event.name.decode("utf-8", "replace")
        return name not in _OPENERS

    def whole(self, *, clean: bool) -> bool:  # noqa: ARG002 - neither way
        """Nothing but the terminal event itself finishes a response."""
        return False

    def error_events(self, error: UpstreamError, journal: Journal) -> list[Event]:
        """Return ``error``, flat and nested so that every SDK raises, and ``response.failed``.

        Flat alone is yielded as an ordinary item by most SDKs, and Codex reads only the second
        (zyycn/codex-proxy-rs#90). The numbers go on after the last one given.
        """
        last = loads(journal.last).get("sequence_number")
        number = last + 1 if isinstance(last, int) else journal.after + journal.events + 1
        told = error_object(error)
        flat = {"code": told["code"], "message": error.message, "param": error.param}
        first = {"type": "error", "sequence_number": number, **flat, "error": told}
        # As it was given first: what an attempt that did not fit said of it is not to be told.
        opened = (loads(event.data).get("response") for event in journal.given)
        first_given = (response for response in opened if isinstance(response, dict))
        response = next(first_given, None) or loads(self._response)
        bare = {"id": self.request.response_id, "object": "response"}
        response = {**bare, **response, "output": []}
        response.pop("usage", None)
        response["status"] = "failed"
        response["error"] = {"code": error.code or "server_error", "message": error.message}
        failed = {
            "type": "response.failed",
            "sequence_number": number + 1,
            "response": response,
        }
        return [Event(b"error", dumps(first)), Event(b"response.failed", dumps(failed))]

    def may_restart(self, *, openers_given: bool) -> bool:
        """Never a second background run; never a new id for one that the upstream keeps.

        An app may use the id it was given (``previous_response_id``, retrieve, cancel), so a
        restart behind a given id is honest only where nothing is stored. A tool that the
        upstream runs may have had its effect, given or not.
        """
        if (self.request.background and self.events) or self._effects:
            return False
        return not openers_given or (self.request.method == "POST" and not self.request.stored)

    def in_call(self, event: Event) -> bool:
        """From a call's item to its end everything waits, or the numbers would be out of order."""
        if not self.open_calls and b"output_item.added" not in event.data:
            return False
        found = loads(event.data)
        item = found.get("item")
        if type_of(found) == ADDED and isinstance(item, dict) and type_of(item) in _CALLS:
            self.open_calls.add(output_of(found))
        inside = bool(self.open_calls)
        if type_of(found) == _ITEM_DONE:
            self.open_calls.discard(output_of(found))
        return inside

    @property
    def empty(self) -> bool:
        """Whether a completed response has no output at all."""
        response = loads(self._response)
        return response.get("status") == "completed" and not response.get("output")

    def seam(self, given: list[Event]) -> Seam:
        """Return the seam of response events."""
        return ResponsesSeam(given)

    def unroll(self, document: bytes, largest: int) -> list[Event]:
        """Return the events of a response that has ended."""
        events = unroll(read_anew(document))
        return tell((Event(event["type"].encode(), dumps(event)) for event in events), largest)

    def fold(self, events: list[Event]) -> bytes:
        """Return the response as its last event has it; some servers leave its output out."""
        found = [read_anew(event.data) for event in events]
        response = found[-1].get("response") if found else None
        if not isinstance(response, dict):
            return b""
        done = sorted((one for one in found if type_of(one) == _ITEM_DONE), key=output_of)
        items = [one["item"] for one in done if isinstance(one.get("item"), dict)]
        if items and not response.get("output"):
            response["output"] = items
        return dumps(response)


def _peek(data: bytes) -> _Peek | None:
    """Look at an event, twice if need be; None: its data is not JSON."""
    try:
        return _decode(data)
    except (msgspec.MsgspecError, RecursionError):
        return _peek_slowly(data)


def _peek_slowly(data: bytes) -> _Peek | None:
    """Give the second opinion: what the strict decoder refuses may be legal to the SDKs."""
    try:
        found = parse(data)
    except RecursionError:
        return _Peek() if is_balanced(data) else None
    except ValueError:
        return None
    if not isinstance(found, dict):
        return _Peek()
    number, name = found.get("sequence_number"), found.get("type")
    return _Peek(
        type=name if isinstance(name, str) else "",
        sequence_number=number if isinstance(number, int) else None,
        error=raw(found.get("error")),
    )


def _response_of(data: bytes) -> bytes:
    try:
        response = bytes(_decode_lifecycle(data).response)
    except (msgspec.MsgspecError, RecursionError):
        response = dumps(loads(data).get("response"))
    return response if response.startswith(b"{") else b""


def _usage_of(response: bytes) -> bytes:
    usage = loads(response).get("usage")
    return dumps(usage) if isinstance(usage, dict) else b""
