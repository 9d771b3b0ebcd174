"""Whether a body is an event stream although it does not say so.

Knows the first bytes of event streams. Must not know headers.
"""

from __future__ import annotations

_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
_BOM = b"\xef\xbb\xbf"


def looks_like_events(data: bytes, *, ended: bool) -> bool | None:
    """Judge by the first bytes; None while there are too few (faults: #31)."""
    text = data.removeprefix(_BOM).lstrip()
    if text.startswith(_FIELDS):
        return True
    if not ended and any(field.startswith(text) for field in _FIELDS):
        return None
    return False
