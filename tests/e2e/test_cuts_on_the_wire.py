"""Streams cut at a byte, on real sockets: invisible, honest or complete, and counted once."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from e2e.child import Metrics, Proxy, eventually, idle
from e2e.cuts import WAYS, Cut, Incident, Way, borders
from e2e.doors import DOORS, Door
from e2e.wire import Reply, check_complete, check_failed
from proxy.demo.upstream import MisbehavingUpstream

AT_ONCE = 24
SHORT = "Hi you"
LONGER = "Whole streams end well."


async def _cut(proxy: Proxy, upstream: MisbehavingUpstream, cuts: list[Cut]) -> Metrics:
    """Make all cuts, a few at a time; judge each and the sum of what was counted."""
    before = await idle(proxy)
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(cut: Cut) -> Reply:
        async with gate:
            upstream.script(cut.name, cut.answers)
            return await cut.ask(proxy.port, [("X-Request-ID", cut.name)])

    replies = await asyncio.gather(*(one(cut) for cut in cuts))
    names = {cut.name for cut in cuts}

    async def counted() -> tuple[Metrics, dict[str, list[Incident]]]:
        # What is found after a terminal event is found after the client has its answer.
        after = (await idle(proxy)).since(before)
        logged = _logged(proxy, names)
        assert after.incidents == Counter(i for found in logged.values() for i in found)
        wrong = {cut.name: found for cut in cuts if not _right(cut, found := logged.get(cut.name))}
        assert wrong == {}
        return after, logged

    after, logged = await eventually(counted)
    for cut, reply in zip(cuts, replies, strict=True):
        _judge(cut, reply, logged.get(cut.name, []))
    assert after.total("wholestream_streams_total") == len(cuts)
    return after


def _right(cut: Cut, found: list[Incident] | None) -> bool:
    if cut.way != "reset":
        return (found or []) == cut.incidents
    # A reset destroys what the kernel has and nobody read: the cut may fall earlier.
    return found is not None and [fault for fault, _, _ in found] == ["reset"]


def _logged(proxy: Proxy, names: set[str]) -> dict[str, list[Incident]]:
    found: dict[str, list[Incident]] = {}
    for line in proxy.log:
        if line["event"] == "incident" and line["request_id"] in names:
            incident = (line["fault"], line["phase"], line["outcome"])
            found.setdefault(line["request_id"], []).append(incident)
    return found


def _judge(cut: Cut, reply: Reply, incidents: list[Incident]) -> None:
    [(_, phase, outcome)] = incidents or [("", "after_terminal", "")]
    if outcome == "restarted":
        assert reply.body == cut.second, cut
        assert reply.header("x-wholestream-attempts") == "2"
        check_complete(reply, cut.door.endpoint)
        return
    given = b"".join(cut.first.events[: cut.usable])
    if phase.startswith("before_"):
        _judge_refusal(reply, *incidents[0])
        return
    if phase == "after_terminal":
        check_complete(reply, cut.door.endpoint)
        # Whatever stood between the finish reason and the end mark may be lost, nothing else.
        assert reply.body.removesuffix(b"data: [DONE]\n\n") == given.removesuffix(
            b"data: [DONE]\n\n"
        ), cut
        return
    assert (phase, outcome) == ("mid_content", "surfaced")
    error = check_failed(reply, cut.door.endpoint)
    assert error["code"] == "stream_incomplete"
    assert error["type"] == "upstream_error"
    assert error["retryable"] is True
    told = 2 if cut.door.endpoint == "responses" else 1
    events = b"".join(
        b"event: %b\ndata: %b\n\n" % pair if pair[0] else b"data: %b\n\n" % pair[1]
        for pair in reply.events[:-told]
    )
    assert events == given if cut.way != "reset" else given.startswith(events), cut


def _judge_refusal(reply: Reply, fault: str, phase: str, _outcome: str) -> None:
    """Check what became of an answer that broke before its first event and cannot be repeated."""
    codes = {"empty_stream": "empty_stream"}
    code = "upstream_unreachable" if phase == "before_headers" else "stream_incomplete"
    assert reply.status == 502
    assert reply.error["code"] == codes.get(fault, code)
    assert reply.error["type"] == "upstream_error"
    assert reply.header("content-type") == "application/json"
    assert reply.header("x-should-retry") == "false"


def _places(door: Door, way: Way, text: str) -> list[int]:
    return borders(Cut(door, way, 0, text).first)


@pytest.mark.parametrize("way", WAYS)
async def test_a_chat_cut_at_every_byte_never_ends_silently(
    proxy: Proxy, upstream: MisbehavingUpstream, way: Way
) -> None:
    """Before content invisible, after it an exact prefix and one error, after the end whole."""
    size = len(b"".join(Cut(DOORS["chat"], way, 0, SHORT).first.events))
    cuts = [Cut(DOORS["chat"], way, at, SHORT) for at in range(size + 1)]
    after = await _cut(proxy, upstream, cuts)
    outcomes = after.labelled("wholestream_streams_total", "outcome")
    assert set(outcomes) == {("complete",), ("recovered",), ("failed",)}


@pytest.mark.parametrize("door", [name for name in DOORS if name != "chat"])
async def test_a_stream_cut_around_every_border_never_ends_silently(
    proxy: Proxy, upstream: MisbehavingUpstream, door: str
) -> None:
    """The same at every other door, wherever an event begins or ends and in its middle."""
    asked = DOORS[door]
    cuts = [Cut(asked, way, at, LONGER) for way in WAYS for at in _places(asked, way, LONGER)]
    after = await _cut(proxy, upstream, cuts)
    assert {endpoint for endpoint, _ in after.streams} == {asked.endpoint}
