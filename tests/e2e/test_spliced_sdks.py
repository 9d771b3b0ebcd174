"""The helpers of the official SDKs, for Python and for Node, accept every spliced stream.

The first answer of the upstream breaks off, another one with other ids and other borders is
joined on, and the application must have the very object that it has of an answer that was never
cut, with the ids of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import pytest
import pytest_asyncio

from e2e.child import QUICK, Metrics, Proxy, idle
from e2e.conftest import Starter
from e2e.reading import Call, Sdk, Told, installed, read_all
from e2e.spliced import (
    KINDS,
    Attempt,
    Case,
    Kind,
    cut,
    cuts,
    heard,
    renamed,
    sorted_done,
    uncut,
    without_late,
)
from e2e.stage import Stage

CALM = (*QUICK, "--breaker-failures", "1000000")
"""Hundreds of faults in a row are no reason to leave this upstream alone."""

SDKS: dict[str, tuple[Sdk, ...]] = {
    "python": ("python", "python-async"),
    "node": ("openai", "openai-6"),
}
FORGOTTEN = [kind for kind in KINDS.values() if not kind.runs_on]
"""All that may be asked again, because the upstream does not keep it."""

CALLS = {
    "chat-tools": range(1, 8),
    "responses-call": range(1, 7),
    "responses-items": range(10, 14),
}
"""Where in an answer a call is begun and not complete, in whole events."""

FALLBACK = """
max_attempts = 1
[recovery]
replay = "always"
[[fallbacks]]
models = ["*"]
to = [{ model = "gpt-lighthouse" }]
"""


@dataclass(frozen=True)
class Scene:
    """A way to set the proxy, the streams to cut, and the strategies that must be seen at work."""

    flags: tuple[str, ...]
    cases: tuple[Case, ...]
    strategies: set[str]
    results: set[str] = field(default_factory=lambda: {"success"})


def _again() -> Iterator[Case]:
    for kind in KINDS.values():
        yield from cuts(kind)


def _twice() -> Iterator[Case]:
    """Break off the second answer as well, in its middle."""
    for kind in FORGOTTEN:
        for events in range(kind.openers + 1, kind.finished):
            # Not where the second answer tells ids of its own.
            if kind.ids(events) == kind.ids(len(kind.payloads)):
                case, second = cut(kind, events), kind.told_anew(events)
                half = Attempt(second[: len(second) // 2], "fin")
                third = Attempt(kind.told_anew(events + 1, "yy"))
                attempts = [case.attempts[0], half, third]
                yield replace(case, name=f"{case.name}-twice", attempts=attempts)


def _polled() -> Iterator[Case]:
    """Refuse the stream of a response that runs on, but not its state."""
    for kind in KINDS.values():
        for case in cuts(kind) if kind.runs_on else ():
            if case.given:
                yield replace(case, name=f"{case.name}-polled", polled=True)


def _late() -> Iterator[Case]:
    """Be silent behind the openers until they are given, then break off."""
    for kind in KINDS.values():
        at = sum(map(len, kind.events[: kind.openers]))
        for events in range(kind.openers, kind.finished, 2):
            case = cut(kind, events)
            case.had = case.given
            first = case.attempts[0]
            case.attempts[0] = Attempt(first.body, first.end, pause_at=at, pause_s=0.3)
            yield case


def _few(kinds: list[Kind]) -> Iterator[Case]:
    for kind in kinds:
        yield from list(cuts(kind))[::2]


def _held(kinds: list[Kind], places: dict[str, range]) -> Iterator[Case]:
    """Break off; where so many events are whole, nothing of those from the first one is had."""
    for case in _few(kinds):
        held = places[case.kind.name]
        yield replace(case, had=held.start - 1) if case.given in held else case


def _continued() -> Iterator[Case]:
    """Break off between words; the second answer is the rest of the first."""
    for kind in (KINDS["chat-text"], KINDS["completions"]):
        for events in range(kind.openers + 1, kind.finished - 1):
            yield cut(kind, events, kind.rest(events))


_ALWAYS = ("--recovery-replay", "always")
SCENES = {
    "replay": Scene(
        _ALWAYS,
        tuple(_again()),
        {"restart", "replay", "resume"},
    ),
    "replay of a replay": Scene(_ALWAYS, tuple(_twice()), {"replay"}, {"failed", "success"}),
    "refused resume": Scene(_ALWAYS, tuple(_polled()), {"resume"}, {"failed", "success"}),
    "late openers": Scene(
        (*_ALWAYS, "--commit-after-s", "0.05", "--heartbeat-s", "0.1"),
        tuple(_late()),
        {"restart", "replay", "resume"},
    ),
    "hold all": Scene(
        ("--recovery-hold", "all", "--recovery-replay", "never"),
        tuple(_held(FORGOTTEN, {kind.name: range(1, kind.finished) for kind in FORGOTTEN})),
        {"restart"},
    ),
    "hold tool calls": Scene(
        ("--recovery-hold", "tool_calls", *_ALWAYS),
        tuple(_held([KINDS[name] for name in CALLS], CALLS)),
        {"restart", "replay"},
    ),
    "fallback": Scene(("--config",), tuple(_few(FORGOTTEN)), {"fallback"}),
    "continuation of completions": Scene(
        ("--recovery-continuation", "completions"),
        tuple(case for case in _continued() if case.kind.family == "completions"),
        {"continuation"},
    ),
    "continuation of chats": Scene(
        ("--recovery-continuation", "prefill"),
        tuple(case for case in _continued() if case.kind.family == "chat"),
        {"continuation"},
    ),
}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def node_packages() -> None:
    """Have the SDK for Node installed."""
    await installed()


@pytest.fixture(scope="session")
def fallback_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of settings with a fallback, which no flag can say."""
    path = tmp_path_factory.mktemp("settings") / "fallback.toml"
    path.write_text(FALLBACK, "utf-8")
    return path


# --- asking ---------------------------------------------------------------------------------


def _calls(stage: Stage, cases: list[Case], sdks: tuple[Sdk, ...]) -> Iterator[tuple[Case, Call]]:
    """Ask for each case in every way that its endpoint has, of an upstream that plays it."""
    for case, sdk, way in product(cases, sdks, ("helper", "raw")):
        family = case.kind.family
        if (family, way) == ("completions", "helper"):
            continue
        name = f"{case.name}/{sdk}/{way}"
        own = replace(case, name=name)
        headers = dict([stage.plays(name, own.play)])
        yield own, Call(name, sdk, f"{family} {way}", case.kind.params, headers)


def _wrong(case: Case, told: Told, wanted: Told) -> str:
    """Say what is wrong with what an application has, or nothing."""
    if "error" in told:
        return f"error: {told['error']}"
    for part, read in (("items", heard), ("final", dict), ("done", sorted_done)):
        if part not in told:
            continue
        due = renamed(wanted[part], case.known) if case.had else wanted[part]
        late = without_late if case.is_over and part != "done" else lambda found: found
        got, expected = late(read(told[part])), late(read(due))
        if got != expected:
            return f"{part}: {got}\nnot   {expected}"
    return ""


async def _judged(
    proxy: Proxy, stage: Stage, cases: tuple[Case, ...], sdks: tuple[Sdk, ...]
) -> tuple[dict[str, str], Metrics]:
    kinds = {case.kind.name: case.kind for case in cases}
    wholes = [case for kind in kinds.values() for case in uncut(kind)]
    calls = list(_calls(stage, [*wholes, *cases], sdks))
    before = await idle(proxy)
    told = await read_all(proxy.base_url, [call for _, call in calls])
    counted = (await idle(proxy)).since(before)
    wrong = {
        case.name: found
        for case, _ in calls
        if (found := _wrong(case, told[case.name], told[_wanted(case)]))
    }
    Path("/tmp/wrong.txt").open("a").write("".join(f"{k} {v}\n" for k, v in wrong.items()))
    return wrong, counted


def _wanted(case: Case) -> str:
    kind, _, *reader = case.name.split("/")
    return "/".join([kind, "first" if case.had else "anew", *reader])


# --- claims ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("node_packages")
@pytest.mark.parametrize("language", SDKS)
@pytest.mark.parametrize("name", SCENES)
async def test_what_an_application_has_of_a_spliced_stream_is_what_it_has_of_an_uncut_one(
    started: Starter, stage: Stage, fallback_file: Path, name: str, language: str
) -> None:
    """No reader raises, and final objects, done events and read items are those of the uncut."""
    scene = SCENES[name]
    file = (str(fallback_file),) if name == "fallback" else ()
    proxy = await started(stage.base_url, *CALM, *scene.flags, *file)
    wrong, counted = await _judged(proxy, stage, scene.cases, SDKS[language])
    assert wrong == {}
    results = counted.labelled("wholestream_recoveries_total", "strategy", "result")
    assert {result for _, result in results} == scene.results
    assert {strategy for strategy, _ in results} == scene.strategies
