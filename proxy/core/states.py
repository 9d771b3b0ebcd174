"""The states of a stream and the one table of their transitions.

Knows names. ``docs/architecture.md`` draws the table, a test compares the two.
"""

from __future__ import annotations

import enum


class State(enum.Enum):
    """Where a client's stream stands."""

    OPENING = "OPENING"
    """No content given; contentless openers are held, or were given when the time was up."""
    STREAMING = "STREAMING"
    """Committed: the client has content."""
    SPLICING = "SPLICING"
    """A new attempt is being joined on to what the client has."""
    COMPLETE = "COMPLETE"
    """The terminal event is given. Later faults are noted, never shown."""
    FAILED = "FAILED"
    """The terminal error, event or HTTP status, is given."""


class Signal(enum.Enum):
    """What moves a stream from state to state."""

    CONTENT = "content"
    TERMINAL = "terminal"
    RESTART = "fault, nothing given"
    SPLICE = "fault, joined on"
    GIVE_UP = "fault, no plan"


TRANSITIONS: dict[State, dict[Signal, State]] = {
    State.OPENING: {
        Signal.CONTENT: State.STREAMING,
        Signal.TERMINAL: State.COMPLETE,
        Signal.RESTART: State.OPENING,
        Signal.SPLICE: State.SPLICING,
        Signal.GIVE_UP: State.FAILED,
    },
    State.STREAMING: {
        Signal.TERMINAL: State.COMPLETE,
        Signal.SPLICE: State.SPLICING,
        Signal.GIVE_UP: State.FAILED,
    },
    State.SPLICING: {
        Signal.CONTENT: State.STREAMING,
        Signal.TERMINAL: State.COMPLETE,
        Signal.SPLICE: State.SPLICING,
        Signal.GIVE_UP: State.FAILED,
    },
    State.COMPLETE: {},
    State.FAILED: {},
}

FINAL = frozenset({State.COMPLETE, State.FAILED})


def table() -> str:
    """Return the transitions as a Markdown table."""
    signals = list(Signal)
    rows = ["| state | " + " | ".join(signal.value for signal in signals) + " |"]
    rows.append("|---" * (len(signals) + 1) + "|")
    for state, moves in TRANSITIONS.items():
        cells = [moves[signal].value if signal in moves else "-" for signal in signals]
        rows.append(f"| {state.value} | " + " | ".join(cells) + " |")
    return "\n".join(rows)
