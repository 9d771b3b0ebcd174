"""A port that workers share: held for them, and for nobody else."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from aiohttp import web

from edge.loopback import HOST, ask
from proxy.listening import Claim, Listener
from proxy.settings import SettingsError

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def hello(_request: web.BaseRequest) -> web.StreamResponse:
    """Answer."""
    return web.Response(text="hello")


@contextlib.asynccontextmanager
async def listening(port: int, *, shared: bool, host: str = HOST) -> AsyncIterator[Listener]:
    """Listen."""
    listener = Listener(hello)
    try:
        await listener.start(host, port, "port", shared=shared)
        yield listener
    finally:
        await listener.close()


@contextlib.contextmanager
def claimed(port: int = 0, host: str = HOST) -> Iterator[int]:
    """Hold a port."""
    claim = Claim(host, port)
    try:
        yield claim.port
    finally:
        claim.release()


def refused(port: int, host: str = HOST) -> None:
    """Assert that a port cannot be claimed, and that it is said."""
    with pytest.raises(SettingsError) as caught, claimed(port, host):
        pytest.fail("claimed")
    expected = f"port: cannot listen on {host}:{port} (Address already in use)"
    assert str(caught.value) == f"{expected}; choose another with --port"


async def test_a_claim_lets_those_listen_who_share_and_nobody_else() -> None:
    """As many as there are; nothing listens by the claim itself."""
    with claimed() as port:
        with pytest.raises(ConnectionRefusedError):
            await ask(port, GET)
        async with listening(port, shared=True), listening(port, shared=True):
            assert (await ask(port, GET)).body == b"hello"
        with pytest.raises(SettingsError, match=r"^port: cannot listen on "):
            async with listening(port, shared=False):
                pytest.fail("listens")


@pytest.mark.parametrize("serving", [False, True])
async def test_a_port_is_claimed_once(*, serving: bool) -> None:
    """From the first moment, before any worker listens."""
    with claimed() as port:
        if not serving:
            refused(port)
            return
        async with listening(port, shared=True):
            refused(port)


@pytest.mark.parametrize("host", [HOST, "0.0.0.0"])  # noqa: S104 - refused
@pytest.mark.parametrize("shared", [False, True])
async def test_a_port_that_is_listened_on_cannot_be_claimed(host: str, *, shared: bool) -> None:
    """Not even of one that would share it, nor by another name of the address."""
    async with listening(0, shared=shared) as listener:
        refused(listener.port, host)


async def test_a_port_that_is_given_up_can_be_had() -> None:
    """By whoever comes next."""
    with claimed() as port:
        pass
    with claimed(port):
        pass
    async with listening(port, shared=False):
        pass


def past_connection() -> int:
    """Let a server close a connection first; return its port, whose past now lingers."""
    with socket.create_server((HOST, 0)) as server:
        port: int = server.getsockname()[1]
        with socket.create_connection((HOST, port)) as client:
            server.accept()[0].close()
            client.recv(1)
    with socket.socket() as strict, pytest.raises(OSError) as caught:  # noqa: PT011 - its number
        strict.bind((HOST, port))
    assert caught.value.errno == errno.EADDRINUSE
    return port


async def test_the_connections_of_an_earlier_run_do_not_keep_a_port() -> None:
    """They wait for their time to be over; the claim holds all the same."""
    port = past_connection()
    with claimed(port):
        refused(port)
        async with listening(port, shared=True), listening(port, shared=True):
            refused(port)
            with pytest.raises(SettingsError):
                async with listening(port, shared=False):
                    pytest.fail("listens")


def test_a_host_with_several_addresses_has_one_port_on_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the port is free to choose."""
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0))
        for host in ("127.0.0.1", "127.0.0.2", "127.0.0.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with claimed() as port:
        monkeypatch.undo()
        for host in ("127.0.0.1", "127.0.0.2"):
            refused(port, host)


def test_an_ipv6_address_is_claimed_without_its_ipv4_side() -> None:
    """As it is listened on."""
    with contextlib.closing(socket.socket(socket.AF_INET6)) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
    with claimed(host="::") as port, claimed(port):
        refused(port, "::1")


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b", "no such host", "256.1.1.1"])
def test_an_address_that_is_not_ours_is_named(host: str) -> None:
    """It is the host that is wrong, not the port."""
    with pytest.raises(SettingsError) as caught:
        Claim(host, 0)
    assert str(caught.value).startswith(f"host: cannot listen on {host}:0 (")


def test_a_system_that_cannot_share_a_port_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting is named."""
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    with pytest.raises(SettingsError, match=r"^workers: must be 1 on this system"):
        Claim(HOST, 0)


async def test_a_listener_that_does_not_listen_is_closed_all_the_same() -> None:
    """Its start may have failed."""
    listener = Listener(hello)
    await listener.accept_no_more()
    await listener.close()
