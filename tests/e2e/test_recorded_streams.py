"""Real recorded streams, and invented ones, go through unchanged and are counted once.

With the default settings, and again under the profile of the server that they were recorded of,
asked for at that server's own paths.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import DONE, RECORDED, STREAMS, ask_for, cut_at, whole_events

from e2e.child import Metrics, Proxy, idle
from e2e.conftest import Starter
from e2e.wire import PATHS, Pairs, Reply, call, check_complete, check_failed
from proxy.demo.answers import sse
from proxy.demo.upstream import MisbehavingUpstream

SMALL = 8_000
"""A body of at most so many bytes is also sent byte by byte."""

FAILED = {"compat-groq-error", "compat-openrouter-error"}
"""Recordings that end with the upstream's own error."""

_ENDPOINTS = {
    "chat/completions": "chat_completions",
    "completions": "completions",
    "responses": "responses",
    "threads": "threads",
    "chat": "other",
}
"""By what a path goes on with, behind what is each server's own."""

_PATH = re.compile(r"(.*?)/((chat/completions|completions|responses|threads|chat)(?:[/?].*)?)")

PROFILES = {
    **dict.fromkeys(("assistants", "chat", "completions", "responses"), "openai"),
    "chat-azure": "azure",
    "compat-deepseek": "deepseek",
    "compat-groq": "groq",
    "compat-mistral": "mistral",
    "compat-openrouter": "openrouter",
    "compat-vllm": "vllm",
}
"""By the first words of a recording's name; no others have a profile."""


@dataclass(frozen=True)
class Recording:
    """One stream with the call that it answers."""

    name: str
    body: bytes
    endpoint: str
    target: str
    method: str
    fields: dict[str, Any]
    base: str = "/v1"
    """What a server has in front of its paths, which an application does not say."""

    @property
    def profile(self) -> str:
        """The profile of the server that it was recorded of."""
        words = self.name.split("-")
        names = ("-".join(words[:count]) for count in (2, 1))
        return next((PROFILES[name] for name in names if name in PROFILES), "any")

    @property
    def request(self) -> bytes | None:
        """The request's body."""
        return json.dumps({**self.fields, "model": self.name}).encode() if self.fields else None

    @property
    def events(self) -> list[tuple[bytes, bytes]]:
        """Name and data of what a client must be given, read without the proxy's own code."""
        blocks = [_fields_of(block) for block in self.body.split(b"\n\n")]
        events = [(name, data) for name, data in blocks if data]
        if self.endpoint == "responses" or self.name in FAILED:
            events = [event for event in events if event[1] != b"[DONE]"]
        elif self.endpoint in {"chat_completions", "completions"} and events[-1][1] != b"[DONE]":
            events.append((b"", b"[DONE]"))
        return events


def _fields_of(block: bytes) -> tuple[bytes, bytes]:
    found = {b"event": b"", b"data": b""}
    for line in block.split(b"\n"):
        name, _, value = line.partition(b": ")
        assert name in found or not name
        if name:
            found[name] = value
    return found[b"event"], found[b"data"]


def _real(path: Path) -> Recording:
    request = json.loads(path.with_suffix(".json").read_text("utf-8"))["request"]
    found = _PATH.fullmatch(request["path"])
    assert found is not None
    base, rest, kind = found.groups()
    method = request["method"]
    fields = {**(request["body"] or {}), "stream": True} if method == "POST" else {}
    target = f"/v1/{rest}" if fields else f"/v1/{rest}&model={path.stem}"
    return Recording(path.stem, path.read_bytes(), _ENDPOINTS[kind], target, method, fields, base)


def _invented(name: str, body: bytes) -> Recording:
    asked, family = ask_for(name), name.partition("-")[0]
    endpoint = "chat_completions" if family == "chat" else family
    target = f"/v1{asked.target}" + ("" if asked.body else f"?model=own-{name}")
    fields = json.loads(asked.body or b"{}")
    return Recording(f"own-{name}", body, endpoint, target, asked.method, fields)


REAL = [_real(path) for path in sorted(RECORDED.glob("*.sse"))]
_ABSENT = pytest.mark.skip(reason="the recorded streams are not beside the project")


def _params(recordings: list[Recording]) -> list[Any]:
    params = [pytest.param(recording, id=recording.name) for recording in recordings]
    return params if REAL else [*params, pytest.param(None, marks=_ABSENT, id="recorded")]


ALL = [*(_invented(name, body) for name, body in STREAMS.items()), *REAL]


async def _replay(
    proxy: Proxy, upstream: MisbehavingUpstream, recording: Recording, pieces: list[bytes]
) -> tuple[Reply, Metrics]:
    upstream.script(recording.name, sse(*pieces))
    before = await idle(proxy)
    reply = await call(proxy.port, recording.target, recording.request, method=recording.method)
    return reply, (await idle(proxy)).since(before)


def _in_random_pieces(recording: Recording) -> list[bytes]:
    chance = random.Random(recording.name)  # noqa: S311 - it chooses test cases
    edges = [chance.randrange(len(recording.body)) for _ in range(len(recording.body) // 400 + 3)]
    return [piece for piece in cut_at(recording.body, *edges) if piece]


def _check(recording: Recording, reply: Reply, counted: Metrics) -> None:
    assert reply.events == recording.events
    failed = recording.name in FAILED
    if failed:
        check_failed(reply, recording.endpoint)
    else:
        check_complete(reply, recording.endpoint)
    outcome = "failed" if failed else "complete"
    assert counted.streams == {(recording.endpoint, outcome): 1.0}
    incidents = {("in_stream_error", "mid_content", "surfaced"): 1.0} if failed else {}
    assert counted.incidents == incidents
    assert counted.total("wholestream_upstream_attempts_total") == 1


@pytest.mark.parametrize("recording", _params(ALL))
async def test_a_stream_in_random_pieces_arrives_unchanged_and_is_counted_once(
    started: Starter, upstream: MisbehavingUpstream, recording: Recording
) -> None:
    """Same data in the same order in whole chunks, the contract's headers, one outcome."""
    proxy = await started(upstream.base_url)  # with the default settings
    pieces = _in_random_pieces(recording)
    _check(recording, *await _replay(proxy, upstream, recording, pieces))


@pytest.mark.parametrize(
    "recording", [pytest.param(r, id=r.name) for r in ALL if len(r.body) <= SMALL]
)
async def test_a_stream_byte_by_byte_arrives_unchanged_and_is_counted_once(
    started: Starter, upstream: MisbehavingUpstream, recording: Recording
) -> None:
    """The smallest possible HTTP chunks upstream change nothing downstream."""
    proxy = await started(upstream.base_url)
    pieces = [recording.body[at : at + 1] for at in range(len(recording.body))]
    _check(recording, *await _replay(proxy, upstream, recording, pieces))


@pytest.mark.parametrize("recording", _params([r for r in REAL if r.profile != "azure"]))
async def test_a_stream_arrives_unchanged_under_the_profile_of_its_server_and_from_its_path(
    started: Starter, upstream: MisbehavingUpstream, recording: Recording
) -> None:
    """The application asks below ``/v1``, the server is asked below what is its own."""
    base = f"http://127.0.0.1:{upstream.port}{recording.base}"
    proxy = await started(base, "--profile", recording.profile)
    pieces = _in_random_pieces(recording)
    _check(recording, *await _replay(proxy, upstream, recording, pieces))
    asked = upstream.requests[-1].target
    assert asked == recording.base + recording.target.removeprefix("/v1")


AZURE = [recording for recording in REAL if recording.profile == "azure"]
BASES = {"the new base": "/openai/v1", "a gateway": "/eu-2/openai/v1", "the resource": ""}


@pytest.mark.parametrize("recording", _params(AZURE))
@pytest.mark.parametrize("base", BASES)
async def test_a_deployment_of_azure_s_is_asked_at_its_own_path(
    started: Starter, upstream: MisbehavingUpstream, recording: Recording, base: str
) -> None:
    """Path and query as they stand, the key where Azure has it, and judged as the chat it is."""
    prefix = BASES[base]
    url = f"http://127.0.0.1:{upstream.port}{prefix}"
    proxy = await started(url, "--profile", "azure")
    upstream.script(recording.name, sse(*_in_random_pieces(recording)))
    target = recording.base + recording.target.removeprefix("/v1")
    before = await idle(proxy)
    reply = await call(proxy.port, target, recording.request, headers=[("api-key", "k-15")])
    _check(recording, reply, (await idle(proxy)).since(before))
    asked = upstream.requests[-1]
    assert asked.target == prefix.partition("/openai")[0] + target
    assert target.startswith("/openai/deployments/")
    assert "?api-version=" in target
    assert asked.header("api-key") == "k-15"
    assert asked.header("authorization") is None


@pytest.mark.parametrize("recording", _params(AZURE))
async def test_azure_s_paths_are_served_only_where_they_are_set(
    started: Starter, upstream: MisbehavingUpstream, recording: Recording
) -> None:
    """Elsewhere they are a 404 that says which base URL to set."""
    proxy = await started(upstream.base_url)
    target = recording.base + recording.target.removeprefix("/v1")
    asked = len(upstream.requests)
    reply = await call(proxy.port, target, recording.request)
    assert reply.status == 404
    assert f"OPENAI_BASE_URL={proxy.base_url}" in reply.error["message"]
    assert len(upstream.requests) == asked


async def test_a_finished_chat_without_its_end_mark_is_given_one(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """``[DONE]`` is the one thing added, and it is counted as a repair."""
    body = STREAMS["chat-text"].removesuffix(DONE)
    recording = Recording(
        "no-done", body, "chat_completions", PATHS["chat_completions"], "POST", {"stream": True}
    )
    reply, counted = await _replay(proxy, upstream, recording, [body])
    assert reply.body == body + DONE
    repairs = counted.labelled("wholestream_repairs_total", "endpoint", "repair")
    assert repairs == {("chat_completions", "added_done"): 1.0}


async def test_a_stream_in_the_canonical_form_is_passed_byte_for_byte(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """What needs no mending is not re-serialised, and nothing is counted as repaired."""
    body = STREAMS["responses-text"]
    assert whole_events(body)
    recording = Recording("as-is", body, "responses", PATHS["responses"], "POST", {"stream": True})
    reply, counted = await _replay(proxy, upstream, recording, [body])
    assert reply.body == body
    assert counted.labelled("wholestream_repairs_total", "repair") == {}


async def test_upstream_headers_of_a_stream_are_kept_but_for_its_framing(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """The upstream's own id, rate limits and the rest reach the client beside the proxy's."""
    own: Pairs = (
        ("Content-Type", "text/event-stream"),
        ("Cache-Control", "max-age=60"),
        ("Connection", "close"),
        ("x-request-id", "req_upstream_1"),
        ("x-ratelimit-remaining-tokens", "77"),
        ("openai-processing-ms", "12"),
    )
    answer = sse(STREAMS["chat-text"])
    upstream.script("with-headers", type(answer)(headers=tuple(own), pieces=answer.pieces))
    body = json.dumps({"model": "with-headers", "stream": True}).encode()
    reply = await call(proxy.port, PATHS["chat_completions"], body)
    check_complete(reply)
    assert reply.header("x-request-id") == "req_upstream_1"
    assert reply.header("x-ratelimit-remaining-tokens") == "77"
    assert reply.header("openai-processing-ms") == "12"
    assert reply.header("x-wholestream-attempts") is None
