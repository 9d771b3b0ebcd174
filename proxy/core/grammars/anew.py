"""What is written in another form than it came in: how it is read, and how much it may become.

Knows numbers that JSON has none for, and the bounds of a conversion: a head that is repeated in
every event, or a place that costs two bytes in a list and an event of its own, would make
hundreds of megabytes of a small document. Must not know what is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from proxy.core.grammars.seam import finite
from proxy.core.sse import Event

_EVENTS = 2**14
_TIMES = 4
"""An answer's texts come once in deltas, and again in the events that close them."""


class TooMuchError(ValueError):
    """A document would be told in more than any answer is."""


def read_anew(data: bytes) -> dict[str, Any]:
    """Decode a JSON object so that it can be written again; anything else is an empty one."""
    try:
        found = json.loads(data.decode(), parse_float=finite, parse_constant=_nothing)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def tell(events: Iterable[Event], largest: int) -> list[Event]:
    """Return events while they are made, or stop making them and raise TooMuchError.

    ``largest`` is how large one event may be, and with it a document.
    """
    told: list[Event] = []
    left = _TIMES * largest
    for event in events:
        left -= len(event.data)
        if left < 0 or len(told) == _EVENTS:
            raise TooMuchError
        told.append(event)
    return told


def _nothing(_name: str) -> None:
    return None
