"""Which headers cross the proxy, and how they look on the other side.

Knows names and the rules of RFC 9110 7.6.1 and of the contract's edges. Must not know what a
request is for. Multi-valued headers stay multi-valued; nothing is invented but what is named here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping

from multidict import CIMultiDict

_NO_NAME = ""
"""What stands for a name that is none, and goes nowhere."""

_HOP_BY_HOP = frozenset(
    {
        _NO_NAME,
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_UPSTREAM = _HOP_BY_HOP | {
    "cookie",
    "expect",
    "forwarded",
    "host",
    "last-event-id",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-wholestream-recovery",
}
_NOT_DOWNSTREAM = _HOP_BY_HOP | {"alt-svc", "set-cookie", "strict-transport-security"}
_FRAMING = frozenset(
    {"cache-control", "content-encoding", "content-length", "content-type", "x-accel-buffering"}
)
_NEVER_NAMED_AWAY = frozenset(
    {
        "accept",
        "api-key",
        "authorization",
        "content-length",
        "content-type",
        "openai-beta",
        "openai-organization",
        "openai-project",
        "x-api-key",
    }
)
"""``Connection: authorization`` must not take a key away without anybody noticing."""

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
    # Node 20 takes a chunked body that was cut under "close" for a whole one, so it is never said.
    "Connection": "keep-alive",
}


def to_upstream(headers: Iterable[tuple[str, str]], *, via: str, stream: bool) -> CIMultiDict[str]:
    """Return the request headers to send on; a stream is asked for without compression."""
    pairs = list(headers)
    named = _named_by_connection(pairs) - _NEVER_NAMED_AWAY
    kept = _kept(pairs, _NOT_UPSTREAM | named)
    if stream:
        kept["Accept-Encoding"] = "identity"
    # Those before us stay named, or a loop through two instances would never be seen (RFC 9110,
    # 7.6.3).
    before = [pair for pair in pairs if pair[0].lower() == "via"]
    kept["Via"] = ", ".join([*_kept(before, _HOP_BY_HOP).values(), via])
    return kept


def to_client(headers: Iterable[tuple[str, str]], *, stream: bool) -> CIMultiDict[str]:
    """Return the response headers to send on; a stream gets its own framing headers."""
    pairs = list(headers)
    dropped = _NOT_DOWNSTREAM | _named_by_connection(pairs)
    if stream:
        dropped |= _FRAMING
    kept = _kept(pairs, dropped)
    if stream:
        kept.update(STREAM_HEADERS)
    return kept


def is_event_stream(headers: Mapping[str, str]) -> bool:
    """Say whether an answer calls itself an event stream."""
    kind = headers.get("Content-Type", "").partition(";")[0]
    return kind.strip().lower() == "text/event-stream"


def _named_by_connection(pairs: Iterable[tuple[str, str]]) -> frozenset[str]:
    return frozenset(
        name.strip().lower()
        for key, value in pairs
        if key.lower() == "connection"
        for name in value.split(",")
    )


def _kept(pairs: Iterable[tuple[str, str]], dropped: frozenset[str]) -> CIMultiDict[str]:
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in pairs:
        if _known(name) in dropped:
            continue
        if value.isascii() and value.isprintable():
            kept.add(name, value)
        elif not _BAD_VALUE.search(value):
            kept.add(name, _writable(value))
    return kept


@functools.lru_cache(maxsize=1024)
def _known(name: str) -> str:
    """Return a name as it stands in the tables."""
    return name.lower() if _NAME.fullmatch(name) else _NO_NAME


def _writable(value: str) -> str:
    """Read bytes that are not UTF-8 as Latin-1: aiohttp would leave them out without a word."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value
