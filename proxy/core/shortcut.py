"""The shortcut: one read that is one whole ordinary event, which is nearly all of the traffic.

Such a read goes to the client as it is: nothing is cut, and nothing written anew. Knows what has
to be noted of an event, and where. Must not know when the way is clear: that is ``attempt``'s
and ``session``'s to say, who offer it.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.core.grammars import Grammar
from proxy.core.grammars.base import REFUSALS
from proxy.core.journal import Journal
from proxy.core.repairs import is_clean
from proxy.core.sse import EventSplitter

Shortcut = Callable[[bytes], bool]
"""Says of the data of an event without a name whether it took it; then it is to be given on."""

BEFORE, BEHIND = b"data: ", b"\n\n"
"""What must stand on either side of the data, which came as one line."""

_FRAME = len(BEFORE) + len(BEHIND)
_LF, _CR = 0x0A, 0x0D


def shortcut(
    validate: Callable[[bytes], object],
    cap: int,
    splitter: EventSplitter,
    grammar: Grammar,
    journal: Journal,
) -> Shortcut:
    """Return a shortcut past the parts given, each of which notes what it would have noted.

    ``validate`` raises ``REFUSALS`` unless data is ordinary, ``cap`` bounds an event in bytes.
    """

    def take(data: bytes) -> bool:
        size = len(data) + _FRAME
        # A number is found faster than bytes are: those are tried as a number first.
        if _LF in data or _CR in data or size > cap or not (data.isascii() or is_clean(data)):
            return False
        try:
            validate(data)
        except REFUSALS:
            return False
        splitter.received += size
        grammar.events += 1
        journal.events += 1
        journal.size += size
        journal.last = data
        return True

    return take
