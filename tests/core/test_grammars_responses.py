"""The Responses grammar: lifecycle, sequence numbers, two error forms, identity."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import ask, lifecycle, raw, spoken

from proxy.core.errors import UpstreamError, read_error
from proxy.core.grammars import grammar_for
from proxy.core.grammars.base import Kind
from proxy.core.grammars.responses import ResponsesGrammar
from proxy.core.journal import Journal
from proxy.core.recovery.splice import Identity
from proxy.core.request import Request
from proxy.core.sse import Event

DEEP = b'{"type":"response.created","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
ERROR = read_error(b'{"error":{"message":"gone","type":"t","code":"c"}}')


def fresh(**fields: Any) -> ResponsesGrammar:
    """Return the grammar of a new attempt."""
    grammar = grammar_for(ask("responses", **fields))
    assert isinstance(grammar, ResponsesGrammar)
    return grammar


def event(payload: Any, name: bytes = b"") -> Event:
    """Make an event of a payload."""
    return Event(name, raw(payload))


def read(grammar: ResponsesGrammar, *payloads: Any) -> Kind:
    """Read payloads, return what the last one was."""
    return [grammar.read(event(payload)) for payload in payloads][-1]


def told(grammar: ResponsesGrammar, *given: Any, error: UpstreamError = ERROR) -> list[Any]:
    """Return the payloads of the error events behind what was given."""
    journal = Journal(10_000)
    for payload in given:
        journal.give(event(payload))
    events = grammar.error_events(error, journal)
    assert [e.name for e in events] == [b"error", b"response.failed"]
    return [json.loads(e.data) for e in events]


# --- content and terminals ---


@pytest.mark.parametrize("kind", ["created", "queued", "in_progress"])
def test_lifecycle_openers_are_no_content(kind: str) -> None:
    """They are held: a restart behind them is invisible."""
    grammar = fresh()
    opener = event(lifecycle(kind, 0))
    assert grammar.read(opener) is Kind.EVENT
    assert not grammar.has_content(opener)


def test_a_keepalive_is_no_content() -> None:
    """It carries a sequence number and nothing else."""
    assert not fresh().has_content(event({"type": "keepalive", "sequence_number": 3}))


@pytest.mark.parametrize(
    "payload",
    [
        spoken(2),
        {"type": "response.output_item.added", "item": {}},
        {"type": "response.reasoning_summary_text.delta", "delta": ""},
        {"type": "response.web_search_call.searching"},
        {"type": "vendor.extra"},
        {},
        {"type": []},
        DEEP,
    ],
    ids=lambda payload: str(payload)[:50],
)
def test_everything_else_is_content(payload: Any) -> None:
    """An output item may have side effects, an unknown event may mean anything."""
    assert fresh().has_content(event(payload))


def test_the_name_of_the_event_stands_in_for_a_missing_type() -> None:
    """Data has the last word, the event line the second."""
    grammar = fresh()
    assert not grammar.has_content(event({}, b"response.created"))
    assert grammar.has_content(event({"type": "vendor.x"}, b"response.created"))
    assert grammar.read(event({"response": {}}, b"response.completed")) is Kind.TERMINAL


@pytest.mark.parametrize("kind", ["completed", "incomplete", "cancelled"])
def test_each_legal_ending_is_terminal(kind: str) -> None:
    """A token limit or a filter is a legal end, never to be recovered."""
    grammar = fresh()
    assert read(grammar, lifecycle(kind, 5, usage={"total_tokens": 3})) is Kind.TERMINAL
    assert json.loads(grammar.usage) == {"total_tokens": 3}


def test_a_terminal_without_usage_has_none() -> None:
    """Usage may be null or absent."""
    grammar = fresh()
    assert read(grammar, lifecycle("completed", 5, usage=None)) is Kind.TERMINAL
    assert grammar.usage == b""


def test_nothing_but_the_terminal_event_completes_a_response() -> None:
    """Not the last text, not the last item, and no mark can be added."""
    grammar = fresh()
    read(grammar, lifecycle("created", 0), spoken(1), {"type": "response.output_item.done"})
    assert not grammar.whole(clean=True)
    assert grammar.end_mark() is None


def test_done_does_not_belong_here() -> None:
    """It is dropped, and is no event (googleapis/java-genai#1084)."""
    grammar = fresh()
    assert read(grammar, "[DONE]") is Kind.SURPLUS
    assert grammar.events == 0


@pytest.mark.parametrize(
    "text", ["response.completed", '{"type":"error"}', "[DONE]", "event: error"]
)
def test_text_that_contains_the_thing_is_not_the_thing(text: str) -> None:
    """What the model says is content, whatever it looks like."""
    grammar = fresh()
    assert read(grammar, spoken(1, text)) is Kind.EVENT
    assert grammar.error is None


# --- errors ---


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({"type": "error", "code": "c", "message": "m"}, "c"),
        ({"type": "error", "error": {"code": "c", "message": "m"}}, "c"),
        ({"error": {"code": "c", "message": "m"}}, "c"),
        ({"error": "m"}, None),
    ],
    ids=["flat", "nested", "untyped", "string"],
)
def test_each_form_of_error_event_is_told_anew(payload: Any, code: str | None) -> None:
    """Strict clients miss most forms, so none of them is native (zyycn/codex-proxy-rs#90)."""
    grammar = fresh()
    assert read(grammar, payload) is Kind.ERROR
    assert grammar.error is not None
    assert (grammar.error.message, grammar.error.code) == ("m", code)
    assert not grammar.error_is_native


def test_an_event_named_error_is_an_error() -> None:
    """The data need not repeat it."""
    assert fresh().read(event({"message": "m"}, b"error")) is Kind.ERROR


def test_response_failed_is_the_upstreams_own_word() -> None:
    """Every client understands it as it is."""
    grammar = fresh()
    failed = lifecycle("failed", 3, error={"code": "server_error", "message": "m"})
    assert read(grammar, failed) is Kind.ERROR
    assert grammar.error is not None
    assert (grammar.error.message, grammar.error.transient) == ("m", True)
    assert grammar.error_is_native


def test_an_error_field_of_a_typed_event_is_no_error() -> None:
    """A tool that failed is part of the answer."""
    assert read(fresh(), {"type": "response.mcp_call.failed", "error": "x"}) is Kind.EVENT


def test_the_error_events_continue_the_sequence_with_the_known_response() -> None:
    """Flat and nested in the first, the original response in the second."""
    grammar = fresh()
    given = (lifecycle("created", 0, "resp_9", model="m"), spoken(1), spoken(2))
    read(grammar, *given)
    first, second = told(grammar, *given)
    assert first == {
        "type": "error",
        "sequence_number": 3,
        "code": "c",
        "message": "gone",
        "param": None,
        "error": {**ERROR.as_object(), "retryable": True},
    }
    assert (second["type"], second["sequence_number"]) == ("response.failed", 4)
    response = lifecycle("created", 0, "resp_9", model="m")["response"]
    failure = {"status": "failed", "error": {"code": "c", "message": "gone"}}
    assert second["response"] == {**response, **failure}


def test_a_deterministic_error_is_not_called_retryable() -> None:
    """The same request would fail again."""
    first, second = told(fresh(), error=read_error(b'{"error":{"code":"invalid_prompt"}}'))
    assert "retryable" not in first["error"]
    assert second["response"]["error"]["code"] == "invalid_prompt"


def test_an_error_before_any_response_is_told_with_an_empty_one() -> None:
    """There is no id to keep."""
    first, second = told(fresh())
    assert (first["sequence_number"], second["sequence_number"]) == (0, 1)
    assert second["response"]["id"] == ""
    assert second["response"]["status"] == "failed"


def test_an_error_event_takes_no_number() -> None:
    """It is not given, so its number is free for ours."""
    grammar = fresh()
    read(grammar, lifecycle("created", 0), {"type": "error", "sequence_number": 1})
    assert [e["sequence_number"] for e in told(grammar, lifecycle("created", 0))] == [1, 2]


@pytest.mark.parametrize("number", [None, "7", 1.5, []])
def test_events_without_a_number_are_counted(number: Any) -> None:
    """The form of March 2025 had none."""
    given = [{**lifecycle(kind, 0), "sequence_number": number} for kind in ("created", "queued")]
    assert told(fresh(), *given)[0]["sequence_number"] == 2
    for payload in given:
        del payload["sequence_number"]
    assert told(fresh(), *given)[0]["sequence_number"] == 2


# --- what the strict decoder refuses ---


@pytest.mark.parametrize("data", [b"{", b"hello", b'{"type":"error"', b"\xff"])
def test_what_no_decoder_takes_is_malformed(data: bytes) -> None:
    """It is not JSON, so it must not be given."""
    grammar = fresh()
    assert grammar.read(Event(b"response.completed", data)) is Kind.MALFORMED
    assert grammar.events == 0


def test_the_second_opinion_sees_type_error_number_and_response() -> None:
    """Odd but legal JSON is read like any other."""
    created = b'{"type":"response.created","sequence_number":4,"response":{"id":"r"},"x":NaN}'
    grammar = fresh()
    assert read(grammar, created) is Kind.EVENT
    first, second = told(grammar, created)
    assert (first["sequence_number"], second["response"]["id"]) == (5, "r")
    assert read(grammar, b'{"error":{"message":"m"},"x":NaN}') is Kind.ERROR


@pytest.mark.parametrize("response", [b"null", b"5", b'{"usage":NaN}', b'"{"'])
def test_a_terminal_with_an_odd_response_is_terminal(response: bytes) -> None:
    """Its type alone says so."""
    data = b'{"type":"response.completed","response":%b}' % response
    assert fresh().read(Event(b"", data)) is Kind.TERMINAL


@pytest.mark.parametrize("data", [b"5", b"null", b'"text"', b"[1]", b'{"type":[]}', DEEP])
def test_json_of_no_known_shape_passes(data: bytes) -> None:
    """It is valid, so it is the client's to judge."""
    assert fresh().read(Event(b"", data)) is Kind.EVENT


# --- restarting ---


@pytest.mark.parametrize("stored", [None, True, False])
def test_a_new_attempt_may_follow_while_no_id_was_given(stored: bool | None) -> None:  # noqa: FBT001
    """Nothing that the client could use is lost."""
    grammar = fresh(**({} if stored is None else {"store": stored}))
    read(grammar, lifecycle("created", 0))
    assert grammar.may_restart(openers_given=False)


def test_behind_a_given_id_only_an_unstored_response_may_restart() -> None:
    """The app may use the id it has; with store: false there is nothing to use."""
    assert fresh(store=False).may_restart(openers_given=True)
    assert not fresh(store=True).may_restart(openers_given=True)
    assert not fresh().may_restart(openers_given=True)


def test_a_reattached_stream_never_restarts_behind_a_given_id() -> None:
    """A GET re-attaches to one response that exists."""
    grammar = grammar_for(Request("GET", "/responses/resp_1?stream=true"))
    assert grammar.may_restart(openers_given=False)
    assert not grammar.may_restart(openers_given=True)


def test_a_background_run_is_never_started_twice() -> None:
    """Once it answered it runs on, whatever became of its stream."""
    grammar = fresh(background=True, store=False)
    assert grammar.may_restart(openers_given=False)
    read(grammar, lifecycle("created", 0))
    assert not grammar.may_restart(openers_given=False)


@pytest.mark.parametrize(
    ("item", "harmless"),
    [
        ({"type": "message"}, True),
        ({"type": "reasoning"}, True),
        ({"type": "function_call"}, True),
        ({"type": "custom_tool_call"}, True),
        ({"type": "web_search_call"}, False),
        ({"type": "vendor.call"}, False),
        ({"type": []}, False),
        (None, False),
    ],
)
def test_a_tool_that_the_upstream_runs_is_not_run_twice(
    item: dict[str, Any] | None,
    harmless: bool,  # noqa: FBT001
) -> None:
    """It may have had its effect, given or not; what only the app runs has none yet."""
    grammar = fresh(store=False)
    read(grammar, {"type": "response.output_item.added", "output_index": 0, "item": item})
    assert grammar.may_restart(openers_given=False) is harmless
    assert grammar.may_restart(openers_given=True) is harmless


# --- what the response is called ---


def test_the_id_is_that_of_the_last_lifecycle_event() -> None:
    """Nothing is known of it before the first."""
    grammar = fresh()
    assert grammar.response_id == ""
    read(grammar, spoken(0), lifecycle("created", 1, "resp_9"), {"type": "keepalive"})
    assert grammar.response_id == "resp_9"


@pytest.mark.parametrize("response", [5, {}, {"id": 7}, None])
def test_a_response_without_an_id_has_none(response: Any) -> None:
    """It cannot be re-attached to."""
    grammar = fresh()
    read(grammar, {"type": "response.created", "response": response})
    assert grammar.response_id == ""


def test_the_number_of_the_last_event_is_read_or_counted() -> None:
    """After it a re-attached stream goes on."""
    grammar = fresh()
    assert grammar.sequence == -1
    read(grammar, lifecycle("created", 0), spoken(4))
    assert grammar.sequence == 4
    read(grammar, {"type": "response.output_text.delta", "delta": "x"})
    assert grammar.sequence == 5
    behind = grammar_for(Request("GET", "/responses/resp_1?stream=true&starting_after=41"))
    assert isinstance(behind, ResponsesGrammar)
    assert behind.sequence == 41


# --- joining on to another attempt's openers ---


def following(*given: Any) -> Identity:
    """Return the splice that follows openers which the client has."""
    return Identity(fresh(store=False).seam([event(payload) for payload in given]))


def join(splice: Identity, payload: Any) -> Any:
    """Return what is left of a payload after joining."""
    left = splice.take(event(payload))
    return json.loads(left[0].data) if left else None


def test_openers_given_are_dropped_and_the_rest_is_renumbered() -> None:
    """Numbers go on without a gap, with the first response's identity."""
    behind = following(lifecycle("created", 0, "resp_1"))
    second = {"created_at": 99, "model": "m"}
    assert join(behind, lifecycle("created", 0, "resp_2", **second)) is None
    assert join(behind, lifecycle("in_progress", 1, "resp_2", **second)) == lifecycle(
        "in_progress", 1, "resp_1", created_at=7, model="m"
    )
    assert join(behind, spoken(2)) == spoken(2)
    assert join(behind, lifecycle("completed", 3, "resp_2")) == lifecycle("completed", 3)


def test_numbers_continue_after_all_that_was_given() -> None:
    """The new attempt may number otherwise, or not at all."""
    behind = following(lifecycle("created", 0), lifecycle("queued", 1), lifecycle("in_progress", 2))
    assert join(behind, spoken(17))["sequence_number"] == 3
    bare = {"type": "response.output_text.delta", "delta": "x"}
    assert join(behind, bare) == bare
    assert join(behind, spoken(19))["sequence_number"] == 5


@pytest.mark.parametrize("number", [None, "7", 1.5])
def test_openers_without_numbers_are_counted(number: Any) -> None:
    """So that what comes behind them has the next number."""
    openers = [{**lifecycle(kind, 0), "sequence_number": number} for kind in ("created", "queued")]
    assert join(following(*openers), spoken(9))["sequence_number"] == 2


def test_an_error_behind_given_openers_keeps_their_identity() -> None:
    """Whatever the new attempt called itself."""
    grammar = fresh(store=False)
    read(grammar, lifecycle("created", 0, "resp_2", created_at=99, model="m"))
    first, second = told(grammar, lifecycle("created", 0, "resp_1"))
    assert (first["sequence_number"], second["sequence_number"]) == (1, 2)
    assert (second["response"]["id"], second["response"]["created_at"]) == ("resp_1", 7)


def test_a_given_opener_without_a_response_is_followed() -> None:
    """A keepalive has a number only, and as many may come as the upstream likes."""
    keepalive = {"type": "keepalive", "sequence_number": 0}
    behind = following(keepalive)
    assert join(behind, keepalive) == {"type": "keepalive", "sequence_number": 1}
    assert join(behind, lifecycle("created", 0, "resp_2"))["response"]["id"] == "resp_2"


@pytest.mark.parametrize("data", [b"5", b"{}", DEEP])
def test_what_has_no_identity_passes_unchanged(data: bytes) -> None:
    """There is nothing to rewrite, and nothing may be lost."""
    given = Event(b"x", data)
    assert following(lifecycle("created", 0)).take(given) == [given]


def test_an_event_of_an_odd_type_is_joined() -> None:
    """A type that is no text must not raise."""
    assert join(following(lifecycle("created", 0)), {"type": []}) == {"type": []}
