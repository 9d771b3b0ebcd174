"""What a captured body may look like: heads, compression, which endpoint, JSON and no stream."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest
from captures import (
    CHAT,
    COMPLETION,
    EVENT_STREAM,
    RESPONSE,
    WHOLE,
    gzipped,
    head,
    keys,
    named,
    places,
)
from support import DONE, FAMILIES, chunk, raw, sse

from proxy.lint.capture import CaptureError
from proxy.lint.endpoints import ENDPOINTS
from proxy.lint.reading import lint
from proxy.lint.sdks import Fate
from proxy.lint.verdict import Ending, KnownBy

# --- what stands around a body --------------------------------------------------------------


def test_of_several_heads_the_last_one_counts() -> None:
    """Proxies and redirects come first."""
    heads = head(100, ()) + head(302, ()) + head()
    assert lint(heads + WHOLE).findings == ()
    verdict = lint(head() + head(429) + b"{}")
    assert (keys(verdict), verdict.ending) == (["http_status"], Ending.BROKEN)


def test_a_head_may_have_bare_line_ends_and_no_body() -> None:
    """Editors change line ends."""
    assert lint(head().replace(b"\r\n", b"\n") + WHOLE).findings == ()
    assert keys(lint(head())) == ["empty_stream"]


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzipped),
        ("deflate", zlib.compress),
        ("gzip", bytes),
        ("deflate", bytes),
        ("br", bytes),
        ("zstd", bytes),
    ],
)
def test_a_head_may_name_a_compression_that_curl_took_off(
    coding: str, pack: Callable[[bytes], bytes]
) -> None:
    """What the bytes are goes before what the head says."""
    packed = pack(WHOLE)
    verdict = lint(head(headers=(*EVENT_STREAM, ("Content-Encoding", coding))) + packed)
    assert verdict.clean
    assert (verdict.decoded, verdict.events) == (packed != WHOLE, len(CHAT))


def test_a_compression_that_is_not_known_cannot_be_judged() -> None:
    """And it is said what to do."""
    with pytest.raises(CaptureError, match="curl --compressed"):
        lint(head(headers=(("Content-Encoding", "br"),)) + b"\x8b\x02\x80")


def test_a_compressed_body_that_was_cut_is_a_cut_body() -> None:
    """What can be decoded is judged."""
    verdict = lint(gzipped(WHOLE)[:-60])
    assert verdict.decoded
    assert not verdict.clean


def test_a_large_compressed_body_is_cut_into_the_same_blocks() -> None:
    """It is decoded in pieces, which end anywhere."""
    body = sse(*CHAT[:3]) + b": ping\r\n\r\n" * 30_000 + b"data: no\n\n"
    plain, packed = lint(body), lint(gzipped(body))
    assert places(packed) == {"decoded_body": 0, **places(plain)}
    assert places(packed)["malformed_event"] == len(body) - len(b"data: no\n\n")


def test_a_compressed_event_may_be_larger_than_a_part() -> None:
    """What is not whole yet is not looked at."""
    large = sse(CHAT[0], chunk(content="x" * 3 * 2**20), CHAT[3])
    verdict = lint(gzipped(large + b"event: ping\n\n" + DONE))
    assert places(verdict) == {"decoded_body": 0, "dropped_dataless": len(large)}


# --- what it is of --------------------------------------------------------------------------

AZURE = {"choices": [], "id": "", "object": "", "prompt_filter_results": []}


@pytest.mark.parametrize(
    ("body", "endpoint"),
    [
        (sse(AZURE, *CHAT), "chat_completions"),
        (sse(AZURE, {"object": "text_completion", "choices": []}), "completions"),
        (sse(AZURE, {"choices": [{"text": "Hi"}]}), "completions"),
        (b"data: {broken\n\n" + named(*RESPONSE), "responses"),
        (sse({"error": {"message": "x"}}), "chat_completions"),
        (sse({"type": "error", "sequence_number": 0}), "responses"),
        (sse({"error": {"message": "x"}}, *RESPONSE), "responses"),
        (DONE, "chat_completions"),
        (sse(b"data: " + raw(CHAT[0])), "chat_completions"),
        (sse({"id": 7, "object": "thread.run", "type": None}), "threads"),
        (sse({"type": "agent.session.created"}), "other"),
        (sse({"type": "image_edit.completed"}), "images"),
        (sse({"type": "transcript.text.delta"}), "audio"),
        (sse({"step": 1}), "other"),
        (b": nothing\n\n" * 99 + sse(*CHAT), "chat_completions"),
        (b"", "chat_completions"),
        (raw({"object": "response", "status": "completed"}), "responses"),
        (raw({"created": 1, "data": [{"b64_json": ""}]}), "images"),
        (raw({"text": "Hello"}), "audio"),
        (sse(CHAT[0])[:-1], "chat_completions"),
    ],
)
def test_the_endpoint_is_told_by_the_first_events(body: bytes, endpoint: str) -> None:
    """By whichever of them says it."""
    assert lint(body).endpoint == endpoint


def test_the_caller_may_know_better() -> None:
    """Nothing is guessed then."""
    verdict = lint(sse({"step": 1}), "responses")
    assert (verdict.endpoint, verdict.known_by) == ("responses", KnownBy.CALLER)
    assert keys(verdict) == ["clean_eof"]


def test_there_is_a_request_for_every_family() -> None:
    """And the core takes it for one of that family."""
    assert {endpoint.partition("_")[0] for endpoint in ENDPOINTS} == set(FAMILIES)


# --- JSON in place of a stream --------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "found", "ending"),
    [
        (raw({"error": {"message": "x", "code": "overloaded"}}), "in_stream_error", Ending.BROKEN),
        (raw(COMPLETION), "json_to_sse", Ending.DOCUMENT),
        (b'{"choices": [', "cut_mid_event", Ending.BROKEN),
        (b"[1, 2]", "malformed_event", Ending.BROKEN),
        (b"\n\n {}", "clean_eof", Ending.BROKEN),
    ],
)
def test_json_is_no_stream(body: bytes, found: str, ending: Ending) -> None:
    """It is said what it is; the SDKs read nothing in it and notice nothing."""
    verdict = lint(body)
    assert found in {finding.name for finding in verdict.findings}
    assert not verdict.clean
    assert verdict.ending is ending
    assert {verdict.outcome(sdk).fate for sdk in ("python", "node")} == {Fate.SILENT}
