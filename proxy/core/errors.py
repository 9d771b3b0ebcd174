"""Errors as upstreams tell them and as clients must hear them.

Knows the forms of error objects found in the field and which of them are worth another
attempt. Must not know which endpoint they came from or how they are framed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

UPSTREAM_ERROR = "upstream_error"
STREAM_INCOMPLETE = "stream_incomplete"

_DETERMINISTIC = {
    "insufficient_quota": 429,
    "quota_exceeded": 429,
    "billing": 429,
    "invalid_api_key": 401,
    "authentication": 401,
    "unauthorized": 401,
    "permission": 403,
    "forbidden": 403,
    "unsupported_country": 403,
    "model_not_found": 404,
    "not_found": 404,
    "context_length": 400,
    "data_residency": 400,
    "invalid": 400,
    "validation": 400,
    "tool_use_failed": 400,
    "unsupported": 400,
    "bad_request": 400,
}
"""Words in a code or type that make an error the request's own fault, with its HTTP status."""

_POLICY = (
    *("policy", "content_filter", "content_management", "moderation", "inspection", "safety"),
    *("prohibited", "flagged", "sensitive", "responsibleai", "blocklist"),
)
"""Words for a refusal of the content itself: nobody else is to be asked to say it."""

_ACCOUNT = ("quota", "billing")
"""Words for an account that is spent: the same request has a chance only elsewhere."""

_RETRYABLE_STATUS = frozenset({408, 409, 425, 429})
_OVERLOAD_STATUS = frozenset({429, 503, 529})
_SERVER_ERRORS = 500
_PLAIN_ERROR = re.compile(rb"(?is)\s*error\s*:\s*(\S.*)")
_STATUS_IN_PAGE = re.compile(rb"\b[45][0-9]{2}\b")
_PAGE_BYTES = 4096
_STATUS_CODE = re.compile(r"[45][0-9][0-9]")


@dataclass(frozen=True, slots=True)
class UpstreamError:
    """An error object of the upstream, whatever its form was.

    ``status`` is the HTTP status it stands for; ``transient`` says that the same request may
    succeed a moment later, ``elsewhere`` that another model or account may manage it,
    ``policy`` that its content was refused.
    """

    message: str
    type: str
    code: str | None
    param: str | None
    status: int
    transient: bool
    elsewhere: bool = False
    policy: bool = False

    def as_object(self) -> dict[str, Any]:
        """Return OpenAI's error object, without the ``error`` key around it."""
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP error reply in OpenAI's shape: status, body, and whether an SDK should retry."""

    status: int
    body: bytes
    should_retry: bool = False
    retry_after_s: int | None = None


def error_reply(status: int, code: str, message: str, kind: str = UPSTREAM_ERROR) -> Reply:
    """Make a reply of the proxy's own."""
    return Reply(status, dumps({"error": _object(message, kind, code)}))


def _object(message: str, kind: str, code: str | None) -> dict[str, Any]:
    return {"message": message, "type": kind, "param": None, "code": code}


def dumps(value: object) -> bytes:
    """Write compact JSON as UTF-8 without raw line separators."""
    return json.dumps(value, separators=(",", ":")).encode()


def retryable_status(status: int) -> bool:
    """Say whether an HTTP status is worth another attempt, as the official SDKs see it."""
    return status in _RETRYABLE_STATUS or status >= _SERVER_ERRORS


def read_error(data: bytes, status: int = 0) -> UpstreamError:
    """Read an error out of a JSON text in any of the forms met in the field.

    ``status`` is the HTTP status it came with, or 0 when it came inside a stream.
    """
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    outer = found if isinstance(found, dict) else {}
    inner = outer.get("error")
    response = outer.get("response")
    if isinstance(response, dict) and isinstance(response.get("error"), dict):
        inner = response["error"]
    if isinstance(inner, str):
        inner = {"message": inner}
    if not isinstance(inner, dict):
        inner = {key: value for key, value in outer.items() if key != "type" or value != "error"}
    return _classify(inner, outer, status)


def plain_error(data: bytes) -> UpstreamError | None:
    """Read an error that was written where JSON should be (lucasjinreal/Crane#121), or None."""
    found = _PLAIN_ERROR.fullmatch(data)
    if found is None:
        return None
    return _classify({"message": found[1].decode("utf-8", "replace")}, {}, 0)


def status_told(page: bytes) -> str:
    """Return the HTTP status that an HTML page speaks of, with its phrase, or an empty string.

    Nothing else of it: what a page quotes may be anybody's.
    """
    found = _STATUS_IN_PAGE.search(page[:_PAGE_BYTES])
    if found is None:
        return ""
    number = int(found[0])
    phrases = [status.phrase for status in HTTPStatus if status == number]
    return " ".join([str(number), *phrases])


def told_error(found: dict[str, Any]) -> bool:
    """Say whether a JSON object that came in place of an answer is an error (TGI#1896)."""
    return bool(found.get("error")) or "error" in (found.get("object"), found.get("type"))


def _classify(inner: dict[str, Any], outer: dict[str, Any], status: int) -> UpstreamError:
    code = _text(inner.get("code"))
    kind = _text(inner.get("type")) or _text(outer.get("error_type"))
    message = _text(inner.get("message")) or _text(outer.get("message"))
    words, said = f"{code} {kind}".lower(), (message or "").lower()
    # A message may quote the prompt; it is asked only where nothing else tells.
    telling = code is not None or kind not in {None, "error", UPSTREAM_ERROR}
    policy = any(word in words for word in _POLICY) or (not telling and "usage policy" in said)
    if not policy and not telling and "quota" in said:
        words += " insufficient_quota"
    too_long = "context_length" in words or "maximum context length" in said
    named, transient = (status or 400, False) if policy else _judge(words, code, status)
    return UpstreamError(
        message=message or "The upstream reported an error without saying which.",
        type=kind or UPSTREAM_ERROR,
        code=code,
        param=_text(inner.get("param")),
        status=named,
        transient=transient,
        elsewhere=not policy and (too_long or any(word in words for word in _ACCOUNT)),
        policy=policy,
    )


def _judge(words: str, code: str | None, status: int) -> tuple[int, bool]:
    """Return the HTTP status an error stands for and whether another attempt may help."""
    if status:
        spent = "quota" in words or "billing" in words
        return status, retryable_status(status) and not spent
    for word, meant in _DETERMINISTIC.items():
        if word in words:
            return meant, False
    if code and _STATUS_CODE.fullmatch(code):
        return int(code), retryable_status(int(code))
    if "rate_limit" in words:
        return 429, True
    if "overload" in words or "slow_down" in words or "unavailable" in words:
        return 503, True
    # Known to be passing (server_error, timeouts) or not known at all: one more attempt costs
    # little, a lost answer costs more.
    return 502, True


def _text(value: object) -> str | None:
    if isinstance(value, bool) or value is None or isinstance(value, dict | list):
        return None
    return str(value) or None


def reply_of(error: UpstreamError, *, should_retry: bool = False) -> Reply:
    """Turn an error told inside a stream into the HTTP reply it should have been."""
    fallback = "overloaded" if error.status in _OVERLOAD_STATUS else STREAM_INCOMPLETE
    body = error.as_object()
    if error.transient:
        body["code"] = error.code or fallback
    busy = error.transient and error.status in _OVERLOAD_STATUS
    after = 1 if busy else None
    return Reply(error.status, dumps({"error": body}), should_retry, after)
