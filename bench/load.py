"""The benchmark's load: ``python -m bench.load --port 9100 --streams 200 --ask rate=100``.

Knows when to ask: an open loop (``--starts`` streams begin each second, whatever became of the
others), or a closed one (``--concurrency`` calls at a time, ``--streams`` in all). Prints one JSON
object: whether all streams were whole, how late events were against their schedule, and its own
CPU time. Must not know which system is asked.

With ``kind=idle`` it prints ``open`` once all streams have their first event, waits for a line
on its standard input, and then has the upstream at ``--upstream-port`` release them. With
``--window-s`` it prints the number of events when all streams are open, and again so many seconds
later; the latencies are those in between.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import sys
import time
from array import array
from dataclasses import dataclass

import uvloop

from bench import wire
from bench.numbers import percentiles
from bench.reading import Call, Caller, Tally

SETTLE_S = 0.5
"""So long after the last first event, all that belongs to the opening is over."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask, how often, and of whom. ``starts`` is per second; 0 concurrency is an open loop.

    ``deadline_s`` is for the whole run; what is not over by then was not whole. ``header`` is put
    into each request, lines separated by ``|``.
    """

    port: int
    ask: wire.Ask
    streams: int = 200
    starts: float = 200.0
    concurrency: int = 0
    upstream_port: int = 9100
    deadline_s: float = 120.0
    window_s: float = 0.0
    header: str = ""
    host: str = "127.0.0.1"
    path: str = "/v1/chat/completions"


class Load:
    """One run."""

    def __init__(self, plan: Plan) -> None:
        """Take the plan."""
        self.plan = plan
        self.tally = Tally()
        host = f"{plan.host}:{plan.port}"
        self._request = wire.request(plan.ask, host, plan.path, plan.header)
        self._free: list[Caller] = []
        self._callers: set[Caller] = set()
        self._started = self._ended = 0
        self._in_window: array[int] = array("q")
        self._over = asyncio.Event()

    async def run(self) -> dict[str, object]:
        """Ask everything, wait for everything, and tell."""
        began, used = time.monotonic(), _cpu_s()
        try:
            async with asyncio.timeout(self.plan.deadline_s):
                if self.plan.concurrency:
                    await self._closed_loop()
                else:
                    await self._open_loop()
                if self.plan.ask.kind == "idle":
                    await self._release()
                elif self.plan.window_s:
                    await self._window()
                await self._over.wait()
        except TimeoutError:
            missing = self.plan.streams - self._ended
            self.tally.failures.append(f"{missing} were not over after {self.plan.deadline_s} s")
        seconds, cpu_s = time.monotonic() - began, _cpu_s() - used
        for caller in self._callers:
            caller.transport.close()
        return self._told(seconds, cpu_s)

    async def _closed_loop(self) -> None:
        count = min(self.plan.concurrency, self.plan.streams)
        for caller in await asyncio.gather(*(self._connect() for _ in range(count))):
            self._begin(caller, time.monotonic_ns())

    async def _open_loop(self) -> None:
        began, tasks = time.monotonic(), set()
        for number in range(self.plan.streams):
            at = began + number / self.plan.starts
            if (wait := at - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            # A late start is charged to the system, an early one (timers are coarse) is not.
            at_ns = min(int(at * 1e9), time.monotonic_ns())
            if caller := self._unused():
                self._begin(caller, at_ns)
            else:
                tasks.add(asyncio.create_task(self._begin_anew(at_ns)))
        if tasks:
            await asyncio.wait(tasks)

    def _unused(self) -> Caller | None:
        """Return a connection that is open and free."""
        while self._free:
            caller = self._free.pop()
            if caller.open:
                return caller
        return None

    async def _begin_anew(self, at_ns: int) -> None:
        try:
            self._begin(await self._connect(), at_ns)
        except OSError as error:
            self._started += 1
            self._count(f"not connected: {error}")

    async def _connect(self) -> Caller:
        loop = asyncio.get_running_loop()
        _, caller = await loop.create_connection(
            lambda: Caller(self._finished), self.plan.host, self.plan.port
        )
        self._callers.add(caller)
        return caller

    def _begin(self, caller: Caller, at_ns: int) -> None:
        self._started += 1
        caller.ask(Call(self.plan.ask, self.tally, at_ns), self._request)

    def _finished(self, caller: Caller, call: Call) -> None:
        self.tally.events += call.marks
        self._count(call.wrong)
        usable = caller.open and not call.wrong
        if not usable:
            caller.transport.close()
            self._callers.discard(caller)
        if not self.plan.concurrency:
            self._free += [caller] if usable else []
        elif self._started < self.plan.streams:
            if usable:
                self._begin(caller, time.monotonic_ns())
            else:
                self._replacing = asyncio.create_task(self._begin_anew(time.monotonic_ns()))

    def _count(self, wrong: str) -> None:
        self._ended += 1
        if wrong:
            self.tally.failures.append(wrong)
        else:
            self.tally.whole += 1
        if self._ended >= self.plan.streams:
            self._over.set()

    async def _all_open(self) -> None:
        tally = self.tally
        while len(tally.first) + len(tally.failures) < self.plan.streams:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # an Event would be looked at for each read
        await asyncio.sleep(SETTLE_S)
        del self.tally.latency[:]

    async def _window(self) -> None:
        await self._all_open()
        _say("0")
        await asyncio.sleep(self.plan.window_s)
        self._in_window = self.tally.latency[:]
        _say(str(len(self._in_window)))

    async def _release(self) -> None:
        await self._all_open()
        _say("open")
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        within_s = self.plan.streams / 2000
        body = json.dumps({"within_s": within_s}).encode()
        await told_by_upstream(self.plan.host, self.plan.upstream_port, wire.RELEASE, body)

    def _told(self, seconds: float, cpu_s: float) -> dict[str, object]:
        tally = self.tally
        return {
            "streams": self.plan.streams,
            "whole": tally.whole,
            "failures": len(tally.failures),
            "examples": tally.failures[:5],
            "events": tally.events,
            "bytes": tally.bytes,
            "seconds": seconds,
            "latency_us": percentiles(self._in_window or tally.latency, 1e3),
            "first_us": percentiles(tally.first, 1e3),
            "load_cpu_s": cpu_s,
        }


async def told_by_upstream(host: str, port: int, path: str, body: bytes = b"{}") -> bytes:
    """Ask the upstream itself, and return the body of its answer."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(wire.post(path, host, body))
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    answer = await reader.readexactly(length)
    writer.close()
    return answer


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - said to whoever started this


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _plan() -> Plan:
    parser = argparse.ArgumentParser(
        prog="python -m bench.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ask", default="", help="parts of wire.Ask: events=1000,rate=100,...")
    for name, field in Plan.__dataclass_fields__.items():
        if name != "ask":
            kind = {"int": int, "float": float, "str": str}[str(field.type)]
            needed = name == "port"
            default = None if needed else field.default
            flag = "--" + name.replace("_", "-")
            parser.add_argument(flag, type=kind, default=default, required=needed)
    told = vars(parser.parse_args())
    return Plan(**{**told, "ask": wire.Ask.of(wire.PREFIX + told["ask"])})


def main() -> None:
    """Run as the flags say; exit 1 if a stream was not whole."""
    plan = _plan()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    gc.freeze()  # what is there now stays; it need not be looked through again
    told = uvloop.run(_run(plan))
    _say(json.dumps(told))
    sys.exit(told["whole"] != plan.streams)


async def _run(plan: Plan) -> dict[str, object]:
    return await Load(plan).run()


if __name__ == "__main__":
    main()
