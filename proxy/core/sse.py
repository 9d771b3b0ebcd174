"""Server-sent events on bytes: reads in, whole events out, one canonical form.

Knows the WHATWG event stream format (HTML, "Server-sent events", 9.2.5 and 9.2.6) and the
repairs that concern framing alone. Must not know JSON, endpoints or recovery.

Bytes are never decoded here: CR, LF and colon do not occur inside a multi-byte UTF-8
character, so a character that is split over two reads needs no care.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

BOM = b"\xef\xbb\xbf"
STRAY = b"\n"
"""The name, impossible otherwise, of a block without any field, where it is asked for."""

_STRIPPED = {b"": "dropped_comment", b"id": "stripped_id_retry", b"retry": "stripped_id_retry"}
"""Fields that go no further, and the repair that is counted for them once an event."""

_LF = 0x0A
_SHOWN_OF_OVERSIZE = 1024
"""So much of an event that grew past its cap is kept, to be shown in the incident."""


class Event(NamedTuple):
    """One event: its type (empty for the default) and its data, lines joined with LF."""

    name: bytes
    data: bytes

    def encode(self) -> bytes:
        """Return the canonical form: ``event`` if any, ``data``, blank line."""
        if self.name:
            return b"event: %b\ndata: %b\n\n" % (self.name, self.data)
        return b"data: %b\n\n" % self.data


def size_of(data: list[bytes]) -> int:
    """Return the bytes of events without a name, each of one line of data, as they are sent."""
    return sum(map(len, data)) + len(b"data: \n\n") * len(data)


def split_after(run: bytes, blocks: int) -> tuple[bytes, bytes]:
    """Return the first blocks of a run, as many as are asked for or there are, and the others."""
    end = 0
    for _ in range(blocks):
        end = end_of_block(run, end)
    return run[:end], run[end:]


def end_of_block(run: bytes, start: int = 0) -> int:
    """Return where the first block from a place on ends, its blank line included.

    Looks for one byte at a time: in a large event two together take ten times as long to find.
    """
    at = run.find(b"\n", start)
    while 0 <= at < len(run) - 1 and run[at + 1] != _LF:
        at = run.find(b"\n", at + 1)
    return len(run) if at < 0 else min(at + 2, len(run))


class EventSplitter:
    """Cuts reads into events. Cost is linear in the bytes, however they are split.

    ``max_event_bytes`` bounds what is kept of an unfinished event. An event that grows past
    it is dropped, ``oversize`` becomes True and everything that follows is ignored.
    ``count`` is told the name of each repair made. With ``strays`` a block that has no field at
    all comes out as an event named ``STRAY``: it may be the rest of one, or no event stream.
    """

    def __init__(
        self, max_event_bytes: int, count: Callable[[str], None], *, strays: bool = False
    ) -> None:
        """Start at the first byte of a body."""
        self._max = max_event_bytes
        self._strays = strays
        self._count = count
        self._head: bytes | None = b""
        self._fragments: list[bytes] = []
        self._size = 0
        self._line_ended = False
        self._swallow_lf = False
        self._seen_cr = False
        self._seen_no_space = False
        self._dangling = b""
        self.received = 0
        self.oversize = False
        self.stopped = False
        """Whether that was an event among others, of which those behind it are not read."""

    @property
    def pending(self) -> bytes:
        """What came after the last whole event, line ends normalised."""
        return b"".join(self._fragments) if self._fragments else (self._head or b"")

    @property
    def offset(self) -> int:
        """Where the pending bytes began in the body; exact as long as line ends are LF."""
        return self.received - self._size

    def feed(self, read: bytes) -> list[Event]:
        """Take one read, return the events that it completes."""
        return self.parse(self.cut(read))

    def cut(self, read: bytes) -> bytes:
        """Take one read, return what is whole: blocks as they are, each with its blank line.

        What comes out goes to ``parse``, unless it can be seen that ``parse`` and
        ``Event.encode`` would give it back as it is.
        """
        self.received += len(read)
        if self._head is not None:
            read = self._strip_bom(read)
        if self._swallow_lf or b"\r" in read:
            read = self._normalise(read)
        if not read or self.oversize:
            return b""
        # Of an event that is larger than a read most reads have no line end at all.
        end = read.rfind(b"\n\n") + 2 if _LF in read else 1
        if end == 1:
            end = int(self._line_ended and read.startswith(b"\n"))
        run = read[:end]
        if end and self._fragments:
            run = b"".join([*self._fragments, run])
            self._fragments.clear()
            self._size = 0
            self._line_ended = False
        tail = read[end:] if self._fragments else read[end:].lstrip(b"\n")
        if tail:
            self._keep(tail)
        if self._size - self._line_ended > self._max:
            self._overflow(b"".join(self._fragments))
        return run

    def parse(self, run: bytes) -> list[Event]:
        """Return the events of what was cut, or those before one that is too large."""
        events: list[Event] = []
        one = end_of_block(run) == len(run)
        for untrimmed in [run] if one else run.split(b"\n\n"):
            block = untrimmed.strip(b"\n")
            if len(block) > self._max:
                self._overflow(block)
                self.stopped = True
                break
            event = self._parse(block) if block else None
            if event is not None:
                events.append(event)
        return events

    @property
    def idle(self) -> bool:
        """Whether nothing that came has any bearing on what comes."""
        begun = self._head is None and not (self._fragments or self._swallow_lf)
        return begun and not (self._dangling or self.oversize)

    @property
    def dangling(self) -> bool:
        """Whether the next event may be given the name of an empty one."""
        return bool(self._dangling)

    def close(self) -> Event | None:
        """Return the pending bytes as an event, as if a blank line had come.

        WHATWG discards them. Real servers forget the last blank line (openai-node#2725), so
        the caller may ask, and must judge whether the data is whole.
        """
        block = self.pending
        self._fragments.clear()
        self._size = 0
        self._head = None
        return self._parse(block.rstrip(b"\n"))

    def _strip_bom(self, read: bytes) -> bytes:
        head = (self._head or b"") + read
        if len(head) < len(BOM) and BOM.startswith(head):
            self._head = head
            return b""
        self._head = None
        if head.startswith(BOM):
            self._count("bom")
            return head[len(BOM) :]
        return head

    def _normalise(self, read: bytes) -> bytes:
        # A CR ends its line at once and one LF that follows is swallowed, even when it comes
        # with the next read: waiting for it would stall a stream that uses CR alone.
        if self._swallow_lf and read:
            self._swallow_lf = False
            if read.startswith(b"\n"):
                read = read[1:]
        if b"\r" in read:
            if not self._seen_cr:
                self._seen_cr = True
                self._count("line_ends")
            self._swallow_lf = read.endswith(b"\r")
            read = read.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return read

    def _keep(self, fragment: bytes) -> None:
        self._fragments.append(fragment)
        self._size += len(fragment)
        self._line_ended = fragment.endswith(b"\n")

    def _overflow(self, block: bytes) -> None:
        self.oversize = True
        self._fragments = [block[:_SHOWN_OF_OVERSIZE]]
        self._size = 0

    def _parse(self, block: bytes) -> Event | None:
        # Two shapes are nearly all of the traffic; anything else takes the long way.
        if block.startswith(b"data: "):
            if b"\n" not in block:
                return self._event(b"", block[6:])
        elif block.startswith(b"event: "):
            name, _, rest = block.partition(b"\n")
            if rest.startswith(b"data: ") and b"\n" not in rest:
                return self._event(name[7:], rest[6:])
        return self._parse_lines(block)

    def _parse_lines(self, block: bytes) -> Event | None:
        name: bytes | None = None
        data: list[bytes] = []
        seen: set[str] = set()
        bare = block.lstrip(b"\0\n")
        if bare != block:
            # Zeros between events: padding, or memory that was never written.
            self._count("dropped_nul")
            block = bare
        for line in block.split(b"\n"):
            field, colon, value = line.partition(b":")
            if field == b"data":
                data.append(self._value(value))
            elif field == b"event":
                name = self._value(value)
            elif field in _STRIPPED and (field or colon):
                seen.add(_STRIPPED[field])
            elif line.startswith(b"{") and line.endswith(b"}"):
                # A JSON object without its "data:" (danny-avila/LibreChat#4820).
                data.append(line)
                seen.add("data_prefix")
        for repair in sorted(seen):
            self._count(repair)
        if name is not None or data:
            return self._event(name or b"", b"\n".join(data))
        return Event(STRAY, block) if self._strays and block and not seen else None

    def _hold_dataless(self, name: bytes) -> None:
        # Nobody can use an event without data, and SDKs die of it (openai/openai-python#2722). Its
        # name may belong to the next one, though.
        self._drop_dangling()
        self._dangling = name
        if not name:
            self._count("dropped_dataless")

    def _value(self, value: bytes) -> bytes:
        if value.startswith(b" "):
            return value[1:]
        if value and not self._seen_no_space:
            self._seen_no_space = True
            self._count("data_space")
        return value

    def _event(self, name: bytes, data: bytes) -> Event | None:
        if not data.strip():
            self._hold_dataless(name)
            return None
        if self._dangling and not name and _names_itself(data, self._dangling):
            # A blank line slipped between "event:" and "data:" (earendil-works/pi#8430).
            self._count("reattached_event_name")
            name, self._dangling = self._dangling, b""
        self._drop_dangling()
        return Event(name, data)

    def _drop_dangling(self) -> None:
        if self._dangling:
            self._dangling = b""
            self._count("dropped_dataless")


def _names_itself(data: bytes, name: bytes) -> bool:
    """Say whether the data carries the name as its ``type`` near the front or the end."""
    return b'"type":"%b"' % name in data or b'"type": "%b"' % name in data
