"""Open-loop pacing: when which stream is due, whatever became of the events before.

Knows a clock and slots of a fraction of a millisecond. Must not know what is sent.

A schedule is made before and never moves: a tick that comes late catches up, and each event tells
the time it was planned for, so that a system that stalls is charged for all that it delayed
(no coordinated omission).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import struct
import time
from array import array
from collections import defaultdict
from typing import Protocol

SLOT_NS = 50_000
"""At 20,000 events/s one is due in each slot. Wider slots make bursts, which cost each system less
per event (nginx 11 µs at 200 µs, 6 µs at 1 ms), and which streams of their own do not have."""

_MONOTONIC, _ABSOLUTE = 1, 1
"""CLOCK_MONOTONIC and TFD_TIMER_ABSTIME."""


class Paced(Protocol):
    """What the wheel turns."""

    due_ns: int
    """When it is due next, in monotonic nanoseconds."""

    def tick(self) -> bool:
        """Send what is due, move ``due_ns``; tell whether there is more."""


def _ticker(slot_ns: int) -> int:
    """Return a file descriptor that becomes readable where each slot begins. Linux."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.timerfd_create(_MONOTONIC, os.O_NONBLOCK)
    first = (time.monotonic_ns() // slot_ns + 1) * slot_ns
    # struct itimerspec: the interval, then the first expiry; seconds and nanoseconds each.
    spec = struct.pack("llll", 0, slot_ns, *divmod(first, 1_000_000_000))
    if descriptor < 0 or libc.timerfd_settime(descriptor, _ABSOLUTE, spec, None) < 0:
        raise OSError(ctypes.get_errno(), "timerfd")
    return descriptor


class Wheel:
    """Calls each member's ``tick`` when it is due; runs only while there are members."""

    def __init__(self, loop: asyncio.AbstractEventLoop, slot_ns: int = SLOT_NS) -> None:
        """Take the loop to run on, and the width of a slot."""
        self._slot_ns = slot_ns
        self._loop = loop
        self._slots: defaultdict[int, list[Paced]] = defaultdict(list)
        self._done = 0
        self._descriptor: int | None = None
        self.late_ns = array("q")
        """How late each event was sent, against its schedule."""

    def add(self, member: Paced) -> None:
        """Turn it from now on."""
        if self._descriptor is None:
            self._done = time.monotonic_ns() // self._slot_ns
            self._descriptor = _ticker(self._slot_ns)
            self._loop.add_reader(self._descriptor, self._tick)
        self._slots[max(member.due_ns // self._slot_ns, self._done + 1)].append(member)

    def phase_ns(self, within_ns: int) -> int:
        """Return a random time from now on, within so many nanoseconds, where a slot begins."""
        at = time.monotonic_ns() + int(random.random() * within_ns)  # noqa: S311 - no secret
        return (at // self._slot_ns + 1) * self._slot_ns

    def _tick(self) -> None:
        assert self._descriptor is not None  # noqa: S101 - it is what called
        os.read(self._descriptor, 8)
        now = time.monotonic_ns() // self._slot_ns
        slots = self._slots
        for slot in range(self._done + 1, now + 1):
            for member in slots.pop(slot, ()):
                if self._turn(member, (slot + 1) * self._slot_ns):
                    slots[member.due_ns // self._slot_ns].append(member)
        self._done = now
        if not slots:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _turn(self, member: Paced, before_ns: int) -> bool:
        """Tick a member as often as it is due in this slot; tell whether there is more."""
        while member.due_ns < before_ns:
            self.late_ns.append(time.monotonic_ns() - member.due_ns)
            if not member.tick():
                return False
        return True
