"""A worker from inside, and the channel it lives on; here both ends are in one process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from edge.loopback import HOST, ask, made, until
from proxy import worker as module
from proxy.channel import (
    ORDERS,
    WORDS,
    Channel,
    Drain,
    Listening,
    Order,
    Refused,
    Report,
    Setup,
    Told,
    Word,
)
from proxy.core.fault import Fault, Incident, IncidentOutcome, Phase
from proxy.service import Service
from proxy.settings import Settings
from proxy.worker import Worker

GET = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
INCIDENT = Incident(
    fault=Fault.STALL,
    phase=Phase.MID_CONTENT,
    outcome=IncidentOutcome.SURFACED,
    attempt=1,
    age_s=1.0,
    status=0,
    events=3,
    size=400,
    offset=390,
    tail=b'data: {"content":"Hello',
    # Half of a pair, as an upstream's JSON may have it: no UTF-8.
    detail="\ud800",
)


@contextlib.asynccontextmanager
async def channels() -> AsyncIterator[tuple[Channel[Word], Channel[Order]]]:
    """Open a channel: the parent's end and the worker's."""
    ours, theirs = socket.socketpair()
    parent, worker = await Channel.over(ours, WORDS), await Channel.over(theirs, ORDERS)
    try:
        yield parent, worker
    finally:
        await parent.close()
        await worker.close()


class Inside:
    """A worker that runs."""

    def __init__(self, parent: Channel[Word], channel: Channel[Order], settings: Settings) -> None:
        """Take both ends."""
        self.parent = parent
        self.service = Service(settings, "wholestream-canary")
        self.run = asyncio.create_task(Worker(channel, self.service).run())

    async def asked(self, question: int) -> Told:
        """Ask, and return the answer."""
        self.parent.say(Report(question))
        while True:
            word = await self.parent.hear()
            if isinstance(word, Told) and word.question == question:
                return word

    def incident(self) -> None:
        """Let something go wrong."""
        self.service.edge.ring.add(INCIDENT, facts={})


@contextlib.asynccontextmanager
async def inside(**values: Any) -> AsyncIterator[Inside]:
    """Run a worker until it is told to stop, which is done in the end."""
    async with channels() as (parent, channel):
        one = Inside(parent, channel, made(port=0, **values))
        yield one
        parent.say(Drain())
        await one.run


def counted(told: Told, name: str) -> float:
    """Return the sum over a metric's samples."""
    return sum(
        value for family in told.families if family.name == name for _, _, value in family.samples
    )


# --- the channel ------------------------------------------------------------------------


@pytest.mark.parametrize("order", [Setup(1, b"\x80", "w"), Report(2**40), Drain()])
async def test_an_order_arrives_as_it_was_said(order: Order) -> None:
    """One by one, however they are cut."""
    async with channels() as (parent, worker):
        for _ in range(3):
            parent.say(order)
        assert [await worker.hear() for _ in range(3)] == [order] * 3


async def test_a_channel_whose_other_end_is_gone_says_so() -> None:
    """And what is said to nobody is no error."""
    async with channels() as (parent, worker):
        worker.say(Listening())
        await worker.close()
        assert await parent.hear() == Listening()
        assert await parent.hear() is None
        for _ in range(10):
            parent.say(Drain())
            await parent.heard()
        worker.say(Listening())


async def test_half_a_word_is_none() -> None:
    """Its speaker died while it spoke."""
    ours, theirs = socket.socketpair()
    parent = await Channel.over(ours, WORDS)
    theirs.sendall(b"\0\0\0\7abc")
    theirs.close()
    assert await parent.hear() is None
    await parent.close()


async def test_who_does_not_listen_is_waited_for_and_not_for_ever() -> None:
    """What is said does not pile up, and closing takes its time, but an end."""
    ours, theirs = socket.socketpair()
    worker = await Channel.over(ours, ORDERS)
    worker.say(Told(0, [], [(0.0, b"x" * 2**22)]))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(worker.heard(), 0.01)
    await worker.close()
    theirs.close()


# --- the worker -------------------------------------------------------------------------


async def test_a_worker_says_when_it_listens_and_signs_as_its_instance() -> None:
    """The port may be that of others, too."""
    async with inside() as one, inside(host=HOST):
        assert await one.parent.hear() == Listening()
        assert one.service.edge.pseudonym == "wholestream-canary"
        other = Service(one.service.settings.model_copy(update={"port": one.service.port}))
        await other.start(shared=True)
        assert other.port == one.service.port
        await other.close()


async def test_a_worker_answers_with_what_is_so_at_that_moment() -> None:
    """Whoever has got an answer may scrape the next moment."""
    async with inside() as one:
        assert await one.parent.hear() == Listening()
        for number in range(1, 4):
            assert (await ask(one.service.port, GET)).status == 404
            told = await one.asked(number)
            assert counted(told, "wholestream_requests") == number


async def test_a_worker_tells_each_incident_once() -> None:
    """Oldest first; those that its ring has lost are lost."""
    async with inside() as one:
        assert (await one.asked(1)).incidents == []
        one.incident()
        one.incident()
        told = (await one.asked(2)).incidents
        ring = one.service.edge.ring.newest()
        assert [json.loads(record) for _, record in told] == ring[::-1]
        assert [time for time, _ in told] == [record["time"] for record in ring[::-1]]
        assert (await one.asked(3)).incidents == []
        for _ in range(300):
            one.incident()
        assert len((await one.asked(4)).incidents) == 200


async def test_a_worker_tells_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that little is lost when it dies."""
    monkeypatch.setattr(module, "_EVERY_S", 0.01)
    async with inside() as one:
        assert await one.parent.hear() == Listening()
        assert (await ask(one.service.port, GET)).status == 404
        told: list[Told] = []
        while not told or not counted(told[-1], "wholestream_requests"):
            word = await one.parent.hear()
            assert isinstance(word, Told)
            told.append(word)
        assert {word.question for word in told} == {0}


async def test_a_worker_that_is_told_to_stop_tells_its_last_numbers() -> None:
    """Behind everything that it has done."""
    async with inside() as one:
        assert await one.parent.hear() == Listening()
        assert (await ask(one.service.port, GET)).status == 404
        one.parent.say(Drain())
        await one.run
        last = [word for word in [await one.parent.hear() for _ in range(2)] if word]
        assert isinstance(last[-1], Told)
        assert counted(last[-1], "wholestream_requests") == 1
        assert counted(last[-1], "wholestream_draining") == 1


async def test_a_worker_whose_parent_is_gone_ends_at_once() -> None:
    """It waits neither for a grace nor for anybody's word."""
    async with channels() as (parent, channel):
        one = Inside(parent, channel, made(port=0, drain_grace_s=3600))
        assert await parent.hear() == Listening()
        await parent.close()
        await one.run
        with pytest.raises(ConnectionRefusedError):
            await ask(one.service.port, GET)


async def test_a_worker_that_cannot_listen_says_why() -> None:
    """In the words for the user."""
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        async with channels() as (parent, channel):
            await Inside(parent, channel, made(port=port)).run
            word = await parent.hear()
    assert isinstance(word, Refused)
    assert word.text.startswith(f"port: cannot listen on {HOST}:{port} (")


async def test_a_bug_in_telling_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And the worker serves on."""
    async with inside() as one:
        with monkeypatch.context() as broken:
            broken.setattr(one.service.edge.ring, "newest", lambda: 1 / 0)
            assert await one.parent.hear() == Listening()
            await until(lambda: caplog.records)
        assert (await ask(one.service.port, GET)).status == 404
    [record] = [one for one in caplog.records if one.getMessage() == "bug"]
    assert record.exc_info
