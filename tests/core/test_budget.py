"""The retry budget and the breakers: never a storm of repetitions, on any target."""

from __future__ import annotations

import pytest

from proxy.core.budget import Breaker, Breakers, RetryBudget


def spend(budget: RetryBudget, now: float, most: int = 10_000) -> int:
    """Withdraw until there is nothing left, return how often it went."""
    for count in range(most):
        if not budget.withdraw(now):
            return count
    pytest.fail("the budget has no bottom")


def test_a_new_budget_has_half_a_minute_of_its_floor_in_hand() -> None:
    """A quiet laptop has retries at once."""
    assert spend(RetryBudget(0.2, 1.0), now=0.0) == 30


def test_the_floor_refills_with_time_up_to_half_a_minute() -> None:
    """Half a second gives half a token; an hour gives no more than half a minute."""
    budget = RetryBudget(0.0, 1.0)
    spend(budget, now=0.0)
    assert not budget.withdraw(0.5)
    assert budget.withdraw(1.0)
    assert spend(budget, now=3600.0) == 30


def test_successes_deposit_their_share() -> None:
    """Five successes at a ratio of 0.2 pay for one repetition."""
    budget = RetryBudget(0.2, 0.0)
    assert spend(budget, now=0.0) == 0
    for _ in range(5):
        budget.deposit()
    assert spend(budget, now=0.0) == 1


def test_deposits_are_capped() -> None:
    """Credit from long ago says nothing about now: 1000 successes count."""
    budget = RetryBudget(0.2, 0.0)
    for _ in range(5000):
        budget.deposit()
    assert budget.tokens == pytest.approx(200.0)


def test_refusals_are_counted() -> None:
    """They are a metric."""
    budget = RetryBudget(0.0, 0.0)
    assert not budget.withdraw(1.0)
    assert not budget.withdraw(2.0)
    assert budget.exhausted == 2


def test_time_that_goes_backwards_gives_nothing() -> None:
    """Neither now nor when it catches up."""
    budget = RetryBudget(0.0, 1.0, now=100.0)
    assert spend(budget, now=100.0) == 30
    assert not budget.withdraw(50.0)
    assert not budget.withdraw(100.0)
    assert budget.withdraw(101.0)


def test_nothing_configured_is_nothing_given() -> None:
    """Ratio and floor of zero turn repetitions off."""
    assert not RetryBudget(0.0, 0.0).withdraw(1e9)


# --- the circuit of one target ---


def opened(failures: int = 2, open_s: float = 10.0) -> Breaker:
    """Return a breaker that opened at the time 100."""
    breaker = Breaker(failures, open_s)
    for _ in range(failures):
        breaker.begin()
        breaker.failed(100.0)
    return breaker


def test_failures_in_a_row_open_the_circuit() -> None:
    """One fewer does not."""
    breaker = Breaker(3, 10.0)
    for _ in range(2):
        breaker.failed(100.0)
        assert breaker.allows(100.0)
        assert not breaker.is_open
    breaker.failed(100.0)
    assert breaker.is_open
    assert not breaker.allows(100.0)


def test_a_success_between_failures_begins_the_count_again() -> None:
    """They must be in a row."""
    breaker = Breaker(2, 10.0)
    breaker.failed(100.0)
    breaker.succeeded()
    breaker.failed(100.0)
    assert not breaker.is_open


def test_what_says_nothing_about_the_target_counts_neither_way() -> None:
    """A client that left has not seen a failure, nor a success."""
    breaker = Breaker(2, 10.0)
    breaker.failed(100.0)
    breaker.released()
    breaker.answered()
    assert not breaker.is_open
    breaker.failed(100.0)
    assert breaker.is_open


def test_an_open_circuit_lets_one_probe_through_when_its_time_is_up() -> None:
    """The second one waits until the first has ended."""
    breaker = opened()
    assert not breaker.allows(109.9)
    assert breaker.allows(110.0)
    breaker.begin()
    assert not breaker.allows(110.0)
    assert not breaker.allows(1e9)


def test_a_probe_that_fails_opens_the_circuit_anew() -> None:
    """From then on the whole time is waited again."""
    breaker = opened()
    breaker.begin()
    breaker.failed(110.0)
    assert breaker.is_open
    assert not breaker.allows(119.9)
    assert breaker.allows(120.0)


def test_a_probe_that_is_answered_closes_the_circuit_on_trial() -> None:
    """One more failure opens it: an upstream may be well for the first event only."""
    breaker = opened(failures=5)
    breaker.begin()
    breaker.answered()
    assert not breaker.is_open
    assert breaker.allows(110.0)
    breaker.failed(111.0)
    assert breaker.is_open


def test_a_whole_success_closes_the_circuit_for_good() -> None:
    """All failures are forgotten."""
    breaker = opened(failures=2)
    breaker.begin()
    breaker.answered()
    breaker.succeeded()
    breaker.failed(111.0)
    assert not breaker.is_open


def test_a_probe_that_said_nothing_makes_room_for_the_next() -> None:
    """The circuit stays open, and the time stays up."""
    breaker = opened()
    breaker.begin()
    breaker.released()
    assert breaker.is_open
    assert breaker.allows(110.0)


# --- the circuits of all targets ---


def test_each_target_has_a_circuit_of_its_own() -> None:
    """By upstream and model; the same one each time it is asked for."""
    breakers = Breakers(failures=1, open_s=10.0)
    breakers.of("a", "m").failed(100.0)
    breakers.of("a", "m-2")
    breakers.of("b", "m")
    assert breakers.states() == {("a", "m"): True, ("a", "m-2"): False, ("b", "m"): False}
    assert breakers.of("a", "m") is breakers.of("a", "m")


def test_by_default_five_failures_open_a_circuit_for_ten_seconds() -> None:
    """The contract's defaults."""
    breaker = Breakers().of("a", "m")
    for _ in range(5):
        assert not breaker.is_open
        breaker.failed(100.0)
    assert breaker.is_open
    assert not breaker.allows(109.9)
    assert breaker.allows(110.0)


def test_the_target_unused_for_longest_is_forgotten_first() -> None:
    """Model names come from clients, so their number has a bound."""
    breakers = Breakers(failures=1)
    breakers.of("", "old").failed(0.0)
    for number in range(255):
        breakers.of("", str(number))
    breakers.of("", "old")
    breakers.of("", "one more")
    states = breakers.states()
    assert len(states) == 256
    assert ("", "0") not in states
    assert states[("", "old")]
