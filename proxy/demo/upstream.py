r"""A server that misbehaves on demand: the upstream of the demonstration and of the tests.

Knows connections, attempts and who asked what; which answer is given is for the scenarios,
or for the script of a test, and how it gets on the wire is for ``wire``.

::

    async with MisbehavingUpstream() as upstream:
        upstream.script("m", [Answer(status=0, end="reset"), sse(b"data: [DONE]\n\n")])
        ...  # ask upstream.base_url for model "m"
        assert [request.attempt for request in upstream.requests] == [1, 2]
        await upstream.wait_closed(upstream.requests[0].connection)
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from proxy.demo.answers import Answer, Answering, Asked
from proxy.demo.bodies import made_by
from proxy.demo.scenarios import answer_for
from proxy.demo.wire import HEAD_BYTES, Received, read_request, send

MOST_IMAGES = 10
"""OpenAI's own ceiling for ``n``."""

_ENDPOINTS = {
    name: re.compile(f".*{ending}")
    for name, ending in {
        "chat_completions": "/chat/completions",
        "completions": "/completions",
        "responses": "/responses.*",
        "images": "/images/(generations|edits)",
        "audio": "/audio/(transcriptions|speech)",
        "threads": "/threads/([^/]+/)?runs(/[^/]+/submit_tool_outputs)?",
        "agents": "/agents/sessions(/[^/]+(/events)?)?",
        "models": "/models",
    }.items()
}
"""By the end of the path, so that any prefix before it is served as well."""

_EVENTS = re.compile(r".*/agents/sessions/[^/]+/events")


@dataclass(slots=True)
class Connection:
    """One client connection, numbered from 1. Times are ``loop.time()``, in seconds.

    ``closed_by_peer`` says that it was the client that ended it, by FIN or RST, and then
    ``closed_at`` is when that was noticed.
    """

    number: int
    opened_at: float
    requests: int = 0
    closed_at: float | None = None
    closed_by_peer: bool = False
    ended_here: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event, repr=False)


class MisbehavingUpstream:
    """An OpenAI-compatible server on 127.0.0.1 that answers as its scenarios say.

    The scenario is the ``model`` of the JSON body, or of the query where there is no body. A
    background response is asked for again by its id, and is that of the attempt that made it.
    ``requests`` and ``connections`` hold all there were, in order of arrival.
    """

    def __init__(self, port: int = 0) -> None:
        """Listen on ``port`` once entered; 0 takes any free one."""
        self._asked_port = port
        self._server: asyncio.Server | None = None
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._attempts: Counter[str] = Counter()
        self._scripts: dict[str, Answering] = {}
        self._arrival = asyncio.Event()
        self.port = 0
        self.requests: list[Received] = []
        self.connections: list[Connection] = []

    async def __aenter__(self) -> Self:
        """Start to listen."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self._asked_port, limit=HEAD_BYTES
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Close everything at once."""
        if self._server is None:
            return
        self._server.close()
        # Not by cancelling the handlers: CPython 3.11 logs a cancelled one as an error.
        for number, writer in self._writers.items():
            self.connections[number - 1].ended_here = True
            writer.transport.abort()
        for connection in self.connections:
            await connection.over.wait()
        await self._server.wait_closed()

    @property
    def base_url(self) -> str:
        """What an application's ``OPENAI_BASE_URL`` would be."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def open_connections(self) -> int:
        """How many client connections are open now."""
        return sum(connection.closed_at is None for connection in self.connections)

    def script(self, model: str, answer: Answer | Sequence[Answer] | Answering) -> None:
        """Answer requests for ``model`` so: always, one an attempt (the last repeats), or asked.

        The attempts for the model count from 1 again. The empty name stands for requests that
        name no model.
        """
        self.rewind(model)
        if callable(answer):
            self._scripts[model] = answer
            return
        answers = [answer] if isinstance(answer, Answer) else list(answer)
        self._scripts[model] = lambda _, attempt: answers[min(attempt, len(answers)) - 1]

    def rewind(self, model: str | None = None) -> None:
        """Count attempts from 1 again, for one model or for all."""
        if model is None:
            self._attempts.clear()
        else:
            del self._attempts[model]

    async def wait_requests(self, count: int) -> None:
        """Wait until ``count`` requests have been read in all."""
        while len(self.requests) < count:
            self._arrival.clear()
            await self._arrival.wait()

    async def wait_closed(self, number: int) -> float:
        """Wait until connection ``number`` is over, return when that was."""
        connection = self.connections[number - 1]
        await connection.over.wait()
        return connection.closed_at or 0.0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or not self._server.is_serving():
            writer.transport.abort()
            return
        loop = asyncio.get_running_loop()
        connection = Connection(len(self.connections) + 1, loop.time())
        self.connections.append(connection)
        self._writers[connection.number] = writer
        writer.transport.set_write_buffer_limits(high=0)
        # Reading goes on while an answer is under way: that is how a client's leaving is seen.
        waiting: asyncio.Queue[Received] = asyncio.Queue()
        answering = asyncio.create_task(self._answer(connection, waiting, writer))
        try:
            with contextlib.suppress(ValueError):
                while (request := await read_request(reader, writer)) is not None:
                    waiting.put_nowait(self._record(request, connection))
                connection.closed_by_peer = not connection.ended_here
        finally:
            connection.closed_at = loop.time()
            answering.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await answering
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            del self._writers[connection.number]
            connection.over.set()

    def _record(self, request: Received, connection: Connection) -> Received:
        self._attempts[request.model] += 1
        connection.requests += 1
        attempt = self._attempts[request.model]
        recorded = replace(request, connection=connection.number, attempt=attempt)
        self.requests.append(recorded)
        self._arrival.set()
        return recorded

    async def _answer(
        self,
        connection: Connection,
        waiting: asyncio.Queue[Received],
        writer: asyncio.StreamWriter,
    ) -> None:
        answered = 0
        try:
            while await send(self._choose(await waiting.get(), reused=answered > 0), writer):
                answered += 1
            connection.ended_here = True
        finally:
            writer.close()

    def _choose(self, request: Received, *, reused: bool) -> Answer:
        asked = asked_by(request, reused=reused)
        attempt = asked.made or request.attempt
        answer = self._scripts.get(asked.model, answer_for)(asked, attempt)
        if request.method == "HEAD":
            return replace(answer, framing="length", length=answer.size, pieces=())
        return answer


def asked_by(request: Received, *, reused: bool = False) -> Asked:
    """Return what a request asks for."""
    fields, path = request.fields, request.path.rstrip("/")
    options = fields.get("stream_options")
    model, made = made_by(path)
    after = str(fields.get("starting_after", ""))
    count = str(fields.get("n", ""))
    return Asked(
        endpoint=_endpoint_of(path),
        model=model or request.model,
        stream=_asks_stream(fields, path),
        usage=isinstance(options, dict) and options.get("include_usage") is True,
        reused=reused,
        background=fields.get("background") is True or bool(made),
        made=made,
        after=int(after) if made and after.isdecimal() else -1,
        path=path,
        count=min(int(count), MOST_IMAGES) if count.isdecimal() else 1,
        prefilled=_is_prefilled(fields.get("messages")),
    )


def _asks_stream(fields: dict[str, Any], path: str) -> bool:
    if path.endswith("/audio/speech"):
        return fields.get("stream_format") == "sse"
    # The events of a session have no other form.
    return fields.get("stream") in (True, "true") or _EVENTS.fullmatch(path) is not None


def _is_prefilled(messages: object) -> bool:
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == "assistant"


def _endpoint_of(path: str) -> str:
    found = (name for name, pattern in _ENDPOINTS.items() if pattern.fullmatch(path))
    return next(found, "other")
