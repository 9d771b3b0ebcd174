"""The upstream's answer to one attempt: read with deadlines, or taken as it comes.

Knows aiohttp's answers, and how a body broke off. Must not know what was asked, or what is done
about a fault.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import time
from datetime import UTC

import aiohttp
from multidict import CIMultiDictProxy

from proxy.core.fault import Fault
from proxy.intake import Intake
from proxy.pool import Wire
from proxy.raw import switched


class UpstreamFault(Exception):  # noqa: N818 - a fault is the field's word
    """An attempt that ended other than by a proper end of its body."""

    def __init__(self, fault: Fault, detail: str = "", *, stale: bool = False) -> None:
        """Name the fault; ``stale`` means that a pooled connection died before any answer."""
        super().__init__(fault.value)
        self.fault = fault
        self.detail = detail
        self.stale = stale


class Answer:
    """The upstream's answer to one attempt."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        """Take over a response whose headers are read."""
        self._response = response
        connection = response.connection
        self._protocol = connection.protocol if connection else None
        self._over = None if self._protocol is None else self._protocol.closed
        if self._over is not None:
            self._over.add_done_callback(self._wake)
        self.status = response.status
        self.switched = switched(response)
        """The connection, where it speaks WebSocket from now on."""

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The headers, as sent."""
        return self._response.headers

    @property
    def retry_after_s(self) -> float | None:
        """Seconds the upstream asks to wait, or None."""
        return retry_after(self.headers)

    @property
    def wire(self) -> Wire | None:
        """The connection, while there is something to come, and not just to be taken."""
        wire = self._protocol
        return wire if isinstance(wire, Wire) and not (self.over or wire.idle) else None

    @property
    def over(self) -> bool:
        """Whether nothing more will come; what came may be untaken, and how it ended unsaid."""
        content, wire = self._response.content, self._protocol
        lost = wire is not None and wire.transport is None
        return lost or content.is_eof() or content.exception() is not None

    @property
    def taken(self) -> bool:
        """Whether all of the body came, to its proper end, and was taken."""
        content = self._response.content
        return content.at_eof() and content.exception() is None

    def take(self) -> bytes:
        """Return at once all bytes that are there, or none."""
        content = self._response.content
        return content.take() if isinstance(content, Intake) else b""

    async def read(self, deadline: float | None = None) -> bytes:
        """Return all bytes that are there, at least one; nothing at the proper end of the body.

        Raises TimeoutError when ``deadline`` (loop time) passes first, losing nothing, and
        UpstreamFault when the body breaks off, after all that came before was returned.
        """
        content, wire = self._response.content, self._protocol
        if wire is not None and wire.transport is None:
            self._break()  # ``_wake`` may have its turn only after us, and aiohttp would raise
        try:
            async with asyncio.timeout_at(deadline):
                data = await content.readany()
        except aiohttp.ClientError:
            # readany() raises at once, before it hands out what had come (aiohttp 3.14.5);
            # those bytes may hold the end of the answer (opensandbox-group/OpenSandbox#1461).
            data = content._read_nowait(-1)  # noqa: SLF001 - no public way to them
            if not data:
                raise UpstreamFault(self._how_it_broke()) from None
        if not data and self._was_reset():
            # A close-delimited body ends "cleanly" even by a reset.
            raise UpstreamFault(Fault.RESET)
        return data

    async def read_head(self, size: int, seconds: float) -> bytes:
        """Return the body's beginning: about ``size`` bytes, or what came in so many seconds.

        Raises UpstreamFault when the body breaks off before anything came; what breaks it off
        later is told by the next read.
        """
        data = bytearray()
        try:
            await self._read_into(data, size, seconds)
        except UpstreamFault:
            if not data:
                raise
        return bytes(data)

    async def ends(self, size: int, seconds: float) -> bool:
        """Read on for about ``size`` bytes or so many seconds; say whether that was all.

        Raises UpstreamFault when the body breaks off.
        """
        return await self._read_into(bytearray(), size, seconds)

    async def _read_into(self, data: bytearray, size: int, seconds: float) -> bool:
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            while len(data) < size:
                more = await self.read(deadline)
                if not more:
                    return True
                data += more
        except TimeoutError:
            pass
        return False

    def close(self) -> None:
        """Close the connection at once, unless the body was read to its end."""
        if self._over is not None:
            self._over.remove_done_callback(self._wake)
            # The connection may live on, and somebody must look at how it ended: but only one.
            self._over.remove_done_callback(_look)
            self._over.add_done_callback(_look)
        self._response.close()

    def _wake(self, over: asyncio.Future[None]) -> None:
        """End a body whose chunks are none: aiohttp forgets who waits for it (3.14.5)."""
        _look(over)
        self._break()

    def _break(self) -> None:
        content = self._response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError())

    def _how_it_broke(self) -> Fault:
        return Fault.RESET if self._was_reset() else Fault.CUT_BETWEEN_EVENTS

    def _was_reset(self) -> bool:
        error = None if self._protocol is None else self._protocol.exception()
        return isinstance(error, OSError) and not isinstance(error, aiohttp.ServerDisconnectedError)


def _look(over: asyncio.Future[None]) -> None:
    if not over.cancelled():
        over.exception()


def retry_after(headers: CIMultiDictProxy[str]) -> float | None:
    """Read ``retry-after-ms`` or ``retry-after`` (seconds or date) as seconds, as SDKs do."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "")
    seconds = _number(value)
    if seconds is not None:
        return seconds
    try:
        when = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, when.timestamp() - time.time())


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else max(0.0, number)
