"""Other upstreams, continuation and holds over real sockets: who is sent what, and when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from e2e.child import QUICK, Proxy, idle
from e2e.conftest import Starter
from e2e.retold import Heard, asked_for, check_joined, cut, recoveries, whole
from e2e.stage import CHUNKED, EVENT_STREAM, Exchange, Stage
from e2e.wire import HEARTBEAT, PATHS, Pairs, Reply, asking, check_complete, connected, stream
from proxy.demo.answers import Answer, Asked, Pause, error_reply, sse
from proxy.demo.bodies import TEXT, TOOL_ARGUMENTS, chat_tool, stream_for
from proxy.demo.upstream import MisbehavingUpstream

KEY = "sk-of-the-other-upstream"
CLIENT: Pairs = [
    ("Authorization", "Bearer sk-client"),
    ("api-key", "client-azure-key"),
    ("x-api-key", "client-other-key"),
    ("Cookie", "session=client"),
    ("X-Title", "the client's title"),
]
BUSY = error_reply(503, "overloaded", "Busy.")
GIVEN = 5
PART = "Whole streams end well, and"
REST = TEXT.removeprefix(PART)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def other() -> AsyncIterator[MisbehavingUpstream]:
    """Return the upstream that is fallen back to."""
    async with MisbehavingUpstream() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def helped(
    started: Starter,
    upstream: MisbehavingUpstream,
    other: MisbehavingUpstream,
    tmp_path_factory: pytest.TempPathFactory,
) -> Proxy:
    """Return a proxy that falls back to the other upstream, which has no key of its own."""
    flags = configured(tmp_path_factory.mktemp("helped"), towards(other))
    return await started(upstream.base_url, *QUICK, *flags)


def configured(folder: Path, text: str) -> tuple[str, str]:
    """Write a configuration file, return the flags that name it."""
    path = folder / "wholestream.toml"
    path.write_text(text, "utf-8")
    return ("--config", str(path))


def towards(other: MisbehavingUpstream, more: str = "") -> str:
    """Write the tables that lead from any model to another upstream."""
    return f"""
        [[upstreams]]
        name = "other"
        base_url = "{other.base_url}"
        {more}
        [[fallbacks]]
        models = ["*"]
        to = [{{ upstream = "other" }}]
        """


# --- whose key goes where -------------------------------------------------------------------


async def test_a_fallback_with_a_key_of_its_own_never_sees_the_client_s(
    alone: Starter, upstream: MisbehavingUpstream, other: MisbehavingUpstream, tmp_path: Path
) -> None:
    """The injected key and the extra headers, and none of the places where a key may be."""
    table = towards(other, 'api_key_env = "OTHER_KEY"\nheaders = { "X-Title" = "ours" }')
    flags = configured(tmp_path, table)
    proxy = await alone(upstream.base_url, *QUICK, *flags, OTHER_KEY=KEY)
    upstream.script("keyed", BUSY)
    other.script("keyed", whole("keyed"))
    check_complete(await stream(proxy.port, "keyed", headers=CLIENT))
    [sent] = [request for request in other.requests if request.model == "keyed"]
    assert sent.header("authorization") == f"Bearer {KEY}"
    assert sent.header("x-title") == "ours"
    assert not any(sent.header(name) for name in ("api-key", "x-api-key", "cookie"))
    assert not any("client" in value for _, value in sent.headers)
    primary = [request for request in upstream.requests if request.model == "keyed"]
    assert len(primary) == 3
    assert {request.header("authorization") for request in primary} == {"Bearer sk-client"}
    assert {request.header("x-title") for request in primary} == {"the client's title"}
    assert KEY not in proxy.stdout + proxy.stderr


async def test_a_fallback_without_a_key_gets_the_client_s(
    helped: Proxy, upstream: MisbehavingUpstream, other: MisbehavingUpstream
) -> None:
    """What the client sent as its key goes to whoever is asked; a cookie to nobody."""
    upstream.script("unkeyed", BUSY)
    other.script("unkeyed", whole("unkeyed"))
    check_complete(await stream(helped.port, "unkeyed", headers=CLIENT))
    [sent] = [request for request in other.requests if request.model == "unkeyed"]
    assert sent.header("authorization") == "Bearer sk-client"
    assert sent.header("api-key") == "client-azure-key"
    assert sent.header("x-api-key") == "client-other-key"
    assert sent.header("cookie") is None


async def test_another_upstream_finishes_a_deterministic_answer(
    helped: Proxy, upstream: MisbehavingUpstream, other: MisbehavingUpstream
) -> None:
    """The primary cuts every attempt after content; the other's same words are joined on."""
    upstream.script("shared", lambda asked, attempt: cut(stream_for(asked, attempt), GIVEN))
    other.script("shared", whole("shared", 9))
    before = await idle(helped)
    check_joined(await stream(helped.port, "shared", temperature=0))
    counted = (await idle(helped)).since(before)
    assert len(asked_for(upstream, "shared")) == 3
    assert asked_for(other, "shared") == asked_for(upstream, "shared")[:1]
    cause = ("cut_between_events", "mid_content")
    assert counted.incidents == {(*cause, "replayed"): 2.0, (*cause, "fell_back"): 1.0}
    assert recoveries(counted) == {("replay", "failed"): 2.0, ("fallback", "success"): 1.0}


async def test_recovery_off_means_that_nobody_else_is_asked(
    helped: Proxy, upstream: MisbehavingUpstream, other: MisbehavingUpstream
) -> None:
    """The header keeps a request from the fallback: one attempt, the upstream's own error."""
    upstream.script("alone", BUSY)
    got = await stream(helped.port, "alone", headers=[("X-Wholestream-Recovery", "off")])
    assert (got.status, got.error["code"]) == (503, "overloaded")
    assert len(asked_for(upstream, "alone")) == 1
    assert asked_for(other, "alone") == []


async def test_a_dead_primary_is_no_matter_where_there_is_another(
    alone: Starter, other: MisbehavingUpstream, tmp_path: Path
) -> None:
    """Nobody listens at the first upstream: the other one answers."""
    proxy = await alone("http://127.0.0.1:9/v1", *QUICK, *configured(tmp_path, towards(other)))
    other.script("dead", whole("dead"))
    check_complete(await stream(proxy.port, "dead"))
    assert len(asked_for(other, "dead")) == 1


# --- continuation ---------------------------------------------------------------------------

MESSAGES = [{"role": "user", "content": "How do streams end?"}]
ASSISTANT = {"role": "assistant", "content": PART}
CONTINUED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "completions": (
        "completions",
        {"prompt": "Say it. ", "max_tokens": 50},
        {"prompt": f"Say it. {PART}", "max_tokens": 50 - GIVEN, "echo": False},
    ),
    "vllm": (
        "chat_completions",
        {"messages": MESSAGES, "max_tokens": 50},
        {
            "messages": [*MESSAGES, ASSISTANT],
            "max_tokens": 50 - GIVEN,
            "continue_final_message": True,
            "add_generation_prompt": False,
        },
    ),
    "prefill": (
        "chat_completions",
        {"messages": MESSAGES, "max_completion_tokens": 50},
        {"messages": [*MESSAGES, ASSISTANT], "max_completion_tokens": 50 - GIVEN},
    ),
    "prefix": (
        "chat_completions",
        {"messages": MESSAGES},
        {"messages": [*MESSAGES, {**ASSISTANT, "prefix": True}]},
    ),
}


@pytest.mark.parametrize("way", CONTINUED)
async def test_a_continuation_asks_for_exactly_the_rest(
    started: Starter, upstream: MisbehavingUpstream, way: str
) -> None:
    """The second body is the first with the partial answer in its place, field for field."""
    proxy = await started(upstream.base_url, *QUICK, "--recovery-continuation", way)
    endpoint, fields, changed = CONTINUED[way]
    model = f"continued-{way}"
    asked = Asked(endpoint, model)
    rest = sse(*stream_for(asked, 2, REST).events)
    upstream.script(model, [cut(stream_for(asked, 1), GIVEN), rest])
    got = await stream(proxy.port, model, endpoint, temperature=0.7, **fields)
    check_joined(got, endpoint)
    first, second = asked_for(upstream, model)
    assert first == {"model": model, "stream": True, "temperature": 0.7, **fields}
    assert second == {**first, **changed}


async def test_an_echo_of_the_partial_answer_is_taken_off(
    started: Starter, upstream: MisbehavingUpstream
) -> None:
    """An upstream that begins with what it was given: every character is there once."""
    proxy = await started(upstream.base_url, *QUICK, "--recovery-continuation", "prefill")
    upstream.script("echo", [cut(stream_for(Asked(model="echo"), 1), GIVEN), whole("echo")])
    check_joined(await stream(proxy.port, "echo", messages=MESSAGES))


# --- holds ----------------------------------------------------------------------------------

BEATS = (*QUICK, "--commit-after-s", "0.1", "--heartbeat-s", "0.1", "--stall-timeout-s", "3")


def silent(chunks: list[bytes]) -> int:
    """Return how many heartbeats came before the first event."""
    return next(at for at, chunk in enumerate(chunks) if chunk != HEARTBEAT)


async def test_heartbeats_arrive_while_all_is_held(
    started: Starter, upstream: MisbehavingUpstream
) -> None:
    """A long stall before the end: the client hears of nothing else, then gets all at once."""
    proxy = await started(upstream.base_url, *BEATS, "--recovery-hold", "all")
    asked = stream_for(Asked(model="held"), 1)
    upstream.script("held", sse(*asked.opening, *asked.content, Pause(0.8), *asked.closing))
    got = await stream(proxy.port, "held")
    check_joined(got)
    assert silent(got.chunks) >= 3
    assert HEARTBEAT not in got.chunks[silent(got.chunks) :]


async def test_what_is_held_can_be_restarted_as_often_as_it_breaks(
    started: Starter, upstream: MisbehavingUpstream
) -> None:
    """Two cuts just before the end: the third answer is all that is seen, under its own id."""
    proxy = await started(upstream.base_url, *BEATS, "--recovery-hold", "all")
    model = "held-cut"
    upstream.script(model, [*(_almost(model, attempt) for attempt in (1, 2)), whole(model, 3)])
    got = await stream(proxy.port, model, temperature=0.7)
    check_complete(got)
    heard = Heard.of(got.payloads)
    assert (heard.text, heard.roles) == (TEXT, 1)
    assert [identity[0] for identity in heard.identities] == ["chatcmpl-demo-a3"]


def _almost(model: str, attempt: int) -> Answer:
    broken = stream_for(Asked(model=model), attempt)
    return cut(broken, len(broken.content))


def _calls(got: Reply) -> tuple[set[str], str]:
    """Return the ids of the tool calls heard, and all their arguments."""
    names, arguments = set(), ""
    for data in got.payloads:
        for choice in [] if data == b"[DONE]" else json.loads(data)["choices"]:
            for called in choice["delta"].get("tool_calls", ()):
                names |= {called["id"]} if "id" in called else set()
                arguments += called["function"]["arguments"]
    return names, arguments


async def test_half_a_tool_call_is_never_seen(
    started: Starter, upstream: MisbehavingUpstream
) -> None:
    """Cut in the middle of the arguments: one call, of one id, with whole arguments."""
    proxy = await started(upstream.base_url, *QUICK, "--recovery-hold", "tool_calls")
    first, second = (chat_tool(Asked(model="call"), attempt) for attempt in (1, 2))
    upstream.script("call", [cut(first, 4), sse(*second.events)])
    got = await stream(proxy.port, "call", temperature=0.7)
    check_complete(got)
    assert _calls(got) == ({"call_demo_a2"}, TOOL_ARGUMENTS)


async def test_text_streams_on_while_a_tool_call_is_held(started: Starter, stage: Stage) -> None:
    """The words come at once, the call only when it is complete, heartbeats in between."""
    proxy = await started(stage.base_url, *BEATS, "--recovery-hold", "tool_calls")
    text, called = stream_for(Asked(), 1), chat_tool(Asked(), 1)
    arrived, waited = asyncio.Event(), asyncio.Event()

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        for event in (*text.opening, *text.content):
            await exchange.chunk(event)
        await arrived.wait()
        for event in called.content:
            await exchange.chunk(event)
        await waited.wait()
        for event in (*called.closing, b""):
            await exchange.chunk(event)

    async with connected(proxy.port) as wire:
        headers = [stage.plays("text-and-call", play)]
        await wire.ask(PATHS["chat_completions"], asking("m"), headers=headers)
        got = await wire.head()
        while Heard.of(got.payloads).text != TEXT:
            got.chunks.append(await wire.chunk())
        arrived.set()
        held = [await wire.chunk() for _ in range(3)]
        assert held == [HEARTBEAT] * 3
        waited.set()
        await wire.rest(got)
    check_complete(got)
    assert _calls(got) == ({"call_demo_a1"}, TOOL_ARGUMENTS)
