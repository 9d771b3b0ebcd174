"""Workers that die, cannot be started or do not answer, and what the parent makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from edge.loopback import HOST, ask, made
from proxy import crew as crew_module
from proxy import workers as workers_module
from proxy.app import serve
from proxy.channel import Setup
from proxy.crew import Crew, GaveUpError
from proxy.listening import Claim
from proxy.parent import Parent
from proxy.settings import Settings, SettingsError
from proxy.totals import Totals
from proxy.workers import Worker, ending

READY = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def soon(condition: Callable[[], object]) -> None:
    """Wait for something that other processes bring about."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def hired(*, number: int = 2, port: int = 0) -> AsyncIterator[Crew]:
    """Hire a crew for a port that is claimed, or for one that is not."""
    claim = None if port else Claim(HOST, 0)
    settings = made(workers=number, port=port or (claim.port if claim else 0))
    restarts = Counter("restarts", "Restarts.", registry=CollectorRegistry())
    crew = Crew(settings, Totals(CollectorRegistry()), restarts)
    try:
        yield crew
    finally:
        await crew.close()
        if claim is not None:
            claim.release()


def executable(where: Path, text: str) -> str:
    """Write something to be started in place of Python."""
    path = where / "python"
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="ascii")
    path.chmod(0o700)
    return str(path)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged, with how workers died."""
    return [
        f"{record.getMessage()}: {record.__dict__.get('fields', {}).get('how', '')}"
        for record in caplog.records
    ]


def setup(settings: Settings | None = None) -> Setup:
    """Say what a worker is to be."""
    return Setup(1, pickle.dumps(settings or made()), "wholestream-x")


async def life(**values: Any) -> int:
    """Let a single worker live, told to nobody."""
    worker = Worker(setup(made(**values)), lambda _: None, lambda _: None)
    return await worker.live()


# --- workers that cannot be started -----------------------------------------------------


@pytest.mark.parametrize(
    ("program", "how"),
    [("/bin/false", "exit code 1"), ("/nowhere/python", "No such file or directory")],
)
def test_a_parent_whose_workers_cannot_be_started_gives_up(
    program: str,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Loudly, after a few times, and with an exit code that says so."""
    monkeypatch.setattr(sys, "executable", program)
    began: list[object] = []
    assert serve(made(port=0, admin_port=0, workers=2), began.append) == 1
    assert began == []
    logged = messages(caplog)
    assert logged[-1].startswith("giving up: no worker can be started")
    assert how in logged[-1]
    died = [line for line in logged if line.startswith("worker died: ")]
    assert len(died) >= crew_module.FAILED_STARTS
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_worker_that_says_why_it_cannot_start_is_believed() -> None:
    """At the start, the user is told at once and in its words."""
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        async with hired(port=port) as crew:
            await crew.hopeless.wait()
            assert isinstance(crew.error, SettingsError)
            assert str(crew.error).startswith(f"port: cannot listen on {HOST}:{port} (")
            assert not crew.complete.is_set()


async def test_a_worker_that_does_not_get_ready_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is that it does."""
    monkeypatch.setattr(sys, "executable", executable(tmp_path, "exec sleep 600"))
    monkeypatch.setattr(workers_module, "START_S", 0.1)
    assert await life() == -signal.SIGKILL


async def test_a_worker_that_fails_by_a_bug_says_so_in_a_line_of_the_log(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its traceback is in there, as with any other bug."""
    worker = Worker(Setup(1, b"no settings", "wholestream-x"), lambda _: None, lambda _: None)
    assert await worker.live() == 1
    [line] = capfd.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "bug"


async def test_a_worker_that_is_told_nothing_ends() -> None:
    """Its parent is gone already."""
    process, end = workers_module._spawn(1)
    end.close()
    await soon(lambda: process.poll() is not None)
    assert process.returncode == 0


async def test_a_signal_to_the_group_does_not_end_a_worker_that_starts() -> None:
    """It comes before the worker has said how it takes it."""
    async with hired() as crew:
        await soon(lambda: len(crew._workers) == 2)
        for _ in range(5):
            for worker in crew._workers.values():
                os.kill(worker.pid, signal.SIGINT)
                os.kill(worker.pid, signal.SIGTERM)
            await asyncio.sleep(0.02)
        await crew.complete.wait()
        assert crew._restarts._value.get() == 0


async def test_a_process_that_is_not_gone_with_its_channel_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is no way left to talk to it."""
    monkeypatch.setattr(workers_module, "_EXIT_S", 0.1)
    process = subprocess.Popen(["/bin/sleep", "600"])  # noqa: ASYNC220 - to be killed
    assert await workers_module._buried(process) == -signal.SIGKILL


async def test_others_serve_on_while_one_place_cannot_be_filled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """That is tried again and again, and told each time; it is not given up."""
    caplog.set_level(logging.INFO, "wholestream")
    monkeypatch.setattr(crew_module, "_LONGEST_PAUSE_S", 0.01)
    async with hired() as crew:
        await crew.complete.wait()
        with monkeypatch.context() as broken:
            broken.setattr(sys, "executable", "/bin/false")
            os.kill(crew._workers[1].pid, signal.SIGKILL)
            await soon(lambda: len(messages(caplog)) > 2 * crew_module.FAILED_STARTS)
            assert crew.serving == 1
        await soon(lambda: crew.serving == 2)
        assert not crew.hopeless.is_set()
        assert messages(caplog)[0] == "worker died: SIGKILL"
        assert "worker died: exit code 1" in messages(caplog)
        assert messages(caplog)[-1].startswith("worker listens")


async def test_a_bug_in_keeping_a_worker_ends_the_proxy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Fewer and fewer workers would be worse."""

    async def broken(_worker: Worker) -> int:
        raise ValueError

    monkeypatch.setattr(Worker, "live", broken)
    async with hired() as crew:
        await crew.hopeless.wait()
        assert isinstance(crew.error, GaveUpError)
    assert [record.getMessage() for record in caplog.records] == ["bug", "bug"]


@pytest.mark.parametrize(
    ("code", "words"),
    [(3, "exit code 3"), (-11, "SIGSEGV"), (-63, "signal 63"), (0, "exit code 0")],
)
def test_an_ending_is_told_in_words(code: int, words: str) -> None:
    """The name of a signal, if it has one."""
    assert ending(code) == words


# --- workers that do not answer ---------------------------------------------------------


async def test_a_worker_that_does_not_answer_is_not_asked_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Questions do not pile up; when it goes on, it is asked again."""
    monkeypatch.setattr(crew_module, "ANSWER_S", 0.01)
    async with hired(number=1) as crew:
        await crew.tell()
        await crew.complete.wait()
        worker = crew._workers[1]
        os.kill(worker.pid, signal.SIGSTOP)
        for _ in range(30):
            await crew.tell()
        assert 0 < len(worker._asked) <= workers_module._MAX_QUESTIONS
        os.kill(worker.pid, signal.SIGCONT)
        await soon(lambda: not worker._asked)
        await asyncio.wait_for(worker.ask(), 30)


async def test_a_worker_that_dies_while_it_is_asked_is_not_waited_for() -> None:
    """Nor is one that has no process."""
    async with hired(number=1) as crew:
        await crew.complete.wait()
        worker = crew._workers[1]
        os.kill(worker.pid, signal.SIGSTOP)
        answer = worker.ask()
        worker.kill()
        await asyncio.wait({answer}, timeout=30)
        assert answer.cancelled()
        assert worker.ask().cancelled()


# --- the parent -------------------------------------------------------------------------


async def test_a_parent_is_ready_when_a_worker_serves() -> None:
    """Not before, though its admin listener is there already."""
    parent = Parent(made(port=0, admin_port=0, workers=2))
    assert parent.unready() == "starting"
    assert await parent.incidents() == []
    up = asyncio.Event()
    task = asyncio.create_task(parent.run(lambda _: up.set()))
    await soon(lambda: parent.admin_port)
    got = await ask(parent.admin_port, READY)
    assert (got.status, got.body) == (503, b"starting\n")
    await up.wait()
    assert (await ask(parent.admin_port, READY)).body == b"ready\n"
    found = await ask(parent.admin_port, READY.replace(b"readyz", b"api/incidents"))
    assert json.loads(found.body) == {"incidents": []}
    parent.stop()
    assert parent.unready() == "draining"
    await task
    for port in (parent.port, parent.admin_port):
        with pytest.raises(ConnectionRefusedError):
            await ask(port, READY)


async def test_a_parent_that_is_stopped_while_it_starts_leaves_nothing_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It does not say that it has started."""
    parent = Parent(made(port=0, admin_port=0, workers=2))
    began: list[Parent] = []
    task = asyncio.create_task(parent.run(began.append))
    await soon(lambda: parent.port)
    parent.stop()
    await task
    assert began == []
    assert "worker listens: " not in messages(caplog)


async def test_a_worker_that_does_not_end_in_time_is_killed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After a second signal, too."""
    parent = Parent(made(port=0, admin_port=0, workers=2, drain_grace_s=3600))
    up = asyncio.Event()
    task = asyncio.create_task(parent.run(lambda _: up.set()))
    await up.wait()
    crew = parent._crew
    assert crew is not None
    os.kill(crew._workers[1].pid, signal.SIGSTOP)
    parent.stop()
    await soon(lambda: parent.unready() == "draining")
    parent.stop()
    await task
    assert messages(caplog) == [
        "workers are killed: they do not end: ",
        "worker died: SIGKILL",
    ]


async def test_an_upstream_that_is_the_proxy_itself_is_refused() -> None:
    """As with one process."""
    with pytest.raises(SettingsError, match=r"^upstream: points at this proxy itself"):
        Parent(made(port=9999, workers=2, upstream="http://127.0.0.1:9999/v1"))


def test_settings_reach_a_worker_with_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is masked where it is shown is whole where it is used."""
    monkeypatch.setenv("BACKUP_KEY", "sk-canary-4711")
    entry = {
        "name": "backup",
        "base_url": "https://backup.example/v1",
        "api_key_env": "BACKUP_KEY",
        "headers": {"X-Title": "canary"},
    }
    settings = made(upstreams=[entry], recovery={"hold": "all"}, profile="vllm")
    again: Settings = pickle.loads(pickle.dumps(settings))  # noqa: S301 - our own
    assert again == settings
    assert again.policy == settings.policy
    key = again.upstreams[0].api_key
    assert key is not None
    assert key.get_secret_value() == "sk-canary-4711"
