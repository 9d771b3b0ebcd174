"""What is held back over real sockets: what the client hears meanwhile, and what it never sees."""

from __future__ import annotations

import asyncio
import json

from e2e.child import QUICK
from e2e.conftest import Starter
from e2e.retold import Heard, check_joined, cut, whole
from e2e.stage import CHUNKED, EVENT_STREAM, Exchange, Stage
from e2e.wire import HEARTBEAT, PATHS, Reply, asking, check_complete, connected, stream
from proxy.demo.answers import Answer, Asked, Pause, sse
from proxy.demo.bodies import TEXT, TOOL_ARGUMENTS, chat_tool, stream_for
from proxy.demo.upstream import MisbehavingUpstream

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
