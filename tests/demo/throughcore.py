"""A scenario played through the core: no socket between the answers and the session.

Knows what the edge would tell the session of an answer. Must not judge what comes of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rawclient import PATHS, on_the_wire

from proxy.core.budget import RetryBudget
from proxy.core.commands import Finish, Open, Report
from proxy.core.fault import AttemptEnd, Fault
from proxy.core.policy import Policy
from proxy.core.request import Request
from proxy.core.session import StreamSession
from proxy.demo.answers import Answer, Pause, Raw
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
        """The text of all events."""
        return "".join(_text_of(event) for event in self.events)


def through_the_core(scenario: Scenario, endpoint: str, way: Way = "plain") -> Played:
    """Ask for a scenario in a way, attempt by attempt, until the session says that it is over."""
    fields = {"model": scenario.name, "stream": True, **FIELDS[way]}
    request = Request("POST", PATHS[endpoint].removeprefix("/v1"), json.dumps(fields).encode())
    session = StreamSession(request, Policy(max_event_bytes=65_536), RetryBudget(0.2, 1))
    command: Open | Finish = session.begin(0.0)
    given, asked = b"", []
    while isinstance(command, Open):
        asked.append(f"{command.request.method} {command.request.target}")
        reused = session.attempts == 1
        answer = _answer(scenario, command.request, session.attempts, reused=reused)
        if answer.status == 200:
            session.receive_head()
            for piece in answer.pieces:
                given += session.receive_data(_data_of(piece))
        command = session.receive_end(_end_of(answer, session, stale=reused), 0.0)
    return Played(given + command.body, command, session.report(), tuple(asked))


def _answer(scenario: Scenario, request: Request, attempt: int, *, reused: bool) -> Answer:
    received = Received(request.method, f"/v1{request.target}", (), request.body or b"")
    asked = asked_by(received, reused=reused)
    return scenario.answer(asked, asked.made or attempt)


def _data_of(piece: bytes | Pause | Raw) -> bytes:
    if isinstance(piece, Raw):
        return piece.data.partition(b"\r\n")[2]
    return piece if isinstance(piece, bytes) else b""


def _end_of(answer: Answer, session: StreamSession, *, stale: bool) -> AttemptEnd:
    if answer.status not in {0, 200}:
        after = dict(answer.headers).get("Retry-After")
        body = on_the_wire(answer)
        return AttemptEnd(
            Fault.HTTP_STATUS,
            status=answer.status,
            body=body,
            retry_after_s=float(after) if after else None,
        )
    silence = Fault.STALL if session.data_events else Fault.FIRST_EVENT_TIMEOUT
    cut = Fault.CUT_BETWEEN_EVENTS if answer.status else Fault.RESET
    faults = {"clean": None, "fin": cut, "reset": Fault.RESET, "hold": silence}
    fault = None if answer.framing == "close" or session.settled else faults[answer.end]
    return AttemptEnd(fault, stale=stale and not answer.status)


def _text_of(event: dict[str, Any]) -> str:
    delta = event.get("delta", "")
    text = delta if isinstance(delta, str) else ""
    for choice in event.get("choices", ()):
        delta = choice.get("delta", {})
        text += choice.get("text") or delta.get("content") or ""
        text += "".join(call["function"]["arguments"] for call in delta.get("tool_calls", ()))
    return text
