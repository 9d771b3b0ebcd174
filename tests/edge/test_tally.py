"""Tallies: what they show is what a histogram would."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import choose_encoder

from proxy.tally import Tallies

BUCKETS = (0.001, 0.0025, 5e-5 * 200, 0.5, 81.92)
VALUES = (0.0, 0.001, 0.0010001, 0.01, 0.3, 0.5, 80.0, 1000.0)


def exposed(registry: CollectorRegistry, accept: str) -> set[str]:
    """Return the lines of an exposition."""
    encode, _ = choose_encoder(accept)
    return set(encode(registry).decode().splitlines())


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
def test_tallies_are_exposed_as_a_histogram_is(accept: str) -> None:
    """Line for line, in both formats; a value on a bound belongs below it."""
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("gap", "Gaps.", ("to",), registry=theirs, buckets=BUCKETS)
    tallies = Tallies(BUCKETS, ("gap", "Gaps.", ("to",), slice(1)))
    ours.register(tallies)
    for label, values in (("a", VALUES), ("b", VALUES[2:5])):
        for value in values:
            histogram.labels(label).observe(value)
            tallies.labels(label).observe(value)
    lines = {line for line in exposed(theirs, accept) if "_created" not in line}
    assert exposed(ours, accept) == lines


def test_one_observation_is_shown_in_each_histogram_by_its_own_labels() -> None:
    """Those that share a label in one of them are added up there."""
    tallies = Tallies(BUCKETS, ("x", "X.", ("e",), slice(1)), ("y", "Y.", ("m",), slice(1, None)))
    tallies.labels("chat", "m1").observe(0.2)
    tallies.labels("chat", "m2").observe(0.3)
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in tallies.collect()
        for sample in family.samples
        if sample.name.endswith(("_count", "_sum"))
    }
    assert found == {
        ("x_count", "chat"): 2.0,
        ("x_sum", "chat"): 0.5,
        ("y_count", "m1"): 1.0,
        ("y_sum", "m1"): 0.2,
        ("y_count", "m2"): 1.0,
        ("y_sum", "m2"): 0.3,
    }


def test_what_is_settled_is_counted_once() -> None:
    """However often it is settled, and observed in between."""
    tally = Tallies(BUCKETS, ("x", "X.", (), slice(0))).labels()
    for _ in range(2):
        tally.observe(0.002)
        tally.settle()
        tally.settle()
    assert (tally.counts, tally.total) == ([0, 2, 0, 0, 0, 0], 0.004)


def test_the_same_labels_have_one_tally() -> None:
    """So that who observes often can keep it."""
    tallies = Tallies(BUCKETS, ("x", "X.", ("e",), slice(1)))
    assert tallies.labels("a") is tallies.labels("a")
    assert tallies.labels("a") is not tallies.labels("b")


def test_names_are_known_to_a_registry_before_anything_was_observed() -> None:
    """Another collector of one of the names is refused."""
    registry = CollectorRegistry()
    registry.register(Tallies(BUCKETS, ("x", "X.", (), slice(0))))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Histogram("x", "X.", registry=registry)
