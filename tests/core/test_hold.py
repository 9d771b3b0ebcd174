"""The hold: openers wait for content, and by policy tool calls or everything wait for their end."""

from __future__ import annotations

from typing import Any

import pytest
from support import CREATED, HI, ROLE, RUNNING, STOP, ask, chunk, lifecycle, raw, spoken, sse

from proxy.core.grammars import Grammar, grammar_for
from proxy.core.hold import Hold
from proxy.core.policy import Policy
from proxy.core.sse import Event


class Held:
    """A hold with the grammar of its stream; events are known by their payloads."""

    def __init__(self, family: str = "chat", **limits: Any) -> None:
        """Hold nothing yet."""
        self.hold = Hold(Policy(**limits))
        self.grammar: Grammar = grammar_for(ask(family))
        self._payloads: dict[bytes, Any] = {}

    def take(self, *payloads: Any) -> list[list[Any]]:
        """Take payloads, return for each the payloads that left with it."""
        return [self._of(self.hold.take(self._event(p), self.grammar)) for p in payloads]

    def release(self) -> list[Any]:
        """Return the payloads of all that waits."""
        return self._of(self.hold.release())

    def give_up(self) -> list[Any]:
        """Return the payloads of the openers that wait."""
        return self._of(self.hold.give_up_openers())

    def _event(self, payload: Any) -> Event:
        data = raw(payload)
        self._payloads[data] = payload
        event = Event(b"", data)
        self.grammar.read(event)
        return event

    def _of(self, events: list[Event]) -> list[Any]:
        return [self._payloads[event.data] for event in events]


def call(arguments: str, *, index: int = 0, place: int = 0) -> dict[str, Any]:
    """Make a chunk with a fragment of a tool call."""
    fragment = {"index": place, "function": {"arguments": arguments}}
    return chunk(index=index, tool_calls=[fragment])


def added(place: int, kind: str = "function_call") -> dict[str, Any]:
    """Make the event that opens an output item."""
    item = {"id": f"fc_{place}", "type": kind}
    return {"type": "response.output_item.added", "output_index": place, "item": item}


def arguments(place: int) -> dict[str, Any]:
    """Make a fragment of a function call's arguments."""
    name = "response.function_call_arguments.delta"
    return {"type": name, "output_index": place, "delta": "{"}


def done(place: int) -> dict[str, Any]:
    """Make the event that closes an output item."""
    return {"type": "response.output_item.done", "output_index": place, "item": {}}


CALLS = chunk(finish="tool_calls")


# --- openers ---


@pytest.mark.parametrize("mode", ["none", "tool_calls"])
def test_openers_wait_for_the_first_content_and_leave_with_it(mode: str) -> None:
    """From then on nothing waits."""
    held = Held(hold=mode)
    assert held.take(ROLE, chunk()) == [[], []]
    assert (held.hold.held, held.hold.content) == (2, False)
    assert held.take(HI, STOP) == [[ROLE, chunk(), HI], [STOP]]
    assert (held.hold.held, held.hold.size, held.hold.content) == (0, 0, True)


def test_openers_leave_when_their_time_is_up() -> None:
    """Later ones wait again until they are asked for."""
    held = Held()
    held.take(ROLE)
    assert held.give_up() == [ROLE]
    assert held.give_up() == []
    assert held.take(chunk(), HI) == [[], [chunk(), HI]]


def test_what_waits_is_released_in_order() -> None:
    """With the terminal event, for one."""
    held = Held(hold="all")
    held.take(ROLE, HI, STOP)
    assert held.hold.held == 3
    assert held.release() == [ROLE, HI, STOP]
    assert (held.release(), held.hold.held, held.hold.size) == ([], 0, 0)


# --- everything ---


def test_everything_waits_where_that_is_asked_for() -> None:
    """Not even the clock gets openers out, so that any failure can be a status."""
    held = Held(hold="all")
    assert held.take(ROLE, HI, HI) == [[], [], []]
    assert held.give_up() == []
    assert held.hold.content
    assert not held.hold.selective


# --- tool calls ---


def test_only_a_hold_for_tool_calls_chooses_among_events_after_content() -> None:
    """The others need not look at them."""
    assert Held(hold="tool_calls").hold.selective
    assert not Held(hold="none").hold.selective


def test_a_tool_call_leaves_when_its_choice_has_finished() -> None:
    """No app ever runs half of one; text before it streams on."""
    held = Held(hold="tool_calls")
    assert held.take(HI, call('{"a"'), call(":1}")) == [[HI], [], []]
    assert held.take(CALLS) == [[call('{"a"'), call(":1}"), CALLS]]
    assert held.hold.size == 0


def test_openers_leave_in_front_of_a_held_call() -> None:
    """The order is that of the upstream."""
    held = Held(hold="tool_calls")
    assert held.take(ROLE, call("{}"), CALLS) == [[], [], [ROLE, call("{}"), CALLS]]


def test_a_call_that_comes_whole_in_one_chunk_does_not_wait() -> None:
    """Its finish is there with it."""
    whole = chunk(tool_calls=[{"index": 0, "function": {"name": "f"}}], finish="tool_calls")
    assert Held(hold="tool_calls").take(whole) == [[whole]]


def test_a_legacy_function_call_is_held_as_well() -> None:
    """It is the same thing in the form of 2023."""
    held = Held(hold="tool_calls")
    legacy = chunk(function_call={"name": "f", "arguments": "{"})
    assert held.take(legacy) == [[]]
    assert held.take(chunk(finish="function_call"))[0][0] == legacy


def test_text_of_the_choice_that_calls_waits_behind_its_call() -> None:
    """Order within a choice is never changed."""
    held = Held(hold="tool_calls")
    assert held.take(call("{}"), HI, CALLS) == [[], [], [call("{}"), HI, CALLS]]


def test_text_of_another_choice_streams_on() -> None:
    """It need not wait for a call that is not its own, and takes the openers with it."""
    held = Held(hold="tool_calls")
    other = chunk(index=1, content="Ahoy")
    assert held.take(ROLE, call("{"), other, other) == [[], [], [ROLE, other], [other]]
    assert held.take(CALLS) == [[call("{"), CALLS]]


def test_calls_of_two_choices_leave_when_both_are_complete() -> None:
    """They wait in one line."""
    held = Held(hold="tool_calls")
    first, second = call("{}"), call("{}", index=1)
    end = chunk(index=1, finish="tool_calls")
    assert held.take(first, second, CALLS) == [[], [], []]
    assert held.take(end) == [[first, second, CALLS, end]]


def test_text_that_speaks_of_tool_calls_is_no_call() -> None:
    """What the model says is content, whatever it looks like."""
    text = chunk(content='"tool_calls": [{}] "function_call"')
    nothing = chunk(content="x", tool_calls=None, function_call=None)
    assert Held(hold="tool_calls").take(text, nothing) == [[text], [nothing]]


def test_what_cannot_be_looked_into_is_not_held() -> None:
    """Giving is safer than holding what nobody understands."""
    deep = b'{"choices":[],"tool_calls":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert Held(hold="tool_calls").take(HI, deep) == [[HI], [deep]]


def test_from_a_function_call_to_its_end_every_event_of_a_response_waits() -> None:
    """Otherwise the numbers would be out of order."""
    held = Held("responses", hold="tool_calls")
    assert held.take(CREATED, RUNNING) == [[], []]
    assert held.take(spoken(2)) == [[CREATED, RUNNING, spoken(2)]]
    inside = [added(1), arguments(1), spoken(5)]
    assert held.take(*inside) == [[], [], []]
    assert held.take(done(1)) == [[*inside, done(1)]]
    assert held.take(spoken(7)) == [[spoken(7)]]


def test_parallel_function_calls_wait_for_the_last_of_them() -> None:
    """The end of one is not the end of the other."""
    held = Held("responses", hold="tool_calls")
    assert held.take(added(0), added(1, "custom_tool_call"), done(0)) == [[], [], []]
    assert held.take(done(1)) == [[added(0), added(1, "custom_tool_call"), done(0), done(1)]]


@pytest.mark.parametrize("kind", ["message", "reasoning", "web_search_call"])
def test_an_item_that_the_app_does_not_run_is_not_held(kind: str) -> None:
    """Texts stream on, and what the upstream runs itself is done already."""
    held = Held("responses", hold="tool_calls")
    assert held.take(added(0, kind), done(0)) == [[added(0, kind)], [done(0)]]


def test_a_function_call_without_a_place_is_held_like_any_other() -> None:
    """Its end has none either."""
    held = Held("responses", hold="tool_calls")
    first, last = {**added(0), "output_index": []}, {**done(0), "output_index": None}
    assert held.take(first, last) == [[], [first, last]]


@pytest.mark.parametrize(
    "odd",
    [
        *({"item": None}, {"item": "function_call"}, {"item": {"type": []}}),
        {"type": "x", "a": "output_item.added"},
    ],
)
def test_an_event_that_only_looks_like_a_call_is_not_held(odd: dict[str, Any]) -> None:
    """Its type and item decide."""
    event = {**added(0), **odd}
    assert Held("responses", hold="tool_calls").take(event) == [[event]]


# --- the cap, and the end of an attempt ---


@pytest.mark.parametrize(
    ("mode", "events"),
    [
        ("none", [ROLE, ROLE, ROLE]),
        ("tool_calls", [call("{"), call("}"), call(" ")]),
        ("all", [ROLE, HI, HI]),
    ],
)
def test_a_hold_that_grows_past_its_cap_ends_early(mode: str, events: list[Any]) -> None:
    """A healthy stream is never failed for it; from then on nothing but openers waits."""
    size = len(sse(*events[:2]))
    held = Held(hold=mode, journal_max_bytes=size)
    assert held.take(*events) == [[], [], events]
    assert held.hold.size == 0
    assert not held.hold.selective
    assert held.take(HI, call("{"), HI) == [[HI], [call("{")], [HI]]


@pytest.mark.parametrize("content", [True, False])
def test_what_waits_of_a_failed_attempt_is_dropped(content: bool) -> None:  # noqa: FBT001
    """Whether openers wait again depends on what the client has of an attempt before it."""
    held = Held(hold="tool_calls")
    held.take(ROLE, call("{"))
    held.hold.forget(content=content)
    assert (held.hold.held, held.hold.size, held.hold.content) == (0, 0, content)
    assert held.release() == []


def test_the_terminal_event_of_a_response_is_no_part_of_a_call() -> None:
    """A call that was never closed does not hide that."""
    held = Held("responses", hold="tool_calls")
    end = lifecycle("completed", 9)
    assert held.take(added(0), end) == [[], []]
    assert held.release() == [added(0), end]
