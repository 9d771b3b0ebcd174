"""Uploads at the doors that may answer with a stream: looked at, and streamed on all the same."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from e2e.child import Proxy, eventually, idle
from e2e.doors import BOUNDARY, DOORS, multipart
from e2e.stage import CHUNKED, EVENT_STREAM, JSON, Exchange, Stage, plain
from e2e.wire import Pairs, check_complete, connected

DOOR = DOORS["transcriptions, fields first"]
KIND: tuple[str, str] = ("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
FIELDS = {"model": "m", "stream": True}
BIG = 20 * 2**20
GROWTH_KIB = 10 * 1024
SOON_S = 1.0


def form(*, file_first: bool, size: int = 4000) -> bytes:
    """Return a form with a file of a size."""
    return multipart(FIELDS, file_first=file_first, file=bytes(size))


@pytest.mark.parametrize("file_first", [False, True])
async def test_a_file_is_streamed_on_as_it_comes(
    staged: Proxy, stage: Stage, *, file_first: bool
) -> None:
    """In lockstep, from where it begins: the client sends on when the upstream has what came."""
    whole = form(file_first=file_first)
    start = whole.index(b"audio/wav\r\n\r\n") + 20
    pieces = [whole[:start], *(whole[at : at + 900] for at in range(start, len(whole), 900))]
    arrived = asyncio.Queue[bytes]()
    events = DOOR.stream("m").events

    async def play(exchange: Exchange) -> bytes:
        seen = b""
        while len(seen) < len(whole):
            seen += await exchange.part()
            arrived.put_nowait(seen)
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        for event in events:
            await exchange.chunk(event)
        await exchange.chunk(b"")
        return seen

    name = f"file as it comes {file_first}"
    headers: Pairs = [stage.plays(name, play), KIND, ("Content-Length", str(len(whole)))]
    async with connected(staged.port) as wire:
        await wire.ask(DOOR.target, headers=headers)
        sent = b""
        for piece in pieces:
            await wire.send(piece)
            sent += piece
            seen = b""
            while len(seen) < len(sent):
                async with asyncio.timeout(10):
                    seen = await arrived.get()
            assert seen == sent
        reply = await wire.rest(await wire.head())
    assert await stage.over(name) == whole
    check_complete(reply, "audio")
    assert reply.body == b"".join(events)


async def test_fields_that_come_byte_by_byte_are_read_all_the_same(
    staged: Proxy, stage: Stage
) -> None:
    """In chunks of one byte: the stream is known before the answer, and nothing is lost."""
    whole = form(file_first=False, size=50)

    async def play(exchange: Exchange) -> bytes:
        body = await exchange.body()
        await exchange.answer(*plain(b'{"text":"Aye."}'))
        return body

    headers: Pairs = [stage.plays("bytewise fields", play), KIND, *CHUNKED]
    async with connected(staged.port) as wire:
        await wire.ask(DOOR.target, headers=headers)
        for at in range(len(whole)):
            await wire.send(b"1\r\n%b\r\n" % whole[at : at + 1])
        await wire.send(b"0\r\n\r\n")
        reply = await wire.rest(await wire.head())
    assert await stage.over("bytewise fields") == whole
    # That the object was told in events shows that the fields were read.
    check_complete(reply, "audio")


@pytest.mark.parametrize("file_first", [False, True])
async def test_a_big_file_costs_no_memory(staged: Proxy, stage: Stage, *, file_first: bool) -> None:
    """20 MB go through while the proxy's memory stays flat, and arrive whole."""
    whole = form(file_first=file_first, size=BIG)

    async def play(exchange: Exchange) -> tuple[int, int]:
        most = received = 0
        while received < len(whole):
            received += len(await exchange.part())
            await asyncio.sleep(0)
            most = max(most, staged.rss_kib())
        await exchange.answer(*plain(b'{"text":"Aye."}'))
        return received, most

    before = staged.rss_kib()
    name = f"big file {file_first}"
    headers: Pairs = [stage.plays(name, play), KIND, ("Content-Length", str(len(whole)))]
    async with connected(staged.port) as wire:
        await wire.ask(DOOR.target, headers=headers)
        for at in range(0, len(whole), 2**18):
            await wire.send(whole[at : at + 2**18])
        reply = await wire.rest(await wire.head())
    received, most = await stage.over(name)
    assert (reply.status, received) == (200, len(whole))
    assert most - before < GROWTH_KIB


@pytest.mark.parametrize("place", ["in the fields", "in the file"])
async def test_a_client_that_leaves_never_leaves_a_shorter_whole_upload(
    staged: Proxy, stage: Stage, place: str
) -> None:
    """In the fields nobody is asked at all; in the file the upstream sees it break off."""
    whole = form(file_first=False)
    cut = 30 if place == "in the fields" else whole.index(b"audio/wav") + 100
    begun = asyncio.Event()

    async def play(exchange: Exchange) -> None:
        begun.set()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await exchange.body()

    name = f"left {place}"
    before = await idle(staged)
    headers: Pairs = [stage.plays(name, play), KIND, ("Content-Length", str(len(whole)))]
    async with connected(staged.port) as wire:
        await wire.ask(DOOR.target, headers=headers)
        await wire.send(whole[:cut])
        if place == "in the file":
            await begun.wait()
        await wire.leave()
    if place == "in the file":
        async with asyncio.timeout(SOON_S):
            await stage.over(name)

        async def left() -> None:
            after = (await idle(staged)).since(before)
            assert after.streams == {("audio", "client_closed"): 1.0}

        await eventually(left)
        return
    await asyncio.sleep(0.2)
    assert stage.exchanges[name] == []
    assert (await idle(staged)).since(before).incidents == {}


async def test_a_body_that_is_no_http_is_refused_before_anybody_is_asked(
    staged: Proxy, stage: Stage
) -> None:
    """While the fields are looked at, as for any other body."""

    async def play(exchange: Exchange) -> None:
        raise AssertionError(exchange.head)

    async with connected(staged.port) as wire:
        headers: Pairs = [stage.plays("no http", play), KIND, *CHUNKED]
        await wire.ask(DOOR.target, headers=headers)
        await wire.send(b"5\r\n--b\r\n\r\nzz\r\n")
        reply = await wire.rest(await wire.head())
    assert (reply.status, reply.error["code"]) == (400, "bad_request")
    assert stage.exchanges["no http"] == []


async def test_an_upstream_that_answers_before_the_file_has_come_is_heard(
    staged: Proxy, stage: Stage
) -> None:
    """Its refusal is passed on as it is, while the rest is still to be sent."""
    whole = form(file_first=False, size=200_000)
    told = b'{"error":{"message":"Too long.","type":"invalid_request_error","code":"too_long"}}'

    async def play(exchange: Exchange) -> None:
        await exchange.part()
        length = ("Content-Length", str(len(told)))
        await exchange.answer(413, [JSON, length], told)
        with contextlib.suppress(ConnectionError):
            while await exchange.reader.read(2**16):
                pass

    headers: Pairs = [stage.plays("early", play), KIND, ("Content-Length", str(len(whole)))]
    async with connected(staged.port) as wire:
        await wire.ask(DOOR.target, headers=headers)
        await wire.send(whole[: len(whole) // 2])
        reply = await wire.rest(await wire.head())
    assert (reply.status, reply.body) == (413, told)
