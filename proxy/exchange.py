"""What the parts of one request under way share: its session, its clocks, its two sides.

Knows when patience is up on either side, and how an attempt's end is told to the session. Must
not know what an answer is, or in which order things are done: ``reception`` and ``relay`` do.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from aiohttp import web

from proxy.answer import Answer
from proxy.clocks import Clocks, patiently
from proxy.core.commands import Finish, Open
from proxy.core.fault import AttemptEnd, Fault
from proxy.core.request import Request
from proxy.core.session import StreamSession
from proxy.core.states import State
from proxy.downstream import Downstream
from proxy.edge import Edge
from proxy.record import Record
from proxy.replies import SERVER

_T = TypeVar("_T")


@dataclass
class Exchange:
    """One client request under way. ``answer`` is the upstream's, while there is one."""

    edge: Edge
    client: web.BaseRequest
    request: Request
    session: StreamSession
    clocks: Clocks
    record: Record
    down: Downstream
    stream: bool
    """Whether it is a stream that is answered with, as far as that is known."""
    sent: asyncio.Event
    """Set once the request is sent, which an upload is not before its end."""
    answer: Answer | None = None
    broken: bool = False
    """Whether the last attempt ended other than by a proper end of its body."""
    unsent: bytes = b""
    """The last events of a complete stream, to be written together with the body's end."""

    def limit(self) -> float:
        """Return when the upstream's silence becomes a fault."""
        grammar = self.session.grammar
        # An upload may take as long as it takes, a stream without an end be silent for ever.
        forever = grammar.open_ended if self.answer is not None else not self.sent.is_set()
        if forever or not self.stream:
            return math.inf
        some = self.session.data_events > 0
        finished = some and grammar.finished
        owed = finished and grammar.request.asks_usage and not grammar.usage
        return self.clocks.upstream_limit(begun=some, finished=finished, owed=owed)

    def due(self) -> float:
        """Return when the client must hear something."""
        if not self.stream or not self.sent.is_set() or self.down.collecting:
            return math.inf
        return self.clocks.client_due(self.down.last_write if self.down.response else None)

    def receive(self, data: bytes) -> bytes:
        """Give the session a read, return what is to be written now.

        The last events of a complete stream are not: they leave with the body's end.
        """
        before = self.session.data_events
        out = self.session.receive_data(data)
        if self.session.data_events > before:
            self.event_came()
        if self.session.state is State.COMPLETE:
            self.unsent = out
            return b""
        return out

    def event_came(self) -> None:
        """Note that a data event came, if only one, or several at once."""
        self.record.events_came(self.clocks.event_came())

    def body_was_sent(self) -> None:
        """Let time begin, once."""
        if not self.sent.is_set():
            self.clocks.body_was_sent()
            self.sent.set()

    async def tick(self) -> None:
        """Let the client hear something."""
        if self.down.response is not None:
            await self.down.beat()
            return
        held = self.session.commit_by_time()
        await self.down.open_stream(self.answer, self.record.asked)
        await self.down.write(held, flush=True)

    async def patiently(
        self, work: Coroutine[Any, Any, _T], limit: Callable[[], float] = lambda: math.inf
    ) -> _T:
        """Await work that is no read; raises TimeoutError at the limit."""
        turn = None if self.sent.is_set() else self.sent
        return await patiently(work, limit, self.due, self.tick, turn)

    def end(self, fault: Fault | None, *, detail: str = "", stale: bool = False) -> Open | Finish:
        """Tell the session that the attempt is over, return what follows."""
        self.broken = fault is not None
        clocks = self.clocks
        return self.decide(
            AttemptEnd(fault, clocks.age_s, clocks.gap_s, stale=stale, detail=detail)
        )

    def decide(self, end: AttemptEnd) -> Open | Finish:
        """Tell the session how the attempt ended, return what follows."""
        command = self.session.receive_end(end, self.clocks.now())
        self.record.note_incidents()
        if isinstance(command, Open):
            self.record.broke()
        return command

    def is_stream(self) -> None:
        """Note that it is a stream that is answered with."""
        self.stream = True
        self.record.is_stream()


def exchange_of(
    edge: Edge, client: web.BaseRequest, request: Request, cors: Mapping[str, str]
) -> Exchange:
    """Begin the exchange of a request that was let in; must be called in the running loop."""
    clocks = Clocks(edge.settings)
    policy = edge.policy
    if policy.quirks.aggregate and not request.asks_stream:
        # Nothing is given before the end anyway.
        cap = edge.settings.max_event_bytes
        policy = replace(policy, hold="all", journal_max_bytes=cap)
    session = StreamSession(request, policy, edge.budget, edge.breakers)
    record = Record(edge, client, request, session, asyncio.get_running_loop().time)
    own = {"Server": SERVER, "x-wholestream-request-id": record.id, **cors}
    down = Downstream(client, own, edge.settings.max_event_bytes)
    sent = asyncio.Event()
    if request.body is not None:
        sent.set()
    stream = request.asks_stream
    return Exchange(edge, client, request, session, clocks, record, down, stream, sent)
