"""The splitter, whatever it is fed and however that is cut.

Knows the event stream format a second time, told line by line as WHATWG tells it and not as the
splitter does. Where the splitter is more lenient than the format, that is named here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from fuzz.cases import Case
from proxy.core.sse import STRAY, Event, EventSplitter

_CAPS = (16 * 2**20, 8, 64, 1)
_SHOWN = 1024
_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\r|\n")


@dataclass
class Split:
    """What came of one body, cut in one way."""

    events: list[Event] = field(default_factory=list)
    repairs: Counter[str] = field(default_factory=Counter)
    pending: bytes = b""
    oversize: bool = False


def check_splitter(data: bytes) -> None:
    """One body, cut in several ways: the same events each time, and those that the format has.

    Knobs: 0 how it is cut, 1 the cap, 2 whether strays are asked for, 3 whether the end is
    closed.
    """
    case = Case(data)
    cap, strays = _cap(case), bool(case.number(2) % 2)
    closes = not case.number(3) % 2
    whole = _split([case.body], cap, strays=strays, closes=closes)
    cut = _split(case.reads(0, case.body), cap, strays=strays, closes=closes)
    assert cut == whole, f"{cut} is not {whole}"
    for event in whole.events:
        if event.name != STRAY:
            _check_canonical(event)
    if not strays:
        _check_against_the_format(case.body, whole, closes=closes)


def _cap(case: Case) -> int:
    """Return a cap: one of a few, or one at which a block of the body just fits, or just not."""
    number = case.number(1)
    if number < len(_CAPS):
        return _CAPS[number]
    sizes = [len(block) for block in case.body.split(b"\n\n")]
    return max(1, sizes[number % len(sizes)] - number // 128)


def _split(reads: Iterable[bytes], cap: int, *, strays: bool, closes: bool) -> Split:
    made = Split()
    splitter = EventSplitter(cap, lambda repair: made.repairs.update([repair]), strays=strays)
    received = 0
    for read in reads:
        made.events += splitter.feed(read)
        received += len(read)
        assert splitter.received == received
        assert len(splitter.pending) <= (_SHOWN if splitter.oversize else cap + 1 + len(_BOM))
    assert all(len(event.data) <= cap for event in made.events)
    made.oversize = splitter.oversize
    # Of what grew past the cap is shown what was there by then.
    made.pending = b"" if splitter.oversize else splitter.pending
    last = None if splitter.oversize or not closes else splitter.close()
    made.events += [] if last is None else [last]
    return made


def _check_canonical(event: Event) -> None:
    """Its name is one line, and its encoding says the same again, unless it is to be joined."""
    assert not re.search(rb"[\r\n]", event.name), event
    assert b"\r" not in event.data, event
    assert event.data.strip(), event
    if b"\n" in event.data:
        return
    again = _split([event.encode()], len(event.encode()), strays=False, closes=False)
    assert again.events == [event], f"{event} is read again as {again.events}"
    assert not again.repairs, f"{event} is mended again: {again.repairs}"


def _check_against_the_format(body: bytes, split: Split, *, closes: bool) -> None:
    text = body.removeprefix(_BOM)
    if b"\0" in text or any(_is_bare(line) for line in _LINE_END.split(text)):
        return  # lenient: padding between events, and objects without a field
    told = _told(text + b"\n\n" if closes else text)
    # What is larger than the cap, and all that follows, is dropped.
    told = told[: len(split.events)] if split.oversize else told
    assert [event.data for event in split.events] == [event.data for event in told]
    odd = sum(one.name != other.name for one, other in zip(split.events, told, strict=True))
    # Lenient: the name of an event without data may belong to the next one.
    assert odd <= split.repairs["reattached_event_name"]
    assert split.repairs["bom"] == body.startswith(_BOM)
    assert split.repairs["line_ends"] == (b"\r" in body) or split.oversize


def _told(text: bytes) -> list[Event]:
    """Read a text as WHATWG has it: line by line, an event at each empty line."""
    events: list[Event] = []
    name, data = b"", list[bytes]()
    # What follows the last line end is no line.
    for line in _LINE_END.split(text)[:-1]:
        key, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if key == b"event":
            name = value
        elif key == b"data":
            data.append(value)
        elif not line:
            joined = b"\n".join(data)
            # Stricter: an event with nothing but white space for data is of no use either.
            events += [Event(name, joined)] if joined.strip() else []
            name, data = b"", []
    return events


def _is_bare(line: bytes) -> bool:
    return line.startswith(b"{") and line.endswith(b"}")
