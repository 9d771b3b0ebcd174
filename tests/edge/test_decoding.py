"""Compressed bodies: the same bytes come out however they were cut, and never too many at once."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import STREAMS, bytewise, cut_at, cut_randomly

from proxy.decoding import Decoder, UnknownCodingError

PIECE = 64 * 1024
TEXT = STREAMS["chat-text"]


def raw_deflate(data: bytes) -> bytes:
    """Compress without any header, as some servers do under the name of deflate."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def gzip_with_a_name(data: bytes) -> bytes:
    """Compress with an optional field in the header."""
    plain = gzip.compress(data)
    return plain[:3] + b"\x08" + plain[4:10] + b"body.sse\0" + plain[10:]


def two_members(data: bytes) -> bytes:
    """Compress in two halves that follow each other (RFC 1952, 2.2)."""
    middle = len(data) // 2
    return gzip.compress(data[:middle]) + gzip.compress(data[middle:])


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip with a name": ("gzip", gzip_with_a_name),
    "gzip in two members": ("gzip", two_members),
    "gzip that is not declared": ("", gzip.compress),
    "gzip declared as identity": ("identity", gzip.compress),
    "zlib": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "stored deflate": ("deflate", lambda data: zlib.compress(data, 0)),
    "identity": ("identity", bytes),
    "none": ("", bytes),
}

every_coding = pytest.mark.parametrize("name", CODINGS)


def decoded(coding: str, reads: Iterable[bytes]) -> bytes:
    """Decode reads; the pieces keep to their size unless the body is not compressed."""
    decoder = Decoder(coding)
    out = b""
    for read in reads:
        for piece in decoder.feed(read):
            assert piece
            assert len(piece) <= PIECE or not decoder.active
            out += piece
    return out


# --- cuts -------------------------------------------------------------------------------


@every_coding
def test_a_body_comes_out_the_same_wherever_it_is_cut(name: str) -> None:
    """Whole, at every single place, and byte by byte."""
    coding, compress = CODINGS[name]
    body = compress(TEXT[:600])
    for at in range(len(body) + 1):
        assert decoded(coding, filter(None, cut_at(body, at))) == TEXT[:600], at
    assert decoded(coding, bytewise(compress(TEXT))) == TEXT


@every_coding
@given(data=st.binary(max_size=300), seed=st.integers(0, 1000))
def test_any_body_comes_out_as_it_went_in(name: str, data: bytes, seed: int) -> None:
    """Whatever it holds; only what looks like gzip without being declared so is no test here."""
    coding, compress = CODINGS[name]
    if coding in {"", "identity"} and data.startswith(b"\x1f") and compress is bytes:
        return
    assert decoded(coding, filter(None, cut_randomly(compress(data), seed))) == data


@every_coding
@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 7])
def test_a_body_that_fills_its_pieces_exactly_is_not_cut_short(name: str, size: int) -> None:
    """What zlib keeps back when a piece is full comes in the same read."""
    coding, compress = CODINGS[name]
    data = b"x" * size
    assert decoded(coding, [compress(data)]) == data


@every_coding
def test_a_body_that_is_cut_short_comes_out_as_far_as_it_came(name: str) -> None:
    """A beginning of what it would have been, and no error: the stream's grammar will miss it."""
    coding, compress = CODINGS[name]
    body = compress(TEXT[:600])
    for at in range(len(body)):
        assert TEXT.startswith(decoded(coding, [body[:at]] if at else []))


def test_each_event_comes_out_when_it_is_flushed() -> None:
    """A server that compresses a stream flushes after each event; none waits for the next."""
    compressor = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    decoder = Decoder("gzip")
    for event in (b"data: 1\n\n", b"data: 2\n\n"):
        read = compressor.compress(event) + compressor.flush(zlib.Z_SYNC_FLUSH)
        assert b"".join(decoder.feed(read)) == event


# --- codings ----------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "GZIP", " gzip ", "x-gzip", "deflate", "Deflate"])
def test_a_coding_is_known_whatever_its_spelling(coding: str) -> None:
    """Case and spaces do not count, and ``x-gzip`` is gzip (RFC 9110, 8.4.1.3)."""
    body = (gzip if "gzip" in coding.lower() else zlib).compress(TEXT)
    assert decoded(coding, [body]) == TEXT


@pytest.mark.parametrize(
    "coding", ["br", "zstd", "compress", "gzip, gzip", "gzip,br", "identity;q=1"]
)
def test_a_coding_that_is_not_known_is_refused_by_its_name(coding: str) -> None:
    """Before a byte of it is taken for text."""
    with pytest.raises(UnknownCodingError, match=coding):
        Decoder(coding)


@every_coding
def test_a_decoder_tells_whether_the_body_is_compressed(name: str) -> None:
    """Known with the first bytes, by what they are and not by what was declared."""
    coding, compress = CODINGS[name]
    decoder = Decoder(coding)
    assert not decoder.active
    list(decoder.feed(compress(TEXT)))
    assert decoder.active is (compress is not bytes)


def test_a_lone_first_byte_of_gzip_is_not_lost() -> None:
    """It may be text after all."""
    assert decoded("", [b"\x1f", b"text"]) == b"\x1ftext"


# --- damage and bombs -------------------------------------------------------------------


@pytest.mark.parametrize("tail", [b"garbage after the end", b"\0" * 100, TEXT, b"\x1f\x8bx"])
@pytest.mark.parametrize("name", ["gzip", "zlib"])
def test_what_follows_the_end_of_a_body_is_not_taken_for_a_part_of_it(
    name: str, tail: bytes
) -> None:
    """In the same read or in a later one."""
    coding, compress = CODINGS[name]
    body = compress(TEXT)
    assert decoded(coding, [body + tail]) == TEXT
    assert decoded(coding, [body, tail, tail]) == TEXT


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_damaged_body_ends_the_output_for_good(coding: str) -> None:
    """What comes after the damage is not decoded as if nothing had been."""
    decoder = Decoder(coding)
    assert list(decoder.feed(b"\x07 this was never compressed")) == []
    body = (gzip if coding == "gzip" else zlib).compress(TEXT)
    assert list(decoder.feed(body)) == []


@given(coding=st.sampled_from(["gzip", "deflate", ""]), reads=st.lists(st.binary(min_size=1)))
def test_no_bytes_break_the_decoder(coding: str, reads: list[bytes]) -> None:
    """Whatever comes under whatever name."""
    decoded(coding, reads)


@pytest.mark.parametrize("name", ["gzip", "zlib", "raw deflate", "gzip that is not declared"])
def test_a_bomb_goes_off_in_small_pieces(name: str) -> None:
    """Each piece is made when it is asked for, so that whoever reads can stop."""
    coding, compress = CODINGS[name]
    bomb = compress(bytes(50 * 2**20))
    assert len(bomb) < PIECE
    pieces = Decoder(coding).feed(bomb)
    assert [len(piece) for piece in itertools.islice(pieces, 3)] == [PIECE] * 3
    pieces.close()  # type: ignore[attr-defined]


def test_many_members_in_one_read_are_all_decoded() -> None:
    """An empty one among them is no end."""
    members = [gzip.compress(b"%d," % number if number % 3 else b"") for number in range(500)]
    expected = b"".join(b"%d," % number for number in range(500) if number % 3)
    assert decoded("gzip", [b"".join(members)]) == expected
