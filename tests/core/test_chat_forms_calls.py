"""Tool calls of a stream that is told in one piece: each under its own index, none glued."""

from __future__ import annotations

from typing import Any

import pytest
from support import ask, chunk, raw

from proxy.core.grammars import grammar_for
from proxy.core.grammars.chat_forms import fold
from proxy.core.sse import Event


def spoken(*deltas: Any) -> Any:
    """Fold deltas, return the message."""
    return fold([{"choices": [{"delta": delta}]} for delta in deltas])["choices"][0]["message"]


@pytest.mark.parametrize("index", [None, "0"])
def test_calls_without_a_usable_index_follow_each_other(index: Any) -> None:
    """Nobody's arguments are added to another's."""
    one, two = [{"id": name, **({"index": index} if index else {})} for name in "ab"]
    assert spoken({"tool_calls": [one, two]})["tool_calls"] == [{"id": "a"}, {"id": "b"}]


@pytest.mark.parametrize("first", [-1, 1, 2**70])
def test_an_index_is_a_name_and_no_place(first: int) -> None:
    """Calls may be counted from anywhere, come in any order, and miss numbers."""
    parts = [
        {"index": first + 5, "id": "b", "function": {"name": "g", "arguments": "{"}},
        {"index": first, "id": "a", "function": {"name": "f", "arguments": '{"q":'}},
        {"index": first, "function": {"arguments": "1}"}},
        {"index": first + 5, "function": {"arguments": "}"}},
    ]
    assert spoken(*({"tool_calls": [part]} for part in parts))["tool_calls"] == [
        {"id": "a", "function": {"name": "f", "arguments": '{"q":1}'}},
        {"id": "b", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_each_choice_has_calls_of_its_own() -> None:
    """An index is a name within its choice."""
    parts = [chunk(index=n, tool_calls=[{"index": 0, "id": name}]) for n, name in enumerate("ab")]
    calls = [choice["message"]["tool_calls"] for choice in fold(parts)["choices"]]
    assert calls == [[{"id": "a"}], [{"id": "b"}]]


@pytest.mark.parametrize("at", [{"index": 0}, {"index": 7}, {}])
def test_two_calls_under_one_index_cannot_be_added_up(at: dict[str, int]) -> None:
    """Glued arguments are worse than none; the client hears that there is no answer."""
    parts = [
        chunk(tool_calls=[{**at, "id": name, "function": {"arguments": "{}"}}]) for name in "ab"
    ]
    assert fold([*parts, chunk(finish="tool_calls")]) == {}
    assert grammar_for(ask()).fold([Event(b"", raw(part)) for part in parts]) == b""


def test_calls_that_are_null_leave_those_that_came() -> None:
    """Some servers send every field in every chunk."""
    first = {"tool_calls": [{"index": 0, "id": "a"}]}
    assert spoken(first, {"tool_calls": None})["tool_calls"] == [{"id": "a"}]


@pytest.mark.parametrize("calls", [None, "text", [None, 5]])
def test_calls_that_are_none_are_left_out(calls: Any) -> None:
    """Whatever else the delta has is kept."""
    assert not spoken({"content": "a", "tool_calls": calls})["tool_calls"]
