"""The state table: what it allows, and that one method alone uses it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import proxy.core
from proxy.core.states import FINAL, TRANSITIONS, Signal, State, table


def test_every_state_has_its_row() -> None:
    """The table is total in its states."""
    assert set(TRANSITIONS) == set(State)


@pytest.mark.parametrize("state", FINAL)
def test_nothing_leads_out_of_a_final_state(state: State) -> None:
    """One ending, and it is the last word."""
    assert TRANSITIONS[state] == {}


def test_every_state_can_be_reached_and_every_signal_is_used() -> None:
    """The table holds nothing dead."""
    moves = [move for row in TRANSITIONS.values() for move in row.items()]
    assert {State.OPENING} | {state for _, state in moves} == set(State)
    assert {signal for signal, _ in moves} == set(Signal)


@pytest.mark.parametrize("state", set(State) - FINAL)
def test_every_running_stream_can_end_either_way(state: State) -> None:
    """Honestly complete or honestly failed."""
    assert TRANSITIONS[state][Signal.TERMINAL] is State.COMPLETE
    assert TRANSITIONS[state][Signal.GIVE_UP] is State.FAILED


def test_after_content_nothing_goes_back_to_the_opening() -> None:
    """A plain restart is possible only while nothing was given."""
    for state in set(State) - {State.OPENING}:
        assert State.OPENING not in TRANSITIONS[state].values()


def test_the_table_is_drawn_from_the_table() -> None:
    """One row a state, one column a signal, a dash where there is no way."""
    lines = table().splitlines()
    assert len(lines) == len(State) + 2
    assert all(line.count("|") == len(Signal) + 2 for line in lines)
    assert lines[2] == "| OPENING | STREAMING | COMPLETE | OPENING | SPLICING | FAILED |"
    assert lines[-1] == "| FAILED | - | - | - | - | - |"


def test_the_documents_show_the_table_as_it_is() -> None:
    """Drawn, not written."""
    assert table() in (Path(proxy.core.__path__[0]).parents[1] / "docs/architecture.md").read_text()


def assignments_to_state(tree: ast.AST) -> list[ast.Attribute]:
    """Find where an attribute named ``state`` is set."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return [node for node in found if node.attr == "state" and isinstance(node.ctx, ast.Store)]


def test_only_the_session_changes_the_state_and_only_in_one_method() -> None:
    """Law 5: at the start, and in ``_go``."""
    places = {
        path.name: len(assignments_to_state(ast.parse(path.read_text())))
        for path in Path(proxy.core.__path__[0]).rglob("*.py")
    }
    assert {name: count for name, count in places.items() if count} == {"session.py": 2}
