"""One event loop, two upstreams and a few proxies for the whole directory.

A proxy takes half a second to start, so that tests share one for each set of flags. What a test
counts is the difference of two scrapes: tests run one after another.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest
import pytest_asyncio

from e2e.child import QUICK, Proxy, start
from e2e.stage import Stage
from proxy.demo.upstream import MisbehavingUpstream

HERE = Path(__file__).parent

Starter = Callable[..., Coroutine[None, None, Proxy]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run all asynchronous tests of this directory in the loop that its fixtures live in."""
    for item in items:
        if HERE in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def upstream() -> AsyncIterator[MisbehavingUpstream]:
    """Return the upstream whose answers are scripted by the model that is asked for."""
    async with MisbehavingUpstream() as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stage() -> AsyncIterator[Stage]:
    """Return the upstream whose answers are coroutines."""
    async with Stage() as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def started(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Starter]:
    """Return a function that starts a proxy, or gives the one with the same flags again."""
    running: dict[tuple[str, ...], Proxy] = {}

    async with contextlib.AsyncExitStack() as ends:

        async def give(upstream_url: str, *flags: str) -> Proxy:
            key = (upstream_url, *flags)
            if key not in running:
                child = await start(tmp_path_factory.mktemp("proxy"), upstream_url, *flags)
                # One that complains of its end must not keep the others alive.
                ends.push_async_callback(child.stop)
                running[key] = child
            return running[key]

        yield give


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def proxy(started: Starter, upstream: MisbehavingUpstream) -> Proxy:
    """Return the proxy in front of the scripted upstream, with short waits."""
    return await started(upstream.base_url, *QUICK)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def staged(started: Starter, stage: Stage) -> Proxy:
    """Return the proxy in front of the staged upstream, with the default settings."""
    return await started(stage.base_url)


@pytest_asyncio.fixture(loop_scope="session")
async def alone(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Starter]:
    """Return a function that starts a proxy which nobody else uses."""
    async with contextlib.AsyncExitStack() as ends:

        async def give(upstream_url: str, *flags: str, **environment: str) -> Proxy:
            printed = tmp_path_factory.mktemp("alone")
            child = await start(printed, upstream_url, *flags, env=environment)
            ends.push_async_callback(child.stop)
            return child

        yield give
