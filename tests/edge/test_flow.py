"""The hot path: a read that is one chunk with one event is passed on as it is, any other is parsed.

Both come to the same, of which ``test_flow_splits`` has every way to cut a stream. How a flow
ends is in ``test_flow_ends``.
"""

from __future__ import annotations

import gzip
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from e2e.wire import Reply
from support import DONE, HI, ROLE, STOP, chunk, sse

from edge.flowing import LAST, Rig, heard, http, on, rigged, without_lane
from edge.loopback import HOST, LOOPS, until

on_both_loops = pytest.mark.parametrize("loop", LOOPS)

OPENERS = (HI, HI, HI)
SAID = sse(chunk(content="The ferry leaves at nine, from pier four."))
ENDING = (http(sse(STOP)), http(DONE), LAST)


def sized(size: int) -> bytes:
    """Write an event of so many bytes."""
    least = len(sse({"choices": [{"delta": {"content": ""}}]}))
    event = sse({"choices": [{"delta": {"content": "x" * (size - least)}}]})
    assert len(event) == size
    return event


async def relayed(rig: Rig, *pieces: bytes, ends: bool = True) -> Reply:
    """Have reads relayed of a stream that is under way; it ends well, or with its connection."""
    async with rig.calling() as (client, upstream):
        await upstream.steady(*OPENERS)
        await upstream.reads(*pieces, *(ENDING if ends else ()))
        upstream.writer.close()
        return await heard(client)


# --- what is not parsed ---

SIZES = [0x31, 0xFF, 0x100, 0x101, 0xFFF, 0x1000, 0x1001, 5000, 0xFFFF, 0x10000, 70_000]


@on_both_loops
@pytest.mark.parametrize("size", SIZES, ids=hex)
def test_a_read_that_is_one_chunk_with_one_event_is_passed_on_as_it_is(
    loop: str, size: int
) -> None:
    """Whatever the number of digits of its size."""

    async def work() -> None:
        async with rigged() as rig, rig.calling() as (client, upstream):
            await upstream.steady(*OPENERS)
            rig.parsed.clear()
            await upstream.reads(http(sized(size)), http(SAID), http(sized(size)))
            assert rig.parsed == []
            await upstream.reads(*ENDING)
            reply = await heard(client)
        assert reply.body == sse(*OPENERS) + sized(size) + SAID + sized(size) + sse(STOP) + DONE
        assert reply.chunks.count(sized(size)) == 2
        assert reply.end == "clean"

    on(loop, work())


@on_both_loops
def test_what_is_no_ordinary_event_is_parsed_and_the_next_one_is_not(loop: str) -> None:
    """A comment, a named event, raw separators: each is mended, and the stream goes on."""
    odd = [
        b": keepalive\n\n",
        sse(HI, name="message"),
        b'data: {"choices":[{"delta":{"content":"\xe2\x80\xa8"}}]}\n\n',
        SAID + SAID,
        b"data:" + SAID[6:],
    ]

    async def work() -> None:
        async with rigged() as rig, rig.calling() as (client, upstream):
            await upstream.steady(*OPENERS)
            for one in odd:
                rig.parsed.clear()
                await upstream.reads(http(one), http(SAID))
                assert rig.parsed == [http(one)]
            await upstream.reads(*ENDING)
            reply = await heard(client)
        separator = odd[2].replace(b"\xe2\x80\xa8", b"\\u2028")
        given = SAID + sse(HI) + SAID + separator + SAID + SAID * 3 + SAID * 2
        assert reply.body == sse(*OPENERS) + given + sse(STOP) + DONE

    on(loop, work())


@on_both_loops
def test_the_end_of_a_stream_is_parsed(loop: str) -> None:
    """Its finish reason ends the flow."""

    async def work() -> None:
        async with rigged() as rig, rig.calling() as (client, upstream):
            await upstream.steady(*OPENERS)
            rig.parsed.clear()
            await upstream.reads(http(SAID), *ENDING)
            assert rig.parsed[:1] == [http(sse(STOP))]
            assert (await heard(client)).end == "clean"

    on(loop, work())


# --- what looks like one chunk, and is none ---

CHUNK = http(SAID)
LINE = CHUNK.index(b"\n") + 1
SIZE = CHUNK[: LINE - 2]
INNER = http(b"data: " + CHUNK + b"\n\n")
SHAPES: dict[str, list[bytes]] = {
    "two chunks": [CHUNK + CHUNK],
    "one and a half": [CHUNK + CHUNK[:30], CHUNK[30:]],
    "half a chunk": [CHUNK[:30], CHUNK[30:]],
    "a part of the size": [CHUNK[:1], CHUNK[1:]],
    "no line end": [SIZE, CHUNK[len(SIZE) :]],
    "half a line end": [CHUNK[: LINE - 1], CHUNK[LINE - 1 :]],
    "the size alone": [CHUNK[:LINE], CHUNK[LINE:]],
    "all but the last line end": [CHUNK[:-2], CHUNK[-2:]],
    "half of the last line end": [CHUNK[:-1], CHUNK[-1:]],
    "the last line end with the next chunk": [CHUNK[:-2], CHUNK[-2:] + CHUNK],
    "upper case": [SIZE.upper() + CHUNK[len(SIZE) :]],
    "zeros": [b"000" + CHUNK],
    "one zero": [b"0" + CHUNK],
    "an extension": [SIZE + b";a=b" + CHUNK[len(SIZE) :]],
    "a quoted extension": [SIZE + b';a="b\\"c"' + CHUNK[len(SIZE) :]],
    "a space": [SIZE + b" " + CHUNK[len(SIZE) :]],
    "line feeds alone": [CHUNK.replace(b"\r\n", b"\n")],
    "a line feed behind the size": [CHUNK.replace(b"\r\n", b"\n", 1)],
    "an event in two chunks": [http(SAID[:30]) + http(SAID[30:])],
    "an event in two chunks and reads": [http(SAID[:30]), http(SAID[30:])],
    "an event without its blank line": [http(SAID[:-1]), http(SAID[-1:])],
    "events in one chunk": [http(SAID + SAID)],
    "CRLF": [http(SAID.replace(b"\n", b"\r\n"))],
    "CRLF in two chunks": [http(SAID[:-1] + b"\r"), http(b"\n" + SAID)],
    "a chunk inside of a chunk": [INNER],
    "a chunk inside of a chunk in three reads": [INNER[: -len(CHUNK) - 4], CHUNK, b"\n\n\r\n"],
    "a chunk as data": [http(CHUNK)[:4], CHUNK, b"\r\n"],
    "a carriage return in the JSON": [http(SAID.replace(b", ", b",\r", 1))],
    "a byte": [http(b"\n")],
    "the smallest event": [http(b"data: 1\n\n")],
    "an event without data": [http(b"data: \n\n"), http(b"data:\n\n")],
    "as long as an event's frame": [http(b"data: \n")],
}
"""Reads, and what they hold, in all of which the proxy has to see what the parser sees."""


@on_both_loops
@pytest.mark.parametrize("shape", SHAPES)
def test_any_other_read_comes_out_as_if_all_were_parsed(loop: str, shape: str) -> None:
    """And what comes behind it as well."""
    pieces = [CHUNK, *SHAPES[shape], CHUNK, CHUNK]

    async def work() -> None:
        async with rigged() as rig:
            reply = await relayed(rig, *pieces)
            with without_lane():
                plain = await relayed(rig, *pieces)
        assert (reply.body, reply.end, reply.status) == (plain.body, plain.end, 200)
        assert reply.body.startswith(sse(*OPENERS) + SAID)
        assert reply.events

    on(loop, work())


ODD = ("a carriage", "a chunk", "a line feed", "line feeds", "the smallest", "as long as")
WHOLE = [shape for shape in SHAPES if not shape.startswith(ODD)]


@pytest.mark.parametrize("shape", WHOLE)
def test_of_what_http_allows_nothing_is_lost(shape: str) -> None:
    """Neither an event nor the end; only what no client could use is left out."""

    async def work() -> None:
        async with rigged() as rig:
            reply = await relayed(rig, CHUNK, *SHAPES[shape], CHUNK, CHUNK)
        said = b"".join(SHAPES[shape]).count(b"pier four")
        assert reply.body == sse(*OPENERS) + SAID * (said + 3) + sse(STOP) + DONE
        assert reply.end == "clean"

    on("uvloop", work())


LIES: dict[str, list[bytes]] = {
    "too large by one": [http(SAID + b" ")[:LINE] + SAID + b"\r\n"],
    "much too large": [b"fff\r\n" + SAID + b"\r\n"],
    "too large by the line end": [b"%x\r\n%b\r\n" % (len(SAID) + 2, SAID)],
    "too small by one": [b"%x\r\n%b\r\n" % (len(SAID) - 1, SAID)],
    "too small by a line end": [b"%x\r\n%b\r\n" % (len(SAID) - 2, SAID)],
    "the first digit came before": [b"1", CHUNK],
    "no size": [b"\r\n" + SAID + b"\r\n"],
    "a negative size": [b"-1\r\n" + SAID + b"\r\n"],
    "a size with a prefix": [b"0x" + CHUNK],
    "a size that is no number": [b"xy" + CHUNK[2:]],
    "no chunk": [SAID],
    "no chunk but its end": [SAID + b"\r\n"],
    "a missing line end": [CHUNK[:-2] + CHUNK],
}
"""Chunks that are none. They end the stream with a fault, sooner or later."""


@on_both_loops
@pytest.mark.parametrize("lie", LIES)
def test_a_chunk_that_is_none_is_a_fault_and_never_an_event(loop: str, lie: str) -> None:
    """The same fault, behind the same events, as where everything is parsed."""
    pieces = [CHUNK, *LIES[lie], CHUNK, CHUNK]

    async def work() -> None:
        async with rigged() as rig:
            reply = await relayed(rig, *pieces, ends=False)
            with without_lane():
                plain = await relayed(rig, *pieces, ends=False)
        assert (reply.body, reply.end) == (plain.body, "clean")
        assert reply.body.startswith(sse(*OPENERS) + SAID)
        assert b'"code":"stream_incomplete"' in reply.payloads[-1]
        assert set(reply.payloads[3:-1]) == {SAID[6:-2]}

    on(loop, work())


ENDINGS = {
    "at once": [http(sse(STOP)) + http(DONE) + LAST],
    "the last chunk alone": [http(sse(STOP) + DONE), LAST],
    "the last chunk in parts": [http(sse(STOP) + DONE), b"0", b"\r\n", b"\r", b"\n"],
    "trailers": [http(sse(STOP)), http(DONE) + b"0\r\nX-A: 1\r\nX-B: 2\r\n\r\n"],
    "trailers in parts": [http(sse(STOP) + DONE), b"0\r\nX-A: 1\r\n", b"X-B: 2\r\n", b"\r\n"],
    "zeros": [http(sse(STOP) + DONE), b"000\r\n\r\n"],
}


@on_both_loops
@pytest.mark.parametrize("ending", ENDINGS)
def test_the_last_chunk_ends_the_body_however_it_is_written(loop: str, ending: str) -> None:
    """And the connection can be used again."""

    async def work() -> None:
        async with rigged() as rig, rig.calling() as (client, upstream):
            await upstream.steady(*OPENERS)
            await upstream.reads(CHUNK, *ENDINGS[ending])
            reply = await heard(client)
            assert (reply.body, reply.end) == (sse(*OPENERS) + SAID + sse(STOP) + DONE, "clean")
            assert upstream.wire.idle

    on(loop, work())


@on_both_loops
@pytest.mark.parametrize("end", [LAST, b"0\r\nX-A: 1\r\n\r\n", b""], ids=["last", "trailer", "cut"])
def test_a_body_that_ends_without_a_terminal_event_is_not_whole(loop: str, end: bytes) -> None:
    """However well HTTP has it."""

    async def work() -> None:
        async with rigged() as rig:
            reply = await relayed(rig, CHUNK, CHUNK, *([end] if end else []), ends=False)
        assert reply.body.startswith(sse(*OPENERS) + SAID * 2 + b'data: {"error":')
        assert reply.end == "clean"

    on(loop, work())


# --- bodies without chunks, clients without chunks, and other bytes on the wire ---

WORDS = [SAID, SAID + SAID, SAID[:30], SAID[30:], sse(STOP) + DONE]
BODY = sse(ROLE, HI) + b"".join(WORDS)
LENGTH = ("Content-Length", str(len(BODY)))
CHUNKED = ("Transfer-Encoding", "chunked")
FRAMINGS: dict[str, tuple[tuple[str, str], Callable[[bytes], bytes]]] = {
    "chunked": (CHUNKED, http),
    "length": (LENGTH, bytes),
    "close": (("Connection", "close"), bytes),
}


async def framed(rig: Rig, framing: str, version: str = "HTTP/1.1") -> Reply:
    """Have a whole stream relayed, whose body ends as the framing has it."""
    header, write = FRAMINGS[framing]
    async with rig.calling(version) as (client, upstream):
        await upstream.begin(header)
        await upstream.reads(*map(write, [sse(ROLE, HI), *WORDS]))
        upstream.writer.write(LAST if framing == "chunked" else b"")
        upstream.writer.close()
        return await heard(client)


@on_both_loops
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_stream_is_whole_whatever_delimits_it_on_either_side(
    loop: str, framing: str, version: str
) -> None:
    """A client of HTTP/1.0 gets no chunks, an upstream may send none."""

    async def work() -> None:
        async with rigged() as rig:
            reply = await framed(rig, framing, version)
        assert reply.body == BODY
        assert reply.end == ("clean" if version == "HTTP/1.1" else "fin")
        assert reply.headers("transfer-encoding") == ["chunked"] * (version == "HTTP/1.1")

    on(loop, work())


@on_both_loops
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_each_is_pushed_and_chunks_to_chunks_alone_have_a_lane(
    loop: str, framing: str, version: str
) -> None:
    """Without a lane the connection is told of each read all the same."""
    header, write = FRAMINGS[framing]

    async def work() -> None:
        async with rigged() as rig, rig.calling(version) as (client, upstream):
            await upstream.begin(header)
            await upstream.reads(write(sse(ROLE, HI)))
            await until(lambda: upstream.wire.sink is not None)
            assert ("data_received" in vars(upstream.wire)) == (version == "HTTP/1.1")
            await upstream.reads(*[write(SAID)] * 3)
            assert len(rig.parsed) == {
                ("chunked", "HTTP/1.1"): 1,
                ("length", "HTTP/1.1"): 3,
                ("close", "HTTP/1.1"): 3,
            }.get((framing, version), 0)
            await client.leave()

    on(loop, work())


@on_both_loops
def test_a_body_without_chunks_may_look_like_chunks(loop: str) -> None:
    """Its bytes are never taken for HTTP's: as events they are none."""

    async def work() -> None:
        async with rigged() as rig, rig.calling() as (client, upstream):
            await upstream.begin(("Connection", "close"))
            await upstream.reads(sse(HI), sse(HI), CHUNK, CHUNK, CHUNK, sse(HI, STOP) + DONE)
            upstream.writer.close()
            reply = await heard(client)
        assert reply.body.startswith(sse(HI, HI))
        assert SIZE not in reply.body
        assert reply.events

    on(loop, work())


@on_both_loops
def test_a_compressed_stream_is_whole_as_well(loop: str) -> None:
    """It is decoded, and so each read of it looked at."""
    packed = gzip.compress(BODY)

    async def work() -> None:
        async with rigged() as rig, rig.calling() as (client, upstream):
            await upstream.begin(CHUNKED, ("Content-Encoding", "gzip"))
            await upstream.reads(http(packed[:60]), http(packed[60:99]), http(packed[99:]))
            await upstream.reads(LAST)
            reply = await heard(client)
        assert (reply.body, reply.end, rig.parsed) == (BODY, "clean", [])

    on(loop, work())


@on_both_loops
def test_a_stream_that_is_compressed_unasked_is_whole_as_well(loop: str) -> None:
    """Also where the client has its headers before the first byte shows it."""
    packed = gzip.compress(BODY)

    async def work() -> None:
        async with (
            rigged(commit_after_s=0.01) as rig,
            rig.calling() as (client, upstream),
        ):
            await upstream.begin()
            reply = await client.head()
            assert reply.status == 200
            await upstream.reads(http(packed[:60]), http(packed[60:]), LAST)
            reply = await client.rest(reply)
        assert (reply.body, reply.end) == (BODY, "clean")

    on(loop, work())


@on_both_loops
@pytest.mark.parametrize("framing", FRAMINGS)
def test_behind_tls_all_is_as_it_is_without(loop: str, framing: str, tmp_path: Path) -> None:
    """Reads are what TLS gives, and those that are one chunk are passed on as they are."""
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))

    async def work() -> None:
        async with rigged(tls=context, ca_bundle=bundle) as rig:
            reply = await framed(rig, framing)
            assert (reply.body, reply.end) == (BODY, "clean")
            async with rig.calling() as (client, upstream):
                await upstream.steady(*OPENERS)
                rig.parsed.clear()
                await upstream.reads(CHUNK, http(sized(5000)), CHUNK)
                assert rig.parsed == []
                await upstream.reads(*ENDING)
                again: Any = await heard(client)
        given = sse(*OPENERS) + SAID + sized(5000) + SAID + sse(STOP) + DONE
        assert (again.body, again.end) == (given, "clean")

    on(loop, work())
