"""The retry budget and the breakers: never a storm of repetitions, on any target."""

from __future__ import annotations

import pytest

from proxy.core.budget import RetryBudget


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
