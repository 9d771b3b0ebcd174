"""Incident records: what is kept of broken bytes, and how many of them."""

from __future__ import annotations

import doctest
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import CUT, HI, ROLE, STREAMS, cut_at, finish, sse, start

from proxy import incidents
from proxy.core.fault import EXPLANATIONS, Fault, Incident, IncidentOutcome, Phase
from proxy.incidents import RING_SIZE, IncidentRing, mask

FACTS = {"request_id": "ws_1", "endpoint": "chat_completions", "model": "m", "upstream": "h"}
KNOWN = incidents._KNOWN_KEYS
FIELDS = {b"data", b"event", b"id", b"retry"}
STRUCTURE = b' \t\n\r\x0b\x0c{}[]:,"\\'

TAILS = {
    b'data: {"content":"Hello there': 'data: {"content":"xxxxx xxxxx',
    b'data: {"choices":[{"delta":{"content":"a"}': 'data: {"choices":[{"delta":{"content":"x"}',
    b'data: {"city":"Oslo","id" : 17}': 'data: {"xxxx":"xxxx","id" : xx}',
    b"event: response.created\ndata: {": "event: xxxxxxxxxxxxxxxx\ndata: {",
    b'{"text":"caf\xc3\xa9 \xf0\x9f': '{"text":"xxxxx xx',
    b'{"arguments":"{\\"city\\":\\"Oslo': '{"arguments":"{\\"xxxx\\":\\"xxxx',
    b'{"content":"\\u0041\\n': '{"content":"\\xxxxx\\x',
    b'{"content":"index","x":null,"n":-1.5e3}': '{"content":"xxxxx","x":xxxx,"x":xxxxxx}',
    b'{"Content":1,"delta\x00":1}': '{"xxxxxxx":x,"xxxxxx":x}',
    b"retry: 5\nid: 7\nids: 7\n data: 8": "retry: x\nid: x\nxxx: x\n xxxx: x",
    b"sk-canary-4711": "xxxxxxxxxxxxxx",
    b"\x00\x1b[2J\x7f\xff": "xx[xxxx",
    b"": "",
}
"""Bytes, and what is shown of them."""


def incident(tail: bytes = b"", **values: Any) -> Incident:
    """Make an incident."""
    facts: dict[str, Any] = {
        "fault": Fault.RESET,
        "phase": Phase.MID_CONTENT,
        "outcome": IncidentOutcome.SURFACED,
        "attempt": 1,
        "age_s": 0.1239,
        "status": 0,
        "events": 2,
        "size": 100,
        "offset": 100,
        "detail": "",
    }
    return Incident(**{**facts, "tail": tail, **values})


def shown(tail: bytes, capture: str) -> Any:
    """Return what an incident shows of its broken bytes."""
    record = IncidentRing(capture).add(incident(tail), facts=FACTS)
    assert record["tail_bytes"] == len(tail)
    return json.loads(json.dumps(record))["tail"]


def check(data: bytes) -> None:
    """Check what must hold for the mask of any bytes."""
    masked = mask(data)
    assert len(masked) == len(data)
    out = masked.encode("ascii")
    for given_, kept in zip(data, out, strict=True):
        assert (given_ in STRUCTURE) == (kept in STRUCTURE)
        if given_ in STRUCTURE:
            assert given_ == kept
    for run in re.findall(rb"[^\s{}\[\]:,\"\\]+", out):
        assert set(run) == {ord("x")} or run in KNOWN | FIELDS
    for run in re.finditer(rb"\w+", out):
        if set(run[0]) != {ord("x")}:
            # A known key is in quotes, a name of a field at the beginning of its line.
            around = out[max(0, run.start() - 1) : run.start()], out[run.end() : run.end() + 1]
            assert around == (b'"', b'"') or (around[0] in {b"", b"\n"} and around[1] == b":")


# --- the mask ---------------------------------------------------------------------------


@pytest.mark.parametrize("data", TAILS)
def test_structure_and_known_keys_stay_and_text_goes(data: bytes) -> None:
    """So that a cut can be understood without reading anybody's words."""
    assert mask(data) == TAILS[data]
    check(data)


def test_the_example_in_the_code_holds() -> None:
    """It is what readers go by."""
    result = doctest.testmod(incidents)
    assert result.attempted > 0
    assert result.failed == 0


_words = st.sampled_from(
    [
        *(key for key in sorted(KNOWN)),
        *(b"data", b"event", b"id", b"retry", b"canary", b"Oslo", b"4711", b"x", b"\xc3\xa9"),
        *(b'"', b":", b": ", b"{", b"}", b"[", b",", b"\\", b"\n", b"\r\n", b" ", b"_", b"-"),
        *(b'"content":"', b'{"delta":{"', b"data: ", b"event: ", b'\\"', b"\\n", b"\xff", b"\x00"),
    ]
)


@settings(max_examples=1000)
@given(st.lists(_words | st.binary(max_size=4), max_size=30).map(b"".join))
def test_no_word_survives_but_known_keys_and_names_of_fields(data: bytes) -> None:
    """Whatever the bytes: each run of text is masked, or a key, or a field's name."""
    check(data)


@given(data=st.binary())
def test_any_bytes_are_masked_to_their_length(data: bytes) -> None:
    """Each byte is one character."""
    check(data)


@given(word=st.text("abcdefghijklmnopqrstuvwyz0123456789", min_size=1).map(str.encode))
def test_the_value_of_a_known_key_is_masked_even_if_it_is_a_known_key(word: bytes) -> None:
    """Only what stands before a colon is a key."""
    data = b'data: {"role":"%b","content":"%b %b' % (word, word, word)
    size = len(word)
    masked = "x" * size
    assert mask(data) == f'data: {{"role":"{masked}","content":"{masked} {masked}'


@settings(max_examples=100)
@given(name=st.sampled_from(sorted(STREAMS)), share=st.floats(0, 1))
def test_a_real_stream_cut_anywhere_shows_its_shape_only(name: str, share: float) -> None:
    """The tail that would be shown is as long as what was there."""
    body = STREAMS[name]
    for part in cut_at(body, int(len(body) * share)):
        check(part)


def test_what_a_session_could_not_give_is_masked() -> None:
    """From the cut stream to the record."""
    session = start()
    session.receive_data(sse(ROLE, HI) + b'data: {"choices":[{"delta":{"content":"canary and')
    finish(session, CUT)
    (found,) = session.incidents
    record = IncidentRing("masked").add(found, facts=FACTS)
    assert record["tail"] == 'data: {"choices":[{"delta":{"content":"xxxxxx xxx'
    assert record["tail_offset"] == len(sse(ROLE, HI))
    assert record["fault"] == "cut_mid_event"


# --- what is kept -----------------------------------------------------------------------


def test_raw_keeps_the_bytes_and_shows_those_that_are_no_text() -> None:
    """Chosen by somebody who wants to see them."""
    assert shown("data: café 🌊\n".encode(), "raw") == "data: café 🌊\n"
    assert shown(b"caf\xc3 \xff\x00", "raw") == "caf\\xc3 \\xff\x00"


def test_off_keeps_nothing_of_the_bytes_but_their_number() -> None:
    """The fact of the fault stays."""
    assert shown(b"canary", "off") is None


def test_masked_shows_the_mask() -> None:
    """The default."""
    assert shown(b"data: canary", "masked") == "data: xxxxxx"


@given(tail=st.binary(), capture=st.sampled_from(["masked", "raw", "off"]))
def test_a_record_of_any_bytes_is_json(tail: bytes, capture: str) -> None:
    """It is served and logged as such, and as UTF-8."""
    ring = IncidentRing(capture)
    ring.add(incident(tail, detail="5 of 9 bytes", status=503), facts=FACTS)
    text = json.dumps(ring.newest(), ensure_ascii=False, allow_nan=False)
    assert json.loads(text.encode()) == ring.newest()


# --- the record -------------------------------------------------------------------------


@pytest.mark.parametrize("fault", Fault)
def test_a_record_tells_the_facts_in_the_words_of_the_contract(fault: Fault) -> None:
    """With a plain sentence for whoever reads it first."""
    record = IncidentRing("off").add(
        incident(fault=fault, status=503, detail="why", events=2), facts=FACTS
    )
    assert record.pop("time") > 0
    assert record == {
        **FACTS,
        "fault": fault.value,
        "phase": "mid_content",
        "outcome": "surfaced",
        "attempt": 1,
        "status": 503,
        "age_s": 0.124,
        "events": 2,
        "bytes": 100,
        "explanation": EXPLANATIONS[fault],
        "detail": "why",
        "attempts": [],
        "tail": None,
        "tail_offset": 100,
        "tail_bytes": 0,
    }


def test_what_is_not_known_is_none() -> None:
    """No status where there was no answer, no detail where none was told."""
    record = IncidentRing("off").add(incident(), facts=FACTS)
    assert (record["status"], record["detail"]) == (None, None)


# --- the ring ---------------------------------------------------------------------------


def test_the_ring_begins_empty() -> None:
    """As a list."""
    assert IncidentRing("masked").newest() == []


def test_the_ring_gives_the_newest_first_and_forgets_the_oldest() -> None:
    """An upstream that fails for hours must not fill the memory."""
    ring = IncidentRing("masked")
    for number in range(RING_SIZE + 5):
        ring.add(incident(attempt=number), facts=FACTS)
        assert ring.newest()[0]["attempt"] == number
    attempts = [record["attempt"] for record in ring.newest()]
    assert attempts == list(range(RING_SIZE + 4, 4, -1))
    assert len(attempts) == RING_SIZE == 200


def test_what_was_read_does_not_change_the_ring() -> None:
    """The list is the reader's own."""
    ring = IncidentRing("masked")
    ring.add(incident(), facts=FACTS)
    ring.newest().clear()
    assert len(ring.newest()) == 1
