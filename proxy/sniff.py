"""What a body is that does not call itself an event stream: events all the same, JSON, a page.

Knows first bytes, compressed or not. Must not know what was asked for.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable

from proxy.decoding import Decoder, UnknownCodingError

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


class Body(enum.Enum):
    """What a body is, by its first bytes."""

    EVENTS = "events"
    JSON = "json"
    HTML = "html"
    NOTHING = "nothing"
    OTHER = "other"


_BY_FIRST_BYTE = {b"{": Body.JSON, b"[": Body.JSON, b"<": Body.HTML}


def kind_of(data: bytes, *, ended: bool) -> Body | None:
    """Judge by the first bytes that are no white space; None while there are too few."""
    verdict = looks_like_events(data, ended=ended)
    if verdict is None or verdict:
        return Body.EVENTS if verdict else None
    text = data.removeprefix(_BOM).lstrip()
    if not text:
        return Body.NOTHING if ended else Body.OTHER
    return _BY_FIRST_BYTE.get(text[:1], Body.OTHER)


async def sniffed(read: Callable[[], Awaitable[bytes]], coding: str) -> tuple[bytes, Body]:
    """Read until it is known; return what was read, and what it is.

    ``coding`` is how the body is compressed, if at all; what is returned still is.
    """
    try:
        decoder = Decoder(coding)
    except UnknownCodingError:
        return b"", Body.OTHER
    data = text = b""
    kind = None
    while kind is None:
        more = await read()
        data += more
        for piece in decoder.feed(more):
            text += piece
            kind = kind_of(text, ended=False)
            if kind is not None:
                return data, kind  # of a read that decodes to gigabytes too
        if not more:
            kind = kind_of(text, ended=True)
        elif len(data) > _ENOUGH:
            kind = Body.OTHER  # a head of gzip has names of any length
    return data, kind
