"""``python -m bench``: all systems, all scenarios, several rounds, one table for each scenario.

Knows the command line and the order of things: rounds are interleaved, and each begins with
another system. Must not know how anything is measured. It exits 1 if a stream was not whole;
speed never fails.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from bench import acceptance, lab, machine
from bench.processes import Cores, raise_file_limit
from bench.results import DIRECT, Results, Sample
from bench.scenarios import Scenario, scenarios
from bench.systems import ALL, USUAL, System
from bench.systems.base import HOME, MAX_STREAMS
from bench.systems.wholestream import Wholestream
from bench.tables import table
from bench.wheel import SLOT_NS

_ABOUT = """Measure wholestream beside other proxies, in interleaved rounds.
Exits 1 if a stream was not whole, 130 if it was interrupted; speed never fails."""


def say(text: str = "") -> None:
    """Print at once."""
    print(text, flush=True)  # noqa: T201 - it is a command


def _names(text: str) -> list[str]:
    return [name for name in text.replace(",", " ").split() if name]


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def _checkout(text: str) -> Path:
    if not (Path(text) / "proxy").is_dir():
        raise argparse.ArgumentTypeError(f"there is no proxy/ in {text!r}")
    return Path(text)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=_ABOUT)
    add = parser.add_argument
    usual = f"of {', '.join(ALL)} ({','.join(USUAL)})"
    add("--rounds", type=_positive, default=5, help="interleaved rounds (5)")
    add("--systems", type=_names, default=list(USUAL), help=usual)
    add("--with", type=_names, default=[], dest="more", help="systems beside the usual ones")
    add("--scenarios", type=_names, default=[], help=f"of {', '.join(scenarios(quick=True))}")
    add("--quick", action="store_true", help="fewer events: minutes, not an hour")
    add("--install", action="store_true", help="get peers that the package indexes have")
    add("--base", type=_checkout, help="folder of another checkout, to be measured as `base`")
    slot = SLOT_NS // 1000
    add("--slot-us", type=_positive, default=slot, help=f"how fine events are paced ({slot})")
    add("--no-pin", action="store_true", help="let the kernel choose the cores")
    add("--json", type=Path, default=HOME / "results.json", help="where the samples go")
    told = parser.parse_args(argv)
    HOME.mkdir(parents=True, exist_ok=True)
    if not told.json.parent.is_dir():
        parser.error(f"there is no folder {told.json.parent}")
    if not told.systems:
        parser.error("no systems are named")
    known: dict[str, Collection[str]] = {
        **dict.fromkeys(("systems", "more"), ALL),
        "scenarios": scenarios(quick=True),
    }
    for option, names in known.items():
        if unknown := set(getattr(told, option)) - set(names):
            parser.error(f"not known: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return told


def chosen(wanted: Iterable[System], *, install: bool) -> dict[str, System]:
    """Return the systems that can run; say of each other one what is missing."""
    found = {}
    for name, system in {one.name: one for one in wanted}.items():
        if install and system.missing():
            say(f"installing {name} ...")
            try:
                system.install()
            except (OSError, subprocess.CalledProcessError) as error:
                say(f"  {error}")
        if missing := system.missing():
            say(f"LEFT OUT: {name}; {missing}")
        else:
            found[name] = system
    return found


def _participants(scenario: Scenario, systems: dict[str, System], usual: bool) -> list[System]:  # noqa: FBT001
    names = scenario.systems if scenario.systems and usual else tuple(systems)
    return [system for name, system in systems.items() if name in names]


def measure(
    told: argparse.Namespace, systems: dict[str, System], wanted: list[Scenario], cores: Cores
) -> Results:
    """Run everything. What was measured before an interruption is kept."""
    results = Results()
    usual = told.systems == list(USUAL)
    with lab.opened(cores, HOME / "logs", told.slot_us) as place:
        try:
            for number in range(told.rounds):
                for scenario in wanted:
                    group = _participants(scenario, systems, usual)
                    turned = number % len(group)
                    for system in group[turned:] + group[:turned]:
                        _progress(f"round {number + 1}/{told.rounds} {scenario.name} {system.name}")
                        for sample in _samples(place, system, scenario, number):
                            results.add(sample)
        except KeyboardInterrupt:
            results.interrupted = True
            say("\ninterrupted; this is what there is")
    _progress("")
    return results


def _samples(place: lab.Lab, system: System, scenario: Scenario, number: int) -> Iterator[Sample]:
    """Yield what was measured; a system that does not run is a failure, and the others go on."""
    try:
        yield from place.measure(system, scenario, number)
    except RuntimeError as error:
        texts = [str(error), *getattr(error, "__notes__", [])]
        yield Sample(scenario.name, "", system.name, number, failures=["; ".join(texts)])


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def _head(systems: dict[str, System], cores: Cores, slot_us: int) -> dict[str, str]:
    head = machine.facts()
    head |= {"pinning": str(cores), "pacing": f"in slots of {slot_us} µs"}
    head |= {name: system.version() for name, system in systems.items() if name != DIRECT}
    for name, system in systems.items():
        if system.load < 1:
            head[name] += f"; gets {system.load:.0%} of the load"
    for name, text in head.items():
        say(f"{name:12} {text}")
    return head


def _warnings(results: Results) -> None:
    busy = [one for one in results.samples if one.facts.get("others", 0) > machine.BUSY]
    if busy:
        most = max(one.facts["others"] for one in busy)
        share = f"{len(busy)} of {len(results.samples)} runs"
        say(f"BUSY MACHINE: other programs used up to {most:.1f} cores in {share}")
    for one in results.failures():
        say(f"NOT WHOLE: {one.scenario} {one.case} {one.system}: {one.failures[0]}")


def _terminated(*_: object) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit code."""
    told = _arguments(argv)
    if not machine.suitable():
        say("the benchmark needs Linux: it reads CPU times from /proc")
        return 2
    signal.signal(signal.SIGTERM, _terminated)
    if (limit := raise_file_limit()) < 2 * MAX_STREAMS:
        say(f"only {limit} open files are allowed: scenarios with many streams will fail")
    known = scenarios(quick=told.quick)
    wanted = [known[name] for name in (told.scenarios or known)]
    asked = [ALL[name] for name in (DIRECT, *told.systems, *told.more)]
    if told.base:
        asked.append(Wholestream("base", root=told.base.resolve()))
    systems = chosen(asked, install=told.install)
    cores = Cores.of_machine(pinned=not told.no_pin)
    head = _head(systems, cores, told.slot_us)
    results = measure(told, systems, wanted, cores)
    for scenario in wanted:
        say(f"\n{table(scenario, results)}")
    say()
    for line in acceptance.lines(known, results):
        say(line)
    if told.quick:
        say("with --quick, requests weigh five times as much in the figures of events")
    _warnings(results)
    samples = [asdict(one) for one in results.samples]
    told.json.write_text(json.dumps({"machine": head, "samples": samples}, indent=1))
    say(f"all samples: {told.json}")
    if results.interrupted:
        return 130
    return 1 if results.failures() else 0


if __name__ == "__main__":
    sys.exit(main())
