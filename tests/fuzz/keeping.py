"""Which inputs are worth keeping: few and small, and reaching all that the many reach.

Knows how to see where a run comes along in ``proxy``. Must not know what the inputs mean.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import proxy

_ROOT = str(Path(proxy.__path__[0]))
_OFTEN = (1, 2, 8)
"""A way taken twice, or eight times, is another one: that is how loops and seams are told apart."""

Way = tuple[CodeType, int, int, int]
"""From a line to a line of one function, at least so often."""


def worth_keeping(check: Callable[[bytes], None], inputs: Iterable[bytes]) -> list[bytes]:
    """Return the smallest inputs that reach what all of them reach, the smallest first.

    What breaks the property is left out: it belongs into a test of its own.
    """
    left = {data: ways for data in inputs if (ways := _ways(check, data)) is not None}
    chosen: list[bytes] = []
    reached: set[Way] = set()
    for data in sorted(left, key=lambda data: (len(data), data)):
        if left[data] - reached:
            chosen.append(data)
            reached |= left[data]
    # What came first may be of no use beside what came later.
    for data in sorted(chosen, key=len, reverse=True):
        others = set().union(*(left[other] for other in chosen if other != data))
        if left[data] <= others:
            chosen.remove(data)
    return chosen


def _ways(check: Callable[[bytes], None], data: bytes) -> set[Way] | None:
    counts: dict[tuple[CodeType, int, int], int] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if event != "call" or not frame.f_code.co_filename.startswith(_ROOT):
            return None
        at = frame.f_lineno

        def line(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal at
            if event == "line":
                step = (frame.f_code, at, frame.f_lineno)
                counts[step] = counts.get(step, 0) + 1
                at = frame.f_lineno
            return line

        return line

    sys.settrace(trace)
    try:
        check(data)
    except Exception:  # noqa: BLE001 - whatever it is, the input breaks the property
        return None
    finally:
        sys.settrace(None)
    return {(*step, often) for step, count in counts.items() for often in _OFTEN if count >= often}
