"""What the session tells the edge to do, and what it reports at the end.

Commands are imperatives, facts are nouns. Knows no logic but the words of our own errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.core.errors import (
    STREAM_INCOMPLETE,
    UPSTREAM_ERROR,
    Reply,
    UpstreamError,
    error_reply,
)
from proxy.core.fault import EXPLANATIONS, Fault, Incident, Phase, StreamOutcome
from proxy.core.policy import Target
from proxy.core.request import Request


@dataclass(frozen=True, slots=True)
class Open:
    """Wait ``floor_s`` plus a random share of ``spread_s``, then send a request to a target.

    ``body`` is to be written before that: the last events of the attempt before. ``document``
    says that the answer is one JSON object, to be read as the stream would be. ``keep`` says
    that the connection of the attempt before must stay open meanwhile.
    """

    request: Request
    target: Target
    document: bool = False
    keep: bool = False
    floor_s: float = 0.0
    spread_s: float = 0.0
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Finish:
    """End the client's response.

    Where a 200 is out: write ``body`` and terminate. Where nothing is out: send ``reply``, or
    with ``pass_on`` the upstream's own error reply unchanged.
    """

    body: bytes = b""
    reply: Reply | None = None
    pass_on: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """One finished stream, to be recorded once.

    ``attempts`` holds the reason of each attempt (``first`` or a fault's name), ``recoveries``
    pairs of strategy and result, ``repairs`` how often each was made, ``usage`` the raw JSON of
    the upstream's token counts or nothing.
    """

    outcome: StreamOutcome
    attempts: tuple[str, ...]
    incidents: tuple[Incident, ...]
    recoveries: tuple[tuple[str, str], ...]
    repairs: Mapping[str, int]
    events: int
    size: int
    discarded_bytes: int
    usage: bytes
    discarded_events: int = 0
    capped: bool = False


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt as it was decided on: the strategy, the fault that was its reason, and whom."""

    strategy: str
    reason: str
    target: Target


_THOSE = "The {} events before this one are"
_TIMEOUTS = frozenset({Fault.STALL, Fault.FIRST_EVENT_TIMEOUT})


def own_error(fault: Fault, detail: str, events: int) -> UpstreamError:
    """Say in the stream that it is not complete, and why."""
    given = "No part of the answer was received"
    if events:
        those = "The 1 event before this one is" if events == 1 else _THOSE.format(events)
        given = f"{those} whole, but the answer is not complete"
    because = f" ({detail})" if detail else ""
    return UpstreamError(
        message=f"{_sentence(fault)}{because}. {given}. [{fault.value}]",
        type=UPSTREAM_ERROR,
        code=STREAM_INCOMPLETE,
        param=None,
        status=502,
        transient=True,
    )


def shutdown_error() -> UpstreamError:
    """Say that the proxy itself ends the stream; a client may ask again at once."""
    message = "The proxy is shutting down and had to end this stream before it was complete."
    return UpstreamError(message, UPSTREAM_ERROR, None, None, 503, transient=True)


def internal_error() -> UpstreamError:
    """Say that a bug of the proxy's own ended the stream."""
    message = "The proxy failed by a bug of its own; its log has the details under the request id."
    return UpstreamError(message, UPSTREAM_ERROR, STREAM_INCOMPLETE, None, 500, transient=True)


def http_reply(fault: Fault, phase: Phase, attempts: int, detail: str) -> Reply:
    """Return the HTTP error for a stream that failed before anything was sent."""
    status, code = 502, STREAM_INCOMPLETE
    if fault in _TIMEOUTS:
        status, code = 504, "upstream_timeout"
    elif fault is Fault.EMPTY_STREAM:
        code = "empty_stream"
    elif phase is Phase.BEFORE_HEADERS:
        code = "upstream_unreachable"
    tries = "1 attempt was made" if attempts == 1 else f"{attempts} attempts were made"
    because = f" ({detail})" if detail else ""
    return error_reply(status, code, f"{_sentence(fault)}{because}. {tries}. [{fault.value}]")


def _sentence(fault: Fault) -> str:
    text = EXPLANATIONS[fault]
    return text[0].upper() + text[1:]
