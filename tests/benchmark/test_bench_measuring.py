"""Processes of the benchmark, and what is read about them. Nothing here asserts a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import lab, usage, wire
from bench.machine import Busy, facts
from bench.processes import Cores, Launch, free_port, running, wait_for_port
from bench.scenarios import CPU_EVENT, CPU_REQUEST, P50, Case, Scenario
from bench.systems import ALL
from bench.usage import Cpu

WORK = "import time\nuntil = time.process_time() + 0.05\nwhile time.process_time() < until: pass"
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
ALL_CORES = frozenset(os.sched_getaffinity(0))


def test_cpu_time_and_memory_are_those_of_the_whole_tree() -> None:
    """Workers count, and so does what ended meanwhile."""
    before = usage.cpu(os.getpid())
    subprocess.run([sys.executable, "-c", WORK], check=True)  # noqa: S603 - our own
    after = usage.cpu(os.getpid())
    assert after.scheduled_ns >= before.scheduled_ns
    assert after.since(before) >= 50_000_000
    assert usage.rss_kib(os.getpid()) > 1000


def test_the_fine_clock_is_believed_unless_the_coarse_one_tells_clearly_more() -> None:
    """A thread that ended is in the coarse one only."""
    before = Cpu(0, 0)
    assert Cpu(100_000_000, 110_000_000).since(before) == 100_000_000
    assert Cpu(100_000_000, 200_000_000).since(before) == 200_000_000


def test_a_process_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """Nothing is left behind, however the benchmark ends."""
    launch = Launch([sys.executable, "-c", PARENT])
    with running(launch, ALL_CORES, tmp_path / "log", heard=True) as process:
        while len(pids := list(usage.tree(process.pid))) < 2:
            time.sleep(0.01)
    assert process.returncode is not None
    until = time.monotonic() + 5
    while any(map(_runs, pids)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(map(_runs, pids))


def _runs(pid: int) -> bool:
    """Tell whether it is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_process_that_does_not_listen_is_told(tmp_path: Path) -> None:
    """The reason is said at once, not after the longest wait."""
    launch = Launch([sys.executable, "-c", "raise SystemExit(3)"])
    with (
        running(launch, ALL_CORES, tmp_path / "log") as process,
        pytest.raises(RuntimeError, match="ended at once, with 3"),
    ):
        wait_for_port(process, free_port(), 20)


def test_the_system_has_a_core_of_its_own_where_there_are_two() -> None:
    """The load must not take from what is measured."""
    cores = Cores.of_machine(pinned=True)
    assert cores.system | cores.others == ALL_CORES
    assert cores.system.isdisjoint(cores.others) == (len(ALL_CORES) > 1)
    assert "core" in str(cores)
    assert Cores.of_machine(pinned=False) == Cores(ALL_CORES, ALL_CORES)


def test_the_machine_is_described() -> None:
    """A figure without its machine says nothing."""
    assert {"CPU", "kernel", "Python", "load"} <= set(facts())
    assert Busy.now().others_since(Busy.now()) >= 0


@pytest.mark.parametrize("kind", ["run", "window", "idle"])
@pytest.mark.parametrize("name", ["direct", "wholestream"])
def test_a_system_is_started_asked_and_ended(kind: str, name: str, tmp_path: Path) -> None:
    """All streams are whole, and the facts for the figures are there."""
    window_s = 0.2 if kind == "window" else 0.0
    ask = wire.Ask(kind="idle") if kind == "idle" else wire.Ask(events=150, rate=100)
    case = Case("", ask, 5, starts=100, window_s=window_s)
    scenario = Scenario("tiny", "", (case,), (CPU_EVENT,), kind=kind)  # type: ignore[arg-type]
    with lab.opened(Cores.of_machine(pinned=False), tmp_path, 200) as place:
        (sample,) = place.measure(ALL[name], scenario, 0)
    assert not sample.failures
    assert sample.facts["whole"] == 5
    assert P50.of(sample.facts) > 0
    assert ("cpu_ns" in sample.facts) == (name != "direct")
    if name != "direct":
        assert CPU_REQUEST.of(sample.facts) > 0
    if kind == "idle" and name != "direct":
        assert sample.facts["rss_kib"] > 0
