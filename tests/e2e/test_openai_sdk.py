"""The official SDK sees whole answers or ``APIError``, whatever the upstream does."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import openai
import pytest

from e2e.child import QUICK, Proxy, idle
from e2e.conftest import Starter
from e2e.cuts import borders
from e2e.sdk import READERS, Notes, async_client, read_all, sync_client
from proxy.demo.answers import Answer, Asked, Pause, error_reply, reply, sse
from proxy.demo.bodies import TEXT, stream_for
from proxy.demo.scenario import Scenario
from proxy.demo.scenarios import SCENARIOS
from proxy.demo.shapes import words
from proxy.demo.upstream import MisbehavingUpstream

SHORT_S = 0.1
"""No pause of a scenario is longer here."""

PAUSED = ("ws-slow", "ws-long-silence", "ws-lifetime-cap")
"""Scenarios whose pauses are longer than that, or than the proxy's patience here."""

BUSY = (["ws-one-byte-writes", "ws-utf8-split"], ["ws-flood"])
"""Read apart: thousands of writes and events keep the loop from the others' short patience."""

NAMELESS = {"ws-empty-choices"}
"""Azure's own chunks have an empty id, the others the answer's; both pass as they are."""

GIVES_WAY: dict[tuple[str, str], str] = {
    # Every chunk without an ``object`` is left out by the helper, because of Azure's
    # (``_is_valid_chat_completion_chunk_weak``): words are missing, and no error is raised.
    ("ws-null-fields", "chat-helper"): "words left out",
    # The helper raises this, of all finish reasons, on an answer that is whole.
    ("ws-content-filter", "chat-helper"): "ContentFilterFinishReasonError",
}
"""What the SDK itself makes of a scenario that passes unchanged, by design or by mistake."""

CURES = (
    *("--quirks-fill-fields", "true", "--quirks-empty-choices", "drop"),
    *("--quirks-nan", "null", "--quirks-finish-reason", "added"),
)
"""Flags for an upstream that leaves out what applications need."""

CURED = ("ws-empty-choices", "ws-null-fields", "ws-no-finish-reason", "ws-nan")


def _judge(notes: Notes, scenario: Scenario, way_out: str = "") -> str:
    """Return what is wrong with what an application saw, or nothing."""
    if len(notes.identities - ({""} if scenario.name in NAMELESS else set())) > 1:
        return f"several identities: {notes.identities}"
    if way_out == "words left out":
        left = iter(words(scenario.text))
        some = all(word in left for word in words(notes.text))
        return "" if some and notes.error is None and not notes.finished else f"unknown: {notes}"
    if not scenario.text.startswith(notes.text):
        return f"no prefix: {notes.text!r}"
    if scenario.expected == "complete":
        whole = notes.text == scenario.text and notes.finished is scenario.finishes
        told = "" if notes.error is None else type(notes.error).__name__
        return "" if whole and told == way_out else f"not whole: {notes}"
    return _judge_error(notes.error, scenario)


def _judge_error(error: Exception | None, scenario: Scenario) -> str:
    if not isinstance(error, openai.APIError) or isinstance(error, openai.APIConnectionError):
        return f"no APIError: {error!r}"
    if scenario.expected == "upstream error":
        status = scenario.misbehave(Asked(model=scenario.name), 1).status
        return "" if getattr(error, "status_code", 0) == status else f"wrong status: {error!r}"
    return ""


def _hurried(asked: Asked, attempt: int) -> Answer:
    answer = SCENARIOS[asked.model].answer(asked, attempt)
    pieces = (
        Pause(min(piece.seconds, SHORT_S)) if isinstance(piece, Pause) else piece
        for piece in answer.pieces
    )
    return replace(answer, pieces=tuple(pieces))


@pytest.mark.parametrize("reader", READERS)
async def test_every_misbehaviour_is_a_whole_answer_or_an_api_error(
    proxy: Proxy, upstream: MisbehavingUpstream, reader: str
) -> None:
    """All scenarios of the demonstration, read in every way the SDK offers."""
    endpoint = READERS[reader][0]
    names = [name for name, scenario in SCENARIOS.items() if endpoint in scenario.endpoints]
    upstream.rewind()
    for name in PAUSED:
        upstream.script(name, _hurried)
    seen: dict[str, Notes] = {}
    rest = [name for name in names if name not in {name for few in BUSY for name in few}]
    for few in (rest, *BUSY):
        notes = await read_all(reader, proxy.base_url, few)
        seen.update(zip(few, notes, strict=True))
    family = reader.removesuffix("-async")
    judged = (
        (name, _judge(seen[name], SCENARIOS[name], GIVES_WAY.get((name, family), "")))
        for name in names
    )
    assert {name: wrong for name, wrong in judged if wrong} == {}


@pytest.mark.parametrize("reader", [r for r in READERS if not r.startswith("responses")])
async def test_quirks_cure_what_the_sdk_cannot_take(
    started: Starter, upstream: MisbehavingUpstream, reader: str
) -> None:
    """Where they are set, every reader has the whole answer, and its end."""
    proxy = await started(upstream.base_url, *QUICK, *CURES)
    seen = await read_all(reader, proxy.base_url, CURED)
    for name, notes in zip(CURED, seen, strict=True):
        assert (notes.text, notes.finished, notes.error) == (TEXT, True, None), (name, notes)


@pytest.mark.parametrize("reader", READERS)
async def test_a_cut_after_content_raises_an_api_error_that_says_so(
    proxy: Proxy, upstream: MisbehavingUpstream, reader: str
) -> None:
    """The exception carries the contract's code, after an exact prefix of the text."""
    endpoint = READERS[reader][0]
    model = f"sdk-cut-{reader}"
    stream = stream_for(Asked(endpoint, model), 1)
    upstream.script(model, sse(*stream.opening, *stream.content[:6], end="fin"))
    [notes] = await read_all(reader, proxy.base_url, [model])
    assert isinstance(notes.error, openai.APIError)
    assert not isinstance(notes.error, openai.APIConnectionError)
    assert notes.error.code == "stream_incomplete"
    assert "cut_between_events" in notes.error.message
    assert notes.text
    assert TEXT.startswith(notes.text)
    assert not notes.finished


@pytest.mark.parametrize("reader", ["chat-helper-async", "responses-helper-async", "completions"])
async def test_a_cut_at_any_border_never_raises_anything_else(
    proxy: Proxy, upstream: MisbehavingUpstream, reader: str
) -> None:
    """Around every border of events the strictest readers see all of it, or an ``APIError``."""
    endpoint = READERS[reader][0]

    models = []
    for at in borders(stream_for(Asked(endpoint, f"sdk-at-{reader}-00000"), 1))[::3]:
        model = f"sdk-at-{reader}-{at:05}"
        body = b"".join(stream_for(Asked(endpoint, model), 1).events)[:at]
        whole = sse(*stream_for(Asked(endpoint, model), 2).events)
        upstream.script(model, [sse(body, end="fin"), whole])
        models.append(model)
    for notes in await read_all(reader, proxy.base_url, models):
        assert TEXT.startswith(notes.text)
        if notes.error is None:
            assert (notes.text, notes.finished) == (TEXT, True)
        else:
            assert isinstance(notes.error, openai.APIError)
            assert not isinstance(notes.error, openai.APIConnectionError)


async def test_the_sdk_does_not_multiply_attempts_that_are_spent(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """With its default retries the SDK makes one call, of three upstream attempts."""
    upstream.script("sdk-503", error_reply(503, "overloaded", "Try later."))
    async with async_client(proxy.base_url, retries=2) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="sdk-503", messages=[], stream=True)
    assert caught.value.status_code == 503
    assert [r.attempt for r in upstream.requests if r.model == "sdk-503"] == [1, 2, 3]


# --- what is no stream ----------------------------------------------------------------------


async def test_calls_without_a_stream_pass_unchanged(proxy: Proxy) -> None:
    """Chat, completions and responses give the upstream's own objects."""
    async with async_client(proxy.base_url) as client:
        chat = await client.chat.completions.create(model="ws-ok", messages=[])
        completion = await client.completions.create(model="ws-ok", prompt="p")
        response = await client.responses.create(model="ws-ok", input="p")
        models = [model.id async for model in client.models.list()]
    assert chat.choices[0].message.content == TEXT
    assert completion.choices[0].text == TEXT
    assert response.output_text == TEXT
    assert models == list(SCENARIOS)


async def test_embeddings_pass_unchanged(proxy: Proxy, upstream: MisbehavingUpstream) -> None:
    """The request's JSON and the answer's numbers are the same on both sides."""
    vector = [0.25, -1.5, 3.0]
    found = {"object": "embedding", "index": 0, "embedding": vector}
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    upstream.script(
        "sdk-embed", reply(200, {"object": "list", "data": [found], "model": "e", "usage": usage})
    )
    async with async_client(proxy.base_url) as client:
        answer = await client.embeddings.create(
            model="sdk-embed", input=["a", "ü"], encoding_format="float"
        )
    assert answer.data[0].embedding == vector
    [request] = [r for r in upstream.requests if r.model == "sdk-embed"]
    assert request.fields["input"] == ["a", "ü"]
    assert request.path == "/v1/embeddings"


async def test_a_file_is_uploaded_unchanged(proxy: Proxy, upstream: MisbehavingUpstream) -> None:
    """The multipart body arrives byte for byte, with the file in it."""
    content = bytes(range(256)) * 500
    told = {"id": "file-1", "object": "file", "bytes": len(content), "created_at": 1}
    upstream.script("", reply(200, {**told, "filename": "f", "purpose": "batch", "status": "x"}))
    async with async_client(proxy.base_url) as client:
        answer = await client.files.create(file=("f.jsonl", content), purpose="batch")
    assert answer.bytes == len(content)
    request = [r for r in upstream.requests if r.path == "/v1/files"][-1]
    assert content in request.body
    assert (request.header("content-type") or "").startswith("multipart/form-data; boundary=")


async def test_audio_is_downloaded_unchanged(proxy: Proxy, upstream: MisbehavingUpstream) -> None:
    """Binary bytes, event-like ones among them, come through untouched."""
    audio = b"ID3\x00data: no event\n\n\xff\xfb" + bytes(range(256)) * 400
    upstream.script(
        "sdk-speech",
        Answer(headers=(("Content-Type", "audio/mpeg"),), pieces=(audio[:7], audio[7:])),
    )
    async with async_client(proxy.base_url) as client:
        answer = await client.audio.speech.create(model="sdk-speech", voice="alloy", input="hi")
    assert answer.content == audio
    assert answer.response.headers["content-type"] == "audio/mpeg"


async def test_a_delete_passes_unchanged(proxy: Proxy, upstream: MisbehavingUpstream) -> None:
    """Method, path and answer are the same on both sides."""
    upstream.script("", reply(200, {"id": "file-1", "object": "file", "deleted": True}))

    def delete() -> bool:
        with sync_client(proxy.base_url) as client:
            return client.files.delete("file-1").deleted

    assert await asyncio.to_thread(delete)
    assert upstream.requests[-1].method == "DELETE"
    assert upstream.requests[-1].path == "/v1/files/file-1"


async def test_the_upstream_sees_the_sdk_s_own_headers(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """The key, the user agent and the SDK's other headers are sent on as they are."""
    async with async_client(proxy.base_url) as client:
        await client.chat.completions.create(model="ws-ok", messages=[], stream=True)
    request = upstream.requests[-1]
    assert request.header("authorization") == "Bearer test-key"
    assert "OpenAI" in (request.header("user-agent") or "")
    assert request.header("x-stainless-lang") == "python"
    assert json.loads(request.body)["model"] == "ws-ok"
    await idle(proxy)
