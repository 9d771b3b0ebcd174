"""Runs one case on one system, and notes the facts.

Knows how systems, upstream and load are put together, and when to look at the system's CPU time
and memory. Must not know what the facts are for.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench import usage, wire
from bench.machine import Busy
from bench.processes import Cores, Launch, free_port, running, wait_for_port
from bench.results import Sample
from bench.scenarios import Case, Scenario
from bench.systems.base import HOST, ROOT, Place, System

SETTLE_S = 0.1
"""After that a system has closed what the load left behind."""

DEADLINE_S = 180.0
_WARM = (
    Case("", wire.Ask(events=20), 200, concurrency=16),
    Case("", wire.Ask(kind="json"), 200, concurrency=16),
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A running system: where it listens, its process (direct has none), what requests need."""

    port: int
    pid: int | None
    header: str


class Lab:
    """An upstream that runs, and a folder for what the systems write."""

    def __init__(self, cores: Cores, folder: Path, upstream_port: int) -> None:
        """Take what ``opened`` made."""
        self._cores, self._folder, self._upstream_port = cores, folder, upstream_port

    def measure(self, system: System, scenario: Scenario, number: int) -> Iterator[Sample]:
        """Start a system anew and run each case on it; yield what each told."""
        with self._started(system) as subject:
            for case in _WARM:
                self._run(subject, "run", case.lighter(system.load))
            for case in scenario.cases:
                before = Busy.now()
                told = self._run(subject, scenario.kind, case.lighter(system.load))
                told["others"] = Busy.now().others_since(before)
                failures = told.pop("examples")
                yield Sample(scenario.name, case.name, system.name, number, told, failures)

    @contextmanager
    def _started(self, system: System) -> Iterator[Subject]:
        folder = self._folder / system.name
        folder.mkdir(parents=True, exist_ok=True)
        place = Place(free_port(), free_port(), self._upstream_port, folder)
        header = "|".join(
            f"{name}: {value.format(upstream_port=self._upstream_port)}"
            for name, value in system.headers.items()
        )
        launch = system.launch(place)
        if launch is None:
            yield Subject(self._upstream_port, None, header)
            return
        with running(launch, self._cores.system, folder / "log") as process:
            try:
                wait_for_port(process, place.port, system.start_s)
            except RuntimeError as error:
                error.add_note(f"{system.name}; its log: {folder / 'log'}")
                raise
            yield Subject(place.port, process.pid, header)

    def _run(self, subject: Subject, kind: str, case: Case) -> dict[str, Any]:
        """Run one case. Facts that there are not (direct's CPU time) are left out."""
        self._ask(wire.STATS)
        facts: dict[str, Any] = {}
        watched = _Watched(subject.pid, facts)
        launch = self._load(subject, case)
        log = self._folder / "load.log"
        with running(launch, self._cores.others, log, heard=True) as process:
            assert process.stdin  # noqa: S101 - it is heard
            assert process.stdout  # noqa: S101
            watched.begin()
            if kind == "idle":
                _line(process.stdout)
                watched.look()
                process.stdin.write("go\n")
                process.stdin.flush()
            elif kind == "window":
                _line(process.stdout)
                watched.begin()
                facts["events"] = int(_line(process.stdout))
                watched.stop()
            told = json.loads(_line(process.stdout))
            process.wait()
        if kind != "window":
            time.sleep(SETTLE_S)
            watched.stop()
        return _flat(told, json.loads(self._ask(wire.STATS))) | facts

    def _load(self, subject: Subject, case: Case) -> Launch:
        flags = {
            "ask": case.ask.model().removeprefix(wire.PREFIX),
            "port": subject.port,
            "streams": case.streams,
            "starts": case.starts,
            "concurrency": case.concurrency,
            "window-s": case.window_s,
            "upstream-port": self._upstream_port,
            "deadline-s": DEADLINE_S,
            "header": subject.header,
        }
        argv = [sys.executable, "-m", "bench.load", *(f"--{k}={v}" for k, v in flags.items())]
        return Launch(argv, {"PYTHONPATH": str(ROOT)})

    def _ask(self, path: str) -> bytes:
        connection = http.client.HTTPConnection(HOST, self._upstream_port, timeout=30)
        try:
            connection.request("POST", path, b"{}")
            return connection.getresponse().read()
        finally:
            connection.close()


class _Watched:
    """Looks at the system's CPU time and memory, if it is a process of its own."""

    def __init__(self, pid: int | None, facts: dict[str, Any]) -> None:
        self._pid, self._facts = pid, facts

    def begin(self) -> None:
        if self._pid is not None:
            self._facts["rss_0_kib"] = usage.rss_kib(self._pid)
            self._before = usage.cpu(self._pid)

    def look(self) -> None:
        if self._pid is not None:
            self._facts["rss_kib"] = usage.rss_kib(self._pid)

    def stop(self) -> None:
        if self._pid is not None:
            self._facts["cpu_ns"] = usage.cpu(self._pid).since(self._before)


def _line(pipe: IO[str]) -> str:
    line = pipe.readline()
    if not line:
        raise RuntimeError("the load generator ended without an answer; see load.log")
    return line


def _flat(told: Mapping[str, Any], stats: Mapping[str, Any]) -> dict[str, Any]:
    """Return the load's and the upstream's answers as plain facts."""
    names = ("streams", "whole", "events", "bytes", "seconds", "load_cpu_s")
    facts = {name: told[name] for name in names}
    facts |= {f"{name}_us": value for name, value in told["latency_us"].items()}
    facts |= {f"first_{name}_us": value for name, value in told["first_us"].items()}
    facts |= {f"late_{name}_us": value for name, value in stats["late_us"].items()}
    failed = told["streams"] - told["whole"]
    texts = [f"{failed} of {told['streams']}: {text}" for text in told["examples"]]
    return facts | {"upstream_cpu_s": stats["cpu_s"], "examples": texts}


@contextmanager
def opened(cores: Cores, folder: Path, slot_us: int) -> Iterator[Lab]:
    """Start the upstream, and end it on the way out. Its pacing is as fine as ``slot_us``."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    argv = [sys.executable, "-m", "bench.upstream", f"--port={port}", f"--slot-us={slot_us}"]
    launch = Launch(argv, {"PYTHONPATH": str(ROOT)})
    with running(launch, cores.others, folder / "upstream.log") as process:
        wait_for_port(process, port, 20)
        yield Lab(cores, folder, port)
