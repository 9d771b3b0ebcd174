"""The course of one stream through targets and attempts: what was tried, what may be tried next.

Knows the route, the shared budget and breakers, the ages at which attempts were cut, and what is
ruled out; asks the ladder. Must not know states, or what the client is told.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from proxy.core.budget import Breaker, Breakers, RetryBudget
from proxy.core.commands import Try
from proxy.core.errors import UpstreamError, retryable_status
from proxy.core.fault import AttemptEnd, Fault, Phase
from proxy.core.grammars import Grammar
from proxy.core.journal import Journal
from proxy.core.policy import Policy, Target
from proxy.core.recovery import Plan, Situation, climb
from proxy.core.request import Request

_CUTS = frozenset({Fault.RESET, Fault.CUT_MID_EVENT, Fault.CUT_BETWEEN_EVENTS, Fault.CLEAN_EOF})
KEY_REFUSED = frozenset({401, 403})
"""What another upstream says of a key that is not the client's, the client is not to see."""

_MOVABLE = frozenset({"/chat/completions", "/completions", "/responses"})
"""What another model can answer as well; an embedding or a fine-tuning job it cannot."""

_SAME_AGE_S = 2.0
_SAME_AGE_SHARE = 0.1
_YOUNGEST_CAP_S = 1.0
"""Two cuts within 2 s, or a tenth of their age if that is less, are a cap on the lifetime; at
ages below a second nothing limits lifetimes (real caps: 60, 100, 180, 300 s, openai-python#399)."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What broke the answer, as opposed to what befell attempts to save it."""

    fault: Fault
    end: AttemptEnd
    error: UpstreamError | None


@dataclass(frozen=True, slots=True)
class Failure:
    """What is told: the cause, how far the answer had come, after how many attempts.

    ``last`` says that the cause is how the last attempt ended, whose answer is at hand;
    ``cap_s`` is the age at which attempts were cut twice, ``mismatch`` why another answer did
    not fit.
    """

    cause: Cause
    phase: Phase
    attempts: int
    last: bool
    cap_s: float | None
    mismatch: str

    @property
    def detail(self) -> str:
        """What is known beyond the fault's name, in words."""
        told = [self.cause.end.detail] if self.cause.end.detail else []
        if self.cap_s is not None:
            age = f"{self.cap_s:.3g}"
            told.append(f"cut twice at the same age, {age} s: something limits its lifetime")
        if self.mismatch:
            told.append(f"another answer did not fit: {self.mismatch}")
        return "; ".join(told)


def route(request: Request, policy: Policy) -> tuple[Target, ...]:
    """Return the targets of a request in order: the primary, then those of the first rule.

    A request whose body was not kept, or that is for anything but an answer of a model's, can be
    sent to the primary alone; one that goes on from what the primary keeps, to its models alone.
    """
    primary = Target(continuation=policy.continuation, quirks=policy.quirks)
    movable = request.method == "POST" and request.replayable and request.recovery
    if not movable or request.path.rstrip("/") not in _MOVABLE:
        return (primary,)
    for fallback in policy.fallbacks:
        if request.json and any(fnmatchcase(request.model, glob) for glob in fallback.models):
            bound = request.json.get("previous_response_id") or request.json.get("conversation")
            return (primary, *(to for to in fallback.to if not (bound and to.upstream)))
    return (primary,)


class Course:
    """Where one stream stands on its route. Times are monotonic seconds."""

    def __init__(
        self, request: Request, policy: Policy, budget: RetryBudget, breakers: Breakers
    ) -> None:
        """Stand at the beginning; nothing is asked yet."""
        self._request = request
        self._policy = policy
        self._budget = budget
        self._route = route(request, policy)
        self._breakers = [breakers.of(t.upstream, t.model or request.model) for t in self._route]
        self._at = self._start = 0
        self._onward: int | None = None
        self._kind = self._reason = ""
        self.helps = False
        """Whether the attempt is to save an answer that broke, and has given nothing yet."""
        self._spent = [0] * len(self._route)
        self._refusing: set[int] = set()
        self._ruled_out: dict[int, set[str]] = {}
        self._ages: dict[int, list[float]] = {}
        self._stale_used = False
        self.asked = request
        self.tries: list[Try] = []
        self.cause: Cause | None = None
        self.cap_s: float | None = None
        """The age at which attempts on one target were cut twice."""
        self._capped_at = -1
        self._probes = False

    @property
    def target(self) -> Target:
        """Whom the attempt under way was sent to."""
        return self._route[self._at]

    @property
    def is_as_asked(self) -> bool:
        """Whether the primary is asked what the client asked, word for word."""
        return self._at == 0 and self.asked is self._request

    @property
    def has_fallback(self) -> bool:
        """Whether there is anyone else to ask."""
        return len(self._route) > 1

    @property
    def breaker(self) -> Breaker:
        """The circuit of the target."""
        return self._breakers[self._at]

    def start(self, now: float) -> None:
        """Choose whom to ask first: the first one whose circuit lets it, or else the primary."""
        self._at = self._start = self._next(0, now) or 0
        self.asked = self._request.asking(self.target.model)
        self._begin("first", "first")

    def after(self, cause: Cause, grammar: Grammar, journal: Journal, now: float) -> Plan | None:
        """Return what to do about a failed attempt; None: tell the client."""
        self._note_age(cause, grammar)
        self._reason = cause.fault.value
        error = cause.error
        refused = error is not None and not error.transient
        # Who refuses a request is well, and an idle connection that died says nothing.
        self.released() if refused or cause.end.stale else self.breaker.failed(now)
        rescue = self.helps and self.cause is not None and not self._back_at_the_primary
        self.cause = self.cause if rescue else cause
        if error is not None and error.policy:
            return None  # nobody else is asked to say what one has refused to say
        if refused and (self._at or rescue) and self.tries[-1].strategy != "resume":
            # A target that will not have the request at all does not hide what went wrong.
            self.rule_out()
            cause = self.cause if rescue and self.cause else replace(cause, error=None)
        return self._climb(cause, grammar, journal, now)

    @property
    def _back_at_the_primary(self) -> bool:
        """Whether the primary was asked last, its circuit being open, and answers for itself."""
        return self._at == 0 and self._start > 0

    def hides(self, error: UpstreamError | None) -> bool:
        """Say whether an error may name a key that is not the client's, so that it is not told."""
        return bool(self.target.upstream) and error is not None and error.status in KEY_REFUSED

    def again(self, grammar: Grammar, journal: Journal, now: float) -> Plan | None:
        """Return what to do after an answer that did not fit; None: tell the client."""
        if self.cause is None:
            return None
        self._reason = self.cause.fault.value
        return self._climb(self.cause, grammar, journal, now)

    def is_plain_refusal(self, cause: Cause) -> bool:
        """Say whether an HTTP status is the answer to the request, to be passed on as it is."""
        refused = cause.fault is Fault.HTTP_STATUS and not retryable_status(cause.end.status)
        return refused and self.cause is cause and not self.hides(cause.error)

    def failure(self, phase: Phase, end: AttemptEnd, mismatch: str) -> Failure:
        """Return what the client is to be told, after the last attempt's end."""
        cause = self.cause or Cause(Fault.CLEAN_EOF, end, None)
        last = cause.end is end
        if last and self.hides(cause.error):
            cause, last = replace(cause, error=None), False
        return Failure(cause, phase, len(self.tries), last, self.cap_s, mismatch)

    def follow(self, plan: Plan) -> None:
        """Begin the attempt of a plan that was returned."""
        now_at = self._onward if plan.onward else self._at
        self._at = self._at if now_at is None else now_at
        self._stale_used = self._stale_used or plan.free
        self._kind = plan.splice.kind if plan.splice else ""
        self.helps = plan.strategy != "restart" or self._at != self._start
        self.asked = plan.request
        self._begin(plan.strategy, self._reason, free=plan.free)

    def joined(self) -> None:
        """Note that the attempt gives content: it is the answer now, what breaks it counts."""
        self.helps = False
        self.breaker.answered()

    def released(self) -> None:
        """Note that the attempt ended without saying anything about its target."""
        if self._probes:
            self.breaker.released()

    def rule_out(self) -> None:
        """Note that the attempt's way does not fit this target, or that it refuses altogether."""
        if self._kind:
            self._ruled_out.setdefault(self._at, set()).add(self._kind)
        else:
            self._refusing.add(self._at)

    def _climb(self, cause: Cause, grammar: Grammar, journal: Journal, now: float) -> Plan | None:
        self._onward = self._next(self._at + 1, now)
        if self._onward is None and not self._spent[0]:
            self._onward = 0  # its circuit is open, but there is nobody else left
        shut = self._onward is not None and not self.breaker.allows(now)
        situation = Situation(
            request=self._request,
            policy=self._policy,
            journal=journal,
            grammar=grammar,
            fault=cause.fault,
            end=cause.end,
            attempts=self._spent[self._at],
            target=self.target,
            asked=self.asked,
            strategy=self.tries[-1].strategy,
            onward=None if self._onward is None else self._route[self._onward],
            error=cause.error,
            stale_used=self._stale_used,
            capped=self.cap_s is not None and self._at == self._capped_at,
            shut=shut or self._at in self._refusing,
            ruled_out=frozenset(self._ruled_out.get(self._at, ())),
        )
        plan = climb(situation)
        # The budget spares whom is asked again; the next target has a circuit of its own.
        if plan is None or plan.free or plan.onward or self._budget.withdraw(now):
            return plan
        return climb(replace(situation, shut=True))

    def _next(self, first: int, now: float) -> int | None:
        places = range(first, len(self._route))
        return next((at for at in places if self._breakers[at].allows(now)), None)

    def _begin(self, strategy: str, reason: str, *, free: bool = False) -> None:
        self._spent[self._at] += not free
        self._probes = self.breaker.begin()
        self.tries.append(Try(strategy, reason, self.target))

    def _note_age(self, cause: Cause, grammar: Grammar) -> None:
        age = cause.end.age_s
        if cause.fault not in _CUTS or not grammar.events or age < _YOUNGEST_CAP_S:
            return
        ages = self._ages.setdefault(self._at, [])
        near = min(_SAME_AGE_S, _SAME_AGE_SHARE * age)
        if any(abs(age - earlier) <= near for earlier in ages):
            self.cap_s, self._capped_at = age, self._at
        ages.append(age)
