"""Real recorded streams, and invented ones, go through unchanged and are counted once."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import DONE, RECORDED, STREAMS, cut_at, whole_events

from e2e.child import Metrics, Proxy, idle
from e2e.wire import PATHS, Pairs, Reply, call, check_complete, check_failed
from proxy.demo.answers import sse
from proxy.demo.upstream import MisbehavingUpstream

SMALL = 8_000
"""A body of at most so many bytes is also sent byte by byte."""

FAILED = {"compat-groq-error", "compat-openrouter-error"}
"""Recordings that end with the upstream's own error."""

TEXT_PATHS = {"chat/completions": "chat_completions", "completions": "completions"}


@dataclass(frozen=True)
class Recording:
    """One stream with the call that it answers."""

    name: str
    body: bytes
    endpoint: str
    target: str
    method: str
    fields: dict[str, Any]

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
        elif self.endpoint in TEXT_PATHS.values() and events[-1][1] != b"[DONE]":
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
    whole, _, query = request["path"].partition("?")
    fields = {**(request["body"] or {}), **({"stream": True} if request["body"] else {})}
    endpoint, target = "other", "/v1/elsewhere"
    for end, name in (*TEXT_PATHS.items(), ("responses", "responses")):
        if endpoint == "other" and whole.endswith("/" + end):
            endpoint, target = name, PATHS[name]
    if "/responses/" in whole or "/threads/" in whole:
        endpoint = "responses" if "/responses/" in whole else "threads"
        target = whole
    if not fields:
        target += f"?{query}&model={path.stem}"
    return Recording(path.stem, path.read_bytes(), endpoint, target, request["method"], fields)


def _invented(name: str, body: bytes) -> Recording:
    family = name.partition("-")[0]
    endpoint = "chat_completions" if family == "chat" else family
    fields = {"stream": True, "n": 2 if name == "chat-n2" else 1}
    return Recording(f"own-{name}", body, endpoint, PATHS[endpoint], "POST", fields)


def _all() -> list[Any]:
    found = [_invented(name, body) for name, body in STREAMS.items()]
    found += [_real(path) for path in sorted(RECORDED.glob("*.sse"))]
    params = [pytest.param(recording, id=recording.name) for recording in found]
    if RECORDED.is_dir():
        return params
    absent = pytest.mark.skip(reason="the recorded streams are not beside the project")
    return [*params, pytest.param(found[0], marks=absent, id="recorded")]


async def _replay(
    proxy: Proxy, upstream: MisbehavingUpstream, recording: Recording, pieces: list[bytes]
) -> tuple[Reply, Metrics]:
    upstream.script(recording.name, sse(*pieces))
    before = await idle(proxy)
    reply = await call(proxy.port, recording.target, recording.request, method=recording.method)
    return reply, (await idle(proxy)).since(before)


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


@pytest.mark.parametrize("recording", _all())
async def test_a_stream_in_random_pieces_arrives_unchanged_and_is_counted_once(
    proxy: Proxy, upstream: MisbehavingUpstream, recording: Recording
) -> None:
    """Same data in the same order in whole chunks, the contract's headers, one outcome."""
    chance = random.Random(recording.name)  # noqa: S311 - it chooses test cases
    edges = [chance.randrange(len(recording.body)) for _ in range(len(recording.body) // 400 + 3)]
    pieces = [piece for piece in cut_at(recording.body, *edges) if piece]
    _check(recording, *await _replay(proxy, upstream, recording, pieces))


@pytest.mark.parametrize(
    "recording", [param for param in _all() if len(param.values[0].body) <= SMALL]
)
async def test_a_stream_byte_by_byte_arrives_unchanged_and_is_counted_once(
    proxy: Proxy, upstream: MisbehavingUpstream, recording: Recording
) -> None:
    """The smallest possible HTTP chunks upstream change nothing downstream."""
    pieces = [recording.body[at : at + 1] for at in range(len(recording.body))]
    _check(recording, *await _replay(proxy, upstream, recording, pieces))


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
