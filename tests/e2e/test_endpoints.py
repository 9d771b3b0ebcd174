"""Every endpoint, at each of its doors: whole answers, errors told inside, and silences.

Cuts are in ``test_cuts_on_the_wire``.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass

import pytest

from e2e.child import Metrics, Proxy, idle
from e2e.conftest import Starter
from e2e.doors import DOORS, Door
from e2e.stage import CHUNKED, EVENT_STREAM, Exchange, Stage
from e2e.wire import HEARTBEAT, Reply, check_complete, check_failed, check_stream_headers, connected
from proxy.demo.answers import Answer, Piece, error_reply, sse
from proxy.demo.bodies import error_event
from proxy.demo.shapes import DONE, event
from proxy.demo.upstream import MisbehavingUpstream
from proxy.demo.wire import Received

DIED = "The worker died."
GIVEN = 3
"""So many events come before an error or a silence."""

SPOKEN = [name for name, door in DOORS.items() if door.endpoint != "other"]
"""Doors whose language is known well enough to tell an error in it."""

UNSPOKEN = [name for name in DOORS if name not in SPOKEN]
UPLOADS = [name for name, door in DOORS.items() if not door.again]
HASTY = (
    *("--first-event-timeout-s", "0.3", "--stall-timeout-s", "0.3"),
    *("--commit-after-s", "0.2", "--heartbeat-s", "0.2", "--connect-timeout-s", "5"),
)


def requests_for(upstream: MisbehavingUpstream, model: str) -> list[Received]:
    """Return what the upstream was asked for a model."""
    return [request for request in upstream.requests if request.model == model]


def model_for(door: Door, case: str) -> str:
    """Name a model that nobody else asks for."""
    return f"{case}-{list(DOORS).index(door.name):02}".replace(" ", "-")


async def counted(proxy: Proxy, before: Metrics) -> Metrics:
    """Return what was counted since, once nothing is under way."""
    return (await idle(proxy)).since(before)


# --- whole ----------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", ["events", "bytes", "one"])
@pytest.mark.parametrize("name", DOORS)
async def test_a_whole_answer_passes_unchanged_and_is_counted_once(
    proxy: Proxy, upstream: MisbehavingUpstream, name: str, pieces: str
) -> None:
    """Byte for byte, in whole events, at once and not repaired, under its endpoint's name."""
    door = DOORS[name]
    model = model_for(door, f"whole-{pieces}")
    events = door.stream(model).events
    body = b"".join(events)
    cut: dict[str, tuple[bytes, ...]] = {
        "events": events,
        "bytes": tuple(body[at : at + 1] for at in range(len(body))),
        "one": (body,),
    }
    upstream.script(model, sse(*cut[pieces]))
    before = await idle(proxy)
    reply = await door.ask(proxy.port, model)
    after = await counted(proxy, before)
    check_complete(reply, door.endpoint)
    assert reply.body == body
    assert reply.header("x-wholestream-attempts") is None
    assert after.streams == {(door.endpoint, "complete"): 1.0}
    assert after.incidents == {}
    assert after.labelled("wholestream_repairs_total", "repair") == {}
    requests = after.labelled("wholestream_requests_total", "endpoint", "code")
    assert requests == {(door.endpoint, "2xx"): 1.0}
    attempts = after.labelled("wholestream_upstream_attempts_total", "endpoint", "reason")
    assert attempts == {(door.endpoint, "first"): 1.0}


@pytest.mark.parametrize("name", DOORS)
async def test_the_upstream_sees_what_was_asked(
    proxy: Proxy, upstream: MisbehavingUpstream, name: str
) -> None:
    """Method, target, type and body byte for byte; and that no compression can be read."""
    door = DOORS[name]
    model = model_for(door, "asked")
    upstream.script(model, sse(*door.stream(model).events))
    kind, body = door.body(model)
    await door.ask(proxy.port, model, headers=[("Accept-Encoding", "br, gzip")])
    [request] = requests_for(upstream, model)
    assert request.header("accept-encoding") == "identity"
    query = f"?model={model}" if door.form == "query" else ""
    assert (request.method, request.target) == (door.method, door.target + query)
    assert request.body == (body or b"")
    for header, value in kind:
        assert request.header(header) == value


# --- errors ---------------------------------------------------------------------------------


def dialects(door: Door, model: str, code: str) -> dict[str, bytes]:
    """Return an error as its endpoint tells it, and as others do."""
    kind = "server_error" if code == "server_error" else "invalid_request_error"
    inner = {"message": DIED, "type": kind, "param": None, "code": code}
    flat = {"type": "error", "code": code, "message": DIED, "param": None}
    return {
        "own": error_event(door.asked(model), code, DIED, kind, GIVEN),
        "nested": event({"error": inner}),
        "flat": event(flat),
        "named": event({"code": code, "message": DIED}, "error"),
        "named and nested": event({"error": inner}, "error"),
        "string": event({"error": DIED}),
        "text": f"data: error: {DIED}\n\n".encode(),
    }


CODELESS = {"string", "text"}


def check_dialect(reply: Reply, door: Door) -> None:
    """Assert that the last event is told in the words of its endpoint."""
    name, data = reply.events[-1]
    told = json.loads(data)
    if door.endpoint == "responses":
        assert name == b"response.failed"
        return
    if door.endpoint in {"images", "audio", "threads"}:
        assert name == (b"error" if door.endpoint == "threads" else b"")
    assert set(told) == {"error"}
    assert {"message", "type", "param", "code"} <= set(told["error"])


@pytest.mark.parametrize("name", SPOKEN)
async def test_an_error_told_after_content_ends_the_stream_in_its_endpoint_s_language(
    proxy: Proxy, upstream: MisbehavingUpstream, name: str
) -> None:
    """However it was told, and whatever follows it: exact events, one error, no success."""
    door, before = DOORS[name], await idle(proxy)

    async def one(dialect: str) -> None:
        model = model_for(door, f"late-{dialect}")
        given = door.stream(model).events[:GIVEN]
        told = dialects(door, model, "server_error")[dialect]
        upstream.script(model, sse(*given, told, *door.stream(model).events[GIVEN:], DONE))
        reply = await door.ask(proxy.port, model)
        error = check_failed(reply, door.endpoint)
        check_dialect(reply, door)
        assert error["message"] == DIED
        assert error["code"] == ("stream_incomplete" if dialect in CODELESS else "server_error")
        assert reply.body.startswith(b"".join(given))
        added = 2 if door.endpoint == "responses" else 1
        assert len(reply.events) - len(given) == added

    names = dialects(door, "m", "server_error")
    await asyncio.gather(*map(one, names))
    after = await counted(proxy, before)
    count = float(len(names))
    assert after.incidents == {("in_stream_error", "mid_content", "surfaced"): count}
    assert after.streams == {(door.endpoint, "failed"): count}
    repairs = after.labelled("wholestream_repairs_total", "repair")
    if door.endpoint == "responses":
        assert repairs == {("added_response_failed",): count}
    else:
        assert repairs == {}


@pytest.mark.parametrize("name", SPOKEN)
async def test_a_lasting_error_told_first_is_a_real_status(
    proxy: Proxy, upstream: MisbehavingUpstream, name: str
) -> None:
    """In any language, at every door, uploads included; and nobody is asked again."""
    door, before = DOORS[name], await idle(proxy)

    async def one(dialect: str) -> None:
        model = model_for(door, f"first-{dialect}")
        told = dialects(door, model, "context_length_exceeded")[dialect]
        upstream.script(model, sse(told, DONE))
        reply = await door.ask(proxy.port, model)
        assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
        assert reply.error["message"] == DIED
        assert reply.header("content-type") == "application/json"
        assert len(requests_for(upstream, model)) == 1

    names = set(dialects(door, "m", "server_error")) - CODELESS
    await asyncio.gather(*map(one, sorted(names)))
    after = await counted(proxy, before)
    count = float(len(names))
    assert after.incidents == {("in_stream_error", "before_content", "surfaced"): count}
    assert after.streams == {(door.endpoint, "failed"): count}


@pytest.mark.parametrize("name", SPOKEN)
async def test_a_passing_error_told_first_is_asked_again_where_nothing_was_done(
    proxy: Proxy, upstream: MisbehavingUpstream, name: str
) -> None:
    """Texts are; an image, a run or an upload may have had its effect, so that is a status."""
    door, before = DOORS[name], await idle(proxy)

    async def one(dialect: str) -> None:
        model = model_for(door, f"passing-{dialect}")
        told = dialects(door, model, "server_error")[dialect]
        upstream.script(model, [sse(told, DONE), sse(*door.stream(model, 2).events)])
        reply = await door.ask(proxy.port, model)
        if door.opens:
            check_complete(reply, door.endpoint)
            assert reply.header("x-wholestream-attempts") == "2"
            return
        code = "stream_incomplete" if dialect in CODELESS else "server_error"
        assert (reply.status, reply.error["code"]) == (502, code)
        assert reply.error["message"] == DIED
        assert reply.header("x-should-retry") == "false"

    names = dialects(door, "m", "server_error")
    await asyncio.gather(*map(one, names))
    after = await counted(proxy, before)
    became, outcome = ("restarted", "recovered") if door.opens else ("surfaced", "failed")
    assert after.incidents == {("in_stream_error", "before_content", became): float(len(names))}
    assert after.streams == {(door.endpoint, outcome): float(len(names))}


@pytest.mark.parametrize("name", UNSPOKEN)
async def test_errors_in_a_language_that_is_not_known_are_the_client_s_to_read(
    proxy: Proxy, upstream: MisbehavingUpstream, name: str
) -> None:
    """They pass as any event does, and what follows them as well."""
    door = DOORS[name]
    for dialect in ("own", "nested", "flat", "string", "named"):
        model = model_for(door, f"unspoken-{dialect}")
        events = door.stream(model).events
        told = dialects(door, model, "server_error")[dialect]
        pieces = (*events[:GIVEN], told, *events[GIVEN:])
        upstream.script(model, sse(*pieces))
        before = await idle(proxy)
        reply = await door.ask(proxy.port, model)
        after = await counted(proxy, before)
        check_stream_headers(reply)
        assert (reply.body, reply.end) == (b"".join(pieces), "clean")
        assert after.streams == {("other", "complete"): 1.0}
        assert after.incidents == {}


@pytest.mark.parametrize("name", DOORS)
async def test_an_http_error_is_passed_as_it_is(
    proxy: Proxy, upstream: MisbehavingUpstream, name: str
) -> None:
    """Status, body and headers of an upstream that refuses, after one attempt."""
    door = DOORS[name]
    model = model_for(door, "refused")
    answer = error_reply(403, "permission_denied", "Not yours.", (("x-request-id", "req_7"),))
    upstream.script(model, answer)
    reply = await door.ask(proxy.port, model)
    assert (reply.status, [reply.body]) == (403, list(answer.pieces))
    assert reply.header("x-request-id") == "req_7"
    assert len(requests_for(upstream, model)) == 1


# --- silences -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Silence:
    """An answer that stops, how far the client gets with it, and what is counted."""

    answer: Answer
    status: int
    incidents: tuple[tuple[str, str, str], ...]


def _silence(door: Door, model: str, where: str) -> Silence:
    pieces: tuple[Piece, ...] = ()
    if where == "in the middle":
        pieces = door.stream(model).events[:GIVEN]
        fault, phase, times, status = "stall", "mid_content", 1, 200
    elif where == "inside an event":
        whole = door.stream(model).events
        pieces = (*whole[:GIVEN], whole[GIVEN][:20])
        fault, phase, times, status = "stall", "mid_content", 1, 200
    else:
        headers = where == "before the headers"
        phase = "before_headers" if headers else "before_content"
        fault, times, status = "first_event_timeout", 3 if door.again else 1, 504
    answer = Answer(status=0 if where == "before the headers" else 200, pieces=pieces, end="hold")
    outcomes = ["restarted"] * (times - 1) + ["surfaced"]
    return Silence(answer, status, tuple((fault, phase, outcome) for outcome in outcomes))


@pytest.mark.parametrize(
    "where", ["before the headers", "before the first event", "in the middle", "inside an event"]
)
async def test_a_silence_is_a_fault_at_every_door(
    proxy: Proxy, upstream: MisbehavingUpstream, where: str
) -> None:
    """A real status before anything was given, the endpoint's error after it; counted once."""
    # Who sends its file first may want anything: nobody knows yet that it is a stream. The events
    # of a session may be silent for ever, once there is an answer.
    patient = {"before the headers": "file first"}.get(where, "query")
    doors = [door for door in DOORS.values() if door.form != patient]
    expected = Counter[tuple[str, ...]]()
    before = await idle(proxy)

    async def one(door: Door) -> None:
        mine = model_for(door, f"silent {where}")
        silence = _silence(door, mine, where)
        expected.update(silence.incidents)
        upstream.script(mine, silence.answer)
        reply = await door.ask(proxy.port, mine)
        assert reply.status == silence.status, (door.name, reply)
        if silence.status == 200:
            error = check_failed(reply, door.endpoint)
            assert error["code"] == "stream_incomplete"
            assert reply.body.startswith(b"".join(door.stream(mine).events[:GIVEN]))
        else:
            assert reply.error["code"] == "upstream_timeout"
            assert len(requests_for(upstream, mine)) == len(silence.incidents)

    await asyncio.gather(*map(one, doors))
    after = await counted(proxy, before)
    assert after.incidents == expected
    assert after.total("wholestream_streams_total", outcome="failed") == len(doors)


@pytest.mark.parametrize("where", ["before the first event", "in the middle"])
async def test_a_session_without_news_is_not_a_stalled_one(
    started: Starter, stage: Stage, where: str
) -> None:
    """Events of a session come when there are any: no timeout applies, heartbeats fill the time."""
    proxy = await started(stage.base_url, *HASTY)
    door = DOORS["agents, events"]
    events = door.stream("m").events
    at = {"before the first event": 0, "in the middle": GIVEN}[where]
    heard = asyncio.Event()

    async def play(exchange: Exchange) -> None:
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        for number, one in enumerate(events):
            if number == at:
                await heard.wait()
            await exchange.chunk(one)
        await exchange.chunk(b"")

    staged = stage.plays(f"no news {where}", play)
    before = await idle(proxy)
    async with connected(proxy.port) as wire:
        await wire.ask(door.target, method="GET", headers=[staged])
        reply = await wire.head()
        beats = 0
        while beats < 5:  # a second, which is three times as long as every timeout
            reply.chunks.append(await wire.chunk())
            beats += reply.chunks[-1] == HEARTBEAT
        heard.set()
        reply = await wire.rest(reply, "GET")
    check_complete(reply, "other")
    assert b"".join(b"data: %b\n\n" % data for data in reply.payloads) == b"".join(events)
    after = await counted(proxy, before)
    assert after.streams == {("other", "complete"): 1.0}
    assert after.incidents == {}


@pytest.mark.parametrize("given", [0, GIVEN])
async def test_a_proper_end_of_a_session_s_events_is_none_of_a_fault(
    proxy: Proxy, upstream: MisbehavingUpstream, given: int
) -> None:
    """Whether anything had happened or not."""
    door, model = DOORS["agents, events"], f"ended-{given}"
    events = door.stream(model).events[:given]
    upstream.script(model, sse(*events))
    before = await idle(proxy)
    reply = await door.ask(proxy.port, model)
    check_complete(reply, "other")
    assert reply.body == b"".join(events)
    after = await counted(proxy, before)
    assert (after.streams, after.incidents) == ({("other", "complete"): 1.0}, {})


@pytest.mark.parametrize("name", [name for name in UPLOADS if "fields" in name])
async def test_time_begins_when_an_upload_is_sent(
    started: Starter, stage: Stage, name: str
) -> None:
    """However long that takes, nothing is due before; then heartbeats are, and then the answer."""
    proxy = await started(stage.base_url, *HASTY, "--first-event-timeout-s", "20")
    door = DOORS[name]
    heard = asyncio.Event()
    events = door.stream("m").events

    async def play(exchange: Exchange) -> bytes:
        body = await exchange.body()
        await heard.wait()
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        await exchange.chunk(b"".join(events))
        await exchange.chunk(b"")
        return body

    kind, body = door.body("m")
    assert body is not None
    staged = stage.plays(f"sent {name}", play)
    async with connected(proxy.port) as wire:
        await wire.ask(door.target, headers=[*kind, staged, ("Content-Length", str(len(body)))])
        for at in range(0, len(body), len(body) // 3):
            await wire.send(body[at : at + len(body) // 3])
            await asyncio.sleep(0.3)  # longer than the time that headers are held back
        reply = await wire.head()
        reply.chunks.append(await wire.chunk())
        assert reply.chunks == [HEARTBEAT]
        heard.set()
        reply = await wire.rest(reply)
    assert await stage.over(f"sent {name}") == body
    check_complete(reply, door.endpoint)
    assert len(reply.payloads) == len(events)
