"""``workers = N``: several processes are one proxy, to clients, scrapers and operators alike."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from e2e.child import ROOT, Metrics, Proxy, eventually, idle
from e2e.conftest import Starter
from e2e.stage import CHUNKED, EVENT_STREAM, Exchange, Stage, plain, through
from e2e.wire import (
    PATHS,
    Reply,
    Wire,
    asking,
    check_complete,
    check_failed,
    connected,
    stream,
)
from proxy.demo.answers import Asked
from proxy.demo.bodies import stream_for
from proxy.demo.upstream import MisbehavingUpstream

TWO = ("--workers", "2", "--log-level", "debug")
EVENTS = stream_for(Asked(model="m"), 1).events
BEGUN = b"".join(EVENTS[:4])
LONG_S = 30.0


class Begun:
    """A stream under way, and the worker that serves it."""

    def __init__(self, wire: Wire, reply: Reply, go_on: asyncio.Event, worker: int) -> None:
        """Take both sides."""
        self.wire = wire
        self.reply = reply
        self.go_on = go_on
        self.worker = worker

    async def end(self) -> Reply:
        """Let the upstream go on and read the rest."""
        self.go_on.set()
        return await self.rest()

    async def rest(self) -> Reply:
        """Read the rest, of a stream whose upstream stays silent."""
        chunks, self.reply.chunks = self.reply.chunks, []
        await self.wire.rest(self.reply)
        self.reply.chunks[:0] = chunks
        return self.reply


def workers(proxy: Proxy) -> dict[int, int]:
    """Return the process of each worker, by its number, as the log has it."""
    lines = [line for line in proxy.log if line["event"] == "worker listens"]
    return {line["worker"]: line["pid"] for line in lines}


def died(proxy: Proxy) -> list[tuple[int, str]]:
    """Return which workers died, and of what."""
    return [(line["pid"], line["how"]) for line in proxy.log if line["event"] == "worker died"]


def alive(pid: int) -> bool:
    """Say whether a process is there; one that is dead and not buried is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def command_line(pid: int) -> str:
    """Return what a list of processes shows of one, with its environment left out."""
    shown = Path(f"/proc/{pid}/cmdline").read_text("utf-8")
    assert "wholestream worker" in shown
    return shown


def holder(proxy: Proxy, wire: Wire) -> int:
    """Return the number of the worker that has accepted a connection."""
    port = wire.writer.get_extra_info("sockname")[1]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    [inode] = [
        row[9] for row in rows if (row[1][-4:], row[2][-4:]) == (f"{proxy.port:04X}", f"{port:04X}")
    ]
    for number, pid in workers(proxy).items():
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if str(link.readlink()) == f"socket:[{inode}]":
                    return number
    raise AssertionError("no worker has it")


async def begin(proxy: Proxy, stage: Stage, wire: Wire, name: str) -> Begun:
    """Begin a stream and read its first content."""
    go_on = asyncio.Event()

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        await exchange.chunk(BEGUN)
        left = asyncio.ensure_future(exchange.left())
        going_on = asyncio.ensure_future(go_on.wait())
        await asyncio.wait({left, going_on}, return_when=asyncio.FIRST_COMPLETED)
        going_on.cancel()
        if not left.done():
            left.cancel()
            await exchange.chunk(b"".join(EVENTS[4:]))
            await exchange.chunk(b"")

    await wire.ask(PATHS["chat_completions"], asking("m"), headers=[stage.plays(name, play)])
    reply = await wire.head()
    while not reply.body.startswith(BEGUN):
        reply.chunks.append(await wire.chunk())
    return Begun(wire, reply, go_on, holder(proxy, wire))


@contextlib.asynccontextmanager
async def one_on_each(proxy: Proxy, stage: Stage, name: str) -> AsyncIterator[dict[int, Begun]]:
    """Begin streams until each worker has one; the others are ended."""
    found: dict[int, Begun] = {}
    async with contextlib.AsyncExitStack() as ends:
        while len(found) < 2:
            wire = await ends.enter_async_context(connected(proxy.port))
            begun = await begin(proxy, stage, wire, f"{name} {len(stage.exchanges)}")
            if begun.worker in found:
                check_complete(await begun.end())
            else:
                found[begun.worker] = begun
        yield found


async def replaced(proxy: Proxy, pid: int) -> None:
    """Wait until another process is in the place of one that died."""

    async def check() -> None:
        assert any(dead == pid for dead, _ in died(proxy))
        there = workers(proxy)
        assert pid not in there.values()
        assert all(alive(one) for one in there.values())

    await eventually(check, LONG_S)


async def unready(proxy: Proxy) -> None:
    """Assert that it takes no requests."""
    reply = await proxy.admin("/readyz")
    assert (reply.status, reply.body) == (503, b"draining\n")


def balance(metrics: Metrics) -> float:
    """Return how many streams were begun."""
    return metrics.total("wholestream_streams_total") + metrics.in_flight


def signalled(proxy: Proxy, number: signal.Signals) -> None:
    """Send a signal to all processes, as a terminal does."""
    for pid in (*workers(proxy).values(), proxy.pid):
        os.kill(pid, number)


# --- one proxy ------------------------------------------------------------------------------


async def test_requests_are_answered_by_several_processes_and_counted_as_one(
    alone: Starter, upstream: MisbehavingUpstream
) -> None:
    """Both serve, and what they have counted adds up to what was asked."""
    proxy = await alone(upstream.base_url, *TWO)
    for _ in range(40):
        check_complete(await stream(proxy.port, "ws-ok"))
    metrics = await idle(proxy)
    assert metrics.streams == {("chat_completions", "complete"): 40.0}
    requests = metrics.labelled("wholestream_requests_total", "endpoint", "code")
    assert requests == {("chat_completions", "2xx"): 40.0}
    assert metrics.total("wholestream_build_info") == 1
    assert {line["worker"] for line in proxy.log if line["event"] == "request"} == {1, 2}


async def test_the_start_is_told_once_when_all_listen(
    alone: Starter, upstream: MisbehavingUpstream
) -> None:
    """By the parent, with the free port that all of them were given."""
    proxy = await alone(upstream.base_url, *TWO)
    [listening] = [line for line in proxy.log if line["event"] == "listening"]
    assert listening["base_url"] == proxy.base_url
    assert "worker" not in listening
    assert workers(proxy).keys() == {1, 2}
    assert len({*workers(proxy).values(), proxy.pid}) == 3
    assert (await proxy.admin("/readyz")).body == b"ready\n"
    assert (await proxy.admin("/healthz")).body == b"ok\n"


async def test_all_workers_are_one_instance_to_a_loop(alone: Starter, stage: Stage) -> None:
    """A request that comes back to another one of them has come back all the same."""
    proxy = await alone(stage.base_url, *TWO)
    signed = set()
    for number in range(20):
        exchange, _ = await through(proxy.port, stage, plain(), name=f"via {number}")
        signed |= set(exchange.headers("via"))
    [via] = signed
    for number in range(20):
        async with connected(proxy.port) as wire:
            await wire.ask("/v1/files", method="GET", headers=[("Via", via)])
            assert (await wire.rest(await wire.head())).status == 508, number


async def test_incidents_of_all_workers_are_listed_newest_first(
    alone: Starter, upstream: MisbehavingUpstream
) -> None:
    """In one list; and they outlive their worker, as far as it had told them."""
    proxy = await alone(upstream.base_url, *TWO)
    for _ in range(20):
        await stream(proxy.port, "ws-clean-eof")
    await idle(proxy)
    found = json.loads((await proxy.admin("/api/incidents")).body)["incidents"]
    logged = [line for line in proxy.log if line["event"] == "incident"]
    assert {line["worker"] for line in logged} == {1, 2}
    assert len(found) == len(logged) == 20
    assert {one["request_id"] for one in found} == {line["request_id"] for line in logged}
    times = [one["time"] for one in found]
    assert times == sorted(times, reverse=True)

    pid = workers(proxy)[1]
    os.kill(pid, signal.SIGKILL)
    await replaced(proxy, pid)
    assert json.loads((await proxy.admin("/api/incidents")).body)["incidents"] == found


async def test_no_key_is_on_a_command_line(
    alone: Starter, upstream: MisbehavingUpstream, tmp_path: Path
) -> None:
    """Settings reach a worker by a channel that nobody else can read."""
    config = tmp_path / "settings.toml"
    entry = f'name = "b"\nbase_url = "{upstream.base_url}"\napi_key_env = "BACKUP_KEY"'
    config.write_text(f"[[upstreams]]\n{entry}\nheaders = {{ X-A = 'canary-header' }}")
    proxy = await alone(
        upstream.base_url, *TWO, "--config", str(config), BACKUP_KEY="sk-canary-4711"
    )
    for pid in workers(proxy).values():
        assert "canary" not in command_line(pid)
    assert "canary" not in proxy.stderr


# --- a worker that dies ---------------------------------------------------------------------


async def test_the_death_of_a_worker_costs_its_own_streams_alone(
    alone: Starter, stage: Stage
) -> None:
    """The others' go on to their ends, it is replaced, and no counter falls."""
    proxy = await alone(stage.base_url, *TWO)
    async with one_on_each(proxy, stage, "killed") as streams:
        before = await proxy.scrape()
        assert before.in_flight == 2
        pid = workers(proxy)[1]
        os.kill(pid, signal.SIGKILL)
        assert (await streams[1].end()).end in {"cut", "reset"}
        await replaced(proxy, pid)
        assert died(proxy) == [(pid, "SIGKILL")]

        after = await proxy.scrape()
        assert after.in_flight == 1
        assert after.streams[("other", "aborted")] == 1
        assert balance(after) == balance(before)
        assert after.total("wholestream_worker_restarts_total") == 1
        counters = [key for key in before if key[0].endswith("_total")]
        assert counters
        assert all(after[key] >= before[key] for key in counters)

        check_complete(await streams[2].end())
    last = await idle(proxy)
    assert balance(last) == balance(before)
    [line] = [line for line in proxy.log if line["event"] == "worker died"]
    assert (line["level"], line["worker"], line["streams"]) == ("error", 1, 1)
    async with one_on_each(proxy, stage, "replaced") as streams:
        for begun in streams.values():
            check_complete(await begun.end())


async def test_a_worker_that_answers_nothing_is_shown_as_it_was(
    alone: Starter, upstream: MisbehavingUpstream
) -> None:
    """A scrape does not fail with it, nor does it lose what was told before."""
    proxy = await alone(upstream.base_url, *TWO)
    for _ in range(20):
        check_complete(await stream(proxy.port, "ws-ok"))
    before = await idle(proxy)
    pid = workers(proxy)[1]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert (await proxy.scrape()).streams == before.streams
        assert (await proxy.admin("/api/incidents")).status == 200
        assert (await proxy.admin("/readyz")).status == 200
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (await proxy.scrape()).streams == before.streams


# --- stopping -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_all_processes_lets_all_streams_finish(
    alone: Starter, stage: Stage, number: signal.Signals
) -> None:
    """A terminal signals the whole group: that is one signal, not one for each worker."""
    proxy = await alone(stage.base_url, *TWO)
    async with one_on_each(proxy, stage, f"drained {number}") as streams:
        signalled(proxy, number)
        await eventually(lambda: unready(proxy))
        metrics = await proxy.scrape()
        assert metrics.total("wholestream_draining") == 1
        assert metrics.in_flight == 2
        for begun in streams.values():
            check_complete(await begun.end())
    assert await proxy.ended() == 0
    drained = [line["ended_loudly"] for line in proxy.log if line["event"] == "drained"]
    assert drained == [0, 0]
    assert died(proxy) == []


async def test_a_worker_takes_no_signals_from_others(
    alone: Starter, upstream: MisbehavingUpstream
) -> None:
    """It serves on: only the parent stops it."""
    proxy = await alone(upstream.base_url, *TWO)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        for pid in workers(proxy).values():
            os.kill(pid, number)
    for _ in range(10):
        check_complete(await stream(proxy.port, "ws-ok"))
    assert died(proxy) == []


@pytest.mark.parametrize("grace", ["0", "60"])
async def test_a_second_signal_ends_all_at_once_and_loudly(
    alone: Starter, stage: Stage, grace: str
) -> None:
    """Neither the grace nor the streams are waited for, but they are told."""
    proxy = await alone(stage.base_url, *TWO, "--drain-grace-s", grace, "--drain-timeout-s", "60")
    async with one_on_each(proxy, stage, f"second {grace}") as streams:
        signalled(proxy, signal.SIGINT)
        await eventually(lambda: unready(proxy))
        signalled(proxy, signal.SIGINT)
        for begun in streams.values():
            check_failed(await begun.rest())
        assert await proxy.ended() == 0
    assert died(proxy) == []


async def test_streams_that_last_too_long_are_told(alone: Starter, stage: Stage) -> None:
    """By each worker, when the time is up."""
    proxy = await alone(stage.base_url, *TWO, "--drain-timeout-s", "0.3")
    async with one_on_each(proxy, stage, "timeout") as streams:
        proxy.process.send_signal(signal.SIGTERM)
        for begun in streams.values():
            assert "shutting down" in check_failed(await begun.rest())["message"]
    assert await proxy.ended() == 0
    drained = [line["ended_loudly"] for line in proxy.log if line["event"] == "drained"]
    assert drained == [1, 1]


async def test_a_worker_that_does_not_obey_cannot_hold_up_the_end(
    alone: Starter, upstream: MisbehavingUpstream
) -> None:
    """It is killed when the time of all is up."""
    proxy = await alone(upstream.base_url, *TWO, "--drain-timeout-s", "0.3")
    pid = workers(proxy)[1]
    os.kill(pid, signal.SIGSTOP)
    proxy.process.send_signal(signal.SIGTERM)
    assert await proxy.ended() == 0
    assert died(proxy) == [(pid, "SIGKILL")]
    assert not alive(pid)


async def test_the_port_is_free_for_the_next_one_while_streams_end(
    alone: Starter, stage: Stage
) -> None:
    """As with one process: nobody accepts there any more."""
    proxy = await alone(stage.base_url, *TWO)
    async with one_on_each(proxy, stage, "next") as streams:
        proxy.process.send_signal(signal.SIGTERM)

        async def closed() -> None:
            try:
                async with connected(proxy.port):
                    pass
            except ConnectionRefusedError:
                return
            raise AssertionError("a connection was accepted")

        await eventually(closed)
        follower = await alone(stage.base_url, "--workers", "2", "--port", str(proxy.port))
        assert follower.port == proxy.port
        for begun in streams.values():
            check_complete(await begun.end())
    assert await proxy.ended() == 0


async def test_workers_without_a_parent_end_themselves(alone: Starter, stage: Stage) -> None:
    """Their streams are told, and nothing is left behind."""
    proxy = await alone(stage.base_url, *TWO)
    pids = workers(proxy).values()
    async with one_on_each(proxy, stage, "orphans") as streams:
        proxy.process.kill()
        for begun in streams.values():
            check_failed(await begun.rest())
    assert await proxy.ended() == -signal.SIGKILL

    async def gone() -> None:
        assert not [pid for pid in pids if alive(pid)]

    await eventually(gone, LONG_S)


# --- the commands ---------------------------------------------------------------------------


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WHOLESTREAM_")}
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "proxy", *words],
        check=False,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        cwd=ROOT,
        env=kept,
        stdin=subprocess.DEVNULL,
    )


async def test_a_health_check_follows_the_parent(
    alone: Starter, upstream: MisbehavingUpstream
) -> None:
    """Well while a worker serves, and not while all drain."""
    proxy = await alone(upstream.base_url, *TWO, "--drain-grace-s", "60")
    words = ("healthcheck", "--admin-port", str(proxy.admin_port))
    assert (await asyncio.to_thread(run, *words)).returncode == 0
    proxy.process.send_signal(signal.SIGTERM)
    await eventually(lambda: unready(proxy))
    ended = await asyncio.to_thread(run, *words)
    assert (ended.returncode, ended.stderr) == (1, "wholestream: not ready (503)\n")


@pytest.mark.parametrize("first", ["1", "2"])
@pytest.mark.parametrize("second", ["1", "2"])
async def test_a_second_instance_is_refused_the_port(
    alone: Starter, upstream: MisbehavingUpstream, first: str, second: str
) -> None:
    """Although two that share it would both be let in by the kernel."""
    proxy = await alone(upstream.base_url, "--workers", first)
    port = str(proxy.port)
    words = ("--port", port, "--admin-port", "0", "--workers", second)
    ended = await asyncio.to_thread(run, *words)
    assert (ended.returncode, ended.stdout) == (2, "")
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"wholestream: port: cannot listen on 127.0.0.1:{port} (")
    assert line.endswith("choose another with --port")
    check_complete(await stream(proxy.port, "ws-ok"))


@pytest.mark.parametrize("setting", ["port", "admin_port"])
async def test_a_port_that_another_program_has_is_named(setting: str) -> None:
    """In one line, exit code 2, and no worker is left."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = str(server.sockets[0].getsockname()[1])
        ports = {"port": "0", "admin_port": "0", setting: port}
        words = ("--port", ports["port"], "--admin-port", ports["admin_port"], "--workers", "2")
        ended = await asyncio.to_thread(run, *words)
    assert (ended.returncode, ended.stdout) == (2, "")
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"wholestream: {setting}: cannot listen on 127.0.0.1:{port} (")
