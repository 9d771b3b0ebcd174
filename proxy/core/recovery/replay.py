"""Replay: ask the same question again, find what was given, pass the rest.

Applies after content was given, if the policy allows it: by default only where the client asked
for a deterministic answer (temperature 0, or a seed). Promises that every character of the new
answer up to the seam is the one that was given, slot by slot, whatever the borders of the
deltas; at the first difference the attempt is dropped and nothing of it is given. Costs a
second billed generation, and the time until it reaches the seam. The answer's usage and finish
reason are those of the attempt that finished.
"""

from __future__ import annotations

from typing import Any

from proxy.core.fault import IncidentOutcome
from proxy.core.grammars.seam import Seam, Slot, is_opaque, parsed, written
from proxy.core.recovery.situation import Plan, Situation
from proxy.core.recovery.splice import Splice, fitted
from proxy.core.request import Request
from proxy.core.sse import Event

STRATEGY = "replay"


def plan(situation: Situation) -> Plan | None:
    """Return the replay to make on the same target, or None."""
    wait = situation.wait
    if wait is None or situation.capped or not situation.may_repeat:
        return None
    splice = joined(situation)
    if splice is None or STRATEGY in situation.ruled_out:
        return None
    request = situation.request.asking(situation.target.model)
    return Plan(STRATEGY, IncidentOutcome.REPLAYED, request, splice, *wait)


def joined(situation: Situation) -> Splice | None:
    """Return the splice for another answer to the same request, or None if it must not be."""
    journal = situation.journal
    if not (journal.content and journal.complete and situation.has_body):
        return None
    if not may_replay(situation.request, situation.policy.replay):
        return None
    # Of a response that the upstream keeps the client may use the id: another is no substitute.
    if not situation.grammar.may_restart(openers_given=True):
        return None
    seam = situation.grammar.seam(journal.given)
    if seam is None or seam.sealed:
        return None
    return Replayed(seam, situation.policy.journal_max_bytes)


def may_replay(request: Request, policy: str) -> bool:
    """Say whether the policy lets a request be asked again after content was given."""
    return policy == "always" or (policy == "deterministic" and request.deterministic)


class Replayed(Splice):
    """Swallows what was given, holds what goes beyond it until all was found, then passes.

    ``cap`` bounds in bytes what is held.
    """

    kind = STRATEGY

    def __init__(self, seam: Seam, cap: int) -> None:
        """Take the seam of what was given."""
        self._seam = seam
        self._cap = cap
        self._text_at: dict[Slot, int] = dict.fromkeys(seam.texts, 0)
        self._mark_at: dict[Slot, int] = dict.fromkeys(seam.marks, 0)
        self._texts_left = len(seam.texts)
        self._marks_left = sum(map(len, seam.marks.values()))
        self._held: list[tuple[Event, dict[str, Any]]] = []
        self._held_size = 0
        self._look()

    def take(self, event: Event) -> list[Event]:
        """Match, hold or pass an event."""
        found = parsed(event.data)
        self._seam.learn(found)
        self.mismatch = self.mismatch or self._seam.sealed
        if self.aligned:
            return [] if self.mismatch else fitted(self._seam, event)
        if is_opaque(event, found):
            self.mismatch = self.mismatch or "it has an event that cannot be taken apart"
        if self.mismatch or not found:
            return []
        if self._match(found):
            self._held.append((event, found))
            self._held_size += len(event.data)
        if self._held_size > self._cap:
            self.mismatch = "it is longer than journal_max_bytes before the place is found"
        return self._release() if self._look() else []

    def _release(self) -> list[Event]:
        held, self._held = self._held, []
        return [written(event, found) for event, found in held if self._seam.fit(found)]

    def _match(self, found: dict[str, Any]) -> bool:
        """Take out of an event what was given; say whether it is to be kept."""
        pieces, marks = self._seam.pieces(found), self._seam.marks_of(found)
        new = not pieces and not marks
        for piece in pieces:
            at, given = self._text_at.get(piece.slot, 0), self._seam.texts.get(piece.slot, "")
            lost = min(len(given) - at, len(piece.text))
            beyond = len(piece.text) > lost
            same = given.startswith(piece.text[:lost], at)
            if not same or (beyond and self._seam.is_closed(piece.slot)):
                self.mismatch = "it differs from what was given"
                return False
            if lost:
                self._text_at[piece.slot] = at + lost
                self._texts_left -= at + lost == len(given)
                self._seam.trim(found, piece, lost)
            new = new or beyond
        for mark in marks:
            known, at = self._seam.marks.get(mark.slot, []), self._mark_at.get(mark.slot, 0)
            if at >= len(known):
                new = True
                continue
            if not self._agrees(mark.value, known[at]):
                self.mismatch = "it differs from what was given"
                return False
            self._mark_at[mark.slot] = at + 1
            self._marks_left -= 1
            self._seam.unmark(found, mark)
        return new

    def _agrees(self, value: object, given: object) -> bool:
        return value == given

    def _look(self) -> bool:
        left = self._texts_left or self._marks_left or self._seam.unseen()
        self.aligned = not (left or self.mismatch)
        return self.aligned
