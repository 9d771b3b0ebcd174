"""What is known of a captured body, and what an SDK would make of it.

Knows plain facts. Must not know how they were found, or how they are shown.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from proxy.lint.sdks import NODE_ERROR, Fate, Sdk, Survival, survival_of

_LAST = frozenset({Fate.SILENT, Fate.HONEST, Fate.CRASHES})
"""Behind one of these nothing more is read."""


class KnownBy(enum.Enum):
    """Where the endpoint is known from."""

    CALLER = "caller"
    EVENTS = "events"
    DEFAULT = "default"


class Ending(enum.Enum):
    """How the body ends."""

    TERMINAL_EVENT = "terminal_event"
    """The stream says itself that it is complete."""
    FINISHED = "finished"
    """The answer is complete, only its end mark is missing."""
    END_OF_BODY = "end_of_body"
    """The body just ends, as streams of its kind do."""
    DOCUMENT = "document"
    """It is a whole answer, but JSON and no stream."""
    BROKEN = "broken"
    """The answer is not complete, or an error."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault, or all repairs of one name and form.

    ``at`` is the offset of the block in which it was found first. ``phase`` says how far the
    answer had come when a fault struck; a repair has none.
    """

    name: str
    form: str
    at: int
    times: int = 1
    phase: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether it is a fault."""
        return bool(self.phase)

    @property
    def survival(self) -> Survival:
        """What the SDKs do with it."""
        return survival_of(self.name, self.form)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an SDK makes of a body: its fate, and the finding that it is due to, if it is to one.

    ``error`` is the class of the exception, or empty.
    """

    fate: Fate
    error: str = ""
    finding: Finding | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """All that is known of a capture. Offsets are bytes of the capture, its head included.

    Where it was compressed (``decoded``) they are bytes of what it decodes to. ``events`` counts
    those with data; ``unread`` bytes behind the end, white space left out.
    """

    endpoint: str
    known_by: KnownBy
    size: int
    decoded: bool
    events: int
    ending: Ending
    findings: tuple[Finding, ...]
    unread: int

    @property
    def clean(self) -> bool:
        """Whether nothing was found but what the standard allows and both SDKs survive."""
        return all(finding.survival.allowed for finding in self.findings)

    def outcome(self, sdk: Sdk) -> Outcome:
        """Return what an SDK makes of it: the first thing that ends its reading, or the worst."""
        found = [_outcome(finding, sdk) for finding in self.findings]
        last = [one for one in found if one.fate in _LAST]
        worse = [one for fate in (Fate.LOSES, Fate.MISLED) for one in found if one.fate is fate]
        return [*last, *worse, Outcome(Fate.SURVIVES)][0]


def _outcome(finding: Finding, sdk: Sdk) -> Outcome:
    fate = finding.survival.of(sdk)
    crash = finding.survival.error if sdk == "python" else NODE_ERROR
    error = {Fate.CRASHES: crash, Fate.HONEST: "APIError"}.get(fate, "")
    return Outcome(fate, error, finding)
