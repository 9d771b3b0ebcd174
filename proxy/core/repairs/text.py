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


def escape_controls(data: bytes) -> list[bytes] | None:
    """Escape raw control characters inside strings, which JSON forbids (RFC 8259, 7)."""
    mended = _STRING.sub(
        lambda found: _CONTROL.sub(lambda c: b"\\u%04x" % c.group()[0], found.group()), data
    )
    return [mended] if mended != data and is_json(mended) else None
