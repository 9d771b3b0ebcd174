"""Responses in one piece, repeats, empty answers: what the grammar knows beside the stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import CREATED, RUNNING, STREAMS, ask, lifecycle, raw, spoken

from proxy.core.grammars import Grammar, grammar_for
from proxy.core.grammars.base import Kind
from proxy.core.sse import Event, EventSplitter

DONE_ITEM = {"type": "response.output_item.done", "output_index": 0, "item": {"id": "msg_1"}}


def read(*events: Any) -> tuple[Grammar, Kind]:
    """Read events, return the grammar and what the last one was."""
    grammar = grammar_for(ask("responses"))
    kinds = [grammar.read(Event(b"", raw(event))) for event in events]
    return grammar, kinds[-1]


def folded(*events: Any) -> Any:
    """Fold events."""
    whole = grammar_for(ask("responses")).fold([Event(b"", raw(event)) for event in events])
    return json.loads(whole) if whole else None


# --- repeats ---


def test_a_repeat_is_surplus_and_counts_for_nothing() -> None:
    """Neither as an event nor as a number."""
    grammar, kind = read(CREATED, spoken(1), spoken(1))
    assert (kind, grammar.surplus) == (Kind.SURPLUS, "dropped_duplicate")
    assert grammar.events == 2


@pytest.mark.parametrize(
    "events",
    [
        [spoken(1, "ha"), spoken(2, "ha")],
        [spoken(1), spoken(2), spoken(1)],
        [{"type": "x"}, {"type": "x"}],
        [{"type": "x", "sequence_number": None}] * 2,
        [{"type": "x", "sequence_number": "1"}] * 2,
        [5, 5],
    ],
    ids=str,
)
def test_what_is_no_exact_repeat_of_the_event_before_is_an_event(events: list[Any]) -> None:
    """Never by text alone."""
    grammar, kind = read(*events)
    assert kind is Kind.EVENT
    assert grammar.events == len(events)


def test_an_end_mark_and_a_repeat_are_counted_by_their_names() -> None:
    """One after the other."""
    grammar, _ = read(CREATED, CREATED)
    assert grammar.surplus == "dropped_duplicate"
    assert grammar.read(Event(b"", b"[DONE]")) is Kind.SURPLUS
    assert grammar.surplus == "dropped_done"


# --- empty answers ---


@pytest.mark.parametrize(
    ("events", "empty"),
    [
        ([CREATED], False),
        ([CREATED, RUNNING], False),
        ([lifecycle("completed", 0, status="completed")], True),
        ([lifecycle("completed", 0, status="completed", output=None)], True),
        ([lifecycle("completed", 0, status="completed", output=[{"type": "message"}])], False),
        ([lifecycle("incomplete", 0, status="incomplete")], False),
        ([{"type": "response.completed"}], False),
        ([{"type": "response.completed", "response": 5}], False),
    ],
    ids=str,
)
def test_a_response_is_empty_if_it_completed_without_output(
    events: list[Any],
    empty: bool,  # noqa: FBT001 - the expectation
) -> None:
    """The limit of another end is an answer."""
    grammar, _ = read(*events)
    assert grammar.empty is empty


# --- in one piece ---


def test_the_last_event_has_the_response_whole() -> None:
    """Nothing is added up."""
    last = lifecycle("completed", 9, status="completed", output=[{"type": "message"}])
    assert folded(CREATED, spoken(1), DONE_ITEM, last) == last["response"]


@pytest.mark.parametrize("output", [[], None])
def test_an_output_that_the_last_event_leaves_out_is_that_of_its_items(output: Any) -> None:
    """In their order, or an answer that was given would be lost."""
    last = lifecycle("completed", 9, output=output)
    second = {**DONE_ITEM, "output_index": 1, "item": {"id": "msg_2"}}
    whole = folded(CREATED, second, DONE_ITEM, {**DONE_ITEM, "item": None}, last)
    assert whole == {**last["response"], "output": [{"id": "msg_1"}, {"id": "msg_2"}]}


@pytest.mark.parametrize(
    "events",
    [[], [5], [spoken(1)], [{"type": "response.completed"}], [{"response": "resp_1"}]],
    ids=str,
)
def test_what_has_no_response_at_its_end_is_nothing_in_one_piece(events: list[Any]) -> None:
    """No answer is made up."""
    assert folded(*events) is None


@pytest.mark.parametrize("name", [name for name in STREAMS if name.startswith("responses-")])
def test_each_invented_stream_is_its_response(name: str) -> None:
    """With the id, the status and the output that its last event tells."""
    body = STREAMS[name]
    events = EventSplitter(len(body), lambda _repair: None).feed(body)
    events = [event for event in events if event.data != b"[DONE]"]
    whole = json.loads(grammar_for(ask("responses")).fold(events))
    assert whole == json.loads(events[-1].data)["response"]


def test_only_responses_hear_of_a_failure_in_two_events() -> None:
    """The repair that is counted where the upstream said only one of them."""
    added = {
        family: grammar_for(ask(family)).added_ending
        for family in ("chat", "completions", "responses", "images", "audio", "threads", "other")
    }
    assert {family for family, repair in added.items() if repair} == {"responses"}
    assert added["responses"] == "added_response_failed"
