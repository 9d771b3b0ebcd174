"""The official SDKs at the doors other than text: images, uploads, speech, runs, agents; and Azure.

Whole answers are what the upstream said, broken ones raise ``APIError``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import openai
import pytest

from e2e.child import QUICK, Proxy, idle
from e2e.conftest import Starter
from e2e.doors import DOORS, Door
from e2e.reading import FILE, Call, Sdk, Told, read_all
from e2e.sdk import PATIENCE_S, async_client
from proxy.demo.answers import Asked, End, sse
from proxy.demo.bodies import TEXT, stream_for
from proxy.demo.bodies_media import text_of
from proxy.demo.shapes import payload_of
from proxy.demo.upstream import MisbehavingUpstream
from proxy.demo.wire import Received

GIVEN = 3

Params = dict[str, Any]


@dataclass(frozen=True)
class Read:
    """What an application calls, and the door that it comes to by it."""

    door: Door
    params: Params
    where: str = "model"
    """Where the model is told."""

    def params_for(self, model: str) -> Params:
        """Return the parameters with a model in them."""
        if self.where == "agent":
            return {**self.params, "agent": {"model": model}}
        if self.where == "query":
            return {**self.params, "extra_query": {"model": model}}
        return {**self.params, "model": model}


_PROMPT = {"prompt": "Paint it."}
_ASSISTANT = {"assistant_id": "asst_15"}
READS = {
    "images": Read(DOORS["images"], {**_PROMPT, "partial_images": 3}),
    "edits": Read(DOORS["edits, fields first"], {**_PROMPT, "n": 1}),
    "transcriptions": Read(DOORS["transcriptions, fields first"], {}),
    "runs": Read(DOORS["runs"], {**_ASSISTANT, "thread_id": "thread_15"}),
    "threads": Read(DOORS["thread and run"], _ASSISTANT),
}
AGENTS = {
    "agents": Read(DOORS["agents"], {"environment": {"type": "none"}, "input": "Go."}, "agent"),
    "session": Read(DOORS["agents, events"], {"session_id": "sess_15"}, "query"),
}
SDKS: list[Any] = [
    *("python", "python-async"),
    pytest.param("openai", marks=pytest.mark.node),
    pytest.param("openai-6", marks=pytest.mark.node),
]

pytestmark = pytest.mark.filterwarnings("ignore:The Assistants API is deprecated")


def said(family: str, items: list[Told]) -> str:
    """Return the text that an application has."""
    if family in {"images", "edits"}:
        return text_of(items[-1]["b64_json"])
    if family == "transcriptions":
        return "".join(item.get("delta", "") for item in items)
    if family in AGENTS:
        return "".join(item.get("delta", "") for item in items)
    deltas = [item["data"]["delta"] for item in items if item["event"] == "thread.message.delta"]
    return "".join(part["text"]["value"] for delta in deltas for part in delta["content"])


@dataclass(frozen=True)
class Heard:
    """What an application read at a door, what the upstream sent, and for which model."""

    told: Told
    sent: list[Told]
    model: str


async def read_at(
    proxy: Proxy, upstream: MisbehavingUpstream, sdk: Sdk, families: Iterable[str], end: End | None
) -> dict[str, Heard]:
    """Read a stream at each door, whole or broken off."""
    heard: dict[str, Heard] = {}
    calls = []
    for family in families:
        read, model = {**READS, **AGENTS}[family], f"sdk-{sdk}-{family}-{end}"
        events = read.door.stream(model).events
        upstream.script(model, sse(*events) if end is None else sse(*events[:GIVEN], end=end))
        calls.append(Call(model, sdk, f"{family} raw", read.params_for(model), {}))
        payloads = [payload_of(event)[1] for event in events]
        sent = [json.loads(data) for data in payloads if data != b"[DONE]"]
        heard[family] = Heard({}, sent, model)
    told = await read_all(proxy.base_url, calls)
    return {family: replace(one, told=told[one.model]) for family, one in heard.items()}


def request_for(upstream: MisbehavingUpstream, model: str) -> Received:
    """Return the one request for a model."""
    [request] = [request for request in upstream.requests if request.model == model]
    return request


@pytest.mark.parametrize("sdk", SDKS)
async def test_an_application_has_all_of_a_whole_answer(
    proxy: Proxy, upstream: MisbehavingUpstream, sdk: Sdk
) -> None:
    """Every event in order with all its fields, read by the SDK's own types."""
    before = await idle(proxy)
    for family, heard in (await read_at(proxy, upstream, sdk, READS, None)).items():
        assert "error" not in heard.told, heard
        items = heard.told["items"]
        data = [item["data"] for item in items] if family in {"runs", "threads"} else items
        assert data == heard.sent
        assert said(family, items) == TEXT
        request = request_for(upstream, heard.model)
        if family in {"edits", "transcriptions"}:
            assert (request.header("content-type") or "").startswith("multipart/form-data")
            # The SDKs differ in this, and so in what is known of an answer before it comes.
            first = request.body.index(b"filename=") < request.body.index(b'name="stream"')
            assert first is sdk.startswith("openai")
            assert FILE[1][:5] in request.body
    after = (await idle(proxy)).since(before)
    expected = Counter((read.door.endpoint, "complete") for read in READS.values())
    assert after.streams == expected


@pytest.mark.parametrize("end", ["fin", "clean", "reset"])
@pytest.mark.parametrize("sdk", SDKS)
async def test_an_application_is_told_of_a_broken_answer(
    proxy: Proxy, upstream: MisbehavingUpstream, sdk: Sdk, end: End
) -> None:
    """``APIError`` and nothing else, with the contract's code: never a silent end."""
    for heard in (await read_at(proxy, upstream, sdk, READS, end)).values():
        error = heard.told["error"]
        assert error["api_error"], error
        assert "Connection" not in error["name"], error
        # Of a reset right behind the head nothing may be left to be told in a stream.
        assert error["code"] in {"stream_incomplete", "upstream_unreachable"}
        if end != "reset":
            assert error["code"] == "stream_incomplete"
            assert "3 events before this one are whole" in error["message"]


@pytest.mark.parametrize("sdk", ["python", "python-async"])
async def test_an_application_has_all_of_a_session(
    proxy: Proxy, upstream: MisbehavingUpstream, sdk: Sdk
) -> None:
    """The turn that was asked for, and the events of a session as they come."""
    for family, heard in (await read_at(proxy, upstream, sdk, AGENTS, None)).items():
        assert "error" not in heard.told, heard
        assert heard.told["items"] == heard.sent
        assert said(family, heard.told["items"]) == TEXT


async def test_a_broken_session_ends_with_an_item_that_says_so(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """The SDK hands errors of sessions to the application like any other item."""
    for heard in (await read_at(proxy, upstream, "python-async", AGENTS, "fin")).values():
        *before, last = heard.told["items"]
        assert before == heard.sent[:GIVEN]
        assert last["type"] == "error"
        assert last["error"]["code"] == "stream_incomplete"


async def test_speech_is_read_as_the_events_that_it_is(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """The SDK has no events for it, only bytes: whole events, of which the last one says so."""
    door = DOORS["speech"]
    for model, count in (("sdk-speech-whole", None), ("sdk-speech-cut", GIVEN)):
        events = door.stream(model).events
        upstream.script(model, sse(*events[:count]))
        async with (
            async_client(proxy.base_url) as client,
            client.audio.speech.with_streaming_response.create(
                model=model, voice="alloy", input="Say it.", stream_format="sse"
            ) as answer,
        ):
            body = b"".join([part async for part in answer.iter_bytes()])
        assert body.startswith(b"".join(events[:count]))
        rest = body.removeprefix(b"".join(events[:count]))
        if count is None:
            assert rest == b""
        else:
            told = json.loads(payload_of(rest)[1])["error"]
            assert (told["code"], told["retryable"]) == ("stream_incomplete", True)


# --- Azure ----------------------------------------------------------------------------------


async def test_the_sdk_s_client_for_azure_reads_through_the_proxy(
    started: Starter, upstream: MisbehavingUpstream
) -> None:
    """Its endpoint is the proxy's origin; path, version and key are Azure's own."""
    base = f"http://127.0.0.1:{upstream.port}/openai/v1"
    proxy = await started(base, *QUICK, "--profile", "azure")
    whole, cut = "azure-whole", "azure-cut"
    stream = stream_for(Asked(model=cut), 1)
    upstream.script(whole, sse(*stream_for(Asked(model=whole), 1).events))
    upstream.script(cut, sse(*stream.opening, *stream.content[:GIVEN], end="fin"))
    client = openai.AsyncAzureOpenAI(
        azure_endpoint=f"http://127.0.0.1:{proxy.port}",
        api_key="azure-key",
        api_version="2024-10-21",
        max_retries=0,
        timeout=PATIENCE_S,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False, timeout=PATIENCE_S),
    )
    before = await idle(proxy)
    async with client:
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model=whole, messages=[], stream=True
            )
        ]
        text = "".join(choice.delta.content or "" for one in chunks for choice in one.choices)
        assert text == TEXT
        with pytest.raises(openai.APIError) as caught:
            async for _ in await client.chat.completions.create(
                model=cut, messages=[], stream=True
            ):
                pass
    assert caught.value.code == "stream_incomplete"
    assert not isinstance(caught.value, openai.APIConnectionError)
    after = (await idle(proxy)).since(before)
    assert after.streams == {
        ("chat_completions", "complete"): 1.0,
        ("chat_completions", "failed"): 1.0,
    }
    request = request_for(upstream, whole)
    path = f"/openai/deployments/{whole}/chat/completions?api-version=2024-10-21"
    assert request.target == path
    assert request.header("api-key") == "azure-key"
    assert request.header("authorization") is None
