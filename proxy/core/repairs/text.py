r"""Text that is legal JSON but breaks clients: bad UTF-8, raw line separators.

Applies to events that are not plain ASCII. Escaped forms (``\u2028``) are ASCII and so are
never touched; the value of every string stays the same but for bytes that were no character.
"""

from __future__ import annotations

import re

from proxy.core.grammars.base import is_json

_SEPARATORS = (
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
    (b"\xc2\x85", b"\\u0085"),
)
_STRING = re.compile(rb'"(?:[^"\\]|\\.?)*+"?', re.DOTALL)
"""A string, or what is left of one: without its end it must not be sought from every quote."""
_CONTROL = re.compile(rb"[\x01-\x1f]")
"""All but NUL: that is no character somebody forgot to escape, and what it hides is not known."""

_BROKEN_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*+\\[\x00-\x1f]")
"""A backslash before what is to be escaped: that would escape the backslash, and make up text."""

_CONTROLS = bytes(range(1, 32))
_MOST_CONTROLS = 100_000
"""No text has more of them; each becomes an object before it is six bytes."""


def replace_utf8(data: bytes) -> bytes | None:
    """Replace bytes that are not UTF-8 by U+FFFD; SDKs die of them (ggml-org/llama.cpp#4036)."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace").encode()
    return None


def escape_separators(data: bytes) -> bytes | None:
    """Escape U+0085, U+2028, U+2029, where ``str.splitlines`` cuts (openai/openai-python#1230)."""
    mended = data
    for separator, escape in _SEPARATORS:
        mended = mended.replace(separator, escape)
    return mended if mended != data else None


def is_clean(text: bytes) -> bool:
    """Say whether there is nothing in a text that the two repairs above would change."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return not any(separator in text for separator, _ in _SEPARATORS)


def escape_controls(data: bytes) -> list[bytes] | None:
    """Escape raw control characters inside strings, which JSON forbids (RFC 8259, 7)."""
    if not 0 < len(data) - len(data.translate(None, _CONTROLS)) <= _MOST_CONTROLS:
        return None
    mended, done = bytearray(), 0
    for found in _STRING.finditer(data):
        start, end = found.span()
        if _BROKEN_ESCAPE.search(data, start, end):
            return None
        if _CONTROL.search(data, start, end):
            mended += data[done:start]
            mended += _CONTROL.sub(lambda control: b"\\u%04x" % control[0][0], found[0])
            done = end
    mended += data[done:]
    return [bytes(mended)] if done and is_json(bytes(mended)) else None
