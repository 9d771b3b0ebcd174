"""The helpers of the official SDKs, for Python and for Node, accept every spliced stream.

The first answer of the upstream breaks off, another one with other ids and other borders is
joined on, and the application must have the very object that it has of an answer that was never
cut, with the ids of the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from e2e.child import QUICK, Metrics, Proxy, idle
from e2e.conftest import Starter
from e2e.heard import heard, joined, landmarks, renamed, sorted_done, without_late
from e2e.reading import Call, Sdk, Told, read_all
from e2e.spliced import KINDS, Attempt, Case, Kind, cut, cuts, uncut
from e2e.stage import Stage

CALM = (*QUICK, "--breaker-failures", "1000000")
"""Hundreds of faults in a row are no reason to leave this upstream alone."""

SDKS: dict[str, tuple[Sdk, ...]] = {
    "python": ("python", "python-async"),
    "node": ("openai", "openai-6"),
}
LANGUAGES = ("python", pytest.param("node", marks=pytest.mark.node))
FORGOTTEN = [kind for kind in KINDS.values() if not kind.runs_on]
"""All that may be asked again, because the upstream does not keep it."""

CALLS = {
    "chat-tools": range(1, 8),
    "responses-call": range(1, 7),
    "responses-items": range(10, 14),
}
"""Where in an answer a call is begun and not complete, in whole events."""

BOTH = ("helper", "raw")
Read = Callable[[Any], Any]

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
    """A way to set the proxy, the streams to cut, and the strategies that must be seen at work.

    Helpers read all of them, ``ways`` says who else does; what has no helper is read raw.
    """

    flags: tuple[str, ...]
    cases: tuple[Case, ...]
    strategies: set[str]
    results: set[str] = field(default_factory=lambda: {"success"})
    ways: tuple[str, ...] = ("helper",)


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
        for events in range(kind.openers, kind.finished, 3):
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
        ways=BOTH,
    ),
    "replay of a replay": Scene(_ALWAYS, tuple(_twice()), {"replay"}, {"failed", "success"}),
    "refused resume": Scene(_ALWAYS, tuple(_polled()), {"resume"}, {"failed", "success"}),
    "late openers": Scene(
        (*_ALWAYS, "--commit-after-s", "0.05", "--heartbeat-s", "0.1"),
        tuple(_late()),
        {"restart", "replay", "resume"},
        ways=BOTH,
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


@pytest.fixture(scope="session")
def fallback_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of settings with a fallback, which no flag can say."""
    path = tmp_path_factory.mktemp("settings") / "fallback.toml"
    path.write_text(FALLBACK, "utf-8")
    return path


# --- asking ---------------------------------------------------------------------------------


def _calls(
    stage: Stage, cases: list[Case], sdks: tuple[Sdk, ...], ways: tuple[str, ...] = BOTH
) -> list[tuple[Case, Call]]:
    """Ask for each case in several ways, of an upstream that plays it."""
    made = []
    for case, sdk in product(cases, sdks):
        family = case.kind.family
        for way in ("raw",) if family == "completions" else ways:
            own = replace(case, name=f"{case.name}/{sdk}/{way}")
            headers = dict([stage.plays(own.name, own.play)])
            made.append((own, Call(own.name, sdk, f"{family} {way}", case.kind.params, headers)))
    return made


def _wrong(case: Case, told: Told, wanted: Told) -> str:
    """Say what is wrong with what an application has, or nothing."""
    if "error" in told:
        return f"error: {told['error']}"
    for part in told:
        due = renamed(wanted[part], case.known) if case.had else wanted[part]
        for read in _reads(case, part):
            if read(told[part]) != read(due):
                return f"{part}: {read(told[part])}\nnot {read(due)}"
    return ""


def _reads(case: Case, part: str) -> list[Read]:
    """Return what must be the same in a part, as functions of it."""
    made: dict[str, list[Read]] = {"items": [heard], "done": [sorted_done], "final": [dict]}
    if case.polled:  # told from one object: whole, but in events of its own
        made |= {"items": [joined, landmarks], "done": [landmarks]}
    if case.is_over:
        made |= {"items": [lambda items: without_late(heard(items))], "final": [without_late]}
    return made[part]


async def _judged(
    proxy: Proxy, stage: Stage, scene: Scene, sdks: tuple[Sdk, ...]
) -> tuple[dict[str, str], Metrics]:
    kinds = {case.kind.name: case.kind for case in scene.cases}
    wholes = [case for kind in kinds.values() for case in uncut(kind)]
    calls = _calls(stage, [*wholes, *scene.cases], sdks, scene.ways)
    before = await idle(proxy)
    told = await read_all(proxy.base_url, [call for _, call in calls])
    counted = (await idle(proxy)).since(before)
    judged = {case.name: _wrong(case, told[case.name], told[_wanted(case)]) for case, _ in calls}
    return {name: wrong for name, wrong in judged.items() if wrong}, counted


def _wanted(case: Case) -> str:
    kind, _, *reader = case.name.split("/")
    return "/".join([kind, "first" if case.had else "anew", *reader])


# --- claims ---------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", SCENES)
async def test_what_an_application_has_of_a_spliced_stream_is_what_it_has_of_an_uncut_one(
    started: Starter, stage: Stage, fallback_file: Path, name: str, language: str
) -> None:
    """No reader raises, and final objects, done events and read items are those of the uncut."""
    scene = SCENES[name]
    file = (str(fallback_file),) if name == "fallback" else ()
    proxy = await started(stage.base_url, *CALM, *scene.flags, *file)
    wrong, counted = await _judged(proxy, stage, scene, SDKS[language])
    assert wrong == {}
    results = counted.labelled("wholestream_recoveries_total", "strategy", "result")
    assert {result for _, result in results} == scene.results
    assert {strategy for strategy, _ in results} == scene.strategies
    assert {outcome for _, outcome in counted.streams} == {"complete", "recovered"}


@pytest.mark.parametrize("language", LANGUAGES)
async def test_every_reader_has_the_whole_of_an_uncut_answer(
    started: Starter, stage: Stage, language: str
) -> None:
    """What spliced streams are held against is what the upstream said."""
    proxy = await started(stage.base_url, *CALM, *_ALWAYS)
    cases = [case for kind in KINDS.values() for case in uncut(kind)[:1]]
    calls = _calls(stage, cases, SDKS[language])
    told = await read_all(proxy.base_url, [call for _, call in calls])
    for case, call in calls:
        due = joined(case.kind.payloads)
        if call.read.endswith("raw"):
            assert joined(told[case.name]["items"]) == due
        else:
            final = json.dumps(told[case.name]["final"], ensure_ascii=False)
            assert [
                text for text in due.values() if json.dumps(text, ensure_ascii=False) not in final
            ] == []


@pytest.mark.parametrize("language", LANGUAGES)
async def test_where_the_second_answer_is_another_one_every_reader_raises_an_api_error(
    started: Starter, stage: Stage, language: str
) -> None:
    """A stream that cannot be spliced never ends as if it were whole."""
    proxy = await started(stage.base_url, *CALM, *_ALWAYS)
    cases = [
        replace(cut(kind, kind.finished - 1, kind.told_otherwise()), strange=True)
        for kind in KINDS.values()
    ]
    calls = _calls(stage, cases, SDKS[language])
    before = await idle(proxy)
    told = await read_all(proxy.base_url, [call for _, call in calls])
    caught = {name: one.get("error", one) for name, one in told.items()}
    errors = {name: (error.get("name"), error.get("code")) for name, error in caught.items()}
    assert errors == dict.fromkeys(told, ("APIError", "stream_incomplete"))
    streams = (await idle(proxy)).since(before).streams
    assert {outcome for _, outcome in streams} == {"failed"}
