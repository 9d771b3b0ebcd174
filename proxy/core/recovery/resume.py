"""Resume: re-attach to a response that runs on at the upstream.

Applies to responses created with ``background: true`` (and to streams of one that the app
re-attached to itself), once the upstream gave an id. Promises the very same answer: numbers go
on one by one, ids are the same, and what breaks either is not given. Costs nothing: nothing is
generated again. Where the upstream no longer streams the response (after five minutes,
openai/openai-python#2828) or does not fit, its state is fetched once, and if it has ended the
rest is told from that.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, urlencode

from proxy.core.errors import retryable_status
from proxy.core.fault import Fault, IncidentOutcome
from proxy.core.grammars.responses import ResponsesGrammar
from proxy.core.grammars.responses_seam import ResponsesSeam, output_of
from proxy.core.grammars.seam import is_opaque, parsed
from proxy.core.recovery.replay import Replayed
from proxy.core.recovery.situation import Plan, Situation
from proxy.core.recovery.splice import Splice
from proxy.core.request import Request
from proxy.core.sse import Event

STRATEGY = "resume"

_ID = re.compile(r"[A-Za-z0-9_-]{1,256}")
"""An id becomes part of a path, so it must not be able to change it."""

_NOT_RETRIEVABLE = "reasoning.encrypted_content"
"""Rejected on retrieval: encrypted content cannot be asked of a persisted response."""


def plan(situation: Situation) -> Plan | None:
    """Return the re-attachment to make, the one poll where that is refused, or None."""
    grammar = situation.grammar
    identity = _identity(situation, grammar) if isinstance(grammar, ResponsesGrammar) else ""
    if not isinstance(grammar, ResponsesGrammar) or not identity:
        return None
    if _is_refused(situation):
        # What the app has below a number of its own choice is not known, so nothing is joined on.
        return _poll(situation, identity) if situation.request.starting_after < 0 else None
    wait = situation.wait
    if wait is None or not situation.may_repeat:
        return None
    request = _retrieving(situation, _target(situation, identity, grammar.sequence))
    seam = ResponsesSeam([*situation.journal.given, *situation.journal.waiting])
    splice = Resumed(seam, identity, grammar.sequence)
    return Plan(STRATEGY, IncidentOutcome.RESUMED, request, splice, *wait, goes_on=True)


def _identity(situation: Situation, grammar: ResponsesGrammar) -> str:
    """Return the id of a response that runs on and may be re-attached to, or an empty string."""
    asked, policy = situation.asked, situation.policy
    polled = situation.strategy == STRATEGY and not asked.asks_stream
    # A response that said itself that it failed does not run on.
    over = polled or grammar.error_is_native or situation.attempts >= policy.max_attempts
    if over or not (policy.resume and situation.has_body) or situation.journal.full:
        return ""
    identity = grammar.response_id if asked.background else asked.response_id
    return identity if _ID.fullmatch(identity) else ""


def _is_refused(situation: Situation) -> bool:
    fault, status = situation.fault, situation.end.status
    refused = fault is Fault.HTTP_STATUS and not retryable_status(status)
    unheard = fault is Fault.MALFORMED_EVENT and not situation.grammar.events
    of_resume = situation.strategy == STRATEGY and (refused or unheard)
    return of_resume or STRATEGY in situation.ruled_out


def _poll(situation: Situation, identity: str) -> Plan:
    request = _retrieving(situation, _target(situation, identity, None))
    seam = ResponsesSeam(situation.journal.given)
    splice = Polled(seam, situation.policy.max_event_bytes, identity)
    return Plan(STRATEGY, IncidentOutcome.RESUMED, request, splice, document=True)


def _retrieving(situation: Situation, target: str) -> Request:
    return Request("GET", target, own_path=situation.request.own_path)


def _target(situation: Situation, identity: str, after: int | None) -> str:
    """Return the target to fetch a response from; ``after`` None asks for no stream."""
    first = situation.request
    path, _, query = first.target.partition("?")
    own = {"stream", "starting_after"}
    pairs = [pair for pair in parse_qsl(query, keep_blank_values=True) if pair[0] not in own]
    if first.method == "GET":
        base = path
    else:
        base = f"{path.rstrip('/')}/{identity}"
        pairs += _retrieval(first.json)
    if after is not None:
        pairs.append(("stream", "true"))
        if after >= 0:
            pairs.append(("starting_after", str(after)))
    return f"{base}?{urlencode(pairs)}" if pairs else base


def _retrieval(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what was asked for in the body that a retrieval takes in its query."""
    include, options = body.get("include"), body.get("stream_options")
    names = include if isinstance(include, list) else []
    pairs = [("include[]", str(name)) for name in names if name != _NOT_RETRIEVABLE]
    if isinstance(options, dict) and options.get("include_obfuscation") is False:
        pairs.append(("include_obfuscation", "false"))
    return pairs


class Resumed(Splice):
    """Passes the same response's events on, one number after the other."""

    kind = STRATEGY
    aligned = True

    def __init__(self, seam: ResponsesSeam, identity: str, number: int) -> None:
        """Take the ids given, the response's id, and the number of the last event read."""
        self._seam = seam
        self._identity = identity
        self._number = number

    def take(self, event: Event) -> list[Event]:
        """Drop what came before, pass what comes next, refuse anything else."""
        found = parsed(event.data)
        if is_opaque(event, found):
            self.mismatch = self.mismatch or "it has an event that cannot be checked"
        if self.mismatch or not found:
            return []
        number = found.get("sequence_number")
        if not isinstance(number, int):
            self.mismatch = "its events have no numbers"
            return []
        if number <= self._number:
            return []
        if number != self._number + 1:
            self.mismatch = f"it goes on at event {number}, not at {self._number + 1}"
            return []
        self._number = number
        if not _is_same(found, self._identity, self._seam):
            self.mismatch = "it is another response"
            return []
        return [event]


class Polled(Replayed):
    """The same response, told whole from its finished state: what was given is taken out of it.

    What a stream says of an item and what its finished state says may differ in form, so only
    texts, ids and types are compared; and nothing passes before all of it has been seen.
    """

    def __init__(self, seam: ResponsesSeam, cap: int, identity: str) -> None:
        """Take the seam of what was given, and the response's id."""
        self._identity = identity
        self._given = seam
        self._missing = set(seam.items)
        super().__init__(seam, cap)

    def take(self, event: Event) -> list[Event]:
        """Check and hold an event."""
        found = parsed(event.data)
        if not _is_same(found, self._identity, self._given):
            self.mismatch = "it is another response"
        if isinstance(found.get("item"), dict):
            self._missing.discard(output_of(found))
        return super().take(event)

    def close(self) -> list[Event]:
        """Give what is missing, if nothing of what was given is."""
        if self.mismatch or self._missing or self._texts_left:
            return super().close()
        self.aligned = True
        return self._release()

    def _agrees(self, value: object, given: object) -> bool:  # noqa: ARG002 - forms may differ
        return True

    def _look(self) -> bool:
        return False


def _is_same(found: dict[str, Any], identity: str, given: ResponsesSeam) -> bool:
    """Say whether an event belongs to the response, and to the item given in its place."""
    response, item = found.get("response"), found.get("item")
    if isinstance(response, dict) and response.get("id") != identity:
        return False
    known = given.items.get(output_of(found), {})
    if isinstance(item, dict):
        return all(item.get(key) == known[key] for key in ("id", "type") if key in known)
    return found.get("item_id", known.get("id")) == known.get("id", found.get("item_id"))
