"""The shortcut: whatever it takes, the long way gives as it came, and leaves all as it stands."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from fuzz import words
from hypothesis import given
from hypothesis import strategies as st
from support import (
    ANSWER,
    CREATED,
    CUT,
    DONE,
    HI,
    ROLE,
    RUNNING,
    STOP,
    ask,
    begin,
    chunk,
    fail,
    feed,
    raw,
    spoken,
    sse,
    start,
)

from proxy.core.attempt import Attempt
from proxy.core.journal import Journal
from proxy.core.policy import Policy, Quirks
from proxy.core.request import Request
from proxy.core.session import StreamSession
from proxy.core.states import State

OPENED = sse(ROLE, HI)
USAGE: dict[str, Any] = {"choices": [], "usage": {"total_tokens": 3}}
DEEP = b'{"choices":[{"delta":{"x":' + b"[" * 9000 + b"]" * 9000 + b"}}]}"


def said(text: str, **fields: Any) -> bytes:
    """Write a chunk with text in it as it is, where JSON would not need to escape it."""
    return json.dumps({**chunk(content=text), **fields}, ensure_ascii=False).encode()


def standing(session: StreamSession) -> dict[str, Any]:
    """Return how a session stands, in all that a shortcut could have missed."""
    attempt = session._attempt
    parts = {
        "journal": dataclasses.asdict(session._journal),
        "splitter": dict(vars(attempt._splitter)),
        "grammar": dict(vars(attempt.grammar)),
        "hold": dict(vars(session._out.hold)),
        "ledger": dict(vars(session._ledger)),
    }
    own = {"splitter": "_count", "ledger": "_journal"}
    for part, name in own.items():
        parts[part].pop(name)
    names = ("terminal", "fault", "detail", "tail", "offset", "received", "partial", "_half")
    facts = {name: getattr(attempt, name) for name in names}
    return {**parts, **facts, "state": session.state, "report": session.report()}


def same(one: StreamSession, other: StreamSession) -> None:
    """Assert that two sessions stand the same."""
    assert standing(one) == standing(other)


def taken(data: bytes, *reads: bytes, request: Request | None = None, **limits: Any) -> bool:
    """Have the shortcut asked behind some reads, and hold it against a twin that has none.

    Says whether the data was taken. If it was not, it comes the long way.
    """
    quick, twin = start(request, **limits), start(request, **limits)
    assert feed(quick, *reads) == feed(twin, *reads)
    take, block = quick.shortcut(), b"data: " + data + b"\n\n"
    if take is None:
        return False
    if take(data):
        assert twin.receive_data(block) == block
        same(quick, twin)
        took = True
    else:
        same(quick, twin)
        assert quick.receive_data(block) == twin.receive_data(block)
        took = False
    for read in (b'data: {"error":', b'{"message":"m"}}\n', b"\n", DONE):
        assert quick.receive_data(read) == twin.receive_data(read)
        same(quick, twin)
    assert quick.receive_end(CUT, 0.0) == twin.receive_end(CUT, 0.0)
    same(quick, twin)
    return took


# --- which data is taken ---

ORDINARY = {
    "text": raw(HI),
    "no text": raw(chunk()),
    "a role again": raw(ROLE),
    "thoughts": raw(chunk(reasoning_content="Hm")),
    "a part of a call": raw(chunk(tool_calls=[{"index": 0, "function": {"arguments": "{"}}])),
    "a finish reason that says nothing": raw(chunk(finish="")),
    "no usage": said("Hi", usage=None, error=None),
    "legacy text": raw({"choices": [{"index": 0, "text": "Hi", "finish_reason": None}]}),
    "no index": b'{"choices":[{"delta":{"content":"Hi"}}]}',
    "white space": b' \t{ "choices" : [ {"index": 0} ] } ',
    "characters": said("Grüße 🐳"),
    "escapes": raw(chunk(content="\u2028\x85\n\0")),
    "the same choice twice": b'{"choices":[{"index":0},{"index":0}]}',
    "what is called an error deep inside": raw(chunk(error={"message": "m"})),
}


@pytest.mark.parametrize("what", ORDINARY)
def test_what_goes_on_with_the_only_choice_is_taken(what: str) -> None:
    """It is given on as it came, and noted as if it had been looked at."""
    assert taken(ORDINARY[what], OPENED)
    assert taken(ORDINARY[what], OPENED, request=ask("completions"))


ODD = {
    "a finish reason": raw(STOP),
    "the end": b"[DONE]",
    "usage": raw(USAGE),
    "usage beside text": said("Hi", usage={"total_tokens": 3}),
    "an error": raw({"error": {"message": "m"}}),
    "an error beside text": said("Hi", error={"message": "m"}),
    "an error in an object": raw({"object": "error", "message": "m"}),
    "no JSON": b"overloaded",
    "half of it": raw(HI)[:-4],
    "no object": b"[1]",
    "no choices": b'{"id":"x"}',
    "choices that are null": b'{"choices":null}',
    "an empty list of them": b'{"choices":[]}',
    "choices that are none": b'{"choices":{"index":0}}',
    "another choice": raw(chunk(index=1, content="Hi")),
    "two choices": b'{"choices":[{"index":0},{"index":1}]}',
    "an index that is a string": b'{"choices":[{"index":"0"}]}',
    "NaN": b'{"choices":[{"index":0,"logprob":NaN}]}',
    "two values": raw(HI) + b" " + raw(HI),
    "two values in two lines": raw(HI) + b"\n" + raw(HI),
    "a line end in the JSON": raw(HI).replace(b", ", b",\n", 1),
    "a blank line in the JSON": raw(HI).replace(b", ", b",\n\n", 1),
    "a carriage return between its tokens": b"\r" + raw(HI),
    "a carriage return at its end": raw(HI) + b"\r",
    "a field behind a line end": raw(HI) + b"\nid: 7",
    "a control character": said("Hi").replace(b"Hi", b"H\x01i"),
    "a line separator": said("\u2028"),
    "a paragraph separator": said("\u2029"),
    "a next line": said("\x85"),
    "bytes that are no character": raw(HI).replace(b"Hi", b"H\xff"),
    "half a character": raw(HI).replace(b"Hi", "ü".encode()[:1]),
    "nothing": b"",
    "white space alone": b"  ",
    "a nest too deep": DEEP,
    "a nest that is not closed": DEEP[:-9],
    "a prefix twice": b"data: " + raw(HI),
}


@pytest.mark.parametrize("what", ODD)
def test_anything_else_goes_the_long_way(what: str) -> None:
    """To have been asked leaves no trace."""
    assert not taken(ODD[what], OPENED)
    assert not taken(ODD[what], OPENED, request=ask("completions"))


@pytest.mark.parametrize(("room", "took"), [(-1, False), (0, True), (1, True)])
def test_an_event_that_would_be_too_large_is_not_taken(*, room: int, took: bool) -> None:
    """The cap bounds the event as it is sent."""
    large = raw(chunk(content="x" * 500))
    assert taken(large, OPENED, max_event_bytes=len(sse(large)) + room) is took


def test_another_choice_that_was_asked_for_is_not_taken() -> None:
    """Its end has to be seen as well; the first one's events are."""
    two = ask(n=2)
    assert not taken(raw(chunk(index=1, content="Hi")), OPENED, request=two)
    assert taken(raw(HI), OPENED, request=two)
    assert taken(raw(HI), OPENED, sse(chunk(index=1, content="Hi")), request=two)


# --- when there is one ---


def there(*reads: bytes, request: Request | None = None, **limits: Any) -> bool:
    """Say whether there is a shortcut behind some reads."""
    session = start(request, **limits)
    feed(session, *reads)
    return session.shortcut() is not None


CLEAR = {
    "content": OPENED,
    "all at once": sse(ROLE, HI, HI, HI, HI, HI),
    "a comment": OPENED + b": keepalive\n\n",
    "an id": OPENED + b"id: 7\n" + sse(HI),
    "a name": OPENED + sse(HI, name="message"),
    "CRLF": OPENED.replace(b"\n", b"\r\n") + b"\r\n",
    "CRLF and one more event": OPENED.replace(b"\n", b"\r\n") + sse(HI),
    "a BOM": b"\xef\xbb\xbf" + OPENED,
    "blank lines": OPENED + b"\n\n\n",
    "no space": OPENED.replace(b"data: ", b"data:"),
    "bad UTF-8": OPENED.replace(b"Hi", b"H\xff"),
    "a mended event": OPENED + b"data: data: " + raw(HI) + b"\n\n",
    "an empty event behind a name": OPENED + b"event: x\n\n" + sse(HI),
}


@pytest.mark.parametrize("what", CLEAR)
def test_there_is_one_between_events_once_there_was_content(what: str) -> None:
    """Whatever was before, and however it came."""
    assert there(CLEAR[what])
    assert there(*(CLEAR[what][at : at + 1] for at in range(len(CLEAR[what]))))
    assert taken(raw(HI), CLEAR[what])


BLOCKED = {
    "no read": b"",
    "an opener": sse(ROLE),
    "a finish reason": OPENED + sse(STOP),
    "the end": ANSWER,
    "an error": OPENED + sse({"error": {"message": "m"}}),
    "a malformed event": OPENED + sse("not json"),
    "an event that is too large": OPENED + b"data: " + b"x" * 5000,
    "a part of an event": OPENED + b"da",
    "an event without its blank line": OPENED + sse(HI)[:-1],
    "a line end of which one half is to come": (OPENED + sse(HI)).replace(b"\n", b"\r\n")[:-1],
    "a part of a comment": OPENED + b":",
    "a name without data": OPENED + b"event: x\n\n",
    "half of a JSON value": OPENED + sse(raw(HI)[:40]),
}


@pytest.mark.parametrize("what", BLOCKED)
def test_there_is_none_where_the_next_read_may_be_more_than_it_looks_like(what: str) -> None:
    """It would be joined to what came, or is of no use to anybody."""
    assert not there(BLOCKED[what], max_event_bytes=4000)


CAREFUL: dict[str, dict[str, Any]] = {
    "calls are held": {"hold": "tool_calls"},
    "all is held": {"hold": "all"},
    "a finish reason is required": {"quirks": Quirks(finish_reason="required")},
    "a finish reason may be added": {"quirks": Quirks(finish_reason="added")},
    "fields are filled in": {"quirks": Quirks(fill_fields=True)},
    "empty choices are dropped": {"quirks": Quirks(empty_choices="drop")},
    "an empty answer is asked for again": {"quirks": Quirks(empty_answer="restart")},
    "some texts are errors": {"quirks": Quirks(overload_texts=("Hi, too",))},
    "what was given is remembered": {"request": ask(temperature=0), "replay": "deterministic"},
    "no end of it is believed": {"request": ask("responses")},
}


@pytest.mark.parametrize("why", CAREFUL)
def test_there_is_none_where_each_event_has_to_be_looked_at(why: str) -> None:
    """It changes, waits, is remembered, or decides about the end."""
    responses = sse(CREATED, RUNNING, spoken(2))
    assert not there(responses if "believed" in why else OPENED, **CAREFUL[why])


@pytest.mark.parametrize("family", ["responses", "images", "audio", "threads", "other"])
def test_there_is_one_for_chats_and_completions_alone(family: str) -> None:
    """Elsewhere an event says itself which one it is, so each is read."""
    assert not there(sse({"any": 1}, {"any": 2}), request=ask(family))


def test_there_is_none_before_an_answer_nor_behind_the_end() -> None:
    """A session may be asked at any time."""
    session = begin()
    assert session.shortcut() is None
    session.receive_head()
    feed(session, OPENED)
    assert session.shortcut() is not None
    session.receive_end(CUT, 0.0)
    assert session.state is State.FAILED
    assert session.shortcut() is None


def test_there_is_none_in_an_answer_in_one_piece() -> None:
    """It has no events until it is whole."""
    attempt = Attempt(ask(), Policy(), pytest.fail)
    attempt.feed(OPENED)
    assert attempt.shortcut(Journal(100)) is not None
    attempt.document = bytearray()
    assert attempt.shortcut(Journal(100)) is None


def test_there_is_one_in_the_attempt_that_a_restart_leads_to() -> None:
    """Nothing was given before it, so that it is the only one for the client."""
    session = start()
    feed(session, sse(ROLE))
    fail(session)
    feed(session, OPENED)
    take = session.shortcut()
    assert take is not None
    assert take(raw(HI))
    assert session.data_events == 3
    assert (session.report().events, session.report().size) == (3, len(OPENED + sse(HI)))


def test_there_is_none_in_an_attempt_that_is_joined_on() -> None:
    """What the client has already must not be given again."""
    messages = [{"role": "user", "content": "Hi?"}]
    session = start(ask(messages=messages), continuation="prefill", backoff_base_s=0.0)
    feed(session, OPENED)
    fail(session)
    assert feed(session, sse(ROLE, chunk(content=" there"), chunk(content=".")))
    assert session.state is State.STREAMING
    assert session.shortcut() is None


# --- any bytes, anywhere ---

_LIMITS: tuple[dict[str, Any], ...] = (
    *({}, {}, {"max_event_bytes": 200}, {"skip_malformed": True}),
    *({"hold": "all", "journal_max_bytes": 100}, {"quirks": Quirks(foreign_events="pass")}),
    *({"request": ask(n=2)}, {"request": ask("completions")}, {"max_attempts": 1}),
    {"request": ask(temperature=0), "journal_max_bytes": 200},
)


def _spoilt(data: bytes) -> st.SearchStrategy[bytes]:
    """Return data with a few words put in and a few bytes lost."""
    word = st.sampled_from((*words.STREAMS, *(json.dumps(odd).encode() for odd in words.ODD)))
    place = st.integers(0, len(data))
    change = st.tuples(place, st.integers(0, 12), word)
    return st.lists(change, max_size=2).map(lambda changes: _changed(data, changes))


def _changed(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for at, lost, word in changes:
        data = data[:at] + word + data[at + lost :]
    return data


_DATA = st.sampled_from((*ORDINARY.values(), *(odd for odd in ODD.values() if len(odd) < 999)))
_HISTORY = st.sampled_from((*CLEAR.values(), *BLOCKED.values(), sse(HI), b"\n", b"\r", b"data: "))


@given(
    data=_DATA.flatmap(_spoilt) | st.binary(max_size=40),
    history=st.lists(_HISTORY, max_size=4),
    limits=st.sampled_from(_LIMITS),
)
def test_what_it_takes_the_long_way_gives_as_it_came(
    data: bytes, history: list[bytes], limits: dict[str, Any]
) -> None:
    """For any bytes, behind anything: the same bytes, and both stand the same afterwards."""
    taken(data, OPENED, *history, **limits)
