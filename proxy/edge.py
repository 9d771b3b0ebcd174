"""What the requests of one process share.

Knows the parts by name. Must not know what is done with them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from typing import Any, Protocol

from proxy.core.budget import Breakers, RetryBudget
from proxy.core.policy import Policy
from proxy.incidents import IncidentRing
from proxy.metrics import Metrics
from proxy.settings import Settings
from proxy.upstreams import Upstreams


def new_pseudonym() -> str:
    """Return a name for an instance that no other one has."""
    return f"wholestream-{secrets.token_hex(4)}"


class Abortable(Protocol):
    """A request under way that can be ended loudly."""

    def abort(self) -> None:
        """End it now."""


class Edge:
    """Settings, budget, breakers, upstreams, metrics, incidents, and who is under way."""

    def __init__(self, settings: Settings, pseudonym: str = "") -> None:
        """Make all parts; must be called in the running loop.

        ``pseudonym`` is that of the instance, where it has more than one process.
        """
        loop = asyncio.get_running_loop()
        self.settings = settings
        self.policy: Policy = settings.policy
        self.budget = RetryBudget(
            settings.retry_budget_ratio, settings.retry_budget_min_per_s, loop.time()
        )
        self.breakers = Breakers(settings.breaker_failures, settings.breaker_open_s)
        self.upstreams = Upstreams(settings)
        self.metrics = Metrics(
            self.upstreams[""].host, lambda: self.budget.exhausted, self.breakers.states
        )
        self.ring = IncidentRing(settings.capture)
        self.pseudonym = pseudonym or new_pseudonym()
        """How this instance signs ``Via``, so that it knows its own requests again."""
        self.via = f"1.1 {self.pseudonym}"
        self.under_way: set[Abortable] = set()
        self.draining = False
        self.closed = False
        self._background: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that no client waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        """Stop the background work and close the upstream connections."""
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.upstreams.close()
