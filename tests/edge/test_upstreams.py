"""Several upstreams: whom each request reaches, with whose key, over which connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from multidict import CIMultiDict

from edge.loopback import HOST, Pairs, Play, made, raw_server, read_request, until
from proxy.upstream import Upstream
from proxy.upstreams import Upstreams

CANARY = "sk-canary-4711"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

CALLERS: Pairs = [
    ("X-A", "1"),
    ("authorization", "Bearer theirs"),
    ("Api-Key", "theirs"),
    ("X-API-KEY", "theirs"),
    ("Cookie", "theirs"),
    ("cookie", "theirs too"),
    ("X-A", "2"),
]
"""A request with credentials wherever they may be."""


@contextlib.asynccontextmanager
async def opened(**values: Any) -> AsyncIterator[Upstreams]:
    """Open the outgoing side."""
    upstreams = Upstreams(made(**values))
    try:
        yield upstreams
    finally:
        await upstreams.close()


async def get(upstream: Upstream, headers: Pairs, *, fresh: bool = False) -> None:
    """Send one request as the upstream wants it, read its answer."""
    answer = await upstream.open(
        "GET", "/x", upstream.dress(CIMultiDict(headers)), None, fresh=fresh
    )
    while await answer.read():
        pass


def noting(seen: list[bytes], connections: list[None]) -> Play:
    """Play a server that notes its connections and requests."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(None)
        while True:
            seen.append(await read_request(reader))
            writer.write(OK)

    return play


async def dressed(**entry: Any) -> Pairs:
    """Return what the caller's headers become for an upstream."""
    backup = {"name": "backup", "base_url": "https://backup.example/v1", **entry}
    async with opened(upstreams=[backup]) as upstreams:
        return list(upstreams["backup"].dress(CIMultiDict(CALLERS)).items())


async def test_each_upstream_has_its_own_base_and_the_primary_no_name() -> None:
    """What is asked of one goes to no other."""
    seen: dict[str, list[bytes]] = {"": [], "backup": []}
    async with (
        raw_server(noting(seen[""], [])) as first,
        raw_server(noting(seen["backup"], [])) as second,
        opened(
            upstream=f"http://{HOST}:{first}/v1",
            upstreams=[{"name": "backup", "base_url": f"http://{HOST}:{second}/api%2F/v2"}],
        ) as upstreams,
    ):
        for name in seen:
            await get(upstreams[name], [])
            assert upstreams[name].host == HOST
    lines = {name: [one.split(b"\r\n")[0] for one in got] for name, got in seen.items()}
    assert lines == {"": [b"GET /v1/x HTTP/1.1"], "backup": [b"GET /api%2F/v2/x HTTP/1.1"]}


async def test_a_name_that_is_not_defined_is_a_bug() -> None:
    """The settings have checked them all."""
    async with opened() as upstreams:
        with pytest.raises(KeyError):
            upstreams["backup"]


@pytest.mark.parametrize("fresh", [False, True])
async def test_upstreams_of_one_origin_share_their_connections(*, fresh: bool) -> None:
    """But a repeated attempt still has one of its own."""
    connections: list[None] = []
    async with raw_server(noting([], connections)) as port:
        base = f"http://{HOST}:{port}"
        entry = {"name": "backup", "base_url": f"{base}/v2"}
        async with opened(upstream=f"{base}/v1", upstreams=[entry]) as upstreams:
            for name in ("", "backup", ""):
                await get(upstreams[name], [], fresh=fresh)
    assert len(connections) == (3 if fresh else 1)


async def test_closing_closes_the_connections_of_all() -> None:
    """None is left open to any of them."""
    left = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        left.append(await reader.read())

    async with raw_server(play) as first, raw_server(play) as second:
        entry = {"name": "backup", "base_url": f"http://{HOST}:{second}"}
        upstreams = Upstreams(made(upstream=f"http://{HOST}:{first}", upstreams=[entry]))
        await get(upstreams[""], [])
        await get(upstreams["backup"], [])
        await upstreams.close()
        await until(lambda: len(left) == 2)
    assert left == [b"", b""]


# --- whose key --------------------------------------------------------------------------


async def test_without_a_key_of_its_own_the_callers_headers_are_sent() -> None:
    """Unchanged, to the primary and to another."""
    assert await dressed() == CALLERS
    async with opened() as upstreams:
        headers = CIMultiDict(CALLERS)
        assert upstreams[""].dress(headers) is headers


async def test_an_injected_key_replaces_whatever_may_be_the_callers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In every header that may carry one, however it is spelled."""
    monkeypatch.setenv("BACKUP_KEY", f"{CANARY}\n")
    pairs = await dressed(api_key_env="BACKUP_KEY")
    assert pairs == [("X-A", "1"), ("X-A", "2"), ("Authorization", f"Bearer {CANARY}")]


async def test_extra_headers_replace_those_of_their_name() -> None:
    """All of them; the caller's key stays where none is injected."""
    pairs = await dressed(headers={"x-a": "3", "X-B": "\u00e9"})
    assert pairs[0] == ("x-a", "3")
    assert ("authorization", "Bearer theirs") in pairs
    assert [value for name, value in pairs if name.lower() == "x-a"] == ["3"]
    assert pairs[-1] == ("X-B", "\u00e9")


async def test_an_extra_header_may_carry_the_key_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Extra headers come last, so an upstream with another scheme can be served."""
    monkeypatch.setenv("BACKUP_KEY", CANARY)
    pairs = await dressed(api_key_env="BACKUP_KEY", headers={"authorization": "Basic x"})
    assert [value for name, value in pairs if name.lower() == "authorization"] == ["Basic x"]


async def test_the_callers_headers_are_not_changed_by_dressing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They may be needed again, for another upstream."""
    monkeypatch.setenv("BACKUP_KEY", CANARY)
    headers = CIMultiDict(CALLERS)
    backup = {"name": "b", "base_url": "https://b.example", "api_key_env": "BACKUP_KEY"}
    async with opened(upstreams=[backup]) as upstreams:
        upstreams["b"].dress(headers)
        assert list(headers.items()) == CALLERS
        assert "canary" not in repr(upstreams["b"]) + repr(vars(upstreams["b"]))


async def test_what_an_upstream_reads_is_its_key_and_not_the_callers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the wire, and only there."""
    monkeypatch.setenv("BACKUP_KEY", CANARY)
    seen: list[bytes] = []
    async with raw_server(noting(seen, [])) as port:
        entry = {
            "name": "backup",
            "base_url": f"http://{HOST}:{port}",
            "api_key_env": "BACKUP_KEY",
            "headers": {"X-Title": "ours"},
        }
        async with opened(upstreams=[entry]) as upstreams:
            await get(upstreams["backup"], CALLERS)
    assert b"theirs" not in seen[0]
    assert f"Authorization: Bearer {CANARY}\r\nX-Title: ours\r\n".encode() in seen[0]
