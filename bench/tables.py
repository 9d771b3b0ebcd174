"""Tables of results, for a terminal. Knows text only."""

from __future__ import annotations

from collections.abc import Sequence

from bench.results import Results, Spread
from bench.scenarios import Figure, Scenario

COMPARED = ("nginx", "envoy")
"""The systems that each one's first figure is divided by that of."""


def table(scenario: Scenario, results: Results) -> str:
    """Return the table of one scenario: medians, (least..most) over the rounds, ratios."""
    cases = [case.name for case in scenario.cases]
    named = ["case"] if len(cases) > 1 else []
    first, *others = scenario.figures
    head = [*named, "system", first.name, *(f"x {name}" for name in COMPARED)]
    rows = [[*head, *(figure.name for figure in others)]]
    for case in cases:
        for system in results.systems(scenario.name):
            cells = [_cell(results.spread(scenario, case, system, one), one) for one in others]
            told = _cell(results.spread(scenario, case, system, first), first)
            ratios = [_ratio(results, scenario, (case, system), other) for other in COMPARED]
            rows.append([*([case] if named else []), system, told, *ratios, *cells])
    return f"{scenario.name}: {scenario.title}\n{aligned(rows, len(named) + 1)}"


def aligned(rows: Sequence[Sequence[str]], left: int) -> str:
    """Return rows in columns; the first ``left`` of them begin at the same place, others end so."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _cell(spread: Spread | None, figure: Figure) -> str:
    if spread is None:
        return "-"
    median, least, most = (
        f"{value:,.{figure.digits}f}" for value in (spread.median, spread.least, spread.most)
    )
    return median if least == most else f"{median} ({least}..{most})"


def _ratio(results: Results, scenario: Scenario, row: tuple[str, str], other: str) -> str:
    case, system = row
    mine = results.median(scenario, case, system, scenario.figures[0])
    theirs = results.median(scenario, case, other, scenario.figures[0])
    if mine is None or not theirs or theirs < 0:
        return "-"
    return f"{mine / theirs:.2f}"
