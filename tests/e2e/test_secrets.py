"""No key, no prompt and no answer is found where operators, metrics and dashboards look."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from e2e.child import QUICK, Proxy, eventually, idle
from e2e.conftest import Starter
from e2e.wire import PATHS, Pairs, Reply, asking, call, connected
from proxy.demo.answers import Answer, Headers, Pause, Raw, error_reply, sse
from proxy.demo.upstream import MisbehavingUpstream

CHAT = PATHS["chat_completions"]

CANARY = "kwyjibo"
"""Looks like no key, so that no last net of a pattern can catch it: it must never be written."""

OWN_HEADERS: Pairs = (
    ("Authorization", "Bearer sk-kwyjiboAUTH0123456789"),
    ("api-key", "kwyjiboAPIKEY"),
    ("x-api-key", "kwyjiboXAPIKEY"),
    ("Cookie", "session=kwyjiboCOOKIE"),
    ("OpenAI-Organization", "kwyjiboORG"),
    ("User-Agent", "kwyjiboAGENT/1.0"),
    ("X-Request-ID", "kwyjibo REQUEST ID"),
)
TOLD: Headers = (
    ("Content-Type", "text/event-stream"),
    ("openai-organization", "kwyjiboTOLD"),
    ("Set-Cookie", "kwyjiboSETCOOKIE=1"),
    ("x-request-id", "req_1"),  # shown in incidents on purpose: it is what support asks for
)


def _chunk(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    fields = {"id": "chatcmpl-kwyjiboID", "choices": [choice], "kwyjibokey": 1}
    return b"event: kwyjiboNAME\ndata: " + json.dumps(fields).encode() + b"\n\n"


GIVEN = (_chunk("Hello kwyjiboTEXT"), _chunk("more kwyjiboTEXT"))
HALF = _chunk("this is cut: kwyjiboHALF")[:-20]

ANSWERS: dict[str, Answer] = {
    "cut": Answer(headers=TOLD, pieces=(*GIVEN, Raw(b"400\r\n" + HALF)), end="fin"),
    "eof": Answer(headers=TOLD, pieces=(*GIVEN, HALF)),
    "reset": Answer(headers=TOLD, pieces=(*GIVEN, Pause(0.05)), end="reset"),
    "stall": Answer(headers=TOLD, pieces=GIVEN, end="hold"),
    "malformed": Answer(headers=TOLD, pieces=(*GIVEN, b"data: kwyjibo {not json\n\n")),
    "oversize": Answer(headers=TOLD, pieces=(*GIVEN, _chunk("kwyjibo" * 200_000))),
    "told": sse(*GIVEN, b'data: {"error":{"message":"kwyjibo","code":"server_error"}}\n\n'),
    "html": sse(b"<html>kwyjibo</html>\n\n"),
    "500": error_reply(500, "server_error", "kwyjiboERROR", (("x-odd", "kwyjiboHEADER"),)),
    "401": error_reply(401, "invalid_api_key", "Incorrect key: sk-kwyjibo012345678"),
    "429": error_reply(429, "insufficient_quota", "kwyjiboQUOTA"),
    "no-http": Answer(status=0, pieces=(b"kwyjibo\x00 no HTTP\r\n\r\n",), end="fin"),
    "bad-header": Answer(
        status=0, pieces=(b"HTTP/1.1 200 OK\r\nX-Kwyjibo: kwyjibo\x00\x01\r\n\r\n",), end="fin"
    ),
    "coded": Answer(
        headers=(("Content-Type", "text/event-stream"), ("Content-Encoding", "kwyjibo")),
        pieces=GIVEN,
    ),
    "gone": Answer(status=0, end="reset"),
}

OWN_ERRORS = {"no-http", "bad-header", "coded", "gone", "html"}
"""What of these the proxy answers in its own words, nothing being given."""


@dataclass
class Witness:
    """A proxy that sees all secrets, and the answers it made itself."""

    proxy: Proxy
    own: list[Reply] = field(default_factory=list)


@pytest_asyncio.fixture(name="witness", loop_scope="session")
async def _witness(alone: Starter, upstream: MisbehavingUpstream) -> AsyncIterator[Witness]:
    """Return a proxy through which all kinds of faults went, with secrets in every place."""
    flags = ("--log-level", "debug", "--capture", "masked")
    witness = Witness(await alone(upstream.base_url, *QUICK, *flags))
    await asyncio.gather(*(_fault(witness, upstream, name) for name in ANSWERS))
    await _leave(witness.proxy, upstream)
    await _refusals(witness)
    await _malformed(witness)
    await idle(witness.proxy)
    yield witness


async def _fault(witness: Witness, upstream: MisbehavingUpstream, name: str) -> None:
    model = f"secret-{name}"
    upstream.script(model, ANSWERS[name])
    body = asking(
        model, messages=[{"role": "user", "content": "kwyjiboPROMPT"}], kwyjibo="kwyjiboFIELD"
    )
    target = f"{CHAT}?api_key=kwyjiboQUERY&kwyjibo=1"
    got = await call(witness.proxy.port, target, body, headers=OWN_HEADERS)
    if name in OWN_ERRORS:
        assert got.status == 502
        witness.own.append(got)
    plain = json.dumps({"model": model, "prompt": "kwyjibo"}).encode()
    await call(witness.proxy.port, "/v1/kwyjiboPATH/x", plain, headers=OWN_HEADERS)


async def _leave(proxy: Proxy, upstream: MisbehavingUpstream) -> None:
    upstream.script("secret-left", Answer(headers=TOLD, pieces=GIVEN, end="hold"))
    async with connected(proxy.port) as wire:
        await wire.ask(CHAT, asking("secret-left"), headers=OWN_HEADERS)
        await wire.head()


async def _refusals(witness: Witness) -> None:
    port = witness.proxy.port
    witness.own += [
        await call(port, "/kwyjiboELSEWHERE?kwyjibo=1", method="GET", headers=OWN_HEADERS),
        await call(port, CHAT, b"{}", headers=[*OWN_HEADERS, ("Origin", "http://kwyjibo.example")]),
        await call(port, CHAT, method="TRACE", headers=OWN_HEADERS),
        await call(port, "http://kwyjibo.example/v1/x", method="GET", headers=OWN_HEADERS),
        await call(port, "//kwyjibo.example/v1", method="GET", headers=OWN_HEADERS),
        await call(port, CHAT, headers=[*OWN_HEADERS, ("Content-Length", str(10**9))]),
    ]
    async with connected(port) as wire:
        await wire.ask(CHAT, b"{}", headers=OWN_HEADERS, host="kwyjibo.example")
        witness.own.append(await wire.rest(await wire.head()))
    assert [got.status for got in witness.own[-7:]] == [404, 403, 405, 400, 400, 413, 403]


async def _malformed(witness: Witness) -> None:
    for line in (
        b"Authorization: Bearer sk-kwyjibo\x010123456789",
        b"Cookie: kwyjibo\x00COOKIE",
        b"kwyjibo header without a colon",
        b"X: " + b"kwyjibo" * 3000,
        b"Content-Length: kwyjibo",
    ):
        async with connected(witness.proxy.port) as wire:
            request = b"POST /v1/x?kwyjibo=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n" + line + b"\r\n\r\n"
            await wire.send(request)
            got = await wire.rest(await wire.head())
            assert 400 <= got.status < 500
            witness.own.append(got)
    async with connected(witness.proxy.port) as wire:
        await wire.send(b"kwyjibo this is no HTTP sk-kwyjibo0123456789\r\n\r\n")
        witness.own.append(await wire.rest(await wire.head()))


async def test_no_secret_is_found_in_any_place_where_somebody_looks(witness: Witness) -> None:
    """Log, metrics, incidents and the proxy's own answers, after every fault there is."""
    proxy = witness.proxy
    incidents = (await proxy.admin("/api/incidents")).body.decode()
    seen = {
        "stdout": proxy.stdout,
        "stderr": proxy.stderr,
        "metrics": (await proxy.admin("/metrics")).body.decode(),
        "incidents": incidents,
        **{f"own {at}": str(got.pairs) + got.body.decode() for at, got in enumerate(witness.own)},
    }
    found = {
        place: [line[:300] for line in text.splitlines() if CANARY in line.lower()]
        for place, text in seen.items()
    }
    assert {place: lines for place, lines in found.items() if lines} == {}

    # The places were looked at with something in them.
    faults = {record["fault"] for record in json.loads(incidents)["incidents"]}
    assert {"cut_mid_event", "reset", "stall", "malformed_event", "oversize_event"} <= faults
    assert {"in_stream_error", "http_status"} <= faults
    assert any(record["tail"] for record in json.loads(incidents)["incidents"])
    assert any(line["event"] == "request" for line in proxy.log)


async def test_a_masked_incident_keeps_the_structure_of_the_broken_bytes(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """Length, punctuation and known names stay, so that a cut can be understood."""
    half = b'data: {"id":"chatcmpl-1","choices":[{"delta":{"content":"Hello wor'
    upstream.script("masked", sse(*GIVEN, Raw(b"400\r\n" + half), end="fin"))
    got = await call(proxy.port, CHAT, asking("masked"), headers=[("X-Request-ID", "masked-1")])
    assert got.status == 200

    async def shown() -> None:
        found = (await proxy.admin("/api/incidents")).json["incidents"]
        [record] = [record for record in found if record["request_id"] == "masked-1"]
        assert (
            record["tail"] == 'data: {"id":"xxxxxxxxxx","choices":[{"delta":{"content":"xxxxx xxx'
        )
        assert record["tail_bytes"] == len(half)
        assert record["tail_offset"] == len(b"".join(GIVEN))

    await eventually(shown)


@pytest.mark.parametrize(("capture", "kept"), [("raw", True), ("off", False)])
async def test_capture_says_what_is_kept(
    started: Starter, upstream: MisbehavingUpstream, capture: str, *, kept: bool
) -> None:
    """Raw keeps the bytes, for those who asked for it; off keeps none."""
    proxy = await started(upstream.base_url, *QUICK, "--capture", capture)
    upstream.script("captured", ANSWERS["cut"])
    await call(proxy.port, CHAT, asking("captured"))
    [record] = (await proxy.admin("/api/incidents")).json["incidents"]
    assert (record["tail"] == HALF.decode()) is kept
    assert record["tail_bytes"] == len(HALF)
    assert "kwyjiboHALF" not in proxy.stderr
