"""From a captured body to a verdict: the proxy's own session reads it, block by block.

The session is that of a request which must not be recovered, and is asked after each block which
repairs it made, so that it is known where. Two quirks of the upstream are turned on, to see what
the proxy lets pass otherwise: ``NaN``, and tool calls whose arguments stop short.

Knows sessions from outside, and which block is which. Must not know files, or how a verdict is
shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from proxy.core.budget import RetryBudget
from proxy.core.fault import AttemptEnd, Fault, Incident, Phase
from proxy.core.policy import Policy, Quirks
from proxy.core.session import StreamSession
from proxy.core.states import State
from proxy.lint.capture import Captured, read_head
from proxy.lint.endpoints import endpoint_of_document, endpoint_of_events, request_for
from proxy.lint.forms import Forms, dangles
from proxy.lint.sdks import DOCUMENT
from proxy.lint.verdict import Ending, Finding, KnownBy, Verdict

_QUIRKS = Quirks(nan="null", tool_arguments="length")
_POLICY = Policy(max_attempts=1, quirks=_QUIRKS)
_USUAL = "chat_completions"

_FINISHES = frozenset({"chat_completions", "completions"})
"""Where every choice should have a ``finish_reason``, but some servers never send one."""

_READ_ON = frozenset({"responses", "images", "audio"})
"""Where the terminal event is no ``[DONE]`` the SDKs read on behind it."""

_DATALESS = "dropped_dataless"
_LATE = frozenset({_DATALESS, "reattached_event_name", "joined_events"})
"""Repairs of one block that are sure only with the next."""

_Block = tuple[int, bytes]
_NONE: _Block = (0, b"")


def lint(capture: bytes, endpoint: str = "") -> Verdict:
    """Judge a capture; ``endpoint`` goes before what its events tell.

    Raises CaptureError where a head names a compression that is not known here; nothing else,
    whatever the bytes.
    """
    head = read_head(capture)
    if head.status and not 200 <= head.status < 300:  # noqa: PLR2004 - HTTP's numbers
        refused = _Reading(len(capture))
        refused.note(Fault.HTTP_STATUS.value, 0, phase=Phase.BEFORE_HEADERS.value)
        return refused.verdict(endpoint, "", decoded=False)
    body = Captured(capture, head)
    reading = _Reading(body.base)
    if body.is_document:
        whole = body.whole()
        told = endpoint_of_document(whole)
        reading.take_document(endpoint or told or _USUAL, whole)
    else:
        told = endpoint_of_events(body.start)
        reading.take_stream(endpoint or told or _USUAL, body.blocks())
    if body.decoded:
        reading.note("decoded_body", 0)
    if body.is_miscalled:
        reading.note("set_content_type", 0)
    return reading.verdict(endpoint, told, decoded=body.decoded)


class _Reading:
    """What sessions say of one body, and where they say so."""

    def __init__(self, at: int) -> None:
        """Begin at an offset."""
        self._begin = self._end = at
        self._forms = Forms()
        self._found: dict[tuple[str, str], Finding] = {}
        self._events = self._unread = 0
        self._ending = Ending.BROKEN
        self._block = self._silent = _NONE

    def take_stream(self, endpoint: str, blocks: Iterator[_Block]) -> None:
        """Take a stream to its end, and what the SDKs read behind that."""
        session = self._read(endpoint, blocks)
        self._finish(session)
        self._events = session.data_events
        if session.state is State.COMPLETE:
            self._ending = Ending.TERMINAL_EVENT if session.settled else Ending.END_OF_BODY
            if "added_done" in session.report().repairs:
                self._ending = Ending.FINISHED
            elif endpoint in _FINISHES and not session.grammar.finished:
                self.note("added_finish_reason", self._block[0])
            if endpoint in _READ_ON:
                self._finish(self._read("other", blocks), behind=True)
        for at, block in blocks:
            self._end = at + len(block)
            self._unread += len(block.strip())

    def take_document(self, endpoint: str, body: bytes) -> None:
        """Take an answer that is JSON and no stream."""
        session = _session(endpoint, document=True)
        session.receive_data(body)
        self._block = (self._begin, body)
        self._end += len(body)
        self._finish(session, form=DOCUMENT)
        self._events = session.data_events
        if session.state is State.COMPLETE:
            self._ending = Ending.DOCUMENT

    def note(self, name: str, at: int, form: str = "", times: int = 1, phase: str = "") -> None:
        """Note a finding; one of the same name and form is counted with the first."""
        first = self._found.get((name, form))
        before = first.times if first else 0
        found = Finding(name, form, first.at if first else at, before + times, phase)
        self._found[name, form] = found

    def verdict(self, asked: str, told: str, *, decoded: bool) -> Verdict:
        """Sum up. ``asked`` and ``told`` are the endpoints that the caller and the body named."""
        known_by = KnownBy.CALLER if asked else KnownBy.EVENTS if told else KnownBy.DEFAULT
        return Verdict(
            endpoint=asked or told or _USUAL,
            known_by=known_by,
            size=self._end,
            decoded=decoded,
            events=self._events,
            ending=self._ending,
            findings=tuple(sorted(self._found.values(), key=lambda finding: finding.at)),
            unread=self._unread,
        )

    def _read(self, endpoint: str, blocks: Iterator[_Block]) -> StreamSession:
        session = _session(endpoint)
        counted: Mapping[str, int] = {}
        self._silent = _NONE
        for at, block in blocks:
            self._block, self._end = (at, block), at + len(block)
            events = session.data_events
            session.receive_data(block)
            counted = self._note_repairs(session, counted)
            if session.settled:
                break
            gave_nothing = session.data_events == events and block.strip()
            self._silent = self._block if gave_nothing else _NONE
        return session

    def _note_repairs(
        self, session: StreamSession, counted: Mapping[str, int]
    ) -> Mapping[str, int]:
        repairs = session.report().repairs
        for name, times in repairs.items():
            new = times - counted.get(name, 0)
            if new:
                at, block = self._place_of(name)
                self.note(name, at, self._forms.of(name, block), new)
        return repairs

    def _place_of(self, repair: str) -> _Block:
        if repair == "added_done":
            return self._end, b""
        late = repair in _LATE and self._silent is not _NONE
        return self._silent if late else self._block

    def _finish(self, session: StreamSession, *, form: str = "", behind: bool = False) -> None:
        """Say that the body ended as HTTP has it, and note what the session makes of that.

        ``form`` is that of a fault, where it is known; ``behind`` says that the answer was whole.
        """
        settled, counted = session.settled, session.report().repairs
        session.receive_end(AttemptEnd(), 0.0)
        now = self._note_repairs(session, counted)
        lost = not settled and dangles(self._silent[1])
        if lost and now.get(_DATALESS) == counted.get(_DATALESS):
            self.note(_DATALESS, self._silent[0])  # nothing came that it could have belonged to
        whole = behind or session.state is State.COMPLETE
        for incident in session.report().incidents:
            at, block = self._place_of_fault(incident, settled=settled)
            fault = incident.fault.value
            told = form or self._forms.of(fault, block, whole=whole)
            phase = Phase.AFTER_TERMINAL if whole else incident.phase
            self.note(fault, at, told, phase=phase.value)

    def _place_of_fault(self, incident: Incident, *, settled: bool) -> _Block:
        if incident.fault in {Fault.CLEAN_EOF, Fault.EMPTY_STREAM} and not settled:
            return self._end, b""
        # The first half of an event, which waited for the other one.
        half = bool(incident.tail) and incident.tail in self._silent[1]
        return self._silent if half else self._block


def _session(endpoint: str, *, document: bool = False) -> StreamSession:
    session = StreamSession(request_for(endpoint), _POLICY, RetryBudget(0.0, 0.0))
    session.begin(0.0)
    session.receive_head(document=document)
    return session
