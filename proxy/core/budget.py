"""What all streams of a process share: the retry budget, and a circuit breaker a target.

Knows tokens, failures and seconds. Must not know what a retry is for. The budget is after
tower's ``TpsBudget``: a share of what succeeds may be repeated, plus a floor a second, so that
a failing upstream is never hit by a storm of repetitions (Google SRE book, "Handling Overload").
Times are monotonic seconds.
"""

from __future__ import annotations

_RESERVE_S = 30.0
"""The floor may be saved up for this long, so that a quiet laptop has retries in hand."""

_DEPOSITS = 1000
"""At most so many successes' deposits are kept; older credit says nothing about now."""

_MAX_BREAKERS = 256
"""Model names come from clients, so the targets remembered are bounded."""


class RetryBudget:
    """Deposits by successes, withdrawals by repetitions."""

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
        """Credit one success."""
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


class Breaker:
    """The circuit of one target: opened by failures in a row, tried again by one probe.

    A probe that is answered closes it, but until a whole success one more failure opens it
    again: an upstream may be well for the first event and cut every stream later.
    """

    def __init__(self, failures: int, open_s: float) -> None:
        """Start closed."""
        self._limit = failures
        self._open_s = open_s
        self._failures = 0
        self._opened: float | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether the target is avoided where there is another."""
        return self._opened is not None

    def allows(self, now: float) -> bool:
        """Say whether the target may be asked: it is closed, or a probe is due."""
        if self._opened is None:
            return True
        return not self._probing and now - self._opened >= self._open_s

    def begin(self) -> bool:
        """Note an attempt; say whether it is the probe, which it is on an open circuit."""
        self._probing = self._probing or self.is_open
        return self.is_open

    def answered(self) -> None:
        """Note that an attempt gave content."""
        if self.is_open:
            self._opened = None
            self._probing = False
            self._failures = self._limit - 1

    def succeeded(self) -> None:
        """Note a whole answer."""
        self._opened = None
        self._probing = False
        self._failures = 0

    def failed(self, now: float) -> None:
        """Note a failed attempt."""
        self._failures += 1
        self._probing = False
        if self.is_open or self._failures >= self._limit:
            self._opened = now

    def released(self) -> None:
        """Note that a probe ended without saying anything about the target."""
        self._probing = False


class Breakers:
    """The breakers of all targets, made when they are first asked for."""

    def __init__(self, failures: int = 5, open_s: float = 10.0) -> None:
        """Set the failures in a row that open a circuit, and the seconds until a probe."""
        self._failures = failures
        self._open_s = open_s
        self._of: dict[tuple[str, str], Breaker] = {}

    def of(self, upstream: str, model: str) -> Breaker:
        """Return the breaker of one target. The one unused for longest makes room."""
        key = (upstream, model)
        found = self._of.pop(key, None) or Breaker(self._failures, self._open_s)
        self._of[key] = found
        if len(self._of) > _MAX_BREAKERS:
            del self._of[next(iter(self._of))]
        return found

    def states(self) -> dict[tuple[str, str], bool]:
        """Return which targets, by upstream and model, are open."""
        return {key: breaker.is_open for key, breaker in self._of.items()}
