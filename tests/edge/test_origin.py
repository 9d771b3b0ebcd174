"""From a target to the URL that is asked: byte for byte, below one base or at own paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.origin import BadTargetError, Origin

BASE = "https://api.example/v1"
AZURE = ("/openai",)


def sent(origin: Origin, target: str, *, own: bool = False) -> str:
    """Return what will stand in the request line."""
    return origin.url(target, own=own).raw_path_qs


# --- below the base -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "target", "line"),
    [
        (BASE, "/chat/completions", "/v1/chat/completions"),
        (BASE, "/x?limit=2&after=a%2Fb&x=%zz", "/v1/x?limit=2&after=a%2Fb&x=%zz"),
        (BASE, "", "/v1"),
        ("https://api.example", "", "/"),
        ("https://api.example", "/chat", "/chat"),
        ("http://api.example:8080/api/v1", "/a//b/./c", "/api/v1/a//b/./c"),
    ],
)
def test_a_target_is_sent_below_the_base_as_it_is(base: str, target: str, line: str) -> None:
    """Nothing is decoded, put in order or left out."""
    origin = Origin(base)
    assert sent(origin, target) == line
    assert str(origin.url(target).origin()) == base.partition("/v1")[0].removesuffix("/api")


@pytest.mark.parametrize("target", ["/x#y", "@evil.example/x", ":99/x", ".evil.example/x"])
def test_a_target_that_cannot_be_sent_so_is_refused(target: str) -> None:
    """It must not become another one, nor another host."""
    with pytest.raises(BadTargetError):
        Origin("https://api.example").url(target)


@given(st.text(max_size=30))
def test_no_target_leaves_the_origin(target: str) -> None:
    """Whatever is asked, it goes to this host or nowhere."""
    try:
        url = Origin(BASE).url(target)
    except BadTargetError:
        return
    assert str(url.origin()) == "https://api.example"
    assert url.raw_path_qs == "/v1" + target


# --- own paths ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "owned"),
    [
        ("/openai", True),
        ("/openai/", True),
        ("/openai/deployments/d/chat/completions", True),
        ("/openai-else", False),
        ("/openaix/y", False),
        ("/x/openai", False),
        ("/OPENAI/x", False),
        ("", False),
        ("/", False),
    ],
)
def test_a_path_is_owned_by_whole_segments(path: str, *, owned: bool) -> None:
    """What only begins alike is not."""
    assert Origin(BASE, paths=AZURE).owns(path) is owned
    assert not Origin(BASE).owns(path)


DEPLOYMENT = "/openai/deployments/d/chat/completions?api-version=1"


@pytest.mark.parametrize(
    ("base", "line"),
    [
        ("https://r.example", DEPLOYMENT),
        ("https://r.example/openai", DEPLOYMENT),
        ("https://r.example/openai/v1", DEPLOYMENT),
        ("https://r.example/eu/openai/v1", "/eu" + DEPLOYMENT),
        ("https://r.example/gateway", "/gateway" + DEPLOYMENT),
        ("https://r.example/v1", DEPLOYMENT),
        ("https://r.example/gateway/v1", "/gateway/v1" + DEPLOYMENT),
        ("https://r.example/openai-gateway/v1", "/openai-gateway/v1" + DEPLOYMENT),
    ],
)
def test_an_own_path_stands_where_the_base_has_it(base: str, line: str) -> None:
    """What of the base's path repeats it is left out, and nothing in front of that.

    A bare ``/v1`` is where one party's API begins, and no path of a gateway.
    """
    assert sent(Origin(base, paths=AZURE), DEPLOYMENT, own=True) == line


@pytest.mark.parametrize(
    "target",
    [
        *(
            "/openai/..",
            "/openai/../admin",
            "/openai/x/../../admin?y=1",
            "/openai/./x",
            "/openai/.",
        ),
        *("/openai/%2e%2E/admin", "/openai/.%2e/admin", "/openai/%2E", "/openai/..;/admin"),
        *("/openai/..%2fadmin", "/openai/x%2F..", "/openai/..\\admin", "/openai/%5c..%5Cadmin"),
    ],
)
def test_an_own_path_does_not_lead_out_of_what_is_served(target: str) -> None:
    """Some server on the way would follow it (RFC 3986, 5.2.4)."""
    origin = Origin("https://r.example/openai/v1", paths=AZURE)
    with pytest.raises(BadTargetError):
        origin.url(target, own=True)


@pytest.mark.parametrize(
    "target",
    ["/openai/a..b", "/openai/.hidden", "/openai/x...", "/openai/...", "/openai/x?y=/../z"],
)
def test_dots_that_are_no_segment_are_served(target: str) -> None:
    """Names have dots, and a query leads nowhere."""
    assert sent(Origin("https://r.example", paths=AZURE), target, own=True) == target


def test_the_longest_way_in_counts_for_one_of_several_own_paths() -> None:
    """A path is looked for by its own name, not by that of a neighbour."""
    origin = Origin("https://r.example/b/v1", paths=("/a", "/b"))
    assert sent(origin, "/a/x", own=True) == "/b/v1/a/x"
    assert sent(origin, "/b/x", own=True) == "/b/x"


# --- queries --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("/x", "/x?v=1&w=a%2Fb"),
        ("/x?", "/x?v=1&w=a%2Fb"),
        ("/x?a=b", "/x?a=b&v=1&w=a%2Fb"),
        ("/x?v=2", "/x?v=2&w=a%2Fb"),
        ("/x?v=", "/x?v=&w=a%2Fb"),
        ("/x?v&w=", "/x?v&w="),
        ("/x?vv=2", "/x?vv=2&v=1&w=a%2Fb"),
        ("/x?a=b?v=7", "/x?a=b?v=7&v=1&w=a%2Fb"),
    ],
)
def test_what_an_upstream_needs_is_added_where_it_is_missing(target: str, asked: str) -> None:
    """Behind what was said, which is kept byte for byte."""
    origin = Origin(BASE, query="v=1&w=a%2Fb")
    assert origin.asked_with(target, keyless=False) == asked


@pytest.mark.parametrize("target", ["/x", "/x?", "/x?a=%zz&&=", "/x?key=1&api-key=2"])
def test_without_a_query_of_its_own_a_target_stays_as_it_is(target: str) -> None:
    """A caller's own key included, which goes to whom it is for."""
    assert Origin(BASE).asked_with(target, keyless=False) == target


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("/x?api-key=k", "/x"),
        ("/x?API_KEY=k&a=b", "/x?a=b"),
        ("/x?a=b&key=k", "/x?a=b"),
        ("/x?a=b&access_token=k&c=d", "/x?a=b&c=d"),
        ("/x?token=&token=k", "/x"),
        ("/x?monkey=1&keyed=2&tokens=3", "/x?monkey=1&keyed=2&tokens=3"),
        ("/x", "/x"),
        ("/x?", "/x"),
    ],
)
def test_a_caller_s_key_does_not_go_along_with_another_one(target: str, asked: str) -> None:
    """Wherever it stands in the query, and nothing that is only called alike."""
    assert Origin(BASE).asked_with(target, keyless=True) == asked


def test_a_query_is_added_to_what_a_key_was_taken_from() -> None:
    """Both at once."""
    origin = Origin(BASE, query="api-version=1")
    assert origin.asked_with("/x?api-key=k", keyless=True) == "/x?api-version=1"


def test_an_origin_knows_its_host() -> None:
    """For logs and metrics, without a port."""
    assert Origin("http://127.0.0.1:8080/v1").host == "127.0.0.1"
    assert Origin("http://[::1]:80/v1").host == "::1"
