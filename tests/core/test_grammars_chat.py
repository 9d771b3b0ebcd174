"""The chat grammar: content and openers, completeness by choices, errors, identity."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import pytest
from support import ask, chunk, raw

from proxy.core.errors import read_error
from proxy.core.grammars import grammar_for
from proxy.core.grammars.base import Kind
from proxy.core.grammars.chat import ChatGrammar
from proxy.core.journal import Journal
from proxy.core.recovery.splice import Identity
from proxy.core.sse import Event

DEEP = b"[" * 100_000 + b"]" * 100_000
"""More nesting than any decoder follows; legal all the same."""


def fresh(**fields: Any) -> ChatGrammar:
    """Return the grammar of a new attempt."""
    grammar = grammar_for(ask("chat", **fields))
    assert isinstance(grammar, ChatGrammar)
    return grammar


def read(grammar: ChatGrammar, *payloads: Any, name: bytes = b"") -> Kind:
    """Read payloads, return what the last one was."""
    return [grammar.read(Event(name, raw(payload))) for payload in payloads][-1]


# --- content ---

CONTENT = {
    "content": {"content": "Hi"},
    "content as a list": {"content": [{"type": "thinking", "thinking": "so"}]},
    "a space": {"content": " "},
    "refusal": {"refusal": "No"},
    "reasoning_content": {"content": None, "reasoning_content": "so"},
    "reasoning": {"content": "", "reasoning": "so"},
    "tool call": {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]},
    "function call": {"function_call": {"name": "f"}},
    "audio": {"audio": {"id": "audio_1"}},
}
NO_CONTENT = {
    "role": {"role": "assistant"},
    "empty": {},
    "empty texts": {"role": "assistant", "content": "", "refusal": "", "reasoning_content": ""},
    "nulls": {"role": "assistant", "content": None, "refusal": None, "tool_calls": None},
    "empty lists": {"tool_calls": [], "content": []},
}


@pytest.mark.parametrize("delta", CONTENT.values(), ids=CONTENT)
def test_any_filled_field_of_a_delta_is_content(delta: dict[str, Any]) -> None:
    """A client can act on it, so it commits."""
    assert fresh().has_content(Event(b"", raw(chunk(**delta))))


@pytest.mark.parametrize("delta", NO_CONTENT.values(), ids=NO_CONTENT)
def test_a_role_or_empty_fields_are_no_content(delta: dict[str, Any]) -> None:
    """Nobody can act on them, so they are held."""
    assert not fresh().has_content(Event(b"", raw(chunk(**delta))))
    assert not fresh().has_content(Event(b"", raw(chunk(finish="stop", **delta))))


@pytest.mark.parametrize(
    "payload",
    [
        {"choices": []},
        {"choices": None},
        {"choices": [None, 5]},
        {"choices": "text"},
        {"choices": [{"index": 0, "delta": None}]},
        {"choices": [{"index": 0, "delta": "text"}]},
        {"choices": [{"index": 0, "text": ""}]},
        {"prompt_filter_results": [{"hate": {"filtered": False}}], "choices": []},
        5,
        None,
        ["choices"],
    ],
    ids=str,
)
def test_a_chunk_without_a_filled_delta_is_no_content(payload: Any) -> None:
    """Azure's filter results, usage and odd shapes are never a commit."""
    assert not fresh().has_content(Event(b"", raw(payload)))


def test_a_legacy_completion_has_its_content_in_text() -> None:
    """Completions speak the same grammar with another field."""
    assert fresh().has_content(Event(b"", raw({"choices": [{"index": 0, "text": "Hi"}]})))


def test_content_in_any_choice_is_content() -> None:
    """With n > 1 the first choice to speak commits."""
    both = {"choices": [{"index": 0, "delta": {}}, {"index": 1, "delta": {"content": "x"}}]}
    assert fresh().has_content(Event(b"", raw(both)))


def test_what_cannot_be_looked_into_counts_as_content() -> None:
    """Giving is safer than holding what nobody understands."""
    assert fresh().has_content(Event(b"", DEEP))


# --- completeness ---


def test_a_choice_with_its_finish_reason_and_done_is_complete() -> None:
    """The usual end."""
    grammar = fresh()
    assert read(grammar, chunk(content="Hi"), chunk(finish="stop")) is Kind.EVENT
    assert grammar.whole(clean=True)
    assert read(grammar, "[DONE]") is Kind.TERMINAL


def test_every_choice_asked_for_must_finish() -> None:
    """With n = 2 one finish_reason is half an answer, and [DONE] does not change that."""
    grammar = fresh(n=2)
    read(grammar, chunk(index=0, finish="stop"))
    assert not grammar.whole(clean=True)
    assert read(grammar, "[DONE]") is Kind.UNFINISHED
    read(grammar, chunk(index=1, finish="length"))
    assert grammar.whole(clean=True)
    assert read(grammar, "[DONE]") is Kind.TERMINAL


def test_every_choice_that_spoke_must_finish() -> None:
    """A choice nobody asked for is open from its first chunk on."""
    grammar = fresh()
    read(grammar, chunk(index=1, content="x"), chunk(index=0, finish="stop"))
    assert not grammar.whole(clean=True)


@pytest.mark.parametrize("reason", [None, "", {}, False])
def test_a_finish_reason_that_says_nothing_finishes_nothing(reason: Any) -> None:
    """Null is on every chunk; the empty forms mean the same."""
    grammar = fresh()
    read(grammar, {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": reason}]})
    assert not grammar.whole(clean=True)


def test_done_without_any_finish_reason_is_let_pass() -> None:
    """Some servers never send one (anomalyco/opencode#43882)."""
    grammar = fresh()
    read(grammar, chunk(content="x"))
    assert not grammar.whole(clean=True)
    assert read(grammar, "[DONE]") is Kind.TERMINAL


def test_done_alone_is_not_an_answer() -> None:
    """A 200 that holds nothing but [DONE] is empty (coder/aibridge#56)."""
    assert read(fresh(), "[DONE]") is Kind.UNFINISHED


@pytest.mark.parametrize("form", ["[DONE] ", "[DONE]\r", "[DONE]."])
def test_forms_of_done_are_recognised(form: str) -> None:
    """The SDKs match its beginning."""
    grammar = fresh()
    read(grammar, chunk(finish="stop"))
    assert read(grammar, form) is Kind.TERMINAL


def test_the_end_mark_of_a_finished_stream_is_done() -> None:
    """What is added where it is missing."""
    assert fresh().end_mark() == Event(b"", b"[DONE]")


@pytest.mark.parametrize(
    "text",
    ["[DONE]", "data: [DONE]", '{"error":{"message":"x"}}', '"finish_reason":"stop"', "\\u2028"],
)
def test_text_that_contains_the_thing_is_not_the_thing(text: str) -> None:
    """What the model says is content, whatever it looks like."""
    grammar = fresh()
    assert read(grammar, chunk(content=text)) is Kind.EVENT
    assert grammar.error is None
    assert not grammar.whole(clean=True)


# --- errors ---

ERRORS: dict[str, tuple[Any, bool]] = {
    "object": ({"error": {"message": "m"}}, True),
    "string": ({"error": "STREAM_EXPLODED"}, False),
    "beside choices": ({**chunk(finish="error"), "error": {"code": 502, "message": "m"}}, True),
    "flat type": ({"type": "error", "message": "m"}, False),
    "flat object": ({"object": "error", "message": "m", "choices": []}, False),
}


@pytest.mark.parametrize(("payload", "native"), ERRORS.values(), ids=ERRORS)
def test_each_form_of_error_is_an_error(payload: Any, native: bool) -> None:  # noqa: FBT001
    """Only the form with an object is what every SDK raises on; the rest is told anew."""
    grammar = fresh()
    assert read(grammar, payload) is Kind.ERROR
    assert grammar.error == read_error(raw(payload))
    assert grammar.error_is_native is native


def test_an_event_named_error_is_an_error() -> None:
    """Anthropic's and Groq's way to say it."""
    assert read(fresh(), {"message": "Overloaded"}, name=b"error") is Kind.ERROR


@pytest.mark.parametrize("nothing", [None, "", {}, False])
def test_an_empty_error_field_is_no_error(nothing: Any) -> None:
    """Some servers send the field on every chunk."""
    assert read(fresh(), {**chunk(content="x"), "error": nothing}) is Kind.EVENT


def test_a_type_error_beside_choices_is_a_chunk() -> None:
    """The flat form has no choices."""
    assert read(fresh(), {**chunk(content="x"), "type": "error"}) is Kind.EVENT


def test_the_error_event_is_one_object_without_a_name() -> None:
    """The contract's shape, which every SDK raises on."""
    error = read_error(b'{"error":{"message":"gone","type":"t","param":"p","code":"c"}}')
    told = {"message": "gone", "type": "t", "param": "p", "code": "c"}
    (event,) = fresh().error_events(replace(error, transient=False), Journal(1000))
    assert (event.name, json.loads(event.data)) == (b"", {"error": told})
    (event,) = fresh().error_events(error, Journal(1000))
    assert json.loads(event.data) == {"error": {**told, "retryable": True}}


def test_a_passing_error_without_a_code_gets_the_contracts() -> None:
    """An app can look for one word; a refusal keeps its silence."""
    error = read_error(b'{"error":{"message":"gone"}}')
    (event,) = fresh().error_events(error, Journal(1000))
    assert json.loads(event.data)["error"]["code"] == "stream_incomplete"
    (event,) = fresh().error_events(replace(error, transient=False), Journal(1000))
    assert json.loads(event.data)["error"]["code"] is None


# --- what the strict decoder refuses ---


@pytest.mark.parametrize("data", [b"{", b"hello", b'{"a":1}x', b"\xff", b"", b'{"a":"\x01"}'])
def test_what_no_decoder_takes_is_malformed(data: bytes) -> None:
    """It is not JSON, so it must not be given."""
    grammar = fresh()
    assert grammar.read(Event(b"", data)) is Kind.MALFORMED
    assert grammar.events == 0


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16-le", "utf-16-be"])
def test_json_in_another_encoding_is_malformed(encoding: str) -> None:
    """Python would guess the encoding of bytes; on the wire there is only UTF-8."""
    data = '{"choices":[]}'.encode(encoding)
    assert fresh().read(Event(b"", data)) is Kind.MALFORMED


@pytest.mark.parametrize(
    "payload",
    [
        b'{"choices":[{"index":0,"finish_reason":"stop"}],"x":NaN}',
        b'{"choices":[{"index":0,"finish_reason":"stop"}],"x":"\\ud800"}',
        b'{"choices":[{"index":null,"finish_reason":"stop"}]}',
        b'{"choices":[{"index":[],"finish_reason":"stop"}]}',
        b'{"choices":[null,{"finish_reason":["stop"]}]}',
    ],
)
def test_odd_but_legal_chunks_get_a_second_opinion(payload: bytes) -> None:
    """What the SDKs' own decoder takes is read, and counts."""
    grammar = fresh()
    assert grammar.read(Event(b"", payload)) is Kind.EVENT
    assert grammar.whole(clean=True)


def test_the_second_opinion_sees_errors_and_usage() -> None:
    """It looks at the same fields."""
    grammar = fresh()
    assert grammar.read(Event(b"", b'{"choices":[],"usage":{"n":1},"x":NaN}')) is Kind.EVENT
    assert json.loads(grammar.usage) == {"n": 1}
    assert grammar.read(Event(b"", b'{"error":{"message":"m"},"x":NaN}')) is Kind.ERROR


@pytest.mark.parametrize("data", [b"5", b"null", b'"text"', b"[1]", b"NaN", b'{"x":%b}' % DEEP])
def test_json_that_is_no_chunk_passes(data: bytes) -> None:
    """It is valid, so it is the client's to judge."""
    assert fresh().read(Event(b"", data)) is Kind.EVENT


def test_usage_is_the_last_one_seen_as_it_came() -> None:
    """Raw bytes, from the usage chunk or any other; null does not count."""
    grammar = fresh()
    read(grammar, b'{"choices":[],"usage":{"total_tokens": 3}}', {**chunk(), "usage": None})
    assert grammar.usage == b'{"total_tokens": 3}'


# --- joining on to another attempt's openers ---


def following(*given: Any) -> Identity:
    """Return the splice that follows openers which the client has."""
    return Identity(fresh().seam([Event(b"", raw(payload)) for payload in given]))


def joined(splice: Identity, payload: Any) -> Any:
    """Return what is left of a payload after joining."""
    events = splice.take(Event(b"", raw(payload)))
    return json.loads(events[0].data) if events else None


FIRST = {**chunk(role="assistant", content=""), "system_fingerprint": "fp_1"}
OTHER = {"id": "chatcmpl-2", "created": 2, "model": "m-2", "system_fingerprint": "fp_2"}


def test_a_joined_chunk_has_the_first_identity() -> None:
    """Id, created, model and fingerprint of the openers given stay."""
    left = joined(following(FIRST), {**chunk(content="Hi"), **OTHER, "obfuscation": "z"})
    identity = {key: FIRST[key] for key in OTHER}
    assert left == {**chunk(content="Hi"), **identity, "obfuscation": "z"}


def test_a_field_that_a_chunk_does_not_have_is_not_added() -> None:
    """Identity is imposed, not invented."""
    left = joined(following({**FIRST, "id": ""}), {"id": "x", "choices": []})
    assert left == {"id": "", "choices": []}


def test_a_field_that_the_first_attempt_did_not_have_is_taken_out() -> None:
    """The client would see an identity that changes on the way."""
    behind = following({"id": "a", "choices": []})
    left = joined(behind, {**chunk(content="x"), "system_fingerprint": "fp_2"})
    assert left == {"id": "a", "choices": chunk(content="x")["choices"]}


def test_the_first_opener_that_says_something_decides() -> None:
    """Later openers may vary it; Azure's first one has an empty id and model."""
    behind = following({"id": "a", "choices": []}, {**FIRST, "id": "b"})
    assert joined(behind, chunk(content="x"))["id"] == "a"
    behind = following({"id": "", "model": "", "choices": []}, {**FIRST, "id": "b"})
    left = joined(behind, {**chunk(content="x"), **OTHER})
    assert (left["id"], left["model"]) == ("b", "m")


def test_a_filter_result_that_was_given_is_not_given_twice() -> None:
    """Azure opens each attempt with one; the first chunk to come may be one as well."""
    azure = {"id": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
    assert joined(following(azure), azure) is None
    assert joined(following({"choices": []}), azure) == azure


def test_a_role_is_taken_out_once_given_and_the_empty_chunk_with_it() -> None:
    """Python would add it up to "assistantassistant"."""
    behind = following(FIRST)
    assert joined(behind, chunk(role="assistant", content="")) is None
    assert joined(behind, chunk(role="assistant", content="Hi")) == chunk(content="Hi")
    finish = chunk(role="assistant", finish="stop")
    assert joined(behind, finish) == chunk(finish="stop")


def test_a_role_of_another_choice_stays() -> None:
    """Roles are given once for each choice."""
    for text in ("Hi", ""):
        role = chunk(index=1, role="assistant", content=text)
        assert joined(following(FIRST), role) == role


@pytest.mark.parametrize(
    "payload",
    [
        {"choices": [], "usage": {"n": 1}},
        {"choices": [], "moderation": {}},
        {**chunk(), "usage": 1},
    ],
    ids=str,
)
def test_chunks_that_are_not_only_a_role_stay(payload: Any) -> None:
    """Usage and moderation pass the join."""
    assert joined(following({"choices": []}), payload) == payload


@pytest.mark.parametrize("data", [b"[DONE]", b"5", b'"id"', b'["id"]', b'{"x":%b}' % DEEP])
def test_what_has_no_identity_passes_unchanged(data: bytes) -> None:
    """There is nothing to rewrite, and nothing may be lost."""
    event = Event(b"", data)
    assert following(FIRST).take(event) == [event]


@pytest.mark.parametrize(
    "opener",
    [
        5,
        b'"id"',
        ["id"],
        {"choices": [{"delta": "role"}]},
        {"choices": [{"index": [], "delta": {"role": "assistant"}}]},
    ],
    ids=str,
)
def test_odd_openers_can_be_followed(opener: Any) -> None:
    """Whatever was let pass as an opener must not raise when it is used."""
    role = {"choices": [{"index": {}, "delta": {"role": "assistant", "content": "x"}}]}
    assert joined(following(opener), role)["choices"][0]["delta"]["content"] == "x"


def test_openers_at_the_edge_of_what_can_be_decoded_can_be_followed() -> None:
    """An opener that could just be decoded may be too deep a few calls further down."""
    limit = sys.getrecursionlimit()
    for depth in range(limit - 120, limit + 5):
        nest = b'{"choices":[],"x":' + b"[" * depth + b"]" * depth + b"}"
        following(nest)
