"""The pool of upstream connections: one that speaks out of turn is never used again.

Knows aiohttp's connector and protocol. Must not know requests. An upstream that sends a second
answer, or a late 408, on an idle connection would have it taken for the answer to the next
request: to somebody else's question (aiohttp 3.14.5 keeps such a connection).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import aiohttp
from aiohttp import StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage

from proxy.intake import Intake
from proxy.raw import Raw

_Factory = functools.partial[ResponseHandler]


class Wire(Raw, ResponseHandler):
    """One connection. ``idle`` while it is in the pool."""

    idle = False
    sink: Callable[[], None] | None = None
    """Told of each read, once it lies in the answer's body, and of the connection's end."""
    between = False
    """Whether a chunk is sure to begin with the next byte: a whole one may bypass the parser."""
    in_chunk = True
    """Whether the parser is inside a chunk, or it is not known, or there are none."""

    def set_response_params(self, **params: Any) -> None:
        """Begin to wait for an answer."""
        self.idle, self.in_chunk, self.between = False, True, False
        super().set_response_params(**params)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Take the head of an answer, whose body begins; one that nobody waits for is refused.

        It may come in the same read as the end of the answer before, which was released by that.
        """
        if self.idle:
            self._refuse()
            return
        if type(data[1]) is StreamReader:  # and not the one of answers without a body
            Intake.of(data[1])
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """Take bytes only while an answer is waited for; aiohttp itself calls with none."""
        if self.idle and data:
            self._refuse()
            return
        super().data_received(data)
        if self.sink is not None:
            # A line end here is the end of a chunk's data, and no part of the next one's size.
            chunk_ended = data.endswith(b"\r\n") and not self.in_chunk
            self.between = chunk_ended and not self._reading_paused
            self.sink()

    def push_to(self, sink: Callable[[], None], lane: Callable[[bytes], None] | None) -> None:
        """Have a sink told of each read from now on, and of the end.

        With a ``lane`` the transport gives that its reads, which it is to give to ``receive``
        unless it takes one itself, and that only ``between`` chunks.
        """
        self.sink, self.between = sink, False
        if lane is not None and self.transport is not None:
            self.data_received = lane  # type: ignore[method-assign, assignment]
            # uvloop looks the method up only then, and not at each read.
            self.transport.set_protocol(self)

    def pull(self, sink: Callable[[], None]) -> None:
        """Have a sink told no more, unless it is that of the next answer already."""
        if self.sink != sink:
            return
        self.sink = None
        if self.__dict__.pop("data_received", None) is not None and self.transport is not None:
            self.transport.set_protocol(self)

    def receive(self, data: bytes) -> None:
        """Take bytes as if there were no lane."""
        Wire.data_received(self, data)

    def _refuse(self) -> None:
        """Give the connection up: what comes now would be taken for the next answer."""
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note the end."""
        super().connection_lost(exc)
        if self.sink is not None:
            self.sink()


class Pool(aiohttp.TCPConnector):
    """A connector without a limit of its own: who may come in is decided at the gate."""

    def __init__(self, **options: Any) -> None:
        """Take the connector's options."""
        super().__init__(limit=0, **options)
        self._factory = cast("_Factory", functools.partial(Wire, loop=self._loop))

    def _release(self, key: Any, protocol: ResponseHandler, **options: Any) -> None:
        if isinstance(protocol, Wire):
            protocol.idle = True
        super()._release(key, protocol, **options)
