"""How a flow ends: the upstream breaks or is silent, the client leaves, the proxy itself fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from e2e.wire import HEARTBEAT, asking
from support import DONE, HI, STOP, chunk, sse

from edge.flowing import CHAT, LAST, Rig, Upstream, heard, http, listen, on, rigged, without_lane
from edge.loopback import LOOPS, until
from proxy import clocks
from proxy.core import shortcut
from proxy.core.session import StreamSession

on_both_loops = pytest.mark.parametrize("loop", LOOPS)

OPENERS = (HI, HI, HI)
SAID = sse(chunk(content="Aye."))
CHUNK = http(SAID)
RAW = http('data: {"choices":[{"delta":{"content":"Grüße"}}]}\n\n'.encode())
ENDING = (http(sse(STOP)), http(DONE), LAST)
SOON_S = 1.0
"""The contract's 100 ms, with room for a busy machine."""


def taken(rig: Rig) -> None:
    """Assert that the lane took all since it was asked last."""
    assert rig.parsed == []


# --- the upstream's end ---

BREAKS: dict[str, tuple[list[bytes], Callable[[Upstream], None], str]] = {
    "FIN between chunks": ([], lambda up: up.writer.close(), "cut_between_events"),
    "RST between chunks": ([], Upstream.reset, "reset"),
    "FIN in an event": ([CHUNK[:30]], lambda up: up.writer.close(), "cut_mid_event"),
    "RST in an event": ([CHUNK[:30]], Upstream.reset, "reset"),
    "FIN behind an event": ([CHUNK[:-2]], lambda up: up.writer.close(), "cut_between_events"),
    "FIN in a size": ([CHUNK[:1]], lambda up: up.writer.close(), "cut_between_events"),
    "the last chunk": ([LAST], lambda up: up.writer.close(), "clean_eof"),
}


@on_both_loops
@pytest.mark.parametrize("how", BREAKS)
def test_a_break_is_told_behind_all_whole_events(loop: str, how: str) -> None:
    """At once, and by its name."""
    pieces, end, fault = BREAKS[how]

    async def work() -> None:
        async with rigged() as rig, rig.calling() as (client, upstream):
            await upstream.steady(*OPENERS)
            rig.parsed.clear()
            await upstream.reads(CHUNK, CHUNK)
            taken(rig)
            await upstream.reads(*pieces)
            end(upstream)
            async with asyncio.timeout(SOON_S):
                reply = await heard(client)
            whole = SAID * (2 + (how == "FIN behind an event"))
            assert reply.body.startswith(sse(*OPENERS) + whole + b'data: {"error":')
            assert f"[{fault}]".encode() in reply.payloads[-1]
            assert reply.end == "clean"

    on(loop, work())


FINISHED = sse(*OPENERS, STOP) + DONE


@on_both_loops
@pytest.mark.parametrize("events", [sse(STOP), sse(STOP) + DONE, SAID], ids=["stop", "end", "text"])
def test_what_is_no_chunk_may_come_in_one_read_with_events(
    loop: str, events: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection is lost in the very turn in which they are relayed."""

    async def work() -> None:
        async with rigged() as rig, rig.calling() as (client, upstream):
            await upstream.steady(*OPENERS)
            await upstream.reads(http(events) + b"no chunk\r\n")
            reply = await heard(client)
            if events == SAID:
                assert b"stream_incomplete" in reply.payloads[-1]
                assert reply.body.startswith(sse(*OPENERS) + SAID)
            else:
                assert reply.body == FINISHED
            assert reply.end == "clean"
            await until(lambda: not rig.app.edge._background)

    on(loop, work())
    assert "bug" not in caplog.messages


@on_both_loops
@pytest.mark.parametrize("last", [LAST, b""], ids=["last chunk", "FIN"])
def test_an_answer_that_came_at_once_is_over_before_it_flows(loop: str, last: bytes) -> None:
    """There is nothing to wait for."""

    async def work() -> None:
        async with rigged() as rig, rig.calling() as (client, upstream):
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            upstream.writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK + last)
            if not last:
                upstream.writer.close()
            reply = await heard(client)
            assert reply.body.startswith(SAID + b'data: {"error":')
            assert reply.end == "clean"

    on(loop, work())


@on_both_loops
def test_silence_becomes_a_fault_counted_from_the_last_event(loop: str) -> None:
    """Also from one that was passed on as it is."""

    async def work() -> None:
        async with rigged(stall_timeout_s=0.2) as rig, rig.calling() as (client, upstream):
            await upstream.steady(*OPENERS)
            before, limit = rig.exchange.clocks.last_event, rig.exchange.limit()
            await asyncio.sleep(0.01)  # uvloop's clock stands still for a millisecond
            rig.parsed.clear()
            await upstream.reads(CHUNK)
            taken(rig)
            assert rig.exchange.clocks.last_event > before
            assert rig.exchange.limit() > limit
            reply = await heard(client)
            assert b"[stall]" in reply.payloads[-1]
            assert reply.body.startswith(sse(*OPENERS) + SAID)

    on(loop, work())


@on_both_loops
def test_a_heartbeat_is_due_once_nothing_was_written_for_so_long(loop: str) -> None:
    """An event that is passed on as it is puts it off; behind it the flow goes on."""

    async def work() -> None:
        async with rigged(heartbeat_s=0.2) as rig, rig.calling() as (client, upstream):
            await upstream.steady(*OPENERS)
            await client.head()
            before = rig.exchange.due()
            await asyncio.sleep(0.01)
            rig.parsed.clear()
            await upstream.reads(CHUNK)
            taken(rig)
            assert rig.exchange.due() > before
            given = b""
            while not given.endswith(HEARTBEAT * 2):
                given += await client.chunk()
            assert given == sse(*OPENERS) + SAID + HEARTBEAT * 2
            await until(lambda: upstream.wire.sink is not None)
            await upstream.reads(CHUNK)
            rig.parsed.clear()
            await upstream.reads(CHUNK)
            taken(rig)
            assert [await client.chunk() for _ in range(2)] == [SAID, SAID]

    on(loop, work())


@on_both_loops
def test_a_chunk_that_begins_while_a_heartbeat_is_written_is_no_chunk_of_its_own(
    loop: str,
) -> None:
    """What was known of the parser before is not believed of it afterwards."""

    async def work() -> None:
        async with rigged(heartbeat_s=0.1) as rig, rig.calling() as (client, upstream):
            await upstream.steady(*OPENERS)
            await upstream.reads(CHUNK)
            wire = upstream.wire
            await until(lambda: wire.sink is None)
            wire.data_received(b"1")  # the read of just that moment
            await until(lambda: wire.sink is not None)
            rig.parsed.clear()
            await upstream.reads(CHUNK)
            assert rig.parsed == [CHUNK]
            await client.leave()

    on(loop, work())


@on_both_loops
def test_heartbeats_that_are_always_due_hold_nothing_up(loop: str) -> None:
    """However short their interval is set."""

    async def work() -> None:
        async with rigged(heartbeat_s=1e-9) as rig, rig.calling() as (client, upstream):
            await upstream.begin()
            await upstream.reads(http(sse(HI)), CHUNK, CHUNK, *ENDING)
            reply = await heard(client)
            events = sse(HI) + SAID * 2 + sse(STOP) + DONE
            assert (reply.body.replace(HEARTBEAT, b""), reply.end) == (events, "clean")

    on(loop, work())


@on_both_loops
def test_a_finished_answer_is_ended_though_its_connection_is_not(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A moment after its finish reason, and not when silence would be a fault."""
    monkeypatch.setattr(clocks, "FINISH_GRACE_S", 0.1)

    async def work() -> None:
        async with rigged() as rig, rig.calling() as (client, upstream):
            await upstream.steady(*OPENERS)
            await upstream.reads(CHUNK, http(sse(STOP)))
            reply = await heard(client)
            assert (reply.body, reply.end) == (
                sse(*OPENERS) + SAID + sse(STOP) + DONE,
                "clean",
            )
            assert rig.count("wholestream_incomplete_chunks_total") == 0

    on(loop, work())


# --- the client's end ---


@on_both_loops
@pytest.mark.parametrize("how", ["fin", "reset"])
def test_the_upstream_is_let_go_when_the_client_leaves(loop: str, how: str) -> None:
    """At once, in the middle of events that are passed on as they are, and without a word."""

    async def work() -> None:
        async with rigged() as rig, rig.calling() as (client, upstream):
            await upstream.steady(*OPENERS)
            client.writer.close() if how == "fin" else client.writer.transport.abort()
            async with asyncio.timeout(SOON_S):
                # One event in each turn of the loop, whatever else happens in it.
                while not upstream.writer.transport.is_closing():
                    upstream.writer.write(CHUNK)
                    await asyncio.sleep(0)
                await until(lambda: not rig.app.edge.under_way)
            assert rig.count("wholestream_incomplete_chunks_total") == 0

    on(loop, work())


@on_both_loops
def test_the_upstream_is_let_go_while_it_is_silent(loop: str) -> None:
    """Nothing has to come for the flow to end."""

    async def work() -> None:
        async with rigged() as rig, rig.calling() as (client, upstream):
            await upstream.steady(*OPENERS)
            await client.leave()
            async with asyncio.timeout(SOON_S):
                await upstream.left()

    on(loop, work())


# --- the connection afterwards ---


@on_both_loops
def test_a_connection_that_is_used_again_has_nothing_of_the_flow_before(loop: str) -> None:
    """Neither its sink nor its lane; and the next answer flows as the first one did."""

    async def work() -> None:
        async with rigged() as rig, rig.calling() as (client, upstream):
            for _ in range(3):
                await upstream.steady(*OPENERS)
                rig.parsed.clear()
                await upstream.reads(CHUNK)
                taken(rig)
                await upstream.reads(*ENDING)
                reply = await heard(client)
                assert (reply.body, reply.end) == (
                    sse(*OPENERS) + SAID + sse(STOP) + DONE,
                    "clean",
                )
                wire = upstream.wire
                assert (wire.idle, wire.sink) == (True, None)
                assert "data_received" not in vars(wire)
                await client.ask(CHAT, asking("m"))
                await upstream.again()

    on(loop, work())


@on_both_loops
def test_an_answer_without_chunks_may_follow_on_the_same_connection(loop: str) -> None:
    """Nothing that was known of the chunks before is believed of it."""

    async def work() -> None:
        async with rigged() as rig, rig.calling() as (client, upstream):
            await upstream.steady(*OPENERS)
            await upstream.reads(CHUNK, *ENDING)
            await heard(client)
            await client.ask(CHAT, asking("m"))
            await upstream.again()
            # As chunks these would be two events, and as events they are none.
            lookalikes = [b": a\r\n", CHUNK, CHUNK, b"\n\n"]
            events = [sse(HI), sse(HI), *lookalikes, SAID, sse(STOP) + DONE]
            await upstream.begin(("Content-Length", str(len(b"".join(events)))))
            await upstream.reads(events[0])
            await until(lambda: upstream.wire.sink is not None)
            rig.parsed.clear()
            await upstream.reads(*events[1:])
            assert rig.parsed == events[1:]
            reply = await heard(client)
            assert CHUNK not in reply.body
            assert reply.end == "clean"

    on(loop, work())


@on_both_loops
@pytest.mark.parametrize("unasked", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", CHUNK])
def test_what_comes_in_one_read_with_the_end_is_no_answer_to_anything(
    loop: str, unasked: bytes
) -> None:
    """The connection is given up, and the answer before was whole."""

    async def work() -> None:
        async with rigged() as rig, rig.calling() as (client, upstream):
            await upstream.steady(*OPENERS)
            await upstream.reads(CHUNK, *ENDING[:2], LAST + unasked)
            reply = await heard(client)
            assert (reply.body, reply.end) == (sse(*OPENERS) + SAID + sse(STOP) + DONE, "clean")
            await client.ask(CHAT, asking("m"))
            another = await rig.asked()
            await another.steady(*OPENERS)
            await another.reads(*ENDING)
            assert (await heard(client)).body == sse(*OPENERS, STOP) + DONE

    on(loop, work())


# --- bugs ---

BUGS: dict[str, tuple[Any, str, bytes]] = {
    "in what is asked of each read": (shortcut, "is_clean", RAW),
    "in reading a read": (StreamSession, "receive_data", http(b": keepalive\n\n")),
    "in asking for the shortcut": (StreamSession, "shortcut", http(b": keepalive\n\n")),
}


@on_both_loops
@pytest.mark.parametrize("where", BUGS)
def test_a_bug_ends_the_stream_honestly(
    loop: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged with its traceback, the client is told, and the upstream is not blamed."""
    holder, name, piece = BUGS[where]

    async def work() -> None:
        async with rigged() as rig, rig.calling() as (client, upstream):
            await upstream.steady(*OPENERS)
            with mock.patch.object(holder, name, side_effect=LookupError("a bug")):
                await upstream.reads(piece)
                reply = await heard(client)
            assert reply.body.startswith(sse(*OPENERS) + b'data: {"error":')
            assert b"The proxy failed by a bug of its own" in reply.payloads[-1]
            assert reply.end == "clean"
            async with asyncio.timeout(SOON_S):
                await upstream.left()
            assert rig.count("wholestream_incomplete_chunks_total") == 0

    on(loop, work())
    bugs = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in bugs] == ["bug"]
    assert bugs[0].exc_info is not None
    assert bugs[0].exc_info[0] is LookupError


async def test_nothing_passes_behind_a_bug() -> None:
    """What the read had in which it happened is lost, and no hole must be hidden."""
    complaints = listen(asyncio.get_running_loop())
    async with rigged() as rig, rig.calling() as (client, upstream):
        await upstream.steady(*OPENERS)
        wire: Any = upstream.wire
        with mock.patch.object(StreamSession, "receive_data", side_effect=LookupError("a bug")):
            for piece in (http(b": keepalive\n\n"), CHUNK):  # two reads in one turn of the loop
                wire.data_received(piece)
            reply = await heard(client)
        assert SAID not in reply.body
    assert not complaints


# --- what is counted ---

COUNTED = {
    "reads of one event": [CHUNK] * 5,
    "reads of two events": [CHUNK * 2] * 3,
    "a comment": [CHUNK, http(b": keepalive\n\n"), CHUNK],
    "half events": [CHUNK, CHUNK[:40], CHUNK[40:], CHUNK],
    "nothing more": [],
}


@on_both_loops
@pytest.mark.parametrize("pieces", COUNTED.values(), ids=COUNTED)
def test_gaps_and_writes_are_counted_as_where_every_read_is_parsed(
    loop: str, pieces: list[bytes]
) -> None:
    """One gap for each read with events but the first, one overhead for each write."""
    gap, chunks = "wholestream_event_gap_seconds", "time_per_output_chunk_seconds"
    names = (gap, f"gen_ai_client_operation_{chunks}", "wholestream_first_event_seconds")

    async def counted() -> list[float]:
        async with rigged() as rig, rig.calling() as (client, upstream):
            await upstream.steady(*OPENERS)
            await upstream.reads(*pieces, *ENDING[:1], ENDING[1] + LAST)
            await heard(client)
            await until(lambda: not rig.app.edge.under_way)
            overheads = rig.count("wholestream_overhead_seconds_count")
            return [*(rig.count(f"{name}_count") for name in names), overheads]

    async def work() -> None:
        told = await counted()
        with without_lane():
            assert await counted() == told
        reads = sum(SAID[-20:] in piece for piece in pieces)
        opened = len(OPENERS) - 1
        assert told[:3] == [opened + reads + 1, opened + reads + 1, 1]  # [DONE] is none

    on(loop, work())
