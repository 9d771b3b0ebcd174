"""Many clients on an upstream that always fails: no storm, and every end an honest one."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import pytest_asyncio

from e2e.child import Metrics, Proxy, idle
from e2e.conftest import Starter
from e2e.retold import asked_for, check_prefix, cut
from e2e.wire import Reply, check_failed, stream
from proxy.demo.answers import error_reply
from proxy.demo.bodies import stream_for
from proxy.demo.upstream import MisbehavingUpstream

CLIENTS = 200
RATIO = 0.2
FLOOR_PER_S = 1.0
RESERVE_S = 30.0
STORMY = (
    *("--retry-budget-ratio", f"{RATIO}"),
    *("--retry-budget-min-per-s", f"{FLOOR_PER_S}"),
    *("--backoff-base-s", "0.02"),
    *("--backoff-max-s", "0.05"),
    *("--recovery-replay", "always"),
)
"""The budget is the default one; the waits are so short that it alone stands in the way."""


@dataclass
class Storm:
    """What came of it; ``floor`` is what the budget may give without any success."""

    replies: list[Reply]
    attempts: int
    floor: float
    counted: Metrics

    @property
    def refused(self) -> float:
        """How many repetitions the budget refused."""
        return self.counted.total("wholestream_retry_budget_exhausted_total")

    def check(self) -> None:
        """Assert that few were repeated, that refusals are counted, and that sums are right."""
        assert CLIENTS < self.attempts <= (1 + RATIO) * CLIENTS + self.floor
        assert 0 < self.refused <= CLIENTS
        assert self.counted.total("wholestream_upstream_attempts_total") == self.attempts
        assert self.counted.streams == {("chat_completions", "failed"): CLIENTS}
        assert sum(self.counted.incidents.values()) == self.attempts


@pytest_asyncio.fixture(loop_scope="session")
async def stormy(alone: Starter, upstream: MisbehavingUpstream) -> Proxy:
    """Return a proxy whose budget nobody has touched."""
    return await alone(upstream.base_url, *STORMY)


async def storm(proxy: Proxy, upstream: MisbehavingUpstream, model: str) -> Storm:
    """Let all clients ask at once."""
    before, began = await idle(proxy), time.monotonic()
    replies = await asyncio.gather(*(stream(proxy.port, model) for _ in range(CLIENTS)))
    counted = (await idle(proxy)).since(before)
    floor = FLOOR_PER_S * (time.monotonic() - began + RESERVE_S)
    return Storm(replies, len(asked_for(upstream, model)), floor, counted)


async def test_an_upstream_that_always_fails_is_not_stormed(
    stormy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """200 clients, each told of the 500; about as many attempts as clients."""
    upstream.script("storm-500", error_reply(500, "server_error", "Dead."))
    seen = await storm(stormy, upstream, "storm-500")
    seen.check()
    assert {(got.status, got.error["message"]) for got in seen.replies} == {(500, "Dead.")}
    tries = [int(got.header("x-wholestream-attempts") or 1) for got in seen.replies]
    assert sum(tries) == seen.attempts
    # Every client was refused another attempt, but those that had them all.
    assert seen.refused == sum(count < 3 for count in tries)


async def test_an_upstream_that_always_cuts_is_not_stormed(
    stormy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """Replays after content come out of the same budget; every client has prefix and error."""
    upstream.script("storm-cut", lambda asked, attempt: cut(stream_for(asked, attempt), 5))
    seen = await storm(stormy, upstream, "storm-cut")
    seen.check()
    for got in seen.replies:
        assert check_failed(got)["code"] == "stream_incomplete"
        assert check_prefix(got) == "Whole streams end well, and"


async def test_clients_that_succeed_pay_for_those_that_fail(
    stormy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """Among the failing ones others are served whole, and the sum of outcomes is the number."""
    upstream.script("storm-mixed", error_reply(500, "server_error", "Dead."))
    before = await idle(stormy)
    calls = [("storm-mixed", "ws-ok")[number % 2] for number in range(CLIENTS)]
    replies = await asyncio.gather(*(stream(stormy.port, model) for model in calls))
    counted = (await idle(stormy)).since(before)
    served = [got for got, model in zip(replies, calls, strict=True) if model == "ws-ok"]
    assert {got.status for got in served} == {200}
    assert counted.streams == {
        ("chat_completions", "complete"): CLIENTS / 2,
        ("chat_completions", "failed"): CLIENTS / 2,
    }
