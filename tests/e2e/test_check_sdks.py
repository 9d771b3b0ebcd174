"""What ``wholestream check`` says of the SDKs is what the real ones do, each body read directly."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from captures import CAPTURES, Capture

from e2e.reading import Call, Sdk, Told, read_all
from proxy.demo.answers import Answer
from proxy.demo.upstream import MisbehavingUpstream
from proxy.lint.reading import lint
from proxy.lint.sdks import Fate

_ASKED: dict[str, Told] = {
    "chat": {"messages": [{"role": "user", "content": "How do streams end?"}]},
    "responses": {"input": "How do streams end?"},
}


def _heard(items: Iterable[Any]) -> list[str]:
    """Keep of each item what tells it from others, in a form that both SDKs leave as it is."""
    kept = (
        (i.get("type"), i.get("sequence_number"), i.get("choices"), i.get("tool")) for i in items
    )
    return [json.dumps(one, sort_keys=True) for one in kept]


def fate_of(told: Told, capture: Capture) -> tuple[Fate, str]:
    """Say what became of an application, by what it has and what it should have."""
    if "error" in told:
        error = told["error"]
        return (Fate.HONEST, "") if error["api_error"] else (Fate.CRASHES, error["name"])
    items, wanted = _heard(told["items"]), _heard(capture.payloads)
    if items == wanted:
        return Fate.SURVIVES, ""
    if items == wanted[: len(items)]:
        return Fate.SILENT, ""
    left = iter(wanted)
    return (Fate.LOSES if all(item in left for item in items) else Fate.MISLED), ""


async def read_directly(upstream: MisbehavingUpstream, sdk: Sdk) -> list[Told]:
    """Let an SDK read every capture, as it would from such a server."""
    calls = []
    for number, capture in enumerate(CAPTURES):
        model = f"captured-{number}"
        pieces = (capture.body,) if capture.body else ()
        upstream.script(model, Answer(capture.status, capture.headers, pieces=pieces))
        params = {"model": model, **_ASKED[capture.family]}
        calls.append(Call(model, sdk, f"{capture.family} raw", params, {}))
    told = await read_all(upstream.base_url, calls)
    return [told[call.name] for call in calls]


@pytest.mark.parametrize(
    "sdk", ["python", "python-async", pytest.param("openai", marks=pytest.mark.node)]
)
async def test_each_sdk_does_what_the_verdict_says(
    upstream: MisbehavingUpstream, sdk: Sdk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It survives, loses, misses or raises as told, and with the exception that is named."""
    monkeypatch.setenv("OPENAI_LOG", "off")  # Node's writes what it cannot read to stderr
    told = await read_directly(upstream, sdk)
    wrong = {}
    for capture, one in zip(CAPTURES, told, strict=True):
        outcome = lint(capture.captured).outcome("node" if sdk == "openai" else "python")
        error = outcome.error if outcome.fate is Fate.CRASHES else ""
        seen = fate_of(one, capture)
        if seen != (outcome.fate, error):
            wrong[capture.key, capture.body[:400]] = f"{seen}, and not {outcome}"
    assert wrong == {}


def test_every_fate_is_seen() -> None:
    """A check that never meets one proves nothing about it."""
    outcomes = [lint(c.captured).outcome(sdk) for c in CAPTURES for sdk in ("python", "node")]
    assert {outcome.fate for outcome in outcomes} == set(Fate)
