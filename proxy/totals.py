"""The numbers of several processes, added up to those of one instance.

Knows what kinds of metrics there are, and which of the contract's are states and which amounts.
Must not know processes, nor how a number came about. What a process that died had counted stays
in the sums, as far as it had told; so no counter ever goes backwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

_OPENMETRICS = "application/openmetrics-text"
_IN_FLIGHT = "wholestream_streams_in_flight"
_STREAMS = "wholestream_streams"
_ABORTED = {"endpoint": "other", "outcome": "aborted"}
"""A process that died has not told of which endpoint its streams were."""

_AMOUNTS = "_in_flight"
"""How gauges that are added up end; of the others, which are states, the highest counts."""

Key = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name and labels."""


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric as it was at a moment."""

    name: str
    kind: str
    text: str
    unit: str
    samples: list[tuple[str, dict[str, str], float]]

    @property
    def lasts(self) -> bool:
        """Whether it outlives the process that counted it."""
        return self.kind != "gauge"


def families(collector: Collector) -> list[Family]:
    """Take down what a registry has now."""
    return [
        Family(
            metric.name,
            metric.type,
            metric.documentation,
            metric.unit,
            [(sample.name, sample.labels, sample.value) for sample in metric.samples],
        )
        for metric in collector.collect()
    ]


class Totals(Collector):
    """The sums, over processes that are known by numbers."""

    def __init__(self, own: Collector) -> None:
        """Take the registry of the process that adds up: it names every metric first."""
        self._own = own
        self._told: dict[int, list[Family]] = {}
        self._past: list[Family] = []

    def tell(self, number: int, told: list[Family]) -> None:
        """Take the latest numbers of a process."""
        self._told[number] = told

    def retire(self, number: int) -> int:
        """Keep what a process has counted that is no more; return how many streams it took along.

        They are counted as aborted: begun and not ended otherwise. Unless the process lied, that
        holds for all but those that ended after its last word.
        """
        told = self._told.pop(number, [])
        lost = sum(int(value) for _, value in _values(told, _IN_FLIGHT))
        aborted = Family(
            _STREAMS, "counter", "", "", [(f"{_STREAMS}_total", _ABORTED, float(lost))]
        )
        lasting = [family for family in told if family.lasts]
        self._past = _added([self._past, lasting, [aborted] if lost else []])
        return lost

    def collect(self) -> Iterator[Metric]:
        """Give the sums."""
        for family in _added([families(self._own), self._past, *self._told.values()]):
            metric = Metric(family.name, family.text, family.kind, family.unit)
            for name, labels, value in family.samples:
                metric.add_sample(name, labels, value)
            yield metric

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Return the exposition that an ``Accept`` header asks for, and its content type."""
        # Not the header as it came: a version in it that is no number would raise.
        encode, content_type = choose_encoder(_OPENMETRICS if _OPENMETRICS in accept else "")
        return encode(self), content_type


def _values(told: Iterable[Family], name: str) -> Iterator[tuple[dict[str, str], float]]:
    for family in told:
        if family.name == name:
            yield from ((labels, value) for _, labels, value in family.samples)


def _added(parts: Iterable[list[Family]]) -> list[Family]:
    """Add up, in the order in which metrics and labels are first seen."""
    first: dict[str, Family] = {}
    sums: dict[str, dict[Key, float]] = {}
    for family in (family for part in parts for family in part):
        first.setdefault(family.name, family)
        values = sums.setdefault(family.name, {})
        is_state = family.kind == "gauge" and not family.name.endswith(_AMOUNTS)
        for name, labels, value in family.samples:
            key = name, tuple(labels.items())
            before = values.get(key, 0.0)
            values[key] = max(before, value) if is_state else before + value
    return [
        Family(
            family.name,
            family.kind,
            family.text,
            family.unit,
            [(sample, dict(labels), value) for (sample, labels), value in sums[name].items()],
        )
        for name, family in first.items()
    ]
