"""The limits and choices the core works by, frozen.

Knows numbers only. Must not know where they were set; ``proxy.settings`` makes one of these.
Durations are seconds, sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """What the session may do. The meaning of each field is in the settings table."""

    max_attempts: int = 3
    backoff_base_s: float = 0.5
    backoff_max_s: float = 8.0
    retry_after_max_s: float = 60.0
    max_event_bytes: int = 16 * 2**20
    journal_max_bytes: int = 4 * 2**20
    skip_malformed: bool = False
