"""Errors as upstreams tell them (vllm-project/vllm#27194), and the replies made of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import raw

from proxy.core.errors import (
    UpstreamError,
    dumps,
    error_reply,
    plain_error,
    read_error,
    reply_of,
    retryable_status,
    status_told,
    told_error,
)

# The forms met in the field, each with what it must be read as.
FIELD_FORMS = {
    "quota by its message": (
        b'{"error":{"message":"quota exceeded"}}',
        UpstreamError(
            "quota exceeded", "upstream_error", None, None, 429, transient=False, elsewhere=True
        ),
    ),
    "a string": (
        b'{"error":"STREAM_EXPLODED"}',
        UpstreamError("STREAM_EXPLODED", "upstream_error", None, None, 502, transient=True),
    ),
    "LM Studio, told twice": (
        b'{"error":{"message":"Compute error."},"message":"Compute error."}',
        UpstreamError("Compute error.", "upstream_error", None, None, 502, transient=True),
    ),
    "TGI, type beside it": (
        b'{"error":"Input validation error: `top_p`","error_type":"validation"}',
        UpstreamError(
            "Input validation error: `top_p`", "validation", None, None, 400, transient=False
        ),
    ),
    "nested overload": (
        (
            b'{"type":"error","sequence_number":2,"error":{"type":"service_unavailable_error",'
            b'"code":"server_is_overloaded","message":"busy","param":null}}'
        ),
        UpstreamError(
            "busy", "service_unavailable_error", "server_is_overloaded", None, 503, transient=True
        ),
    ),
    "flat Responses form": (
        b'{"type":"error","code":"400","message":"not found","sequence_number":5}',
        UpstreamError("not found", "upstream_error", "400", None, 400, transient=False),
    ),
    "Anthropic overload": (
        b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}',
        UpstreamError("Overloaded", "overloaded_error", None, None, 503, transient=True),
    ),
    "response.failed": (
        b'{"type":"response.failed","response":{"error":{"code":"server_error","message":"m"}}}',
        UpstreamError("m", "upstream_error", "server_error", None, 502, transient=True),
    ),
    "a code that is a number": (
        b'{"error":{"code":503,"message":"m","param":"p"}}',
        UpstreamError("m", "upstream_error", "503", "p", 503, transient=True),
    ),
    "flat with a kind of its own": (
        b'{"type":"invalid_request_error","message":"m"}',
        UpstreamError("m", "invalid_request_error", None, None, 400, transient=False),
    ),
}


@pytest.mark.parametrize(("data", "expected"), FIELD_FORMS.values(), ids=FIELD_FORMS)
def test_each_form_met_in_the_field_is_read(data: bytes, expected: UpstreamError) -> None:
    """Message, type, code and param are found wherever they stand."""
    assert read_error(data) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not json",
        b"\xff",
        b"5",
        b"null",
        b'"text"',
        b"[]",
        b"{}",
        b'{"error":[]}',
        b'{"error":{"message":{},"code":[],"type":true}}',
        b'{"response":{"error":null}}',
        b"[" * 100_000,
    ],
    ids=ascii,
)
def test_an_error_that_says_nothing_may_pass(data: bytes) -> None:
    """Not knowing it, one more attempt costs little."""
    error = read_error(data)
    assert error.message == "The upstream reported an error without saying which."
    assert (error.type, error.code, error.param) == ("upstream_error", None, None)
    assert (error.status, error.transient) == (502, True)


@pytest.mark.parametrize(
    ("code", "status", "transient"),
    [
        ("server_error", 502, True),
        ("timeout", 502, True),
        ("vector_store_timeout", 502, True),
        ("rate_limit_exceeded", 429, True),
        ("server_is_overloaded", 503, True),
        ("slow_down", 503, True),
        ("insufficient_quota", 429, False),
        ("billing_not_active", 429, False),
        ("invalid_api_key", 401, False),
        ("authentication_error", 401, False),
        ("permission_error", 403, False),
        ("unsupported_country_region_territory", 403, False),
        ("model_not_found", 404, False),
        ("context_length_exceeded", 400, False),
        ("content_policy_violation", 400, False),
        ("content_filter", 400, False),
        ("bio_policy", 400, False),
        ("data_residency_mismatch", 400, False),
        ("invalid_prompt", 400, False),
        ("tool_use_failed", 400, False),
        ("408", 408, True),
        ("429", 429, True),
        ("529", 529, True),
        ("422", 422, False),
        ("200", 502, True),
        ("999", 502, True),
        ("4000", 502, True),
        ("٤٠٤", 502, True),
    ],
)
def test_a_code_says_whether_another_attempt_may_help(
    code: str,
    status: int,
    transient: bool,  # noqa: FBT001
) -> None:
    """Deterministic errors are never repeated, and keep the status they stand for."""
    for error in (read_error(raw({"error": {"code": code}})), read_error(raw({"code": code}))):
        assert (error.status, error.transient) == (status, transient)


@pytest.mark.parametrize(
    ("status", "body", "transient"),
    [
        (429, b'{"error":{"code":"rate_limit_exceeded"}}', True),
        (429, b'{"error":{"code":"insufficient_quota"}}', False),
        (429, b'{"error":{"type":"billing_error"}}', False),
        (429, b'{"error":{"message":"You exceeded your current quota"}}', False),
        (503, b"<html>", True),
        (400, b'{"error":{"code":"server_error"}}', False),
        (500, b'{"error":{"code":"invalid_request_error"}}', True),
    ],
)
def test_the_http_status_decides_where_there_is_one(
    status: int,
    body: bytes,
    transient: bool,  # noqa: FBT001
) -> None:
    """Words count only for a quota that is spent."""
    error = read_error(body, status)
    assert (error.status, error.transient) == (status, transient)


@pytest.mark.parametrize(
    ("status", "worth_it"),
    [
        (400, False),
        (401, False),
        (404, False),
        (408, True),
        (409, True),
        (422, False),
        (425, True),
        (429, True),
        (499, False),
        (500, True),
        (599, True),
    ],
)
def test_retryable_statuses_are_those_of_the_sdks(status: int, worth_it: bool) -> None:  # noqa: FBT001
    """408, 409, 425, 429 and all of 5xx."""
    assert retryable_status(status) is worth_it


@pytest.mark.parametrize(
    ("error", "elsewhere"),
    [
        ({"code": "context_length_exceeded"}, True),
        ({"message": "This model's Maximum context length is 8192 tokens."}, True),
        ({"code": "insufficient_quota"}, True),
        ({"message": "You exceeded your current quota"}, True),
        ({"type": "billing_error"}, True),
        ({"code": "billing_hard_limit_reached"}, True),
        ({"code": "content_policy_violation"}, False),
        ({"code": "content_filter"}, False),
        ({"code": "invalid_prompt"}, False),
        ({"code": "invalid_api_key"}, False),
        ({"code": "server_error"}, False),
        ({"message": "m"}, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("status", [0, 400, 429])
def test_a_prompt_too_long_or_a_spent_account_may_do_elsewhere(
    error: dict[str, str],
    elsewhere: bool,  # noqa: FBT001
    status: int,
) -> None:
    """Another model or account may manage what this one will not; a refusal stays one."""
    assert read_error(raw({"error": error}), status).elsewhere is elsewhere


def test_json_is_compact_ascii() -> None:
    """No raw separator of any kind can get into an event of our own."""
    assert dumps({"a": "é\u2028\n🐳"}) == b'{"a":"\\u00e9\\u2028\\n\\ud83d\\udc33"}'


def test_a_reply_of_the_proxys_own_has_openais_shape() -> None:
    """Clients know what to do with it."""
    reply = error_reply(503, "overloaded", "Too many.", "server_error")
    assert (reply.status, reply.should_retry, reply.retry_after_s) == (503, False, None)
    told = {"message": "Too many.", "type": "server_error", "param": None, "code": "overloaded"}
    assert json.loads(reply.body) == {"error": told}


@pytest.mark.parametrize(
    ("data", "status", "code", "after"),
    [
        (b'{"error":{"code":"context_length_exceeded"}}', 400, "context_length_exceeded", None),
        (b'{"error":{"type":"invalid_request_error"}}', 400, None, None),
        (b'{"error":{"code":"server_error"}}', 502, "server_error", None),
        (b'{"error":"gone"}', 502, "stream_incomplete", None),
        (b'{"error":{"type":"overloaded_error"}}', 503, "overloaded", 1),
        (b'{"error":{"code":"rate_limit_exceeded"}}', 429, "rate_limit_exceeded", 1),
        (b'{"error":{"code":"insufficient_quota"}}', 429, "insufficient_quota", None),
    ],
)
def test_an_error_told_inside_a_stream_becomes_the_reply_it_should_have_been(
    data: bytes, status: int, code: str | None, after: int | None
) -> None:
    """The real status; where it may pass, a code and a time to come back."""
    reply = reply_of(read_error(data))
    assert (reply.status, reply.retry_after_s, reply.should_retry) == (status, after, False)
    assert json.loads(reply.body)["error"]["code"] == code
    assert reply_of(read_error(data), should_retry=True).should_retry


# --- errors that are no JSON, or stand where an answer should ---


@pytest.mark.parametrize(
    ("data", "message", "status", "transient"),
    [
        (b"error: out of memory", "out of memory", 502, True),
        (b"Error:x", "x", 502, True),
        (b" \n ERROR : two\nlines ", "two\nlines ", 502, True),
        (b"error: quota exceeded", "quota exceeded", 429, False),
        (b"error: \xff", "\ufffd", 502, True),
        (b"error: error: x", "error: x", 502, True),
    ],
)
def test_an_error_in_plain_text_has_its_words_as_the_message(
    data: bytes,
    message: str,
    status: int,
    transient: bool,  # noqa: FBT001 - the expectation
) -> None:
    """lucasjinreal/Crane#121; nothing else is known of it."""
    error = plain_error(data)
    assert error is not None
    assert (error.message, error.code, error.type) == (message, None, "upstream_error")
    assert (error.status, error.transient) == (status, transient)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"error", b"error:", b"error:  ", b"errors: x", b"an error: x", b"error x"),
        *(b'{"error": "x"}', b'"error: x"', b"Error 500: x", b"errorx: y"),
    ],
)
def test_any_other_text_is_no_plain_error(data: bytes) -> None:
    """JSON has its own forms."""
    assert plain_error(data) is None


@pytest.mark.parametrize(
    ("page", "status"),
    [
        (b"<h1>502 Bad Gateway</h1>", "502 Bad Gateway"),
        (b"<title>503 Service Temporarily Unavailable</title>", "503 Service Unavailable"),
        (b"<p>Error 404</p><p>500</p>", "404 Not Found"),
        (b"<html>\n429", "429 Too Many Requests"),
        (b"<p>Error 599</p>", "599"),
        (b"<p>HTTP/1.1 200 OK</p>", ""),
        (b"<p>5020 5.02 x502x 302</p>", ""),
        (b"<p>Dear jane@example.com</p>", ""),
        (b"", ""),
        (b"<p>" + b" " * 5000 + b"502", ""),
        (b"\xff\xfe 504", "504 Gateway Timeout"),
    ],
)
def test_of_a_page_its_status_is_told_and_nothing_else(page: bytes, status: str) -> None:
    """What it quotes may be anybody's."""
    assert status_told(page) == status


@pytest.mark.parametrize(
    ("found", "is_error"),
    [
        ({"error": {"message": "m"}}, True),
        ({"error": "m"}, True),
        ({"type": "error", "message": "m"}, True),
        ({"object": "error", "message": "m"}, True),
        ({"error": None}, False),
        ({"error": {}}, False),
        ({"error": ""}, False),
        ({"type": "errors", "object": "chat.completion"}, False),
        ({"type": ["error"], "object": {"error": 1}}, False),
        ({}, False),
    ],
    ids=str,
)
def test_an_object_says_by_its_fields_whether_it_is_an_error(
    found: dict[str, Any],
    is_error: bool,  # noqa: FBT001 - the expectation
) -> None:
    """Whatever it stands in the place of (TGI#1896)."""
    assert told_error(found) is is_error
