"""How often the upstream is asked: as often as is counted, and not once more."""

from __future__ import annotations

import asyncio

import pytest

from e2e.child import QUICK, Proxy, idle
from e2e.conftest import Starter
from e2e.sockets import HANDSHAKE
from e2e.stage import Exchange, Stage
from e2e.wire import Pairs, call, connected

OFF: Pairs = [("X-Wholestream-Recovery", "off")]
MOST = 3


async def _reset(exchange: Exchange) -> None:
    exchange.reset()


async def asked(proxy: Proxy, stage: Stage, request: tuple[str, str], headers: Pairs = ()) -> int:
    """Ask for what is reset before any answer; return how often the upstream was asked."""
    (method, target), name = request, f"asked {request} {headers}"
    before = await idle(proxy)
    pairs = [stage.plays(name, _reset), *headers]
    got = await call(proxy.port, target, method=method, headers=pairs)
    assert got.status == 502
    counted = (await idle(proxy)).since(before).labelled("wholestream_upstream_attempts_total")
    seen = len(stage.exchanges[name])
    assert sum(counted.values()) == seen
    return seen


@pytest.mark.parametrize("target", ["/v1/models", "/v1/responses/resp_1?stream=true"])
async def test_what_may_be_repeated_is_asked_for_as_often_as_was_set(
    started: Starter, stage: Stage, target: str
) -> None:
    """HTTP's leave to repeat a GET is ours to take, and the library's never."""
    proxy = await started(stage.base_url, *QUICK, "--max-attempts", str(MOST))
    assert await asked(proxy, stage, ("GET", target)) == MOST


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_without_recovery_it_is_asked_for_once(
    started: Starter, stage: Stage, method: str
) -> None:
    """Whatever the method."""
    proxy = await started(stage.base_url, *QUICK, "--max-attempts", str(MOST))
    assert await asked(proxy, stage, (method, "/v1/files/f"), OFF) == 1


async def test_a_handshake_is_made_once(started: Starter, stage: Stage) -> None:
    """Another one is the client's to make."""
    proxy = await started(stage.base_url, *QUICK, "--max-attempts", str(MOST))
    pairs = [*HANDSHAKE, stage.plays("one handshake", _reset)]
    async with connected(proxy.port) as wire, asyncio.timeout(10):
        await wire.ask("/v1/realtime", method="GET", headers=pairs)
        assert (await wire.head()).status == 502
    assert len(stage.exchanges["one handshake"]) == 1
