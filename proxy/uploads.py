"""The fields of a multipart upload that come before its files: whether a stream is asked for.

Knows the form of multipart bodies (RFC 7578) as far as text fields in front of the first file.
Clients that put the file first (openai-node does) are streamed through all the same, and what
they asked for is seen by the answer. Must not know what the fields mean, and keeps no file.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from aiohttp import StreamReader

_MOST = 64 * 1024
"""More bytes than this are not looked at."""

_BOUNDARY = re.compile(r'(?i)\bboundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))')
_NAME = re.compile(rb'(?i)[;\s]name="([^"\r\n]{1,64})"')
_FILE = re.compile(rb"(?i)[;\s]filename\*?=")
_LONGEST_MARK = len(b";filename*=") - 1


class Upload:
    """A body that streams through; what was looked at comes first again."""

    def __init__(self, head: bytes, content: StreamReader) -> None:
        """Take what was read, and where the rest comes from."""
        self._head = head
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Give the body in the pieces that it came in."""
        if self._head:
            yield self._head
        while more := await self._content.readany():
            yield more


async def opened(content: StreamReader, content_type: str) -> tuple[dict[str, str] | None, Upload]:
    """Return the text fields before the first file, None where there can be none, and the body.

    Reads up to the first file, or 64 KiB. Raises what the reader raises.
    """
    boundary = _boundary_of(content_type)
    if boundary is None:
        return None, Upload(b"", content)
    head = bytearray()
    found = None
    while len(head) < _MOST and found is None:
        more = await content.readany()
        if not more:
            break
        # From where a mark that is split over two reads may have begun.
        start = max(0, len(head) - _LONGEST_MARK)
        head += more
        found = _FILE.search(head, start)
    return fields_of(bytes(head), boundary), Upload(bytes(head), content)


def fields_of(body: bytes, boundary: bytes) -> dict[str, str]:
    """Return the whole text fields of a multipart body, or of its beginning, up to a file."""
    found: dict[str, str] = {}
    # The last part is not whole: what ends a part is the next boundary.
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary)[1:-1]:
        head, blank, value = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if _FILE.search(head):
            break
        if name is not None and blank:
            found[name[1].decode("utf-8", "replace")] = value.decode("utf-8", "replace")
    return found


def _boundary_of(content_type: str) -> bytes | None:
    kind = content_type.partition(";")[0].strip().lower()
    found = _BOUNDARY.search(content_type)
    if kind != "multipart/form-data" or found is None:
        return None
    return (found[1] or found[2]).encode("latin-1", "replace")
