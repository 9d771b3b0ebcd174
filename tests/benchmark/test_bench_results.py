"""What is made of samples: figures, tables, goals, and the text about a peer that is not there."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from bench import acceptance
from bench.__main__ import chosen
from bench.numbers import percentiles
from bench.processes import Launch
from bench.results import Results, Sample
from bench.scenarios import CPU_EVENT, P50_ADDED, scenarios
from bench.systems import ALL
from bench.systems.base import Place, System
from bench.tables import table

KNOWN = scenarios(quick=True)
PACED = KNOWN["paced"]


def paced(system: str, number: int, cpu_us: float, p50_us: float) -> Sample:
    """Make up one run of the paced scenario."""
    facts = {"events": 100.0, "p50_us": p50_us, "p99_us": 5 * p50_us, "first_p50_us": p50_us}
    if cpu_us:
        facts["cpu_ns"] = cpu_us * 100 * 1000
    return Sample("paced", "", system, number, facts)


@pytest.fixture
def results() -> Results:
    """Three rounds, the second with a slow machine."""
    made = Results()
    for number, slow in enumerate((1.0, 3.0, 1.1)):
        made.add(paced("direct", number, 0, 100 * slow))
        for system, cost in (("wholestream", 15.0), ("nginx", 10.0), ("envoy", 20.0)):
            made.add(paced(system, number, cost * slow, 100 * slow + cost))
    return made


def test_a_figure_is_the_median_over_the_rounds(results: Results) -> None:
    """One bad round does not decide."""
    spread = results.spread(PACED, "", "nginx", CPU_EVENT)
    assert spread
    assert (spread.least, spread.median, spread.most) == pytest.approx((10, 11, 30))


def test_added_latency_is_against_direct_in_the_same_round(results: Results) -> None:
    """What the machine did in one round is in both."""
    assert results.values(PACED, "", "nginx", P50_ADDED) == pytest.approx([10, 10, 10])
    assert results.spread(PACED, "", "direct", P50_ADDED) is None


def test_a_table_has_a_row_for_each_system_and_its_ratios(results: Results) -> None:
    """Ratios are told with two digits, what there is not by a dash."""
    lines = table(PACED, results).splitlines()
    assert [line.split()[0] for line in lines[3:]] == ["direct", "wholestream", "nginx", "envoy"]
    assert lines[4].split()[1:5] == ["16.5", "(15.0..45.0)", "1.50", "0.75"]
    assert lines[3].split()[1:4] == ["-", "-", "-"]
    assert len({len(line) for line in lines[1:]}) == 1


def test_goals_are_told_as_met_or_not(results: Results) -> None:
    """Only what was measured is told, and nothing raises."""
    told = list(acceptance.lines(KNOWN, results))
    assert [line[:8].strip() for line in told] == ["met", "met", "met", "met"]
    assert "16.5 / nginx 11.0 = 1.50 (goal: <= 1.6)" in told[1]
    for number in range(3):
        results.add(paced("nginx", number, 5, 105))
    assert [line[:8].strip() for line in acceptance.lines(KNOWN, results)][1] == "not met"


def test_costs_that_grow_with_the_size_of_events_are_told() -> None:
    """Quadratic behaviour shows in what a byte costs."""
    facts = {"bytes": 1e6, "events": 10.0}
    flat = [Sample("sizes", name, "wholestream", 0, {**facts, "cpu_ns": 2e6}) for name in ("1 KB",)]
    for growth, verdict in ((1.2, "met"), (2.0, "not met")):
        large = Sample("sizes", "4 MB", "wholestream", 0, {**facts, "cpu_ns": 2e6 * growth})
        (line,) = acceptance.lines(KNOWN, Results([*flat, large]))
        assert line.startswith(verdict)
        assert f"4 MB events costs {growth:.2f} x" in line


def test_a_run_that_was_not_whole_has_no_figures() -> None:
    """It is told, and it is in no median."""
    bad = Sample("paced", "", "nginx", 0, {"cpu_ns": 1.0, "events": 1.0}, ["3 of 4: lost"])
    results = Results([bad])
    assert results.failures() == [bad]
    assert results.spread(PACED, "", "nginx", CPU_EVENT) is None
    assert "nginx" in table(PACED, results)


@dataclass(frozen=True)
class Absent(System):
    """A peer that is not installed."""

    name: str = "absent"

    def missing(self) -> str:
        """Say so."""
        return "no absent here; try: install absent"

    def version(self) -> str:
        """There is none to ask."""
        raise AssertionError

    def launch(self, place: Place) -> Launch:
        """There is none to start."""
        raise AssertionError(place)


def test_a_peer_that_is_not_installed_is_left_out_with_a_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The benchmark runs with what there is, and says how to get the rest."""
    found = chosen([ALL["direct"], Absent()], install=False)
    assert list(found) == ["direct"]
    assert capsys.readouterr().out == "LEFT OUT: absent; no absent here; try: install absent\n"


def test_every_system_says_whether_it_is_there() -> None:
    """Asking needs none of them."""
    for name, system in ALL.items():
        assert system.name == name
        missing = system.missing()
        assert missing is None or name in missing


def test_percentiles_are_of_what_was_measured() -> None:
    """No value is made up between two."""
    told = percentiles([3, 1, 2], unit=2)
    assert (told["p50"], told["max"]) == (1.0, 1.5)
    assert percentiles([]) == {}
