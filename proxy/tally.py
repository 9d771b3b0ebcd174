"""Histograms that are cheap to observe: for what happens at every event.

Knows prometheus_client's collectors. An observation is one number put by, without a lock and
without a look-up (docs/performance.md). Must not know what is measured. One thread only.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Tally:
    """The observations of one set of labels. ``bounds`` are the upper ones, the last infinite.

    ``observe`` only puts a value by; ``settle`` sorts all of them in, which is to be called now
    and then by who observes often.
    """

    __slots__ = ("_bounds", "_new", "counts", "observe", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Start with nothing observed."""
        self._bounds = bounds
        self._new = array("d")
        self.observe: Callable[[float], None] = self._new.append
        """Note one value."""
        self.counts = [0] * len(bounds)
        self.total = 0.0

    def settle(self) -> None:
        """Sort in what was observed."""
        bounds, counts = self._bounds, self.counts
        for value in self._new:
            counts[bisect_left(bounds, value)] += 1
        self.total += sum(self._new)
        del self._new[:]

    def add(self, other: Tally) -> None:
        """Note all that another one has, as far as that is settled."""
        self.counts = [own + more for own, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


class Tallies(Collector):
    """Tallies by their labels, shown as one histogram or, by some of the labels each, as several.

    ``shown`` has of each histogram the name, the help, the label names, and which of the values
    these have.
    """

    def __init__(
        self,
        buckets: Sequence[float],
        *shown: tuple[str, str, Sequence[str], slice],
    ) -> None:
        """Start with no labels; to be registered."""
        self._bounds = (*buckets, inf)
        self._shown = shown
        self.label_names = {name: tuple(names) for name, _, names, _ in shown}
        """Of each histogram."""
        self._tallies: dict[tuple[str, ...], Tally] = {}

    def labels(self, *values: str) -> Tally:
        """Return the tally of these label values, to be kept by who observes often."""
        tally = self._tallies.get(values)
        if tally is None:
            tally = self._tallies[values] = Tally(self._bounds)
        return tally

    def describe(self) -> Iterable[Metric]:
        """Name the histograms, for the registry."""
        return [
            HistogramMetricFamily(name, text, labels=names) for name, text, names, _ in self._shown
        ]

    def collect(self) -> Iterator[Metric]:
        """Return what was observed so far."""
        for name, text, names, part in self._shown:
            sums: dict[tuple[str, ...], Tally] = {}
            for values, tally in self._tallies.items():
                tally.settle()
                sums.setdefault(values[part], Tally(self._bounds)).add(tally)
            family = HistogramMetricFamily(name, text, labels=names)
            for values, tally in sums.items():
                family.add_metric(values, self._buckets(tally), tally.total)
            yield family

    def _buckets(self, tally: Tally) -> list[tuple[str, float]]:
        count, buckets = 0, []
        for bound, more in zip(self._bounds, tally.counts, strict=True):
            count += more
            buckets.append(("+Inf" if bound == inf else str(bound), float(count)))
        return buckets
