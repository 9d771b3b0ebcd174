"""No system between the load and the upstream: what the others' latency is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from bench.processes import Launch
from bench.systems.base import Place, System


@dataclass(frozen=True)
class Direct(System):
    """The upstream itself."""

    name: str = "direct"

    def version(self) -> str:
        """There is none."""
        return "no proxy"

    def launch(self, place: Place) -> Launch | None:  # noqa: ARG002 - it has no place
        """There is nothing to start."""
        return None
