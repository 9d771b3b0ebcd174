"""The demonstration's judgement: what is called complete, honest or silent, and what fails it."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import signal
from dataclasses import replace

import pytest

from proxy.demo import render, showcase
from proxy.demo.bodies import TEXT
from proxy.demo.child import ChildError, running
from proxy.demo.scenarios import SCENARIOS
from proxy.demo.seen import Ending, Seen, judge, tell

WHOLE = Seen(TEXT, finished=True)
PREFIX = Seen(TEXT[:12], finished=False)
HONEST = replace(PREFIX, error="APIError", told=True, code="stream_incomplete")

METRICS = """\
# TYPE wholestream_repairs_total counter
wholestream_repairs_total{endpoint="responses",repair="bom"} 2.0
wholestream_repairs_total{endpoint="responses",repair="crlf"} 0.0
wholestream_repairs_created{endpoint="responses",repair="bom"} 1.0
"""


@pytest.mark.parametrize(
    ("seen", "words", "ending"),
    [
        (WHOLE, "complete (12 words)", Ending.COMPLETE),
        (replace(WHOLE, finished=False), "END LOST, LOOKS WHOLE", Ending.SILENT),
        (PREFIX, "CUT, LOOKS WHOLE", Ending.SILENT),
        (replace(PREFIX, text=""), "EMPTY, LOOKS WHOLE", Ending.SILENT),
        (replace(WHOLE, text=TEXT + TEXT), "GARBLED, LOOKS WHOLE", Ending.SILENT),
        (HONEST, "honest error: stream_incomplete", Ending.HONEST),
        (replace(HONEST, code="", status=503), "honest error: 503", Ending.HONEST),
        (replace(PREFIX, error="JSONDecodeError"), "exception JSONDecodeError", Ending.BROKEN),
        (
            replace(PREFIX, error="APITimeoutError", gave_up_s=3.0),
            "hang (gave up after 3 s)",
            Ending.BROKEN,
        ),
    ],
)
def test_a_call_is_put_into_words(seen: Seen, words: str, ending: Ending) -> None:
    """Every way a call can end has its words."""
    told = tell(seen, SCENARIOS["ws-ok"])
    assert (told.words, told.ending) == (words, ending)


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("ws-ok", WHOLE),
        ("ws-clean-eof", HONEST),
        ("ws-503-always", replace(HONEST, text="", status=503)),
    ],
)
def test_what_is_expected_passes(name: str, seen: Seen) -> None:
    """Each of the three expectations can be met."""
    assert judge(seen, SCENARIOS[name]) == ""


@pytest.mark.parametrize(
    ("name", "seen", "problem"),
    [
        ("ws-ok", HONEST, "instead of complete"),
        ("ws-ok", replace(WHOLE, text=TEXT + TEXT), "no prefix"),
        ("ws-ok", replace(WHOLE, identities=frozenset({"a1", "a2"})), "a1, a2"),
        ("ws-clean-eof", PREFIX, "CUT, LOOKS WHOLE instead of honest error"),
        ("ws-clean-eof", replace(HONEST, text="something else"), "no prefix"),
        ("ws-clean-eof", replace(HONEST, told=False), "exception APIError instead of"),
        ("ws-503-always", replace(HONEST, status=502), "HTTP 502 instead of 503"),
    ],
)
def test_what_is_not_expected_is_named(name: str, seen: Seen, problem: str) -> None:
    """A broken promise makes the demonstration fail with the reason."""
    assert problem in judge(seen, SCENARIOS[name])


def test_what_is_expected_depends_on_the_way_of_asking() -> None:
    """Whole where it can be rescued in that way, and an error only where it cannot."""
    scenario = SCENARIOS["ws-cut-mid-answer-once"]
    assert judge(WHOLE, scenario, "cold") == ""
    assert "instead of complete" in judge(HONEST, scenario, "cold")
    assert judge(HONEST, scenario) == ""
    assert "instead of honest error" in judge(WHOLE, scenario)
    assert judge(HONEST, scenario, "background") == ""
    assert judge(WHOLE, SCENARIOS["ws-ok"], "cold") == ""


def test_every_way_of_asking_is_shown_with_what_it_rescues() -> None:
    """And rows that are asked alike stand together, under one heading."""
    shown = {(row.name, row.way) for row in showcase.ROWS}
    assert shown >= {(s.name, s.rescue) for s in SCENARIOS.values() if s.rescue != "plain"}
    groups = [group for group, _ in itertools.groupby(row.group for row in showcase.ROWS)]
    assert groups == [
        *("chat", "chat, with temperature 0"),
        *("responses", "responses, with temperature 0", "responses, in the background"),
    ]


def test_the_rows_fit_into_100_columns() -> None:
    """The widest words in every cell."""
    through = tell(HONEST, SCENARIOS["ws-ok"])
    direct = tell(replace(HONEST, code="rate_limit_exceeded"), SCENARIOS["ws-ok"])
    lines = [render.row(row.name, direct, through) for row in showcase.ROWS]
    assert max(len(line) for line in [*render.heading(), *lines]) <= 100


def test_only_counters_that_counted_are_shown() -> None:
    """Zeros and other metrics are left out."""
    table = "\n".join(render.counters(METRICS))
    assert "  2  responses  bom" in table
    assert "crlf" not in table


@pytest.mark.parametrize("serve", [True, False])
def test_without_the_sdk_it_says_what_to_install(
    serve: bool,  # noqa: FBT001 - a parameter of the test
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line and exit code 2."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert showcase.main(serve=serve) == 2
    out = capsys.readouterr().out
    assert "pip install openai" in out
    assert out.count("\n") == 1


def test_a_proxy_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process hears no SIGTERM; it is gone all the same."""
    monkeypatch.setattr("proxy.demo.child.STOP_S", 0.2)

    async def start_and_leave() -> int:
        async with running("http://127.0.0.1:9/v1", []) as child:
            os.kill(child.pid, signal.SIGSTOP)
            return child.pid

    pid = asyncio.run(start_and_leave())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_proxy_that_does_not_start_is_told_with_its_words() -> None:
    """The end of what it printed is in the error, and no child is left."""

    async def start() -> None:
        async with running("http://127.0.0.1:9/v1", ["--no-such-flag", "1"]):
            pytest.fail("it started")

    with pytest.raises(ChildError, match="no-such-flag"):
        asyncio.run(start())
