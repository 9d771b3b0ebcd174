"""Runs of ordinary events, read as one: what comes of them is what comes of each event alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from fuzz.strategies import broken
from hypothesis import given
from hypothesis import strategies as st
from support import (
    ANSWER,
    CLEAN,
    CUT,
    DONE,
    HI,
    RESET,
    ROLE,
    STOP,
    STREAMS,
    ask,
    ask_for,
    begin,
    bytewise,
    chunk,
    cut_randomly,
    feed,
    finish,
    payloads,
    raw,
    sse,
    start,
    whole_events,
)

from proxy.core.attempt import Attempt
from proxy.core.commands import Finish, Open
from proxy.core.fault import AttemptEnd, Fault, Incident
from proxy.core.policy import Quirks
from proxy.core.request import Request
from proxy.core.session import StreamSession

ENDS = {"clean": CLEAN, "cut": CUT, "reset": RESET}
COLD = ask(temperature=0)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """All that came of one stream."""

    out: bytes
    commands: list[Open | Finish]
    facts: dict[str, Any]
    journal: dict[str, Any]


def outcome(reads: list[bytes], request: Request | None, end: AttemptEnd, **limits: Any) -> Outcome:
    """Feed reads as the edge does, as often as an attempt is made; return what came of it."""
    session = begin(request, **limits)
    out, commands, settled = b"", list[Open | Finish](), False
    while len(commands) < 5 and not (commands and isinstance(commands[-1], Finish)):
        session.receive_head()
        out += b"".join(_pushed(session, reads))
        settled = settled or session.settled
        commands.append(session.receive_end(CLEAN if session.settled else end, 0.0))
        out += commands[-1].body
    facts = dataclasses.asdict(session.report())
    whole_events(out)
    facts.pop("discarded_bytes")  # what else a read had that ended the attempt is among them
    if settled:
        facts.pop("repairs")  # as above
    for incident in facts["incidents"]:
        incident["offset"] = 0  # has tests of its own, as it is exact for canonical bytes alone
    return Outcome(out, commands, facts, dataclasses.asdict(session._journal))


def _pushed(session: StreamSession, reads: list[bytes]) -> Iterator[bytes]:
    take = None
    for read in reads:
        whole = read.startswith(b"data: ") and read.endswith(b"\n\n")
        if take is not None and whole and take(read[6:-2]):
            yield read
            continue
        yield session.receive_data(read)
        if session.settled:
            return
        take = session.shortcut()


def check(
    body: bytes, request: Request | None = None, end: AttemptEnd = CUT, **limits: Any
) -> Outcome:
    """Let a stream come whole, in pieces and event by event, and compare with each event alone."""
    with mock.patch.object(Attempt, "skim", return_value=([], 0)):
        alone = outcome([*bytewise(body)], request, end, **limits)
    ways = [[body], [*bytewise(body)], _blocks(body)]
    ways += [cut_randomly(body, seed, cuts=seed) for seed in range(1, 6)]
    for reads in ways:
        assert outcome(reads, request, end, **limits) == alone
    return alone


def _blocks(body: bytes) -> list[bytes]:
    *blocks, rest = body.split(b"\n\n")
    return [*(block + b"\n\n" for block in blocks), *[rest] * bool(rest)]


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("name", STREAMS)
def test_the_invented_streams_come_out_the_same_however_they_are_read(
    name: str, end: AttemptEnd
) -> None:
    """Whole, byte by byte, event by event, in random cuts."""
    check(STREAMS[name], ask_for(name), end)


FOUR = sse(ROLE, *(chunk(content=f"{number}") for number in range(4)))
TEXT = json.dumps(chunk(content="Grüße\u2028 🐳"), ensure_ascii=False).encode()
BEHIND: dict[str, bytes] = {
    "the end": sse(STOP) + DONE,
    "a finish reason": sse(STOP) + sse(HI),
    "usage": sse(STOP, {"choices": [], "usage": {"total_tokens": 5}}) + DONE,
    "usage alone": sse({"choices": [], "usage": {"total_tokens": 5}}, HI) + DONE,
    "the end without a finish reason": DONE,
    "an error": sse({"error": {"message": "m"}}, HI),
    "an error by name": sse({"message": "m"}, name="error") + sse(HI),
    "a malformed event": sse("not json", HI),
    "half of an event": sse(raw(HI)[:50], HI),
    "an event in two": sse(raw(HI)[:50], raw(HI)[50:], HI, STOP) + DONE,
    "another choice": sse(chunk(index=1, content="Hi"), HI, STOP) + DONE,
    "another choice that ends": sse(chunk(index=1, finish="stop"), HI) + DONE,
    "a name": sse(HI, name="message") + sse(HI, STOP) + DONE,
    "a foreign event": sse({"type": "ping"}, name="ping") + sse(HI, STOP) + DONE,
    "a comment": b": keepalive\n\n" + sse(HI, STOP) + DONE,
    "a comment in an event": b": x\n" + sse(HI, STOP) + DONE,
    "an id": b"id: 7\n" + sse(HI, STOP) + DONE,
    "no space": sse(HI, STOP).replace(b"data: ", b"data:") + DONE,
    "two spaces": sse(HI, STOP).replace(b"data: ", b"data:  ") + DONE,
    "a name that dangles": b"event: x\n\n" + sse(HI, STOP) + DONE,
    "a name of its own that dangles": b"event: x\n\n" + sse({"type": "x", **HI}, STOP) + DONE,
    "an event without data": b"data:\n\ndata: \n\n" + sse(HI, STOP) + DONE,
    "blank lines": b"\n\n\n" + sse(HI) + b"\n" + sse(STOP) + DONE,
    "raw characters": sse(TEXT, HI, STOP) + DONE,
    "bad UTF-8": sse(raw(HI).replace(b"Hi", b"H\xff"), HI, STOP) + DONE,
    "half a character": sse(raw(HI).replace(b"Hi", b"\xf0\x9f"), HI, STOP) + DONE,
    "a line end in the JSON": sse(raw(HI).replace(b", ", b",\n", 1), HI, STOP) + DONE,
    "a field line in the JSON": sse(raw(HI).replace(b", ", b",\ndata: ", 1), HI, STOP) + DONE,
    "two values": sse(raw(HI) + raw(HI), HI, STOP) + DONE,
    "two values in two lines": sse(raw(HI) + b"\ndata: " + raw(HI), STOP) + DONE,
    "a prefix twice": sse(b"data: " + raw(HI), HI, STOP) + DONE,
    "no prefix": raw(HI) + b"\n\n" + sse(HI, STOP) + DONE,
    "a NUL": b"\0\0" + sse(HI, STOP) + DONE,
    "an event that is too large": sse(chunk(content="x" * 5000), HI, STOP) + DONE,
    "an event that grows too large": b"data: " + b"x" * 5000,
    "no blank line": sse(STOP)[:-2],
    "a part of an event": sse(HI)[:40],
    "events of nothing": sse(*[{"choices": []}] * 3, HI, STOP) + DONE,
}
"""What may stand behind ordinary events, in the same read or not."""

ODDITIES = {
    **{what: FOUR + behind + sse(HI, HI) for what, behind in BEHIND.items()},
    "an event that grows beyond all bounds": FOUR + b"data: " + b"x" * 5000,
    "CRLF": (FOUR + ANSWER).replace(b"\n", b"\r\n"),
    "CR": (FOUR + ANSWER).replace(b"\n", b"\r"),
    "a BOM": b"\xef\xbb\xbf" + FOUR + ANSWER,
    "each line end in turn": FOUR + ANSWER.replace(b"\n\n", b"\n\r\n\r\n"),
}
CAREFUL: dict[str, dict[str, Any]] = {
    "plainly": {},
    "once": {"max_attempts": 1},
    "events as they are": {"quirks": Quirks(foreign_events="pass"), "skip_malformed": True},
    "a finish reason is required": {"quirks": Quirks(finish_reason="required")},
    "a finish reason may be added": {"quirks": Quirks(finish_reason="added")},
    "some texts are errors": {"quirks": Quirks(overload_texts=("0",))},
    "an empty answer is asked for again": {"quirks": Quirks(empty_answer="restart")},
    "fields are filled in": {"quirks": Quirks(fill_fields=True, empty_choices="drop")},
    "calls are held": {"hold": "tool_calls"},
    "all is held": {"hold": "all"},
    "as much is held as there is room": {"hold": "all", "journal_max_bytes": 400},
    "what was given is remembered": {"request": COLD, "backoff_base_s": 0.0},
    "little is remembered": {"request": COLD, "journal_max_bytes": 400},
    "for two choices": {"request": ask(n=2)},
    "for legacy text": {"request": ask("completions")},
}


@pytest.mark.parametrize("how", CAREFUL)
@pytest.mark.parametrize("what", ODDITIES)
def test_what_stands_behind_ordinary_events_is_read_as_if_it_stood_alone(
    what: str, how: str
) -> None:
    """The same bytes, incidents, repairs and memory, whatever is asked for."""
    check(ODDITIES[what], max_event_bytes=4000, **CAREFUL[how])


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("what", ODDITIES)
def test_the_end_finds_all_as_if_each_event_had_come_alone(what: str, end: AttemptEnd) -> None:
    """Behind whatever the stream ends."""
    check(ODDITIES[what], end=end, max_event_bytes=4000)


_CHATS = {name: body for name, body in STREAMS.items() if name.startswith(("chat", "completions"))}


@given(
    name=st.sampled_from(sorted(_CHATS)),
    how=st.sampled_from(sorted(CAREFUL)),
    end=st.sampled_from(tuple(ENDS.values())),
    data=st.data(),
)
def test_broken_chats_come_out_the_same_however_they_are_read(
    name: str, how: str, end: AttemptEnd, data: st.DataObject
) -> None:
    """In whatever way they break."""
    body = data.draw(broken(_CHATS[name]))
    check(body, **{"request": ask_for(name), **CAREFUL[how], "end": end})


# --- what is noted ---


def test_each_event_of_a_run_is_remembered_where_one_may_have_to_be_joined_on() -> None:
    """A replay compares what is told again with each of them."""
    session = start(COLD)
    feed(session, FOUR + sse(HI, HI))
    assert [event.encode() for event in session._journal.given] == _blocks(FOUR + sse(HI, HI))


def test_a_replay_behind_a_run_gives_what_is_missing_and_nothing_twice() -> None:
    """The second answer is the first one, told to its end."""
    whole = FOUR + sse(HI, STOP) + DONE
    for reads in ([FOUR], _blocks(FOUR), [*bytewise(FOUR)]):
        session = start(COLD, backoff_base_s=0.0)
        given = feed(session, *reads)
        assert isinstance(session.receive_end(CUT, 0.0), Open)
        session.receive_head()
        given += feed(session, whole)
        assert payloads(given) == payloads(whole)
        assert session.settled


def incident_of(*reads: bytes, end: AttemptEnd = CUT, **limits: Any) -> Incident:
    """Feed reads as the edge does, return the one incident."""
    session = start(max_attempts=1, **limits)
    b"".join(_pushed(session, [*reads]))
    finish(session, CLEAN if session.settled else end)
    (incident,) = session.incidents
    return incident


BAD = {
    "malformed": (sse("not json"), Fault.MALFORMED_EVENT),
    "an error": (sse({"error": {"message": "m"}}), Fault.IN_STREAM_ERROR),
    "too large": (sse(b"x" * 4000), Fault.OVERSIZE_EVENT),
    "growing too large": (b"data: " + b"x" * 4000, Fault.OVERSIZE_EVENT),
    "the end of what is not whole": (sse(chunk(index=1, finish="stop")) + DONE, Fault.CLEAN_EOF),
    "a part of an event": (b"data: {", Fault.CUT_MID_EVENT),
}


@pytest.mark.parametrize("count", [1, 3, 4, 9])
@pytest.mark.parametrize("what", BAD)
def test_an_incident_says_where_its_bytes_began_behind_a_run_as_well(what: str, count: int) -> None:
    """However it came, and whatever was passed over quickly before it."""
    bad, fault = BAD[what]
    before = sse(*(chunk(content=f"{number}") for number in range(count)))
    at = len(before) + (bad.endswith(DONE) and len(bad) - len(DONE))
    body = before + bad
    ways = [[body], [before, bad], [*_blocks(before), bad], [*bytewise(body)]]
    ways += [cut_randomly(body, seed) for seed in range(9)]
    for reads in ways:
        incident = incident_of(*reads, max_event_bytes=2000)
        assert (incident.fault, incident.offset) == (fault, at), reads
        assert body[at:].startswith(incident.tail)
        assert incident.events == count + (at > len(before))


@pytest.mark.parametrize("behind", [b"", b": keepalive\n\n", sse(HI)], ids=["end", "comment", "HI"])
def test_an_incident_says_where_half_an_event_began_that_nothing_was_joined_to(
    behind: bytes,
) -> None:
    """It is known to be malformed only when what follows has come."""
    half = sse(raw(HI)[:40])
    body = FOUR + half + behind
    for reads in ([body], _blocks(body), [*bytewise(body)]):
        incident = incident_of(*reads)
        assert incident.fault is Fault.MALFORMED_EVENT
        assert (incident.offset, incident.tail) == (len(FOUR), half[:-2])
