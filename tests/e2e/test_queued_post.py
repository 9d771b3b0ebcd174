"""A background response that is not running yet: its POST is not let go while it is resumed."""

from __future__ import annotations

import asyncio
import json

from support import lifecycle, spoken, sse

from e2e.conftest import Starter
from e2e.stage import CHUNKED, EVENT_STREAM, JSON, Exchange, Stage
from e2e.wire import PATIENCE_S, call

FLAGS = ("--stall-timeout-s", "0.3", "--backoff-base-s", "0")
OPENERS = sse(lifecycle("created", 0), lifecycle("queued", 1))
REST = sse(lifecycle("in_progress", 2), spoken(3), lifecycle("completed", 4))


async def test_the_post_stays_open_until_the_resumed_stream_has_ended(
    stage: Stage, started: Starter
) -> None:
    """A response that is left while it is queued may never run."""
    proxy = await started(stage.base_url, *FLAGS)
    left = asyncio.Event()
    still_there: list[bool] = []

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(200, (*EVENT_STREAM, *CHUNKED))
        if exchange.method == "POST":
            await exchange.chunk(OPENERS)
            await exchange.left()
            left.set()
            return
        still_there.append(not left.is_set())
        await exchange.chunk(REST)
        await exchange.chunk(b"")

    named = stage.plays("queued", play)
    body = json.dumps({"model": "m", "stream": True, "background": True}).encode()
    got = await call(proxy.port, "/v1/responses", body, headers=[named])
    assert got.status == 200
    assert got.body == OPENERS + REST
    assert still_there == [True]
    async with asyncio.timeout(PATIENCE_S):
        await left.wait()
    targets = [exchange.target for exchange in stage.exchanges["queued"]]
    assert targets[1] == "/v1/responses/resp_1?stream=true&starting_after=1"


async def test_what_a_re_attachment_is_answered_with_is_never_the_clients_answer(
    stage: Stage, started: Starter
) -> None:
    """A server that knows no stream there says 200 and JSON, which nobody asked for."""
    proxy = await started(stage.base_url, *FLAGS)
    state = json.dumps({"id": "resp_1", "status": "in_progress", "output": []}).encode()

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        if exchange.method == "POST":
            await exchange.answer(200, (*EVENT_STREAM, *CHUNKED))
            await exchange.chunk(OPENERS)
            exchange.reset()
            return
        length = ("Content-Length", str(len(state)))
        await exchange.answer(200, (JSON, length), state)

    named = stage.plays("stateful", play)
    body = json.dumps({"model": "m", "stream": True, "background": True}).encode()
    got = await call(proxy.port, "/v1/responses", body, headers=[named])
    assert got.status == 502
    assert b"in_progress" not in got.body
    targets = [exchange.target for exchange in stage.exchanges["stateful"]]
    assert targets[2:] == ["/v1/responses/resp_1"]
