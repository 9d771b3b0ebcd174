"""What an upstream does to one request, and what must come of it. Values only.

Knows the words of a case. Must not know how it is played, or which cases there are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from support import CLEAN, CREATED, DONE, HI, ROLE, STOP, ask, chunk, lifecycle, spoken, sse

from proxy.core.fault import AttemptEnd
from proxy.core.request import Request


@dataclass(frozen=True)
class Part:
    """One attempt: the body that came, and how it ended.

    ``head`` says that it began with a 200, ``document`` that it called itself JSON.
    """

    body: bytes = b""
    end: AttemptEnd = CLEAN
    head: bool = True
    document: bool = False


@dataclass(frozen=True)
class Told:
    """The client is told in the stream: its last event is an error of such a code."""

    code: str | None = "stream_incomplete"
    says: str = ""
    """What stands in the message."""


@dataclass(frozen=True)
class Replied:
    """The client has nothing yet and gets a status, with an error of such a code."""

    status: int
    code: str | None
    says: str = ""


@dataclass(frozen=True)
class PassedOn:
    """The client gets the upstream's own reply."""


@dataclass(frozen=True)
class Whole:
    """The client has a complete answer."""


Ending = Whole | Told | Replied | PassedOn


@dataclass(frozen=True)
class Tale:
    """One request, attempt by attempt.

    ``given`` is all that the client has before the words of its ``ending``. ``faults`` are
    written as fault/phase/outcome, in order; ``repairs`` as often as they are counted.
    ``committed`` says that a 200 was out before the first byte came, ``waits_s`` how long the
    second attempt waits at least.
    """

    parts: tuple[Part, ...]
    given: bytes
    ending: Ending = Whole()
    faults: tuple[str, ...] = ()
    repairs: Mapping[str, int] = field(default_factory=dict)
    request: Request = field(default_factory=ask)
    committed: bool = False
    waits_s: float = 0.0
    limits: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One fault of the catalogue.

    ``tales`` are the forms in which it is met, ``alike`` what only resembles it: of that
    nothing may be counted. What the core cannot see is shown by ``tests``, and its look-alike by
    ``alike_tests``, each written as file::function.
    """

    number: int
    id: str
    tales: Mapping[str, Tale] = field(default_factory=dict)
    alike: Mapping[str, Tale] = field(default_factory=dict)
    tests: tuple[str, ...] = ()
    alike_tests: tuple[str, ...] = ()


# --- short ways to write them -----------------------------------------------------------------


def whole(
    body: bytes, given: bytes, request: Request | None = None, *repairs: str, **limits: Any
) -> Tale:
    """Make a tale of one attempt that is a complete answer; a repair is counted as it is named."""
    counted = {name: repairs.count(name) for name in repairs}
    return Tale((Part(body),), given, repairs=counted, request=request or ask(), limits=limits)


def passes(body: bytes, request: Request | None = None, **limits: Any) -> Tale:
    """Make a tale of an answer that must come out as it went in, and be counted as nothing."""
    return whole(body, body, request, **limits)


def restarted(
    first: Part, fault: str, answer: bytes, request: Request | None = None, **limits: Any
) -> Tale:
    """Make a tale of an attempt that fails before content, and of another that is whole."""
    phase = "before_content" if first.head else "before_headers"
    return Tale(
        (first, Part(answer)),
        answer,
        faults=(f"{fault}/{phase}/restarted",),
        request=request or ask(),
        limits=limits,
    )


def breaks(body: bytes, given: bytes, fault: str, end: AttemptEnd = CLEAN, **more: Any) -> Tale:
    """Make a tale of one attempt that breaks after content, and is told."""
    more = {"ending": Told(says=f"[{fault}]"), **more}
    return Tale((Part(body, end),), given, faults=(f"{fault}/mid_content/surfaced",), **more)


def named(*payloads: dict[str, Any]) -> bytes:
    """Write events that are named by their own type, as a response's are."""
    return b"".join(sse(payload, name=str(payload["type"])) for payload in payloads)


def packed(*payloads: dict[str, Any]) -> bytes:
    """Write events that are named by their own type, as the proxy writes them."""
    return b"".join(
        sse(json.dumps(payload, separators=(",", ":")), name=str(payload["type"]))
        for payload in payloads
    )


def compact(*payloads: dict[str, Any]) -> bytes:
    """Write events as the proxy writes those that it had to change."""
    return sse(*(json.dumps(payload, separators=(",", ":")) for payload in payloads))


def says(text: str) -> bytes:
    """Write a whole chat answer that says a text in one chunk."""
    return sse(ROLE, chunk(content=text), STOP) + DONE


BEGUN = sse(ROLE, HI)
"""A chat answer that has content and is not finished."""

RESPONSE = named(CREATED, spoken(1), lifecycle("completed", 2))
"""A small response."""

SPEAKING = named(CREATED, spoken(1))
"""A response that has content and is not finished."""
