"""Runs scenarios of the fault list through a system, with the official SDK, and notes the facts.

Knows the SDK, the provider's ear and the system's address. Must not know what is right: that is
for ``faultlist``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import openai

from e2e.faultlist import (
    FALLBACK,
    FAULTS,
    PREFILL_CODE,
    SLACK_S,
    Call,
    Fault,
    Run,
    Verdict,
    healthy,
    scaled,
)
from e2e.sdk import PROMPT
from proxy.demo.answers import Answer, Asked, error_reply
from proxy.demo.upstream import MisbehavingUpstream

HANG_S = scaled(120) + 2.0
"""A call that is not over by then never will be."""

_MESSAGES: Any = [{"role": "user", "content": PROMPT}]


class Provider:
    """The provider: its scenario is the model; ``fb-ok`` is healthy, and takes no prefill."""

    def __init__(self, upstream: MisbehavingUpstream) -> None:
        """Take the server that is to play the provider."""
        self.upstream = upstream
        self.prefills = 0
        for fault in FAULTS.values():
            upstream.script(model_of(fault), fault.provider())
        upstream.script("alive", healthy)
        upstream.script(FALLBACK, self._answer_unless_prefilled)

    def arrivals(self, model: str) -> list[float]:
        """Return when requests for a model arrived."""
        return [request.at for request in self.upstream.requests if request.model == model]

    def _answer_unless_prefilled(self, asked: Asked, attempt: int) -> Answer:
        requests = [one for one in self.upstream.requests if one.model == FALLBACK]
        if requests[attempt - 1].fields["messages"][-1]["role"] != "assistant":
            return healthy(asked, attempt)
        self.prefills += 1
        return error_reply(400, PREFILL_CODE, "The last message must be the user's.")


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """Start a provider."""
    async with MisbehavingUpstream() as upstream:
        yield Provider(upstream)


def model_of(fault: Fault) -> str:
    """Return the model that stands for a fault."""
    return f"bench-{fault.id.lower()}"


@dataclass
class Bench:
    """One system under test; ``after_call`` is awaited after each call."""

    provider: Provider
    base_url: str
    has_fallback: bool = True
    after_call: Callable[[], Awaitable[None]] | None = None
    runs: dict[str, Run] = field(default_factory=dict)

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict on each run."""
        return {name: FAULTS[name].verdict(run) for name, run in self.runs.items()}

    async def play(self, *ids: str) -> None:
        """Play scenarios one after another, all of them unless some are named."""
        async with self._client() as client:
            for name in ids or FAULTS:
                self.runs[name] = await self._play(client, FAULTS[name])

    def _client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key="test-key",
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False, timeout=self._patience_s),
        )

    @property
    def _patience_s(self) -> float:
        # Without a system that watches over it, it is the client that must.
        return HANG_S if self.has_fallback else scaled(30)

    async def _play(self, client: openai.AsyncOpenAI, fault: Fault) -> Run:
        loop = asyncio.get_running_loop()
        model, before = model_of(fault), len(self.provider.arrivals(FALLBACK))
        run = Run(loop.time(), has_fallback=self.has_fallback)
        for number in range(fault.calls):
            await asyncio.sleep(run.began + number * scaled(fault.every_s) - loop.time())
            run.calls.append(await call(client, model))
            if self.after_call is not None:
                await self.after_call()
        run.primary = self.provider.arrivals(model)
        run.fallback = self.provider.arrivals(FALLBACK)[before:]
        well = await call(client, "alive")
        run.alive = well.whole and well.took_s <= scaled(10) + SLACK_S
        return run

    def table(self) -> str:
        """Return the verdicts as a table."""
        lines = []
        for name, verdict in self.verdicts.items():
            fault, run = FAULTS[name], self.runs[name]
            asked = f"{len(run.primary):>3} + {len(run.fallback):<2}"
            lines.append(f"{name}  {verdict:<8} {asked} {run.longest_s:6.2f} s  {fault.title}")
            lines += [f"     {failed}" for failed in fault.failed_checks(run)]
        return "\n".join(["id   verdict  attempts longest", *lines])


async def call(client: openai.AsyncOpenAI, model: str) -> Call:
    """Make one call as an application would, and note what it saw."""
    loop = asyncio.get_running_loop()
    seen, began = Call(), loop.time()
    try:
        async with asyncio.timeout(HANG_S):
            await _read(client, model, seen)
    except TimeoutError:
        seen.hung = True
    except Exception as error:  # noqa: BLE001 - whatever an application would meet
        seen.error = type(error).__name__
        seen.code = str(getattr(error, "code", None) or "")
    seen.took_s = loop.time() - began
    return seen


async def _read(client: openai.AsyncOpenAI, model: str, seen: Call) -> None:
    stream = await client.chat.completions.create(
        model=model, messages=_MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    async with stream:
        async for chunk in stream:
            seen.model = chunk.model
            seen.usage |= chunk.usage is not None
            for choice in chunk.choices:
                seen.text += choice.delta.content or ""
                seen.finished |= bool(choice.finish_reason)
