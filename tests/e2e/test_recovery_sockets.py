"""Replay over real sockets, under the default settings of recovery, and where it must not be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import pytest_asyncio

from e2e.child import QUICK, Proxy, idle
from e2e.conftest import Starter
from e2e.retold import asked_for, check_joined, check_prefix, cut, recoveries, retold, whole
from e2e.wire import HEARTBEAT, PATHS, Pairs, asking, check_failed, connected, stream
from proxy.demo.answers import Answer, Asked, End, Pause, sse
from proxy.demo.bodies import TEXT, stream_for
from proxy.demo.upstream import MisbehavingUpstream

WAYS: dict[str, End] = {"fin": "fin", "rst": "reset", "clean": "clean", "stall": "hold"}
FAULTS = {"fin": "cut_between_events", "rst": "reset", "clean": "clean_eof", "stall": "stall"}
OFF: Pairs = [("X-Wholestream-Recovery", "off")]
REPLAYED = ("mid_content", "replayed")


def begun(model: str, end: End, content: int = 5, endpoint: str = "chat_completions") -> Answer:
    """Return a first attempt that ends after so many events of content."""
    return cut(stream_for(Asked(endpoint, model), 1), content, end)


@pytest_asyncio.fixture(loop_scope="session")
async def soon(started: Starter, upstream: MisbehavingUpstream) -> Proxy:
    """Return a proxy that calls an upstream stalled soon."""
    return await started(upstream.base_url, *QUICK, "--stall-timeout-s", "0.4")


# --- deterministic requests -----------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fields", [{"temperature": 0}, {"seed": 7}])
async def test_a_deterministic_answer_that_breaks_is_made_whole(
    soon: Proxy, upstream: MisbehavingUpstream, way: str, fields: dict[str, Any]
) -> None:
    """Other borders and another id in the second attempt; one text, identity, role and end."""
    model = f"det-{way}-{next(iter(fields))}"
    upstream.script(model, [begun(model, WAYS[way]), whole(model)])
    before = await idle(soon)
    got = await stream(soon.port, model, **fields)
    counted = (await idle(soon)).since(before)
    check_joined(got)
    first, second = asked_for(upstream, model)
    assert first == second
    assert recoveries(counted) == {("replay", "success"): 1.0}
    assert counted.streams == {("chat_completions", "recovered"): 1.0}
    assert counted.incidents == {(FAULTS[way], *REPLAYED): 1.0}


async def test_a_second_cut_is_mended_as_well(proxy: Proxy, upstream: MisbehavingUpstream) -> None:
    """Cut, cut again further on, whole: three attempts, two incidents, one answer."""
    again = cut(retold(Asked(model="twice"), 2, 7), 7)
    upstream.script("twice", [begun("twice", "fin"), again, whole("twice", 3)])
    before = await idle(proxy)
    got = await stream(proxy.port, "twice", temperature=0)
    counted = (await idle(proxy)).since(before)
    check_joined(got)
    assert len(asked_for(upstream, "twice")) == 3
    assert recoveries(counted) == {("replay", "success"): 2.0}
    assert counted.incidents == {("cut_between_events", *REPLAYED): 2.0}
    assert counted.streams == {("chat_completions", "recovered"): 1.0}


async def test_a_replay_cut_before_it_reaches_the_seam_is_repeated(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """The second attempt breaks inside what was given: nothing of it is seen, the third helps."""
    again = cut(retold(Asked(model="short"), 2, 3), 2)
    upstream.script("short", [begun("short", "fin"), again, whole("short", 3)])
    before = await idle(proxy)
    got = await stream(proxy.port, "short", temperature=0)
    counted = (await idle(proxy)).since(before)
    check_joined(got)
    assert recoveries(counted) == {("replay", "failed"): 1.0, ("replay", "success"): 1.0}


@pytest.mark.parametrize("endpoint", ["chat_completions", "completions"])
async def test_every_place_of_a_cut_is_mended(
    proxy: Proxy, upstream: MisbehavingUpstream, endpoint: str
) -> None:
    """After each event of content, with seams at every size: no character lost or doubled."""
    count = len(stream_for(Asked(endpoint), 1).content)
    cases = [(at, size) for at in range(1, count + 1) for size in (1, 4, len(TEXT))]

    async def one(at: int, size: int) -> None:
        model = f"{endpoint[:4]}-{at:02}-{size:02}"
        first, second = begun(model, "fin", at, endpoint), whole(model, 2, size, endpoint)
        upstream.script(model, [first, second])
        check_joined(await stream(proxy.port, model, endpoint, temperature=0), endpoint)
        assert len(asked_for(upstream, model)) == 2

    await asyncio.gather(*(one(*case) for case in cases))


async def test_attempts_end_where_max_attempts_says(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """Cut every time at the same place: three attempts, the prefix, one honest error."""
    upstream.script("ever", lambda asked, attempt: cut(stream_for(asked, attempt), 5))
    before = await idle(proxy)
    got = await stream(proxy.port, "ever", temperature=0)
    counted = (await idle(proxy)).since(before)
    assert check_failed(got)["code"] == "stream_incomplete"
    assert check_prefix(got)
    assert len(asked_for(upstream, "ever")) == 3
    assert recoveries(counted) == {("replay", "failed"): 2.0}
    assert counted.streams == {("chat_completions", "failed"): 1.0}


async def test_an_answer_in_other_words_is_never_joined(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """The exact prefix of the first attempt, one error event, nothing of the second."""
    other = retold(Asked(model="words"), 2, 5, TEXT.replace("end", "finish"))
    upstream.script("words", [begun("words", "fin"), sse(*other.events)])
    before = await idle(proxy)
    got = await stream(proxy.port, "words", temperature=0)
    counted = (await idle(proxy)).since(before)
    assert check_failed(got)["code"] == "stream_incomplete"
    assert check_prefix(got) == "Whole streams end well, and"
    assert len(asked_for(upstream, "words")) == 2
    assert recoveries(counted) == {("replay", "mismatch"): 1.0}
    assert counted.incidents == {("cut_between_events", "mid_content", "surfaced"): 1.0}
    assert counted.streams == {("chat_completions", "failed"): 1.0}


async def test_the_client_hears_heartbeats_while_the_seam_is_looked_for(
    started: Starter, upstream: MisbehavingUpstream
) -> None:
    """The second attempt is slow to say again what was said: comments, then the rest."""
    proxy = await started(upstream.base_url, *QUICK, "--heartbeat-s", "0.1")
    again = retold(Asked(model="slow"), 2, 5)
    slow = sse(*again.opening, *(p for event in again.content for p in (event, Pause(0.06))))
    end = sse(*slow.pieces, *again.closing)
    upstream.script("slow", [begun("slow", "fin"), end])
    got = await stream(proxy.port, "slow", temperature=0)
    check_joined(got)
    assert got.chunks.count(HEARTBEAT) >= 2


async def test_a_client_that_leaves_at_the_seam_is_left_at_once_upstream(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """The replay is closed with it, and nobody counts a failure."""
    silent = sse(*stream_for(Asked(model="leaver"), 2).opening, end="hold")
    upstream.script("leaver", [begun("leaver", "fin"), silent])
    before, seen = await idle(proxy), len(upstream.requests)
    async with connected(proxy.port) as wire:
        await wire.ask(PATHS["chat_completions"], asking("leaver", temperature=0))
        await wire.head()
        await upstream.wait_requests(seen + 2)
    left = asyncio.get_running_loop().time()
    closed = await upstream.wait_closed(upstream.requests[-1].connection)
    assert closed - left < 1.0
    counted = (await idle(proxy)).since(before)
    assert counted.streams == {("chat_completions", "client_closed"): 1.0}
    assert counted.incidents == {("cut_between_events", "mid_content", "client_gone"): 1.0}


# --- everything else ------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("endpoint", ["chat_completions", "completions", "responses"])
async def test_an_answer_that_may_differ_is_never_asked_for_twice(
    soon: Proxy, upstream: MisbehavingUpstream, endpoint: str, way: str
) -> None:
    """Once content was given: one request upstream, and an honest error."""
    model = f"once-{endpoint}-{way}"
    upstream.script(model, [begun(model, WAYS[way], 5, endpoint), whole_of(model, endpoint)])
    before = await idle(soon)
    got = await stream(soon.port, model, endpoint, temperature=0.7)
    counted = (await idle(soon)).since(before)
    check_failed(got, endpoint)
    assert len(asked_for(upstream, model)) == 1
    assert recoveries(counted) == {}
    assert counted.incidents == {(FAULTS[way], "mid_content", "surfaced"): 1.0}


def whole_of(model: str, endpoint: str) -> Answer:
    """Return the whole second attempt."""
    return sse(*stream_for(Asked(endpoint, model), 2).events)


async def test_a_stored_response_is_never_asked_for_twice(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """The client may use its id, so even a deterministic one ends in an honest error."""
    model = "stored"
    upstream.script(model, [begun(model, "fin", 5, "responses"), whole_of(model, "responses")])
    check_failed(await stream(proxy.port, model, "responses", temperature=0), "responses")
    assert len(asked_for(upstream, model)) == 1


@pytest.mark.parametrize("endpoint", ["chat_completions", "responses"])
async def test_recovery_off_means_one_request(
    proxy: Proxy, upstream: MisbehavingUpstream, endpoint: str
) -> None:
    """Deterministic or in the background: the header forbids both."""
    model = f"off-{endpoint}"
    upstream.script(model, [begun(model, "fin", 5, endpoint), whole_of(model, endpoint)])
    seen = len(upstream.requests)
    fields = {"temperature": 0, "background": endpoint == "responses"}
    got = await stream(proxy.port, model, endpoint, OFF, **fields)
    check_failed(got, endpoint)
    assert len(upstream.requests) - seen == 1
