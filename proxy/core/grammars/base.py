"""What a grammar is: the knowledge of one endpoint family's stream.

A grammar reads the events of *one attempt* and knows content from openers, the terminal event,
errors told inside the stream, and how this endpoint is told that it failed. It must not know
sockets, retries or what the client has been given.
"""

from __future__ import annotations

import abc
import enum
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from proxy.core.errors import STREAM_INCOMPLETE, UpstreamError
from proxy.core.journal import Journal
from proxy.core.policy import SAFE, Quirks
from proxy.core.request import Request
from proxy.core.sse import Event

if TYPE_CHECKING:
    from proxy.core.grammars.seam import Seam

DONE = b"[DONE]"
_STRING = rb'"(?:[^"\\\x00-\x1f]|\\.)*+"'
_STRINGS = re.compile(_STRING)
_WORDS = re.compile(
    rb"(?:[\s{}\[\],:]++|true|false|null|NaN|-?Infinity"
    rb"|-?[0-9]++(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?|" + _STRING + rb")*+"
)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"{}[]")
DONE_EVENT = Event(b"", DONE)
REFUSALS = (msgspec.MsgspecError, RecursionError)
NULLS = frozenset({b"", b"null", b'""', b"{}", b"[]", b"0", b"false"})
"""Raw JSON values that say "nothing here", the absent one included."""


class Kind(enum.Enum):
    """What one event is to its stream."""

    EVENT = "event"
    """An ordinary event, content or opener."""
    TERMINAL = "terminal"
    """The stream is complete with this event."""
    ERROR = "error"
    """The upstream says that it failed; ``Grammar.error`` tells how."""
    UNFINISHED = "unfinished"
    """The end mark came although the answer is not complete."""
    SURPLUS = "surplus"
    """Not of this endpoint's language: dropped, and counted as ``Grammar.surplus``."""
    MALFORMED = "malformed"
    """The data is not JSON."""


class Grammar(abc.ABC):
    """One attempt's stream, read event by event."""

    reads_again = True
    """Whether the same request may be sent again after a 200 whose content was not given."""
    named = True
    """Whether the events of this endpoint have names."""
    only_events = True
    """Whether an answer to a request for a stream that is neither events nor JSON is a fault."""
    unrolls = True
    """Whether an answer in one piece can be told in events, or is a fault."""
    folds = False
    """Whether events can be told in one piece."""
    open_ended = False
    """Whether the stream has no end of its own, so that silence is no fault."""
    added_ending = ""
    """The repair that is counted where an error the upstream told is given an ending."""

    def __init__(self, request: Request, quirks: Quirks = SAFE) -> None:
        """Start before the first event of an attempt."""
        self.request = request
        self.quirks = quirks
        self.surplus = ""
        """The repair that dropping the last surplus event is counted as."""
        self.events = 0
        self.foreign = 0
        """Events of another language: no part of the answer, but a sign of life."""
        self.error: UpstreamError | None = None
        self.error_is_native = False
        """Whether strict clients understand the error event in the upstream's own form."""
        self.usage = b""
        """The last raw ``usage`` object seen, or nothing."""
        self.open_calls: set[int] = set()
        """Tool calls that began and are not complete, as far as ``in_call`` was asked."""

    @abc.abstractmethod
    def read(self, event: Event) -> Kind:
        """Say what an event is, and remember what completeness depends on. Never raises."""

    @property
    def ordinary(self) -> Callable[[bytes], object] | None:
        """Return what raises unless the data of an event without a name is ordinary, or None.

        Ordinary is what ``read`` would only count as an event, as the stream stands now; it
        raises ``REFUSALS``. None where each event has to be read.
        """
        return None

    @abc.abstractmethod
    def has_content(self, event: Event) -> bool:
        """Say whether a client could act on this event. Asked only before the commit."""

    @abc.abstractmethod
    def whole(self, *, clean: bool) -> bool:
        """Say whether the answer is complete although no terminal event came.

        ``clean`` says that the body ended as HTTP says it should, after a whole event.
        """

    @property
    def finished(self) -> bool:
        """Whether the answer is over but for an end mark and its statistics, if there are any."""
        return False

    @property
    def empty(self) -> bool:
        """Whether a complete answer that had no content says so by success alone."""
        return False

    def missing(self) -> list[Event]:
        """Return what the answer lacks before its terminal event, where a quirk adds it."""
        return []

    def end_mark(self) -> Event | None:
        """Return the end mark that a finished stream lacks, if its endpoint has one."""
        return None

    @abc.abstractmethod
    def error_events(self, error: UpstreamError, journal: Journal) -> list[Event]:
        """Return this endpoint's terminal error event(s), to follow what was given."""

    def may_restart(self, *, openers_given: bool) -> bool:
        """Say whether a new attempt can take this one's place, no content being given yet."""
        return self.reads_again or (self.events == 0 and not openers_given)

    def in_call(self, event: Event) -> bool:  # noqa: ARG002 - most have no tool calls
        """Say whether an event belongs to a tool call; ``open_calls`` has those not complete."""
        return False

    def seam(self, given: list[Event]) -> Seam | None:  # noqa: ARG002 - most cannot be joined
        """Return the seam at which another attempt can be joined to what was given."""
        return None

    def unroll(self, document: bytes, largest: int) -> list[Event]:  # noqa: ARG002 - most cannot
        """Return the events that tell a document, a finished answer in one piece; or none.

        Raises ``anew.TooMuchError`` where they would be too many; ``largest`` bounds one event.
        """
        return []

    def fold(self, events: list[Event]) -> bytes:  # noqa: ARG002 - most have no such form
        """Return a finished answer in one piece, as its endpoint has it without a stream."""
        return b""


def parse(data: bytes) -> Any:
    """Decode JSON as the SDKs do; raises ValueError or RecursionError."""
    return json.loads(data.decode())  # from bytes it would take UTF-16 and a BOM as well


def loads(data: bytes) -> dict[str, Any]:
    """Decode a JSON object; anything else is an empty one."""
    try:
        found = parse(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def dicts(value: object) -> list[dict[str, Any]]:
    """Return the objects of a JSON array; of anything else none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def is_json(data: bytes) -> bool:
    """Say whether the SDKs' own decoder would take this text."""
    try:
        parse(data)
    except RecursionError:
        return is_balanced(data)
    except ValueError:
        return False
    return True


def is_balanced(data: bytes) -> bool:
    """Say whether JSON nested too deeply to be decoded has JSON's words, and closes what it opens.

    Linear in the bytes: each is looked at once, by a pattern that never goes back.
    """
    if not _WORDS.fullmatch(data):
        return False
    open_: list[int] = []
    for bracket in _STRINGS.sub(b"", data).translate(None, _NO_BRACKETS):
        if bracket in b"{[":
            open_.append(bracket + 2)  # in ASCII both brackets are closed by the next but one
        elif not open_ or open_.pop() != bracket:
            return False
    return not open_


def says(value: msgspec.Raw) -> bool:
    """Say whether a raw JSON value is there and not one of the forms of nothing."""
    return bytes(value) not in NULLS


def raw(value: object) -> msgspec.Raw:
    """Encode a value as the typed peek would have left it."""
    return msgspec.Raw(json.dumps(value).encode())


def error_object(error: UpstreamError) -> dict[str, Any]:
    """Return the object that goes under ``error``; ``retryable`` is told when it is true."""
    body = error.as_object()
    if error.transient:
        body["code"] = error.code or STREAM_INCOMPLETE
        body["retryable"] = True
    return body
