"""The 16 faults of Failover Bench (methodology v0.1), written anew from its catalogue.

Knows what the provider does, what must be true of a run, and the four verdicts. Must not know
how a run is made. Seconds are those of the bench; ``scaled`` makes them ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from proxy.demo.answers import Answer, Answering, Asked, Pause, Piece, error_reply, sse
from proxy.demo.bodies import stream_for

SCALE = 0.05
"""A second of the bench takes so many seconds here."""
SLACK_S = 0.2
"""A busy machine may take so much longer; whatever really waits is longer than that."""

FALLBACK = "fb-ok"
SIXTY_WORDS = (
    "A ferry leaves the harbour before dawn and the keeper of the light counts its lamps until "
    "the fog takes them one by one. He writes the hour in a book that nobody reads and puts the "
    "kettle on. By noon the wind has turned, the gulls are back upon the wall, and the ferry "
    "comes home with the tide."
)
OUTAGE_S = 60.0
BAD_EVENT = b'data: {"id":"chatcmpl-demo","choices":[{"index":0,"delta":\n\n'
PREFILL_CODE = "assistant_prefill_unsupported"

Verdict: TypeAlias = Literal["pass", "partial", "safe", "fail"]


def scaled(seconds: float) -> float:
    """Return seconds of the bench in seconds of ours."""
    return seconds * SCALE


# --- what a run was like --------------------------------------------------------------------


@dataclass
class Call:
    """One call as its application saw it. ``error`` is set if it was told of a failure."""

    text: str = ""
    finished: bool = False
    model: str = ""
    usage: bool = False
    error: str = ""
    code: str = ""
    took_s: float = 0.0
    hung: bool = False

    @property
    def whole(self) -> bool:
        """Whether the answer is all there, and called finished."""
        same = self.text.split() == SIXTY_WORDS.split()
        return same and self.finished and not self.error and not self.hung

    @property
    def lies(self) -> bool:
        """Whether a cut answer was presented as success."""
        return not (self.whole or self.error or self.hung)


@dataclass
class Run:
    """A scenario, over. Times are ``loop.time()``; ``primary`` has the arrivals there."""

    began: float
    calls: list[Call] = field(default_factory=list)
    primary: list[float] = field(default_factory=list)
    fallback: list[float] = field(default_factory=list)
    alive: bool = True
    has_fallback: bool = True

    @property
    def longest_s(self) -> float:
        """How long the longest call took."""
        return max(call.took_s for call in self.calls)

    def within(self, seconds: float) -> int:
        """Count the attempts on the primary in the first seconds of the bench."""
        return sum(at - self.primary[0] <= scaled(seconds) for at in self.primary)


Check: TypeAlias = Callable[[Run], bool]
Provider: TypeAlias = Callable[[], Answer | list[Answer] | Answering]


@dataclass(frozen=True)
class Fault:
    """One scenario: what the provider does, and what is asked of the system in front of it.

    A call must be over within ``limit_s``. Where ``ideal_code`` is set, an error of that code
    is the right outcome and an answer is the way around it.
    """

    id: str
    title: str
    provider: Provider
    limit_s: float
    required: dict[str, Check] = field(default_factory=dict)
    advisory: dict[str, Check] = field(default_factory=dict)
    ideal_code: str = ""
    calls: int = 1
    every_s: float = 0.0

    def failed_checks(self, run: Run) -> list[str]:
        """Name the required checks that a run failed."""
        general: dict[str, Check] = {
            "no call hangs": lambda run: not any(call.hung for call in run.calls),
            "no cut answer is a success": lambda run: not any(call.lies for call in run.calls),
            "alive afterwards": lambda run: run.alive,
            f"ends within {self.limit_s:g} s": self._in_time,
        }
        return _failed({**general, **self.required}, run)

    def verdict(self, run: Run) -> Verdict:
        """Judge a run."""
        if self.failed_checks(run):
            return "fail"
        if not all(self._ideal(call) for call in run.calls):
            routed = self.ideal_code and all(call.whole for call in run.calls)
            return "partial" if routed else "safe"
        return "partial" if _failed(self.advisory, run) else "pass"

    def _ideal(self, call: Call) -> bool:
        return call.code == self.ideal_code if self.ideal_code else call.whole

    def _in_time(self, run: Run) -> bool:
        return run.longest_s <= scaled(self.limit_s) + SLACK_S


def _failed(checks: dict[str, Check], run: Run) -> list[str]:
    return [name for name, holds in checks.items() if not holds(run)]


# --- what the provider does -----------------------------------------------------------------


def paced(events: Iterable[bytes]) -> list[Piece]:
    """Return events 15 ms of the bench apart."""
    return [piece for event in events for piece in (event, Pause(scaled(0.015)))]


def healthy(asked: Asked, attempt: int) -> Answer:
    """Answer with the sixty words."""
    return sse(*paced(stream_for(asked, attempt, SIXTY_WORDS).events))


def _once(first: Answer) -> Answering:
    """Fail once, then answer."""
    return lambda asked, attempt: first if attempt == 1 else healthy(asked, attempt)


def _cut_after_40(asked: Asked, attempt: int) -> Answer:
    answer = stream_for(asked, attempt, SIXTY_WORDS)
    return sse(*paced([*answer.opening, *answer.content[:40]]), end="fin")


def _silent_after_20(asked: Asked, attempt: int) -> Answer:
    answer = stream_for(asked, attempt, SIXTY_WORDS)
    begun = paced([*answer.opening, *answer.content[:20]])
    return sse(*begun, Pause(scaled(30)), end="fin")


def _late_first_word(asked: Asked, attempt: int) -> Answer:
    return sse(Pause(scaled(20)), *paced(stream_for(asked, attempt, SIXTY_WORDS).events))


def _bad_tenth(asked: Asked, attempt: int) -> Answer:
    events = list(stream_for(asked, attempt, SIXTY_WORDS).events)
    return sse(*paced([*events[:9], BAD_EVENT, *events[9:]]))


def _without_done(asked: Asked, attempt: int) -> Answer:
    return sse(*paced(stream_for(asked, attempt, SIXTY_WORDS).events[:-1]))


def _down_for_a_minute() -> Answering:
    began: list[float] = []

    def answer(asked: Asked, attempt: int) -> Answer:
        now = asyncio.get_running_loop().time()
        began.append(now)
        down = now < began[0] + scaled(OUTAGE_S)
        return BUSY if down else healthy(asked, attempt)

    return answer


BUSY = error_reply(503, "overloaded", "Come back later.")
_SLOW_DOWN = (429, "rate_limit_exceeded", "Slow down.")
_WAIT_2_S = error_reply(*_SLOW_DOWN, (("Retry-After", f"{scaled(2):g}"),))
_NO_ANSWER = Answer(status=0, end="reset")
_NEVER = Answer(status=0, end="fin", before_s=scaled(120))


# --- what is asked of the system ------------------------------------------------------------


def _waited(run: Run) -> bool:
    return len(run.primary) > 1 and run.primary[1] - run.primary[0] >= scaled(1.8)


def _returned(run: Run) -> bool:
    recovery = run.primary[0] + scaled(OUTAGE_S)
    return any(recovery <= at <= recovery + scaled(30) + SLACK_S for at in run.primary)


def _unmasked(run: Run) -> bool:
    return not any(PREFILL_CODE in (call.code, call.error) for call in run.calls)


_AT_MOST_6: dict[str, Check] = {"at most 6 attempts": lambda run: len(run.primary) <= 6}
_ONE: dict[str, Check] = {"one attempt on the primary": lambda run: len(run.primary) == 1}


FAULTS: dict[str, Fault] = {
    fault.id: fault
    for fault in (
        Fault(
            *("S01", "429 with Retry-After 2, once", lambda: _once(_WAIT_2_S), 40),
            {"at most 2 attempts in 1.5 s": lambda run: run.within(1.5) <= 2},
            {"retried after 1.8 s or more": _waited},
        ),
        Fault(
            *("S02", "429 without Retry-After, always", lambda: error_reply(*_SLOW_DOWN), 40),
            {"at most 4 attempts in 3 s": lambda run: run.within(3) <= 4, **_AT_MOST_6},
        ),
        Fault(
            *("S03", "500 once", lambda: _once(error_reply(500, "server_error", "Oops.")), 20),
            advisory={"second attempt on the primary": lambda run: len(run.primary) == 2},
        ),
        Fault("S04", "503 always", lambda: BUSY, 40, _AT_MOST_6),
        Fault("S05", "TCP reset before headers, once", lambda: _once(_NO_ANSWER), 20),
        Fault("S06", "accepted, never answered", lambda: _NEVER, 100, advisory=_ONE),
        Fault(
            *("S07", "headers at once, first word after 20 s", lambda: _late_first_word, 60),
            advisory={
                "at most 15 s where there is a fallback": lambda run: (
                    not run.has_fallback or run.longest_s <= scaled(15) + SLACK_S
                )
            },
        ),
        Fault("S08", "cut after 40 of 60 words, always", lambda: _cut_after_40, 40),
        Fault("S09", "20 words, 30 s of silence, closed", lambda: _silent_after_20, 45),
        Fault("S10", "the tenth event is no JSON", lambda: _bad_tenth, 30),
        Fault(
            *("S11", "complete, but without [DONE]", lambda: _without_done, 8),
            advisory={"usage": lambda run: all(call.usage for call in run.calls)},
        ),
        Fault(
            *("S12", "400 context_length_exceeded, always"),
            lambda: error_reply(400, "context_length_exceeded", "The prompt is too long."),
            *(40, _ONE),
        ),
        Fault(
            *("S13", "400 content_policy_violation, always"),
            lambda: error_reply(400, "content_policy_violation", "Not this."),
            *(40, _ONE),
            ideal_code="content_policy_violation",
        ),
        Fault(
            *("S14", "as S08, and the fallback takes no prefill", lambda: _cut_after_40, 40),
            {"the prefill's 400 masks nothing": _unmasked},
        ),
        Fault(
            *("S15", "503 for 60 s, then healthy", _down_for_a_minute, 40),
            {"the primary is used again within 30 s": _returned},
            calls=20,
            every_s=4,
        ),
        Fault(
            *("S16", "503 always: who answered?", lambda: BUSY, 40),
            {
                "the fallback's model is reported": lambda run: all(
                    call.model == FALLBACK for call in run.calls if call.whole
                ),
                **_AT_MOST_6,
            },
            {"usage": lambda run: all(call.usage for call in run.calls)},
        ),
    )
}
"""All faults by id."""
