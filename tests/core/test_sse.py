"""Framing: the WHATWG algorithm on bytes, in one canonical form, however the reads are cut."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import STREAMS, bytewise, cut_at

from proxy.core.sse import BOM, Event, EventSplitter

CAP = 2**20
CUTS = pytest.mark.parametrize("reads", ["whole", "bytewise"])


class Reader:
    """A splitter with its repairs counted."""

    def __init__(self, cap: int = CAP) -> None:
        """Start before the first byte."""
        self.repairs: Counter[str] = Counter()
        self.splitter = EventSplitter(cap, self._count)

    def _count(self, repair: str) -> None:
        self.repairs[repair] += 1

    def read(self, reads: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        """Feed reads, return name and data of the events they gave."""
        return [(e.name, e.data) for read in reads for e in self.splitter.feed(read)]


def read_all(body: bytes, reads: str = "whole", cap: int = CAP) -> list[tuple[bytes, bytes]]:
    """Read a body in one of the ways that must make no difference."""
    return Reader(cap).read([body] if reads == "whole" else bytewise(body))


def data_of(body: bytes, reads: str = "whole") -> list[bytes]:
    """Return only the data of the events of a body."""
    return [data for _, data in read_all(body, reads)]


# --- WPT eventsource/format-*: adapted in one point, an event without data is not given --------

WPT = {
    "format-bom": (BOM + b"data:1\n\n" + BOM + b"data:2\n\ndata:3\n\n\n", [b"1", b"3"]),
    "format-bom-2": (BOM + BOM + b"data:1\n\ndata:2\n\ndata:3\n\n\n", [b"2", b"3"]),
    "format-comments": (
        b"data:1\r:\0\n:\r\ndata:2\n:%b\rdata:3\n:data:fail\r:%b\ndata:4\n\n"
        % (b"x" * 2048, b"x" * 2048),
        [b"1\n2\n3\n4"],
    ),
    "format-data-before-final-empty-line": (
        b"retry:1000\ndata:test1\n\nid:test\ndata:test2\n",
        [b"test1"],
    ),
    # WPT dispatches "" and "\n" as well; no JSON client can use them (openai-python#2722).
    "format-field-data": (b"data:\n\ndata\ndata\n\ndata:test\n\n\n", [b"test"]),
    "format-field-id-null": (b"id:\0\0\ndata:x\n\n", [b"x"]),
    "format-field-parsing": (
        (
            b"data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\n"
            b"data:3\rdata:\r\n data:32\ndata:4\n\n"
        ),
        [b"\0\n 2\n1\n3\n\n4"],
    ),
    "format-field-retry": (b"retry:02000\ndata:x\n\n\n", [b"x"]),
    "format-field-retry-bogus": (b"retry:2000\nretry:1000x\ndata:x\n\n\n", [b"x"]),
    "format-field-retry-empty": (b"retry\ndata:test\n\n\n", [b"test"]),
    "format-field-unknown": (
        b"data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n\n",
        [b"test\n\ntest"],
    ),
    "format-leading-space": (b"data:\ttest\rdata: \ndata:test\n\n\n", [b"\ttest\n\ntest"]),
    "format-newlines": (b"data:test\r\ndata\ndata:test\r\n\r\n", [b"test\n\ntest"]),
    "format-null-character": (b"data:\0\n\n\n\n", [b"\0"]),
    "format-utf-8": ("data:ok…\n\n\n".encode(), ["ok…".encode()]),
}


@CUTS
@pytest.mark.parametrize(("body", "expected"), WPT.values(), ids=WPT)
def test_the_web_platform_format_tests_hold(body: bytes, expected: list[bytes], reads: str) -> None:
    """Each WPT body gives WPT's events, whole and byte by byte."""
    assert data_of(body, reads) == expected


@CUTS
def test_an_event_has_the_type_that_it_names_and_no_other(reads: str) -> None:
    """WPT format-field-event and -event-empty: the type does not last, empty means default."""
    body = b"event:test\ndata:x\n\ndata:x\n\nevent: \ndata:data\n\n"
    assert read_all(body, reads) == [(b"test", b"x"), (b"", b"x"), (b"", b"data")]


# --- lines ---


@CUTS
@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
def test_each_line_end_ends_a_line(end: bytes, reads: str) -> None:
    """LF, CR and CRLF are the same, and two of them end an event."""
    body = end.join([b"event: a", b"data: 1", b"", b"data: 2", b"", b""])
    assert read_all(body, reads) == [(b"a", b"1"), (b"", b"2")]


@CUTS
@pytest.mark.parametrize("blank", [b"\r\n\n", b"\n\r\n", b"\r\r\n", b"\n\r", b"\r\n\r"])
def test_mixed_line_ends_end_an_event_once(blank: bytes, reads: str) -> None:
    """A blank line may be made of any two line ends."""
    assert data_of(b"data: 1" + blank + b"data: 2\n\n", reads) == [b"1", b"2"]


def test_a_crlf_split_over_two_reads_is_one_line_end() -> None:
    """The LF that follows a CR belongs to it, even when it comes with the next read."""
    assert Reader().read([b"data: 1\r", b"\ndata: 2\r\n\r", b"\n"]) == [(b"", b"1\n2")]


def test_a_cr_at_the_end_of_a_read_ends_the_line_at_once() -> None:
    """A CR-only stream does not wait for a LF that never comes."""
    reader = Reader()
    assert reader.read([b"data: 1\r", b"\r"]) == [(b"", b"1")]
    assert reader.read([b"data: 2\r", b"data: 3\r", b"\r"]) == [(b"", b"2\n3")]


def test_an_empty_read_between_cr_and_lf_changes_nothing() -> None:
    """A read may hold no byte at all."""
    assert Reader().read([b"data: 1\r", b"", b"\n\r", b"", b"\n"]) == [(b"", b"1")]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_what_str_splitlines_cuts_at_is_no_line_end(separator: str) -> None:
    """Only CR and LF end a line; other separators stay inside the data."""
    text = f'{{"text":"a{separator}b"}}'.encode()
    assert data_of(b"data: " + text + b"\n\n") == [text]


def test_line_ends_are_counted_once_a_body() -> None:
    """The repair says that a body had other line ends, not how many."""
    reader = Reader()
    reader.read([b"data: 1\r\n\r\ndata: 2\r\n\r\n", b"data: 3\r\r"])
    assert reader.repairs == {"line_ends": 1}


# --- byte order mark ---


@pytest.mark.parametrize("cut", range(5))
def test_one_bom_is_stripped_however_it_is_cut(cut: int) -> None:
    """Exactly one mark at the very beginning goes."""
    reader = Reader()
    assert reader.read(cut_at(BOM + b"data: 1\n\n", cut)) == [(b"", b"1")]
    assert reader.repairs == {"bom": 1}


@CUTS
def test_a_second_bom_is_kept(reads: str) -> None:
    """It belongs to the name of the field, which is then unknown."""
    assert data_of(BOM + BOM + b"data: 1\n\ndata: 2\n\n", reads) == [b"2"]


@CUTS
def test_bytes_that_only_begin_like_a_bom_are_kept(reads: str) -> None:
    """Two of its three bytes are no mark."""
    assert data_of(BOM[:2] + b"x\ndata: 1\n\n", reads) == [b"1"]


def test_a_body_of_half_a_bom_is_pending() -> None:
    """Nothing is lost while the mark may still come."""
    reader = Reader()
    assert reader.read([BOM[:2]]) == []
    assert reader.splitter.pending == BOM[:2]
    assert reader.splitter.close() is None


# --- fields ---


@CUTS
@pytest.mark.parametrize(
    ("line", "value"),
    [(b"data:x", b"x"), (b"data: x", b"x"), (b"data:  x", b" x"), (b"data:\tx", b"\tx")],
)
def test_exactly_one_space_after_the_colon_is_stripped(
    line: bytes, value: bytes, reads: str
) -> None:
    """One space goes, a second one and a tab stay."""
    assert data_of(line + b"\n\n", reads) == [value]


def test_a_missing_space_is_counted_once_a_body() -> None:
    """It is legal, but naive clients die of it (huggingface/huggingface_hub#4536)."""
    reader = Reader()
    reader.read([b"data:1\n\ndata:2\n\n"])
    assert reader.repairs == {"data_space": 1}


def test_colons_and_field_names_inside_a_value_are_text() -> None:
    """Only the first colon of a line separates."""
    text = b'{"text":"data: [DONE]: event: x, id: 7"}'
    assert read_all(b"event: a:b\ndata: " + text + b"\n\n") == [(b"a:b", text)]


@CUTS
def test_data_lines_are_joined_with_a_line_feed(reads: str) -> None:
    """Several data lines are one value; a field without a colon is an empty line of it."""
    assert data_of(b"data: {\ndata\ndata: }\n\n", reads) == [b"{\n\n}"]


@CUTS
def test_comments_are_dropped_alone_and_inside_an_event(reads: str) -> None:
    """A comment never reaches the client, and is counted once a block."""
    reader = Reader()
    body = b": ping\n\n: a\n: b\n\n:\ndata: 1\n: tail\n\n"
    assert reader.read([body] if reads == "whole" else bytewise(body)) == [(b"", b"1")]
    assert reader.repairs["dropped_comment"] == 3


@CUTS
def test_id_and_retry_are_stripped(reads: str) -> None:
    """They go wherever they stand; a block of nothing else is no event."""
    reader = Reader()
    body = b"id: 7\nretry: 3000\ndata: 1\n\nretry: 3000\n\nid\n\n"
    assert reader.read([body] if reads == "whole" else bytewise(body)) == [(b"", b"1")]
    assert reader.repairs == {"stripped_id_retry": 3}


@CUTS
def test_a_json_object_on_a_bare_line_is_data(reads: str) -> None:
    """Servers forget "data:" in front of errors and further values (danny-avila/LibreChat#4820)."""
    assert data_of(b'{"error":"gone"}\n\ndata: {"a":1}\n{"b":2}\n\n', reads) == [
        b'{"error":"gone"}',
        b'{"a":1}\n{"b":2}',
    ]


@pytest.mark.parametrize("line", [b'{"a":1', b"[1]", b'x{"a":1}', b'"a":1}'])
def test_a_bare_line_that_is_no_object_is_ignored(line: bytes) -> None:
    """An unknown field is ignored, as WHATWG says."""
    assert data_of(line + b"\ndata: 1\n\n") == [b"1"]


# --- events without data ---


@CUTS
@pytest.mark.parametrize("empty", [b"data:\n\n", b"data: \n\n", b"data\ndata\n\n", b"data:  \n\n"])
def test_an_event_without_data_is_dropped(empty: bytes, reads: str) -> None:
    """SDKs die of it, so it goes, and is counted."""
    reader = Reader()
    body = empty + b"data: 1\n\n"
    assert reader.read([body] if reads == "whole" else bytewise(body)) == [(b"", b"1")]
    assert reader.repairs["dropped_dataless"] == 1


@CUTS
@pytest.mark.parametrize("data", [b"", b"data:\n", b"data: \n"])
@pytest.mark.parametrize("space", [b"", b" "])
def test_a_dangling_name_goes_to_the_event_that_it_names(
    data: bytes, space: bytes, reads: str
) -> None:
    """A blank line between "event:" and "data:" is taken out again, however it is cut."""
    payload = b'{"type":%b"response.created"}' % space
    body = b"event: response.created\n%b\ndata: %b\n\n" % (data, payload)
    reader = Reader()
    found = reader.read([body] if reads == "whole" else bytewise(body))
    assert found == [(b"response.created", payload)]
    assert reader.repairs["reattached_event_name"] == 1
    assert reader.repairs["dropped_dataless"] == 0


@CUTS
@pytest.mark.parametrize(
    "following",
    [
        b'data: {"type":"other"}\n\n',
        b'event: own\ndata: {"type":"ping"}\n\n',
        b'data: {"text":"ping"}\n\n',
    ],
    ids=["another type", "a name of its own", "only mentions it"],
)
def test_a_dangling_name_that_fits_nothing_is_dropped(following: bytes, reads: str) -> None:
    """A name is given to an event only when the event carries it as its type."""
    body = b"event: ping\n\n" + following
    reader = Reader()
    found = reader.read([body] if reads == "whole" else bytewise(body))
    assert found == read_all(following)
    assert reader.repairs == {"dropped_dataless": 1}


def test_a_dangling_name_is_given_once_and_the_last_one_wins() -> None:
    """Of two names in a row the first is dropped; the second serves one event."""
    event = b'data: {"type":"b"}\n\n'
    found = read_all(b"event: a\n\nevent: b\n\n" + event + event)
    assert found == [(b"b", b'{"type":"b"}'), (b"", b'{"type":"b"}')]


# --- events and reads ---


@pytest.mark.parametrize("name", STREAMS)
def test_every_cut_in_two_gives_the_same_events(name: str) -> None:
    """An event may be split anywhere, inside a character of four bytes too."""
    body = STREAMS[name]
    expected = read_all(body)
    for place in range(len(body)):
        assert Reader().read(cut_at(body, place)) == expected, place


def test_a_blank_line_ends_an_event_without_waiting_for_more() -> None:
    """The event is given with its last byte, not with the next read."""
    reader = Reader()
    assert reader.read([b"data: 1\n"]) == []
    assert reader.read([b"\n"]) == [(b"", b"1")]


def test_blank_lines_between_events_are_nothing() -> None:
    """Any number of them is no event and no repair."""
    reader = Reader()
    assert reader.read([b"\n\n\n\ndata: 1\n\n\n", b"\n\ndata: 2\n\n"]) == [(b"", b"1"), (b"", b"2")]
    assert not reader.repairs


def test_pending_is_what_came_after_the_last_event() -> None:
    """It is shown in an incident, so it must be exact."""
    reader = Reader()
    reader.read([b"data: 1\n\nda", b"ta: 2\r", b"\ndat"])
    assert reader.splitter.pending == b"data: 2\ndat"
    assert reader.splitter.received == 9 + 2 + 6 + 4


@pytest.mark.parametrize("tail", [b"event: a\ndata: 1", b"event: a\ndata: 1\n"])
def test_closing_gives_the_event_that_lacks_its_blank_line(tail: bytes) -> None:
    """The caller may ask for it, and must judge it (openai-node#2725)."""
    reader = Reader()
    assert reader.read([tail]) == []
    assert reader.splitter.close() == Event(b"a", b"1")
    assert reader.splitter.pending == b""


def test_canonical_form_is_event_data_blank_line() -> None:
    """One space after the colon, LF only, no event line without a type."""
    assert Event(b"", b"{}").encode() == b"data: {}\n\n"
    assert Event(b"a", b"{}").encode() == b"event: a\ndata: {}\n\n"


# --- the cap ---

AT_CAP = b"data: 1234"  # ten bytes, the cap of the tests below


@CUTS
@pytest.mark.parametrize("before", [b"", b"\n", b"data: 1\n\n", b"data: 1\n\n\n"])
def test_an_event_exactly_at_the_cap_is_given(before: bytes, reads: str) -> None:
    """The line ends around it do not count, however they are cut."""
    assert read_all(before + AT_CAP + b"\n\n", reads, cap=10)[-1:] == [(b"", b"1234")]


@CUTS
@pytest.mark.parametrize("end", [b"\n\n", b"\n", b""])
def test_an_event_one_byte_over_the_cap_ends_the_reading(end: bytes, reads: str) -> None:
    """What came before it is still given, whether or not the event is whole."""
    body = b"data: 1\n\n" + AT_CAP + b"5" + end
    reader = Reader(10)
    found = reader.read([body] if reads == "whole" else bytewise(body))
    assert found == [(b"", b"1")]
    assert reader.splitter.oversize


@pytest.mark.parametrize("after", [b"", b"data: 2\n\n", b"\n\ndata: 2\n\n"])
def test_nothing_after_an_oversize_event_is_given(after: bytes) -> None:
    """Later bytes are ignored, in the same read and in later ones."""
    reader = Reader(10)
    assert reader.read([AT_CAP + b"5\n\n" + after, after, b"data: 3\n\n"]) == []
    assert reader.splitter.oversize


def test_only_the_beginning_of_an_oversize_event_is_kept() -> None:
    """Enough to recognise it, not enough to fill the memory."""
    body = b"data: " + b"x" * 5000
    for reads in ([body], [body + b"\n\n"], cut_at(body, 1000, 3000)):
        reader = Reader(3500)
        assert reader.read([*reads, b"y" * 9000]) == []
        assert reader.splitter.pending == body[:1024]


def test_an_event_that_comes_in_many_reads_is_joined_once() -> None:
    """Cost is linear: until its end comes, reads are kept as they are and none is copied."""
    reader = Reader()
    body = b"data: " + b"x" * 5000
    assert reader.read(bytewise(body)) == []
    assert len(reader.splitter._fragments) == len(body)
    assert reader.read([b"\n\n"]) == [(b"", b"x" * 5000)]
    assert reader.splitter._fragments == []


# --- any cutting ---

_PLAIN = [
    *(b"data: ", b"data:", b"data", b"event: a", b"event: ", b"id: 1", b"retry: 5", b": c", b":"),
    *(b"\n", b"\n\n", b"\r", b"\r\n", b"\r\n\r\n", BOM, BOM[:1], b" ", b"\t", b"x", b"\xff"),
]
_JSON = ["🐳é".encode(), b'{"type":"a"}', b'{"t": "data: [DONE]"}', b"[DONE]", b"{", b"}"]


_places = st.lists(st.integers(0, 150), max_size=12)


def _bodies(pieces: list[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(pieces), max_size=40).map(b"".join)


@given(body=_bodies(_PLAIN + _JSON), places=_places, cap=st.sampled_from([12, 20, CAP]))
def test_no_cutting_changes_events_repairs_or_oversize(
    body: bytes, places: list[int], cap: int
) -> None:
    """However a body is cut into reads, the same comes out of it."""
    whole, cut = Reader(cap), Reader(cap)
    assert cut.read(cut_at(body, *places)) == whole.read([body])
    assert cut.repairs == whole.repairs
    assert cut.splitter.oversize == whole.splitter.oversize
    assert cut.splitter.received == whole.splitter.received
    if not whole.splitter.oversize:
        assert cut.splitter.pending == whole.splitter.pending
        assert cut.splitter.close() == whole.splitter.close()
        assert cut.repairs == whole.repairs


def by_the_book(body: bytes) -> list[tuple[bytes, bytes]]:
    """Read a body as WHATWG 9.2.6 says, line by line, with nothing of ours but the last step."""
    name, data, found = b"", b"", []
    lines = re.split(rb"\r\n|\r|\n", body.removeprefix(BOM))
    for line in lines[:-1]:
        if not line:
            found.append((name, data[:-1]))
            name, data = b"", b""
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            name = value
        elif field == b"data":
            data += value + b"\n"
    return [event for event in found if event[1].strip()]


@given(body=_bodies(_PLAIN), places=_places)
def test_any_body_is_read_as_the_standard_says(body: bytes, places: list[int]) -> None:
    """Checked against the standard's own algorithm, without the JSON repairs."""
    assert Reader().read(cut_at(body, *places)) == by_the_book(body)
