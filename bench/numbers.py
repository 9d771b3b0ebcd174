"""Percentiles and spreads. Knows numbers only."""

from __future__ import annotations

from collections.abc import Sequence

POINTS = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}


def percentiles(values: Sequence[float], unit: float = 1.0) -> dict[str, float]:
    """Return the usual percentiles (nearest rank), each divided by ``unit``; none of nothing."""
    ordered = sorted(values)
    last = len(ordered) - 1
    if last < 0:
        return {}
    return {name: ordered[round(last * point)] / unit for name, point in POINTS.items()}
