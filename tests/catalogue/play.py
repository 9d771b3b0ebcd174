"""A tale through the core: told by the bytes whole, one by one and in random cuts.

Knows what the edge tells the session, and the contract's endings. Must not know any case.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from support import begin, bytewise, cut_randomly, facts, whole_events

from catalogue.tale import Part, PassedOn, Replied, Tale, Told, Whole
from proxy.core.commands import Finish, Open
from proxy.core.fault import StreamOutcome
from proxy.core.grammars import endpoint_of
from proxy.core.session import StreamSession

Cutting = Callable[[bytes], Iterable[bytes]]

CUTTINGS: dict[str, Cutting] = {
    "whole": lambda body: [body] if body else [],
    "bytewise": bytewise,
    **{f"cut-{seed}": partial(cut_randomly, seed=seed) for seed in range(3)},
}
"""The ways in which the bytes of each body come."""


@dataclass(frozen=True)
class Played:
    """All that the client has of a stream, the last command, the session, and every wait."""

    out: bytes
    command: Finish
    session: StreamSession
    waits: tuple[float, ...]


def play(tale: Tale, cut: Cutting) -> Played:
    """Play a tale attempt by attempt; each write must hold whole events."""
    session = begin(tale.request, **tale.limits)
    out = session.commit_by_time() if tale.committed else b""
    waits: list[float] = []
    now = 0.0
    for number, part in enumerate(tale.parts, 1):
        if part.head:
            session.receive_head(document=part.document)
        out += _read(session, cut(part.body))
        now += part.end.age_s
        command = _end(session, part, now)
        out += command.body
        if isinstance(command, Finish):
            assert number == len(tale.parts), "it ended before the tale did"
            return Played(out, command, session, tuple(waits))
        waits.append(command.floor_s)
    raise AssertionError("another attempt is asked for than the tale has")


def _read(session: StreamSession, reads: Iterable[bytes]) -> bytes:
    out = b""
    for read in reads:
        if session.settled:
            break
        written = session.receive_data(read)
        whole_events(written)
        out += written
    return out


def _end(session: StreamSession, part: Part, now: float) -> Open | Finish:
    """End an attempt as the edge does: what follows a settled one is looked at afterwards."""
    if not session.settled:
        return session.receive_end(part.end, now)
    command = session.receive_end(replace(part.end, fault=None), now)
    if isinstance(command, Finish) and part.end.fault is not None and part.head:
        late = session.receive_end(part.end, now)
        assert late == Finish()
    return command


def check(tale: Tale, played: Played) -> None:
    """Assert that what was told came of it, and nothing else."""
    counted = ["/".join(word.value for word in fact) for fact in facts(played.session)]
    assert counted == list(tale.faults)
    assert dict(played.session.report().repairs) == dict(tale.repairs)
    assert played.out.startswith(tale.given), played.out
    rest = played.out[len(tale.given) :]
    _ENDINGS[type(tale.ending)](tale, played, rest)
    if tale.waits_s:
        assert played.waits[0] >= tale.waits_s


def _check_whole(tale: Tale, played: Played, rest: bytes) -> None:
    assert rest == b""
    again = len(tale.parts) > 1
    wanted = StreamOutcome.RECOVERED if again else StreamOutcome.COMPLETE
    assert played.session.report().outcome is wanted
    assert played.command.reply is None
    assert not played.command.pass_on


def _check_told(tale: Tale, played: Played, rest: bytes) -> None:
    assert isinstance(tale.ending, Told)
    events = whole_events(rest)
    assert events, "nothing was told"
    assert b"[DONE]" not in {data for _, data in events}
    errors = [json.loads(data) for _, data in events]
    names = [name for name, _ in events]
    if endpoint_of(tale.request) == "responses":
        assert names[-1] == b"response.failed"
        assert names[:-1] in ([], [b"error"])
        error = errors[-1]["response"]["error"]
        code = errors[0]["code"] if names[:-1] else error["code"]
    else:
        assert len(events) == 1
        error = errors[0]["error"]
        code = error.get("code")
    _check_error({**error, "code": code}, tale.ending.code, tale.ending.says)
    assert played.session.report().outcome is StreamOutcome.FAILED


def _check_replied(tale: Tale, played: Played, rest: bytes) -> None:
    assert isinstance(tale.ending, Replied)
    assert rest == b""
    reply = played.command.reply
    assert reply is not None
    assert reply.status == tale.ending.status
    _check_error(json.loads(reply.body)["error"], tale.ending.code, tale.ending.says)


def _check_passed_on(tale: Tale, played: Played, rest: bytes) -> None:  # noqa: ARG001 - a table's
    assert rest == b""
    assert played.command.pass_on


def _check_error(error: dict[str, Any], code: str | None, says: str) -> None:
    assert error.get("code") == code
    assert says in error["message"]


_ENDINGS: dict[type, Callable[[Tale, Played, bytes], None]] = {
    Whole: _check_whole,
    Told: _check_told,
    Replied: _check_replied,
    PassedOn: _check_passed_on,
}
