"""What is written in another form: it stays JSON, and it stays small."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support import DONE, FAMILIES, ask, hear, payloads, raw, sse, told

from proxy.core.commands import Finish
from proxy.core.fault import Fault, IncidentOutcome, Phase
from proxy.core.grammars.anew import TooMuchError, read_anew, tell
from proxy.core.sse import Event

LARGEST = 100_000
ID = "x" * 5000
ENDED: dict[str, Any] = {"id": ID, "object": "response", "status": "completed"}
TOO_MUCH: dict[str, dict[str, Any]] = {
    "chat": {"id": ID, "choices": [{"message": {"content": ""}, "finish_reason": "s"}] * 120},
    "completions": {"id": "c", "choices": [{"text": "", "finish_reason": "s"}] * 2000},
    "responses": {**ENDED, "output": [{"type": "message"}] * 4500},
    "images": {"created": 1, "quality": ID, "data": [{"b64_json": ""}] * 120},
}


def test_what_json_has_no_number_for_is_read_as_something_it_has() -> None:
    """What it is written as must be read again."""
    found = read_anew(b'{"a":1e999,"b":-1e999,"c":[NaN,Infinity,-Infinity],"d":1.50}')
    assert found.pop("a") > 1e308
    assert found.pop("b") < -1e308
    assert found == {"c": [None, None, None], "d": 1.5}


@pytest.mark.parametrize("data", [b"", b"5", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_an_empty_one(data: bytes) -> None:
    """Input never raises."""
    assert read_anew(data) == {}


def endless(size: int) -> Iterator[Event]:
    """Yield events for ever."""
    while True:
        yield Event(b"", b"x" * size)


def test_what_is_told_is_bounded_while_it_is_made() -> None:
    """Neither its bytes nor the number of its events is what a document makes of it."""
    events = [Event(b"", b"x" * LARGEST)] * 4
    assert tell(events, LARGEST) == events
    assert len(tell([Event(b"", b"{}")] * 2**14, LARGEST)) == 2**14
    for size in (0, 1, LARGEST):
        with pytest.raises(TooMuchError):
            tell(endless(size), LARGEST)


@pytest.mark.parametrize("family", TOO_MUCH)
def test_a_document_that_would_become_too_much_is_no_answer(family: str) -> None:
    """Nothing of it is given; the client hears why."""
    body = raw(TOO_MUCH[family])
    assert len(body) < LARGEST
    heard = hear(body, ask(family), document=True, max_event_bytes=LARGEST, max_attempts=1)
    surfaced = (Fault.MALFORMED_EVENT, Phase.BEFORE_CONTENT, IncidentOutcome.SURFACED)
    assert (heard.out, heard.facts, heard.repairs) == (b"", [surfaced], {})
    assert isinstance(heard.command, Finish)
    assert "more than any answer is" in told(heard.command)["message"]


def test_one_chunk_that_would_become_too_much_is_a_chunk() -> None:
    """As it came, no larger than any event."""
    whole = {**TOO_MUCH["chat"], "object": "chat.completion"}
    body = sse(whole) + DONE
    heard = hear(body, max_event_bytes=LARGEST)
    assert (heard.out, heard.repairs) == (body, {})


@pytest.mark.parametrize("family", [*TOO_MUCH, "audio"])
@pytest.mark.parametrize("number", ["1e999", "Infinity", "NaN"])
def test_what_is_told_of_a_document_is_json(family: str, number: str) -> None:
    """Whatever its server takes for a number."""
    bodies = {
        "chat": '{"choices":[{"message":{"content":"a"},"finish_reason":"stop","x":%s}]}',
        "completions": '{"choices":[{"text":"a","finish_reason":"stop","x":%s}]}',
        "responses": '{"object":"response","status":"completed","output":[],"x":%s}',
        "images": '{"data":[{"b64_json":"","x":%s}]}',
        "audio": '{"text":"a","usage":{"x":%s}}',
    }
    assert {*bodies} < {*FAMILIES}
    heard = hear((bodies[family] % number).encode(), ask(family), document=True)
    assert heard.repairs == {"json_to_sse": 1}
    assert payloads(heard.out)
    for line in heard.out.splitlines():
        if line.startswith(b"data: {"):
            json.loads(line.removeprefix(b"data: "), parse_constant=pytest.fail)
            assert b'"x":' not in line or b"null" in line or b"e+308" in line
