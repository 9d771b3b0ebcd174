"""A scenario played through the core: no socket between the answers and the session.

Knows what the edge would tell the session of an answer. Must not judge what comes of it.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rawclient import PATHS, SPEAKING, on_the_wire

from proxy.core.budget import RetryBudget
from proxy.core.commands import Finish, Open, Report
from proxy.core.fault import AttemptEnd, Fault
from proxy.core.policy import Policy
from proxy.core.request import Request
from proxy.core.session import StreamSession
from proxy.demo.answers import JSON, Answer, Pause, Raw
from proxy.demo.bodies_media import text_of
from proxy.demo.scenario import FIELDS, Scenario, Way
from proxy.demo.upstream import asked_by
from proxy.demo.wire import Received


@dataclass(frozen=True)
class Played:
    """What the client was given, how it ended, what was counted, and whom was asked."""

    body: bytes
    finish: Finish
    report: Report
    asked: tuple[str, ...]

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The JSON of all events."""
        found = (block.partition(b"data: ")[2] for block in self.body.split(b"\n\n"))
        return [json.loads(data) for data in found if data.startswith(b"{")]

    @property
    def text(self) -> str:
        """The text of all events; of pictures that of the last one."""
        pictures = [event["b64_json"] for event in self.events if "b64_json" in event]
        if pictures:
            return text_of(pictures[-1])
        return "".join(_text_of(event) for event in self.events)


POLICY = Policy(max_event_bytes=2**20)
"""As the demonstration has it."""


def through_the_core(
    scenario: Scenario, door: str, way: Way = "plain", policy: Policy = POLICY, **more: object
) -> Played:
    """Ask for a scenario in a way, attempt by attempt, until the session says that it is over."""
    fields = {
        "model": scenario.name,
        "stream": True,
        **SPEAKING.get(door, {}),
        **FIELDS[way],
        **more,
    }
    request = Request("POST", PATHS[door].removeprefix("/v1"), json.dumps(fields).encode())
    session = StreamSession(request, policy, RetryBudget(0.2, 1))
    command: Open | Finish = session.begin(0.0)
    given, asked, now = b"", [], 0.0
    while isinstance(command, Open):
        given += command.body
        asked.append(f"{command.request.method} {command.request.target}")
        reused = session.attempts == 1
        answer = _answer(scenario, command.request, session.attempts, reused=reused)
        if answer.status == 200:
            session.receive_head(document=_is_document(answer))
            given += b"".join(session.receive_data(read) for read in _reads(answer))
        end = _end_of(answer, session, stale=reused)
        now += end.age_s
        command = session.receive_end(end, now)
    return Played(given + command.body, command, session.report(), tuple(asked))


def _answer(scenario: Scenario, request: Request, attempt: int, *, reused: bool) -> Answer:
    received = Received(request.method, f"/v1{request.target}", (), request.body or b"")
    asked = asked_by(received, reused=reused)
    return scenario.answer(asked, asked.made or attempt)


def _is_document(answer: Answer) -> bool:
    first = next(iter(answer.pieces), b"")
    return JSON[0] in answer.headers and isinstance(first, bytes) and first.startswith(b"{")


def _reads(answer: Answer) -> Iterator[bytes]:
    """Yield what the edge would read, decoded if need be."""
    gzip = zlib.decompressobj(wbits=31)
    for piece in answer.pieces:
        if isinstance(piece, Raw):
            yield piece.data.partition(b"\r\n")[2]
        elif isinstance(piece, bytes):
            coded = ("Content-Encoding", "gzip") in answer.headers
            yield gzip.decompress(piece) if coded else piece


def _end_of(answer: Answer, session: StreamSession, *, stale: bool) -> AttemptEnd:
    age_s = sum(piece.seconds for piece in answer.pieces if isinstance(piece, Pause))
    if answer.status not in {0, 200}:
        after = dict(answer.headers).get("Retry-After")
        body = on_the_wire(answer)
        return AttemptEnd(
            Fault.HTTP_STATUS,
            age_s=age_s,
            status=answer.status,
            body=body,
            retry_after_s=float(after) if after else None,
        )
    silence = Fault.STALL if session.data_events else Fault.FIRST_EVENT_TIMEOUT
    cut = Fault.CUT_BETWEEN_EVENTS if answer.status else Fault.RESET
    # An answer that is finished but for its end mark is not waited for any longer.
    held = None if session.grammar.finished else silence
    faults = {"clean": None, "told": None, "fin": cut, "reset": Fault.RESET, "hold": held}
    fault = None if answer.framing == "close" or session.settled else faults[answer.end]
    return AttemptEnd(fault, age_s=age_s, stale=stale and not answer.status)


def _text_of(event: dict[str, Any]) -> str:
    told = event.get("delta", "")
    text = told if isinstance(told, str) else _text_of_parts(told)
    text += base64.b64decode(event.get("audio", "")).decode()
    for choice in event.get("choices", ()):
        delta = choice.get("delta") or {}
        text += choice.get("text") or delta.get("content") or ""
        calls = delta.get("tool_calls") or ()
        text += "".join(call["function"]["arguments"] for call in calls)
    return text


def _text_of_parts(delta: dict[str, Any]) -> str:
    return "".join(part["text"]["value"] for part in delta["content"])
