"""Headers: what crosses the proxy in each direction, and in what form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.loopback import Pairs
from proxy.headers import STREAM_HEADERS, is_event_stream, to_client, to_upstream

VIA = "1.1 wholestream-0"

HOP_BY_HOP = [
    "Connection",
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
]
"""RFC 9110, 7.6.1, and the two names that were never standard but are sent."""

NOT_UPSTREAM = [
    *HOP_BY_HOP,
    "Host",
    "Cookie",
    "Expect",
    "Last-Event-ID",
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Real-IP",
    "X-Wholestream-Recovery",
]

UPSTREAM = [
    "Authorization",
    "api-key",
    "x-api-key",
    "OpenAI-Organization",
    "OpenAI-Project",
    "OpenAI-Beta",
    "X-Client-Request-Id",
    "Idempotency-Key",
    "User-Agent",
    "X-Stainless-Retry-Count",
    "Content-Type",
    "Content-Length",
    "Accept",
    "traceparent",
    "X-Request-ID",
]

NOT_DOWNSTREAM = [*HOP_BY_HOP, "Set-Cookie", "Alt-Svc", "Strict-Transport-Security"]

DOWNSTREAM = [
    "x-request-id",
    "openai-processing-ms",
    "openai-organization",
    "x-ratelimit-remaining-tokens",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "cf-ray",
    "Date",
    "Location",
]

NEVER_NAMED_AWAY = [
    "Authorization",
    "api-key",
    "x-api-key",
    "OpenAI-Organization",
    "OpenAI-Project",
    "OpenAI-Beta",
    "Content-Type",
    "Content-Length",
    "Accept",
]


def sent(*pairs: tuple[str, str], stream: bool = False) -> Pairs:
    """Return what goes upstream for a client's headers, without our own Via."""
    kept = [*to_upstream(pairs, via=VIA, stream=stream).items()]
    assert kept.pop() == ("Via", VIA)
    return kept


def given_on(*pairs: tuple[str, str], stream: bool = False) -> Pairs:
    """Return what the client gets for an upstream's headers."""
    return [*to_client(pairs, stream=stream).items()]


# --- upstream ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOT_UPSTREAM)
def test_what_is_meant_for_the_proxy_is_not_sent_upstream(name: str) -> None:
    """Hop-by-hop headers, cookies, and whatever tells where the call came from."""
    for spelled in (name, name.lower(), name.upper()):
        assert sent((spelled, "x")) == []


@pytest.mark.parametrize("name", UPSTREAM)
def test_what_is_meant_for_the_upstream_is_sent_as_it_is(name: str) -> None:
    """Name and value unchanged, in their order, repetitions too."""
    pairs = [(name, "b"), ("X-Other", ""), (name, "a, b;q=0.1\tc")]
    assert sent(*pairs) == pairs


@pytest.mark.parametrize("name", NEVER_NAMED_AWAY)
def test_a_key_is_never_named_away(name: str) -> None:
    """``Connection: authorization`` would take the key off without anybody noticing."""
    pairs = [("Connection", f"close, {name.lower()}"), (name, "v")]
    assert sent(*pairs) == [(name, "v")]


def test_a_header_that_connection_names_is_not_sent_upstream() -> None:
    """Also where there are several, in any case, with odd spaces."""
    pairs = [("Connection", "x-one ,X-TWO"), ("CONNECTION", "x-three"), ("X-Four", "4")]
    named = [("X-One", "1"), ("x-two", "2"), ("X-Three", "3")]
    assert sent(*pairs, *named) == [("X-Four", "4")]


def test_a_stream_is_asked_for_without_compression() -> None:
    """Whatever the client offered; for anything else its offer is passed on."""
    offer = ("accept-encoding", "gzip, br")
    assert sent(offer) == [offer]
    assert to_upstream([offer], via=VIA, stream=True).getall("Accept-Encoding") == ["identity"]
    assert to_upstream([], via=VIA, stream=True)["Accept-Encoding"] == "identity"


def test_the_proxies_before_us_stay_named_in_via() -> None:
    """Or else a loop through two instances would not be seen by either (RFC 9110, 7.6.3)."""
    pairs = [("via", "1.0 a, 1.1 b"), ("Via", "1.1 c")]
    kept = to_upstream(pairs, via=VIA, stream=False)
    assert kept.getall("Via") == [f"1.0 a, 1.1 b, 1.1 c, {VIA}"]


@pytest.mark.parametrize("name", ["X Y", "X:Y", "", "X\r\nY", "X\u00e9", "X\x00", "(X)"])
def test_a_name_that_is_no_token_does_not_cross(name: str) -> None:
    """In neither direction."""
    assert sent((name, "v")) == []
    assert given_on((name, "v")) == []


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\x00b", "\x1b[2J", "\x7f"])
def test_a_value_with_a_control_character_does_not_cross(value: str) -> None:
    """In neither direction; a tab is allowed."""
    assert sent(("X-A", value), ("X-B", "b\tc")) == [("X-B", "b\tc")]
    assert given_on(("X-A", value), ("X-B", "b\tc")) == [("X-B", "b\tc")]


def test_bytes_that_are_not_utf8_are_read_as_latin1() -> None:
    """As aiohttp gives them, its own writer would leave them out without a word."""
    latin = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert sent(("X-Title", latin)) == [("X-Title", "caf\u00e9")]
    assert given_on(("X-Title", "caf\u00e9 \u4e2d")) == [("X-Title", "caf\u00e9 \u4e2d")]


# --- to the client ----------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", NOT_DOWNSTREAM)
def test_what_is_meant_for_the_proxy_is_not_given_to_the_client(name: str, stream: bool) -> None:  # noqa: FBT001 - a column of the table
    """Hop-by-hop headers, cookies for another domain, and promises about another origin."""
    mark = "not-given-on"
    for spelled in (name, name.lower(), name.upper()):
        assert mark not in str(given_on((spelled, mark), stream=stream))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", DOWNSTREAM)
def test_what_tells_about_the_answer_is_given_to_the_client(name: str, stream: bool) -> None:  # noqa: FBT001 - a column of the table
    """Several values stay several."""
    pairs = [(name, "1"), (name, "2")]
    assert given_on(*pairs, stream=stream)[:2] == pairs


def test_a_header_that_the_upstreams_connection_names_is_not_given_on() -> None:
    """It belongs to that connection."""
    pairs = [("Connection", "close, X-Hop"), ("x-hop", "1"), ("X-End", "2")]
    assert given_on(*pairs) == [("X-End", "2")]


def test_a_stream_has_the_framing_of_the_proxy() -> None:
    """One of each, as the contract has them, and no length or coding of the upstream's."""
    pairs = [
        ("Content-Type", "text/event-stream"),
        ("content-type", "application/json"),
        ("Content-Length", "5"),
        ("Content-Encoding", "gzip"),
        ("Cache-Control", "public"),
        ("X-Accel-Buffering", "yes"),
        ("Connection", "close"),
    ]
    assert given_on(*pairs, stream=True) == [*STREAM_HEADERS.items()]
    assert dict(STREAM_HEADERS) == {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
        "Connection": "keep-alive",
    }


def test_what_is_no_stream_keeps_its_framing() -> None:
    """The body passes as it is, so its type, length and coding do."""
    pairs = [("Content-Type", "image/png"), ("Content-Length", "5"), ("Content-Encoding", "gzip")]
    assert given_on(*pairs) == pairs


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("text/event-stream", True),
        ("text/event-stream; charset=utf-8", True),
        ("Text/Event-Stream ;charset=UTF-8", True),
        ("text/event-stream2", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_an_event_stream_is_known_by_its_type(kind: str, verdict: bool) -> None:  # noqa: FBT001 - a column of the table
    """Whatever its parameters and case."""
    assert is_event_stream({"Content-Type": kind}) is verdict
    assert is_event_stream({}) is False


# --- whatever comes ---------------------------------------------------------------------

KNOWN = [*NOT_UPSTREAM, *NOT_DOWNSTREAM, *UPSTREAM, *DOWNSTREAM, "Via"]
TEXT = st.text(
    st.characters(max_codepoint=0xFF) | st.sampled_from("\r\n\0\t,; \udcff"), max_size=20
)
NAMES = st.sampled_from(KNOWN) | st.sampled_from(KNOWN).map(str.swapcase) | TEXT
CONNECTION = st.tuples(st.just("connection"), st.lists(NAMES, max_size=3).map(", ".join))
HEADERS = st.lists(st.tuples(NAMES, TEXT) | CONNECTION, max_size=8)


@given(pairs=HEADERS, stream=st.booleans())
def test_nothing_hostile_ever_crosses(pairs: Pairs, stream: bool) -> None:  # noqa: FBT001 - given by hypothesis
    """No hop-by-hop header, no control character or line end, nothing that cannot be written."""
    hop_by_hop = {name.lower() for name in HOP_BY_HOP}
    up = to_upstream(pairs, via=VIA, stream=stream)
    down = to_client(pairs, stream=stream)
    assert not hop_by_hop & {name.lower() for name in up}
    assert {name.lower() for name in down} & hop_by_hop <= {"connection"}
    assert down.getall("Connection", []) == (["keep-alive"] if stream else [])
    for name, value in [*up.items(), *down.items()]:
        assert name.isascii()
        assert name.isprintable()
        assert not set(name) & set(' :\r\n"(),/;<=>?@[]{}\\')
        assert not any((char < " " and char != "\t") or char == "\x7f" for char in value)
        value.encode()


@given(pairs=HEADERS)
def test_what_crosses_is_what_came(pairs: Pairs) -> None:
    """Nothing is invented but what the proxy is known to add, and nothing is put in other order."""
    up = to_upstream(pairs, via=VIA, stream=False)
    assert up.popall("Via")
    names = [name for name, _ in pairs]
    for kept in (list(up), list(to_client(pairs, stream=False))):
        rest = iter(names)
        assert all(name in rest for name in kept)
