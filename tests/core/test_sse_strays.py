"""Blocks without a field, and zeros between events: what the splitter makes of them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import STREAMS, bytewise, cut_at

from proxy.core.sse import STRAY, Event, EventSplitter

CUTS = pytest.mark.parametrize("bytewise_", [False, True], ids=["whole", "byte by byte"])


def split(
    body: bytes, *, strays: bool = True, byte_by_byte: bool = False
) -> tuple[list[Event], Counter[str]]:
    """Cut a body into events; what is left is read as if a blank line had come."""
    repairs: Counter[str] = Counter()
    splitter = EventSplitter(2**20, lambda repair: repairs.update([repair]), strays=strays)
    reads = bytewise(body) if byte_by_byte else [body]
    events = [event for read in reads for event in splitter.feed(read)]
    last = splitter.close() if splitter.pending else None
    return [*events, last] if last is not None else events, repairs


@CUTS
@pytest.mark.parametrize(
    "block", [b"hello", b"<html>\n<body>", b'":1}', b"x:y", b"a\nb", b"datax: 1", b" data: 1", b"{"]
)
def test_a_block_without_a_field_is_a_stray(
    block: bytes,
    bytewise_: bool,  # noqa: FBT001 - a parameter
) -> None:
    """It may be the rest of an event, or no event stream at all."""
    around = b"data: 1\n\n%b\n\ndata: 2\n\n%b" % (block, block)
    events, repairs = split(around, byte_by_byte=bytewise_)
    stray = Event(STRAY, block)
    assert events == [Event(b"", b"1"), stray, Event(b"", b"2"), stray]
    assert repairs == {}


@CUTS
@pytest.mark.parametrize(
    "block",
    [b": ping", b":", b"id: 1", b"retry: 5", b"event: x", b"data:", b"id: 1\nhello", b"\n", b""],
)
def test_a_block_with_a_field_is_none(
    block: bytes,
    bytewise_: bool,  # noqa: FBT001 - a parameter
) -> None:
    """Whatever stands beside it."""
    events, _ = split(b"data: 1\n\n%b\n\ndata: 2\n\n" % block, byte_by_byte=bytewise_)
    assert events == [Event(b"", b"1"), Event(b"", b"2")]


def test_a_stray_line_beside_data_is_ignored() -> None:
    """As WHATWG has it."""
    assert split(b"hello\ndata: 1\nworld\n\n") == ([Event(b"", b"1")], {})


def test_strays_have_to_be_asked_for() -> None:
    """Elsewhere they are ignored."""
    assert split(b"hello\n\ndata: 1\n\n<html>", strays=False) == ([Event(b"", b"1")], {})


def test_no_event_can_be_named_as_a_stray_is() -> None:
    """A name is one line."""
    for body in (b"event: \n\ndata: 1\n\n", b"event:\n\n\ndata: 1\n\n", b"event: \r\ndata: 1\n\n"):
        assert all(event.name != STRAY for event in split(body)[0])


def test_a_stray_does_not_take_the_name_of_the_next_event() -> None:
    """A name that slipped off still finds its data."""
    body = b'event: a\n\nhello\n\ndata: {"type":"a"}\n\n'
    events, repairs = split(body)
    assert events[-1] == Event(b"a", b'{"type":"a"}')
    assert repairs == {"reattached_event_name": 1}


# --- zeros ---


@CUTS
@pytest.mark.parametrize("zeros", [b"\0", b"\0" * 5000, b"\0\n\0\n", b"\0\n"])
@pytest.mark.parametrize("after", [b"", b"\n\n"], ids=["glued", "a block"])
def test_zeros_between_events_are_stripped(
    zeros: bytes,
    after: bytes,
    bytewise_: bool,  # noqa: FBT001 - a parameter
) -> None:
    """Counted once a block; the event behind them is whole."""
    body = b"data: 1\n\n" + zeros + after + b"event: a\ndata: 2\n\n"
    events, repairs = split(body, byte_by_byte=bytewise_)
    assert events == [Event(b"", b"1"), Event(b"a", b"2")]
    assert repairs == {"dropped_nul": 1}


@CUTS
@pytest.mark.parametrize("body", [b"\0\0", b"data: 1\n\n\0\0", b"\0\n\n\0"])
def test_zeros_alone_are_nothing(
    body: bytes,
    bytewise_: bool,  # noqa: FBT001 - a parameter
) -> None:
    """Not even a stray."""
    events, repairs = split(body, byte_by_byte=bytewise_)
    assert all(event == Event(b"", b"1") for event in events)
    assert repairs["dropped_nul"] >= 1


@pytest.mark.parametrize("data", [b"a\0b", b"a\0", b"\0a", b"\0"])
def test_zeros_inside_data_are_data(data: bytes) -> None:
    """What they mean is not known here."""
    assert split(b"data: " + data + b"\n\n") == ([Event(b"", data)], {})


def test_zeros_in_a_comment_are_part_of_it() -> None:
    """It goes no further."""
    assert split(b": \0\n\ndata: 1\n\n") == ([Event(b"", b"1")], {"dropped_comment": 1})


# --- both ---


@pytest.mark.parametrize("name", STREAMS)
def test_a_healthy_stream_has_neither(name: str) -> None:
    """Asking for strays changes nothing."""
    assert split(STREAMS[name]) == split(STREAMS[name], strays=False)
    assert split(STREAMS[name])[1]["dropped_nul"] == 0


@given(
    st.lists(st.sampled_from([b"\0", b"\n", b"data: 1", b"hello", b"event: a", b":", b"{}"])),
    st.lists(st.integers(0, 60), max_size=3),
)
def test_no_cutting_makes_a_difference(parts: list[bytes], places: list[int]) -> None:
    """However the reads are cut."""
    body = b"".join(parts)
    repairs: Counter[str] = Counter()
    splitter = EventSplitter(2**20, lambda repair: repairs.update([repair]), strays=True)
    events = [event for read in cut_at(body, *places) for event in splitter.feed(read)]
    last = splitter.close() if splitter.pending else None
    assert ([*events, last] if last is not None else events, repairs) == split(body)
