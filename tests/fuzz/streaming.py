"""The grammars, the repairs and the session, over whatever upstreams send.

Knows what the contract promises of every stream. What success needs is in ``signs``.
"""

from __future__ import annotations

import json
from collections import Counter

from fuzz import signs
from fuzz.asking import SHAPES
from fuzz.cases import Case
from fuzz.driving import Run, drive
from fuzz.signs import Told
from proxy.core.commands import Finish, Report
from proxy.core.fault import AttemptEnd, Fault, IncidentOutcome, Phase, StreamOutcome

_SHAPE, _LIMITS, _ENDS, _READS = 0, 1, 9, 14
_COMMIT, _LEAVE = _ENDS + 3, _ENDS + 4
_GOOD = frozenset({StreamOutcome.COMPLETE, StreamOutcome.RECOVERED})
_PASSING = frozenset({408, 409, 425, 429})
_WELL = frozenset({IncidentOutcome.SWALLOWED, IncidentOutcome.REPAIRED})


def check_stream(data: bytes) -> None:
    """Run a case, and hold everything against what is promised.

    Knobs: 0 the request, 1 to 8 the policy, 9 to 11 how attempts end, 12 when the clock commits,
    13 who leaves when, 14 how bodies are cut into reads.
    """
    case = Case(data)
    asked = case.pick(_SHAPE, SHAPES)
    run = drive(case, asked, limits=_LIMITS, first=_ENDS, reads=_READS)
    report = run.report
    for piece in run.pieces:
        signs.read(piece)  # whole events at every moment
    events = signs.read(run.out)
    check_endings(run, events)
    check_outcome(run, report, events)
    check_counts(run, report, events)
    check_orders(run)
    check_afterwards(run)
    check_fold(run, report)
    if case.number(_COMMIT) == case.number(_LEAVE) == 0:
        _check_reads(case, run, report)
        _check_restart(case, run, report)


def check_endings(run: Run, events: list[Told]) -> None:
    """Nothing follows what ends a stream, but the last words that go with it."""
    family = run.asked.family
    for place, told in enumerate(events[:-1]):
        assert not signs.is_end(family, told), f"event {place} of {len(events)} is an end: {told}"
        if family == "responses" and told.kind == "error":
            assert place == len(events) - 2, "something follows the error"
            assert events[-1].kind == "response.failed"
    for told in events:
        told.name.decode()


def check_outcome(run: Run, report: Report, events: list[Told]) -> None:
    """No success that the upstream did not give; no failure that the client does not hear."""
    if run.left == "client":
        assert report.outcome is StreamOutcome.CLIENT_CLOSED
        return
    finish = run.finish
    assert finish is not None
    if report.outcome in _GOOD:
        assert run.session.answered
        assert finish.reply is None
        assert not finish.pass_on
        reason = signs.why_not_whole(run, events)
        assert not reason, f"called {report.outcome.value}: {reason}"
        return
    assert report.outcome is (StreamOutcome.ABORTED if run.left else StreamOutcome.FAILED)
    if run.session.answered:
        assert finish.reply is None
        assert not finish.pass_on
        reason = signs.why_not_honest(run, events)
        assert not reason, reason
        assert all(told.data != signs.DONE for told in events)
    else:
        _check_status(run, finish)


def _check_status(run: Run, finish: Finish) -> None:
    """Nothing was given: there is a status, the upstream's own or one with an error in it."""
    assert run.out == b""
    assert finish.pass_on == (finish.reply is None)
    if finish.pass_on:
        assert run.last.status
    if finish.reply is not None:
        assert 400 <= finish.reply.status <= 599
        told = json.loads(finish.reply.body)["error"]
        assert told["message"]
        assert isinstance(told["message"], str)


def check_counts(run: Run, report: Report, events: list[Told]) -> None:
    """Each fact is counted once."""
    assert (report.events, report.size) == (len(events), len(run.out))
    assert len(report.attempts) == run.session.attempts == len(run.opens)
    assert report.attempts[0] == "first"
    assert all(count > 0 for count in report.repairs.values())
    assert min(report.discarded_bytes, report.discarded_events) >= 0
    if run.left:
        return
    assert len(report.recoveries) == len(run.opens) - 1, "a plan has no result, or two"
    late = [incident for incident in report.incidents if incident.outcome in _WELL]
    assert all(incident.phase is Phase.AFTER_TERMINAL for incident in late)
    good = report.outcome in _GOOD
    assert (good and run.last.fault is not None) <= len(late) <= good, "a late fault is no incident"
    told = Counter(incident.attempt for incident in report.incidents)
    assert set(told.values()) <= {1}, f"two incidents of one attempt: {report.incidents}"
    # Another 4xx is an answer to the request, and no incident.
    passing = run.last.status in _PASSING or run.last.status >= 500
    refused = run.finish is not None and run.finish.pass_on and not passing
    failed = len(run.opens) - 1 + (report.outcome is StreamOutcome.FAILED and not refused)
    unfit = sum(result == "mismatch" for _, result in report.recoveries)
    assert failed == len(report.incidents) - len(late) + unfit, "a fault is no incident, or two"


def check_orders(run: Run) -> None:
    """Nothing is asked that must not be, nor in a way that it must not be."""
    request = run.asked.request
    for command in run.opens[1:]:
        assert request.recovery
        assert request.replayable
        assert command.floor_s >= 0 <= command.spread_s
        assert command.request.own_path == request.own_path
        assert command.request.target.isascii()
        assert command.request.target.isprintable()
        assert " " not in command.request.target
    policies = {(command.target.upstream, command.target.model) for command in run.opens}
    assert policies <= {("", ""), ("other", "m2")}


def check_fold(run: Run, report: Report) -> None:
    """Add it up, where it can be: to JSON, and to an error where the stream was one."""
    if run.finish is None or run.finish.reply or run.finish.pass_on or not run.session.folds:
        return
    reply = run.session.fold(run.out)
    told = json.loads(reply.body)
    assert isinstance(told, dict)
    assert reply.status == 200 or told["error"]["message"]
    assert (reply.status == 200) <= (report.outcome in _GOOD)


def check_afterwards(run: Run) -> None:
    """Nothing is given after the end, and a late fault is noted at most."""
    if run.finish is None:
        return
    state, out = run.session.state, run.session.report()
    assert run.session.receive_data(b'data: {"choices":[]}\n\n') == b""
    late = run.session.receive_end(AttemptEnd(Fault.RESET), 99.0)
    assert late == Finish()
    assert run.session.state is state
    assert run.session.report().outcome is out.outcome


def _check_reads(case: Case, run: Run, report: Report) -> None:
    """Cut in another way, the same bodies give the same stream and the same facts."""
    if not case.number(_READS):
        return
    other = drive(_Whole(case), run.asked, limits=_LIMITS, first=_ENDS, reads=_READS)
    assert other.out == run.out, f"{other.out!r} is not {run.out!r}"
    again = other.report
    assert again.outcome is report.outcome
    assert again.recoveries == report.recoveries
    facts = [
        [(i.fault, i.phase, i.outcome, i.attempt, i.detail) for i in one.incidents]
        for one in (report, again)
    ]
    assert facts[0] == facts[1]


def _check_restart(case: Case, run: Run, report: Report) -> None:
    """Let the last answer be the first one: who was given nothing before cannot tell."""
    again = {strategy for strategy, _ in report.recoveries}
    quirks = run.opens[0].target.quirks
    if report.outcome not in _GOOD or again != {"restart"} or quirks.empty_answer != "pass":
        return
    assert not run.given_before(len(run.opens) - 1)
    other = drive(
        _Last(case, len(run.opens) - 1), run.asked, limits=_LIMITS, first=_ENDS, reads=_READS
    )
    assert other.out == run.out, f"{run.out!r} has traces of what came before {other.out!r}"


class _Last(Case):
    """A case of the last attempt alone."""

    def __init__(self, other: Case, number: int) -> None:
        knobs = bytearray(other._knobs)
        knobs[_ENDS] = knobs[_ENDS + min(number, 2)]
        super().__init__(bytes(knobs) + other.bodies[number % len(other.bodies)])


class _Whole(Case):
    """The same case with every body in one read."""

    def __init__(self, other: Case) -> None:
        self._knobs, self.body = other._knobs, other.body

    def reads(self, knob: int, body: bytes) -> list[bytes]:  # noqa: ARG002 - as the base class
        return [body]
