"""A session driven as the edge drives it, whatever the upstream does.

Knows the order of calls that ``relay`` keeps to, and records what came of each. Must not judge.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fuzz.asking import Asked, policy
from fuzz.cases import Case
from proxy.core.budget import RetryBudget
from proxy.core.commands import Finish, Open, Report, shutdown_error
from proxy.core.fault import AttemptEnd, Fault
from proxy.core.session import StreamSession

MOST = 12
"""More attempts than any policy of ours allows."""

_END, _COMMIT, _LEAVE = 0, 3, 4
"""Knobs, counted from ``first``: how three attempts end, when the clock commits, who leaves."""


_CLEAN = AttemptEnd()


@dataclass(frozen=True)
class Answered:
    """How an upstream answers, and how that ends. ``how`` None: not by a 200."""

    end: AttemptEnd = _CLEAN
    how: str | None = "stream"


CLEAN = Answered()
ANSWERS = (
    CLEAN,
    Answered(AttemptEnd(Fault.CUT_BETWEEN_EVENTS)),
    Answered(AttemptEnd(Fault.RESET)),
    Answered(AttemptEnd(Fault.STALL, silence_s=300.0)),
    Answered(AttemptEnd(Fault.CUT_BETWEEN_EVENTS, age_s=60.0)),
    Answered(AttemptEnd(Fault.FIRST_EVENT_TIMEOUT, silence_s=300.0)),
    Answered(AttemptEnd(), "document"),
    Answered(AttemptEnd(Fault.RESET), "document"),
    Answered(AttemptEnd(Fault.CONNECT_ERROR), None),
    Answered(AttemptEnd(Fault.RESET, stale=True), None),
    Answered(AttemptEnd(Fault.FIRST_EVENT_TIMEOUT), None),
    Answered(AttemptEnd(Fault.MALFORMED_EVENT, detail="the answer was no event stream"), None),
    Answered(AttemptEnd(Fault.HTTP_STATUS, status=500), None),
    Answered(AttemptEnd(Fault.HTTP_STATUS, status=503, retry_after_s=2.0), None),
    Answered(AttemptEnd(Fault.HTTP_STATUS, status=429, retry_after_s=7200.0), None),
    Answered(AttemptEnd(Fault.HTTP_STATUS, status=400), None),
    Answered(AttemptEnd(Fault.HTTP_STATUS, status=401), None),
    Answered(AttemptEnd(Fault.HTTP_STATUS, status=404), None),
)
"""What an upstream may do. Only ever added to: the corpus counts."""


@dataclass
class Run:
    """One stream that is over."""

    asked: Asked
    session: StreamSession
    pieces: list[bytes] = field(default_factory=list)
    """What went to the client, call by call."""
    opens: list[Open] = field(default_factory=list)
    given: list[int] = field(default_factory=list)
    """How many pieces there were when each attempt began."""
    heard: list[bytes] = field(default_factory=list)
    """The body of each attempt that was answered with a 200."""
    last: AttemptEnd = _CLEAN
    finish: Finish | None = None
    left: str = ""
    """Who ended it, if it was not the upstream: ``client`` or ``proxy``."""

    @property
    def out(self) -> bytes:
        """All that the client was given."""
        return b"".join(self.pieces)

    @property
    def report(self) -> Report:
        """What was counted."""
        return self.session.report()

    def given_before(self, attempt: int) -> bytes:
        """Return what the client had when an attempt began; the first is 0."""
        return b"".join(self.pieces[: self.given[attempt]])


def drive(case: Case, asked: Asked, *, limits: int, first: int, reads: int) -> Run:
    """Run a case to its end. The arguments say which knobs are for what."""
    session = StreamSession(asked.request, policy(case, first=limits), RetryBudget(0.2, 1.0))
    run = Run(asked, session)
    command: Open | Finish = session.begin(0.0)
    while isinstance(command, Open) and not run.left:
        assert len(run.opens) < MOST, "there is no end of attempts"
        run.pieces.append(command.body)
        run.given.append(len(run.pieces))
        run.opens.append(command)
        command = _attempt(case, run, command, first=first, reads=reads)
    if isinstance(command, Finish):
        run.pieces.append(command.body)
        run.finish = command
    session.abandon()
    return run


def _attempt(case: Case, run: Run, command: Open, *, first: int, reads: int) -> Open | Finish:
    """Answer one attempt."""
    number, session = len(run.opens) - 1, run.session
    body = case.bodies[number % len(case.bodies)]
    answered = case.pick(first + _END + min(number, 2), ANSWERS)
    commit = _place(case, first + _COMMIT, number)
    leave = _place(case, first + _LEAVE, number)
    if commit == 0:
        run.pieces.append(session.commit_by_time())
    end = answered.end
    if end.status:
        end = AttemptEnd(end.fault, 1.0, 1.0, end.status, end.retry_after_s, body=body)
    if answered.how is not None:
        # Only who asks for a stream may be answered by a document that has to become one.
        document = answered.how == "document" and run.asked.request.asks_stream
        session.receive_head(document=document and not command.document)
        run.heard.append(body)
        for place, read in enumerate(case.reads(reads, body)):
            run.pieces.append(session.receive_data(read))
            if session.settled:
                end = AttemptEnd()
                break
            if commit == place + 1:
                run.pieces.append(session.commit_by_time())
            if leave == place + 1:
                return _leave(case, run, first + _LEAVE, command)
    run.last = end
    return session.receive_end(end, float(number))


def _place(case: Case, knob: int, attempt: int) -> int:
    """Read a knob that says at which read of which attempt something happens; -1 for never."""
    number = case.number(knob)
    return -1 if number == 0 or (number >> 1) % 3 != attempt else number >> 3


def _leave(case: Case, run: Run, knob: int, command: Open) -> Open | Finish:
    """Let the client or the proxy end it."""
    if case.number(knob) % 2:
        run.left = "client"
        return command
    run.left = "proxy"
    return run.session.abort(shutdown_error())
