"""Catalogue: answers that are compressed, call themselves something else, or have another form."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable

import pytest

from e2e.child import QUICK, Metrics, Proxy, eventually, idle
from e2e.conftest import Starter
from e2e.wire import PATHS, Reply, call, check_complete, check_failed, stream
from proxy.demo.answers import EVENT_STREAM, JSON, Answer, Asked, End, Headers, reply, sse
from proxy.demo.bodies import TEXT, json_for, stream_for
from proxy.demo.upstream import MisbehavingUpstream

FOLDED = ["chat_completions", "completions", "responses"]
CODINGS = {
    "gzip": (31, (("Content-Encoding", "gzip"),)),
    "deflate": (15, (("Content-Encoding", "deflate"),)),
    "gzip, unsaid": (31, ()),
}
TYPES: dict[str, Headers] = {
    "none": (),
    "text": (("Content-Type", "text/plain; charset=utf-8"),),
    "bytes": (("Content-Type", "application/octet-stream"),),
    "JSON": JSON,
}


def events_of(model: str, endpoint: str = "chat_completions") -> tuple[bytes, ...]:
    """Return the events of a whole answer."""
    return stream_for(Asked(endpoint, model), 1).events


def squeezed(events: Iterable[bytes], bits: int, *, end: bool = True) -> tuple[bytes, ...]:
    """Compress events, each flushed; without its ``end`` the last block and checksum lack."""
    packer = zlib.compressobj(wbits=bits)
    pieces = [packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH) for event in events]
    return (*pieces, packer.flush()) if end else tuple(pieces)


async def counted(proxy: Proxy, before: Metrics, repairs: dict[str, float]) -> Metrics:
    """Wait until a stream and its repairs are counted, and nothing else is."""

    async def check() -> Metrics:
        after = (await idle(proxy)).since(before)
        found = after.labelled("wholestream_repairs_total", "repair")
        assert {name: count for (name,), count in found.items()} == repairs
        return after

    return await eventually(check)


# --- compressed although nobody asked for it ------------------------------------------------


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_compressed_stream_is_decoded(
    proxy: Proxy, upstream: MisbehavingUpstream, coding: str
) -> None:
    """Whether it says so or not, and the client is not told of it."""
    bits, said = CODINGS[coding]
    model = f"squeezed-{coding}"
    upstream.script(
        model, Answer(headers=(*EVENT_STREAM, *said), pieces=squeezed(events_of(model), bits))
    )
    before = await idle(proxy)
    got = await stream(proxy.port, model)
    check_complete(got)
    assert got.body == b"".join(events_of(model))
    after = await counted(proxy, before, {"decoded_body": 1.0})
    assert after.incidents == {}
    [request] = [request for request in upstream.requests if request.model == model]
    assert ("accept-encoding", "identity") in [(k.lower(), v) for k, v in request.headers]


async def test_a_stream_that_is_said_not_to_be_compressed_is_not(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """Identity is a coding as well, and the first bytes of gzip may stand in a text."""
    model = "identity-\x1f\x8b"
    said = (*EVENT_STREAM, ("Content-Encoding", "identity"))
    upstream.script(model, Answer(headers=said, pieces=events_of(model)))
    before = await idle(proxy)
    got = await stream(proxy.port, model)
    check_complete(got)
    assert got.body == b"".join(events_of(model))
    await counted(proxy, before, {})


@pytest.mark.parametrize("end", ["clean", "fin"])
@pytest.mark.parametrize("half", [False, True])
async def test_a_compressed_stream_that_is_cut_is_an_honest_error(
    proxy: Proxy,
    upstream: MisbehavingUpstream,
    end: End,
    half: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """What came out of it is given, no half event, and then the error."""
    model = f"squeezed-cut-{end}-{half}"
    events = events_of(model)[:5]
    pieces = squeezed((*events, b'data: {"half":') if half else events, 31, end=False)
    said = (*EVENT_STREAM, ("Content-Encoding", "gzip"))
    upstream.script(model, Answer(headers=said, pieces=pieces, end=end))
    before = await idle(proxy)
    got = await stream(proxy.port, model)
    check_failed(got)
    assert got.body.startswith(b"".join(events))
    assert len(got.events) == len(events) + 1
    after = await counted(proxy, before, {"decoded_body": 1.0})
    whole = "clean_eof" if end == "clean" else "cut_between_events"
    fault = "cut_mid_event" if half else whole
    assert after.incidents == {(fault, "mid_content", "surfaced"): 1.0}


async def test_a_compressed_stream_without_its_checksum_is_whole_where_its_answer_is(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """What says that an answer is whole is the answer."""
    model = "squeezed-unsummed"
    said = (*EVENT_STREAM, ("Content-Encoding", "gzip"))
    upstream.script(model, Answer(headers=said, pieces=squeezed(events_of(model), 31, end=False)))
    before = await idle(proxy)
    got = await stream(proxy.port, model)
    check_complete(got)
    assert got.body == b"".join(events_of(model))
    after = await counted(proxy, before, {"decoded_body": 1.0})
    assert after.incidents == {}


# --- content types --------------------------------------------------------------------------


@pytest.mark.parametrize("name", TYPES)
async def test_a_stream_that_calls_itself_something_else_is_one(
    proxy: Proxy, upstream: MisbehavingUpstream, name: str
) -> None:
    """The client sees the right type, and every byte."""
    model = f"type-{name}"
    upstream.script(model, Answer(headers=TYPES[name], pieces=events_of(model)))
    before = await idle(proxy)
    got = await stream(proxy.port, model)
    check_complete(got)
    assert got.body == b"".join(events_of(model))
    await counted(proxy, before, {"set_content_type": 1.0})


@pytest.mark.parametrize("said", ["text/event-stream", 'Text/Event-Stream;Charset="UTF-8"'])
async def test_a_type_in_another_spelling_is_the_right_one(
    proxy: Proxy, upstream: MisbehavingUpstream, said: str
) -> None:
    """Nothing is counted."""
    model = f"spelling-{len(said)}"
    upstream.script(model, Answer(headers=(("Content-Type", said),), pieces=events_of(model)))
    before = await idle(proxy)
    check_complete(await stream(proxy.port, model))
    await counted(proxy, before, {})


# --- one object for a stream, a stream for one object ---------------------------------------


def _asked(endpoint: str, model: str) -> bytes:
    extra = {"store": False} if endpoint == "responses" else {}
    return json.dumps({"model": model, **extra}).encode()


async def _ask(proxy: Proxy, endpoint: str, model: str) -> Reply:
    return await call(proxy.port, PATHS[endpoint], _asked(endpoint, model))


@pytest.mark.parametrize("endpoint", FOLDED)
async def test_one_object_for_a_stream_is_told_in_events(
    proxy: Proxy, upstream: MisbehavingUpstream, endpoint: str
) -> None:
    """All of its text, and the right ending; the length of the object is not told."""
    model = f"object-{endpoint}"
    upstream.script(model, reply(200, json_for(Asked(endpoint, model), 1)))
    before = await idle(proxy)
    got = await stream(proxy.port, model, endpoint)
    check_complete(got, endpoint)
    assert TEXT.encode() in got.body
    await counted(proxy, before, {"json_to_sse": 1.0})


@pytest.mark.parametrize("endpoint", FOLDED)
async def test_events_for_a_request_of_none_become_one_object(
    started: Starter, upstream: MisbehavingUpstream, endpoint: str
) -> None:
    """Where that is asked for: a JSON body with its length, and the whole text in it."""
    proxy = await started(upstream.base_url, *QUICK, "--quirks-aggregate", "true")
    model = f"folded-{endpoint}"
    upstream.script(model, sse(*events_of(model, endpoint)))
    before = await idle(proxy)
    got = await _ask(proxy, endpoint, model)
    assert got.header("content-type") == "application/json"
    assert TEXT in json.dumps(got.json)
    assert got.json["object"] == json_for(Asked(endpoint, model, stream=False), 1)["object"]
    await counted(proxy, before, {"sse_to_json": 1.0})


@pytest.mark.parametrize("endpoint", FOLDED)
async def test_each_form_passes_where_it_was_asked_for(
    started: Starter, upstream: MisbehavingUpstream, endpoint: str
) -> None:
    """An object for none, byte for byte, and events for a stream, though they might be folded."""
    proxy = await started(upstream.base_url, *QUICK, "--quirks-aggregate", "true")
    model = f"unfolded-{endpoint}"
    told = reply(200, json_for(Asked(endpoint, model, stream=False), 1))
    upstream.script(
        model, lambda asked, _: sse(*events_of(model, endpoint)) if asked.stream else told
    )
    before = await idle(proxy)
    assert (await _ask(proxy, endpoint, model)).body == told.pieces[0]
    got = await stream(proxy.port, model, endpoint)
    check_complete(got, endpoint)
    assert got.body == b"".join(events_of(model, endpoint))
    await counted(proxy, before, {})


async def test_events_that_nobody_asked_for_pass_as_they_are(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """By default what the upstream answers is the answer."""
    upstream.script("unasked", sse(*events_of("unasked")))
    before = await idle(proxy)
    got = await _ask(proxy, "chat_completions", "unasked")
    check_complete(got)
    assert got.body == b"".join(events_of("unasked"))
    await counted(proxy, before, {})
