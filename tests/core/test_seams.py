"""The seams: how events are taken apart, trimmed and fitted where two attempts meet."""

from __future__ import annotations

from typing import Any

import pytest
from support import HI, ROLE, STOP, chunk, lifecycle, raw, spoken

from proxy.core.grammars.chat_seam import ChatSeam
from proxy.core.grammars.responses_seam import ResponsesSeam
from proxy.core.grammars.seam import parsed
from proxy.core.sse import Event


def chat(*given: Any) -> ChatSeam:
    """Return the seam of chat chunks that were given."""
    return ChatSeam([Event(b"", raw(payload)) for payload in given])


def responses(*given: Any) -> ResponsesSeam:
    """Return the seam of response events that were given."""
    return ResponsesSeam([Event(b"", raw(payload)) for payload in given])


def call(**function: Any) -> dict[str, Any]:
    """Make a chunk with one fragment of a tool call."""
    return chunk(tool_calls=[{"index": 1, "id": "c", "type": "function", "function": function}])


def legacy(text: Any, **fields: Any) -> dict[str, Any]:
    """Make a chunk of a legacy completion."""
    return {"choices": [{"index": 0, "text": text, **fields}]}


# --- chat: texts and marks ---

TEXTS: dict[str, tuple[dict[str, Any], dict[tuple[str | int, ...], str]]] = {
    "content": (HI, {(0, "content"): "Hi"}),
    "another choice": (chunk(index=3, refusal="No"), {(3, "refusal"): "No"}),
    "several fields": (
        chunk(content="a", reasoning="b"),
        {(0, "content"): "a", (0, "reasoning"): "b"},
    ),
    "legacy": (legacy("Hi"), {(0, "text"): "Hi"}),
    "tool call": (
        call(name="f", arguments="{}"),
        {(0, 1, "name"): "f", (0, 1, "arguments"): "{}"},
    ),
    "custom tool": (
        chunk(tool_calls=[{"custom": {"name": "f", "input": "x"}}]),
        {(0, 0, "name"): "f", (0, 0, "input"): "x"},
    ),
    "function call": (
        chunk(function_call={"arguments": "{"}),
        {(0, "function_call", "arguments"): "{"},
    ),
    "a value": (chunk(audio={"id": "a"}), {(0, "audio", "value"): '{"id":"a"}\n'}),
    "a list of parts": (chunk(content=["a"]), {(0, "content", "value"): '["a"]\n'}),
    "odd calls": (chunk(tool_calls=[5]), {(0, "tool_calls", "value"): "[5]\n"}),
    "an odd function": (call(name=5, arguments=None), {}),
    "role": (ROLE, {}),
    "empty": (legacy(""), {}),
    "no texts": (legacy(5), {}),
    "no choices": ({"choices": 5}, {}),
}


@pytest.mark.parametrize(("payload", "texts"), TEXTS.values(), ids=TEXTS)
def test_a_chunk_is_taken_apart_into_its_texts(
    payload: dict[str, Any], texts: dict[tuple[str | int, ...], str]
) -> None:
    """By choice and field; what cannot be cut is one text of its own."""
    assert chat(payload).texts == texts


def test_the_texts_of_many_chunks_add_up_slot_by_slot() -> None:
    """However they are mixed."""
    seam = chat(ROLE, HI, chunk(index=1, content="No"), chunk(content=" you"), call(name="f"))
    texts = {(0, "content"): "Hi you", (1, "content"): "No", (0, 1, "name"): "f"}
    assert seam.texts == texts


def test_a_finish_reason_is_a_mark_that_closes_its_choice() -> None:
    """And no other one."""
    seam = chat(HI, STOP, chunk(index=1, content="x"))
    assert seam.marks == {(0, "finish_reason"): ["stop"]}
    assert seam.is_closed((0, "content"))
    assert not seam.is_closed((1, "content"))


def test_a_finish_reason_can_be_taken_out_of_its_chunk() -> None:
    """Of the choice that it belongs to."""
    seam = chat()
    both = {"choices": [{"index": at, "finish_reason": "stop"} for at in (0, 1)]}
    seam.unmark(both, seam.marks_of(both)[1])
    assert [choice["finish_reason"] for choice in both["choices"]] == ["stop", None]


# --- chat: trimming ---


def trimmed(payload: dict[str, Any], lost: int) -> dict[str, Any]:
    """Take so many characters off the first text of a chunk."""
    seam = chat()
    seam.trim(payload, seam.pieces(payload)[0], lost)
    return payload


def test_a_text_is_trimmed_in_its_place() -> None:
    """With it goes the padding, whose length told the old one."""
    assert trimmed({**chunk(content="Hi you"), "obfuscation": "z"}, 3) == chunk(content="you")
    assert trimmed(chunk(content="Hi", refusal="x"), 2) == chunk(refusal="x")
    assert trimmed(legacy("Hi you"), 2) == legacy(" you")
    assert trimmed(chunk(function_call={"arguments": "{}"}), 1) == chunk(
        function_call={"arguments": "}"}
    )


def test_a_value_that_was_given_is_taken_out_whole() -> None:
    """It cannot be cut."""
    assert trimmed(chunk(audio={"id": "a"}, content="x"), len('{"id":"a"}\n')) == chunk(content="x")


@pytest.mark.parametrize(("lost", "left"), [(1, [" you"]), (2, [" you"]), (3, []), (6, [])])
def test_log_probabilities_go_with_the_text_they_belong_to(lost: int, left: list[str]) -> None:
    """Those of tokens that begin before the seam; one that only begins there stays."""
    entries = [{"token": token} for token in ("Hi", " you")]
    payload = chunk(content="Hi you")
    payload["choices"][0]["logprobs"] = {"content": entries, "refusal": None}
    logprobs = trimmed(payload, lost)["choices"][0]["logprobs"]
    assert [entry["token"] for entry in logprobs["content"]] == left


def test_log_probabilities_of_a_legacy_completion_are_lists_side_by_side() -> None:
    """Each loses as many."""
    logprobs = {
        "tokens": ["Hi", " you"],
        "token_logprobs": [-1.0, -2.0],
        "top_logprobs": None,
        "text_offset": [0, 2],
    }
    payload = trimmed(legacy("Hi you", logprobs=logprobs), 2)
    assert payload["choices"][0]["logprobs"] == {
        "tokens": [" you"],
        "token_logprobs": [-2.0],
        "top_logprobs": None,
        "text_offset": [2],
    }


@pytest.mark.parametrize(
    "logprobs",
    [5, {}, {"content": 5, "tokens": "x"}, {"content": [5, {"token": 7}], "tokens": [5]}],
)
def test_log_probabilities_of_odd_shapes_do_not_stop_a_trim(logprobs: Any) -> None:
    """The text is what counts."""
    payload = chunk(content="Hi you")
    payload["choices"][0]["logprobs"] = logprobs
    assert trimmed(payload, 2)["choices"][0]["delta"] == {"content": " you"}


# --- chat: fitting ---


def fitted(seam: ChatSeam | ResponsesSeam, payload: dict[str, Any]) -> dict[str, Any] | None:
    """Return what is left of a payload in the identity of what was given."""
    return payload if seam.fit(payload) else None


def test_a_call_that_was_opened_is_not_opened_again() -> None:
    """Clients add ids and types up like texts; what follows is told by its index."""
    seam = chat(call(name="f", arguments=""))
    assert fitted(seam, call(arguments="{}")) == chunk(
        tool_calls=[{"index": 1, "function": {"arguments": "{}"}}]
    )
    assert fitted(seam, call()) is None


def test_a_call_that_is_new_keeps_its_id() -> None:
    """Beside one that was opened, too."""
    seam = chat(call(name="f"))
    new = {"index": 2, "id": "d", "type": "function", "function": {"name": "g"}}
    both = chunk(tool_calls=[{"index": 1, "id": "c"}, new])
    assert fitted(seam, both) == chunk(tool_calls=[new])
    opened = chunk(tool_calls=[{"index": 2, "id": "d"}])
    assert fitted(seam, chunk(tool_calls=[{"index": 2, "id": "d"}])) == opened


@pytest.mark.parametrize("delta", [None, "text"])
def test_a_choice_without_a_delta_has_nothing_to_fit(delta: Any) -> None:
    """What repeats nothing is let through, whatever it is for."""
    payload = {"choices": [{"index": 0, "delta": delta}]}
    assert fitted(chat(ROLE), payload) == payload


# --- responses: texts and marks ---


def done(text: str = "Hi", **fields: Any) -> dict[str, Any]:
    """Make the event that closes a text."""
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return {"type": "response.output_text.done", **at, "text": text, **fields}


def added(kind: str = "message", **fields: Any) -> dict[str, Any]:
    """Make the event that opens an output item."""
    item = {"id": "i_1", "type": kind, **fields}
    return {"type": "response.output_item.added", "output_index": 0, "item": item}


def test_deltas_add_up_by_output_and_part() -> None:
    """An empty one adds nothing, and one that is no text is none."""
    other = {**spoken(3), "content_index": 1}
    odd = {**spoken(4), "delta": {"a": 1}}
    seam = responses(
        lifecycle("created", 0), spoken(1), spoken(2, " you"), other, odd, spoken(5, "")
    )
    slot = (0, "response.output_text")
    assert seam.texts == {(*slot, 0, -1, -1): "Hi you", (*slot, 1, -1, -1): "Hi"}


def test_every_other_event_of_an_item_is_a_mark() -> None:
    """Lifecycle events and keepalives concern the whole and are none."""
    given = [
        lifecycle("created", 0),
        {"type": "keepalive"},
        spoken(1),
        done(),
        {"type": "vendor.x"},
    ]
    slots = [slot[:2] for slot in responses(*given).marks]
    assert slots == [(0, "response.output_text.done"), (-1, "vendor.x")]


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (done(), True),
        (done(item_id="msg_2", sequence_number=9, obfuscation="z", logprobs=[1]), True),
        (done(part={"id": "x"}), False),
        (done("Ho"), False),
        (done(annotations=[]), False),
    ],
)
def test_marks_are_compared_without_what_differs_between_equal_answers(
    other: dict[str, Any],
    same: bool,  # noqa: FBT001
) -> None:
    """Ids, numbers, times and padding are no content."""
    seam = responses(done(sequence_number=4))
    (mark,) = seam.marks_of(other)
    assert (seam.marks[mark.slot] == [mark.value]) is same


def test_a_text_is_closed_by_its_own_done() -> None:
    """That of another item closes nothing."""
    seam = responses(spoken(1), done(output_index=1))
    assert not any(seam.is_closed(slot) for slot in seam.texts)
    seam = responses(spoken(1), done())
    assert all(seam.is_closed(slot) for slot in seam.texts)


def test_a_mark_is_compared_all_the_way_down() -> None:
    """An item's contents, in whatever order its fields come."""
    part = {"type": "output_text", "text": "Hi"}
    first = {"type": "x", "item": {"id": "a", "content": [part, 5]}}
    again = {"item": {"content": [dict(reversed(part.items())), 5], "id": "b"}, "type": "x"}
    (mark,) = responses().marks_of(again)
    assert list(responses(first).marks.values()) == [[mark.value]]


def test_a_mark_is_taken_out_by_emptying_its_event() -> None:
    """Then it does not fit any more."""
    seam, event = responses(done()), done()
    seam.unmark(event, seam.marks_of(event)[0])
    assert event == {}
    assert not seam.fit(event)


# --- responses: trimming ---


def test_a_delta_is_trimmed_with_its_padding_and_probabilities() -> None:
    """Those of tokens that begin before the seam."""
    entries = [{"token": "Hi"}, {"token": " you"}]
    event = {**spoken(1, "Hi you"), "obfuscation": "z", "logprobs": entries}
    seam = responses()
    seam.trim(event, seam.pieces(event)[0], 2)
    assert event == {**spoken(1, " you"), "logprobs": [{"token": " you"}]}


@pytest.mark.parametrize("logprobs", [5, None, [], [5], [{}], [{"token": None}]])
def test_probabilities_of_odd_shapes_do_not_stop_a_trim(logprobs: Any) -> None:
    """The text is what counts."""
    event = {**spoken(1, "Hi you"), "logprobs": logprobs}
    seam = responses()
    seam.trim(event, seam.pieces(event)[0], 2)
    assert event["delta"] == " you"


def test_a_delta_of_which_nothing_is_left_is_not_given() -> None:
    """It would use up a number."""
    seam, event = responses(spoken(1)), spoken(1)
    seam.trim(event, seam.pieces(event)[0], 2)
    assert not seam.fit(event)
    assert fitted(seam, spoken(9))["sequence_number"] == 2  # type: ignore[index]


# --- responses: identity ---


def test_the_ids_of_a_new_attempt_become_those_that_were_given() -> None:
    """Wherever they stand: item, item_id, call_id, the items of the finished response."""
    seam = responses(lifecycle("created", 0), added("function_call", call_id="call_1"))
    seam.learn(
        {**added("function_call", call_id="call_9"), "item": {"id": "i_9", "call_id": "call_9"}}
    )
    event = {
        **lifecycle(
            "completed", 7, "resp_9", output=[{"id": "i_9", "call_id": "call_9", "n": [5]}]
        ),
        "item_id": "i_9",
        "other": "i_9",
    }
    assert fitted(seam, event) == {
        **lifecycle(
            "completed", 2, "resp_1", output=[{"id": "i_1", "call_id": "call_1", "n": [5]}]
        ),
        "item_id": "i_1",
        "other": "i_9",
    }


@pytest.mark.parametrize(
    "event",
    [
        spoken(1),
        {**added(), "item": None},
        {**added(), "output_index": 1},
        {**added(), "item": {"id": 5}},
        {**added(), "item": {}},
    ],
)
def test_only_items_at_the_same_place_have_ids_to_map(event: dict[str, Any]) -> None:
    """Whatever else comes keeps its own."""
    seam = responses(added())
    seam.learn(event)
    own = {"type": "x", "item_id": "i_9", "sequence_number": 1}
    assert fitted(seam, dict(own)) == own


def test_openers_are_not_given_behind_content() -> None:
    """Queued in the second attempt, when the first never was."""
    assert not responses(lifecycle("created", 0), spoken(1)).fit(lifecycle("queued", 1))
    assert responses(lifecycle("created", 0)).fit(lifecycle("queued", 1))


@pytest.mark.parametrize(
    ("item", "word"),
    [
        (added(), ""),
        (added("function_call"), ""),
        (added("custom_tool_call"), ""),
        (added("reasoning"), "reasoning"),
        (added("web_search_call"), "tool"),
        (added("vendor.thing"), "tool"),
        ({**added(), "item": {"type": []}}, "tool"),
        ({**added(), "output_index": []}, ""),
        ({**added(), "item": None}, ""),
    ],
)
def test_some_items_can_never_be_joined_on_to(item: dict[str, Any], word: str) -> None:
    """Reasoning is bound to its response, a tool that the upstream runs may have had its effect."""
    sealed = responses(item).sealed
    assert word in sealed
    assert bool(sealed) is bool(word)


def test_what_is_no_object_has_no_parts() -> None:
    """Whatever was given can be looked at."""
    for seam in (chat(b"[DONE]", b"{}"), responses(b"{}")):
        assert (seam.texts, seam.sealed) == ({}, "")


@pytest.mark.parametrize("data", [b"5", b"null", b"[1]", b"{", b'{"a":' * 101 + b"1" + b"}" * 101])
def test_behind_what_cannot_be_taken_apart_nothing_is_joined(data: bytes) -> None:
    """Nobody could say whether it comes again."""
    for seam in (chat(data), responses(data)):
        assert seam.texts == {}
        assert seam.sealed


def test_a_wide_event_is_taken_apart_like_any_other() -> None:
    """Only depth stands in the way, not the number of brackets."""
    wide = b'{"choices":[{"index":0,"delta":{"content":"Hi"}}],"x":[' + b"[]," * 200 + b"[]]}"
    assert chat(wide).texts == {(0, "content"): "Hi"}


# --- what must not be joined, or only with care ---


def test_calls_that_only_their_ids_tell_apart_seal_a_chat() -> None:
    """Some servers give each call the index 0, or none."""
    first, second = ({"id": name, "function": {"name": "f"}} for name in "ab")
    assert chat(chunk(tool_calls=[first]), chunk(tool_calls=[second])).sealed
    seam = chat(chunk(tool_calls=[first]))
    seam.learn(chunk(tool_calls=[second]))
    assert not seam.sealed
    seam.learn(chunk(tool_calls=[{**second, "id": "c"}]))
    assert seam.sealed


def test_a_signature_seals_a_chat() -> None:
    """It belongs to the answer that it was made for."""
    call = {"id": "a", "function": {"name": "f"}, "extra_content": {"signature": "x"}}
    assert chat(chunk(tool_calls=[call])).sealed


def test_an_id_that_was_not_given_yet_is_let_through() -> None:
    """A null was no id."""
    seam = chat(chunk(tool_calls=[{"index": 0, "id": None, "function": {"name": "f"}}]))
    late = chunk(tool_calls=[{"index": 0, "id": "b", "type": "function"}])
    assert fitted(seam, late) == late


def test_a_name_is_closed_once_it_was_given() -> None:
    """``delete`` never becomes ``delete_all``."""
    seam = chat(chunk(tool_calls=[{"index": 0, "function": {"name": "delete"}}]))
    assert seam.is_closed((0, 0, "name"))


def test_texts_are_measured_in_the_units_that_json_can_cut() -> None:
    """Half of a pair may come in one delta, its other half in the next."""
    halves = chat(chunk(content="\ud83d"), chunk(content="\udc33"))
    assert halves.texts == chat(chunk(content="\U0001f433")).texts
    found = chunk(content="\U0001f433!")
    (piece,) = halves.pieces(found)
    halves.trim(found, piece, 1)
    assert found["choices"][0]["delta"]["content"] == "\udc33!"
    (piece,) = halves.pieces(found)
    halves.trim(found, piece, 1)
    assert found["choices"][0]["delta"]["content"] == "!"


@pytest.mark.parametrize(("number", "told"), [("1e999", 1.7976931348623157e308), ("NaN", None)])
def test_what_json_has_no_number_for_is_not_written_again(number: str, told: object) -> None:
    """Behind a seam data is valid JSON."""
    assert parsed(b'{"x":%b}' % number.encode()) == {"x": told}
    negative = told and -told if isinstance(told, float) else None
    assert parsed(b'{"x":-1e999}') == {"x": negative} or told is None
