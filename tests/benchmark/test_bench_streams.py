"""The benchmark's own two ends: what the upstream sends, and what the load makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator

import pytest

from bench import wire
from bench.load import Load, Plan
from bench.processes import free_port
from bench.reading import Call, Tally
from bench.upstream import block, ending, serve

HOST = "127.0.0.1"


@contextlib.asynccontextmanager
async def upstream() -> AsyncIterator[int]:
    """Serve the benchmark's upstream on a free port."""
    port = free_port()
    async with await serve(HOST, port):
        yield port


@contextlib.asynccontextmanager
async def saying(answer: bytes) -> AsyncIterator[int]:
    """Serve one answer to whatever is asked, then close."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(play, HOST, 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("size", [164, 330, 1000, 100_000])
def test_an_event_is_as_large_as_it_was_asked_to_be(size: int) -> None:
    """Cost per byte and per event is told by these sizes."""
    assert len(wire.event(size)) == size


def test_all_that_is_sent_is_what_an_openai_server_sends() -> None:
    """A proxy that validates events must find nothing to mend."""
    for event in (wire.opener(330), wire.event(330), wire.event(200), wire.finish(330)):
        assert event.startswith(b"data: ")
        assert event.endswith(b"}\n\n")
        told = json.loads(event[6:])
        assert told["object"] == "chat.completion.chunk"
        assert {"id", "created", "model"} <= set(told)
        assert told["choices"][0]["index"] == 0
    assert json.loads(wire.finish(330)[6:])["choices"][0]["finish_reason"] == "stop"
    assert json.loads(wire.document())["choices"][0]["finish_reason"] == "stop"


def test_a_model_name_asks_for_what_it_was_made_of() -> None:
    """Proxies pass the body on, so the request tells the upstream what to send."""
    ask = wire.Ask(events=7, rate=2.5, size=400, chunk="read", kind="idle")
    assert wire.Ask.of(ask.model()) == ask
    with pytest.raises(ValueError, match="not a model"):
        wire.Ask.of("gpt-5")


@pytest.mark.parametrize(
    "ask",
    [
        wire.Ask(events=1),
        wire.Ask(events=3000),
        wire.Ask(events=3000, chunk="read"),
        wire.Ask(events=3, size=1_000_000),
        wire.Ask(events=1, rate=100),
        wire.Ask(events=20, rate=1000),
        wire.Ask(events=50, rate=20_000),
        wire.Ask(kind="json"),
    ],
    ids=wire.Ask.model,
)
@pytest.mark.parametrize("concurrency", [0, 2])
async def test_every_stream_is_whole_without_a_proxy(ask: wire.Ask, concurrency: int) -> None:
    """What fails in a benchmark is the system's fault, not that of its two ends."""
    async with upstream() as port:
        told = await Load(Plan(port, ask, 6, starts=500, concurrency=concurrency)).run()
    assert told["failures"] == 0, told["examples"]
    assert told["whole"] == 6
    assert told["events"] == 6 * ask.marks
    latency = told["latency_us"]
    assert isinstance(latency, dict)
    assert bool(latency) == ask.timed


@pytest.mark.parametrize("most", [1, 7, 40, 5000])
def test_a_stream_is_counted_the_same_however_it_is_cut(most: int) -> None:
    """Reads end anywhere, chunks as well: no event is missed, none is counted twice."""
    chance = random.Random(most)  # noqa: S311 - the cuts are no secret
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for ask in (wire.Ask(events=40), wire.Ask(events=40, rate=1)):
        body = block(ask.size, ask.events, "read") + ending(ask.size)
        whole = wire.opener(ask.size) + wire.event(ask.size, 5) * ask.events
        cuts = sorted(chance.sample(range(1, len(whole)), 30))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
        for sent in (head + body, head + b"".join(map(wire.chunk, pieces)) + ending(ask.size)):
            call, at = Call(ask, Tally(), 0), 0
            while at < len(sent):
                assert not call.over
                step = chance.randint(1, most)
                call.feed(sent[at : at + step])
                at += step
            assert (call.over, call.wrong, call.marks) == (True, "", 40)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "503 Busy"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal", "lost"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "0 events of 2"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "lost"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            + wire.chunk(wire.event(330) * 2)
            + b"0\r\n\r\n",
            "no [DONE]",
        ),
    ],
)
async def test_a_stream_that_is_not_whole_is_told(answer: bytes, told: str) -> None:
    """A fast proxy that loses events must not win."""
    async with saying(answer) as port:
        result = await Load(Plan(port, wire.Ask(events=2), 1, concurrency=1)).run()
    assert result["whole"] == 0
    assert told in str(result["examples"])


async def test_a_stream_that_never_ends_is_told() -> None:
    """The deadline is for the whole run."""
    async with upstream() as port:
        plan = Plan(port, wire.Ask(events=1000, rate=1), 2, deadline_s=0.3)
        result = await Load(plan).run()
    assert result["whole"] == 0
    assert "2 were not over" in str(result["examples"])


async def test_a_request_for_something_else_is_refused() -> None:
    """A model that no benchmark asks for is a mistake, and said to be one."""
    async with upstream() as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(wire.post("/v1/chat/completions", HOST, b'{"model": "gpt-5"}'))
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        writer.close()
