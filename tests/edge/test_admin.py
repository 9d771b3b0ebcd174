"""The admin listener: what it shows, to whom, and in which form."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from edge.loopback import Got, ask, made, our_server
from proxy.admin import PROBES, Admin, Own
from proxy.core.fault import EXPLANATIONS, Fault, Incident, IncidentOutcome, Phase
from proxy.edge import Edge
from proxy.gate import Gate

FACTS = {"request_id": "ws_1", "endpoint": "other", "model": "m", "upstream": "api.example"}
PAGES = ["/metrics", "/healthz", "/readyz", "/api/incidents"]
OPENMETRICS = "application/openmetrics-text"

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""What Prometheus 3 sends."""


@contextlib.asynccontextmanager
async def admin(**values: Any) -> AsyncIterator[tuple[Edge, int]]:
    """Serve the admin listener on a free port."""
    settings = made(**values)
    edge = Edge(settings)
    try:
        async with our_server(Admin(Own(edge), Gate(settings, PROBES)).handle) as port:
            yield edge, port
    finally:
        await edge.close()


async def get(
    port: int, path: str, *, method: str = "GET", host: str = "localhost", accept: str = ""
) -> Got:
    """Ask for one page."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += [f"Accept: {accept}"] if accept else []
    return await ask(port, "\r\n".join([*lines, "", ""]).encode())


def error_of(got: Got) -> dict[str, Any]:
    """Return the error of an answer in OpenAI's shape."""
    assert got.headers["content-type"] == "application/json"
    found = json.loads(got.body)
    assert found.keys() == {"error"}
    error = found["error"]
    assert isinstance(error, dict)
    assert error.keys() == {"message", "type", "param", "code"}
    return error


def incident(**values: Any) -> Incident:
    """Make an incident."""
    facts: dict[str, Any] = {
        "fault": Fault.CUT_MID_EVENT,
        "phase": Phase.MID_CONTENT,
        "outcome": IncidentOutcome.SURFACED,
        "attempt": 2,
        "age_s": 1.23456,
        "status": 0,
        "events": 3,
        "size": 400,
        "offset": 390,
        "tail": b'data: {"content":"Hello',
        "detail": "",
    }
    return Incident(**{**facts, **values})


# --- metrics ----------------------------------------------------------------------------


@pytest.mark.parametrize("accept", ["", "text/plain", "*/*", "text/html", "canary;version=;;,q"])
async def test_metrics_are_plain_text_unless_asked_otherwise(accept: str) -> None:
    """In the form every scraper reads."""
    async with admin() as (_, port):
        got = await get(port, "/metrics", accept=accept)
    assert got.status == 200
    assert got.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in text_string_to_metric_families(got.body.decode())}
    assert {"wholestream_streams", "wholestream_build_info"} <= names


@pytest.mark.parametrize(
    "accept",
    [
        OPENMETRICS,
        OPENMETRICS + "; version=1.0.0",
        OPENMETRICS + "; version=0.0.1",
        OPENMETRICS + "; version=canary",
        OPENMETRICS + "; version=9.canary",
        PROMETHEUS,
    ],
)
async def test_metrics_are_openmetrics_where_that_is_asked_for(accept: str) -> None:
    """Whatever version was named; nothing of the request comes back."""
    async with admin() as (_, port):
        got = await get(port, "/metrics", accept=accept)
    assert got.status == 200
    assert got.headers["content-type"] == f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
    text = got.body.decode()
    assert text.endswith("# EOF\n")
    families = openmetrics.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    names = {family.name for family in families}
    assert {"wholestream_streams", "wholestream_build_info"} <= names


async def test_metrics_take_a_query() -> None:
    """Scrapers add parameters."""
    async with admin() as (_, port):
        assert (await get(port, "/metrics?name[]=x&y=%20")).status == 200


# --- health and readiness ---------------------------------------------------------------


async def test_a_draining_proxy_is_healthy_but_not_ready() -> None:
    """A load balancer turns away at once, and nobody restarts the process."""
    async with admin() as (edge, port):
        for path in ("/healthz", "/readyz"):
            got = await get(port, path)
            assert (got.status, got.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        edge.draining = True
        assert (await get(port, "/healthz")).status == 200
        got = await get(port, "/readyz")
        assert (got.status, got.body) == (503, b"draining\n")
        assert (await get(port, "/metrics")).status == 200


# --- incidents --------------------------------------------------------------------------


async def test_incidents_are_listed_newest_first() -> None:
    """An empty list at first."""
    async with admin() as (edge, port):
        got = await get(port, "/api/incidents")
        assert (got.status, got.headers["content-type"]) == (200, "application/json")
        assert json.loads(got.body) == {"incidents": []}
        edge.ring.add(incident(), facts=FACTS)
        edge.ring.add(incident(attempt=3), facts=FACTS)
        found = json.loads((await get(port, "/api/incidents")).body)["incidents"]
    assert [record["attempt"] for record in found] == [3, 2]


async def test_an_incident_shows_what_happened_and_no_text_of_anybody() -> None:
    """The broken bytes are masked as it is set by default."""
    async with admin() as (edge, port):
        edge.ring.add(incident(), facts=FACTS)
        (record,) = json.loads((await get(port, "/api/incidents")).body)["incidents"]
    assert record.pop("time") > 0
    assert record == {
        **FACTS,
        "fault": "cut_mid_event",
        "phase": "mid_content",
        "outcome": "surfaced",
        "attempt": 2,
        "status": None,
        "age_s": 1.235,
        "events": 3,
        "bytes": 400,
        "explanation": EXPLANATIONS[Fault.CUT_MID_EVENT],
        "detail": None,
        "attempts": [],
        "tail": 'data: {"content":"xxxxx',
        "tail_offset": 390,
        "tail_bytes": 23,
    }


# --- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/", "/v1/models", "/metrics/", "/Metrics", "/api", "/api/x", "/%6detrics", "/x?/metrics"],
)
async def test_another_path_is_a_404_that_says_what_there_is(path: str) -> None:
    """In OpenAI's shape, since it may have been meant for the other listener."""
    async with admin() as (_, port):
        got = await get(port, path)
    assert got.status == 404
    error = error_of(got)
    assert error["code"] == "not_found"
    assert "/metrics" in error["message"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/metrics", "/readyz", "/api/incidents", "/x"])
async def test_another_method_is_a_405(method: str, path: str) -> None:
    """The listener is read-only."""
    async with admin() as (_, port):
        got = await get(port, path, method=method)
    assert got.status == 405
    assert error_of(got)["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", [*PAGES, "/x"])
async def test_a_head_request_gets_the_headers_alone(path: str) -> None:
    """Those that GET would get."""
    async with admin() as (_, port):
        whole = await get(port, path)
        got = await get(port, path, method="HEAD")
    assert (got.status, got.body) == (whole.status, b"")
    assert got.headers["content-type"] == whole.headers["content-type"]
    assert int(got.headers["content-length"]) == len(whole.body)


@pytest.mark.parametrize("path", PAGES)
async def test_a_rebound_name_reads_nothing(path: str) -> None:
    """A page in a browser could otherwise read metrics and incidents."""
    async with admin() as (_, port):
        got = await get(port, path, host="evil.example:8788")
    assert got.status == 403
    assert "allowed_hosts" in error_of(got)["message"]


@pytest.mark.parametrize("host", ["10.1.2.3:8788", "[fd00::1]:8788"])
async def test_an_address_is_enough_for_the_probes_and_for_nothing_else(host: str) -> None:
    """Orchestrators and scrapers know pods by address."""
    async with admin() as (_, port):
        for path in (*PROBES, "/metrics?module=x", "/readyz?a=/api/incidents"):
            assert (await get(port, path, host=host)).status == 200
        for path in ("/api/incidents", "/api/incidents?/metrics", "/x", "/"):
            assert (await get(port, path, host=host)).status == 403


async def test_a_page_of_another_origin_reads_nothing() -> None:
    """Even one on this machine."""
    async with admin() as (_, port):
        head = b"GET /api/incidents HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        for line in (b"Origin: http://localhost:3000", b"Sec-Fetch-Site: cross-site"):
            got = await ask(port, head + line + b"\r\n\r\n")
            assert got.status == 403
            assert "allowed_origins" in error_of(got)["message"]


@pytest.mark.parametrize("path", PAGES)
async def test_pages_are_what_they_say_and_load_nothing_foreign(path: str) -> None:
    """No sniffing, no foreign script, no copy in a cache, no version of the server."""
    async with admin() as (_, port):
        headers = (await get(port, path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'self'"
    assert headers["cache-control"] == "no-store"
    assert headers["server"] == "wholestream"
    assert not [name for name in headers if name.startswith("access-control")]
