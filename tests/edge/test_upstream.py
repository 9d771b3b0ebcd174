"""The outgoing side: what is sent, what is kept, what is never done. Against raw servers."""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from edge.loopback import HOST, Pairs, Play, made, raw_server, read_request
from proxy.answer import Answer, UpstreamFault, retry_after
from proxy.core.fault import Fault
from proxy.origin import BadTargetError
from proxy.upstream import Upstream

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextlib.asynccontextmanager
async def opened(base: str, **values: object) -> AsyncIterator[Upstream]:
    """Open the outgoing side for a base URL."""
    upstream = Upstream(made(upstream=base, **values))
    try:
        yield upstream
    finally:
        await upstream.close()


async def call(
    upstream: Upstream,
    target: str = "/models",
    headers: Pairs | None = None,
    method: str = "GET",
    body: bytes | AsyncIterator[bytes] | None = None,
) -> Answer:
    """Send one request."""
    return await upstream.open(method, target, CIMultiDict(headers or []), body)


async def whole(answer: Answer) -> bytes:
    """Read an answer to its end."""
    body = b""
    while data := await answer.read():
        body += data
    return body


def answering(answer: bytes, seen: list[bytes]) -> Play:
    """Play a server that gives each request the same answer."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await read_request(reader))
            writer.write(answer)

    return play


# --- targets ----------------------------------------------------------------------------

BASES = ["https://api.openai.com/v1", "http://[::1]:9/a%2Fb/../c", "http://x.example"]
TARGETS = st.text(st.sampled_from("/%2eF.?&=#@:\\ \t\r\n\0;[]\x7f\u00e9\U0001f600ab"), max_size=12)


@pytest.mark.parametrize("base", BASES)
async def test_a_url_is_base_and_target_or_there_is_none(base: str) -> None:
    """Byte for byte, whatever the target; and never at another origin."""
    async with opened(base) as upstream:

        @given(target=TARGETS | TARGETS.map("/".__add__) | st.text(max_size=20))
        def check(target: str) -> None:
            try:
                url = upstream.url(target)
            except BadTargetError:
                return
            assert url.origin() == URL(base).origin()
            assert f"{url.origin()}{url.raw_path_qs}" in {base + target, base + "/"}
            assert url.user is None
            assert url.raw_fragment == ""

        check()


@pytest.mark.parametrize(
    "target",
    [
        "/chat/completions",
        "/x?a=%2F%00;b&&=",
        "/%2e%2e/x",
        "/../x",
        "//x",
        "/ft:m:o::1",
        "",
        "?a=b",
    ],
)
async def test_the_request_line_is_prefix_and_target(target: str) -> None:
    """What the server reads is what was asked for, undecoded and not tidied up."""
    seen: list[bytes] = []
    async with (
        raw_server(answering(OK, seen)) as port,
        opened(f"http://{HOST}:{port}/pre%2Ffix") as upstream,
    ):
        await whole(await call(upstream, target))
    assert seen[0].split(b"\r\n")[0] == f"GET /pre%2Ffix{target} HTTP/1.1".encode()


@pytest.mark.parametrize("target", ["/a#b", "/#", "/a\r\nX: y", "/a\tb", "@evil.example/", ":9/x"])
async def test_a_target_that_cannot_be_sent_as_it_is_is_not_sent(target: str) -> None:
    """Not mended: refused, before any connection."""
    async with opened("http://x.example") as upstream:
        with pytest.raises(BadTargetError):
            await call(upstream, target)


# --- what is sent -----------------------------------------------------------------------


async def test_nothing_is_sent_but_what_was_given_and_the_host() -> None:
    """No User-Agent, Accept or Accept-Encoding of a library's; order and repetitions stay."""
    seen: list[bytes] = []
    async with (
        raw_server(answering(OK, seen)) as port,
        opened(f"http://{HOST}:{port}/v1") as upstream,
    ):
        headers = [("X-B", "1"), ("x-a", "2"), ("X-B", "3"), ("Authorization", "Bearer k")]
        await whole(await call(upstream, "/x", headers))
        await whole(await call(upstream, "/x", [("Content-Type", "a/b")], "POST", b'{"a": 1}'))
    host = b"Host: %b:%d\r\n" % (HOST.encode(), port)
    lines = b"X-B: 1\r\nx-a: 2\r\nX-B: 3\r\nAuthorization: Bearer k\r\n\r\n"
    assert seen[0] == b"GET /v1/x HTTP/1.1\r\n" + host + lines
    lines = b'Content-Type: a/b\r\nContent-Length: 8\r\n\r\n{"a": 1}'
    assert seen[1] == b"POST /v1/x HTTP/1.1\r\n" + host + lines


async def test_a_body_without_a_length_is_sent_as_it_comes() -> None:
    """In chunks, before its end is known."""
    first = asyncio.Event()
    body = b""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal body
        assert b"chunked" in await reader.readuntil(b"\r\n\r\n")
        body += await reader.readexactly(len(b"3\r\none\r\n"))
        first.set()
        body += await reader.readuntil(b"0\r\n\r\n")
        writer.write(OK)

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        await first.wait()
        yield b"two"

    async with raw_server(play) as port, opened(f"http://{HOST}:{port}") as upstream:
        await whole(await call(upstream, "/x", method="POST", body=parts()))
    assert body == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


async def test_a_cookie_of_one_call_is_never_sent_in_another() -> None:
    """Two callers share the proxy, not an identity."""
    seen: list[bytes] = []
    answer = OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: __cf_bm=secret; Path=/\r\n\r\n")
    async with (
        raw_server(answering(answer, seen)) as port,
        opened(f"http://{HOST}:{port}") as upstream,
    ):
        for _ in range(2):
            await whole(await call(upstream))
    assert len(seen) == 2
    assert b"cookie" not in seen[1].lower()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    """The key would go along with it."""
    elsewhere: list[bytes] = []
    seen: list[bytes] = []
    async with raw_server(answering(OK, elsewhere)) as other:
        head = f"HTTP/1.1 {status} Go\r\nLocation: http://{HOST}:{other}/x\r\n"
        moved = head.encode() + b"Content-Length: 0\r\n\r\n"
        async with (
            raw_server(answering(moved, seen)) as port,
            opened(f"http://{HOST}:{port}") as upstream,
        ):
            answer = await call(upstream, method="POST", body=b"{}")
            assert answer.status == status
            assert answer.headers["Location"].endswith(f":{other}/x")
    assert (len(seen), elsewhere) == (1, [])


async def test_proxies_and_passwords_of_the_environment_are_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither HTTP_PROXY and its like nor a netrc file has a say."""
    canary: list[bytes] = []
    seen: list[bytes] = []
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {HOST} login a password b", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with (
        raw_server(answering(OK, canary)) as trap,
        raw_server(answering(OK, seen)) as port,
    ):
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://{HOST}:{trap}")
            monkeypatch.setenv(name.upper(), f"http://{HOST}:{trap}")
        async with opened(f"http://{HOST}:{port}") as upstream:
            await whole(await call(upstream))
    assert (len(seen), canary) == (1, [])
    assert b"authorization" not in seen[0].lower()


# --- what comes back --------------------------------------------------------------------


async def test_a_connection_is_used_again_after_a_whole_answer() -> None:
    """One connection for one call after the other."""
    connections = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await answering(OK, [])(reader, writer)

    async with raw_server(play) as port, opened(f"http://{HOST}:{port}") as upstream:
        for _ in range(3):
            answer = await call(upstream)
            assert await whole(answer) == b"ok"
            answer.close()
    assert connections == 1


async def test_a_repeated_call_has_a_connection_of_its_own() -> None:
    """Where one idle connection died, the others may have as well."""
    connections = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await answering(OK, [])(reader, writer)

    async with raw_server(play) as port, opened(f"http://{HOST}:{port}") as upstream:
        for fresh in (False, True, True, False):
            headers: CIMultiDict[str] = CIMultiDict()
            answer = await upstream.open("GET", "/models", headers, None, fresh=fresh)
            assert await whole(answer) == b"ok"
    assert connections == 3


async def test_an_answer_that_is_closed_early_closes_its_connection() -> None:
    """The upstream sees the end of it, and the bytes that were under way are not kept."""
    left = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        left.set()

    async with raw_server(play) as port, opened(f"http://{HOST}:{port}") as upstream:
        answer = await call(upstream)
        assert await answer.read() == b"a"
        answer.close()
        await left.wait()


async def test_a_compressed_body_comes_as_it_was_sent() -> None:
    """Decoding is not done here: what is no stream passes unchanged."""
    body = zlib.compress(b"x" * 1000)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: {len(body)}\r\n\r\n"
    async with (
        raw_server(answering(head.encode() + body, [])) as port,
        opened(f"http://{HOST}:{port}") as upstream,
    ):
        assert await whole(await call(upstream)) == body


@pytest.mark.parametrize("interim", ["100 Continue", "103 Early Hints\r\nLink: </x>"])
async def test_an_interim_answer_is_not_the_answer(interim: str) -> None:
    """It is passed over; what counts comes after it."""
    answer = f"HTTP/1.1 {interim}\r\n\r\n".encode() + OK
    async with (
        raw_server(answering(answer, [])) as port,
        opened(f"http://{HOST}:{port}") as upstream,
    ):
        assert (await call(upstream)).status == 200


@pytest.mark.parametrize("headers", ["", "Upgrade: websocket\r\nConnection: upgrade\r\n"])
async def test_a_switch_of_protocols_that_nobody_asked_for_is_a_fault(headers: str) -> None:
    """A 101 is never given on."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(f"HTTP/1.1 101 Go\r\n{headers}\r\nraw".encode())
        await writer.drain()

    async with raw_server(play) as port, opened(f"http://{HOST}:{port}") as upstream:
        with pytest.raises(UpstreamFault) as caught:
            await call(upstream)
    assert (caught.value.fault, caught.value.stale) == (Fault.RESET, False)


async def test_a_deadline_that_passes_loses_nothing() -> None:
    """The read is given up, not the bytes; a later read goes on."""
    go = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        await go.wait()
        writer.write(b"cd")

    async with raw_server(play) as port, opened(f"http://{HOST}:{port}") as upstream:
        answer = await call(upstream)
        assert await answer.read() == b"ab"
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await answer.read(asyncio.get_running_loop().time() + 0.001)
        go.set()
        assert await whole(answer) == b"cd"


async def test_the_head_of_a_body_is_read_by_size_or_by_time() -> None:
    """Whichever comes first; at the end of the body there is no waiting."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        if await reader.read(1):
            writer.write(b"never")

    async with raw_server(play) as port, opened(f"http://{HOST}:{port}") as upstream:
        answer = await call(upstream)
        assert await answer.read_head(2, 3600) == b"abc"
        assert await answer.read_head(5, 0.001) == b""
        answer.close()
    async with (
        raw_server(answering(OK, [])) as port,
        opened(f"http://{HOST}:{port}") as upstream,
    ):
        assert await (await call(upstream)).read_head(1000, 3600) == b"ok"


# --- Retry-After ------------------------------------------------------------------------


def wait_asked(**headers: str) -> float | None:
    """Read the wait that headers ask for."""
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return retry_after(CIMultiDictProxy(CIMultiDict(pairs)))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        ("1.5", 1.5),
        (" 7 ", 7),
        ("-7", 0),
        ("1e3", 1000),
        ("99999999999", 99_999_999_999),
        ("inf", float("inf")),
        ("nan", None),
        ("", None),
        ("soon", None),
        ("0x10", None),
        ("7s", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:00", 0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ("Mon, 99999999999999999999 Jan 2020 00:00:00 GMT", None),
        ("Mon, 01 Jan 2020 00:00:00 +99999999999999", None),
    ],
)
def test_retry_after_is_read_as_the_sdks_read_it(value: str, seconds: float | None) -> None:
    """Seconds, a date, or nothing that could be slept; never less than none."""
    assert wait_asked(retry_after=value) == seconds


def test_a_date_to_come_is_the_seconds_until_then() -> None:
    """To the second, since dates have no more."""
    when = format_datetime(datetime.fromtimestamp(time.time() + 3600, UTC), usegmt=True)
    assert wait_asked(retry_after=when) == pytest.approx(3600, abs=60)


@pytest.mark.parametrize(
    ("milliseconds", "seconds"), [("1500", 1.5), ("0", 0), ("-1", 0), ("nan", 7), ("soon", 7)]
)
def test_milliseconds_come_before_seconds(milliseconds: str, seconds: float) -> None:
    """If they can be read; else the seconds count."""
    assert wait_asked(retry_after_ms=milliseconds, retry_after="7") == seconds


def test_no_header_is_no_wish() -> None:
    """None is told from zero."""
    assert wait_asked() is None


@given(
    value=st.text() | st.datetimes().map(str) | st.from_regex(r"\w{3}, \d+ Jan \d+ \d+:\d+ [+-]\d+")
)
def test_no_retry_after_breaks_anything(value: str) -> None:
    """Whatever an upstream writes there."""
    for wait in (wait_asked(retry_after=value), wait_asked(retry_after_ms=value)):
        assert wait is None or wait >= 0


async def test_an_answer_tells_what_it_asks_for() -> None:
    """The wait is read from the answer's own headers."""
    busy = b"HTTP/1.1 429 Busy\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n"
    async with (
        raw_server(answering(busy, [])) as port,
        opened(f"http://{HOST}:{port}") as upstream,
    ):
        answer = await call(upstream)
        assert (answer.status, answer.retry_after_s) == (429, 3.0)
