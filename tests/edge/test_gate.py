"""The gate: who may come in. Asked by raw bytes through the proxy's own server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from itertools import product
from typing import Any

import pytest
from aiohttp import web

from edge.loopback import Got, ask, made, our_server, talk
from proxy.admin import PROBES
from proxy.gate import METHODS, Gate
from proxy.replies import error_response

LISTED = "http://app.example:3000"

HOSTS = {
    "localhost": True,
    "localhost:8787": True,
    "LocalHost:1": True,
    "127.0.0.1": True,
    "127.0.0.1:9999": True,
    "[::1]": True,
    "[::1]:8787": True,
    "": True,  # no name, so no name was rebound
    "evil.example": False,
    "evil.example:8787": False,
    "localhost.evil.example": False,
    "127.0.0.1.nip.example:8787": False,
    "localhost@evil.example": False,
    "localhost:1:2": False,
    "10.0.0.1": False,
    "169.254.169.254": False,
    "0.0.0.0": False,  # noqa: S104 - nothing is bound to it
    "[::2]:8787": False,
    "[::]": False,
}

ORIGINS = {
    None: True,
    LISTED: True,
    "http://evil.example": False,
    "http://app.example": False,
    "https://app.example:3000": False,
    "http://localhost:8787": False,
    "null": False,
    "": False,
}

SITES = {None: True, "none": True, "same-origin": True, "same-site": True, "cross-site": False}

GOOD_TARGETS = [
    "/",
    "/v1",
    "/v1/chat/completions",
    "/v1/models?limit=1&a=%2F%00;b=[c]",
    "/v1/models/ft:gpt-4o-mini:org::id",
    "/v1//models",
    "/v1/%2e%2e/x",
    "/v1/../x",
    "/v1/..;/x",
    "/%2f%2fevil.example/x",
    "/@evil.example/x",
    "/v1@evil.example",
    "/v1?next=http://evil.example/#not%20a%20fragment".replace("#", "%23"),
    "/:80/x",
    "/%5Cevil.example",
    '/v1/"quoted"',
]

HOSTILE_TARGETS = [
    b"http://evil.example/v1/models",
    b"http://localhost/v1/models",
    b"HTTPS://evil.example/",
    b"http:/evil.example/",
    b"http:///evil.example/",
    b"http://user:pass@evil.example/",
    b"ftp://evil.example/x",
    b"file:///etc/passwd",
    b"evil.example:443",
    b"evil.example",
    b"//evil.example/v1/models",
    b"///evil.example",
    b"//",
    b"/\\evil.example/x",
    b"\\\\evil.example\\x",
    b"/v1\\..\\x",
    b"/v1/models#fragment",
    b"/#",
    b"*",
    b"?a=b",
    b"#",
    b".",
    b"@evil.example/",
    b"/v1/a b",
    b"/v1/a\tb",
    b"/v1/a\x00b",
    b"/v1/a\x0bb",
    b"/v1/\x7f",
    b"/v1/\x1b[2J",
    b"/v1/caf\xe9",
    b"/v1/caf\xc3\xa9",
    b"/v1/\xe2\x80\xa8",
    b"/v1/\xf0\x9f\x98\x80",
    b"/v1/\xff",
    b"/v1/a\rb",
    b"",
]


@contextlib.asynccontextmanager
async def guarded(gate: Gate) -> AsyncIterator[int]:
    """Serve the gate alone: a refusal, or 200 with the target as it came."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        refusal = gate.refuse(request)
        if refusal is not None:
            return error_response(refusal)
        return web.Response(body=request.raw_path.encode(), headers=gate.cors(request))

    async with our_server(handle) as port:
        yield port


def gate(probes: frozenset[str] = frozenset(), **values: Any) -> Gate:
    """Make a gate with one listed origin."""
    return Gate(made(allowed_origins=[LISTED], **values), probes)


def request(
    target: str = "/v1/models",
    headers: Iterable[tuple[str, str | None]] = (),
    *,
    method: str = "GET",
    version: str = "HTTP/1.1",
    host: str | None = "localhost",
) -> bytes:
    """Write a request; a header whose value is None is left out."""
    pairs = [("Host", host), ("Connection", "close"), *headers]
    lines = [f"{name}: {value}" for name, value in pairs if value is not None]
    return "\r\n".join([f"{method} {target} {version}", *lines, "", ""]).encode("latin-1")


def reason(got: Got) -> str:
    """Return the message of a refusal, which has OpenAI's shape."""
    error = json.loads(got.body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-should-retry"] == "false"
    return str(error["message"])


# --- hosts and origins ------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
async def test_host_and_origin_are_both_checked(host: str) -> None:
    """The whole matrix: a refusal is a 403 and names the setting that would let it in."""
    async with guarded(gate()) as port:
        for origin, site in product(ORIGINS, SITES):
            headers = [("Origin", origin), ("Sec-Fetch-Site", site)]
            got = await ask(port, request(headers=headers, host=host))
            may = origin == LISTED or (ORIGINS[origin] and SITES[site])
            if HOSTS[host] and may:
                assert got.status == 200, (origin, site)
                continue
            assert got.status == 403, (origin, site)
            assert ("allowed_origins" if HOSTS[host] else "allowed_hosts") in reason(got)
            assert "evil" not in reason(got)


async def test_a_request_without_a_host_comes_from_no_browser() -> None:
    """HTTP/1.0 needs none; HTTP/1.1 does."""
    async with guarded(gate()) as port:
        old = request(host=None, version="HTTP/1.0")
        assert (await ask(port, old)).status == 200
        assert (await ask(port, request(host=None))).status == 400


async def test_a_star_lets_any_host_in_but_no_origin() -> None:
    """The two lists are two decisions."""
    async with guarded(gate(allowed_hosts="*")) as port:
        assert (await ask(port, request(host="evil.example"))).status == 200
        evil = request(headers=[("Origin", "http://evil.example")], host="evil.example")
        assert (await ask(port, evil)).status == 403


@pytest.mark.parametrize("setting", ["host", "admin_host"])
async def test_the_name_listened_on_is_allowed(setting: str) -> None:
    """Beside the list; a name that is listened on needs no second setting."""
    values: dict[str, Any] = {setting: "Gateway.Example"}
    async with guarded(gate(**values)) as port:
        assert (await ask(port, request(host="gateway.example:8787"))).status == 200
        assert (await ask(port, request(host="localhost"))).status == 200


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])  # noqa: S104 - nothing is bound to it
async def test_a_wildcard_listened_on_is_no_name(wildcard: str) -> None:
    """Browsers can be made to call 0.0.0.0."""
    host = f"[{wildcard}]" if ":" in wildcard else wildcard
    async with guarded(gate(host=wildcard, admin_host=wildcard)) as port:
        assert (await ask(port, request(host=host))).status == 403


@pytest.mark.parametrize("host", ["10.1.2.3", "10.1.2.3:8788", "[fe80::1]:8788", "192.168.0.7"])
async def test_probes_may_ask_by_address(host: str) -> None:
    """Kubernetes and Prometheus call a pod by its address: for these three paths, queries too."""
    async with guarded(gate(PROBES)) as port:
        for path in ("/metrics", "/healthz", "/readyz", "/metrics?module=x"):
            assert (await ask(port, request(path, host=host))).status == 200
        for path in ("/api/incidents", "/inspector", "/", "/metrics/", "/x?/metrics"):
            assert (await ask(port, request(path, host=host))).status == 403


async def test_probes_may_not_ask_by_a_name_that_is_not_allowed() -> None:
    """A rebound name is a name; and without probes an address is as strange as a name."""
    async with guarded(gate(PROBES)) as port:
        assert (await ask(port, request("/metrics", host="evil.example"))).status == 403
    async with guarded(gate()) as port:
        assert (await ask(port, request("/metrics", host="10.1.2.3"))).status == 403


# --- pages of listed origins ------------------------------------------------------------


async def test_only_a_listed_origin_gets_cors_headers() -> None:
    """And it is told its own name, never a star."""
    async with guarded(gate()) as port:
        got = await ask(port, request(headers=[("Origin", LISTED)]))
        assert got.headers["access-control-allow-origin"] == LISTED
        assert got.headers["vary"] == "Origin"
        assert "access-control-allow-methods" not in got.headers
        plain = await ask(port, request())
        refused = await ask(port, request(headers=[("Origin", "http://evil.example")]))
        for other in (plain, refused):
            assert not [name for name in other.headers if name.startswith("access-control")]


async def test_a_preflight_of_a_listed_origin_is_told_what_it_asked_for() -> None:
    """The headers it named, and all methods there are."""
    asked = [
        ("Origin", LISTED),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,content-type"),
    ]
    async with guarded(gate()) as port:
        got = await ask(port, request(headers=asked, method="OPTIONS"))
    assert got.headers["access-control-allow-headers"] == "authorization,content-type"
    assert set(got.headers["access-control-allow-methods"].split(", ")) == METHODS


# --- the form of a request --------------------------------------------------------------


@pytest.mark.parametrize("method", sorted(METHODS))
async def test_the_methods_of_the_api_come_in(method: str) -> None:
    """All that OpenAI's API uses, and those of browsers."""
    async with guarded(gate()) as port:
        assert (await ask(port, request(method=method))).status == 200


@pytest.mark.parametrize(
    ("method", "target"),
    [("TRACE", "/v1"), ("CONNECT", "localhost:443"), ("CONNECT", "/v1"), ("PROPFIND", "/v1")],
)
async def test_other_methods_do_not_come_in(method: str, target: str) -> None:
    """TRACE would give back the key, CONNECT make a tunnel."""
    async with guarded(gate()) as port:
        got = await ask(port, request(target, method=method))
        assert got.status in {400, 405}
        reason(got)


@pytest.mark.parametrize("method", ["get", "GeT", "PURGE1", "G\x00T", "POST\t", "\u00c9"])
async def test_what_is_no_method_does_not_come_in(method: str) -> None:
    """Methods are compared with their case."""
    async with guarded(gate()) as port:
        assert (await ask(port, request(method=method))).status in {400, 405}


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
async def test_two_versions_come_in(version: str) -> None:
    """The two there are."""
    async with guarded(gate()) as port:
        assert (await ask(port, request(version=version))).status == 200


@pytest.mark.parametrize(
    "version", ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/3.0", "HTTP/11", "HTTP/1", "ICY/1.1", ""]
)
async def test_other_versions_do_not_come_in(version: str) -> None:
    """505, or 400 where it is none."""
    async with guarded(gate()) as port:
        assert (await ask(port, request(version=version))).status in {400, 505}


@pytest.mark.parametrize(
    ("coding", "version", "status"),
    [
        ("chunked", "HTTP/1.1", {200}),
        ("Chunked", "HTTP/1.1", {200}),
        ("gzip, chunked", "HTTP/1.1", {501}),
        ("deflate", "HTTP/1.1", {400, 501}),
        ("identity", "HTTP/1.1", {400, 501}),
        ("chunked, identity", "HTTP/1.1", {400, 501}),
        ("chunked, chunked", "HTTP/1.1", {400, 501}),
        ("xchunked", "HTTP/1.1", {400, 501}),
        ("", "HTTP/1.1", {400, 501}),
        ("chunked", "HTTP/1.0", {400}),
        ("gzip", "HTTP/1.0", {400, 501}),
    ],
)
async def test_no_transfer_coding_but_chunked_comes_in(
    coding: str, version: str, status: set[int]
) -> None:
    """A coding that two servers read in two ways smuggles a request."""
    async with guarded(gate()) as port:
        wanted = request(headers=[("Transfer-Encoding", coding)], version=version, method="POST")
        assert (await ask(port, wanted + b"0\r\n\r\n")).status in status


@pytest.mark.parametrize(
    "lines",
    [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Content-Length: 3\r\nContent-Length: 3",
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: +3",
        "Content-Length: -3",
        "Content-Length: 0x3",
        "Content-Length: 3, 3",
        "Content-Length: 99999999999999999999999",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "X: a\nTransfer-Encoding: chunked",
        "X: a\r\n folded",
        "X: a\rb",
        "X: a\x00b",
        "X Y: a",
        ": a",
        "Host: localhost",
    ],
)
async def test_what_two_servers_may_read_in_two_ways_does_not_come_in(lines: str) -> None:
    """The smuggling table: one 400, and what follows on the connection is not read."""
    async with guarded(gate()) as port:
        head = f"POST /v1/x HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n"
        answer = await talk(port, head.encode("latin-1") + b"0\r\n\r\n" + request())
        assert answer.count(b"HTTP/1.") == 1
        assert answer.split()[1] == b"400"


# --- targets ----------------------------------------------------------------------------


@pytest.mark.parametrize("target", GOOD_TARGETS)
async def test_a_plain_path_comes_in_as_it_is(target: str) -> None:
    """Nothing is decoded, joined or tidied up."""
    async with guarded(gate()) as port:
        got = await ask(port, request(target))
        assert (got.status, got.body.decode()) == (200, target)


@pytest.mark.parametrize("target", HOSTILE_TARGETS)
async def test_any_other_target_does_not_come_in(target: bytes) -> None:
    """Each form that would make the proxy call another host, or a server read another path."""
    async with guarded(gate()) as port:
        got = await ask(port, b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % target)
        assert 400 <= got.status < 500 or got.status == 505
        assert b"evil" not in got.body
        reason(got)
