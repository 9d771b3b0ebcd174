"""What a system is, for the benchmark.

Knows folders, ports and commands. Must not know how anything is measured.
"""

from __future__ import annotations

import abc
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.processes import Launch

HOST = "127.0.0.1"
ROOT = Path(__file__).parents[2]
HOME = ROOT / "build" / "bench"
"""Where results, logs and installed peers lie; git ignores it, ``make clean`` removes it."""

MAX_STREAMS = 8000
"""Each system may have so many at a time: more than any scenario opens."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a system runs: its port, one more for its own purposes, and a folder for its files."""

    port: int
    spare_port: int
    upstream_port: int
    folder: Path

    def file(self, name: str, text: str) -> str:
        """Write a file, and return its path."""
        path = self.folder / name
        path.write_text(text)
        return str(path)


@dataclass(frozen=True)
class System(abc.ABC):
    """One of the compared systems.

    ``headers`` are what a request to it needs on top; ``{upstream_port}`` in them is replaced. It
    listens after ``start_s`` seconds at the latest. A slow one gets ``load`` of the load: its
    streams are fewer, and begin more slowly; figures are per event or request, so they compare.
    """

    name: str
    headers: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 20.0
    load: float = 1.0

    def missing(self) -> str | None:
        """Say what is not there and how to get it; None if it can run."""
        return None

    def install(self) -> None:  # noqa: B027 - most are had from the machine's package manager
        """Get it, if it is one that the benchmark can get. Raises CalledProcessError."""

    @abc.abstractmethod
    def version(self) -> str:
        """Say which one it is."""

    @abc.abstractmethod
    def launch(self, place: Place) -> Launch | None:
        """Say how to start it; None if there is nothing to start."""


def said(*argv: str, folder: Path = ROOT) -> str:
    """Return what a command says in a folder, on either output; empty if it cannot be run."""
    try:
        done = subprocess.run(  # noqa: S603 - the systems' own commands
            argv, capture_output=True, text=True, check=False, timeout=60, cwd=folder
        )
    except OSError:
        return ""
    return (done.stdout + done.stderr).strip()
