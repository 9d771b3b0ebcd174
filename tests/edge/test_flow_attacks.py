"""What an attack on the hot path found: answers out of turn, late compression, stray CRs."""

from __future__ import annotations

import gzip

import pytest
from e2e.stage import CHUNKED
from e2e.wire import asking, connected
from support import DONE, HI, ROLE, STOP, sse

from edge.flowing import CHAT, LAST, heard, http, on, rigged
from edge.loopback import LOOPS
from proxy.core.grammars.base import is_json

on_both_loops = pytest.mark.parametrize("loop", LOOPS)

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDING = http(sse(STOP)) + http(DONE) + LAST
FOREIGN = HEAD + http(sse(ROLE)) + http(sse({"foreign": True})) + ENDING
LATE = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 5\r\n\r\nstale"


@on_both_loops
@pytest.mark.parametrize("foreign", [FOREIGN, LATE], ids=["a stream", "a 408"])
def test_an_answer_out_of_turn_goes_to_nobody(loop: str, foreign: bytes) -> None:
    """It came in one read with the end of the answer before, whose connection that had released."""

    async def work() -> None:
        async with rigged() as rig, rig.calling() as (client, upstream):
            await upstream.steady(HI, HI)
            await upstream.reads(ENDING + foreign)
            assert (await heard(client)).end == "clean"
            async with connected(rig.app.port) as other:
                await other.ask(CHAT, asking("m"))
                asked = await rig.asked()
                assert asked.writer is not upstream.writer
                await asked.steady(HI, HI)
                await asked.reads(ENDING)
                reply = await heard(other)
            assert (reply.body, reply.end) == (sse(HI, HI, STOP) + DONE, "clean")

    on(loop, work())


@on_both_loops
@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
def test_a_body_that_comes_late_may_be_compressed(loop: str, *, told: bool) -> None:
    """The client has its 200 before the first byte shows what the body is."""
    body = gzip.compress(sse(ROLE, HI, STOP) + DONE)

    async def work() -> None:
        async with rigged(commit_after_s=0.05) as rig, rig.calling() as (client, upstream):
            coding = [("Content-Encoding", "gzip")] if told else []
            await upstream.begin(*CHUNKED, *coding)
            head = await client.head()
            await upstream.reads(http(body[:1]), http(body[1:20]), http(body[20:]), LAST)
            reply = await client.rest(head)
            assert (reply.body, reply.end) == (sse(ROLE, HI, STOP) + DONE, "clean")

    on(loop, work())


@on_both_loops
@pytest.mark.parametrize("cr", [b"\r", b"\r\r"], ids=["a line end", "a blank line"])
def test_a_line_end_inside_an_event_does_not_leave_as_one(loop: str, cr: bytes) -> None:
    """JSON has it for white space, and WHATWG for the end of a line, or of the event."""
    odd = sse(HI).replace(b"]}\n", b"]" + cr + b"}\n")
    assert odd != sse(HI)

    async def work() -> None:
        async with rigged() as rig, rig.calling() as (client, upstream):
            await upstream.steady(HI, HI)
            await upstream.reads(http(sse(HI)), http(odd), ENDING)
            reply = await heard(client)
            assert b"\r" not in reply.body
            assert reply.body.startswith(sse(HI, HI, HI))
            assert all(is_json(payload) for payload in reply.payloads if payload != b"[DONE]")

    on(loop, work())
