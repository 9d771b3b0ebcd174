"""What wholestream is meant to reach, beside what it did. It only tells: nothing fails on speed.

Knows the goals as ratios. Must not know how anything was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bench.results import Results
from bench.scenarios import CPU_BYTE, KIB, P50_ADDED, P99_ADDED, SLOWEST, Figure, Scenario

OURS = "wholestream"
_FLAT = ("1 KB", "16 KB", "256 KB", "1 MB", "4 MB", "15 MB")

_RATIOS: tuple[tuple[str, Figure | None, str, float], ...] = (
    ("paced", None, "envoy", 1.0),
    ("paced", None, "nginx", 1.6),
    ("paced", P50_ADDED, "nginx", 2.0),
    ("paced", P99_ADDED, "envoy", 1.0),
    ("short", None, "envoy", 3.0),
    ("short-paced", None, "envoy", 3.0),
    ("json", None, "envoy", 3.0),
    ("bulk", None, "envoy", 2.0),
)
"""Scenario, figure (None: its first), the other system, and the largest ratio."""

IDLE_KIB = 48.0
FLATNESS = 1.5
"""What a byte of a large event may cost, against one of the smallest size that is compared."""


def lines(known: Mapping[str, Scenario], results: Results) -> Iterator[str]:
    """Yield one line for each goal that was measured."""
    for name, figure, other, most in _RATIOS:
        yield from _ratio(known[name], results, figure, (other, most))
    yield from _idle(known["idle"], results)
    yield from _flat(known["sizes"], results)


def _verdict(value: float, most: float) -> str:
    return "met" if value <= most else "not met"


def _ratio(
    scenario: Scenario, results: Results, figure: Figure | None, goal: tuple[str, float]
) -> Iterator[str]:
    other, most = goal
    figure = figure or scenario.figures[0]
    mine = results.median(scenario, scenario.cases[0].name, OURS, figure)
    theirs = results.median(scenario, scenario.cases[0].name, other, figure)
    if mine is None or theirs is None:
        return
    told = f"{scenario.name}: {figure.name} {mine:,.{figure.digits}f}"
    against = f"{other} {theirs:,.{figure.digits}f}"
    # Where the other adds next to nothing, the noise may be below zero: then no ratio is told.
    ratio = f" = {mine / theirs:.2f}" if theirs > 0 else ""
    yield f"{_verdict(mine, most * theirs):8} {told} / {against}{ratio} (goal: <= {most:g})"


def _idle(scenario: Scenario, results: Results) -> Iterator[str]:
    for case in scenario.cases:
        kib = results.median(scenario, case.name, OURS, KIB)
        slowest = results.spread(scenario, case.name, OURS, SLOWEST)
        if kib is None or slowest is None:
            continue
        told = f"idle: {kib:.1f} KiB per stream with {case.name} open (goal: <= {IDLE_KIB:g})"
        starved = f"none starved, the slowest event took {slowest.most:.1f} ms"
        yield f"{_verdict(kib, IDLE_KIB):8} {told}; {starved}"


def _flat(scenario: Scenario, results: Results) -> Iterator[str]:
    costs = {name: results.median(scenario, name, OURS, CPU_BYTE) for name in _FLAT}
    found = [(name, cost) for name, cost in costs.items() if cost]
    if len(found) < 2:  # noqa: PLR2004 - there is nothing to compare
        return
    (first, small), *larger = found
    cost, name = max((cost, name) for name, cost in larger)
    ratio, spread = cost / small, max(costs for _, costs in found) / min(c for _, c in found)
    told = f"sizes: a byte of {name} events costs {ratio:.2f} x one of {first} events"
    told += f" (goal: <= {FLATNESS:g}); the dearest size costs {spread:.2f} x the cheapest"
    yield f"{_verdict(ratio, FLATNESS):8} {told}"
