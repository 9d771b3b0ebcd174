"""The demonstration's tables, in 100 columns; colours only where a person looks at them.

Knows text. Must not know how anything came about.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter

from proxy.demo.seen import Ending, Verdict

_NAME, _DIRECT, _THROUGH = 32, 33, 31
_DIM, _BOLD = "2", "1"
_COLOURS = {
    Ending.COMPLETE: "32",
    Ending.HONEST: "36",
    Ending.SILENT: "1;31",
    Ending.BROKEN: "33",
}
_SAMPLE = re.compile(r"^(\w+)\{([^}]*)\} (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')

_COUNTED = {
    "wholestream_streams_total": ("endpoint", "outcome"),
    "wholestream_incomplete_chunks_total": ("endpoint", "fault", "phase", "outcome"),
    "wholestream_recoveries_total": ("strategy", "result"),
    "wholestream_repairs_total": ("endpoint", "repair"),
}


def say(line: str = "") -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def paint(text: str, colour: str) -> str:
    """Colour a text on a terminal, unless ``NO_COLOR`` is set."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


def bold(text: str) -> str:
    """Make a heading."""
    return paint(text, _BOLD)


def dim(text: str) -> str:
    """Make a remark."""
    return paint(text, _DIM)


def heading() -> list[str]:
    """Return the head of the comparison."""
    cells = "what the upstream does".ljust(_NAME), "directly".ljust(_DIRECT), "through wholestream"
    return [bold("  ".join(cells)), "  ".join("-" * width for width in (_NAME, _DIRECT, _THROUGH))]


def row(name: str, direct: Verdict, through: Verdict) -> str:
    """Return one line of the comparison."""
    return f"{name:<{_NAME}}  {verdict(direct, _DIRECT)}  {verdict(through)}"


def verdict(told: Verdict, width: int = 0) -> str:
    """Colour a verdict, padded to ``width``."""
    return paint(told.words.ljust(width), _COLOURS[told.ending])


def summary(name: str, verdicts: list[Verdict]) -> str:
    """Count the verdicts of one column."""
    endings = Counter(told.ending for told in verdicts)
    counted = ", ".join(f"{endings[ending]} {ending.value}" for ending in Ending)
    return f"{name + ':':<21}{counted}"


def counters(metrics: str) -> list[str]:
    """Return the counters of ``/metrics`` that are not zero, as tables."""
    lines: list[str] = []
    for name, labels in _COUNTED.items():
        rows = [("", *labels), *sorted(_samples(metrics, name, labels), key=lambda row: row[1:])]
        widths = [max(len(row[i]) for row in rows) for i in range(len(labels) + 1)]
        lines.append(bold(name))
        for at, row in enumerate(rows):
            cells = [row[0].rjust(widths[0] + 2)]
            cells += [cell.ljust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            line = "  ".join(cells).rstrip()
            lines.append(line if at else dim(line))
    return lines


def _samples(metrics: str, name: str, labels: tuple[str, ...]) -> list[tuple[str, ...]]:
    found = (_SAMPLE.match(line) for line in metrics.splitlines())
    samples = [sample for sample in found if sample is not None and sample[1] == name]
    return [
        (f"{float(sample[3]):g}", *(dict(_LABEL.findall(sample[2])).get(x, "") for x in labels))
        for sample in samples
        if float(sample[3]) > 0
    ]
