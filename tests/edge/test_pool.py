"""The pool of upstream connections: one that speaks out of turn is never used again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import product

import pytest
from multidict import CIMultiDict

from edge.loopback import HOST, LOOPS, made, raw_server, read_request
from proxy.upstream import Upstream

LATE = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 5\r\n\r\nstale"


def answer_to(request: bytes) -> bytes:
    """Answer a request with its own target."""
    target = request.split(b" ")[1]
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target)


@contextlib.asynccontextmanager
async def opened(port: int) -> AsyncIterator[Upstream]:
    """Open the outgoing side."""
    upstream = Upstream(made(upstream=f"http://{HOST}:{port}"))
    try:
        yield upstream
    finally:
        await upstream.close()


async def given(upstream: Upstream, target: str) -> tuple[int, bytes]:
    """Ask for a target, return status and body."""
    answer = await upstream.open("GET", target, CIMultiDict(), None)
    body = b""
    while data := await answer.read():
        body += data
    answer.close()
    return answer.status, body


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("unasked", "at_once"),
    # Garbage at once spoils the answer before it, which is then a fault.
    [*product([LATE, b"HTTP/1.1 2", b"\n"], [True, False]), (b"garbage", False)],
)
def test_what_an_upstream_says_unasked_is_no_answer_to_the_next_request(
    loop: str,
    unasked: bytes,
    at_once: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """In the same segment as the answer before, or later on the idle connection."""

    async def work() -> None:
        spoken, dropped = asyncio.Event(), asyncio.Event()
        connections = 0

        async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            first = connections == 1
            writer.write(answer_to(await read_request(reader)) + unasked * (first and at_once))
            if first and not at_once:
                await spoken.wait()
                writer.write(unasked)
            with contextlib.suppress(ConnectionError):
                if request := await reader.read(2**16):
                    writer.write(answer_to(request))
                    await reader.read()
            dropped.set()

        async with raw_server(play) as port, opened(port) as upstream:
            assert await given(upstream, "/one") == (200, b"/one")
            spoken.set()
            await dropped.wait()
            assert await given(upstream, "/two") == (200, b"/two")
        assert connections == 2

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(work())
