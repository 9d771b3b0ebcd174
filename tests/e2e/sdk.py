"""The official ``openai`` SDK as applications use it, every way there is to read a stream.

Knows the SDK and how an application would read it. Must not know that there is a proxy, but for
its address.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import openai

PROMPT = "How do streams end?"
PATIENCE_S = 20.0


@dataclass
class Notes:
    """What an application has seen of one call."""

    text: str = ""
    finished: bool = False
    identities: set[str] = field(default_factory=set)
    error: Exception | None = None

    def chat(self, chunk: Any) -> None:
        """Take a chunk of a chat, as a careful application does: some servers send no delta."""
        self.identities.add(chunk.id)
        for choice in chunk.choices:
            self.finished |= bool(choice.finish_reason)
            if choice.delta is None:
                continue
            self.text += choice.delta.content or ""
            for tool in choice.delta.tool_calls or ():
                self.text += (tool.function and tool.function.arguments) or ""

    def chat_event(self, event: Any) -> None:
        """Take an event of the chat helper, or the completion that it has in the end."""
        if not hasattr(event, "type"):
            self.finished &= bool(event.choices[0].finish_reason)
        elif event.type == "chunk":
            self.chat(event.chunk)

    def completion(self, chunk: Any) -> None:
        """Take a chunk of a legacy completion; its text may be null as well."""
        self.identities.add(chunk.id)
        for choice in chunk.choices:
            self.text += choice.text or ""
            self.finished |= bool(choice.finish_reason)

    def response(self, event: Any) -> None:
        """Take an event of a response, or the response that the helper has in the end."""
        if not hasattr(event, "type"):
            self.finished &= event.status == "completed"
            return
        if event.type == "response.output_text.delta":
            self.text += event.delta
        if event.type.startswith("response.") and hasattr(event, "response"):
            self.identities.add(event.response.id)
        self.finished |= event.type == "response.completed"


Read = Callable[[Any, str, Notes], Awaitable[None]]
"""From a client and a model to what is noted."""


def sync_client(base_url: str, retries: int = 0) -> openai.OpenAI:
    """Make a client as a user would; without the proxies of the environment."""
    return openai.OpenAI(
        base_url=base_url,
        api_key="test-key",
        max_retries=retries,
        timeout=PATIENCE_S,
        http_client=openai.DefaultHttpxClient(trust_env=False, timeout=PATIENCE_S),
    )


def async_client(base_url: str, retries: int = 0) -> openai.AsyncOpenAI:
    """Make an asynchronous client."""
    return openai.AsyncOpenAI(
        base_url=base_url,
        api_key="test-key",
        max_retries=retries,
        timeout=PATIENCE_S,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False, timeout=PATIENCE_S),
    )


def _messages() -> Any:
    return [{"role": "user", "content": PROMPT}]


# --- one after another ----------------------------------------------------------------------


def _sync(open_: Callable[[Any, str], Iterator[Any]], note: Callable[[Notes, Any], None]) -> Read:
    def read(client: Any, model: str, notes: Notes) -> None:
        for event in open_(client, model):
            note(notes, event)

    async def in_thread(client: Any, model: str, notes: Notes) -> None:
        await asyncio.to_thread(read, client, model, notes)

    return in_thread


def _async(
    open_: Callable[[Any, str], AsyncIterator[Any]], note: Callable[[Notes, Any], None]
) -> Read:
    async def read(client: Any, model: str, notes: Notes) -> None:
        async for event in open_(client, model):
            note(notes, event)

    return read


def _chat(client: Any, model: str) -> Iterator[Any]:
    yield from client.chat.completions.create(model=model, messages=_messages(), stream=True)


def _chat_helper(client: Any, model: str) -> Iterator[Any]:
    with client.chat.completions.stream(model=model, messages=_messages()) as stream:
        yield from stream
        yield stream.get_final_completion()


def _completion(client: Any, model: str) -> Iterator[Any]:
    yield from client.completions.create(model=model, prompt=PROMPT, stream=True)


def _response(client: Any, model: str) -> Iterator[Any]:
    yield from client.responses.create(model=model, input=PROMPT, stream=True)


def _response_helper(client: Any, model: str) -> Iterator[Any]:
    with client.responses.stream(model=model, input=PROMPT) as stream:
        yield from stream
        yield stream.get_final_response()


async def _chat_async(client: Any, model: str) -> AsyncIterator[Any]:
    stream = await client.chat.completions.create(model=model, messages=_messages(), stream=True)
    async for chunk in stream:
        yield chunk


async def _chat_helper_async(client: Any, model: str) -> AsyncIterator[Any]:
    async with client.chat.completions.stream(model=model, messages=_messages()) as stream:
        async for event in stream:
            yield event
        yield await stream.get_final_completion()


async def _completion_async(client: Any, model: str) -> AsyncIterator[Any]:
    async for chunk in await client.completions.create(model=model, prompt=PROMPT, stream=True):
        yield chunk


async def _response_async(client: Any, model: str) -> AsyncIterator[Any]:
    async for event in await client.responses.create(model=model, input=PROMPT, stream=True):
        yield event


async def _response_helper_async(client: Any, model: str) -> AsyncIterator[Any]:
    async with client.responses.stream(model=model, input=PROMPT) as stream:
        async for event in stream:
            yield event
        yield await stream.get_final_response()


READERS: dict[str, tuple[str, Read]] = {
    "chat": ("chat_completions", _sync(_chat, Notes.chat)),
    "chat-helper": ("chat_completions", _sync(_chat_helper, Notes.chat_event)),
    "completions": ("completions", _sync(_completion, Notes.completion)),
    "responses": ("responses", _sync(_response, Notes.response)),
    "responses-helper": ("responses", _sync(_response_helper, Notes.response)),
    "chat-async": ("chat_completions", _async(_chat_async, Notes.chat)),
    "chat-helper-async": ("chat_completions", _async(_chat_helper_async, Notes.chat_event)),
    "completions-async": ("completions", _async(_completion_async, Notes.completion)),
    "responses-async": ("responses", _async(_response_async, Notes.response)),
    "responses-helper-async": ("responses", _async(_response_helper_async, Notes.response)),
}
"""Every way to read a stream, with its endpoint."""


async def read_all(reader: str, base_url: str, models: Sequence[str]) -> list[Notes]:
    """Read a stream of each model at once with one client; exceptions are noted, of any kind."""

    async def one(client: Any, model: str) -> Notes:
        notes = Notes()
        try:
            await READERS[reader][1](client, model, notes)
        except Exception as error:  # noqa: BLE001 - whatever an application would meet
            # Without its frames: they hold the SDK's generators.
            notes.error = error.with_traceback(None)
            notes.error.__context__ = notes.error.__cause__ = None
        return notes

    if reader.endswith("-async"):
        async with async_client(base_url) as client:
            seen = await asyncio.gather(*(one(client, model) for model in models))
        # What the SDK left to the collector must not be left to one that runs in another thread.
        gc.collect()
        await asyncio.sleep(0.01)
        return seen
    with sync_client(base_url) as sync:
        return await asyncio.gather(*(one(sync, model) for model in models))
