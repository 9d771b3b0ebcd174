"""Under asyncio's debug mode: no task, coroutine, connection or exception is left behind."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path

from e2e.child import QUICK, Proxy, eventually, idle
from e2e.conftest import Starter
from e2e.stage import CHUNKED, EVENT_STREAM, JSON, MULTIPART, Exchange, Stage
from e2e.wire import PATHS, asking, connected, stream
from proxy.demo.answers import Asked
from proxy.demo.bodies import stream_for
from proxy.demo.scenarios import SCENARIOS
from proxy.demo.upstream import MisbehavingUpstream

CHAT = PATHS["chat_completions"]
DEBUG = {"PYTHONASYNCIODEBUG": "1", "PYTHONWARNINGS": "always"}
COMPLAINTS = re.compile(
    r"never (?:retrieved|awaited)|traceback|unclosed|was destroyed|ResourceWarning"
    r"|RuntimeWarning|Unhandled|\bbug\b|exception was",
    re.IGNORECASE,
)
PHASES = ("headers", "first event", "content", "upload", "plain body")


def _complaints(proxy: Proxy) -> list[str]:
    lines = (proxy.stdout + proxy.stderr).splitlines()
    return [line[:2000] for line in lines if COMPLAINTS.search(line)]


async def test_faults_leave_nothing_behind(alone: Starter, upstream: MisbehavingUpstream) -> None:
    """Every misbehaviour there is, at once, and then the end of the process."""
    proxy = await alone(upstream.base_url, *QUICK, "--heartbeat-s", "0.1", **DEBUG)
    upstream.rewind()
    names = [name for name in SCENARIOS if name != "ws-slow"]
    await asyncio.gather(*(stream(proxy.port, name) for name in names))
    await asyncio.gather(*(stream(proxy.port, name, "responses") for name in names))
    await idle(proxy)
    proxy.process.send_signal(signal.SIGTERM)
    assert await proxy.ended() == 0
    assert _complaints(proxy) == []


async def test_leaving_leaves_nothing_behind(alone: Starter, stage: Stage) -> None:
    """Clients that leave in every phase, by FIN and by RST, and one while the process ends."""
    proxy = await alone(stage.base_url, *QUICK, "--commit-after-s", "0.1", **DEBUG)
    before = _open_files(proxy)
    await asyncio.gather(
        *(_leave(proxy, stage, phase, how) for phase in PHASES for how in ("fin", "reset"))
    )
    metrics = await idle(proxy)
    assert metrics.labelled("wholestream_streams_total", "outcome") == {("client_closed",): 6.0}

    async def closed() -> None:
        assert _open_files(proxy) <= before + 1  # the admin connection just made

    await eventually(closed)
    leaving = asyncio.ensure_future(_leave(proxy, stage, "content", "at the end"))
    await asyncio.sleep(0.1)
    proxy.process.send_signal(signal.SIGTERM)
    await leaving
    assert await proxy.ended() == 0
    assert _complaints(proxy) == []


def _open_files(proxy: Proxy) -> int:
    return len(list(Path(f"/proc/{proxy.pid}/fd").iterdir()))


async def _leave(proxy: Proxy, stage: Stage, phase: str, how: str) -> None:
    reached = asyncio.Event()
    name = f"behind {phase} {how}"

    async def play(exchange: Exchange) -> None:
        if phase == "upload":
            await exchange.part()
        else:
            await exchange.body()
        if phase == "plain body":
            await exchange.answer(200, [JSON, ("Content-Length", "100")], b"{")
        elif phase in {"first event", "content"}:
            await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        if phase == "content":
            await exchange.chunk(b"".join(stream_for(Asked(model="m"), 1).events[:4]))
        reached.set()
        await exchange.left()

    headers = [stage.plays(name, play)]
    async with connected(proxy.port) as wire:
        if phase == "upload":
            await wire.ask("/v1/files", headers=[*headers, MULTIPART, ("Content-Length", "99")])
            await wire.send(b"--b")
        elif phase == "plain body":
            await wire.ask("/v1/models", method="GET", headers=headers)
        else:
            await wire.ask(CHAT, asking("m"), headers=headers)
        await reached.wait()
        await asyncio.sleep(0.2)  # into the timed commit, where there is one
        if how == "reset":
            wire.writer.transport.abort()
    await stage.over(name)
