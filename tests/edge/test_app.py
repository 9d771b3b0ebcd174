"""One process: its two listeners, what it refuses to start with, and requests through it all.

How streams, drains and bugs look from outside is tested end to end, in ``tests/e2e``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest

from edge.loopback import (
    HOST,
    Got,
    ask,
    made,
    raw_server,
    read_answer,
    read_request,
    talk,
    until,
)
from proxy.app import App, describe
from proxy.listening import refuse_self
from proxy.settings import SettingsError
from proxy.version import __version__

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok"
ORIGIN = "http://app.example"


@contextlib.asynccontextmanager
async def running(**values: object) -> AsyncIterator[App]:
    """Run the proxy on free ports."""
    app = App(made(**{"port": 0, "admin_port": 0, **values}))
    try:
        await app.start()
        yield app
    finally:
        await app.close()


@contextlib.asynccontextmanager
async def in_front(
    seen: list[bytes], prefix: str = "/base", **values: object
) -> AsyncIterator[App]:
    """Run the proxy in front of an upstream that notes what it gets."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await read_request(reader))
            writer.write(OK)

    async with (
        raw_server(play) as port,
        running(upstream=f"http://{HOST}:{port}{prefix}", **values) as app,
    ):
        yield app


def get(target: str, *lines: str, method: str = "GET") -> bytes:
    """Write a request."""
    wanted = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *lines, "", ""]
    return "\r\n".join(wanted).encode("latin-1")


def error_of(got: Got) -> tuple[int, str, str]:
    """Return status, code and message of an error in OpenAI's shape."""
    error = json.loads(got.body)["error"]
    return got.status, error["code"], error["message"]


# --- what it does not start with --------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"])  # noqa: S104 - called, not bound to
@pytest.mark.parametrize("listening", ["127.0.0.1", "localhost", "0.0.0.0"])  # noqa: S104 - as well
@pytest.mark.parametrize("setting", ["host", "admin_host"])
def test_an_upstream_that_is_the_proxy_itself_is_refused(
    host: str, listening: str, setting: str
) -> None:
    """By any of the names of this machine, on either listener."""
    port = setting.replace("host", "port")
    values = {setting: listening, port: 9999, "upstream": f"http://{host}:9999/v1"}
    with pytest.raises(SettingsError, match=r"^upstream: points at this proxy itself"):
        refuse_self(made(**values))


@pytest.mark.parametrize("listening", ["::1", "::"])
@pytest.mark.parametrize("host", ["[::1]", "[::]"])
def test_an_upstream_that_is_the_proxy_itself_is_refused_on_ipv6(host: str, listening: str) -> None:
    """With the wildcard on either side as well."""
    with contextlib.closing(socket.socket(socket.AF_INET6)) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
    with pytest.raises(SettingsError, match=r"^upstream: points at this proxy itself"):
        refuse_self(made(host=listening, port=9999, upstream=f"http://{host}:9999/v1"))


def test_every_other_upstream_is_looked_at_as_well() -> None:
    """A loop through a fallback is one; the entry is named."""
    entries = [
        {"name": "fine", "base_url": "http://127.0.0.1:9998/v1"},
        {"name": "loop", "base_url": "http://localhost:9999/v1"},
    ]
    refuse_self(made(port=9999, upstreams=entries[:1]))
    with pytest.raises(SettingsError, match=r"^upstreams\.loop\.base_url: points at this proxy"):
        refuse_self(made(port=9999, upstreams=entries))


@pytest.mark.parametrize(
    ("listening", "upstream"),
    [
        ("127.0.0.1", "http://127.0.0.1:9998/v1"),
        ("127.0.0.1", "http://127.0.0.2:9999/v1"),
        ("0.0.0.0", "http://192.0.2.1:9999/v1"),  # noqa: S104 - nothing is bound to it
        ("127.0.0.1", "http://a..b:9999/v1"),
        ("127.0.0.1", "https://api.openai.com/v1"),
    ],
)
def test_any_other_upstream_is_none_of_its_business(listening: str, upstream: str) -> None:
    """Another port, another address; a name that cannot be found is told when it is called."""
    if ".." in upstream:
        with pytest.raises(ValueError, match="must be a base URL"):
            made(upstream=upstream)
        return
    refuse_self(made(host=listening, port=9999, upstream=upstream))


@pytest.mark.parametrize("setting", ["port", "admin_port"])
async def test_a_port_that_is_taken_is_named(setting: str) -> None:
    """With the address, the reason and the flag to choose another."""
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError) as caught:
            async with running(**{setting: port}):
                pytest.fail("started")
    flag = "--" + setting.replace("_", "-")
    expected = f"{setting}: cannot listen on {HOST}:{port} (Address already in use)"
    assert str(caught.value) == f"{expected}; choose another with {flag}"


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b", "x" * 70, "no such host", "256.1.1.1"])
@pytest.mark.parametrize("setting", ["host", "admin_host"])
async def test_an_address_that_is_not_ours_is_named(setting: str, host: str) -> None:
    """It is the host that is wrong, not the port."""
    with pytest.raises(SettingsError) as caught:
        async with running(**{setting: host}):
            pytest.fail("started")
    assert str(caught.value).startswith(f"{setting}: cannot listen on {host}:0 (")
    assert str(caught.value).endswith("choose another with --" + setting.replace("_", "-"))


# --- what it tells at the start ---------------------------------------------------------


async def test_the_start_tells_where_to_go() -> None:
    """With the ports that were really had."""
    async with running() as app:
        told = describe(app)
        api, admin = f"http://{HOST}:{app.port}", f"http://{HOST}:{app.admin_port}"
        assert told == {
            "version": __version__,
            "base_url": f"{api}/v1",
            "export": f"export OPENAI_BASE_URL={api}/v1",
            "metrics": f"{admin}/metrics",
            "admin": f"{admin}/api/incidents",
            "upstream": "https://api.openai.com/v1",
        }
        assert (await ask(app.admin_port, get("/healthz"))).status == 200


@pytest.mark.parametrize("target", ["/", "/chat/completions", "/v2/models", "/v1x", "/metrics"])
async def test_a_path_outside_is_told_the_base_url(target: str) -> None:
    """The usual mistake is a base URL without ``/v1``."""
    async with running() as app:
        status, code, message = error_of(await ask(app.port, get(target)))
        assert (status, code) == (404, "not_found")
        assert message.endswith(f"Set OPENAI_BASE_URL=http://{HOST}:{app.port}/v1")


# --- requests through it ----------------------------------------------------------------


@pytest.mark.parametrize(
    "rest",
    ["/models?a=%2F%00;b&&=", "/%2e%2e/x", "/../x", "//x", "/ft:m:o::1", "?a=b", "", "/a%5Cb@c"],
)
@pytest.mark.parametrize("prefix", ["/base", "/pre%2Ffix/x/..", "/v1"])
async def test_the_request_line_upstream_is_prefix_and_target(rest: str, prefix: str) -> None:
    """Byte for byte, through the gate and all."""
    seen: list[bytes] = []
    async with in_front(seen, prefix) as app:
        assert (await ask(app.port, get(f"/v1{rest}"))).body == b"ok"
    assert seen[0].split(b"\r\n")[0] == f"GET {prefix}{rest} HTTP/1.1".encode()


async def test_a_target_that_cannot_be_sent_on_as_it_is_is_refused() -> None:
    """A query right after the host cannot be written without a slash that nobody sent."""
    seen: list[bytes] = []
    async with in_front(seen, "") as app:
        status, code, _ = error_of(await ask(app.port, get("/v1?a=b")))
        assert (status, code, seen) == (400, "bad_request", [])
        assert (await ask(app.port, get("/v1/?a=b"))).status == 200


async def test_a_request_that_came_through_this_proxy_before_is_a_loop() -> None:
    """Also where other proxies were in between, and where Via comes in several lines."""
    seen: list[bytes] = []
    async with in_front(seen) as app:
        assert (await ask(app.port, get("/v1/x", "Via: 1.1 other"))).status == 200
        sent = seen[0].decode().split("Via: ")[1].split("\r\n")[0]
        assert sent.startswith("1.1 other, 1.1 wholestream-")
        for lines in ([f"Via: {sent}, 1.1 next"], ["Via: 1.0 first", f"Via: {sent}"]):
            status, code, _ = error_of(await ask(app.port, get("/v1/x", *lines)))
            assert (status, code) == (508, "loop_detected")
    assert len(seen) == 1


async def test_two_instances_in_a_ring_see_the_loop() -> None:
    """Each keeps the names of those before it, so the first one knows its own again."""
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    async with (
        running(upstream=f"http://{HOST}:{port}/v1", max_attempts=1) as first,
        running(port=port, upstream=f"http://{HOST}:{first.port}/v1", max_attempts=1),
    ):
        status, code, _ = error_of(await ask(first.port, get("/v1/models")))
    assert (status, code) == (508, "loop_detected")


@pytest.mark.parametrize("lines", [[], ["Content-Type: application/octet-stream"]])
async def test_a_client_that_waits_for_a_continue_gets_it(lines: list[str]) -> None:
    """Before its body is read, or streamed on; the upstream is told nothing of it."""
    seen: list[bytes] = []
    async with in_front(seen) as app:
        reader, writer = await asyncio.open_connection(HOST, app.port)
        head = get("/v1/x", "Expect: 100-continue", "Content-Length: 2", *lines, method="POST")
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert seen == []
        writer.write(b"{}")
        assert (await read_answer(reader)).body == b"ok"
        writer.close()
        await writer.wait_closed()
    assert seen[0].endswith(b"\r\n\r\n{}")
    assert b"expect" not in seen[0].lower()


async def test_a_client_that_is_refused_is_not_asked_for_its_body() -> None:
    """The answer comes instead."""
    seen: list[bytes] = []
    async with in_front(seen, max_request_bytes=10) as app:
        for target, status in (("/v1/x", 413), ("/x", 404)):
            wait = ("Expect: 100-continue", "Content-Length: 11")
            assert (await ask(app.port, get(target, *wait, method="POST"))).status == status
    assert seen == []


async def test_a_body_that_turns_out_too_large_is_refused() -> None:
    """One in chunks tells no length beforehand; one that fits to the byte is let in."""
    seen: list[bytes] = []
    async with in_front(seen, max_request_bytes=10) as app:
        chunked = get("/v1/x", "Transfer-Encoding: chunked", method="POST")
        fits = await ask(app.port, chunked + b"a\r\n0123456789\r\n0\r\n\r\n")
        assert fits.body == b"ok"
        larger = await ask(app.port, chunked + b"a\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n")
        status, code, message = error_of(larger)
        assert (status, code) == (413, "request_too_large")
        assert "max_request_bytes" in message
    assert len(seen) == 1


async def test_a_body_that_is_no_http_is_refused() -> None:
    """The chunks end in something else, at once or while they are being read."""
    seen: list[bytes] = []
    async with in_front(seen) as app:
        head = get("/v1/x", "Transfer-Encoding: chunked", "Expect: 100-continue", method="POST")
        broken = b"1\r\na\r\nzz\r\n"
        assert b" 400 " in (await talk(app.port, head + broken)).split(b"\r\n")[0]
        reader, writer = await asyncio.open_connection(HOST, app.port)
        writer.write(head)
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(broken)
        status, code, _ = error_of(await read_answer(reader))
        assert (status, code) == (400, "bad_request")
        writer.close()
        await writer.wait_closed()
    assert seen == []


async def test_a_preflight_is_answered_here() -> None:
    """The upstream is not asked, and only a listed origin is told yes."""
    seen: list[bytes] = []
    wanted = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: x-a")
    async with in_front(seen, allowed_origins=ORIGIN) as app:
        yes = await ask(app.port, get("/v1/x", f"Origin: {ORIGIN}", *wanted, method="OPTIONS"))
        no = await ask(app.port, get("/v1/x", "Origin: http://b", *wanted, method="OPTIONS"))
        assert (yes.status, yes.headers["access-control-allow-origin"]) == (204, ORIGIN)
        assert yes.headers["server"] == "wholestream"
        assert (no.status, "access-control-allow-origin" in no.headers) == (403, False)
        passed = await ask(app.port, get("/v1/x", f"Origin: {ORIGIN}"))
        assert passed.headers["access-control-allow-origin"] == ORIGIN
    assert len(seen) == 1


async def test_a_request_that_is_refused_is_counted() -> None:
    """Under the endpoint that is none of the known ones."""
    async with running() as app:
        await ask(app.port, get("/nowhere"))
        metrics = await ask(app.admin_port, get("/metrics"))
    line = b'wholestream_requests_total{code="4xx",endpoint="other"} 1.0'
    assert line in metrics.body


# --- what no client waits for -----------------------------------------------------------


async def test_work_in_the_background_ends_with_the_proxy() -> None:
    """It is cancelled, and what is done is forgotten before."""
    ends: list[str] = []

    async def work(go: asyncio.Event) -> None:
        try:
            await go.wait()
            ends.append("done")
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    async with running() as app:
        go = asyncio.Event()
        app.edge.spawn(work(go))
        app.edge.spawn(work(asyncio.Event()))
        go.set()
        await until(lambda: ends == ["done"])
    assert ends == ["done", "cancelled"]


# --- stopping ---------------------------------------------------------------------------


async def test_a_proxy_that_is_stopped_has_nothing_left_to_wait_for() -> None:
    """Ready until it is told; then the API's port is closed and the run is over."""
    app = App(made(port=0, admin_port=0))
    up = asyncio.Event()
    task = asyncio.create_task(app.run(lambda _: up.set()))
    await up.wait()
    assert (await ask(app.admin_port, get("/readyz"))).status == 200
    app.stop()
    await task
    for port in (app.port, app.admin_port):
        with pytest.raises(ConnectionRefusedError):
            await ask(port, get("/readyz"))


async def test_a_grace_is_served_and_cut_short_by_a_second_signal() -> None:
    """Unready at once, but still accepting; whoever insists is obeyed."""
    seen: list[bytes] = []
    async with in_front(seen, drain_grace_s=3600) as front:
        app = App(front.settings)
        up = asyncio.Event()
        task = asyncio.create_task(app.run(lambda _: up.set()))
        await up.wait()
        app.stop()
        while (await ask(app.admin_port, get("/readyz"))).status == 200:
            pass
        assert (await ask(app.admin_port, get("/healthz"))).status == 200
        assert (await ask(app.port, get("/v1/x"))).body == b"ok"
        app.stop()
        await task


async def test_whoever_asks_on_an_old_connection_in_the_end_is_sent_elsewhere() -> None:
    """While the last answers are waited for, a keep-alive connection may still bring a request."""
    go, asked = asyncio.Event(), asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            if b"slow" in await read_request(reader):
                asked.set()
                await go.wait()
            writer.write(OK)

    async with raw_server(play) as port:
        app = App(made(port=0, admin_port=0, upstream=f"http://{HOST}:{port}"))
        up = asyncio.Event()
        task = asyncio.create_task(app.run(lambda _: up.set()))
        await up.wait()
        reader, writer = await asyncio.open_connection(HOST, app.port)
        kept = get("/v1/x").replace(b"Connection: close\r\n", b"")
        writer.write(kept)
        assert (await read_answer(reader)).body == b"ok"
        slow = asyncio.create_task(ask(app.port, get("/v1/slow")))
        await asked.wait()
        app.stop()
        await until(lambda: app.edge.closed)
        writer.write(kept)
        late = await read_answer(reader)
        assert error_of(late)[:2] == (503, "overloaded")
        assert (late.headers["x-should-retry"], late.headers["retry-after"]) == ("true", "1")
        writer.close()
        await writer.wait_closed()
        go.set()
        assert (await slow).body == b"ok"
        await task
