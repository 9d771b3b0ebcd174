"""The Prometheus metrics of the contract, and how a finished stream is counted.

Knows names, labels and buckets. Must not know how a fault is found. Label values are bounded:
endpoints, faults, phases and outcomes are closed sets, models are capped.
"""

from __future__ import annotations

import functools
import json
import platform
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import aiohttp
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from proxy.core.commands import Report
from proxy.core.fault import Incident, StreamOutcome
from proxy.core.grammars import GRAMMARS
from proxy.tally import Tallies
from proxy.version import __version__

MAX_MODELS = 50
MAX_LABEL = 64

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_LONG = (*_SECONDS, 163.84, 327.68, 655.36)
_GAPS = (0.001, 0.0025, 0.005, *_LONG)
_OVERHEAD = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25)
_TOKENS = tuple(float(4**power) for power in range(14))
_MAX_TOKENS = 2**53
_OPERATIONS = {"completions": "text_completion"}
_OPENMETRICS = "application/openmetrics-text"
_ODD = re.compile(r"[^\w.:/@+-]")


_Collector = TypeVar("_Collector", Counter, Histogram)


class Metrics:
    """All collectors of one process, with their own registry."""

    def __init__(
        self,
        upstream_host: str,
        exhausted: Callable[[], float],
        breakers: Callable[[], Mapping[tuple[str, str], bool]] = dict,
    ) -> None:
        """Register; ``exhausted`` reads the retry budget's count of refusals.

        ``breakers`` tells of each target, by upstream and model, whether its circuit is open.
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._host = upstream_host[:MAX_LABEL]
        self._models: set[str] = set()
        self._exhausted = exhausted
        self._exhausted_seen = 0.0
        self._breakers = breakers
        self._targets: set[str] = set()
        self.of = functools.lru_cache(maxsize=4096)(_child)
        """The child of a collector with some label values; a look-up costs more than counting."""
        self._make_counters()
        self._make_gauges()
        self._make_histograms()
        self._make_semconv()
        for endpoint in GRAMMARS:
            for outcome in StreamOutcome:
                self.streams.labels(endpoint, outcome.value)

    def _make_counters(self) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"wholestream_{name}", text, labels, registry=self.registry)

        self.streams = counter("streams", "Streams ended, by outcome.", "endpoint", "outcome")
        self.incidents = counter(
            "incomplete_chunks",
            "Upstream attempts that broke: incomplete, silent, refused or wrong streams.",
            *("endpoint", "fault", "phase", "outcome"),
        )
        self.repairs = counter("repairs", "Faults mended in place.", "endpoint", "repair")
        self.recoveries = counter("recoveries", "Recoveries tried.", "strategy", "result")
        self.attempts = counter("upstream_attempts", "Upstream requests.", "endpoint", "reason")
        self.requests = counter("requests", "Client requests answered.", "endpoint", "code")
        self.exhausted = counter("retry_budget_exhausted", "Retries the shared budget refused.")
        self.discarded = counter("discarded_bytes", "Upstream bytes billed but thrown away.")
        self.discarded_events = counter("discarded_events", "Upstream events thrown away.")
        self.worker_restarts = counter(
            "worker_restarts", "Worker processes started in place of one that died."
        )
        self.capped = counter(
            "lifetime_caps", "Streams cut twice at the same age on one target.", "endpoint"
        )

    def _make_gauges(self) -> None:
        self.in_flight = Gauge(
            "wholestream_streams_in_flight", "Streams under way.", registry=self.registry
        )
        self.tunnels = Gauge(
            "wholestream_tunnels_in_flight",
            "WebSocket connections under way.",
            registry=self.registry,
        )
        self.draining = Gauge("wholestream_draining", "1 while draining.", registry=self.registry)
        self.breaker_open = Gauge(
            "wholestream_breaker_open",
            "1 while a target is avoided after failures in a row.",
            ("target",),
            registry=self.registry,
        )
        build = Gauge(
            "wholestream_build_info",
            "Always 1; versions in the labels.",
            ("version", "python", "aiohttp"),
            registry=self.registry,
        )
        build.labels(__version__, platform.python_version(), aiohttp.__version__).set(1)

    def _make_histograms(self) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            full = f"wholestream_{name}_seconds"
            return Histogram(full, text, ("endpoint",), registry=self.registry, buckets=buckets)

        self.first_event = histogram("first_event", "Request to first data event.", _LONG)
        self.duration = histogram("stream_duration", "Request to the stream's end.", _LONG)
        self.age_at_cut = histogram("age_at_cut", "Age of an attempt when it broke.", _LONG)
        self.recovery = histogram("recovery", "Fault to the answer's next bytes.", _LONG)

    def _make_semconv(self) -> None:
        names = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
        labels = (*names, "server_address", "error_type")

        def histogram(name: str, text: str, buckets: tuple[float, ...], *more: str) -> Histogram:
            full = f"gen_ai_client_{name}"
            every = (*labels, *more)
            return Histogram(full, text, every, registry=self.registry, buckets=buckets)

        self.gen_ai_duration = histogram("operation_duration_seconds", "Whole call.", _LONG)
        self.gen_ai_first = histogram(
            "operation_time_to_first_chunk_seconds", "First chunk.", _LONG
        )
        self.gen_ai_tokens = histogram(
            "token_usage", "Tokens, as the upstream counts.", _TOKENS, "gen_ai_token_type"
        )

        name, text = "gen_ai_client_operation_time_per_output_chunk_seconds", "Chunk gap."
        gap, silence = "wholestream_event_gap_seconds", "Silence between data events."
        # Observed once an event, and shown as both.
        shown = (gap, silence, ("endpoint",), slice(1)), (name, text, labels, slice(1, None))
        self.gaps = Tallies(_GAPS, *shown)
        name, text = "wholestream_overhead_seconds", "Upstream read to downstream write."
        self.overhead = Tallies(_OVERHEAD, (name, text, ("endpoint",), slice(1)))
        for tallies in (self.gaps, self.overhead):
            self.registry.register(tallies)

    def model_label(self, model: str, *, answered: bool) -> str:
        """Return a bounded label for a model; only models that were answered take a place."""
        label = _ODD.sub("_", model)[:MAX_LABEL]
        if label in self._models:
            return label
        if not label or not answered or len(self._models) >= MAX_MODELS:
            return "other"
        self._models.add(label)
        return label

    def target_label(self, upstream: str, model: str) -> str:
        """Return a bounded label for a target."""
        return f"{upstream or 'primary'}/{self.model_label(model, answered=False)}"[:MAX_LABEL]

    def gen_ai_labels(self, endpoint: str, model: str, error: str) -> tuple[str, ...]:
        """Return the OpenTelemetry attributes of one call as label values."""
        return (_OPERATIONS.get(endpoint, "chat"), "openai", model, self._host, error)

    def record_attempts(self, endpoint: str, report: Report) -> None:
        """Count the upstream's side of a request, stream or not."""
        for reason in report.attempts:
            self.of(self.attempts, endpoint, reason).inc()
        for strategy, result in report.recoveries:
            self.recoveries.labels(strategy, result).inc()
        self.discarded.inc(report.discarded_bytes)
        self.discarded_events.inc(report.discarded_events)
        if report.capped:
            self.capped.labels(endpoint).inc()

    def record_incident(self, endpoint: str, incident: Incident) -> None:
        """Count one fault."""
        labels = (incident.fault.value, incident.phase.value, incident.outcome.value)
        self.incidents.labels(endpoint, *labels).inc()
        self.age_at_cut.labels(endpoint).observe(incident.age_s)

    def record_stream(self, endpoint: str, model: str, report: Report, duration_s: float) -> None:
        """Count one stream that is over. Called once a stream."""
        self.of(self.streams, endpoint, report.outcome.value).inc()
        self.of(self.duration, endpoint).observe(duration_s)
        for repair, times in report.repairs.items():
            self.of(self.repairs, endpoint, repair).inc(times)
        error = "" if report.outcome is not StreamOutcome.FAILED else "stream_incomplete"
        labels = self.gen_ai_labels(endpoint, model, error)
        self.of(self.gen_ai_duration, *labels).observe(duration_s)
        for kind, tokens in _token_counts(report.usage):
            self.of(self.gen_ai_tokens, *labels, kind).observe(tokens)

    def refresh(self) -> None:
        """Bring up to date what is counted elsewhere; before the registry is read."""
        seen = self._exhausted()
        self.exhausted.inc(seen - self._exhausted_seen)
        self._exhausted_seen = seen
        self._show_breakers()

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Return the exposition and its content type."""
        self.refresh()
        # Not the header as it came: a version in it that is no number would raise.
        encode, content_type = choose_encoder(_OPENMETRICS if _OPENMETRICS in accept else "")
        return encode(self.registry), content_type

    def _show_breakers(self) -> None:
        """Set the gauges: as many targets as a label may have values, the rest as one."""
        states: dict[str, bool] = {}
        for (upstream, model), is_open in self._breakers().items():
            label = self.target_label(upstream, model)
            if label not in self._targets and len(self._targets) >= MAX_LABEL - 1:
                label = "other"
            self._targets.add(label)
            states[label] = states.get(label, False) or is_open
        for label in self._targets:
            self.breaker_open.labels(label).set(states.get(label, False))


def _child(collector: _Collector, *labels: str) -> _Collector:
    return collector.labels(*labels)


def code_label(status: int) -> str:
    """Return the ``code`` label for a status sent to a client."""
    if status == 101:  # noqa: PLR2004 - HTTP's numbers
        # A handshake that succeeded: whoever looks for what went wrong must not find it.
        return "2xx"
    return "429" if status == 429 else f"{status // 100}xx"  # noqa: PLR2004 - HTTP's numbers


def _token_counts(usage: bytes) -> list[tuple[str, float]]:
    try:
        found: Any = json.loads(usage or b"{}")
    except (ValueError, RecursionError):
        return []
    counts = []
    for kind, names in (
        ("input", ("prompt_tokens", "input_tokens")),
        ("output", ("completion_tokens", "output_tokens")),
    ):
        values = [found.get(name) for name in names] if isinstance(found, dict) else []
        # Some servers send both names. What is no sane count would break the histogram.
        sane = [value for value in values if type(value) is int and 0 <= value <= _MAX_TOKENS]
        counts += [(kind, float(value)) for value in sane[:1]]
    return counts
