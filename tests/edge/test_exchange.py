"""One request under way: when patience is up on either side, and what the client hears."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from multidict import CIMultiDict
from support import HI, ROLE, STOP, ask, sse

from edge.loopback import HOST, made, our_server, raw_server, read_request, talk
from proxy.core.commands import Finish, Open
from proxy.core.fault import Fault
from proxy.core.request import Request
from proxy.edge import Edge
from proxy.exchange import Exchange, exchange_of

ASK = b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
PLAIN = Request("POST", "/chat/completions", b'{"model":"m"}')
SPOKEN = Request("POST", "/audio/transcriptions", None, form={"stream": "true"})
UNSEEN = Request("POST", "/audio/transcriptions", None)
SESSION = Request("GET", "/agents/sessions/s/events")

Scene = Callable[[Exchange], Awaitable[None]]


async def played(request: Request, scene: Scene, **settings: Any) -> bytes:
    """Play a scene with the exchange of a request; return what its client was sent."""
    failures: list[BaseException] = []
    edge = Edge(made(**settings))

    async def handle(client: web.BaseRequest) -> web.StreamResponse:
        x = exchange_of(edge, client, request, {"X-Cors": "1"})
        x.session.begin(x.clocks.now())
        try:
            await scene(x)
        except BaseException as failure:  # noqa: BLE001 - raised again where it is seen
            failures.append(failure)
        return x.down.response or web.Response()

    async with our_server(handle) as port:
        answer = await talk(port, ASK)
    await edge.close()
    for failure in failures:
        raise failure
    return answer


# --- when patience is up --------------------------------------------------------------------


async def test_a_request_for_no_stream_may_take_as_long_as_it_takes() -> None:
    """Until a stream is what it is answered with."""

    async def scene(x: Exchange) -> None:
        assert (x.limit(), x.due()) == (math.inf, math.inf)
        x.is_stream()
        assert x.limit() == x.clocks.upstream_limit(begun=False)
        assert x.due() == x.clocks.client_due(None)

    await played(PLAIN, scene)


async def test_a_stream_has_a_limit_for_its_first_event_and_for_each_silence() -> None:
    """Once its answer is finished, but for its end mark, that is soon."""

    async def scene(x: Exchange) -> None:
        assert x.limit() == x.clocks.upstream_limit(begun=False)
        x.session.receive_head()
        x.session.receive_data(sse(ROLE, HI))
        assert x.limit() == x.clocks.upstream_limit(begun=True)
        x.session.receive_data(sse(STOP))
        assert x.limit() == x.clocks.upstream_limit(begun=True, finished=True)
        assert x.limit() < x.clocks.now() + 3 < x.clocks.upstream_limit(begun=True)

    await played(ask(), scene)


async def test_statistics_that_were_asked_for_are_waited_for() -> None:
    """Until they come; then what is left is an end mark."""

    async def scene(x: Exchange) -> None:
        x.session.receive_head()
        x.session.receive_data(sse(ROLE, HI, STOP))
        owed = x.clocks.upstream_limit(begun=True, finished=True, owed=True)
        assert x.limit() == owed > x.clocks.upstream_limit(begun=True, finished=True)
        x.session.receive_data(sse({**HI, "choices": [], "usage": {"total_tokens": 3}}))
        assert x.limit() == x.clocks.upstream_limit(begun=True, finished=True)

    await played(ask(stream_options={"include_usage": True}), scene)


async def test_an_upload_has_no_limit_before_it_is_sent() -> None:
    """Then the time of the answer begins, and once it has begun it is not begun again."""

    async def scene(x: Exchange) -> None:
        assert (x.limit(), x.due()) == (math.inf, math.inf)
        begun = x.clocks.now()
        await asyncio.sleep(0.01)
        x.body_was_sent()
        assert x.limit() > begun + x.edge.settings.first_event_timeout_s
        assert x.due() > begun + x.edge.settings.commit_after_s
        limit, due = x.limit(), x.due()
        await asyncio.sleep(0.01)
        x.body_was_sent()
        assert (x.limit(), x.due()) == (limit, due)

    await played(SPOKEN, scene)


async def test_an_upload_of_which_nothing_is_known_has_none_at_all() -> None:
    """Not even once it is sent: what is asked for is seen by the answer."""

    async def scene(x: Exchange) -> None:
        x.body_was_sent()
        assert (x.limit(), x.due()) == (math.inf, math.inf)

    await played(UNSEEN, scene)


async def test_a_stream_without_an_end_may_be_silent_once_it_is_answered() -> None:
    """Before that it is as late as any other."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with raw_server(play) as port:

        async def scene(x: Exchange) -> None:
            assert x.limit() == x.clocks.upstream_limit(begun=False)
            x.answer = await x.edge.upstreams[""].open("GET", "/x", CIMultiDict(), None)
            assert x.limit() == math.inf
            assert x.due() == x.clocks.client_due(None)
            x.answer.close()

        await played(SESSION, scene, upstream=f"http://{HOST}:{port}")


async def test_nothing_is_due_while_events_are_gathered() -> None:
    """There is no body yet that a heartbeat could stand in."""

    async def scene(x: Exchange) -> None:
        x.is_stream()
        x.down.collect(x.session.fold)
        assert x.due() == math.inf
        assert x.limit() < math.inf

    await played(PLAIN, scene)


# --- what the client hears ------------------------------------------------------------------


async def test_a_tick_opens_the_stream_and_further_ones_are_heartbeats() -> None:
    """The openers held until then go out with the headers."""

    async def scene(x: Exchange) -> None:
        x.session.receive_head()
        assert x.session.receive_data(sse(ROLE)) == b""
        await x.tick()
        assert x.due() == x.clocks.client_due(x.down.last_write)
        await x.tick()
        await x.down.end()

    head, _, body = (await played(ask(), scene)).partition(b"\r\n\r\n")
    assert b"\r\nX-Cors: 1" in head
    assert b"text/event-stream" in head
    opener = sse(ROLE)
    assert body == b"%x\r\n%b\r\nd\r\n: heartbeat\n\n\r\n0\r\n\r\n" % (len(opener), opener)


async def test_patience_ticks_while_it_waits_and_ends_at_the_limit() -> None:
    """The client hears of it as often as is due."""

    async def scene(x: Exchange) -> None:
        with pytest.raises(TimeoutError):
            await x.patiently(asyncio.sleep(9), x.limit)
        await x.down.end()

    settings = {"first_event_timeout_s": 0.3, "commit_after_s": 0.01, "heartbeat_s": 0.01}
    assert (await played(ask(), scene, **settings)).count(b": heartbeat\n\n") > 1


async def test_patience_with_an_upload_begins_when_it_is_sent() -> None:
    """It is told of that while it waits."""

    async def scene(x: Exchange) -> None:
        waiting = asyncio.ensure_future(x.patiently(asyncio.sleep(9), x.limit))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        x.body_was_sent()
        with pytest.raises(TimeoutError):
            await waiting

    settings = {"first_event_timeout_s": 0.05, "commit_after_s": 9}
    assert await played(SPOKEN, scene, **settings)


# --- the end of an attempt ------------------------------------------------------------------


async def test_what_broke_is_noted_and_what_follows_is_the_session_s_to_say() -> None:
    """One incident as soon as it is known what became of it."""

    async def scene(x: Exchange) -> None:
        command = x.end(Fault.RESET, detail="it is gone")
        assert isinstance(command, Open)
        assert x.broken
        x.session.receive_head()
        x.session.receive_data(sse(ROLE, HI, STOP, "[DONE]"))
        assert x.session.settled
        assert isinstance(x.end(None), Finish)
        assert not x.broken

    await played(ask(), scene)


async def test_a_stream_is_counted_in_once() -> None:
    """However often it is seen that it is one."""

    async def scene(x: Exchange) -> None:
        x.is_stream()
        x.is_stream()
        [metric] = x.edge.metrics.in_flight.collect()
        assert metric.samples[0].value == 1
        x.record.end(200)
        [metric] = x.edge.metrics.in_flight.collect()
        assert metric.samples[0].value == 0

    await played(PLAIN, scene)


async def test_what_is_to_be_one_object_is_held_to_its_end() -> None:
    """So that an attempt that breaks leaves no trace; a stream that was asked for is given."""

    async def scene(x: Exchange) -> None:
        x.session.receive_head()
        given = x.session.receive_data(sse(ROLE, HI))
        assert bool(given) is x.request.asks_stream

    for request in (PLAIN, ask()):
        await played(request, scene, quirks={"aggregate": True})
