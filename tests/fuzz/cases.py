"""How bytes are read as a case: a few choices, then the bodies that upstreams answer with.

The first bytes are *knobs*, one choice each, so that whoever changes bytes changes choices; what
follows is one body or several. Knows nothing of what is tried with them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

KNOBS = 16
"""So many bytes at the beginning are choices; where there are less, the rest is 0."""

SEPARATOR = b"\n\0\xff\n"
"""Stands between bodies. No text has it."""

_ONE_BY_ONE = 1
_SMALL = 4096
"""A longer body is not fed byte by byte: nothing new would be learned from it."""

_T = TypeVar("_T")


class Case:
    """One case: choices, and bodies."""

    def __init__(self, data: bytes) -> None:
        """Read any bytes."""
        self._knobs = data[:KNOBS].ljust(KNOBS, b"\0")
        self.body = data[KNOBS:]
        """All behind the knobs."""

    @cached_property
    def bodies(self) -> list[bytes]:
        """The bodies, at least one."""
        return self.body.split(SEPARATOR)

    def number(self, knob: int) -> int:
        """Return a choice as it stands, 0 to 255."""
        return self._knobs[knob]

    def pick(self, knob: int, options: Sequence[_T]) -> _T:
        """Return one of several; 0 is the first."""
        return options[self._knobs[knob] % len(options)]

    def reads(self, knob: int, body: bytes) -> list[bytes]:
        """Cut a body into reads: whole, byte by byte, or at places that the choice stands for."""
        number = self._knobs[knob]
        if number == 0:
            return [body]
        if number == _ONE_BY_ONE and len(body) <= _SMALL:
            return [body[at : at + 1] for at in range(len(body))]
        chance = random.Random(number)  # noqa: S311 - it chooses test cases
        places = sorted(chance.randint(0, len(body)) for _ in range(number % 8 + 1))
        return [body[a:b] for a, b in pairwise([0, *places, len(body)])]


def case(*bodies: bytes, **knobs: int) -> bytes:
    """Write a case; a keyword ``k3=7`` sets the third knob."""
    head = bytearray(KNOBS)
    for name, value in knobs.items():
        head[int(name.removeprefix("k"))] = value
    return bytes(head) + SEPARATOR.join(bodies)
