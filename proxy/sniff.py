"""Whether a body is an event stream although it does not say so.

Knows the first bytes of event streams. Must not know headers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
_BOM = b"\xef\xbb\xbf"
_ENOUGH = 64 * 1024
"""More white space than this before the first field is no event stream."""


def looks_like_events(data: bytes, *, ended: bool) -> bool | None:
    """Judge by the first bytes; None while there are too few (openclaw/openclaw#97474)."""
    text = data.removeprefix(_BOM).lstrip()
    if text.startswith(_FIELDS):
        return True
    if ended or len(data) > _ENOUGH:
        return False
    if _BOM.startswith(data) or any(field.startswith(text) for field in _FIELDS):
        return None
    return False


async def sniffed(read: Callable[[], Awaitable[bytes]]) -> tuple[bytes, bool]:
    """Read until it is known; return what was read, and whether it looks like events."""
    data = b""
    verdict = None
    while verdict is None:
        more = await read()
        data += more
        verdict = looks_like_events(data, ended=not more)
    return data, verdict
