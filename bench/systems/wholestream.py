"""wholestream as in production: default settings, its own process, log to a file.

Framing and validation are on, because there is no way to have them off.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from bench.processes import Launch
from bench.systems.base import HOST, MAX_STREAMS, ROOT, Place, System, said


@dataclass(frozen=True)
class Wholestream(System):
    """A checkout: the one that the benchmark is in, or another to compare it with."""

    name: str = "wholestream"
    root: Path = ROOT

    def missing(self) -> str | None:
        """Look for the package."""
        return None if (self.root / "proxy").is_dir() else f"no proxy/ in {self.root}"

    def version(self) -> str:
        """Return its version and the commit."""
        version = said(sys.executable, "-m", "proxy", "--version", folder=self.root)
        commit = said("git", "describe", "--always", "--dirty", folder=self.root)
        # Another checkout need not be one of git's.
        return version if " " in commit or not commit else f"{version} ({commit})"

    def launch(self, place: Place) -> Launch:
        """Set ports and upstream; the limit of streams only where the default could be met."""
        settings = {
            "PORT": place.port,
            "ADMIN_PORT": place.spare_port,
            "UPSTREAM": f"http://{HOST}:{place.upstream_port}/v1",
            "MAX_STREAMS": MAX_STREAMS,
            "DRAIN_TIMEOUT_S": 1,
        }
        env = {f"WHOLESTREAM_{name}": str(value) for name, value in settings.items()}
        # Python looks into the working directory first.
        argv = [sys.executable, "-m", "proxy", "serve"]
        return Launch(argv, env, unset=("WHOLESTREAM_", "PYTHONPATH"), folder=self.root)
