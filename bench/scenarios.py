"""What is measured: loads, and the figures that are made of what they tell.

Knows numbers of streams and events, and which figure is made of which facts. Must not know
processes or systems, but for their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from bench.wire import Ask

Facts = Mapping[str, float]
"""What one run told: ``cpu_ns``, ``events``, ``streams``, ``bytes``, ``p50_us``, ..."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One column. ``of`` makes it of a run's facts; with ``added`` direct's is taken off.

    A figure that needs facts which are not there (direct has no CPU time) has none.
    """

    name: str
    of: Callable[[Facts], float]
    digits: int = 1
    added: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One load. ``starts`` is streams per second; with a ``concurrency`` the loop is closed.

    ``window_s`` measures so long, once all streams are open, and not the whole run.
    """

    name: str
    ask: Ask
    streams: int
    starts: float = 200.0
    concurrency: int = 0
    window_s: float = 0.0

    def lighter(self, share: float) -> Case:
        """Return it with a share of the streams, at least one."""
        streams = max(1, round(self.streams * share))
        return replace(self, streams=streams, starts=self.starts * share)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One table. Its first figure is the one that is compared with nginx and Envoy."""

    name: str
    title: str
    cases: tuple[Case, ...]
    figures: tuple[Figure, ...]
    kind: Literal["run", "window", "idle"] = "run"
    systems: tuple[str, ...] | None = None
    """Those that are compared unless told otherwise; None: all."""


CPU_EVENT = Figure("CPU µs/event", lambda told: told["cpu_ns"] / told["events"] / 1e3)
CPU_REQUEST = Figure("CPU µs/request", lambda told: told["cpu_ns"] / told["streams"] / 1e3)
CPU_BYTE = Figure("CPU ns/byte", lambda told: told["cpu_ns"] / told["bytes"], 3)
REQUESTS = Figure("requests/s per core", lambda told: 1e9 * told["streams"] / told["cpu_ns"], 0)
EVENTS = Figure("events/s per core", lambda told: 1e9 * told["events"] / told["cpu_ns"], 0)
MEGABYTES = Figure("MB/s per core", lambda told: 1e3 * told["bytes"] / told["cpu_ns"], 0)
P50_ADDED = Figure("p50 added µs", lambda told: told["p50_us"], 0, added=True)
P99_ADDED = Figure("p99 added µs", lambda told: told["p99_us"], 0, added=True)
FIRST_ADDED = Figure("first event added µs", lambda told: told["first_p50_us"], 0, added=True)
P50 = Figure("p50 µs", lambda told: told["p50_us"], 0)
P99 = Figure("p99 µs", lambda told: told["p99_us"], 0)
KIB = Figure("KiB/stream", lambda told: (told["rss_kib"] - told["rss_0_kib"]) / told["streams"])
SLOWEST = Figure("slowest ms", lambda told: told["max_us"] / 1e3)


def scenarios(*, quick: bool) -> dict[str, Scenario]:
    """Return all of them; the quick ones have fewer events, and spread more."""
    made = (
        *(_paced(quick=quick), _short(quick=quick), _short_paced(quick=quick), _json(quick=quick)),
        *(_idle(quick=quick), _bulk(quick=quick), _sizes(quick=quick), _scale(quick=quick)),
    )
    return {one.name: one for one in made}


def _paced(*, quick: bool) -> Scenario:
    events = 200 if quick else 1000
    return Scenario(
        "paced",
        f"200 streams x {events} events x 100/s, 330 B",
        (Case("", Ask(events=events, rate=100), 200),),
        (CPU_EVENT, P50_ADDED, P99_ADDED, FIRST_ADDED, P50, P99),
    )


def _short(*, quick: bool) -> Scenario:
    streams = 2000 if quick else 6000
    return Scenario(
        "short",
        f"{streams} streams of 20 events, unpaced, 32 at a time",
        (Case("", Ask(events=20), streams, concurrency=32),),
        (CPU_REQUEST, REQUESTS),
    )


def _short_paced(*, quick: bool) -> Scenario:
    streams = 500 if quick else 2000
    return Scenario(
        "short-paced",
        f"{streams} streams of 20 events x 100/s, 250 begin each second",
        (Case("", Ask(events=20, rate=100), streams, starts=250),),
        (CPU_REQUEST, REQUESTS, P50_ADDED, P99_ADDED, FIRST_ADDED),
    )


def _json(*, quick: bool) -> Scenario:
    calls = 3000 if quick else 10_000
    return Scenario(
        "json",
        f"{calls} plain JSON calls, 1 KB answers, 32 at a time",
        (Case("", Ask(kind="json"), calls, concurrency=32),),
        (CPU_REQUEST, REQUESTS),
    )


def _idle(*, quick: bool) -> Scenario:
    counts = (1000,) if quick else (1000, 5000)
    cases = tuple(Case(f"{count}", Ask(kind="idle"), count, starts=500) for count in counts)
    title = "open streams that are idle, then one more event for each"
    return Scenario("idle", title, cases, (KIB, SLOWEST), kind="idle")


def _bulk(*, quick: bool) -> Scenario:
    streams = 8 if quick else 32
    return Scenario(
        "bulk",
        f"{streams} unpaced streams of 8 MB, 330 B events, 4 at a time",
        (Case("", Ask(events=25_420), streams, concurrency=4),),
        (CPU_BYTE, MEGABYTES, EVENTS),
    )


_SIZES = {
    "164 B": (164, 16),
    "1 KB": (1000, 16),
    "16 KB": (16_000, 32),
    "256 KB": (256_000, 64),
    "1 MB": (1_000_000, 64),
    "4 MB": (4_000_000, 64),
    "15 MB": (15_000_000, 120),
}
"""Bytes of one event (164 is the smallest that is valid), and MB in all."""


def _sizes(*, quick: bool) -> Scenario:
    cases = []
    for name, (size, megabytes) in _SIZES.items():
        total = megabytes * 1_000_000 // (2 if quick else 1)
        # Four streams, two at a time, of at least one event each.
        events = max(1, total // size // 4)
        cases.append(Case(name, Ask(events=events, size=size), 4, concurrency=2))
    return Scenario(
        "sizes",
        "unpaced streams, 2 at a time, by the size of their events",
        tuple(cases),
        (CPU_BYTE, CPU_EVENT),
        systems=("direct", "wholestream", "envoy"),
    )


def _scale(*, quick: bool) -> Scenario:
    window_s, total = (2.0, 2000.0) if quick else (5.0, 2000.0)
    base = Case("", Ask(), 0, starts=500, window_s=window_s)
    cases = []
    for count in (1, 50, 200, 1000) if quick else (1, 50, 200, 1000, 5000):
        # Streams outlive the window: all open, the window, and some seconds to begin and end.
        rate = total / count
        lasting_s = count / base.starts + window_s + 3
        ask = Ask(events=int(rate * lasting_s) + 2, rate=rate)
        cases.append(replace(base, name=f"{count}", ask=ask, streams=count))
    return Scenario(
        "scale",
        f"{total:.0f} events/s in all, by the number of streams",
        tuple(cases),
        (CPU_EVENT, P50, P99),
        kind="window",
    )
