"""Data that is not one JSON value, but plainly several, or one that was broken up or wrapped.

Each function takes the data of an event that its grammar refused and returns the data of the
events it should have been, or None where it cannot be sure. What it returns is judged again.
"""

from __future__ import annotations

import json
import re

from proxy.core.grammars.base import DONE, is_json, parse

_raw_decode = json.JSONDecoder().raw_decode
_STUMP = re.compile(r"(?:u[0-9a-fA-F]{0,4}|t(?:ru?)?|f(?:a(?:ls?)?)?|n(?:ul?)?|-|[.eE][+-]?)?")
"""What is left where JSON stops inside an escape, a word or a number; or nothing is left."""

_MOST_VALUES = 10_000
"""More than a whole stream has chunks is no forgotten blank line, and each costs an event."""

_PREFIXES = re.compile(rb"^(?:data: *)*+")


def drop_keepalive(data: bytes) -> list[bytes] | None:
    """Drop a comment that was wrapped: ``data: : keepalive`` (anomalyco/opencode#50871)."""
    return [] if data.startswith(b":") and b"\n" not in data else None


def bare_done(data: bytes) -> list[bytes] | None:
    """Put the brackets around a bare ``DONE`` (googleapis/java-genai#1084)."""
    return [DONE] if data.strip() == b"DONE" else None


def strip_prefix(data: bytes) -> list[bytes] | None:
    """Take off a second ``data:`` in front of JSON or ``[DONE]`` (paiml/aprender#2015)."""
    rest = _PREFIXES.sub(b"", data, count=1)
    return [rest] if rest != data and _is_whole(rest) else None


def drop_nul(data: bytes) -> list[bytes] | None:
    """Take NUL bytes off both ends of JSON or ``[DONE]``; inside they are part of the data."""
    bare = data.strip(b"\0")
    return [bare] if bare != data and _is_whole(bare) else None


def join_lines(data: bytes) -> list[bytes] | None:
    """Join a JSON value that was broken over several ``data:`` lines (SamSaffron/term-llm#454)."""
    if b"\n" not in data:
        return None
    for joint in (b"\n", b""):
        joined = data.replace(b"\n", joint)
        if is_json(joined):
            return [joined]
    return None


def split_values(data: bytes) -> list[bytes] | None:
    """Split several whole JSON objects, or ``[DONE]``, in one event.

    Blank lines between events are forgotten (anomalyco/opencode#27365) or several chunks are
    written into one (danny-avila/LibreChat#4820).
    """
    text = data.decode("utf-8", "replace")
    values: list[bytes] = []
    at = 0
    while at < len(text):
        if text.startswith("[DONE]", at):
            end = at + len(DONE)
        elif text[at] == "{":
            try:
                _, end = _raw_decode(text, at)
            except (ValueError, RecursionError):
                return None
        else:
            return None
        if len(values) == _MOST_VALUES:
            return None
        values.append(text[at:end].encode())
        while end < len(text) and text[end].isspace():
            end += 1
        at = end
    return values if len(values) > 1 else None


def is_beginning(data: bytes) -> bool:
    """Say whether the data is a JSON object up to where it stops, so that its rest may follow."""
    if not data.startswith(b"{"):
        return False
    try:
        parse(data)
    except json.JSONDecodeError as error:
        left = error.doc[error.pos :].rstrip()
        return error.msg.startswith("Unterminated string") or _STUMP.fullmatch(left) is not None
    except (ValueError, RecursionError):
        return False
    return False


def _is_whole(data: bytes) -> bool:
    return data == DONE or is_json(data)
