"""The pool of upstream connections: one that speaks out of turn is never used again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

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


def two_calls(loop: str, unasked: bytes, *, at_once: bool, dropped: bool) -> int:
    """Make two calls to an upstream that says something unasked after its first answer.

    With ``dropped`` the second call waits until the first connection is. Returns how many
    connections there were.
    """
    connections = 0

    async def work() -> None:
        spoken, over = asyncio.Event(), asyncio.Event()

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
            over.set()

        async with raw_server(play) as port, opened(port) as upstream:
            assert await given(upstream, "/one") == (200, b"/one")
            spoken.set()
            if dropped:
                await over.wait()
            assert await given(upstream, "/two") == (200, b"/two")

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(work())
    return connections


on_both_loops = pytest.mark.parametrize("loop", LOOPS)


@on_both_loops
@pytest.mark.parametrize("unasked", [LATE, b"HTTP/1.1 2", b"\n", b"garbage"])
def test_an_idle_connection_that_speaks_is_dropped(loop: str, unasked: bytes) -> None:
    """Whatever it says: the next request has a connection of its own."""
    assert two_calls(loop, unasked, at_once=False, dropped=True) == 2


@on_both_loops
def test_a_second_answer_right_after_the_first_is_no_answer_to_the_next_request(loop: str) -> None:
    """In the same segment, so that it was read before the connection was idle."""
    assert two_calls(loop, LATE, at_once=True, dropped=True) == 2


@on_both_loops
@pytest.mark.parametrize("unasked", [b"HTTP/1.1 2", b"\n"])
def test_half_an_answer_right_after_the_first_is_not_kept_for_the_next_request(
    loop: str, unasked: bytes
) -> None:
    """The next answer is read from its beginning, on whichever connection."""
    assert two_calls(loop, unasked, at_once=True, dropped=False) in {1, 2}
