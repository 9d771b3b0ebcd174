"""What the tests share: the streams, and short ways to write events, requests and sessions.

Knows the core's outside. Nothing here decides what is right: that is for the tests.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import settings

from proxy.core.budget import RetryBudget
from proxy.core.commands import Finish, Open
from proxy.core.fault import AttemptEnd, Fault, IncidentOutcome, Phase
from proxy.core.policy import Policy
from proxy.core.request import Request
from proxy.core.session import StreamSession

settings.register_profile("proxy", deadline=None, derandomize=True, max_examples=300)
settings.load_profile("proxy")

HERE = Path(__file__).parent
STREAMS = {path.stem: path.read_bytes() for path in sorted((HERE / "streams").glob("*.sse"))}
"""The invented streams of ``tests/streams``."""

RECORDED = HERE.parent.parent / "shared" / "streams"
"""Real recorded streams. They live beside the project, not in it, and may be absent."""

DONE = b"data: [DONE]\n\n"

_TARGETS = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "responses": "/responses",
    "images": "/images/generations",
    "audio": "/audio/speech",
    "threads": "/threads/thread_15/runs",
    "other": "/harbour/progress",
}
FAMILIES = tuple(_TARGETS)

_FIELDS: dict[str, dict[str, Any]] = {
    "chat-n2": {"n": 2},
    "images-n2": {"n": 2},
    "responses-background": {"background": True},
}

_SIDE_DOORS = {
    "audio-transcription": "/audio/transcriptions",
    "images-edit": "/images/edits",
    "other-agents-turn": "/agents/sessions",
    "other-agents-events": "/agents/sessions/sess_15/events",
}
"""Where a stream was asked for, if not at the first door of its family."""

_GOT = {"other-agents-events"}
"""What is asked for without a body."""

_CANONICAL = re.compile(rb"(?:event: ([^\r\n]+)\n)?data: ([^\r\n]+)\n\n")


def ask(family: str = "chat", *, recovery: bool = True, **fields: Any) -> Request:
    """Make a POST request to an endpoint family; ``fields`` go into its JSON body."""
    body = json.dumps({"model": "m", "stream": True, **fields}).encode()
    return Request("POST", _TARGETS[family], body, recovery=recovery)


def ask_for(stream: str) -> Request:
    """Make the request that one of the invented streams answers."""
    asked = ask(stream.partition("-")[0], **_FIELDS.get(stream, {}))
    asked = replace(asked, target=_SIDE_DOORS.get(stream, asked.target))
    return replace(asked, method="GET", body=b"") if stream in _GOT else asked


def start(
    request: Request | None = None, *, budget: RetryBudget | None = None, **limits: Any
) -> StreamSession:
    """Begin a session whose first attempt was answered with a 200."""
    session = begin(request, budget=budget, **limits)
    session.receive_head()
    return session


def begin(
    request: Request | None = None, *, budget: RetryBudget | None = None, **limits: Any
) -> StreamSession:
    """Begin a session; nothing was answered yet."""
    session = StreamSession(request or ask(), Policy(**limits), budget or RetryBudget(0.2, 1.0))
    session.begin(0.0)
    return session


def sse(*payloads: Any, name: str = "") -> bytes:
    """Write payloads as events; a string or bytes is taken as it is, the rest is JSON."""
    first = f"event: {name}\n".encode() if name else b""
    return b"".join(b"%bdata: %b\n\n" % (first, raw(payload)) for payload in payloads)


def raw(payload: Any) -> bytes:
    """Encode one payload as compact JSON, unless it is text already."""
    if isinstance(payload, bytes):
        return payload
    return (payload if isinstance(payload, str) else json.dumps(payload)).encode()


def chunk(*, index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """Make a chat chunk with one choice."""
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-1", "created": 1, "model": "m", "choices": [choice]}


def lifecycle(event: str, number: int, response: str = "resp_1", **fields: Any) -> dict[str, Any]:
    """Make a Responses lifecycle event."""
    inner = {"id": response, "object": "response", "created_at": 7, "output": [], **fields}
    return {"type": f"response.{event}", "sequence_number": number, "response": inner}


def spoken(number: int, delta: str = "Hi") -> dict[str, Any]:
    """Make a Responses text delta."""
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return {"type": "response.output_text.delta", **at, "delta": delta, "sequence_number": number}


ROLE, HI, STOP = chunk(role="assistant", content=""), chunk(content="Hi"), chunk(finish="stop")
ANSWER = sse(ROLE, HI, STOP) + DONE
"""A small chat answer, and the three chunks that it is made of."""

CREATED, RUNNING = lifecycle("created", 0), lifecycle("in_progress", 1)
"""The openers of a small response."""

CLEAN = AttemptEnd()
CUT = AttemptEnd(Fault.CUT_BETWEEN_EVENTS)
RESET = AttemptEnd(Fault.RESET)


def feed(session: StreamSession, *reads: bytes) -> bytes:
    """Feed reads, return all that goes to the client."""
    return b"".join([session.receive_data(read) for read in reads])


def fail(session: StreamSession, end: AttemptEnd = RESET) -> Open:
    """End an attempt that must be followed by another one, and answer that with a 200."""
    command = session.receive_end(end, 0.0)
    assert isinstance(command, Open)
    session.receive_head()
    return command


def finish(session: StreamSession, end: AttemptEnd = CLEAN) -> Finish:
    """End the last attempt."""
    command = session.receive_end(end, 0.0)
    assert isinstance(command, Finish)
    return command


@dataclass(frozen=True)
class Heard:
    """What became of one attempt: all that the client has, the command at its end, the session."""

    out: bytes
    command: Open | Finish
    session: StreamSession

    @property
    def repairs(self) -> dict[str, int]:
        """What was mended, and how often."""
        return dict(self.session.report().repairs)

    @property
    def facts(self) -> list[tuple[Fault, Phase, IncidentOutcome]]:
        """What was counted of each incident."""
        return facts(self.session)


def hear(
    body: bytes,
    request: Request | None = None,
    *,
    end: AttemptEnd = AttemptEnd(),  # noqa: B008 - it is frozen
    document: bool = False,
    committed: bool = False,
    **limits: Any,
) -> Heard:
    """Read a body whole, byte by byte and in random cuts: the same must come of it each time.

    ``document``: it came as JSON. ``committed``: the client has its 200 before the first byte.
    """
    heard: list[Heard] = []
    for reads in ([body], bytewise(body), *(cut_randomly(body, seed) for seed in range(3))):
        session = begin(request, **limits)
        session.receive_head(document=document)
        out = session.commit_by_time() if committed else b""
        out += feed(session, *reads)
        command = session.receive_end(end, 0.0)
        heard.append(Heard(out + command.body, command, session))
    for other in heard[1:]:
        assert (other.out, other.command) == (heard[0].out, heard[0].command)
        assert (other.repairs, other.facts) == (heard[0].repairs, heard[0].facts)
    whole_events(heard[0].out)
    return heard[0]


def told(command: Finish) -> Any:
    """Return the error object of a reply."""
    assert command.reply is not None
    return json.loads(command.reply.body)["error"]


def facts(session: StreamSession) -> list[tuple[Fault, Phase, IncidentOutcome]]:
    """Return what was counted of each incident."""
    return [(i.fault, i.phase, i.outcome) for i in session.report().incidents]


def whole_events(output: bytes) -> list[tuple[bytes, bytes]]:
    """Read what a client was given, and prove on the way that it is canonical and whole.

    Returns name and data of each event.
    """
    found: list[tuple[bytes, bytes]] = []
    at = 0
    while at < len(output):
        event = _CANONICAL.match(output, at)
        assert event is not None, f"not canonical at {at}: {output[at : at + 80]!r}"
        name, data = event.group(1) or b"", event.group(2)
        if data != b"[DONE]":
            with suppress(RecursionError):  # JSON all the same, for a decoder with more patience
                json.loads(data.decode())
        found.append((name, data))
        at = event.end()
    return found


def payloads(output: bytes) -> list[Any]:
    """Return the parsed data of whole events; ``[DONE]`` stays a string."""
    texts = [data for _, data in whole_events(output)]
    return ["[DONE]" if text == b"[DONE]" else json.loads(text) for text in texts]


def bytewise(body: bytes) -> Iterator[bytes]:
    """Cut a body into reads of one byte."""
    return (body[at : at + 1] for at in range(len(body)))


def cut_at(body: bytes, *places: int) -> list[bytes]:
    """Cut a body into reads at the given places."""
    edges = [0, *sorted(min(place, len(body)) for place in places), len(body)]
    return [body[a:b] for a, b in pairwise(edges)]


def cut_randomly(body: bytes, seed: int, cuts: int = 3) -> list[bytes]:
    """Cut a body into a few reads; the same seed gives the same reads."""
    chance = random.Random(seed)  # noqa: S311 - it chooses test cases
    return cut_at(body, *(chance.randint(0, len(body)) for _ in range(cuts)))
