"""Continuation: let the target go on from the partial answer.

Applies after content was given, only where the target's way is declared, and only to plain text
of one choice: never inside tool calls, reasoning, structured output, audio, with log
probabilities, or where tools might be called. Promises that nothing given is repeated: an echo
of the partial answer and white space at the seam are taken off, and an instructed answer that
does not begin with the words asked for is dropped. Does not promise the words that the first
attempt would have found. Costs the prompt again, with the partial answer added to it; usage is
that of the last attempt, so its prompt tokens contain the partial answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from proxy.core.fault import IncidentOutcome
from proxy.core.grammars.base import DONE
from proxy.core.grammars.chat_seam import ChatSeam
from proxy.core.grammars.seam import Piece, characters, parsed, units, written
from proxy.core.policy import Target
from proxy.core.recovery.situation import Plan, Situation
from proxy.core.recovery.splice import Splice, fitted
from proxy.core.request import Request
from proxy.core.sse import Event

STRATEGY = "continuation"

_ANCHOR_CHARS = 80
_LONGEST = 2**17
"""A partial answer of more characters is not sent back."""

_ECHO_CHARS = 3
"""A partial answer at least this long that is repeated whole was echoed, announced or not."""

_ANEW_CHARS = 8
"""An answer with so much of the same beginning, and then other words, has begun anew."""

_FINISHES = frozenset({"stop", "length", "content_filter"})

_EXCLUDED = ("tools", "functions", "audio", "suffix", "echo")
_COUNTED = ("logprobs", "top_logprobs")
"""Where 0 asks for something: the log probability of the chosen token."""

_CEILINGS = ("max_tokens", "max_completion_tokens")


def plan(situation: Situation) -> Plan | None:
    """Return the continuation to ask of the same target, or None."""
    wait = situation.wait
    if wait is None or not situation.may_repeat or STRATEGY in situation.ruled_out:
        return None
    found = continued(situation, situation.target)
    return found and Plan(STRATEGY, IncidentOutcome.CONTINUED, *found, *wait)


def continued(situation: Situation, target: Target) -> tuple[Request, Splice] | None:
    """Return the request that continues the answer at a target, and its splice, or None."""
    journal, request = situation.journal, situation.request
    build = _WAYS.get((request.path.rstrip("/"), target.continuation))
    if build is None or not (journal.content and journal.complete and situation.has_body):
        return None
    seam = situation.grammar.seam(journal.given)
    if not isinstance(seam, ChatSeam) or not _is_plain(request.json):
        return None
    slot = (0, "text") if target.continuation == "completions" else (0, "content")
    if set(seam.texts) != {slot} or seam.marks:
        return None
    text = characters(seam.texts[slot])
    if len(text) > _LONGEST:
        return None
    spoken = sum(bool(seam.pieces(parsed(event.data))) for event in journal.given)
    ceilings, body = _lowered(request.json, spoken), build(request.json, text)
    if ceilings is None or body is None:
        return None
    splice = Continued(seam, text, target.continuation)
    return request.saying({**body, **ceilings}).asking(target.model), splice


def _is_plain(body: dict[str, Any]) -> bool:
    form, modalities = body.get("response_format"), body.get("modalities")
    structured = isinstance(form, dict) and form.get("type") != "text"
    several = any(body.get(key) is not None and body[key] != 1 for key in ("n", "best_of"))
    spoken = isinstance(modalities, list) and "audio" in modalities
    counted = any(body.get(key) is not None and body[key] is not False for key in _COUNTED)
    excluded = any(body.get(key) for key in _EXCLUDED)
    return not (structured or several or spoken or counted or excluded)


def _lowered(body: dict[str, Any], events: int) -> dict[str, int] | None:
    """Return the ceilings less what was given, one token an event at least; None: used up."""
    lowered = {}
    for key in _CEILINGS:
        if isinstance(body.get(key), int):
            lowered[key] = body[key] - events
            if lowered[key] <= 0:
                return None
    return lowered


def _prompt(body: dict[str, Any], text: str) -> dict[str, Any] | None:
    prompt = body.get("prompt")
    return {**body, "prompt": prompt + text, "echo": False} if isinstance(prompt, str) else None


def _turn(*, prefix: bool = False, **more: Any) -> Callable[[dict[str, Any], str], Any]:
    """Add the partial answer as a last assistant turn."""

    def build(body: dict[str, Any], text: str) -> dict[str, Any] | None:
        messages = body.get("messages")
        if not isinstance(messages, list) or _ends_in_answer(messages):
            return None
        turn: dict[str, Any] = {"role": "assistant", "content": text}
        if prefix:
            turn["prefix"] = True
        return {**body, "messages": [*messages, turn], **more}

    return build


def _instructed(body: dict[str, Any], text: str) -> dict[str, Any] | None:
    messages = body.get("messages")
    if not isinstance(messages, list) or _ends_in_answer(messages):
        return None
    order = (
        "Your answer was cut off in transmission. Continue it exactly from where it stopped. "
        f"Begin with precisely these words, which were its last: {json.dumps(_anchor(text))} "
        "and go on from there in the same sentence. Repeat nothing else, comment on nothing."
    )
    turns = [{"role": "assistant", "content": text}, {"role": "user", "content": order}]
    return {**body, "messages": [*messages, *turns]}


def _ends_in_answer(messages: list[Any]) -> bool:
    last = messages[-1] if messages else None
    return not isinstance(last, dict) or last.get("role") == "assistant"


def _anchor(text: str) -> str:
    """Return the last words, whole ones where there are spaces."""
    tail = text[-_ANCHOR_CHARS:].strip()
    head, _, words = tail.partition(" ")
    return words if len(text) > _ANCHOR_CHARS and words else head + (f" {words}" if words else "")


_CHAT = "/chat/completions"
_WAYS: dict[tuple[str, str], Callable[[dict[str, Any], str], dict[str, Any] | None]] = {
    ("/completions", "completions"): _prompt,
    (_CHAT, "prefill"): _turn(),
    (_CHAT, "vllm"): _turn(continue_final_message=True, add_generation_prompt=False),
    (_CHAT, "prefix"): _turn(prefix=True),
    (_CHAT, "instructed"): _instructed,
}
"""By path and declared capability: how the request is changed."""


class Continued(Splice):
    """Holds the beginning until it is known what of it repeats the partial answer."""

    kind = STRATEGY

    def __init__(self, seam: ChatSeam, text: str, way: str) -> None:
        """Take the partial answer, and the way in which it is continued."""
        self._seam = seam
        self._text = units(text)
        self._way = way
        self._anchor = units(_anchor(text)) if way == "instructed" else ""
        self._seen = ""
        self._finished = False
        self._held: list[tuple[Event, dict[str, Any]]] = []

    def take(self, event: Event) -> list[Event]:
        """Pass text; anything but text does not belong to a continuation."""
        found = parsed(event.data)
        if self.mismatch or found.get("moderation"):
            return []  # a moderation that has seen but a part
        marks, pieces = self._seam.marks_of(found), self._seam.pieces(found)
        self._finished = self._finished or bool(marks)
        ended = event.data == DONE or self._finished
        strange = any(piece.slot not in self._seam.texts for piece in pieces)
        if strange or any(mark.value not in _FINISHES for mark in marks):
            self.mismatch = "it is not plain text"
            return []
        if self.aligned:
            return fitted(self._seam, event)
        self._held.append((event, found))
        self._seen += "".join(piece.text for piece in pieces)
        return self._decide(last=ended)

    def close(self) -> list[Event]:
        """Decide with what there is."""
        out = [] if self.aligned else self._decide(last=True)
        if not self._finished:
            # The first attempt was cut; that the answer ends here is for the second one to say.
            self.mismatch = self.mismatch or "it ended without a finish reason"
        return [*out, *super().close()]

    def _decide(self, *, last: bool) -> list[Event]:
        lost = self._verified(last=last) if self._anchor else self._repeated(last=last)
        if lost is None:
            if last:
                self.mismatch = self.mismatch or "it does not begin with the words asked for"
            return []
        self.aligned = True
        held, self._held = self._held, []
        out: list[Event] = []
        for event, found in held:
            for piece in self._seam.pieces(found):
                lost -= self._cut(found, piece, lost)
            if event.data == DONE:
                out.append(event)
            elif self._seam.fit(found):
                out.append(written(event, found))
        return out

    def _cut(self, found: dict[str, Any], piece: Piece, lost: int) -> int:
        lost = min(lost, len(piece.text))
        if lost:
            self._seam.trim(found, piece, lost)
        return lost

    def _verified(self, *, last: bool) -> int | None:
        """Return the length of the anchor, and of white space behind it, once it is there."""
        blank = len(self._seen) - len(self._seen.lstrip())
        words = self._seen[blank:]
        if not self._anchor.startswith(words[: len(self._anchor)]):
            self.mismatch = "it does not begin with the words asked for"
            return None
        found = len(words) >= len(self._anchor)
        return self._after(blank + len(self._anchor), last=last) if found else None

    def _repeated(self, *, last: bool) -> int | None:
        """Return how many characters at the beginning repeat what was given."""
        given, seen = self._text.strip(), self._seen.lstrip()
        blank = len(self._seen) - len(seen)
        short = len(given) < _ECHO_CHARS and self._way != "prefix"
        if seen.startswith(given) and not short:
            return self._after(blank + len(given), last=last)
        if given.startswith(seen) and not last and not short:
            return None  # it may yet be an echo
        pairs = enumerate(zip(seen, given, strict=False))
        common = next((at for at, (one, two) in pairs if one != two), min(len(seen), len(given)))
        if common >= _ANEW_CHARS:
            self.mismatch = "it began anew"
            return None
        return self._after(0, last=last)

    def _after(self, at: int, *, last: bool) -> int | None:
        """Return ``at`` and the white space behind it that was given already."""
        given = self._text[len(self._text.rstrip()) :]
        if not given:
            return at
        rest = self._seen[at:]
        blank = rest[: len(rest) - len(rest.lstrip())]
        if blank.startswith(given):
            return at + len(given)
        if blank == rest and not last:
            return None
        return at + (len(blank) if given.endswith(blank) else 0)
