"""Cheap histograms: what they show is what prometheus_client's own would show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from proxy.tally import Tallies, Tally

BUCKETS = (0.001, 0.25, 1.0, 10.0, 2000.0)
NAME, TEXT = "harbour_gap_seconds", 'The "silence"\nbetween \\ ships.'
FORMATS: dict[str, Callable[[CollectorRegistry], bytes]] = {
    "text": generate_latest,
    "openmetrics": openmetrics.generate_latest,
}
VALUES = (0.0, -1.0, 0.0005, *BUCKETS, 0.0010000001, 1999.9, 2000.1, 1e300, inf, -inf, 0.1, 0.2)

in_both_formats = pytest.mark.parametrize("encode", FORMATS.values(), ids=FORMATS)

disable_created_metrics()  # type: ignore[no-untyped-call]


def of(*labels: str) -> tuple[CollectorRegistry, Tallies]:
    """Make tallies that are one histogram with these labels, registered."""
    registry = CollectorRegistry()
    tallies = Tallies(BUCKETS, (NAME, TEXT, labels, slice(None)))
    registry.register(tallies)
    return registry, tallies


def theirs(name: str = NAME, *labels: str) -> tuple[CollectorRegistry, Histogram]:
    """Make the library's histogram, registered."""
    registry = CollectorRegistry()
    return registry, Histogram(name, TEXT, labels, registry=registry, buckets=BUCKETS)


def lines(
    encode: Callable[[CollectorRegistry], bytes], *registries: CollectorRegistry
) -> list[str]:
    """Return what registries show, each line."""
    text = b"".join(encode(registry) for registry in registries).decode()
    return [line for line in text.splitlines() if line != "# EOF"]


# --- one histogram ---


@in_both_formats
@pytest.mark.parametrize("values", [(), VALUES[:1], VALUES, VALUES * 3])
def test_it_shows_what_the_library_s_own_would_show(
    encode: Callable[[CollectorRegistry], bytes], values: Sequence[float]
) -> None:
    """Line for line: help, type, buckets with their bounds, count, sum."""
    own, tallies = of("ship", "pier")
    registry, histogram = theirs(NAME, "ship", "pier")
    tally, child = tallies.labels("a", 'b"\n\\'), histogram.labels("a", 'b"\n\\')
    for value in values:
        tally.observe(value)
        child.observe(value)
    assert lines(encode, own) == lines(encode, registry)


@given(
    values=st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(-1e6, 1e6) | st.sampled_from(VALUES[:-2])),
        max_size=30,
    ),
    settled=st.sets(st.integers(0, 30)),
)
def test_any_values_are_shown_as_by_the_library_s_own(
    values: list[tuple[str, float]], settled: set[int]
) -> None:
    """Of any labels, in any order, whenever they are settled."""
    own, tallies = of("ship")
    registry, histogram = theirs(NAME, "ship")
    for number, (ship, value) in enumerate(values):
        tallies.labels(ship).observe(value)
        histogram.labels(ship).observe(value)
        if number in settled:
            tallies.labels(ship).settle()
    own_text, text = generate_latest(own).decode(), generate_latest(registry).decode()
    found = [list(text_string_to_metric_families(one)) for one in (own_text, text)]
    for mine, other in zip(*found, strict=True):
        assert [sample[:2] for sample in mine.samples] == [sample[:2] for sample in other.samples]
        for one, two in zip(mine.samples, other.samples, strict=True):
            # The sum is added up in another order.
            assert one.value == pytest.approx(two.value, rel=1e-9, abs=1e-3, nan_ok=True)
            assert one.name.endswith("_sum") or one.value == two.value


def test_a_bound_belongs_to_its_bucket() -> None:
    """Buckets are less or equal."""
    _, tallies = of("ship")
    tally = tallies.labels("a")
    for bound in BUCKETS:
        tally.observe(bound)
    tally.settle()
    assert tally.counts == [*[1] * len(BUCKETS), 0]


@in_both_formats
def test_without_labels_it_is_one_histogram(encode: Callable[[CollectorRegistry], bytes]) -> None:
    """Shown once there is one."""
    own, tallies = of()
    registry, histogram = theirs()
    tallies.labels().observe(0.1)
    histogram.observe(0.1)
    assert lines(encode, own) == lines(encode, registry)


@in_both_formats
def test_without_any_tally_nothing_but_its_name_is_shown(
    encode: Callable[[CollectorRegistry], bytes],
) -> None:
    """As of a histogram with labels that nobody has asked for."""
    assert lines(encode, of("ship")[0]) == lines(encode, theirs(NAME, "ship")[0])


def test_the_registry_knows_its_names() -> None:
    """So that no other collector can take one."""
    registry, _ = of("ship")
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Histogram(NAME, TEXT, registry=registry)


# --- settling ---


def test_what_is_observed_counts_once_it_is_settled() -> None:
    """Before that it is put by, and after that no more is kept of it than the counts."""
    tally = Tally((1.0, inf))
    for value in (0.5, 1.5, 2.5):
        tally.observe(value)
    assert (tally.counts, tally.total) == ([0, 0], 0.0)
    tally.settle()
    assert (tally.counts, tally.total) == ([1, 2], 4.5)
    tally.settle()
    assert (tally.counts, tally.total) == ([1, 2], 4.5)
    tally.observe(0.5)
    tally.settle()
    assert (tally.counts, tally.total) == ([2, 2], 5.0)


def test_to_be_shown_settles_all() -> None:
    """Twice shown is not twice counted."""
    registry, tallies = of("ship")
    tallies.labels("a").observe(0.1)
    for _ in range(2):
        assert registry.get_sample_value(f"{NAME}_count", {"ship": "a"}) == 1.0
    tallies.labels("a").observe(0.2)
    assert registry.get_sample_value(f"{NAME}_count", {"ship": "a"}) == 2.0
    assert registry.get_sample_value(f"{NAME}_sum", {"ship": "a"}) == pytest.approx(0.3)


def test_labels_have_one_tally_which_who_observes_may_keep() -> None:
    """Also over many times of being shown."""
    registry, tallies = of("ship")
    kept = tallies.labels("a")
    assert tallies.labels("a") is kept
    assert tallies.labels("b") is not kept
    for count in (1.0, 2.0, 3.0):
        kept.observe(0.1)
        assert registry.get_sample_value(f"{NAME}_count", {"ship": "a"}) == count
        assert registry.get_sample_value(f"{NAME}_count", {"ship": "b"}) == 0.0


def test_one_may_be_added_to_another() -> None:
    """As far as it is settled; it stays as it is."""
    one, other = Tally((1.0, inf)), Tally((1.0, inf))
    one.observe(0.5)
    other.observe(2.0)
    other.settle()
    other.observe(3.0)
    one.settle()
    one.add(other)
    assert (one.counts, one.total) == ([1, 1], 2.5)
    assert (other.counts, other.total) == ([0, 1], 2.0)


def test_a_value_that_is_no_number_is_counted_all_the_same() -> None:
    """It must not be lost, or the count and the buckets would differ."""
    tally = Tally((1.0, inf))
    tally.observe(nan)
    tally.settle()
    assert sum(tally.counts) == 1


# --- several of one ---

OTHER = "pier_gap_seconds"


@in_both_formats
def test_one_observation_may_be_shown_in_several_histograms(
    encode: Callable[[CollectorRegistry], bytes],
) -> None:
    """Each by some of the labels, the others added up."""
    both = CollectorRegistry()
    shown = ((NAME, TEXT, ("ship",), slice(1)), (OTHER, TEXT, ("pier", "day"), slice(1, None)))
    tallies = Tallies(BUCKETS, *shown)
    both.register(tallies)
    (first, ships), (second, piers) = theirs(NAME, "ship"), theirs(OTHER, "pier", "day")
    for number, value in enumerate(VALUES[:-4]):
        ship, pier, day = "ab"[number % 2], "xyz"[number % 3], "12"[number % 2]
        tallies.labels(ship, pier, day).observe(value)
        ships.labels(ship).observe(value)
        piers.labels(pier, day).observe(value)
    assert lines(encode, both) == lines(encode, first, second)


def test_each_of_several_histograms_is_known_to_the_registry() -> None:
    """With its own labels."""
    shown = ((NAME, TEXT, ("ship",), slice(1)), (OTHER, TEXT, ("pier",), slice(1, None)))
    described = Tallies(BUCKETS, *shown).describe()
    assert [(one.name, one.type) for one in described] == [
        (NAME, "histogram"),
        (OTHER, "histogram"),
    ]
