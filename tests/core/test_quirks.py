"""Quirks: none is on by itself, and one that is on leaves alone what it does not speak of."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from support import CLEAN, CUT, DONE, RECORDED, STREAMS, ask, ask_for, feed, hear, start

from proxy.core.course import route
from proxy.core.policy import SAFE, Fallback, Policy, Quirks, Target
from proxy.core.request import Request
from proxy.core.sse import EventSplitter

EACH: dict[str, Quirks] = {
    "finish_reason=required": Quirks(finish_reason="required"),
    "finish_reason=added": Quirks(finish_reason="added"),
    "foreign_events=pass": Quirks(foreign_events="pass"),
    "empty_choices=drop": Quirks(empty_choices="drop"),
    "fill_fields": Quirks(fill_fields=True),
    "nan=null": Quirks(nan="null"),
    "tool_arguments=length": Quirks(tool_arguments="length"),
    "empty_answer=restart": Quirks(empty_answer="restart"),
    "overload_texts": Quirks(overload_texts=("Overloaded. Please try again later.",)),
    "aggregate": Quirks(aggregate=True),
}

SPOKEN_OF = {
    ("chat-no-finish", "finish_reason=required"),
    ("chat-no-finish", "finish_reason=added"),
    ("chat-usage-moderation", "empty_choices=drop"),
}
"""Streams of which a quirk speaks."""


def canonical(body: bytes) -> bytes:
    """Return the events of a body as the splitter alone would give them."""
    splitter = EventSplitter(len(body), lambda _repair: None)
    events = splitter.feed(body)
    return b"".join([event.encode() for event in events])


def test_every_default_is_the_safe_one() -> None:
    """What a user did not ask for is not done."""
    assert Quirks() == SAFE == Policy().quirks == Target().quirks
    assert dataclasses.asdict(SAFE) == {
        "finish_reason": "optional",
        "foreign_events": "drop",
        "empty_choices": "pass",
        "fill_fields": False,
        "nan": "pass",
        "tool_arguments": "pass",
        "empty_answer": "pass",
        "overload_texts": (),
        "aggregate": False,
    }
    told = {key.partition("=")[0] for key in EACH}
    assert told == {field.name for field in dataclasses.fields(Quirks)}


def test_quirks_are_of_whom_is_asked() -> None:
    """The primary's do not go with a fallback."""
    spare = Target("spare", quirks=EACH["nan=null"])
    policy = Policy(
        quirks=EACH["fill_fields"], fallbacks=(Fallback(("*",), (spare, Target("other"))),)
    )
    assert [target.quirks for target in route(ask(), policy)] == [
        EACH["fill_fields"],
        EACH["nan=null"],
        SAFE,
    ]
    assert route(Request("GET", "/x"), policy)[0].quirks == EACH["fill_fields"]


@pytest.mark.parametrize("name", STREAMS)
def test_by_default_no_stream_is_changed(name: str) -> None:
    """Only comments go, and what is not of the endpoint's language."""
    heard = hear(STREAMS[name], ask_for(name))
    plain = canonical(STREAMS[name])
    if name.startswith("responses-"):
        plain = plain.removesuffix(DONE)
    assert heard.out == plain + (DONE if name == "chat-no-done" else b"")
    assert heard.facts == []
    assert set(heard.repairs) <= {"added_done", "dropped_comment", "dropped_done"}


@pytest.mark.parametrize("quirk", EACH)
@pytest.mark.parametrize("name", STREAMS)
def test_a_quirk_changes_nothing_of_which_it_does_not_speak(name: str, quirk: str) -> None:
    """Field by field: a filled-in field is an addition, never a change."""
    request, body = ask_for(name), STREAMS[name]
    plain, heard = hear(body, request), hear(body, request, quirks=EACH[quirk])
    if quirk == "fill_fields" and name.startswith(("chat-", "completions-")):
        assert all(map(within, parsed(plain.out), parsed(heard.out)))
    elif (name, quirk) not in SPOKEN_OF:
        assert (heard.out, heard.facts, heard.repairs) == (plain.out, plain.facts, plain.repairs)
    else:
        assert heard.out != plain.out


def parsed(out: bytes) -> list[Any]:
    """Return the data of events."""
    events = EventSplitter(len(out) + 1, lambda _repair: None).feed(out)
    return [json.loads(event.data) for event in events if event.data != b"[DONE]"]


def within(less: Any, more: Any) -> bool:
    """Say whether a value has all of another one."""
    if isinstance(less, dict) and isinstance(more, dict):
        return all(key in more and within(less[key], more[key]) for key in less)
    if isinstance(less, list) and isinstance(more, list):
        return len(less) == len(more) and all(map(within, less, more))
    return bool(less == more)


REAL = sorted(RECORDED.glob("*.sse"))


@pytest.mark.skipif(not RECORDED.is_dir(), reason="../shared/streams is not there")
@pytest.mark.parametrize("path", REAL, ids=[path.stem for path in REAL])
def test_by_default_no_real_stream_is_changed(path: Any) -> None:
    """But for ``[DONE]`` on responses, and errors in a form of their own."""
    call = json.loads(path.with_suffix(".json").read_text())["request"]
    target = "/" + call["path"].partition("/v1/")[2] if "/v1/" in call["path"] else call["path"]
    body = path.read_bytes()
    request = Request(call["method"], target, json.dumps(call.get("body") or {}).encode())
    session = start(request)
    out = feed(session, body) + session.receive_end(CLEAN, 0.0).body
    report = session.report()
    assert set(report.repairs) <= {"dropped_comment", "dropped_done", "line_ends"}
    if not report.incidents:
        plain = canonical(body)
        assert out in {plain, plain.removesuffix(DONE)}


@pytest.mark.parametrize("quirk", EACH)
def test_no_quirk_hides_a_cut(quirk: str) -> None:
    """Cut at every byte of a stream: what is claimed is what the upstream said."""
    body = STREAMS["chat-tools-parallel"]
    finish = body.index(b'"finish_reason":"tool_calls"')
    for place in range(0, body.index(DONE), 7):
        session = start(ask_for("chat-tools-parallel"), quirks=EACH[quirk], max_attempts=1)
        out = feed(session, body[:place])
        command = session.receive_end(CUT, 0.0)
        assert (DONE in out + command.body) is (place > finish + 40), place
