"""What crosses the proxy beside the stream: headers, targets, requests, errors, documents.

Knows the rules of the contract's edges, as lists of its own. Opens no socket.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import cast

from aiohttp import HttpVersion10, HttpVersion11, web
from edge.loopback import made
from multidict import CIMultiDict
from yarl import URL

from fuzz.asking import SHAPES, quirks
from fuzz.cases import Case
from proxy.core.errors import read_error, reply_of
from proxy.core.grammars import GRAMMARS, endpoint_of, grammar_for
from proxy.core.journal import Journal
from proxy.core.request import MAX_CHOICES, Request
from proxy.core.sse import Event
from proxy.gate import Gate
from proxy.headers import to_client, to_upstream
from proxy.origin import BadTargetError, Origin

_HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te"),
        *("proxy-connection", "trailer", "transfer-encoding", "upgrade"),
    }
)
_NOT_UP = _HOP_BY_HOP | {
    *("cookie", "expect", "forwarded", "host", "last-event-id", "x-forwarded-for", "x-real-ip"),
    *("x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-wholestream-recovery"),
}
_NOT_DOWN = _HOP_BY_HOP | {"alt-svc", "set-cookie", "strict-transport-security"}
_FRAMING = frozenset(
    {"cache-control", "content-encoding", "content-length", "content-type", "x-accel-buffering"}
)
_PROTECTED = frozenset(
    {
        *("accept", "api-key", "authorization", "content-length", "content-type", "x-api-key"),
        *("openai-beta", "openai-organization", "openai-project"),
    }
)
_VIA = "1.1 wholestream-15"
_WORD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

Pairs = list[tuple[str, str]]


# --- headers ---


def check_headers(data: bytes) -> None:
    """Send headers across, in one direction or the other. Knobs: 0 direction, 1 stream or not."""
    case = Case(data)
    lines = case.body.decode("utf-8", "surrogateescape").split("\n")
    pairs: Pairs = [(name, rest.strip(" ")) for name, _, rest in (x.partition(":") for x in lines)]
    stream = bool(case.number(1) % 2)
    named = {
        word.strip().lower()
        for name, value in pairs
        if name.lower() == "connection"
        for word in value.split(",")
    }
    if case.number(0) % 2:
        kept = to_client(pairs, stream=stream)
        own = {"connection": "keep-alive"} if stream else {}
        if stream:
            assert kept["content-type"] == "text/event-stream; charset=utf-8"
            assert kept.getall("connection") == ["keep-alive"]
        _check_kept(pairs, kept, _NOT_DOWN | named | (_FRAMING if stream else frozenset()), own)
        return
    kept = to_upstream(pairs, via=_VIA, stream=stream)
    assert kept.getall("via")[0].endswith(_VIA)
    assert kept.getall("accept-encoding") == ["identity"] if stream else True
    own = {"via": "", "accept-encoding": ""} if stream else {"via": ""}
    _check_kept(pairs, kept, _NOT_UP | (named - _PROTECTED), own)


def _check_kept(
    pairs: Pairs, kept: CIMultiDict[str], dropped: frozenset[str] | set[str], own: dict[str, str]
) -> None:
    for name, value in kept.items():
        assert _WORD.fullmatch(name), name
        assert not _CONTROL.search(value), value
        value.encode()
    known = {*own, *(_FRAMING if "connection" in own else ())}
    for name in {name.lower() for name in [*kept, *(name for name, _ in pairs)]} - known:
        sent = [value for other, value in pairs if other.lower() == name and _is_sound(name, value)]
        expected = [] if name in dropped else [_as_sent(value) for value in sent]
        assert kept.getall(name, []) == expected, f"{name}: {kept.getall(name, [])}"


def _is_sound(name: str, value: str) -> bool:
    return bool(_WORD.fullmatch(name)) and not _CONTROL.search(value)


def _as_sent(value: str) -> str:
    """Return a value as it is written: bytes that are no UTF-8 are Latin-1's letters."""
    raw = value.encode("utf-8", "surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


# --- targets ---

_BASES = (
    Origin("https://api.openai.com/v1"),
    Origin("http://127.0.0.1:9"),
    Origin(
        "https://x.example/openai/v1",
        query="api-version=1&a=b",
        paths=("/openai", "/v1beta/models"),
    ),
    Origin("http://[::1]:8080/a%2Fb"),
)
_PREFIXES = ("/v1", "", "/openai/v1", "/a%2Fb")
_ORIGIN_FORM = re.compile(r"/(?:[!-\"$-\[\]-~]|(?<=.)/)*")
_GATE = Gate(made())


@dataclass
class Coming:
    """What the gate asks of a request."""

    raw_path: str
    method: str = "GET"
    version: object = HttpVersion11
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)


def check_targets(data: bytes) -> None:
    """Let a target in, and aim it. Knobs: 0 base, 1 own path, 2 keyless, 3 method and version."""
    case = Case(data)
    target, *rest = (body.decode("utf-8", "surrogateescape") for body in case.bodies)
    came = _check_gate(case, target, rest)
    origin, prefix = case.pick(0, _BASES), case.pick(0, _PREFIXES)
    own = bool(case.number(1) % 2) and origin.owns(target.partition("?")[0])
    asked = origin.asked_with(target, keyless=bool(case.number(2) % 2))
    assert asked.partition("?")[0] == target.partition("?")[0]
    if not case.number(2) % 2:
        assert asked.startswith(target.rstrip("?") if target.endswith("?") else target)
    # The API gives what follows /v1 in a path, or a whole one.
    for aimed in (target, asked) if target[:1] in {"", "/", "?"} else ():
        try:
            url = origin.url(aimed, own=own)
        except BadTargetError:
            continue
        sent = url.raw_path_qs
        assert sent in {prefix + aimed or "/", aimed} if own else sent == (prefix + aimed or "/")
        assert url.origin() == URL(str(origin.url(""))).origin()
        assert (url.user, url.password, url.raw_fragment) == (None, None, "")
        assert not came or re.fullmatch(r"[!-~]+", sent), "it would break the request line"


def _check_gate(case: Case, target: str, rest: list[str]) -> bool:
    """Say whether the gate lets a target in; what it lets in is plain."""
    coming = Coming(target)
    coming.method = case.pick(3, ("GET", "POST", "HEAD", "TRACE", "CONNECT", "get"))
    coming.version = case.pick(3, (HttpVersion11,) * 6 + (HttpVersion10, object()))
    for line in rest[0].split("\n") if rest else ():
        name, _, value = line.partition(":")
        coming.headers.add(name, value.strip(" "))
    refused = _GATE.refuse(cast("web.BaseRequest", coming))
    if refused is not None:
        assert 400 <= refused.status <= 599
        assert json.loads(refused.body)["error"]["message"]
        return False
    assert not target.startswith("//")
    assert _ORIGIN_FORM.fullmatch(target)
    assert coming.method in {"GET", "POST", "HEAD"}
    assert coming.headers.get("Sec-Fetch-Site") != "cross-site"
    assert "Origin" not in coming.headers
    return True


# --- requests ---


def check_request(data: bytes) -> None:
    """Look at a request. Knobs: 0 method, 1 what its body is, 2 own path. Bodies: target, body."""
    case = Case(data)
    target = case.bodies[0].decode("utf-8", "surrogateescape")
    body = case.bodies[-1]
    form = None
    if case.number(1) % 3 == 1:
        pairs = (x.partition("=") for x in body.decode("utf-8", "replace").split("\n"))
        form = {name: value for name, _, value in pairs}
    request = Request(
        case.pick(0, ("POST", "GET", "DELETE", "HEAD")),
        target,
        None if case.number(1) % 3 else body,
        form=form,
        own_path=bool(case.number(2) % 2),
    )
    assert 1 <= request.choices <= MAX_CHOICES
    assert -1 <= request.starting_after < 10**18
    assert isinstance(request.model, str)
    assert {request.asks_stream, request.deterministic, request.background, request.stored} <= {
        True,
        False,
    }
    assert "?" not in request.path
    assert isinstance(request.response_id, str)
    assert isinstance(request.choices_known, bool)
    assert endpoint_of(request) in GRAMMARS
    grammar_for(request, quirks(case.number(3)))
    assert request.asking("") is request
    other = request.asking("m2")
    assert other.model in {"m2", request.model}
    assert {**other.json, "model": None} == {**request.json, "model": None}
    if request.body is not None and request.method == "POST":
        _check_against_json(request)


def _check_against_json(request: Request) -> None:
    """Compare what is seen in passing with what is there."""
    try:
        found = json.loads((request.body or b"").decode())
    except (ValueError, RecursionError):
        return
    found = found if isinstance(found, dict) else {}
    assert request.asks_stream == (
        found.get("stream") is True or found.get("stream_format") == "sse"
    )
    assert request.model == (found["model"] if isinstance(found.get("model"), str) else "")
    assert request.background == (found.get("background") is True)
    assert request.stored == (found.get("store") is not False)


# --- errors ---

_STATUSES = (0, 400, 401, 404, 408, 409, 429, 500, 502, 503, 529)


def check_errors(data: bytes) -> None:
    """Read an error out of anything, and tell it. Knobs: 0 its status, 1 the endpoint."""
    case = Case(data)
    error = read_error(case.body, case.pick(0, _STATUSES))
    assert 400 <= error.status <= 599
    assert error.message
    assert error.type
    assert error.code != ""
    assert not (error.transient and error.policy)
    reply = reply_of(error)
    assert reply.status == error.status
    assert json.loads(reply.body)["error"]["message"] == error.message
    asked = case.pick(1, SHAPES)
    given = Journal(1000)
    given.give(Event(b"", case.body.split(b"\n")[0] or b"{}"))
    told = grammar_for(asked.request).error_events(error, given)
    assert told
    for event in told:
        assert event.encode().count(b"\n") == (3 if event.name else 2)
        assert isinstance(json.loads(event.data), dict)
