"""Other upstreams and continuation over real sockets: who is sent what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from e2e.child import QUICK, Proxy, idle
from e2e.conftest import Starter
from e2e.retold import asked_for, check_joined, cut, recoveries, whole
from e2e.wire import Pairs, check_complete, stream
from proxy.demo.answers import Asked, error_reply, sse
from proxy.demo.bodies import TEXT, stream_for
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
