"""What an application saw of one call, and whether that is what it should have seen.

Knows plain facts about a call and the scenarios' expectations. Must not know any SDK.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from proxy.demo.answers import Asked
from proxy.demo.scenario import Scenario, Way


class Ending(enum.Enum):
    """The four ways a call can end for its application."""

    COMPLETE = "complete"
    HONEST = "honest errors"
    SILENT = "broken silently"
    BROKEN = "other exceptions and hangs"


@dataclass(frozen=True, slots=True)
class Seen:
    """One call as its application saw it.

    ``finished`` says that the answer came to its own end (a finish reason, or
    ``response.completed``); ``error`` is the exception's name, ``told`` says that it tells what
    happened (an API error, not a broken connection or a parser that gave up); ``gave_up_s`` is
    the application's own timeout where that ended the call.
    """

    text: str
    finished: bool
    identities: frozenset[str] = frozenset()
    error: str = ""
    told: bool = False
    code: str = ""
    status: int = 0
    gave_up_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a person is told about a call, and which kind of ending that is."""

    words: str
    ending: Ending


def tell(seen: Seen, scenario: Scenario) -> Verdict:
    """Put a call into words."""
    if seen.gave_up_s:
        return Verdict(f"hang (gave up after {seen.gave_up_s:g} s)", Ending.BROKEN)
    if seen.told:
        return Verdict(f"honest error: {seen.code or seen.status or seen.error}", Ending.HONEST)
    if seen.error:
        return Verdict(f"exception {seen.error}", Ending.BROKEN)
    if seen.text == scenario.text and (seen.finished or not scenario.finishes):
        return Verdict(f"complete ({len(seen.text.split())} words)", Ending.COMPLETE)
    if seen.text == scenario.text:
        how = "END LOST"
    elif scenario.text.startswith(seen.text):
        how = "CUT" if seen.text else "EMPTY"
    else:
        how = "GARBLED"
    return Verdict(f"{how}, LOOKS WHOLE", Ending.SILENT)


def judge(seen: Seen, scenario: Scenario, way: Way = "plain") -> str:
    """Return what is wrong with a call through the proxy, or nothing."""
    if len(seen.identities) > 1:
        return f"identities of several attempts: {', '.join(sorted(seen.identities))}"
    if not scenario.text.startswith(seen.text):
        return f"the text is no prefix of the whole one: {seen.text!r}"
    told = tell(seen, scenario)
    expected = scenario.expects(way)
    wanted = Ending.COMPLETE if expected == "complete" else Ending.HONEST
    if told.ending is not wanted:
        return f"{told.words} instead of {expected}"
    if expected == "upstream error":
        status = scenario.misbehave(Asked(model=scenario.name), 1).status
        return "" if seen.status == status else f"HTTP {seen.status} instead of {status}"
    return ""
