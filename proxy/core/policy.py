"""The limits and choices the core works by, frozen.

Knows numbers and names only. Must not know where they were set; ``proxy.settings`` makes one of
these. Durations are seconds, sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Replay = Literal["never", "deterministic", "always"]
Continuation = Literal["off", "completions", "prefill", "vllm", "prefix", "instructed"]
Hold = Literal["none", "tool_calls", "all"]
FinishReason = Literal["optional", "required", "added"]
PassOrDrop = Literal["pass", "drop"]


@dataclass(frozen=True, slots=True)
class Quirks:
    """How one upstream's streams differ from OpenAI's, and what is done about it.

    The defaults suit every server that is known. The meaning of each field is in the settings
    table; nothing is learned from what a server sends.
    """

    finish_reason: FinishReason = "optional"
    foreign_events: PassOrDrop = "drop"
    empty_choices: PassOrDrop = "pass"
    fill_fields: bool = False
    nan: Literal["pass", "null"] = "pass"
    tool_arguments: Literal["pass", "length"] = "pass"
    empty_answer: Literal["pass", "restart"] = "pass"
    overload_texts: tuple[str, ...] = ()
    aggregate: bool = False


SAFE = Quirks()
"""The default of every quirk."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask: an upstream by name (empty: the primary), for a model (empty: as asked).

    ``continuation`` is how that upstream lets a partial answer be continued, by declaration;
    ``quirks`` are its own.
    """

    upstream: str = ""
    model: str = ""
    continuation: Continuation = "off"
    quirks: Quirks = SAFE


@dataclass(frozen=True, slots=True)
class Fallback:
    """For models that match one of the globs: the targets to try, in order."""

    models: tuple[str, ...]
    to: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """What the session may do. The meaning of each field is in the settings table."""

    max_attempts: int = 3
    backoff_base_s: float = 0.5
    backoff_max_s: float = 8.0
    retry_after_max_s: float = 60.0
    stall_timeout_s: float = 300.0
    max_event_bytes: int = 16 * 2**20
    journal_max_bytes: int = 4 * 2**20
    skip_malformed: bool = False
    resume: bool = True
    replay: Replay = "deterministic"
    continuation: Continuation = "off"
    hold: Hold = "none"
    fallbacks: tuple[Fallback, ...] = ()
    quirks: Quirks = SAFE
