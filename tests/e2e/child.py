"""The proxy as a child process: the production entry point, its ports, log, numbers, end.

Knows the command line, the log's form and the admin listener. Ends only what it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from e2e.wire import Reply, call

ROOT = Path(__file__).parent.parent.parent
START_S = 20.0
STOP_S = 10.0

QUICK = (
    *("--first-event-timeout-s", "1"),
    *("--stall-timeout-s", "1"),
    *("--backoff-base-s", "0.02"),
    *("--backoff-max-s", "0.05"),
    # The budget has tests of its own; here hundreds of faults come in a second.
    *("--retry-budget-ratio", "10"),
    *("--retry-budget-min-per-s", "10000"),
    *("--max-event-bytes", "1048576"),
    *("--drain-timeout-s", "1"),
)
"""Short waits."""

_T = TypeVar("_T")

# Counters and gauges are all that is looked at; a whole parser takes 30 ms for the histograms.
_SAMPLE = re.compile(r"^(wholestream_(?!\w*_seconds_)\w+)(?:{(.*)})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Metrics(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """The samples of one scrape, or the difference of two."""

    def total(self, name: str, **labels: str) -> float:
        """Add up all samples of a name that carry these labels."""
        wanted = labels.items()
        return sum(v for (found, has), v in self.items() if found == name and wanted <= set(has))

    def labelled(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Return the samples of a name that are not 0, by the values of some labels."""
        found: dict[tuple[str, ...], float] = {}
        for (sample, has), value in self.items():
            if sample == name and value:
                key = tuple(dict(has)[label] for label in labels)
                found[key] = found.get(key, 0.0) + value
        return found

    def since(self, before: Metrics) -> Metrics:
        """Return what has been added since an earlier scrape."""
        return Metrics({key: value - before.get(key, 0.0) for key, value in self.items()})

    @property
    def streams(self) -> dict[tuple[str, ...], float]:
        """Streams by endpoint and outcome."""
        return self.labelled("wholestream_streams_total", "endpoint", "outcome")

    @property
    def incidents(self) -> dict[tuple[str, ...], float]:
        """Incidents by fault, phase and outcome."""
        name = "wholestream_incomplete_chunks_total"
        return self.labelled(name, "fault", "phase", "outcome")

    @property
    def in_flight(self) -> float:
        """Streams under way."""
        return self.total("wholestream_streams_in_flight")


class Proxy:
    """A running proxy."""

    def __init__(self, process: asyncio.subprocess.Process, printed: Path) -> None:
        """Take a process whose output goes to files in ``printed``."""
        self.process = process
        self.pid = process.pid
        self._printed = printed
        self.port = self.admin_port = 0

    @property
    def base_url(self) -> str:
        """What an application's ``OPENAI_BASE_URL`` would be."""
        return f"http://127.0.0.1:{self.port}/v1"

    # --- what it says -------------------------------------------------------------------

    @property
    def stdout(self) -> str:
        """All that came on standard output so far."""
        return (self._printed / "stdout").read_text("utf-8")

    @property
    def stderr(self) -> str:
        """All that came on standard error so far."""
        return (self._printed / "stderr").read_text("utf-8")

    @property
    def log(self) -> list[dict[str, Any]]:
        """The log so far, proved to be one JSON object a line."""
        lines = (self.stdout + self.stderr).splitlines()
        found = [json.loads(line) for line in lines]
        assert all(isinstance(line, dict) for line in found)
        return found

    def incidents(self, request_id: str | None = None) -> list[tuple[str, str, str]]:
        """Return fault, phase and outcome of the incidents logged, of one request or all."""
        return [
            (line["fault"], line["phase"], line["outcome"])
            for line in self.log
            if line["event"] == "incident" and request_id in {None, line["request_id"]}
        ]

    async def scrape(self) -> Metrics:
        """Return the metrics of now."""
        text = (await self.admin("/metrics")).body.decode()
        return Metrics(
            {
                (name, frozenset(_LABEL.findall(labels))): float(value)
                for name, labels, value in _SAMPLE.findall(text)
            }
        )

    async def admin(self, path: str) -> Reply:
        """Ask the admin listener."""
        return await call(self.admin_port, path, method="GET")

    def rss_kib(self) -> int:
        """Return the resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text("ascii")
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1])

    # --- its life -----------------------------------------------------------------------

    async def started(self) -> None:
        """Wait until it listens."""
        async with asyncio.timeout(START_S):
            while not self.port:
                assert self.process.returncode is None, self.stderr
                for line in self.stderr.splitlines(keepends=True):
                    if line.endswith("\n") and '"listening"' in line:
                        facts = json.loads(line)
                        self.port = _port(facts["base_url"])
                        self.admin_port = _port(facts["metrics"])
                await asyncio.sleep(0.02)

    async def ended(self) -> int:
        """Wait for its end, return its exit code."""
        async with asyncio.timeout(STOP_S):
            return await self.process.wait()

    async def stop(self) -> None:
        """End it and prove that it had nothing to complain of."""
        if self.process.returncode is None:
            try:
                self.process.terminate()
                assert await self.ended() == 0
            finally:
                # Before anything is awaited: the wait itself may be what failed.
                if self.process.returncode is None:
                    self.process.kill()
                    await self.process.wait()
        assert [line for line in self.log if line["event"] == "bug" or "traceback" in line] == []


def _port(url: str) -> int:
    found = re.match(r"http://[^/]+:(\d+)/", url)
    assert found is not None
    return int(found[1])


async def start(
    printed: Path, upstream: str, *flags: str, env: Mapping[str, str] | None = None
) -> Proxy:
    """Start the proxy in front of an upstream, on free ports, and wait until it listens.

    What it prints goes to files in the directory ``printed``.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WHOLESTREAM_")}
    with (printed / "stdout").open("wb") as out, (printed / "stderr").open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "proxy", "serve", "--port", "0", "--admin-port", "0", "--upstream", upstream),
            *flags,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=ROOT,
            env={**kept, **(env or {})},
        )
    proxy = Proxy(process, printed)
    try:
        await proxy.started()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    return proxy


async def eventually(check: Callable[[], Awaitable[_T]], within_s: float = 5.0) -> _T:
    """Repeat a check that asserts until it passes, or for so many seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        try:
            return await check()
        except AssertionError:
            if loop.time() > deadline:
                raise
        await asyncio.sleep(0.02)


async def idle(proxy: Proxy) -> Metrics:
    """Wait until no stream is under way, return the metrics of then."""

    async def check() -> Metrics:
        metrics = await proxy.scrape()
        assert metrics.in_flight == 0
        return metrics

    return await eventually(check)
