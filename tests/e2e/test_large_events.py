"""Images in one event of megabytes: they pass in one piece, and memory stays bounded."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from pathlib import Path

import pytest

from e2e.child import Proxy, idle
from e2e.conftest import Starter
from e2e.doors import DOORS, Door
from e2e.stage import CHUNKED, EVENT_STREAM, Exchange, Stage
from e2e.wire import check_complete, check_failed, connected
from proxy.demo.answers import EVENT_STREAM as EVENTS_TYPE
from proxy.demo.answers import Answer, Piece, reply, sse
from proxy.demo.bodies_media import images, picture
from proxy.demo.shapes import TEXT, event, words
from proxy.demo.upstream import MisbehavingUpstream

IMAGE = 6 * 2**20
EVENT = 8 * 2**20
"""What an image of that size is in base64: a picture of 1536 by 1024 in PNG has about 3 MB."""

TOO_LARGE = 13 * 2**20
"""More than 17 MiB in base64, where an event may have 16."""

WRITE = 16 * 2**10

EVENTS = 100 * 2**20
"""Of events that gzip makes a thousandth of."""

GZIP = ("Content-Encoding", "gzip")

MOST = 8 * EVENT
"""By so much the proxy's memory may grow for one stream of such events.

While an event is not whole its reads are kept. Joined, read, written in its canonical form and
framed as a chunk it is a copy each, of which the kernel takes its time, while the next one comes
in. Measured: 5 to 6 times the event, whatever the number of events.
"""


def events_of(door: Door, model: str, size: int = IMAGE) -> list[bytes]:
    """Return two unfinished pictures and the finished one."""
    stream = images(door.asked(model), 1, TEXT, words, size)
    return [*stream.content[:2], *stream.closing]


def in_writes(body: bytes) -> list[Piece]:
    """Cut a body into writes that know nothing of events."""
    return [body[at : at + WRITE] for at in range(0, len(body), WRITE)]


def peak_bytes(proxy: Proxy) -> int:
    """Return the most memory that the proxy ever had, of physical memory."""
    status = Path(f"/proc/{proxy.pid}/status").read_text("ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


async def warmed(alone: Starter, upstream_url: str, door: Door) -> tuple[Proxy, int]:
    """Start a proxy, have it serve something small, and return its memory then."""
    proxy = await alone(upstream_url)
    await door.ask(proxy.port, "warm", headers=[("x-stage", "warm")])
    return proxy, peak_bytes(proxy)


@pytest.mark.parametrize("name", ["images", "edits, file first"])
async def test_images_of_megabytes_pass_in_one_piece_and_in_bounded_memory(
    alone: Starter, upstream: MisbehavingUpstream, name: str
) -> None:
    """Three events of 8 MiB in writes of 16 KiB: byte for byte, an event a chunk."""
    door, model = DOORS[name], f"large-{name}"
    events = events_of(door, model)
    assert all(EVENT < len(event) < EVENT + 1000 for event in events)
    upstream.script("warm", sse(*events_of(door, "warm", 0)))
    upstream.script(model, sse(*in_writes(b"".join(events))))
    proxy, before = await warmed(alone, upstream.base_url, door)
    reply = await door.ask(proxy.port, model)
    check_complete(reply, "images")
    assert reply.chunks == events
    assert peak_bytes(proxy) - before < MOST
    counted = await idle(proxy)
    assert counted.streams == {("images", "complete"): 2.0}
    assert counted.incidents == {}
    assert counted.labelled("wholestream_repairs_total", "repair") == {}


async def test_a_client_that_does_not_read_its_images_costs_no_more(
    alone: Starter, stage: Stage
) -> None:
    """The upstream is held up: the proxy has what it had read, an event or two."""
    door = DOORS["images"]
    events = events_of(door, "held")
    sent = 0

    async def small(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        await exchange.chunk(b"".join(events_of(door, "warm", 0)))
        await exchange.chunk(b"")

    async def large(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.body()
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        exchange.writer.transport.set_write_buffer_limits(high=0)
        for piece in in_writes(b"".join(events)):
            assert isinstance(piece, bytes)
            await exchange.chunk(piece)
            sent += len(piece)
        await exchange.chunk(b"")

    stage.plays("warm", small)
    proxy, before = await warmed(alone, stage.base_url, door)
    kind, body = door.body("held")
    async with connected(proxy.port) as wire:
        wire.read_no_more()
        await wire.ask(
            door.target, body, headers=[*kind, stage.plays("images that are not read", large)]
        )
        last = -1
        while sent > last:  # until nothing moves any more
            last = sent
            await asyncio.sleep(0.5)
        wire.read_on()
        reply = await wire.rest(await wire.head())
    check_complete(reply, "images")
    assert reply.body == b"".join(events)
    assert peak_bytes(proxy) - before < MOST


@pytest.mark.parametrize("name", ["images", "edits, fields first"])
async def test_an_event_over_the_cap_is_an_honest_error(
    alone: Starter, upstream: MisbehavingUpstream, name: str
) -> None:
    """A real status where nothing was given, one error event after exact ones; memory bounded."""
    door = DOORS[name]
    first, late = f"over-first-{name}", f"over-late-{name}"
    [large, *_] = events_of(door, first, TOO_LARGE)
    assert len(large) > 17 * 2**20
    [small, *_] = events_of(door, late, 0)
    upstream.script("warm", sse(*events_of(door, "warm", 0)))
    upstream.script(first, sse(*in_writes(large)))
    upstream.script(late, sse(small, *in_writes(large)))
    proxy, before = await warmed(alone, upstream.base_url, door)
    refused = await door.ask(proxy.port, first)
    assert (refused.status, refused.error["code"]) == (502, "stream_incomplete")
    assert "max_event_bytes" in refused.error["message"]
    told = await door.ask(proxy.port, late)
    error = check_failed(told, "images")
    assert error["code"] == "stream_incomplete"
    assert "max_event_bytes" in error["message"]
    assert told.body.startswith(small)
    assert len(told.events) == 2
    assert peak_bytes(proxy) - before < MOST
    incidents = (await idle(proxy)).incidents
    assert incidents.pop(("oversize_event", "mid_content", "surfaced")) == 1.0
    assert incidents.pop(("oversize_event", "before_content", "surfaced")) == 1.0
    assert set(incidents) <= {("oversize_event", "before_content", "restarted")}


async def test_a_small_read_that_decodes_to_hundreds_of_megabytes_costs_no_more(
    alone: Starter, upstream: MisbehavingUpstream
) -> None:
    """It is decoded piece by piece, each of which is written before the next."""
    door, model = DOORS["chat"], "large-squeezed"
    events = door.stream(model).events
    chunk = json.loads(events[3].removeprefix(b"data: "))
    chunk["choices"][0]["delta"]["content"] = "x" * WRITE
    body = b"".join([*events[:3], *[event(chunk)] * (EVENTS // WRITE), *events[3:]])
    squeezed = gzip.compress(body)
    assert len(squeezed) < 2**20
    upstream.script("warm", sse(*door.stream("warm").events))
    upstream.script(model, Answer(headers=(*EVENTS_TYPE, GZIP), pieces=(squeezed,)))
    proxy, before = await warmed(alone, upstream.base_url, door)
    got = await door.ask(proxy.port, model)
    check_complete(got)
    assert got.body == body
    assert peak_bytes(proxy) - before < MOST


async def test_an_image_in_one_object_becomes_one_event_or_an_honest_error(
    alone: Starter, upstream: MisbehavingUpstream
) -> None:
    """An object of 8 MiB is an event of as much, in bounded memory; over the cap it is none."""
    door = DOORS["images"]
    upstream.script("warm", sse(*events_of(door, "warm", 0)))
    for model, size in (("object", IMAGE), ("object-over", TOO_LARGE)):
        made = {"created": 7, "data": [{"b64_json": picture(TEXT, size)}]}
        upstream.script(model, reply(200, made))
    proxy, before = await warmed(alone, upstream.base_url, door)
    got = await door.ask(proxy.port, "object")
    check_complete(got, "images")
    [(name, data)] = got.events
    assert name == b"image_generation.completed"
    assert json.loads(data)["b64_json"] == picture(TEXT, IMAGE)
    refused = await door.ask(proxy.port, "object-over")
    assert (refused.status, refused.error["code"]) == (502, "stream_incomplete")
    assert "max_event_bytes" in refused.error["message"]
    assert peak_bytes(proxy) - before < MOST
