"""The clocks, in a loop whose time stands still unless a test moves it; and patience."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from edge.loopback import made
from proxy.clocks import FINISH_GRACE_S, USAGE_GRACE_S, Clocks, patiently


class StillLoop(asyncio.SelectorEventLoop):
    """A loop with a time of its own."""

    now = 1000.0

    def time(self) -> float:
        """Return the time that a test set."""
        return self.now


class Thing:
    """What work may have opened."""

    def __init__(self) -> None:
        """Open it."""
        self.closed = False

    def close(self) -> None:
        """Close it."""
        self.closed = True


def never() -> float:
    """Return when nothing is due."""
    return math.inf


def soon_over() -> Callable[[], float]:
    """Return a limit that is a moment away."""
    limit = asyncio.get_running_loop().time() + 0.001
    return lambda: limit


async def no_tick() -> None:
    """Be no part of the test."""
    pytest.fail("nothing was due")


async def until_cancelled(thing: Thing | None = None) -> Thing:
    """Wait for ever; give a thing away even though nobody wants it any more."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        if thing is None:
            raise
    assert thing is not None
    return thing


async def soon() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


# --- the clocks -------------------------------------------------------------------------


def clocks_at(steps: Coroutine[Any, Any, None], loop: StillLoop) -> None:
    """Run a test in a loop that stands still."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(steps)


def test_the_first_event_and_the_next_have_limits_of_their_own() -> None:
    """Counted from the attempt's request, and from the last event."""
    loop = StillLoop()

    async def steps() -> None:
        clocks = Clocks(made(first_event_timeout_s=50, stall_timeout_s=7))
        loop.now += 3
        clocks.attempt_begins()
        assert clocks.upstream_limit(begun=False) == 1053
        loop.now += 10
        assert (clocks.age_s, clocks.gap_s) == (10, 10)
        clocks.event_came()
        assert (clocks.age_s, clocks.gap_s) == (10, 0)
        assert clocks.upstream_limit(begun=True) == 1020
        assert clocks.upstream_limit(begun=False) == 1053

    clocks_at(steps(), loop)


def test_a_finished_answer_is_waited_for_a_moment_longer() -> None:
    """For statistics and an end mark; never longer than for anything else."""
    loop = StillLoop()

    async def steps() -> None:
        clocks = Clocks(made(first_event_timeout_s=50, stall_timeout_s=7))
        loop.now += 3
        clocks.event_came()
        assert clocks.upstream_limit(begun=True, finished=True) == 1003 + FINISH_GRACE_S
        assert clocks.upstream_limit(begun=False, finished=True) == 1050
        assert clocks.upstream_limit(begun=True, finished=True, owed=True) == 1010
        patient = Clocks(made(stall_timeout_s=70))
        assert patient.upstream_limit(begun=True, finished=True, owed=True) == 1003 + USAGE_GRACE_S
        assert patient.upstream_limit(begun=True, owed=True) == 1073
        hasty = Clocks(made(stall_timeout_s=0.5))
        assert hasty.upstream_limit(begun=True, finished=True) == 1003.5

    clocks_at(steps(), loop)


def test_time_begins_anew_when_an_upload_is_sent() -> None:
    """It may have taken longer than any limit."""
    loop = StillLoop()

    async def steps() -> None:
        clocks = Clocks(made(first_event_timeout_s=50, commit_after_s=10))
        loop.now += 400
        clocks.body_was_sent()
        assert (clocks.age_s, clocks.gap_s) == (0, 0)
        assert clocks.upstream_limit(begun=False) == 1450
        assert clocks.client_due(None) == 1410

    clocks_at(steps(), loop)


def test_another_attempt_has_its_limits_anew() -> None:
    """What the first one took is not taken from the second."""
    loop = StillLoop()

    async def steps() -> None:
        clocks = Clocks(made(first_event_timeout_s=50, stall_timeout_s=7))
        clocks.attempt_begins()
        loop.now += 40
        clocks.event_came()
        loop.now += 5
        clocks.attempt_begins()
        assert clocks.upstream_limit(begun=False) == 1095
        assert (clocks.age_s, clocks.gap_s) == (0, 0)

    clocks_at(steps(), loop)


def test_the_client_hears_by_the_commit_and_then_by_heartbeats() -> None:
    """The commit counts from the request, over all attempts; a heartbeat from the last write."""
    loop = StillLoop()

    async def steps() -> None:
        clocks = Clocks(made(commit_after_s=10, heartbeat_s=15))
        loop.now += 4
        clocks.attempt_begins()
        assert clocks.client_due(None) == 1010
        assert clocks.client_due(1002.0) == 1017

    clocks_at(steps(), loop)


async def test_heartbeats_can_be_off() -> None:
    """Zero means never, not always."""
    assert Clocks(made(heartbeat_s=0)).client_due(0.0) == math.inf


# --- patience ---------------------------------------------------------------------------


async def test_work_that_is_done_in_time_gives_its_result() -> None:
    """Without limits, and the thing it opened stays open."""
    thing = Thing()

    async def work() -> Thing:
        await asyncio.sleep(0)
        return thing

    assert await patiently(work(), never, never, no_tick) is thing
    await soon()
    assert not thing.closed


async def test_what_work_raises_is_raised() -> None:
    """As it is, a TimeoutError of its own too."""

    async def work() -> None:
        raise LookupError("x")

    with pytest.raises(LookupError, match="x"):
        await patiently(work(), never, never, no_tick)


async def test_work_is_given_up_at_the_limit() -> None:
    """It is cancelled."""
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        await patiently(work(), soon_over(), never, no_tick)
    await cancelled.wait()


async def test_a_limit_that_is_past_is_kept() -> None:
    """Even though the work might have been quick."""
    with pytest.raises(TimeoutError):
        await patiently(until_cancelled(), lambda: 0.0, never, no_tick)


async def test_what_work_opens_although_it_was_given_up_is_closed() -> None:
    """The upstream's answer may come just then: its connection must not be left open."""
    thing = Thing()
    with pytest.raises(TimeoutError):
        await patiently(until_cancelled(thing), soon_over(), never, no_tick)
    await soon()
    assert thing.closed


async def test_cancellation_cancels_the_work_and_closes_what_it_opened() -> None:
    """The client has left."""
    thing = Thing()
    task = asyncio.create_task(patiently(until_cancelled(thing), never, never, no_tick))
    await soon()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await soon()
    assert thing.closed


async def test_work_that_is_done_in_the_moment_of_cancellation_leaves_nothing_open() -> None:
    """Its result is taken by nobody, so that it has to be closed all the same."""
    thing = Thing()

    async def work() -> Thing:
        await asyncio.sleep(0)
        task.cancel()
        return thing

    task = asyncio.create_task(patiently(work(), never, never, no_tick))
    with pytest.raises(asyncio.CancelledError):
        await task
    await soon()
    assert thing.closed


async def test_work_that_fails_after_it_was_given_up_is_not_complained_about() -> None:
    """Nobody is left to hear it; asyncio would log an exception that nobody looked at."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError("too late")

    with pytest.raises(TimeoutError):
        await patiently(work(), soon_over(), never, no_tick)
    await soon()
    assert complaints == []


async def test_what_is_due_is_done_while_the_work_goes_on() -> None:
    """As often as it is due, each time at a time told anew; the work is not disturbed."""
    go = asyncio.Event()
    ticks = 0
    due_at = 0.0

    async def tick() -> None:
        nonlocal ticks, due_at
        ticks += 1
        if ticks == 3:
            due_at = math.inf
            go.set()

    async def work() -> str:
        await go.wait()
        return "done"

    assert await patiently(work(), never, lambda: due_at, tick) == "done"
    assert ticks == 3


async def test_a_turn_changes_what_is_waited_for() -> None:
    """Limit and ticks that were far away may be near from then on; and again at each tick."""
    turn, limit, ticks = asyncio.Event(), math.inf, 0

    async def tick() -> None:
        nonlocal limit, ticks
        ticks += 1
        limit = 0.0 if ticks == 2 else math.inf

    async def work() -> None:
        await asyncio.sleep(0)
        turn.set()
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await patiently(
            work(), lambda: limit, lambda: 0.0 if turn.is_set() else math.inf, tick, turn
        )
    assert ticks == 2


async def test_work_may_be_done_before_the_turn() -> None:
    """What waited for that waits no longer."""
    turn = asyncio.Event()

    async def work() -> str:
        return "done"

    assert await patiently(work(), never, never, no_tick, turn) == "done"
    await soon()
    assert len(asyncio.all_tasks()) == 1


async def test_a_tick_that_fails_ends_the_work() -> None:
    """The client cannot be written to any more."""
    thing = Thing()

    async def tick() -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await patiently(until_cancelled(thing), never, lambda: 0.0, tick)
    await soon()
    assert thing.closed


async def test_a_result_without_anything_to_close_is_dropped() -> None:
    """Not all work opens something."""

    async def work() -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return 1
        return 2

    with pytest.raises(TimeoutError):
        await patiently(work(), soon_over(), never, no_tick)
    await soon()
