"""Quirks end to end, of the primary and of a fallback; and bodies that are not ended."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from support import chunk
from support import sse as events_of

from e2e.child import QUICK, Metrics, Proxy, eventually, idle
from e2e.conftest import Starter
from e2e.doors import DOORS, Door
from e2e.stage import CHUNKED, EVENT_STREAM, Exchange, Stage
from e2e.wire import (
    PATHS,
    Reply,
    asking,
    call,
    check_complete,
    check_failed,
    connected,
    data_of,
    stream,
)
from proxy.demo.answers import Asked, error_reply, sse
from proxy.demo.bodies import TEXT
from proxy.demo.scenarios import SCENARIOS
from proxy.demo.upstream import MisbehavingUpstream

KEY = "sk-of-the-deployment"
OVERLOADED = "Our servers are currently overloaded. Please try again later."

MENDING = (
    *("--quirks-empty-choices", "drop", "--quirks-fill-fields", "true"),
    *("--quirks-nan", "null", "--quirks-tool-arguments", "length"),
    *("--quirks-empty-answer", "restart", "--quirks-overload-texts", OVERLOADED),
    *("--quirks-finish-reason", "added", "--quirks-query", "api-version=2024-10-21&x=1"),
)
STRICT = (
    *("--quirks-finish-reason", "required", "--quirks-foreign-events", "pass"),
    *("--quirks-paths", "/openai"),
)


def _call(arguments: str = "", finish: str | None = None) -> dict[str, object]:
    function = {"name": "wind", "arguments": arguments}
    call_ = {"index": 0, "id": "call_1", "type": "function", "function": function}
    return chunk(tool_calls=[call_] if arguments else [], finish=finish)


BROKEN_CALL = events_of(
    chunk(role="assistant"), _call('{"knots":'), chunk(finish="tool_calls"), "[DONE]"
)


@dataclass(frozen=True)
class Case:
    """What a scenario is by default, and what becomes of it where its quirk is set."""

    repairs: frozenset[str]
    attempts: int = 1
    text: str = TEXT


CASES = {
    "ws-empty-choices": Case(frozenset({"dropped_empty_choices", "filled_fields"})),
    "ws-null-fields": Case(frozenset({"filled_fields"})),
    "ws-nan": Case(frozenset({"nan_to_null"})),
    "ws-no-finish-reason": Case(frozenset({"added_finish_reason"})),
    "ws-empty-answer-once": Case(frozenset(), 2),
    "ws-overload-as-content-once": Case(frozenset(), 2),
}


def said(reply: Reply) -> str:
    """Return the text of chat chunks."""
    chunks = [json.loads(data) for data in reply.payloads if data != b"[DONE]"]
    deltas = [choice.get("delta") or {} for one in chunks for choice in one["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


async def repaired(proxy: Proxy, before: Metrics, repairs: set[str]) -> Metrics:
    """Wait until a stream and its repairs, each once or more, are counted, and no others."""

    async def check() -> Metrics:
        after = (await idle(proxy)).since(before)
        found = after.labelled("wholestream_repairs_total", "repair")
        assert {name for (name,) in found} == repairs
        return after

    return await eventually(check)


# --- the primary's --------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
async def test_a_quirk_is_no_fault_by_default(
    proxy: Proxy, upstream: MisbehavingUpstream, name: str
) -> None:
    """It passes byte for byte in one attempt, and nothing is counted as mended."""
    upstream.rewind(name)
    answer = SCENARIOS[name].answer(Asked(model=name), 1)
    before = await idle(proxy)
    got = await stream(proxy.port, name)
    check_complete(got)
    assert got.body == b"".join(piece for piece in answer.pieces if isinstance(piece, bytes))
    after = await repaired(proxy, before, set())
    assert after.total("wholestream_upstream_attempts_total") == 1


@pytest.mark.parametrize("name", CASES)
async def test_a_quirk_that_is_set_is_mended(
    started: Starter, upstream: MisbehavingUpstream, name: str
) -> None:
    """The whole text, the repair's name, and as many attempts as it takes."""
    proxy, case = await started(upstream.base_url, *QUICK, *MENDING), CASES[name]
    upstream.rewind(name)
    before = await idle(proxy)
    got = await stream(proxy.port, name)
    check_complete(got)
    assert said(got) == case.text
    assert b"NaN" not in got.body
    chunks = [json.loads(data) for data in got.payloads[:-1]]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    after = await repaired(proxy, before, set(case.repairs))
    assert after.total("wholestream_upstream_attempts_total") == case.attempts
    outcome = "complete" if case.attempts == 1 else "recovered"
    assert after.streams == {("chat_completions", outcome): 1.0}


async def test_half_a_call_with_a_finish_reason_is_told_as_cut_off_where_that_is_set(
    started: Starter, upstream: MisbehavingUpstream, proxy: Proxy
) -> None:
    """By default an application gets what the upstream said; with the quirk it runs nothing."""
    upstream.script("half-a-call", sse(BROKEN_CALL))
    assert (await stream(proxy.port, "half-a-call")).body == BROKEN_CALL
    mending = await started(upstream.base_url, *QUICK, *MENDING)
    before = await idle(mending)
    got = await stream(mending.port, "half-a-call")
    check_complete(got)
    last = json.loads(got.payloads[-2])
    assert last["choices"][0]["finish_reason"] == "length"
    after = await repaired(mending, before, {"filled_fields", "rewrote_finish_reason"})
    assert after.incidents == {}


async def test_a_finish_reason_may_be_required(
    started: Starter, upstream: MisbehavingUpstream
) -> None:
    """``[DONE]`` alone is then no success, and never shown."""
    proxy = await started(upstream.base_url, *QUICK, *STRICT)
    before = await idle(proxy)
    got = await stream(proxy.port, "ws-no-finish-reason")
    error = check_failed(got)
    assert error["code"] == "stream_incomplete"
    after = await repaired(proxy, before, set())
    assert after.incidents == {("clean_eof", "mid_content", "surfaced"): 1.0}


async def test_events_of_another_language_may_pass(
    started: Starter, upstream: MisbehavingUpstream, proxy: Proxy
) -> None:
    """By default a strict client is spared them; whoever wants them has them as they came."""
    answer = SCENARIOS["ws-foreign-event"].answer(Asked(model="ws-foreign-event"), 1)
    sent = b"".join(piece for piece in answer.pieces if isinstance(piece, bytes))
    passing = await started(upstream.base_url, *QUICK, *STRICT)
    got = await stream(passing.port, "ws-foreign-event")
    check_complete(got)
    assert got.body == sent
    before = await idle(proxy)
    got = await stream(proxy.port, "ws-foreign-event")
    check_complete(got)
    assert said(got) == TEXT
    assert {name for name, _ in got.events} == {b""}
    assert b"hermes" not in got.body
    await repaired(proxy, before, {"dropped_foreign_event", "dropped_event_name"})


async def test_what_an_upstream_needs_in_its_query_is_added_once(
    started: Starter, upstream: MisbehavingUpstream
) -> None:
    """Whatever the caller says goes first, and nothing is said twice."""
    proxy = await started(upstream.base_url, *QUICK, *MENDING)
    for number, (asked, sent) in enumerate(
        (
            ("", "?api-version=2024-10-21&x=1"),
            ("?a=b%2F", "?a=b%2F&api-version=2024-10-21&x=1"),
            ("?api-version=7", "?api-version=7&x=1"),
            ("?x=&api-version=", "?x=&api-version="),
        )
    ):
        model = f"queried-{number}"
        upstream.script(model, sse(*DOORS["chat"].stream(model).events))
        check_complete(await call(proxy.port, PATHS["chat_completions"] + asked, asking(model)))
        assert upstream.requests[-1].target == PATHS["chat_completions"] + sent


async def test_own_paths_are_served_as_they_stand_and_no_others(
    started: Starter, upstream: MisbehavingUpstream
) -> None:
    """At the origin, not below ``/v1``; a path that only begins alike is a 404."""
    proxy = await started(upstream.base_url, *QUICK, *STRICT)
    upstream.script("own-path", sse(*DOORS["chat"].stream("own-path").events))
    target = "/openai/deployments/d/chat/completions?api-version=1"
    before = await idle(proxy)
    check_complete(await call(proxy.port, target, asking("own-path")))
    assert upstream.requests[-1].target == target
    after = (await idle(proxy)).since(before)
    assert after.streams == {("chat_completions", "complete"): 1.0}
    for other in ("/openai-else/x", "/opena", "/x/openai/y", "/"):
        assert (await call(proxy.port, other, asking("own-path"))).status == 404


# --- a fallback's ---------------------------------------------------------------------------


@pytest_asyncio.fixture(name="other", scope="module", loop_scope="session")
async def _other() -> AsyncIterator[MisbehavingUpstream]:
    async with MisbehavingUpstream() as server:
        yield server


QUIRKY = """
nan = "null"
empty_choices = "drop"
fill_fields = true
finish_reason = "added"
"""


def _tables(base_url: str, profile: str, primary: str, quirks: str) -> str:
    return f"""
        max_attempts = 1
        [quirks]
        {primary}
        [[upstreams]]
        name = "spare"
        base_url = "{base_url}"
        profile = "{profile}"
        api_key_env = "SPARE_KEY"
        [upstreams.quirks]
        {quirks}
        [[fallbacks]]
        models = ["*"]
        to = [{{ upstream = "spare" }}]
        """


async def _towards(
    alone: Starter, upstream: MisbehavingUpstream, folder: Path, tables: str
) -> Proxy:
    path = folder / "wholestream.toml"
    path.write_text(tables, "utf-8")
    return await alone(upstream.base_url, *QUICK, "--config", str(path), SPARE_KEY=KEY)


BUSY = error_reply(503, "overloaded", "Busy.")


@pytest.mark.parametrize("name", ["ws-empty-choices", "ws-nan", "ws-no-finish-reason"])
async def test_a_fallback_has_quirks_of_its_own(
    alone: Starter,
    upstream: MisbehavingUpstream,
    other: MisbehavingUpstream,
    tmp_path: Path,
    name: str,
) -> None:
    """Its answers are mended; those of the primary, which has none, are not."""
    tables = _tables(other.base_url, "any", "", QUIRKY)
    proxy = await _towards(alone, upstream, tmp_path, tables)
    answer = SCENARIOS[name].answer
    upstream.script(f"busy-{name}", BUSY)
    other.script(f"busy-{name}", answer)
    before = await idle(proxy)
    got = await stream(proxy.port, f"busy-{name}")
    check_complete(got)
    assert said(got) == TEXT
    await repaired(proxy, before, set(CASES[name].repairs))
    before = await idle(proxy)
    check_complete(await stream(proxy.port, name))
    await repaired(proxy, before, set())


async def test_the_primary_s_quirks_are_not_those_of_a_fallback(
    alone: Starter, upstream: MisbehavingUpstream, other: MisbehavingUpstream, tmp_path: Path
) -> None:
    """The other way round: what the primary's profile mends, a plain fallback says as it is."""
    tables = _tables(other.base_url, "any", QUIRKY, "")
    proxy = await _towards(alone, upstream, tmp_path, tables)
    answer = SCENARIOS["ws-nan"].answer
    upstream.script("busy-plain", BUSY)
    other.script("busy-plain", answer)
    before = await idle(proxy)
    got = await stream(proxy.port, "busy-plain")
    check_complete(got)
    assert b"NaN" in got.body
    await repaired(proxy, before, set())
    before = await idle(proxy)
    got = await stream(proxy.port, "ws-nan")
    check_complete(got)
    assert b"NaN" not in got.body
    await repaired(proxy, before, {"nan_to_null"})


async def test_a_fallback_at_azure_gets_its_key_and_its_query_where_azure_has_them(
    alone: Starter, upstream: MisbehavingUpstream, other: MisbehavingUpstream, tmp_path: Path
) -> None:
    """The injected key in ``api-key`` alone, the version in the query, no key of the caller's."""
    tables = _tables(
        f"http://127.0.0.1:{other.port}/openai/v1", "azure", "", 'query = "api-version=preview"'
    )
    proxy = await _towards(alone, upstream, tmp_path, tables)
    upstream.script("to-azure", BUSY)
    other.script("to-azure", sse(*DOORS["chat"].stream("to-azure").events))
    headers = [("Authorization", "Bearer client"), ("api-key", "client"), ("Cookie", "client")]
    target = PATHS["chat_completions"] + "?api-key=client&trace=1"
    got = await call(proxy.port, target, asking("to-azure"), headers=headers)
    check_complete(got)
    asked = other.requests[-1]
    assert asked.target == "/openai/v1/chat/completions?trace=1&api-version=preview"
    assert asked.header("api-key") == KEY
    assert not any("client" in value for _, value in asked.headers)
    assert asked.header("authorization") is None


# --- bodies that are not ended --------------------------------------------------------------


async def test_a_finished_answer_is_ended_a_moment_later_with_what_came_until_then(
    staged: Proxy, stage: Stage
) -> None:
    """In this order: the finish reason at once, the usage behind it, then ``[DONE]`` of ours.

    The connection stays open, and the timeouts of the default settings are minutes.
    """
    events = DOORS["chat"].stream("m").events[:-1]
    usage = events_of({"id": "x", "choices": [], "usage": {"total_tokens": 3}})
    heard = asyncio.Event()

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        await exchange.chunk(b"".join(events))
        await heard.wait()
        await exchange.chunk(usage)
        await exchange.left()

    before = await idle(staged)
    async with connected(staged.port) as wire:
        header = stage.plays("finished and open", play)
        await wire.ask(PATHS["chat_completions"], asking("m"), headers=[header])
        got = await wire.head()
        while not got.body.endswith(events[-1]):
            got.chunks.append(await wire.chunk())
        assert b"[DONE]" not in got.body
        heard.set()
        got.chunks.append(await wire.chunk())
        assert got.chunks[-1] == usage
        got = await wire.rest(got)
    check_complete(got)
    assert got.payloads == [*data_of([*events, usage]), b"[DONE]"]
    await stage.over("finished and open")
    after = await repaired(staged, before, {"added_done", "ended_body"})
    assert after.streams == {("chat_completions", "complete"): 1.0}
    assert after.incidents == {}


async def test_a_body_that_is_not_ended_after_the_terminal_event_is_ended_at_once(
    staged: Proxy, stage: Stage
) -> None:
    """At every door that knows one: the client has its end while the upstream still holds on."""
    doors = [door for door in DOORS.values() if door.terminal]
    before = await idle(staged)

    async def one(door: Door) -> None:
        events, name = door.stream("m").events, f"held open {door.name}"

        async def play(exchange: Exchange) -> None:
            await exchange.body()
            await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
            await exchange.chunk(b"".join(events))
            await exchange.left()

        kind, body = door.body("m")
        header = stage.plays(name, play)
        got = await call(staged.port, door.target, body, headers=[*kind, header])
        assert not stage.exchanges[name][0].reader.at_eof()
        check_complete(got, door.endpoint)
        assert got.body == b"".join(events)
        await stage.over(name)

    await asyncio.gather(*map(one, doors))
    after = await repaired(staged, before, {"ended_body"})
    counts = after.labelled("wholestream_repairs_total", "endpoint", "repair")
    expected = Counter(door.endpoint for door in doors)
    assert counts == {(endpoint, "ended_body"): count for endpoint, count in expected.items()}
    assert after.total("wholestream_streams_total", outcome="complete") == len(doors)
    assert after.incidents == {}
