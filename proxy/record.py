"""What one request leaves behind: metrics, incidents, log lines. Each fact once.

Knows what is counted when. Must not know how requests are driven.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

from aiohttp import web

from proxy.core.fault import Incident, StreamOutcome
from proxy.core.grammars import endpoint_of
from proxy.core.policy import Target
from proxy.core.request import Request
from proxy.core.session import StreamSession
from proxy.edge import Edge
from proxy.logs import LOG
from proxy.metrics import code_label
from proxy.tally import Tally

_NOT_LOGGED = frozenset({"time", "tail", "attempts"})
"""The ring keeps the upstream's request ids; the log has nothing that came in a header."""

_UNKNOWN = Tally((inf,))
_REQUEST_ID = re.compile(r"[\w.-]{1,128}", re.ASCII)


class Record:
    """The record of one request. ``clock`` tells monotonic seconds."""

    def __init__(
        self,
        edge: Edge,
        client: web.BaseRequest,
        request: Request,
        session: StreamSession,
        clock: Callable[[], float],
    ) -> None:
        """Name the request: by the client's own id if it has a fit one."""
        asked = client.headers.get("X-Request-ID", "")
        fit = _REQUEST_ID.fullmatch(asked) is not None
        self.id = asked if fit else f"ws_{secrets.token_hex(12)}"
        self.endpoint = endpoint_of(request)
        self._edge = edge
        self._session = session
        self._model_asked = request.model
        self._clock = clock
        self._started = clock()
        self.asked = 0
        """Upstream requests made so far; one that is waited for is not made yet."""
        self._stream = False
        self._over = False
        self._noted = 0
        self._events = False
        self.gaps = _UNKNOWN
        """Where the silences between this stream's events are noted, once there was one."""
        self._fault_at: float | None = None
        self._waits: list[float] = []
        self._upstream_ids: dict[int, str] = {}
        self._repairs: set[str] = set()
        self.overheads = edge.metrics.overhead.labels(self.endpoint)

    @property
    def model(self) -> str:
        """The model's label."""
        return self._edge.metrics.model_label(self._model_asked, answered=self._events)

    def is_stream(self) -> None:
        """Count a stream in, once it is known to be one."""
        if not self._stream:
            self._stream = True
            self._edge.metrics.in_flight.inc()

    def events_came(self, gap: float) -> None:
        """Note a read that held data events, ``gap`` seconds after the one before."""
        if self._events:
            self.gaps.observe(gap)
            return
        metrics, now = self._edge.metrics, self._clock()
        self._events = True
        # Found once a stream, not once an event: a look-up costs more than the observation.
        self.gaps = metrics.gaps.labels(self.endpoint, *self._semconv())
        waited = now - self._started
        metrics.of(metrics.first_event, self.endpoint).observe(waited)
        metrics.of(metrics.gen_ai_first, *self._semconv()).observe(waited)

    def settle(self) -> None:
        """Sort in what was noted of each event and write; to be called now and then."""
        self.gaps.settle()
        self.overheads.settle()

    def wrote(self, began: float) -> None:
        """Note a write; ``began`` is when what it is made of was read (``perf_counter``)."""
        self.overheads.observe(time.perf_counter() - began)
        if self._fault_at is not None:
            self._goes_on()

    def waited(self, seconds: float) -> None:
        """Note the wait before the next upstream request."""
        self._waits.append(seconds)

    def answered(self, upstream_id: str) -> None:
        """Note the id that the upstream gave to its latest answer."""
        if _REQUEST_ID.fullmatch(upstream_id):
            self._upstream_ids[self.asked] = upstream_id

    def broke(self) -> None:
        """Note that the client now waits for another attempt."""
        if self._fault_at is None:
            self._fault_at = self._clock()

    def repaired(self, repair: str) -> None:
        """Note a repair made at the edge, once a request."""
        self._repairs.add(repair)

    def note_incidents(self) -> None:
        """Count and log the session's incidents that are new."""
        for incident in self._session.incidents[self._noted :]:
            self._noted += 1
            self._note(incident)

    def end(self, status: int) -> None:
        """Count the request out, answered with ``status`` or 0; only the first call counts."""
        if self._over:
            return
        self._over = True
        metrics = self._edge.metrics
        self.note_incidents()
        self.settle()
        report = self._session.report()
        if len(report.attempts) > self.asked:
            report = replace(report, attempts=report.attempts[: self.asked])
        if status:
            metrics.of(metrics.requests, self.endpoint, code_label(status)).inc()
        metrics.record_attempts(self.endpoint, report)
        for repair in self._repairs:
            metrics.of(metrics.repairs, self.endpoint, repair).inc()
        duration = self._clock() - self._started
        outcome = None
        if report.outcome is StreamOutcome.RECOVERED:
            self._goes_on()
        if self._stream:
            metrics.in_flight.dec()
            metrics.record_stream(self.endpoint, self.model, report, duration)
            outcome = report.outcome.value
        if LOG.isEnabledFor(logging.DEBUG):
            fields = {
                **self._facts(),
                "status": status,
                "outcome": outcome,
                "attempts": len(report.attempts),
                "events": report.events,
                "bytes": report.size,
                "duration_ms": round(duration * 1000, 1),
            }
            LOG.debug("request", extra={"fields": fields})

    def _goes_on(self) -> None:
        """Observe how long the client waited for the answer to go on."""
        if self._fault_at is not None:
            waited = self._clock() - self._fault_at
            self._edge.metrics.recovery.labels(self.endpoint).observe(waited)
            self._fault_at = None
            self.note_incidents()

    def _note(self, incident: Incident) -> None:
        self._edge.metrics.record_incident(self.endpoint, incident)
        facts = self._facts(incident.attempt)
        record = self._edge.ring.add(incident, facts=facts, attempts=self._attempts())
        shown = {key: value for key, value in record.items() if key not in _NOT_LOGGED}
        LOG.warning("incident", extra={"fields": shown})

    def _attempts(self) -> list[dict[str, Any]]:
        """Return the attempts made so far: why, in which way, whom, after which wait."""
        tries = self._session.tries[: self.asked]
        return [
            {
                "attempt": number,
                "strategy": made.strategy,
                "reason": made.reason,
                "upstream": self._edge.upstreams[made.target.upstream].host,
                "target": self._target(made.target),
                "wait_s": round(wait, 3),
                "upstream_request_id": self._upstream_ids.get(number),
            }
            for number, (made, wait) in enumerate(zip(tries, self._waits, strict=False), 1)
        ]

    def _facts(self, attempt: int = 0) -> dict[str, str]:
        tries = self._session.tries
        target = tries[attempt - 1].target if tries else Target()
        return {
            "request_id": self.id,
            "endpoint": self.endpoint,
            "model": self.model,
            "upstream": self._edge.upstreams[target.upstream].host,
            "target": self._target(target),
        }

    def _target(self, target: Target) -> str:
        model = target.model or self._model_asked
        return self._edge.metrics.target_label(target.upstream, model)

    def _semconv(self) -> tuple[str, ...]:
        return self._edge.metrics.gen_ai_labels(self.endpoint, self.model, "")
