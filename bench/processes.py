"""Processes of the benchmark: started on given cores, in a group of their own, ended by pid.

Knows subprocesses and affinities. Must not know what runs in them.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

END_S = 5.0
"""A process that is not gone by then is killed."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start. ``env`` comes on top of ours; ``unset`` are prefixes that are taken away.

    ``folder`` is where it runs.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores the system under test has, and which the upstream and the load share."""

    system: frozenset[int]
    others: frozenset[int]

    @classmethod
    def of_machine(cls, *, pinned: bool) -> Cores:
        """Give the system the last core, the others to the rest; one core, or unpinned: all."""
        available = sorted(_affinity())
        if not pinned or len(available) < 2:  # noqa: PLR2004 - there is nothing to share out
            return cls(frozenset(available), frozenset(available))
        # The last one, because interrupts and other programs are often on the first.
        return cls(frozenset(available[-1:]), frozenset(available[:-1]))

    def __str__(self) -> str:
        """Say it in one line."""
        if self.system == self.others:
            return f"nothing is pinned, {len(self.system)} cores for all"
        system, others = _listed(self.system), _listed(self.others)
        return f"the system on core {system}, load and upstream on core {others}"


def _listed(cores: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(cores)))


def _affinity() -> set[int]:
    return set(os.sched_getaffinity(0))


def raise_file_limit() -> int:
    """Allow as many open files as we may, for us and all children; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    return max(soft, hard)


@contextmanager
def running(
    launch: Launch, cores: frozenset[int], log: Path, *, heard: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Run a process, and end it on the way out.

    What it says goes to ``log``; with ``heard`` its standard output, and input, are ours.
    """
    with log.open("ab") as sink:
        process = _start(launch, cores, sink, heard=heard)
    try:
        yield process
    finally:
        end(process)


def _start(
    launch: Launch, cores: frozenset[int], sink: IO[bytes], *, heard: bool
) -> subprocess.Popen[str]:
    kept = {name: told for name, told in os.environ.items() if not name.startswith(launch.unset)}
    ours = _affinity()
    # A child inherits the affinity, and so do its threads and children from their first moment.
    os.sched_setaffinity(0, cores)
    try:
        return subprocess.Popen(  # noqa: S603 - the systems' own commands
            launch.argv,
            cwd=launch.folder,
            env={**kept, **launch.env},
            stdin=subprocess.PIPE if heard else subprocess.DEVNULL,
            stdout=subprocess.PIPE if heard else sink,
            stderr=sink,
            text=True,
            start_new_session=True,
        )
    finally:
        os.sched_setaffinity(0, ours)


def end(process: subprocess.Popen[str]) -> None:
    """End it and what it started: asked first, killed then."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(OSError):
                pipe.close()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def wait_for_port(process: subprocess.Popen[str], port: int, within_s: float) -> None:
    """Wait until it listens. Raises RuntimeError if it ended or took too long."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"it ended at once, with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"it does not listen after {within_s} s")
