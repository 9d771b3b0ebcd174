"""The closed vocabularies: what can go wrong, when, and what became of it.

Knows only names and plain records. Must not know how a fault is found or mended.
The values are label values of the metrics, so they are part of the external contract.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Fault(enum.Enum):
    """What went wrong with one attempt."""

    CONNECT_ERROR = "connect_error"
    RESET = "reset"
    CUT_MID_EVENT = "cut_mid_event"
    CUT_BETWEEN_EVENTS = "cut_between_events"
    CLEAN_EOF = "clean_eof"
    EMPTY_STREAM = "empty_stream"
    STALL = "stall"
    FIRST_EVENT_TIMEOUT = "first_event_timeout"
    IN_STREAM_ERROR = "in_stream_error"
    MALFORMED_EVENT = "malformed_event"
    OVERSIZE_EVENT = "oversize_event"
    HTTP_STATUS = "http_status"


class Phase(enum.Enum):
    """How far the answer had come when the fault struck."""

    BEFORE_HEADERS = "before_headers"
    BEFORE_CONTENT = "before_content"
    MID_CONTENT = "mid_content"
    AFTER_TERMINAL = "after_terminal"


class IncidentOutcome(enum.Enum):
    """What became of a fault."""

    RESTARTED = "restarted"
    RESUMED = "resumed"
    REPLAYED = "replayed"
    CONTINUED = "continued"
    FELL_BACK = "fell_back"
    REPAIRED = "repaired"
    SWALLOWED = "swallowed"
    SURFACED = "surfaced"
    CLIENT_GONE = "client_gone"


class StreamOutcome(enum.Enum):
    """How a stream ended for the client."""

    COMPLETE = "complete"
    RECOVERED = "recovered"
    FAILED = "failed"
    CLIENT_CLOSED = "client_closed"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How one attempt ended, told by the edge.

    ``fault`` is None when the body ended as HTTP says it should; whether the *stream* was
    complete is for the grammar to judge. A cut without a reset is given as
    ``CUT_BETWEEN_EVENTS``; the session looks at its own bytes and says which cut it was.

    ``age_s`` is seconds from sending the request, ``silence_s`` from the last data event (or
    from sending) to the end; ``retry_after_s`` seconds asked for by the
    upstream; ``stale`` says that a pooled connection died before any byte of an answer;
    ``body`` is the (bounded) body of an answer with an error ``status``.
    """

    fault: Fault | None = None
    age_s: float = 0.0
    silence_s: float = 0.0
    status: int = 0
    retry_after_s: float | None = None
    stale: bool = False
    body: bytes = b""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Incident:
    """One failed attempt: the fact that is counted, logged and shown.

    ``offset`` is the position in the upstream's body of the first byte of ``tail``;
    ``tail`` holds the bytes that could not be given to the client, raw. Whoever shows it masks it.
    """

    fault: Fault
    phase: Phase
    outcome: IncidentOutcome
    attempt: int
    age_s: float
    status: int
    events: int
    size: int
    offset: int
    tail: bytes
    detail: str


EXPLANATIONS: dict[Fault, str] = {
    Fault.CONNECT_ERROR: "no connection to the upstream could be made",
    Fault.RESET: "the upstream reset the connection",
    Fault.CUT_MID_EVENT: "the upstream's stream was cut inside an event",
    Fault.CUT_BETWEEN_EVENTS: "the upstream's connection closed before the answer was complete",
    Fault.CLEAN_EOF: "the upstream ended its stream without finishing the answer",
    Fault.EMPTY_STREAM: "the upstream answered 200 with an empty stream",
    Fault.STALL: "the upstream stopped sending in the middle of its stream",
    Fault.FIRST_EVENT_TIMEOUT: "the upstream sent no event in time",
    Fault.IN_STREAM_ERROR: "the upstream reported an error inside its stream",
    Fault.MALFORMED_EVENT: "the upstream sent an event that is not JSON",
    Fault.OVERSIZE_EVENT: "the upstream sent an event larger than max_event_bytes",
    Fault.HTTP_STATUS: "the upstream answered with an error status",
}
"""One plain sentence a fault, for error messages and the log."""
