"""Connections that have left HTTP: what one of them gives, the other is sent.

Knows how aiohttp's protocols hand over what is no HTTP, and how a connection is held up. Must
not know whose connections these are, or what the bytes mean.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

from aiohttp import ClientResponse
from aiohttp.base_protocol import BaseProtocol


class Raw(BaseProtocol):
    """An HTTP connection that can be one end of a tunnel; to be mixed in before aiohttp's own."""

    way_in: Way | None = None
    """Where what is sent here comes from."""
    way_out: Way | None = None
    """Where what comes from here is sent."""
    resumed: Callable[[], None] | None = None
    """Told that more can be written again."""
    held_up: Callable[[], None] | None = None
    """Told that nothing more should be written."""

    @property
    def upgraded(self) -> bool:
        """Whether what comes next is no HTTP."""
        return self._upgraded

    def pause_writing(self) -> None:
        """Take no more."""
        super().pause_writing()
        if self.held_up is not None:
            self.held_up()

    def resume_writing(self) -> None:
        """Take more."""
        super().resume_writing()
        if self.way_in is not None:
            self.way_in.go_on()
        if self.resumed is not None:
            self.resumed()

    def eof_received(self) -> None:
        """Note that the other side has ended, though it may not have read everything yet."""
        super().eof_received()
        if self.way_out is not None:
            self.way_out.feed_eof()


class Way:
    """One direction between two connections, at the pace of the slower one.

    What ``source`` gives, ``sink`` is sent; ``over`` is called once ``source`` has ended. It is
    fed by aiohttp as its own reader of WebSockets would be.
    """

    def __init__(self, source: Raw, sink: Raw, over: Callable[[], None]) -> None:
        """Prepare; nothing is sent before ``open``."""
        self._source = source
        self._sink = sink
        self._over = over
        self.ended = False
        """Whether the source has ended."""
        self.size = 0
        """Bytes sent so far."""

    def open(self) -> None:
        """Send what came behind the last of HTTP, and all that is to come."""
        self._source.way_out = self._sink.way_in = self
        # The second argument is a body to the one protocol, a callback to the other: neither is.
        cast("Any", self._source).set_parser(self, None)
        if self._source.transport is None:
            self.feed_eof()  # it was lost before there was anybody to be told

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Send one read on, or drop it behind the end of the sink, and hold the source up."""
        transport = self._sink.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)
            self.size += len(data)
            if self._sink.writing_paused:
                self._source.pause_reading()
        return False, b""

    def feed_eof(self) -> None:
        """Note the source's end; what came before it is sent."""
        if not self.ended:
            self.ended = True
            self._over()

    def go_on(self) -> None:
        """Let the source give more."""
        self._source.resume_reading()


def switched(response: ClientResponse) -> Raw | None:
    """Return the connection of an answer after which it speaks WebSocket, else None."""
    connection, protocol = response.connection, response.headers.get("Upgrade", "")
    wire = connection.protocol if connection else None
    if response.status != HTTPStatus.SWITCHING_PROTOCOLS or not isinstance(wire, Raw):
        return None
    return wire if wire.upgraded and protocol.strip().lower() == "websocket" else None
