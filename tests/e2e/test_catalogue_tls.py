"""Catalogue: TLS that ends without saying so. Only the answer itself tells whether it is whole."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import trustme

from e2e.child import QUICK, Metrics, Proxy, eventually, idle
from e2e.conftest import Starter
from e2e.stage import Exchange
from e2e.wire import check_complete, check_failed, stream
from proxy.demo.answers import Asked
from proxy.demo.bodies import stream_for

FRAMINGS = {
    "chunked": b"Transfer-Encoding: chunked\r\n",
    "length": b"Content-Length: %d\r\n",
    "close": b"Connection: close\r\n",
}
STREAM = stream_for(Asked(model="tls"), 1)
WHOLE = b"".join(STREAM.events)
CUT = b"".join(STREAM.given(3))
HALF = CUT + STREAM.content[3][:30]


class Secured:
    """An upstream that speaks TLS and says the same to everyone, until it is told otherwise.

    ``told`` says whether TLS is ended before TCP is (``close_notify``, RFC 8446, 6.1).
    """

    def __init__(self) -> None:
        """Say nothing."""
        self.answer = b""
        self.told = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request on a connection of its own."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await Exchange(await reader.readuntil(b"\r\n\r\n"), reader, writer).body()
            writer.write(self.answer)
            await writer.drain()
        # To abort ends TCP alone: all was written, and all that came was read.
        writer.close() if self.told else writer.transport.abort()


@pytest_asyncio.fixture(name="secured", scope="module", loop_scope="session")
async def _secured(
    started: Starter, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Proxy, Secured]]:
    """Return an upstream behind TLS, and the proxy in front of it that trusts it."""
    authority, upstream = trustme.CA(), Secured()
    bundle: Path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with server:
        flags = (*QUICK, "--ca-bundle", str(bundle))
        yield await started(f"https://127.0.0.1:{port}/v1", *flags), upstream


def answer(framing: str, body: bytes, *, last: bool = True) -> bytes:
    """Write an answer with a body; without its ``last`` chunk, or short of its length."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + FRAMINGS[framing]
    if framing == "chunked":
        return head + b"\r\n%x\r\n%b\r\n" % (len(body), body) + (b"0\r\n\r\n" if last else b"")
    if framing == "length":
        head = head % (len(body) if last else len(WHOLE) + 1)
    return head + b"\r\n" + body


async def counted(proxy: Proxy, before: Metrics, incidents: dict[tuple[str, ...], float]) -> None:
    """Wait until a stream is counted, with these incidents."""

    async def check() -> None:
        after = (await idle(proxy)).since(before)
        assert after.incidents == incidents

    await eventually(check)


@pytest.mark.parametrize("body", [CUT, HALF], ids=["between events", "inside of one"])
@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_cut_of_tls_is_a_cut(
    secured: tuple[Proxy, Secured], framing: str, body: bytes
) -> None:
    """All whole events, then one honest error; half an event is never given."""
    proxy, upstream = secured
    upstream.answer, upstream.told = answer(framing, body, last=False), False
    before = await idle(proxy)
    got = await stream(proxy.port, "tls")
    assert check_failed(got)["code"] == "stream_incomplete"
    assert got.body.startswith(CUT)
    assert len(got.events) == CUT.count(b"\n\n") + 1
    # What only the close delimits ends properly, as far as HTTP can tell.
    end = "clean_eof" if framing == "close" else "cut_between_events"
    fault = end if body == CUT else "cut_mid_event"
    await counted(proxy, before, {(fault, "mid_content", "surfaced"): 1.0})


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_cut_of_tls_before_content_is_asked_again(
    secured: tuple[Proxy, Secured], framing: str
) -> None:
    """As any cut; three attempts here, as it never ends well."""
    proxy, upstream = secured
    opening = b"".join(STREAM.opening)
    upstream.answer, upstream.told = answer(framing, opening, last=False), False
    before = await idle(proxy)
    got = await stream(proxy.port, "tls")
    assert (got.status, got.error["code"]) == (502, "stream_incomplete")
    fault = "clean_eof" if framing == "close" else "cut_between_events"
    restarted, surfaced = ((fault, "before_content", how) for how in ("restarted", "surfaced"))
    await counted(proxy, before, {restarted: 2.0, surfaced: 1.0})


@pytest.mark.parametrize("told", [True, False], ids=["close_notify", "none"])
@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_whole_answer_is_whole_however_tls_ends(
    secured: tuple[Proxy, Secured],
    framing: str,
    told: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """Nothing is counted."""
    proxy, upstream = secured
    upstream.answer, upstream.told = answer(framing, WHOLE), told
    before = await idle(proxy)
    got = await stream(proxy.port, "tls")
    check_complete(got)
    assert got.body == WHOLE
    await counted(proxy, before, {})


@pytest.mark.parametrize("framing", ["chunked", "length"])
async def test_a_cut_of_tls_behind_the_answer_matters_to_nobody(
    secured: tuple[Proxy, Secured], framing: str
) -> None:
    """It is counted as swallowed, if it is seen at all."""
    proxy, upstream = secured
    upstream.answer, upstream.told = answer(framing, WHOLE, last=False), False
    before = await idle(proxy)
    got = await stream(proxy.port, "tls")
    check_complete(got)
    assert got.body == WHOLE
    await counted(proxy, before, {("cut_between_events", "after_terminal", "swallowed"): 1.0})
