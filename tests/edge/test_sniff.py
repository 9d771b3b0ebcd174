"""Whether a body is an event stream although it does not say so."""

from __future__ import annotations

import gzip
import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sniff import Body, kind_of, looks_like_events, sniffed

STREAMS = [
    b"data: {}\n\n",
    b"data:x",
    b"event: message\n",
    b"id: 1\n",
    b"retry: 10\n",
    b": comment\n\n",
    b":\n",
    b"\n\n\ndata: {}",
    b"\r\n\r\ndata: {}",
    b"\xef\xbb\xbfdata: {}",
    b"\xef\xbb\xbf\n: comment",
]

OTHERS = [
    b'{"id": "chatcmpl-1"}',
    b'  {"data": 1}',
    b"[1]",
    b"<html>data: x",
    b"Data: x",
    b"database",
    b"data",
    b"id",
    b"events: x",
    b"\xef\xbb\xbf{}",
    b"\xefdata:",
    b"\x1f\x8b\x08",
    b"upstream connect error",
]


@pytest.mark.parametrize("body", STREAMS)
def test_a_body_that_begins_with_a_field_or_a_comment_is_a_stream(body: bytes) -> None:
    """After a BOM and empty lines, which stand before some streams; ended or not."""
    assert looks_like_events(body, ended=False) is True
    assert looks_like_events(body, ended=True) is True


@pytest.mark.parametrize("body", OTHERS)
def test_any_other_body_is_none(body: bytes) -> None:
    """At the latest when it has ended."""
    assert looks_like_events(body, ended=True) is False


@pytest.mark.parametrize("body", STREAMS)
def test_too_few_bytes_are_not_judged(body: bytes) -> None:
    """At each place before the first colon it might still be a stream; at the end it is none."""
    for size in range(body.index(b":")):
        assert looks_like_events(body[:size], ended=False) is None
        assert looks_like_events(body[:size], ended=True) is False


@pytest.mark.parametrize("body", [body for body in OTHERS if body not in {b"data", b"id"}])
def test_another_body_is_known_by_its_first_bytes(body: bytes) -> None:
    """Nobody waits for its end."""
    assert looks_like_events(body, ended=False) is False


def test_white_space_without_end_is_no_stream() -> None:
    """It would be kept in memory for as long as it comes."""
    assert looks_like_events(b"\n" * 60_000, ended=False) is None
    assert looks_like_events(b"\n" * 70_000, ended=False) is False


@given(
    body=st.binary(max_size=20) | st.text("\ufeff \n:dataevnirytx{", max_size=12).map(str.encode),
    cut=st.integers(0, 20),
)
def test_a_verdict_stands_whatever_follows(body: bytes, cut: int) -> None:
    """What was judged by few bytes would have been judged so by all."""
    verdict = looks_like_events(body[:cut], ended=False)
    if verdict is not None:
        assert looks_like_events(body, ended=False) is verdict
        assert looks_like_events(body, ended=True) is verdict


KINDS = [
    (b'{"id": "chatcmpl-1"}', Body.JSON),
    (b"\xef\xbb\xbf  [1]", Body.JSON),
    (b"<!doctype html>", Body.HTML),
    (b"  <html>data: x", Body.HTML),
    (b"upstream connect error", Body.OTHER),
    (b"\xff\xfb\x90", Body.OTHER),
    (b"data: {}\n\n", Body.EVENTS),
    (b"", Body.NOTHING),
    (b" \n", Body.NOTHING),
]


@pytest.mark.parametrize(("body", "kind"), KINDS)
def test_a_body_is_known_by_its_first_bytes(body: bytes, kind: Body) -> None:
    """What is no stream is JSON, a page, nothing, or something else."""
    assert kind_of(body, ended=True) is kind
    waits = kind is Body.NOTHING
    assert kind_of(body, ended=False) is (None if waits else kind)


@pytest.mark.parametrize(("body", "kind"), KINDS)
@pytest.mark.parametrize("coding", ["", "gzip"])
async def test_it_is_known_byte_by_byte_and_compressed(
    body: bytes, kind: Body, coding: str
) -> None:
    """What was read comes back as it came."""
    sent = gzip.compress(body) if coding else body
    reads = iter([sent[at : at + 1] for at in range(len(sent))])

    async def read() -> bytes:
        return next(reads, b"")

    data, found = await sniffed(read, coding)
    assert found is kind
    assert sent.startswith(data)


@pytest.mark.parametrize(
    ("unit", "kind"),
    [(b'{"a":1}\n', Body.JSON), (b":\n\n", Body.EVENTS), (b"    ", Body.OTHER)],
    ids=["json", "events", "blank"],
)
async def test_no_more_is_decoded_than_has_to_be_known(unit: bytes, kind: Body) -> None:
    """A small read may decode to any size."""
    sent = gzip.compress(unit * (2**26 // len(unit)))

    async def read() -> bytes:
        return sent

    tracemalloc.start()
    try:
        assert await sniffed(read, "gzip") == (sent, kind)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


async def test_a_compressed_body_that_never_begins_is_nothing_known() -> None:
    """The head of gzip has a name, which may be endless."""
    head = b"\x1f\x8b\x08\x08" + bytes(6)
    reads = itertools.chain([head], itertools.repeat(b"n" * 1000))

    async def read() -> bytes:
        return next(reads)

    data, kind = await sniffed(read, "gzip")
    assert kind is Body.OTHER
    assert len(data) < 70_000


async def test_what_cannot_be_decoded_is_not_looked_at() -> None:
    """It is for the caller to say what that means."""

    async def read() -> bytes:
        pytest.fail("nothing was to be read")

    assert await sniffed(read, "br") == (b"", Body.OTHER)
