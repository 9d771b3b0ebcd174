"""The demonstration: a real SDK on a misbehaving upstream, directly and through the proxy.

Knows what is shown and in which order. ``run`` compares and judges, its exit code says
whether the proxy kept its promises; ``run_serving`` keeps everything up to be played with.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import os
import signal
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.demo import render
from proxy.demo.child import Child, ChildError, running
from proxy.demo.scenario import Scenario, Way
from proxy.demo.scenarios import SCENARIOS
from proxy.demo.seen import Seen, Verdict, judge, tell
from proxy.demo.upstream import MisbehavingUpstream

if TYPE_CHECKING:
    from proxy.demo.application import Application

DIRECT_TIMEOUT_S = 3.0
PROXIED_TIMEOUT_S = 30.0
PORTS = (8787, 8788)

FLAGS = (
    *("--stall-timeout-s", "3.5"),
    *("--first-event-timeout-s", "3.5"),
    *("--backoff-base-s", "0.05"),
    *("--heartbeat-s", "1"),
    *("--commit-after-s", "1"),
    *("--max-event-bytes", "1048576"),
    *("--drain-timeout-s", "1"),
)
"""Short waits, so that the demonstration is over in half a minute."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the demonstration.

    ``way`` is how it is asked; ``warm`` needs a connection that was used before.
    """

    name: str
    endpoint: str = "chat"
    way: Way = "plain"
    warm: bool = False

    @property
    def scenario(self) -> Scenario:
        """The scenario shown."""
        return SCENARIOS[self.name]

    @property
    def group(self) -> str:
        """What the row has in common with its neighbours."""
        return self.endpoint + WAYS[self.way]


WAYS: dict[Way, str] = {
    "plain": "",
    "cold": ", with temperature 0",
    "background": ", in the background",
}

ROWS = (
    Row("ws-ok"),
    Row("ws-clean-eof"),
    Row("ws-close-delimited"),
    Row("ws-tool-call-cut"),
    Row("ws-cut-mid-event"),
    Row("ws-reset-mid-stream"),
    Row("ws-stall-mid-stream"),
    Row("ws-error-mid-stream"),
    Row("ws-malformed-event"),
    Row("ws-html-200"),
    Row("ws-cut-before-content-once"),
    Row("ws-stall-before-first-event-once"),
    Row("ws-empty-200-once"),
    Row("ws-500-once"),
    Row("ws-429-retry-after-1"),
    Row("ws-overloaded-first-event-once"),
    Row("ws-stale-connection", warm=True),
    Row("ws-503-always"),
    Row("ws-missing-last-blank-line"),
    Row("ws-missing-blank-line"),
    Row("ws-dataless-event"),
    Row("ws-bad-utf8"),
    Row("ws-split-json"),
    Row("ws-foreign-event"),
    Row("ws-json-body"),
    Row("ws-finish-then-open"),
    Row("ws-cut-mid-answer-once"),
    Row("ws-cut-mid-answer-once", way="cold"),
    Row("ws-reset-mid-answer-once", way="cold"),
    Row("ws-stall-mid-answer-once", way="cold"),
    Row("ws-error-mid-answer-once", way="cold"),
    Row("ws-other-words-once", way="cold"),
    Row("ws-clean-eof", "responses"),
    Row("ws-empty-200-once", "responses"),
    Row("ws-retry-field", "responses"),
    Row("ws-duplicate-events", "responses"),
    Row("ws-error-event-only", "responses"),
    Row("ws-missing-last-blank-line", "responses"),
    Row("ws-reset-mid-answer-once", "responses", way="cold"),
    Row("ws-background-cut-once", "responses", way="background"),
    Row("ws-background-window-closed", "responses", way="background"),
)


def main(*, serve: bool = False) -> int:
    """Run the command ``demo``, return its exit code."""
    return run_serving() if serve else run()


def run() -> int:
    """Show the comparison; 0 if every proxied row is as it should be, 1 if not, 2 unusable."""
    return _guarded(_compare())


def run_serving() -> int:
    """Keep upstream and proxy up, with a little traffic, until Ctrl-C."""
    return _guarded(_serve())


def _guarded(main: Coroutine[None, None, int]) -> int:
    if importlib.util.find_spec("openai") is None:
        main.close()
        render.say("The demonstration needs the openai package: pip install openai")
        return 2
    try:
        return asyncio.run(_until_signal(main))
    except ChildError as error:
        render.say(f"The demonstration could not start: {error}")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    except BrokenPipeError:
        # Whoever read the output is gone; the flush at exit must not complain about it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


async def _until_signal(main: Coroutine[None, None, int]) -> int:
    # Without this a SIGTERM would end this process and leave the proxy behind.
    task = asyncio.ensure_future(main)
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def _application(base_url: str, timeout_s: float) -> Application:
    from proxy.demo.application import Application  # noqa: PLC0415 - openai is optional

    return Application(base_url, timeout_s)


async def _compare() -> int:
    async with (
        MisbehavingUpstream() as upstream,
        running(upstream.base_url, FLAGS) as child,
    ):
        render.say("The openai SDK on an upstream that misbehaves; only the base URL differs.")
        render.say()
        with (
            contextlib.closing(_application(upstream.base_url, DIRECT_TIMEOUT_S)) as direct,
            contextlib.closing(_application(child.base_url, PROXIED_TIMEOUT_S)) as proxied,
        ):
            problems = await _show_rows(upstream, direct, proxied)
        render.say()
        render.say("What the proxy counted (/metrics):")
        for line in render.counters(await child.metrics()):
            render.say(line)
    render.say()
    for problem in problems:
        render.say(f"NOT AS IT SHOULD BE: {problem}")
    if not problems:
        render.say(f"All {len(ROWS)} rows are as they should be through wholestream.")
    return 1 if problems else 0


async def _show_rows(
    upstream: MisbehavingUpstream, direct: Application, proxied: Application
) -> list[str]:
    for line in render.heading():
        render.say(line)
    problems: list[str] = []
    columns: tuple[list[Verdict], list[Verdict]] = ([], [])
    group = ""
    for row in ROWS:
        if row.group != group:
            group = row.group
            render.say(render.dim(group))
        without = tell(await _play(row, upstream, direct), row.scenario)
        seen = await _play(row, upstream, proxied)
        problem = judge(seen, row.scenario, row.way)
        if problem:
            problems.append(f"{row.group}, {row.name}: {problem}")
        through = tell(seen, row.scenario)
        render.say(render.row(row.name, without, through))
        columns[0].append(without)
        columns[1].append(through)
    render.say()
    render.say(render.summary("Directly", columns[0]))
    render.say(render.summary("Through wholestream", columns[1]))
    return problems


async def _play(row: Row, upstream: MisbehavingUpstream, application: Application) -> Seen:
    upstream.rewind(row.name)
    if row.warm:
        await asyncio.to_thread(application.warm_up)
    return await asyncio.to_thread(application.ask, row.endpoint, row.name, row.way)


async def _serve() -> int:
    async with (
        MisbehavingUpstream() as upstream,
        running(upstream.base_url, FLAGS, PORTS) as child,
    ):
        for line in _invitation(upstream, child):
            render.say(line)
        with contextlib.closing(_application(child.base_url, PROXIED_TIMEOUT_S)) as application:
            for row in itertools.cycle(ROWS):
                told = tell(await _play(row, upstream, application), row.scenario)
                now = time.strftime("%H:%M:%S")
                asked = f"{row.endpoint:<9}  {row.way:<10}  {row.name:<32}"
                render.say(f"{render.dim(now)}  {asked}  {render.verdict(told)}")
                await asyncio.sleep(1)
    return 0


def _invitation(upstream: MisbehavingUpstream, child: Child) -> list[str]:
    return [
        f"export OPENAI_BASE_URL={child.base_url} OPENAI_API_KEY=demo-key",
        "",
        f"metrics     {child.admin_url}/metrics",
        f"incidents   {child.admin_url}/api/incidents",
        f"upstream    {upstream.base_url}   (without the proxy)",
        f"scenarios   {child.base_url}/models   (ask for one as the model)",
        "",
        "A little traffic runs through the proxy until Ctrl-C:",
        "",
    ]
