"""The metrics: names and labels of the contract, bounded values, sums that add up."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Counter as PrometheusCounter
from prometheus_client.metrics import MetricWrapperBase
from support import (
    ANSWER,
    CLEAN,
    DONE,
    FAMILIES,
    HI,
    RESET,
    ROLE,
    STREAMS,
    ask,
    ask_for,
    begin,
    chunk,
    fail,
    feed,
    finish,
    sse,
    start,
)

from proxy.core.budget import RetryBudget
from proxy.core.commands import shutdown_error
from proxy.core.fault import AttemptEnd, Fault, StreamOutcome
from proxy.core.grammars import GRAMMARS, endpoint_of
from proxy.core.session import StreamSession
from proxy.metrics import MAX_LABEL, MAX_MODELS, Metrics, code_label
from proxy.tally import Tallies

GEN_AI = (
    *("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"),
    *("server_address", "error_type"),
)
SECONDS = ("first_event", "event_gap", "stream_duration", "age_at_cut", "overhead", "recovery")
OPERATION = ("duration", "time_to_first_chunk", "time_per_output_chunk")

CONTRACT: dict[str, tuple[str, ...]] = {
    "wholestream_streams_total": ("endpoint", "outcome"),
    "wholestream_incomplete_chunks_total": ("endpoint", "fault", "phase", "outcome"),
    "wholestream_repairs_total": ("endpoint", "repair"),
    "wholestream_recoveries_total": ("strategy", "result"),
    "wholestream_upstream_attempts_total": ("endpoint", "reason"),
    "wholestream_requests_total": ("endpoint", "code"),
    "wholestream_retry_budget_exhausted_total": (),
    "wholestream_discarded_bytes_total": (),
    "wholestream_shed_total": ("reason",),
    "wholestream_streams_in_flight": (),
    "wholestream_draining": (),
    "wholestream_breaker_open": ("target",),
    **{f"wholestream_{name}_seconds": ("endpoint",) for name in SECONDS},
    "wholestream_build_info": ("version", "python", "aiohttp"),
    **{f"gen_ai_client_operation_{name}_seconds": GEN_AI for name in OPERATION},
    "gen_ai_client_token_usage": (*GEN_AI, "gen_ai_token_type"),
}
"""Names and labels."""

OWN: dict[str, tuple[str, ...]] = {
    "wholestream_discarded_events_total": (),
    "wholestream_lifetime_caps_total": ("endpoint",),
    "wholestream_tunnels_in_flight": (),
    "wholestream_worker_restarts_total": (),
}
"""Names beyond those of the contract."""

LATER = {"wholestream_shed_total"}
"""A name whose subject, the cap on streams, is not there yet."""

Labels = frozenset[tuple[str, str]]


def fresh() -> Metrics:
    """Make the metrics of a process whose budget has refused nothing."""
    return Metrics("api.example", lambda: 0.0)


def collectors(metrics: Metrics) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return what is registered by its external names: the kind, and the names of its labels."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for registered in metrics.registry._collector_to_names:
        if isinstance(registered, MetricWrapperBase):
            end = "_total" if isinstance(registered, PrometheusCounter) else ""
            found[registered._name + end] = (str(registered._type), tuple(registered._labelnames))
        elif isinstance(registered, Tallies):
            found |= {name: ("histogram", of) for name, of in registered.label_names.items()}
    return found


def samples(metrics: Metrics, name: str) -> dict[Labels, float]:
    """Return the samples of one name by their labels."""
    return {
        frozenset(sample.labels.items()): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def total(metrics: Metrics, name: str, **labels: str) -> float:
    """Add up the samples of a name that carry these labels."""
    wanted = labels.items()
    return sum(value for has, value in samples(metrics, name).items() if wanted <= set(has))


def counted(metrics: Metrics, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Return the samples of a name that are not 0, by the values of some labels."""
    found: Counter[tuple[str, ...]] = Counter()
    for has, value in samples(metrics, name).items():
        found[tuple(dict(has)[label] for label in labels)] += int(value)
    return {key: value for key, value in found.items() if value}


def record(metrics: Metrics, session: StreamSession, endpoint: str = "chat_completions") -> None:
    """Record a session as the edge does when it is over."""
    report = session.report()
    for incident in report.incidents:
        metrics.record_incident(endpoint, incident)
    metrics.record_attempts(endpoint, report)
    metrics.record_stream(endpoint, "m", report, 1.5)


# --- sessions of every outcome ---


def complete() -> StreamSession:
    """Whole at once."""
    session = start()
    feed(session, ANSWER)
    finish(session)
    return session


def recovered() -> StreamSession:
    """Cut before any content, whole when asked again."""
    session = start()
    feed(session, sse(ROLE))
    fail(session)
    feed(session, ANSWER)
    finish(session)
    return session


def failed() -> StreamSession:
    """Cut inside the content."""
    session = start()
    feed(session, sse(ROLE, HI))
    finish(session, RESET)
    return session


def left() -> StreamSession:
    """Left by the client."""
    session = start()
    feed(session, sse(ROLE, HI))
    session.abandon()
    return session


def aborted() -> StreamSession:
    """End early, since the proxy was told to stop."""
    session = start()
    feed(session, sse(ROLE, HI))
    session.abort(shutdown_error())
    return session


ENDINGS: dict[str, Callable[[], StreamSession]] = {
    "complete": complete,
    "recovered": recovered,
    "failed": failed,
    "client_closed": left,
    "aborted": aborted,
}


# --- names, labels, series --------------------------------------------------------------


def test_names_and_labels_are_those_of_the_contract() -> None:
    """No other name, and none missing of what there is to count."""
    found = collectors(fresh())
    known = CONTRACT | OWN
    assert found.keys() == known.keys() - LATER
    for name, (_, labels) in found.items():
        assert labels == known[name], name


def test_everything_registered_is_looked_at() -> None:
    """What is exposed is what the other tests here look at."""
    metrics = fresh()
    exposed = set(re.findall(r"^# TYPE (\w+) ", metrics.expose("")[0].decode(), re.MULTILINE))
    assert exposed == collectors(metrics).keys()


def test_units_and_kinds_are_in_the_names() -> None:
    """Counters end in _total, histograms in _seconds, tokens aside; gauges in neither."""
    for name, (kind, _) in collectors(fresh()).items():
        assert name.endswith("_total") == (kind == "counter")
        seconds = kind == "histogram" and name != "gen_ai_client_token_usage"
        assert name.endswith("_seconds") == seconds
        assert kind in {"counter", "gauge", "histogram"}


def test_the_series_of_streams_exist_before_the_first_stream() -> None:
    """A rate over a series that begins at 1 would miss the first failure."""
    found = samples(fresh(), "wholestream_streams_total")
    every = {
        frozenset({"endpoint": endpoint, "outcome": outcome.value}.items())
        for endpoint in GRAMMARS
        for outcome in StreamOutcome
    }
    assert found == dict.fromkeys(every, 0.0)
    assert {outcome.value for outcome in StreamOutcome} == ENDINGS.keys()


def test_no_series_tells_when_it_was_created() -> None:
    """They would double the counters."""
    metrics = fresh()
    record(metrics, failed())
    assert b"_created" not in metrics.expose("application/openmetrics-text")[0]


def test_the_build_is_told_by_its_versions() -> None:
    """Always 1."""
    assert list(samples(fresh(), "wholestream_build_info").values()) == [1.0]


def test_two_sets_of_metrics_do_not_share_their_numbers() -> None:
    """Nothing is global."""
    one, other = fresh(), fresh()
    record(one, complete())
    assert total(one, "wholestream_streams_total") == 1
    assert total(other, "wholestream_streams_total") == 0


# --- labels -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "label"),
    [
        *((200, "2xx"), (204, "2xx"), (304, "3xx"), (400, "4xx"), (404, "4xx"), (428, "4xx")),
        *(
            (101, "2xx"),
            (429, "429"),
            (430, "4xx"),
            (499, "4xx"),
            (500, "5xx"),
            (502, "5xx"),
            (599, "5xx"),
        ),
    ],
)
def test_statuses_are_counted_by_their_class(status: int, label: str) -> None:
    """But 429, which calls for something else than the other 4xx, and 101, which is a success."""
    assert code_label(status) == label


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini-2024-07-18"),
        ("ft:gpt-4o-mini:org::id", "ft:gpt-4o-mini:org::id"),
        ("meta-llama/Llama-3.1-8B@main+x", "meta-llama/Llama-3.1-8B@main+x"),
        ("a b", "a_b"),
        ('"} 1\nx', "___1_x"),
        ("\ud800\x1b[2J", "___2J"),
        ("m" * 200, "m" * MAX_LABEL),
        ("", "other"),
    ],
)
def test_the_label_of_a_model_is_short_and_plain(model: str, label: str) -> None:
    """What could end a line or a label becomes an underscore."""
    assert fresh().model_label(model, answered=True) == label


def test_only_models_that_were_answered_take_a_place() -> None:
    """Else wrong names, which are answered with an error, would use the places up."""
    metrics = fresh()
    assert metrics.model_label("m", answered=False) == "other"
    assert metrics.model_label("m", answered=True) == "m"
    assert metrics.model_label("m", answered=False) == "m"


def test_models_beyond_the_cap_are_other_and_those_before_it_keep_their_names() -> None:
    """The cap is far below the 64 values that a label may have."""
    metrics = fresh()
    names = [f"model-{number}" for number in range(MAX_MODELS + 1)]
    labels = [metrics.model_label(name, answered=True) for name in names]
    assert labels == [*names[:MAX_MODELS], "other"]
    assert MAX_MODELS == 50
    again = [metrics.model_label(name, answered=True) for name in names]
    assert again == labels


def test_ten_thousand_models_add_at_most_51_label_values() -> None:
    """Clients choose the names, so they must not choose how much memory this takes."""
    chance, metrics, report = random.Random(7), fresh(), complete().report()  # noqa: S311 - test cases
    for _ in range(10_000):
        name = "".join(chr(chance.randrange(0x110000)) for _ in range(chance.randrange(100)))
        label = metrics.model_label(name, answered=chance.random() < 0.9)
        metrics.record_stream("other", label, report, 0.1)
    found = samples(metrics, "gen_ai_client_operation_duration_seconds_count")
    models = {dict(labels)["gen_ai_request_model"] for labels in found}
    assert len(models) == 51
    assert max(map(len, models)) <= MAX_LABEL
    assert sum(found.values()) == 10_000


@given(model=st.text(st.characters()), accept=st.sampled_from(["", "application/openmetrics-text"]))
@settings(max_examples=50)
def test_no_model_breaks_a_line_of_the_exposition(model: str, accept: str) -> None:
    """Each line is a comment or a sample, whatever the client called its model."""
    metrics = fresh()
    label = metrics.model_label(model, answered=True)
    metrics.record_stream("other", label, complete().report(), 0.1)
    text = metrics.expose(accept)[0].decode()
    sample = re.compile(r"#.*|[a-z_]+({([a-z_]+=\"[^\"\\\s]*\",?)*})? [0-9.e+-]+")
    assert all(sample.fullmatch(line) for line in text.rstrip("\n").split("\n"))


def test_a_long_host_is_cut_to_the_length_of_a_label() -> None:
    """Host names may have 253 characters."""
    labels = Metrics("h" * 253, lambda: 0.0).gen_ai_labels("responses", "m", "")
    assert labels == ("chat", "openai", "m", "h" * MAX_LABEL, "")


# --- what is recorded -------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ENDINGS)
def test_a_stream_is_counted_by_its_outcome_once(outcome: str) -> None:
    """In one series, with its duration."""
    metrics = fresh()
    record(metrics, ENDINGS[outcome]())
    streams = counted(metrics, "wholestream_streams_total", "endpoint", "outcome")
    assert streams == {("chat_completions", outcome): 1}
    assert total(metrics, "wholestream_stream_duration_seconds_count") == 1
    assert total(metrics, "wholestream_stream_duration_seconds_sum") == 1.5


@pytest.mark.parametrize("outcome", ENDINGS)
def test_only_a_failed_stream_is_an_error_of_the_operation(outcome: str) -> None:
    """A client that leaves is no failure of the upstream."""
    metrics = fresh()
    record(metrics, ENDINGS[outcome]())
    name = "gen_ai_client_operation_duration_seconds_count"
    error = "stream_incomplete" if outcome == "failed" else ""
    assert counted(metrics, name, *GEN_AI) == {("chat", "openai", "m", "api.example", error): 1}


def test_the_operation_of_completions_has_its_own_name() -> None:
    """As OpenTelemetry calls it."""
    metrics = fresh()
    record(metrics, complete(), "completions")
    name = "gen_ai_client_operation_duration_seconds_count"
    assert counted(metrics, name, "gen_ai_operation_name") == {("text_completion",): 1}


def test_attempts_are_counted_by_their_reasons_and_recoveries_by_their_results() -> None:
    """And the bytes that were paid for in vain."""
    metrics = fresh()
    record(metrics, recovered())
    attempts = counted(metrics, "wholestream_upstream_attempts_total", "endpoint", "reason")
    assert attempts == {("chat_completions", "first"): 1, ("chat_completions", "reset"): 1}
    recoveries = counted(metrics, "wholestream_recoveries_total", "strategy", "result")
    assert recoveries == {("restart", "success"): 1}
    assert total(metrics, "wholestream_discarded_bytes_total") == recovered_bytes() > 0


def recovered_bytes() -> int:
    """Return what the session says that it threw away."""
    return recovered().report().discarded_bytes


def test_a_fault_is_counted_once_with_its_phase_and_what_became_of_it() -> None:
    """And with the age of its attempt."""
    metrics = fresh()
    session = start()
    feed(session, sse(ROLE))
    fail(session, AttemptEnd(Fault.STALL, age_s=3.0))
    feed(session, sse(ROLE, HI))
    finish(session, AttemptEnd(Fault.RESET, age_s=4.0))
    record(metrics, session)
    labels = ("endpoint", "fault", "phase", "outcome")
    assert counted(metrics, "wholestream_incomplete_chunks_total", *labels) == {
        ("chat_completions", "stall", "before_content", "restarted"): 1,
        ("chat_completions", "reset", "mid_content", "surfaced"): 1,
    }
    assert total(metrics, "wholestream_age_at_cut_seconds_count") == 2
    assert total(metrics, "wholestream_age_at_cut_seconds_sum") == 7.0


def test_repairs_are_counted_as_often_as_they_were_made() -> None:
    """By their names."""
    metrics = fresh()
    session = start()
    feed(session, b": a\n\n: b\n\n" + sse(HI, chunk(finish="stop")))
    finish(session)
    record(metrics, session)
    repairs = counted(metrics, "wholestream_repairs_total", "endpoint", "repair")
    assert repairs == {
        ("chat_completions", "dropped_comment"): 2,
        ("chat_completions", "added_done"): 1,
    }


def test_an_answer_that_was_no_stream_counts_its_attempts_alone() -> None:
    """The streams' own sum must not take in what was none."""
    metrics = fresh()
    session = begin(ask(stream=False))
    session.passed_on(CLEAN, 0.0)
    metrics.record_attempts("chat_completions", session.report())
    assert total(metrics, "wholestream_upstream_attempts_total") == 1
    assert total(metrics, "wholestream_streams_total") == 0


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(ENDINGS)), st.sampled_from(sorted(GRAMMARS))), max_size=30
    )
)
def test_the_outcomes_add_up_to_the_streams_recorded(course: list[tuple[str, str]]) -> None:
    """Whatever the order; and each fault is in one series, once."""
    metrics, incidents = fresh(), 0
    for outcome, endpoint in course:
        session = ENDINGS[outcome]()
        incidents += len(session.incidents)
        record(metrics, session, endpoint)
    expected = Counter((endpoint, outcome) for outcome, endpoint in course)
    assert counted(metrics, "wholestream_streams_total", "endpoint", "outcome") == expected
    assert total(metrics, "wholestream_incomplete_chunks_total") == incidents
    restarts = total(metrics, "wholestream_incomplete_chunks_total", outcome="restarted")
    attempts = total(metrics, "wholestream_upstream_attempts_total")
    assert attempts == len(course) + restarts


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_a_stream_of_any_endpoint_is_recorded_under_its_name(name: str) -> None:
    """Cut in its middle or whole, it is one stream."""
    metrics, request, body = fresh(), ask_for(name), STREAMS[name]
    endpoint = endpoint_of(request)
    for end, part in ((CLEAN, body), (RESET, body[: len(body) // 2])):
        session = start(request, max_attempts=1)
        feed(session, part)
        finish(session, CLEAN if session.settled else end)
        record(metrics, session, endpoint)
    assert total(metrics, "wholestream_streams_total", endpoint=endpoint) == 2


def test_the_endpoints_of_requests_are_those_of_the_series() -> None:
    """No other value can come."""
    assert {endpoint_of(ask(family)) for family in FAMILIES} == GRAMMARS.keys()


# --- the budget -------------------------------------------------------------------------


def test_refusals_of_the_retry_budget_are_counted_however_often_they_are_read() -> None:
    """The budget counts; each scrape adds what is new."""
    budget = RetryBudget(0.0, 0.0)
    metrics = Metrics("api.example", lambda: budget.exhausted)
    name = "wholestream_retry_budget_exhausted_total"
    seen = []
    for refusals in (0, 1, 2):
        for _ in range(refusals):
            session = start(budget=budget)
            finish(session, RESET)
        metrics.expose("")
        metrics.expose("")
        seen.append(total(metrics, name))
    assert seen == [0, 1, 3]


# --- tokens -----------------------------------------------------------------------------


def tokens(usage: bytes) -> dict[str, float]:
    """Record a stream whose answer carried this, return the tokens counted by their type."""
    metrics, session = fresh(), start()
    feed(session, sse(ROLE, HI, chunk(finish="stop")))
    feed(session, b'data: {"id":"chatcmpl-1","choices":[],"usage":' + usage + b"}\n\n" + DONE)
    finish(session)
    assert session.report().usage == usage
    record(metrics, session)
    found = samples(metrics, "gen_ai_client_token_usage_sum")
    return {dict(labels)["gen_ai_token_type"]: value for labels, value in found.items()}


def test_the_tokens_of_a_chat_are_counted() -> None:
    """By the names of chat completions."""
    usage = b'{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29}'
    assert tokens(usage) == {"input": 19, "output": 10}


def test_the_tokens_of_a_response_are_counted() -> None:
    """By the names of the Responses API, from its last event."""
    metrics, session = fresh(), start(ask_for("responses-text"))
    feed(session, STREAMS["responses-text"])
    finish(session)
    record(metrics, session, "responses")
    sums = samples(metrics, "gen_ai_client_token_usage_sum")
    found = {dict(labels)["gen_ai_token_type"]: value for labels, value in sums.items()}
    usage = session.report().usage
    expected = {
        kind: float(re.findall(rb'"%b_tokens":\s*(\d+)' % kind.encode(), usage)[0])
        for kind in ("input", "output")
    }
    assert found == expected
    assert sum(expected.values()) > 0


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (b'{"prompt_tokens":1,"input_tokens":2,"output_tokens":3}', {"input": 1, "output": 3}),
        (b'{"prompt_tokens":null,"input_tokens":2}', {"input": 2}),
        (b'{"completion_tokens":0}', {"output": 0}),
        (b'{"prompt_tokens":9007199254740992}', {"input": 2**53}),
    ],
)
def test_tokens_are_counted_once_under_whatever_name(usage: bytes, expected: Any) -> None:
    """Some servers send both names, some only one side."""
    assert tokens(usage) == expected


NONSENSE = [
    *(b"[]", b"5", b'"x"', b"true", b"{}", b'{"prompt_tokens":"5"}', b'{"prompt_tokens":-1}'),
    *(b'{"prompt_tokens":true}', b'{"prompt_tokens":1.5}', b'{"prompt_tokens":1e999}'),
    *(b'{"prompt_tokens":[1]}', b'{"prompt_tokens":{}}', b'{"prompt_tokens":9007199254740993}'),
]


@pytest.mark.parametrize("usage", NONSENSE)
def test_a_number_that_cannot_be_one_of_tokens_is_not_counted(usage: bytes) -> None:
    """It would spoil the histogram for good."""
    metrics, report = fresh(), complete().report()
    for raw in (usage, b"", b"null", b"{", b"\xff", b"[" * 100_000, b"9" * 5000):
        metrics.record_stream("other", "m", replace(report, usage=raw), 0.1)
    assert samples(metrics, "gen_ai_client_token_usage_sum") == {}
    assert total(metrics, "wholestream_streams_total") == 7
