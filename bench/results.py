"""What was measured, and the figures made of it: medians, spreads, what was added to direct.

Knows samples and scenarios. Must not know how samples are taken or shown.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bench.scenarios import Figure, Scenario

DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one case on one system. ``failures`` are streams that were not whole, in words."""

    scenario: str
    case: str
    system: str
    round: int
    facts: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Return it, or None of nothing."""
        if not values:
            return None
        return cls(statistics.median(values), min(values), max(values))


class Results:
    """All samples of a benchmark."""

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        """Take those there are already."""
        self.samples = list(samples)
        self.interrupted = False
        """Whether more was to come."""

    def add(self, sample: Sample) -> None:
        """Take one more."""
        self.samples.append(sample)

    def systems(self, scenario: str) -> list[str]:
        """Return which systems have samples, in the order they came in the first round."""
        of_it = (one for one in self.samples if one.scenario == scenario)
        return list(dict.fromkeys(one.system for one in sorted(of_it, key=lambda one: one.round)))

    def values(self, scenario: Scenario, case: str, system: str, figure: Figure) -> list[float]:
        """Return a figure for each round that has it."""
        direct = self._by_round(scenario.name, case, DIRECT)
        values = []
        for number, sample in self._by_round(scenario.name, case, system).items():
            try:
                value = figure.of(sample.facts)
                if figure.added:
                    value -= figure.of(direct[number].facts)
            except (KeyError, ZeroDivisionError):
                continue
            values.append(value)
        return values

    def spread(self, scenario: Scenario, case: str, system: str, figure: Figure) -> Spread | None:
        """Return a figure over the rounds."""
        if figure.added and system == DIRECT:
            return None
        return Spread.of(self.values(scenario, case, system, figure))

    def median(self, scenario: Scenario, case: str, system: str, figure: Figure) -> float | None:
        """Return the median of a figure over the rounds."""
        spread = self.spread(scenario, case, system, figure)
        return spread.median if spread else None

    def failures(self) -> list[Sample]:
        """Return the samples in which a stream was not whole."""
        return [one for one in self.samples if one.failures]

    def _by_round(self, scenario: str, case: str, system: str) -> dict[int, Sample]:
        wanted = (scenario, case, system)
        return {
            one.round: one
            for one in self.samples
            if (one.scenario, one.case, one.system) == wanted and not one.failures
        }
