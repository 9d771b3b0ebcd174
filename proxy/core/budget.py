"""The retry budget: one token bucket shared by all streams of a process.

Knows tokens and seconds. Must not know what a retry is for. After tower's ``TpsBudget``: a
share of the requests may be repeated, plus a floor a second, so that a failing upstream is
never hit by a storm of repetitions (Google SRE book, "Handling Overload").
"""

from __future__ import annotations

_RESERVE_S = 60.0
"""The floor may be saved up for this long, so that a quiet laptop has retries in hand."""

_DEPOSITS = 1000
"""At most so many requests' deposits are kept; older credit says nothing about now."""


class RetryBudget:
    """Deposits by requests, withdrawals by repetitions. Times are monotonic seconds."""

    def __init__(self, ratio: float, min_per_s: float, now: float = 0.0) -> None:
        """Start with the floor's reserve in hand."""
        self._ratio = ratio
        self._min_per_s = min_per_s
        self._capacity = min_per_s * _RESERVE_S + ratio * _DEPOSITS
        self._tokens = min_per_s * _RESERVE_S
        self._refilled = now
        self.exhausted = 0
        """How often a withdrawal was refused."""

    @property
    def tokens(self) -> float:
        """Repetitions in hand as of the last call."""
        return self._tokens

    def deposit(self) -> None:
        """Credit one first attempt."""
        self._tokens = min(self._capacity, self._tokens + self._ratio)

    def withdraw(self, now: float) -> bool:
        """Take one repetition, or say that there is none to be had."""
        elapsed = max(0.0, now - self._refilled)
        self._refilled = max(now, self._refilled)
        self._tokens = min(self._capacity, self._tokens + elapsed * self._min_per_s)
        if self._tokens < 1.0:
            self.exhausted += 1
            return False
        self._tokens -= 1.0
        return True
