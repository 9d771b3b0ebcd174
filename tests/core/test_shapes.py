"""Repairs that have to be asked for: each with its look-alike, and none without its quirk."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import (
    ANSWER,
    CREATED,
    DONE,
    HI,
    ROLE,
    STOP,
    ask,
    bytewise,
    chunk,
    feed,
    hear,
    lifecycle,
    payloads,
    raw,
    spoken,
    sse,
    start,
)

from proxy.core.fault import Fault, IncidentOutcome, Phase
from proxy.core.policy import SAFE, Quirks

FILL = Quirks(fill_fields=True)
NULL = Quirks(nan="null")
LENGTH = Quirks(tool_arguments="length")
DROP = Quirks(empty_choices="drop")
ALL = Quirks(fill_fields=True, nan="null", tool_arguments="length", empty_choices="drop")

WHOLE = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
"""What every chunk of OpenAI's has."""


def full(**delta: Any) -> dict[str, Any]:
    """Make a chunk that lacks nothing."""
    return {**WHOLE, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def filled(*events: Any, family: str = "chat", **fields: Any) -> list[Any]:
    """Return what becomes of chunks, with or without content."""
    session = start(ask(family, **fields), quirks=FILL)
    out = session.commit_by_time() + feed(session, *bytewise(sse(*events)))
    return payloads(out)


# --- fields that are missing ---


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        (None, []),
        ("text", []),
        ([], []),
        ([{}], [{"index": 0, "finish_reason": None, "delta": {}}]),
        (
            [{"delta": None, "finish_reason": "stop"}, {"index": "1"}],
            [
                {"delta": {}, "finish_reason": "stop", "index": 0},
                {"index": 1, "finish_reason": None, "delta": {}},
            ],
        ),
        (
            [{"index": 3, "delta": {"content": "a"}, "finish_reason": None, "x": 1}],
            [{"index": 3, "delta": {"content": "a"}, "finish_reason": None, "x": 1}],
        ),
    ],
    ids=str,
)
def test_what_is_missing_in_a_choice_is_filled_in(choices: Any, expected: Any) -> None:
    """Index by place, an empty delta, no finish reason."""
    (only,) = filled({**WHOLE, "choices": choices})
    assert only["choices"] == expected


def test_a_chunk_without_choices_gets_an_empty_list() -> None:
    """Clients look for it."""
    assert filled({**WHOLE, "usage": {"x": 1}})[0]["choices"] == []


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ({}, {"index": 0, "function": {"arguments": ""}}),
        (
            {"id": "a", "function": {"name": "f", "arguments": None}},
            {
                "index": 0,
                "id": "a",
                "type": "function",
                "function": {"name": "f", "arguments": ""},
            },
        ),
        ({"index": 4, "function": None}, {"index": 4, "function": {"arguments": ""}}),
        (
            {"id": "a", "type": "custom", "index": 1},
            {"id": "a", "type": "custom", "index": 1, "function": {"arguments": ""}},
        ),
        (
            {"index": 2, "function": {"arguments": "{"}},
            {"index": 2, "function": {"arguments": "{"}},
        ),
    ],
    ids=str,
)
def test_what_is_missing_in_a_call_is_filled_in(call: Any, expected: Any) -> None:
    """openai/openai-python#2806, open-webui/open-webui#27195."""
    (only,) = filled(full(tool_calls=[call]))
    assert only["choices"][0]["delta"]["tool_calls"] == [expected]


def test_calls_are_numbered_by_their_place() -> None:
    """As far as they stand in one chunk."""
    (only,) = filled(full(tool_calls=[{"id": "a"}, {"id": "b"}]))
    assert [call["index"] for call in only["choices"][0]["delta"]["tool_calls"]] == [0, 1]


def test_the_identity_is_that_of_the_first_chunk() -> None:
    """A later chunk that lacks it, or has an empty one, gets it."""
    first, empty, other = (
        {**full(content="a"), "id": "one", "model": "m-2024"},
        {**full(content="b"), "id": "", "model": None, "created": 0},
        full(content="c"),
    )
    bare = {"choices": first["choices"]}
    one, two, three, four = filled(first, empty, bare, other)
    for later in (two, three):
        assert (later["id"], later["model"], later["created"]) == ("one", "m-2024", 1)
    assert one == first
    assert four == other, "what is there is the upstream's"


def test_before_any_chunk_told_it_the_model_is_the_one_asked_for() -> None:
    """An id is not invented."""
    (only,) = filled({"choices": full()["choices"]})
    assert only == {"model": "m", "object": WHOLE["object"], "choices": full()["choices"]}
    (only,) = filled({"choices": full()["choices"]}, model=None)
    assert "model" not in only


@pytest.mark.parametrize("text", [None, "", 5])
def test_a_legacy_chunk_gets_its_text_and_no_delta(text: Any) -> None:
    """Its form is another."""
    (only,) = filled({"choices": [{"text": text}]}, family="completions")
    assert only["choices"] == [{"text": text or "", "index": 0, "finish_reason": None}]
    assert only["object"] == "text_completion"


def test_a_chunk_that_lacks_nothing_keeps_its_bytes() -> None:
    """And is not counted."""
    data = json.dumps(full(content="é", tool_calls=[])).replace('"m"', ' "m" ')
    end = {**WHOLE, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    body = sse(data, end) + DONE
    heard = hear(body, quirks=FILL)
    assert (heard.out, heard.repairs) == (body, {})


@pytest.mark.parametrize(
    "body", [sse({"error": {"message": "m"}}), sse({"type": "error", "message": "m"})]
)
def test_an_error_is_not_filled_in(body: bytes) -> None:
    """It is no chunk; the client is told what the upstream said."""
    heard = hear(sse(full(content="a")) + body, quirks=FILL)
    assert payloads(heard.out)[-1]["error"]["message"] == "m"
    assert heard.facts == [(Fault.IN_STREAM_ERROR, Phase.MID_CONTENT, IncidentOutcome.SURFACED)]


def test_a_chunk_with_a_name_is_a_chunk() -> None:
    """It is filled in, and its name goes."""
    heard = hear(sse({"choices": [{}]}, name="chunk") + sse(HI, STOP) + DONE, quirks=FILL)
    assert payloads(heard.out)[0]["choices"] == [{"index": 0, "delta": {}, "finish_reason": None}]
    assert heard.repairs["dropped_event_name"] == 1


def test_an_event_of_another_language_is_not_made_a_chunk() -> None:
    """It is dropped, or passes as it came."""
    tool = sse({"tool": "x"}, name="hermes.tool.progress")
    body = sse(full(content="a")) + tool + sse({**full(), **STOP, **WHOLE}) + DONE
    heard = hear(body, quirks=FILL)
    assert heard.repairs == {"dropped_foreign_event": 1}
    passing = hear(body, quirks=Quirks(fill_fields=True, foreign_events="pass"))
    assert tool in passing.out


@pytest.mark.parametrize("data", ["5", "[1]", "null", '"x"', "hello", '{"a":'])
def test_what_is_no_object_is_left_to_the_grammar(data: str) -> None:
    """A shape is for chunks."""
    with_, without = (
        hear(sse(ROLE, data, HI, STOP) + DONE, quirks=quirks) for quirks in (LENGTH, SAFE)
    )
    assert (with_.out, with_.facts) == (without.out, without.facts)


# --- numbers that are none ---

NUMBERS = (
    b'{"choices":[{"index":0,"delta":{"content":"a"},"logprobs":{"content":[{"logprob":%b}]}}]}'
)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity"])
@pytest.mark.parametrize("family", ["chat", "completions", "other"])
def test_what_json_has_no_number_for_is_null(family: str, number: bytes) -> None:
    """Strict clients die of it (infiniflow/ragflow#15266)."""
    body = sse(NUMBERS % number, STOP) + DONE
    heard = hear(body, ask(family), quirks=NULL)
    assert heard.out == sse(NUMBERS % b"null", STOP) + DONE
    assert heard.repairs == {"nan_to_null": 1}
    assert hear(body, ask(family)).out == body, "without the quirk it passes"


def test_it_is_counted_once_an_event() -> None:
    """However many there are."""
    heard = hear(sse('{"a":NaN,"b":[NaN,-Infinity]}', STOP) + DONE, quirks=NULL)
    assert heard.out == sse('{"a":null,"b":[null,null]}', STOP) + DONE
    assert heard.repairs == {"nan_to_null": 1}


def test_a_response_is_read_in_the_same_way() -> None:
    """The quirk is of the server, not of an endpoint."""
    event = raw({**spoken(1), "logprobs": [1.0]}).replace(b"1.0", b"NaN")
    body = sse(CREATED, event, lifecycle("completed", 2))
    heard = hear(body, ask("responses"), quirks=NULL)
    assert payloads(heard.out)[1]["logprobs"] == [None]


@pytest.mark.parametrize("data", ['{"a":"NaN"}', '{"NaN":-1e3}', '{"a":1.50}', '{"a":null}'])
def test_what_only_resembles_such_a_number_keeps_its_bytes(data: str) -> None:
    """A model may speak of them."""
    body = sse(data, STOP) + DONE
    heard = hear(body, quirks=NULL)
    assert (heard.out, heard.repairs) == (body, {})


def test_another_shape_leaves_them_alone() -> None:
    """One quirk does not turn on another."""
    heard = hear(sse(NUMBERS % b"NaN", STOP) + DONE, quirks=FILL)
    assert b'"logprob":NaN' in heard.out


# --- chunks without a choice ---


def test_a_chunk_without_a_choice_is_dropped() -> None:
    """Clients that look into the first one die of it (Azure sends one in every stream)."""
    filters: dict[str, Any] = {
        "choices": [],
        "prompt_filter_results": [{"hate": {}}],
        "id": "",
        "usage": None,
    }
    heard = hear(sse(filters, ROLE, HI, {"choices": []}, STOP) + DONE, quirks=DROP)
    assert (heard.out, heard.repairs) == (ANSWER, {"dropped_empty_choices": 2})


@pytest.mark.parametrize(
    "event", [{"choices": [], "usage": {"total_tokens": 1}}, {"choices": None}, {"x": 1}, {}]
)
def test_statistics_and_what_is_no_list_stay(event: Any) -> None:
    """Somebody waits for the first, and nobody knows about the others."""
    body = sse(ROLE, HI, event, STOP) + DONE
    heard = hear(body, quirks=DROP)
    assert (heard.out, heard.repairs) == (body, {})


def test_an_error_without_a_choice_stays() -> None:
    """It is told."""
    heard = hear(sse(ROLE, HI, {"choices": [], "error": {"message": "m"}}), quirks=DROP)
    assert payloads(heard.out)[-1]["error"]["message"] == "m"


def test_nothing_but_such_chunks_is_an_empty_stream() -> None:
    """No answer began."""
    heard = hear(sse({"choices": []}) * 3 + DONE, quirks=DROP)
    assert [fault for fault, _, _ in heard.facts] == [Fault.EMPTY_STREAM]


def test_other_endpoints_have_no_choices() -> None:
    """Whatever their events are called."""
    body = sse({"choices": []}, "[DONE]")
    assert hear(body, ask("other"), quirks=ALL).out == body


# --- arguments that stop short ---


def called(*arguments: Any, finish: str = "tool_calls", index: int | None = 0) -> bytes:
    """Make an answer of one call, its arguments in pieces."""
    at = {} if index is None else {"index": index}
    parts = [
        chunk(tool_calls=[{**at, "id": "a", "function": {"name": "f", "arguments": text}}])
        for text in arguments
    ]
    return sse(*parts, chunk(finish=finish)) + DONE


def reasons(out: bytes) -> list[str]:
    """Return the finish reasons given."""
    found = [choice for event in payloads(out)[:-1] for choice in event["choices"]]
    return [choice["finish_reason"] for choice in found if choice["finish_reason"]]


@pytest.mark.parametrize(
    "arguments",
    [
        ["{"],
        ['{"', 'city":"Kiel'],
        ['{"a":1', ""],
        ['{"a":tr'],
        ["[1,"],
        ['{"a":"x\\'],
        ['{"a":"x\\', '"}'],
        ['{"a":"x\\', "\\", '"'],
        ['{"a":"}]}'],
        ['"half of a text'],
        ["tr"],
        ["-", "a", "b"],
        ["nothing like", " JSON", "{}"],
        ["{]", "{}"],
        ["[" * 50_000],
        [" ", "\n{", "[]"],
    ],
)
def test_arguments_that_stop_short_are_called_that(arguments: list[str]) -> None:
    """Or half of what the model wanted would be run (vllm-project/vllm#53739)."""
    heard = hear(called(*arguments), quirks=LENGTH)
    assert reasons(heard.out) == ["length"]
    assert heard.repairs == {"rewrote_finish_reason": 1}
    assert hear(called(*arguments)).out == called(*arguments), "without the quirk it passes"


@pytest.mark.parametrize(
    "body",
    [
        called("{}"),
        called('{"a":', '"}', '{"}'),
        called(""),
        called(" ", "\n"),
        called("{", finish="length"),
        called("{", finish="stop"),
        called(None),
        called({"a": 1}),
        called("[]", "{}", index=None),
        called('{"a":' + "1" * 5000 + "}"),
        called("[" * 50_000 + "]" * 50_000),
        called("{}", "{"),
        called('"a', 'b"'),
        called("-", "1", "x"),
        called("t", "rue"),
        called('{"a":"x\\', '"', '}"}'),
        called('{"a":"x\\', '\\"}'),
        sse(chunk(content="{"), chunk(finish="tool_calls")) + DONE,
        sse(chunk(tool_calls="{"), chunk(tool_calls=[5]), chunk(finish="tool_calls")) + DONE,
        sse({"choices": [{"delta": None}]}, chunk(finish="tool_calls")) + DONE,
        sse(chunk(tool_calls=[{"function": "{"}]), chunk(finish="tool_calls")) + DONE,
    ],
)
def test_arguments_that_are_whole_or_none_are_left_alone(body: bytes) -> None:
    """So is what another reason explains, and what cannot be read."""
    heard = hear(body, quirks=LENGTH)
    assert (heard.out, heard.repairs) == (body, {})


def test_each_choice_and_each_call_is_looked_at_by_itself() -> None:
    """One that breaks off is enough for its choice, and says nothing of another."""

    def part(index: int, call: int, text: str) -> dict[str, Any]:
        return chunk(index=index, tool_calls=[{"index": call, "function": {"arguments": text}}])

    parts = [part(0, 0, "{}"), part(0, 1, "{"), part(1, 0, "{"), part(1, 0, "}")]
    ends = [chunk(index=index, finish="tool_calls") for index in (0, 1)]
    heard = hear(sse(*parts, *ends) + DONE, ask(n=2), quirks=LENGTH)
    assert reasons(heard.out) == ["length", "tool_calls"]


def test_calls_of_one_chunk_without_numbers_are_told_apart_by_their_place() -> None:
    """Half of one is not made whole by half of another."""
    calls = [{"function": {"arguments": text}} for text in ("{", "}")]
    heard = hear(sse(chunk(tool_calls=calls), chunk(finish="tool_calls")) + DONE, quirks=LENGTH)
    assert reasons(heard.out) == ["length"]


def test_arguments_of_another_endpoint_are_not_looked_at() -> None:
    """What they mean there is not known."""
    assert hear(called("{"), ask("other"), quirks=LENGTH).out == called("{")


def test_what_is_remembered_is_bounded_and_what_is_not_is_believed() -> None:
    """Memory counts more than this repair."""
    body = called("{", "x" * 2000, "x" * 2000)
    session = start(quirks=LENGTH, journal_max_bytes=1000)
    assert session.receive_data(body) == body
    shaper: Any = session._attempt._shaper
    kept = shaper._shapes[0]._calls.values()
    assert sum(len(text) for call in kept for text in call.parts) < 3000


def test_calls_are_counted_with_what_remembering_one_costs() -> None:
    """A stream of nothing but calls would otherwise be held whole, many times over."""
    parts = [chunk(tool_calls=[{"index": at, "function": {"arguments": ""}}]) for at in range(100)]
    session = start(quirks=LENGTH, journal_max_bytes=5000)
    session.receive_data(sse(*parts))
    shaper: Any = session._attempt._shaper
    assert len(shaper._shapes[0]._calls) == 11


def test_a_reason_in_every_chunk_is_judged_by_what_came_so_far() -> None:
    """Each call is read on from where it was left, and its verdict may change until it is over."""
    parts = ["", '{"a', '":"', "\\", '"', '"', "}", "{"]
    chunks = [
        chunk(tool_calls=[{"index": 0, "function": {"arguments": text}}], finish="tool_calls")
        for text in parts
    ]
    heard = hear(sse(*chunks) + DONE, quirks=LENGTH)
    assert reasons(heard.out) == ["tool_calls", *["length"] * 5, "tool_calls", "tool_calls"]


def test_what_follows_the_end_of_a_call_is_not_remembered() -> None:
    """Its verdict stands, so that no text is ever read again."""
    session = start(quirks=LENGTH)
    for text in ('{"a":', '"}"}', *"{}" * 9):
        call = {"index": 0, "function": {"arguments": text}}
        session.receive_data(sse(chunk(tool_calls=[call], finish="tool_calls")))
    shaper: Any = session._attempt._shaper
    (call,) = shaper._shapes[0]._calls.values()
    assert "".join(call.parts) == '{"a":"}"}'


# --- all of them ---


def test_more_than_one_shape_may_fit_one_chunk() -> None:
    """Each is counted."""
    end = b'{"choices":[{"finish_reason":"tool_calls","logprobs":NaN}]}'
    call = full(tool_calls=[{"function": {"name": "f", "arguments": "{"}}])
    heard = hear(sse(call, end) + DONE, quirks=ALL)
    assert reasons(heard.out) == ["length"]
    assert heard.repairs == {"filled_fields": 2, "rewrote_finish_reason": 1, "nan_to_null": 1}


@pytest.mark.parametrize("depth", [100, 500, 970, *range(975, 996), 5000])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_a_chunk_nested_however_deeply_raises_nothing(brackets: str, depth: int) -> None:
    """Input never raises; what cannot be written again passes as it came."""
    left, right = ("[", "]") if brackets == "[]" else ('{"a":', "}")
    nest = f"{left * depth}1{right * depth}"
    data = f'{{"choices":[{{"delta":{{"content":"a"}}}}],"x":{nest},"y":NaN}}'
    session = start(quirks=ALL)
    assert session.receive_data(sse(data)) != b""


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "tool_calls", "function", "arguments", "index", "id", "error"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(ANY, max_size=4), st.sampled_from([FILL, NULL, LENGTH, DROP, ALL]))
def test_no_value_makes_a_shape_raise(values: list[Any], quirks: Quirks) -> None:
    """Input never raises, and what is given stays JSON."""
    session = start(quirks=quirks)
    payloads(session.receive_data(sse(*values)))


def test_a_number_that_is_too_large_to_be_written_again_becomes_the_largest() -> None:
    """A chunk that is written anew must not become what it was not before: no JSON."""
    out = start(quirks=FILL).receive_data(
        sse('{"choices":[{"delta":{"content":"a"}}],"logprob":-1e999}')
    )
    assert b"Infinity" not in out
    assert payloads(out)[0]["logprob"] < -1e308
