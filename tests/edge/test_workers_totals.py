"""Sums over processes: what is added, what is not, and what a process leaves behind."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from proxy.metrics import Metrics
from proxy.totals import Family, Totals, families

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def metrics() -> Metrics:
    """Make the collectors of one process."""
    return Metrics("api.example", lambda: 0.0)


def told(of: Metrics) -> list[Family]:
    """Take down the numbers of a process, by way of the channel."""
    of.expose("")
    return msgspec.msgpack.decode(msgspec.msgpack.encode(families(of.registry)), type=list[Family])


def samples(totals: Totals) -> Samples:
    """Return all that a scraper reads."""
    text = totals.expose("")[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(totals: Totals, name: str, **labels: str) -> float:
    """Return one sample."""
    return samples(totals)[name, tuple(sorted(labels.items()))]


def begun(totals: Totals) -> float:
    """Return how many streams were begun, by what is shown."""
    found = samples(totals).items()
    ended = sum(number for (name, _), number in found if name == "wholestream_streams_total")
    return ended + value(totals, "wholestream_streams_in_flight")


@pytest.fixture(name="totals")
def _totals() -> Totals:
    return Totals(metrics().registry)


def test_without_any_worker_all_is_there_and_nothing_counted(totals: Totals) -> None:
    """As with one process that has done nothing yet."""
    one = metrics()
    one.expose("")
    assert totals.expose("") == one.expose("")


def test_one_worker_is_shown_as_it_would_show_itself(totals: Totals) -> None:
    """To the byte: names, helps, types, labels and their order."""
    one = metrics()
    one.streams.labels("responses", "failed").inc()
    one.requests.labels("responses", "2xx").inc(3)
    one.first_event.labels("responses").observe(0.3)
    one.overhead.labels("responses").observe(0.3)
    one.in_flight.inc()
    totals.tell(1, told(one))
    assert totals.expose("") == one.expose("")
    accept = "application/openmetrics-text"
    assert totals.expose(accept) == one.expose(accept)


def test_counters_add_up_by_their_labels(totals: Totals) -> None:
    """Those that only one worker has are shown too."""
    first, second = metrics(), metrics()
    first.requests.labels("chat_completions", "2xx").inc(2)
    second.requests.labels("chat_completions", "2xx").inc(3)
    second.requests.labels("other", "4xx").inc(5)
    totals.tell(1, told(first))
    totals.tell(2, told(second))
    name = "wholestream_requests_total"
    assert value(totals, name, endpoint="chat_completions", code="2xx") == 5
    assert value(totals, name, endpoint="other", code="4xx") == 5


def test_histograms_add_up_bucket_by_bucket(totals: Totals) -> None:
    """With their sums and counts, in an order that OpenMetrics takes."""
    first, second = metrics(), metrics()
    for one, endpoint, seconds in (
        (first, "responses", 0.3),
        (second, "audio", 0.1),
        (second, "responses", 7.0),
    ):
        one.first_event.labels(endpoint).observe(seconds)
    totals.tell(1, told(first))
    totals.tell(2, told(second))
    name = "wholestream_first_event_seconds"
    assert value(totals, f"{name}_bucket", endpoint="responses", le="0.32") == 1
    assert value(totals, f"{name}_bucket", endpoint="responses", le="+Inf") == 2
    assert value(totals, f"{name}_count", endpoint="responses") == 2
    assert value(totals, f"{name}_sum", endpoint="responses") == pytest.approx(7.3)
    assert value(totals, f"{name}_count", endpoint="audio") == 1
    text = totals.expose("application/openmetrics-text")[0].decode()
    list(openmetrics.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def test_what_is_under_way_adds_up(totals: Totals) -> None:
    """Streams and tunnels."""
    for number in (1, 2):
        one = metrics()
        one.in_flight.inc(number)
        one.tunnels.inc(number)
        totals.tell(number, told(one))
    assert value(totals, "wholestream_streams_in_flight") == 3
    assert value(totals, "wholestream_tunnels_in_flight") == 3


def test_states_do_not_add_up(totals: Totals) -> None:
    """A proxy drains, and a target is avoided, or not; it has one version."""
    for number in (1, 2, 3):
        one = metrics()
        one.draining.set(1)
        one.breaker_open.labels("primary/m").set(number != 2)
        totals.tell(number, told(one))
    found = samples(totals)
    assert value(totals, "wholestream_draining") == 1
    assert value(totals, "wholestream_breaker_open", target="primary/m") == 1
    assert [number for (name, _), number in found.items() if name.endswith("build_info")] == [1]


def test_the_latest_word_of_a_worker_counts(totals: Totals) -> None:
    """It tells what there is, not what came to it."""
    one = metrics()
    for _ in range(3):
        one.requests.labels("other", "2xx").inc()
        totals.tell(1, told(one))
    assert value(totals, "wholestream_requests_total", endpoint="other", code="2xx") == 3


def test_what_a_worker_has_counted_outlives_it_and_its_state_does_not(totals: Totals) -> None:
    """And its successor begins at 0."""
    one = metrics()
    one.requests.labels("other", "2xx").inc(3)
    one.overhead.labels("other").observe(0.01)
    one.tunnels.inc()
    one.breaker_open.labels("primary/m").set(1)
    totals.tell(1, told(one))
    assert totals.retire(1) == 0
    totals.tell(1, told(metrics()))
    requests = ("wholestream_requests_total", (("code", "2xx"), ("endpoint", "other")))
    found = samples(totals)
    assert found[requests] == 3
    assert value(totals, "wholestream_overhead_seconds_count", endpoint="other") == 1
    assert value(totals, "wholestream_tunnels_in_flight") == 0
    assert not [name for name, _ in found if name == "wholestream_breaker_open"]


def test_streams_that_a_worker_took_along_are_aborted(totals: Totals) -> None:
    """They were begun, and are not under way any more."""
    one = metrics()
    one.streams.labels("audio", "complete").inc(2)
    one.in_flight.inc(3)
    totals.tell(1, told(one))
    before = begun(totals)
    assert totals.retire(1) == 3
    assert value(totals, "wholestream_streams_in_flight") == 0
    labels = {"endpoint": "other", "outcome": "aborted"}
    assert value(totals, "wholestream_streams_total", **labels) == 3
    assert begun(totals) == before == 5


def test_a_worker_that_never_told_anything_leaves_nothing(totals: Totals) -> None:
    """It may have died at its start."""
    before = samples(totals)
    assert totals.retire(7) == 0
    assert samples(totals) == before


def test_the_parents_own_numbers_are_among_the_sums() -> None:
    """It counts what concerns no single worker."""
    registry = CollectorRegistry()
    Gauge("wholestream_draining", "1 while draining.", registry=registry).set(1)
    totals = Totals(registry)
    totals.tell(1, told(metrics()))
    assert value(totals, "wholestream_draining") == 1


STEPS = st.lists(
    st.tuples(st.sampled_from(["begin", "end", "tell", "die"]), st.integers(1, 3)), max_size=40
)


@settings(max_examples=40)
@given(steps=STEPS)
def test_no_counter_falls_and_the_streams_balance_whatever_happens(
    steps: list[tuple[str, int]],
) -> None:
    """Workers begin and end streams, tell of it now and then, and die."""
    totals = Totals(metrics().registry)
    live = {number: metrics() for number in (1, 2, 3)}
    under_way = dict.fromkeys(live, 0)
    shown: Samples = {}
    known = dict.fromkeys(live, 0.0)
    past = 0.0
    for step, number in steps:
        one = live[number]
        if step == "begin":
            one.in_flight.inc()
            under_way[number] += 1
        elif step == "end" and under_way[number]:
            one.in_flight.dec()
            one.streams.labels("chat_completions", "complete").inc()
            under_way[number] -= 1
        elif step == "tell":
            totals.tell(number, told(one))
            ended = one.streams.labels("chat_completions", "complete")._value.get()
            known[number] = under_way[number] + ended
        elif step == "die":
            totals.retire(number)
            live[number], under_way[number] = metrics(), 0
            past += known.pop(number)
            known[number] = 0.0
        now = samples(totals)
        fallen = [
            key
            for key, before in shown.items()
            if re.search("_(total|bucket|count|sum)$", key[0]) and now[key] < before
        ]
        assert fallen == []
        shown = now
        assert begun(totals) == past + sum(known.values())
