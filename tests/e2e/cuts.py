"""Streams cut at any byte, in any way, and what must come of it.

Knows the contract's faults and phases and the shape of healthy streams. The expectation is
worked out from where the cut falls among the events, never by the proxy's own code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Literal, TypeAlias

from e2e.doors import Door
from e2e.wire import Pairs, Reply
from proxy.demo.answers import Answer, Piece, Raw, sse
from proxy.demo.bodies import Stream

Way: TypeAlias = Literal["fin", "reset", "clean", "close"]
WAYS: tuple[Way, ...] = ("fin", "reset", "clean", "close")
"""FIN or RST without the last chunk; the last chunk after too little; FIN, delimiting a body."""

Incident: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True)
class Cut:
    """The first attempt is cut after ``at`` bytes of body; the second one is whole."""

    door: Door
    way: Way
    at: int
    text: str

    @property
    def name(self) -> str:
        """The model asked for. All of a door have one length, so that all bodies have."""
        door = self.door.name.replace(", ", "-").replace(" ", "-")
        return f"cut-{door}-{len(self.text):02}-{self.way:_<5}-{self.at:05}"

    @cached_property
    def first(self) -> Stream:
        """The stream that is cut."""
        return self.door.stream(self.name, 1, self.text)

    @cached_property
    def second(self) -> bytes:
        """The body of the second attempt."""
        return b"".join(self.door.stream(self.name, 2, self.text).events)

    async def ask(self, port: int, headers: Pairs) -> Reply:
        """Ask for it."""
        return await self.door.ask(port, self.name, headers)

    @cached_property
    def ends(self) -> list[int]:
        """Where each event ends."""
        return list(accumulate(len(event) for event in self.first.events))

    @property
    def answers(self) -> list[Answer]:
        """What the upstream is to answer."""
        count = sum(end <= self.at for end in self.ends)
        pieces: list[Piece] = list(self.first.events[:count])
        begun = self.at - ([0, *self.ends][count])
        if begun:
            event = self.first.events[count]
            # A broken connection breaks off inside a chunk as well.
            whole = self.way in {"clean", "close"}
            pieces.append(
                event[:begun] if whole else Raw(b"%x\r\n%b" % (len(event), event[:begun]))
            )
        if self.way == "close":
            cut = sse(*pieces, end="fin", framing="close")
        else:
            cut = sse(*pieces, end=self.way)
        return [cut, sse(self.second)]

    # --- what must come of it -----------------------------------------------------------

    @property
    def broken(self) -> bool:
        """Whether HTTP itself tells of the cut."""
        return self.way in {"fin", "reset"}

    @cached_property
    def usable(self) -> int:
        """How many events can be used: whole ones, and the one that lacks only line ends.

        After a broken connection that one is used only if it is known to end the stream.
        """
        count = sum(end <= self.at for end in self.ends)
        begun = count < len(self.ends) and self.at > ([0, *self.ends][count])
        last = count == len(self.ends) - 1 and self.door.terminal
        if begun and self.at >= self.ends[count] - 2 and (last or not self.broken):
            return count + 1
        return count

    @property
    def _partial(self) -> bool:
        """Whether the body stops inside an event."""
        used = self.usable
        at_border = self.at in {0, *self.ends}
        return not at_border and (self.broken or self.at > [0, *self.ends][used])

    @property
    def content(self) -> bool:
        """Whether any content can be given."""
        return self.usable > (len(self.first.opening) if self.door.opens else 0)

    @property
    def whole(self) -> bool:
        """Whether the answer is complete: by its terminal event, or by what is enough without."""
        enough = self.usable >= len(self.ends) - self.door.spare
        if self.door.terminal:
            return enough
        return not self.broken and not self._partial and (enough or self.door.open_ended)

    @property
    def incidents(self) -> list[Incident]:
        """The one incident that must be counted, or none."""
        if self.usable == len(self.ends) and self.door.terminal:
            outcome, phase = "swallowed", "after_terminal"
        elif self.whole:
            outcome, phase = "repaired", "after_terminal"
        elif self.content:
            outcome, phase = "surfaced", "mid_content"
        else:
            outcome, phase = "restarted" if self.door.again else "surfaced", "before_content"
        if self.whole and not self.broken and not self._partial:
            return []
        return [(self._fault, phase, outcome)]

    @property
    def _fault(self) -> str:
        if self.way == "reset":
            return "reset"
        if self._partial:
            return "cut_mid_event"
        if self.broken:
            return "cut_between_events"
        return "clean_eof" if self.usable else "empty_stream"


def borders(stream: Stream) -> list[int]:
    """Return the offsets where anything can change: all borders of events and beside them."""
    ends = [0, *accumulate(len(event) for event in stream.events)]
    near = {end + step for end in ends for step in (-3, -2, -1, 0, 1)}
    middles = {(a + b) // 2 for a, b in pairwise(ends)}
    return sorted(at for at in near | middles if 0 <= at <= ends[-1])
