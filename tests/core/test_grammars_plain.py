"""Streams of other endpoints: framing and transport, and what is known of each family's end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import FAMILIES, ask, raw

from proxy.core.errors import read_error
from proxy.core.grammars import GRAMMARS, Grammar, endpoint_of, grammar_for
from proxy.core.grammars.base import Kind
from proxy.core.journal import Journal
from proxy.core.request import Request
from proxy.core.sse import Event

PLAIN = pytest.mark.parametrize("family", ["images", "audio", "threads", "other"])
KNOWN = pytest.mark.parametrize("family", ["images", "audio", "threads"])
DEEP = b"[" * 100_000 + b"]" * 100_000


def fresh(family: str, **fields: Any) -> Grammar:
    """Return the grammar of a new attempt."""
    return grammar_for(ask(family, **fields))


def read(grammar: Grammar, *payloads: Any, name: bytes = b"") -> Kind:
    """Read payloads, return what the last one was."""
    return [grammar.read(Event(name, raw(payload))) for payload in payloads][-1]


# --- endpoints ---


@pytest.mark.parametrize(
    ("target", "endpoint"),
    [
        ("/chat/completions", "chat_completions"),
        ("/chat/completions/", "chat_completions"),
        ("/chat/completions?beta=true", "chat_completions"),
        ("/completions", "completions"),
        ("/responses", "responses"),
        ("/responses/resp_1?stream=true&starting_after=4", "responses"),
        ("/images/generations", "images"),
        ("/images/edits", "images"),
        ("/audio/speech", "audio"),
        ("/audio/transcriptions", "audio"),
        ("/threads/runs", "threads"),
        ("/threads/t_1/runs/r_1/submit_tool_outputs", "threads"),
        ("/models", "other"),
        ("/chat", "other"),
        ("/chat/completions/c_1", "other"),
        ("/completionsx", "other"),
        ("/responsesx", "other"),
        ("/", "other"),
        ("", "other"),
    ],
)
def test_a_path_belongs_to_its_family(target: str, endpoint: str) -> None:
    """The name is a label of the metrics, so it is one of a closed set."""
    assert endpoint_of(Request("POST", target)) == endpoint
    assert endpoint in GRAMMARS


@pytest.mark.parametrize(
    ("target", "endpoint"),
    [
        ("/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21", "chat_completions"),
        ("/openai/deployments/d/completions", "completions"),
        ("/openai/deployments/chat/completions/images/generations", "images"),
        ("/openai/deployments/d/audio/transcriptions/", "audio"),
        ("/openai/v1/responses", "responses"),
        ("/openai/v1/responses/resp_1?stream=true", "responses"),
        ("/openai/responses", "responses"),
        ("/openai/threads/t_1/runs", "threads"),
        ("/gateway/openai/v1/chat/completions", "chat_completions"),
        ("/openai/v1/chat/completions/c_1", "other"),
        ("/openai/v1/models", "other"),
        ("/openai/deployments/gpt-4o", "other"),
        ("/openai", "other"),
        ("/openaix/v1/models", "other"),
        ("/", "other"),
    ],
)
def test_a_path_that_is_the_upstreams_own_belongs_to_its_family(target: str, endpoint: str) -> None:
    """Azure puts a deployment in front; a path below the base URL is never read so."""
    assert endpoint_of(Request("POST", target, own_path=True)) == endpoint
    assert endpoint_of(Request("POST", target)) == "other"


@pytest.mark.parametrize("family", FAMILIES)
def test_each_request_gets_its_own_grammar(family: str) -> None:
    """Two attempts share nothing."""
    request = ask(family)
    assert type(grammar_for(request)) is GRAMMARS[endpoint_of(request)]
    assert grammar_for(request) is not grammar_for(request)


# --- any of them ---


@PLAIN
@pytest.mark.parametrize("data", [b"{}", b"5", b'"text"', b"NaN", b'"\\ud800"', DEEP])
def test_json_passes(family: str, data: bytes) -> None:
    """What the SDKs' own decoder takes is an event."""
    grammar = fresh(family)
    assert read(grammar, data) is Kind.EVENT
    assert grammar.events == 1


@PLAIN
@pytest.mark.parametrize("data", [b"{", b"hello", b"{}x", b"DONE"])
def test_what_is_not_json_is_malformed(family: str, data: bytes) -> None:
    """It must not be given."""
    grammar = fresh(family)
    assert read(grammar, data) is Kind.MALFORMED
    assert grammar.events == 0


@PLAIN
def test_done_is_terminal(family: str) -> None:
    """Whoever sends it means it, where it is not known what else must have come."""
    assert read(fresh(family), {"text": "Ahoy"}, "[DONE]", name=b"done") is Kind.TERMINAL
    assert read(fresh("other"), "[DONE]") is Kind.TERMINAL


@KNOWN
def test_done_alone_is_no_answer(family: str) -> None:
    """Something was asked for."""
    assert read(fresh(family), "[DONE]", name=b"done") is Kind.UNFINISHED


@pytest.mark.parametrize("family", ["images", "audio"])
def test_done_before_the_last_event_ends_nothing(family: str) -> None:
    """Gateways send it after any end; so does one of two images leave one missing."""
    partial = {"images": "image_generation.partial_image", "audio": "speech.audio.delta"}[family]
    assert read(fresh(family), {"type": partial}, "[DONE]") is Kind.UNFINISHED
    image = {"type": "image_generation.completed"}
    assert read(fresh("images", n=2), image, "[DONE]") is Kind.UNFINISHED


@PLAIN
def test_every_event_is_content(family: str) -> None:
    """Nothing is known about it, so nothing is held."""
    assert fresh(family).has_content(Event(b"", b"{}"))


@PLAIN
def test_the_request_is_not_repeated_once_its_answer_began(family: str) -> None:
    """A run, an image or an unknown call may have had its effect."""
    grammar = fresh(family)
    assert grammar.may_restart(openers_given=False)
    assert not grammar.may_restart(openers_given=True)
    read(grammar, {})
    assert not grammar.may_restart(openers_given=False)


@PLAIN
def test_the_error_event_is_the_contracts(family: str) -> None:
    """A top-level error object; threads hear it under its name."""
    error = read_error(b'{"error":{"message":"gone","type":"t","code":"c"}}')
    (event,) = fresh(family).error_events(error, Journal(1000))
    assert event.name == (b"error" if family == "threads" else b"")
    assert json.loads(event.data) == {"error": {**error.as_object(), "retryable": True}}


@PLAIN
def test_nothing_is_known_that_could_be_joined_or_added(family: str) -> None:
    """There is no seam, no end mark, no tool call to hold, no document to unroll."""
    grammar = fresh(family)
    assert grammar.seam([Event(b"", b"{}")]) is None
    assert grammar.end_mark() is None
    assert not grammar.in_call(Event(b"", b'{"tool_calls":[]}'))
    assert grammar.unroll(b'{"status":"completed"}', 2**20) == []


# --- the end ---


def test_an_unknown_stream_is_whole_when_its_body_is() -> None:
    """Nothing more is promised there, not even that anything comes."""
    grammar = fresh("other")
    assert grammar.whole(clean=True)
    read(grammar, {})
    assert grammar.whole(clean=True)
    assert not grammar.whole(clean=False)


@KNOWN
def test_an_empty_stream_of_a_known_family_is_not_whole(family: str) -> None:
    """Something was asked for."""
    assert not fresh(family).whole(clean=True)


@pytest.mark.parametrize("family", ["images", "audio"])
def test_a_stream_of_another_servers_events_is_whole_when_its_body_is(family: str) -> None:
    """Compatible servers have events of their own, of which no last one is known."""
    grammar = fresh(family)
    read(grammar, {"text": "Ahoy"})
    assert grammar.whole(clean=True)
    assert not grammar.whole(clean=False)


UNFINISHED = [
    ("images", {"type": "image_generation.partial_image", "b64_json": "aGk"}),
    ("audio", {"type": "transcript.text.delta", "delta": "Ahoy"}),
    ("audio", {"type": "speech.audio.delta", "audio": "aGk"}),
    ("threads", {"id": "thread_1", "object": "thread"}),
    ("threads", {"object": "thread.run", "status": "completed"}),
]


@pytest.mark.parametrize(("family", "payload"), UNFINISHED)
def test_a_clean_end_before_the_last_event_is_not_whole(family: str, payload: Any) -> None:
    """A clean HTTP end proves nothing."""
    grammar = fresh(family)
    assert read(grammar, payload) is Kind.EVENT
    assert not grammar.whole(clean=True)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("images", "image_generation.completed"),
        ("images", "image_edit.completed"),
        ("audio", "transcript.text.done"),
        ("audio", "speech.audio.done"),
    ],
)
def test_the_last_event_of_a_known_family_ends_the_stream(family: str, kind: str) -> None:
    """What the upstream does after it is not the client's trouble."""
    assert read(fresh(family), {"type": kind}) is Kind.TERMINAL


def test_as_many_images_as_were_asked_for_end_the_stream() -> None:
    """One of two is half an answer."""
    grammar = fresh("images", n=2)
    done = {"type": "image_generation.completed", "b64_json": "aGk"}
    assert read(grammar, done) is Kind.EVENT
    assert not grammar.whole(clean=True)
    assert read(grammar, done) is Kind.TERMINAL


# --- errors ---


def test_an_error_in_an_unknown_stream_is_the_clients_to_read() -> None:
    """Its form is not known, so it is an event like any other."""
    assert read(fresh("other"), {"error": {"message": "m"}}) is Kind.EVENT
    assert read(fresh("other"), {"message": "m"}, name=b"error") is Kind.EVENT


@KNOWN
def test_an_event_named_error_fails_a_known_stream(family: str) -> None:
    """It is the upstream's own word that it failed."""
    grammar = fresh(family)
    payload = {"message": "m", "code": "server_error", "type": "server_error", "param": None}
    assert read(grammar, payload, name=b"error") is Kind.ERROR
    assert grammar.error == read_error(raw(payload))


def test_how_many_images_an_upload_asks_for_is_not_known() -> None:
    """Its body streams through unread: the first image is enough, but may not be the last."""
    grammar = grammar_for(Request("POST", "/images/edits", None))
    assert read(grammar, {"type": "image_edit.partial_image"}) is Kind.EVENT
    assert not grammar.whole(clean=True)
    assert read(grammar, {"type": "image_edit.completed"}) is Kind.EVENT
    assert grammar.whole(clean=True)
