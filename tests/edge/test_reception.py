"""One answer of the upstream on its way to the client: read by read, and by what it calls itself.

What comes of whole answers is in ``tests/e2e``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from multidict import CIMultiDict
from support import HI, ROLE, STOP, ask, sse

from edge.loopback import HOST, Pairs, made, our_server, raw_server, read_request, talk
from proxy.core.commands import Finish, Open
from proxy.core.request import Request
from proxy.edge import Edge
from proxy.exchange import exchange_of
from proxy.reception import Next, Reception

ASK = b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
SPOKEN = Request("POST", "/audio/transcriptions", None, form={"stream": "true"})
EVENTS = ("Content-Type", "text/event-stream")


@contextlib.asynccontextmanager
async def turns() -> AsyncIterator[list[int]]:
    """Count how often somebody else has a turn."""
    count = [0]

    async def neighbour() -> None:
        while True:
            count[0] += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(neighbour())
    try:
        yield count
    finally:
        running.cancel()


async def taken(
    request: Request, headers: Pairs, body: bytes, **settings: object
) -> tuple[Next, int, bytes]:
    """Have an answer taken; return what follows, others' turns meanwhile, what the client got."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    found: list[tuple[Next, int]] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(f"HTTP/1.1 200 X\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode())
        writer.write(body)
        await reader.read()

    async with raw_server(play) as port:
        edge = Edge(made(upstream=f"http://{HOST}:{port}", **settings))

        async def handle(client: web.BaseRequest) -> web.StreamResponse:
            x = exchange_of(edge, client, request, {})
            if request.body is None:
                x.body_was_sent()
            command = x.session.begin(x.clocks.now())
            answer = x.answer = await edge.upstreams[""].open("POST", "/x", CIMultiDict(), None)
            async with turns() as count:
                follows = await Reception(x, answer, command).take()
            found.append((follows, count[0]))
            answer.close()
            if isinstance(follows, web.StreamResponse):
                return follows
            last = x.unsent + follows.body
            if last:
                await x.down.open_stream(answer, 1)
            return await x.down.end(last)

        async with our_server(handle) as own:
            given = await talk(own, ASK)
        await edge.close()
    [(follows, count)] = found
    return follows, count, given.partition(b"\r\n\r\n")[2]


# --- a read that decodes to many ------------------------------------------------------------

PIECE = 64 * 1024
MANY = 300


async def test_others_have_their_turn_while_a_small_read_decodes_to_megabytes() -> None:
    """One after each piece, however few the reads were."""
    comments = (b":" + b"x" * 1022 + b"\n") * (MANY * PIECE // 1024)
    body = gzip.compress(comments + b"\n" + sse(ROLE, HI, STOP, "[DONE]"))
    assert len(body) < PIECE, "it is to come in one read"
    told = [EVENTS, ("Content-Encoding", "gzip")]
    follows, count, _ = await taken(ask(), told, body, max_event_bytes=64 * 2**20)
    assert isinstance(follows, Finish)
    assert count >= MANY


async def test_patience_ends_in_the_middle_of_such_a_read() -> None:
    """Comments are no events, however many one read has of them."""
    body = gzip.compress(b":\n\n" * 2**24)
    told = [EVENTS, ("Content-Encoding", "gzip")]
    follows, _, _ = await taken(ask(), told, body, first_event_timeout_s=0.1)
    assert isinstance(follows, Open)


async def test_a_read_that_decodes_to_several_pieces_is_relayed_whole() -> None:
    """And in order."""
    events = sse(ROLE, *[{**HI, "pad": "p" * 50_000}] * 9, STOP, "[DONE]")
    told = [EVENTS, ("Content-Encoding", "gzip")]
    follows, _, given = await taken(ask(), told, gzip.compress(events))
    assert isinstance(follows, Finish)
    assert b"".join(given.split(b"\r\n")[1::2]) == events


# --- what an answer calls itself ------------------------------------------------------------

BEGINNINGS = [b"[Music] Aye.", b"<i>Aye.</i>", b"{Aye}", b":) Aye.", b"data: 5", b"", b"Aye."]


@pytest.mark.parametrize("text", BEGINNINGS)
@pytest.mark.parametrize(
    "kind",
    ["text/plain", "Text/Plain; charset=utf-8", "text/vtt", "application/x-subrip", "audio/mpeg"],
)
async def test_what_calls_itself_text_or_sound_is_believed(kind: str, text: bytes) -> None:
    """Where an answer may be that: a transcription can begin with anything."""
    follows, _, given = await taken(SPOKEN, [("Content-Type", kind)], text)
    assert isinstance(follows, web.StreamResponse)
    assert (follows.headers["Content-Type"], given) == (kind, text)


@pytest.mark.parametrize("kind", ["application/json", "application/octet-stream", ""])
async def test_what_calls_itself_anything_else_is_looked_at(kind: str) -> None:
    """An object is told in events."""
    told = [("Content-Type", kind)] if kind else []
    follows, _, given = await taken(SPOKEN, told, b'{"text":"Aye."}')
    assert isinstance(follows, Finish)
    assert b"transcript.text.done" in given


async def test_a_chat_is_no_text_whatever_it_calls_itself() -> None:
    """Its events are known by their first bytes."""
    events = sse(ROLE, HI, STOP, "[DONE]")
    follows, _, _ = await taken(ask(), [("Content-Type", "text/plain")], events)
    assert isinstance(follows, Finish)
