"""Before any content is given: which faults are invisible, and which are told, and how."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from e2e.child import QUICK, Proxy, eventually, idle
from e2e.conftest import Starter
from e2e.wire import PATHS, Reply, asking, call, check_complete, stream
from proxy.demo.answers import Answer, Asked, Headers, Pause, error_reply, reply, sse
from proxy.demo.bodies import TEXT, error_event, json_for, stream_for
from proxy.demo.upstream import MisbehavingUpstream

KEPT: Headers = (
    ("x-request-id", "req_7"),
    ("x-ratelimit-limit-requests", "60"),
    ("x-ratelimit-remaining-tokens", "0"),
    ("x-ratelimit-reset-tokens", "6m0s"),
)
NO_ANSWER = Answer(status=0, end="reset")


def good(model: str, attempt: int = 2, endpoint: str = "chat_completions") -> Answer:
    """Return the whole stream of an attempt."""
    return sse(*stream_for(Asked(endpoint, model), attempt).events)


def attempts(upstream: MisbehavingUpstream, model: str) -> int:
    """Return how often the upstream was asked for a model."""
    return sum(request.model == model for request in upstream.requests)


# --- told as it is --------------------------------------------------------------------------

OWN_FAULTS = {
    "400": error_reply(400, "invalid_value", "No such parameter.", KEPT),
    "401": error_reply(401, "invalid_api_key", "Wrong key.", KEPT),
    "403": error_reply(403, "permission_denied", "Not yours.", KEPT),
    "404": error_reply(404, "model_not_found", "No such model.", KEPT),
    "422": error_reply(422, "unprocessable", "Cannot.", KEPT),
    "429-quota": error_reply(429, "insufficient_quota", "You ran out of credits.", KEPT),
    "429-long": error_reply(
        429, "rate_limit_exceeded", "Slow down.", (*KEPT, ("Retry-After", "120"))
    ),
    "429-long-ms": error_reply(
        429, "rate_limit_exceeded", "Slow down.", (*KEPT, ("retry-after-ms", "120000"))
    ),
    "text": Answer(401, (*KEPT, ("Content-Type", "text/plain")), "length", (b"go\xff away",)),
}


@pytest.mark.parametrize("case", OWN_FAULTS)
async def test_an_error_of_the_request_s_own_is_passed_unchanged_after_one_attempt(
    proxy: Proxy, upstream: MisbehavingUpstream, case: str
) -> None:
    """Status, body bytes, retry-after, rate limits and request id are the upstream's."""
    answer, model = OWN_FAULTS[case], f"own-{case}"
    upstream.script(model, answer)
    got = await stream(proxy.port, model)
    assert got.status == answer.status
    assert [got.body] == list(answer.pieces)
    assert got.end == "clean"
    for name, value in answer.headers:
        assert got.headers(name) == [value]
    assert got.header("x-wholestream-request-id")
    assert got.header("x-wholestream-attempts") is None
    assert attempts(upstream, model) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529])
async def test_a_status_that_never_passes_is_the_upstream_s_own_reply_in_the_end(
    proxy: Proxy, upstream: MisbehavingUpstream, status: int
) -> None:
    """After all attempts: status and body unchanged, and the SDK is told not to repeat it."""
    model = f"always-{status}"
    answer = error_reply(status, "server_error", "Dead.", KEPT)
    upstream.script(model, answer)
    before = await idle(proxy)
    got = await stream(proxy.port, model)
    counted = (await idle(proxy)).since(before)
    assert got.status == status
    assert [got.body] == list(answer.pieces)
    assert got.header("x-request-id") == "req_7"
    assert got.header("x-should-retry") == "false"
    assert got.header("x-wholestream-attempts") == "3"
    assert attempts(upstream, model) == 3
    assert counted.incidents == {
        ("http_status", "before_headers", "restarted"): 2.0,
        ("http_status", "before_headers", "surfaced"): 1.0,
    }
    assert counted.streams == {("chat_completions", "failed"): 1.0}
    reasons = counted.labelled("wholestream_upstream_attempts_total", "reason")
    assert reasons == {("first",): 1.0, ("http_status",): 2.0}
    assert counted.labelled("wholestream_requests_total", "code") == {("5xx",): 1.0}


@pytest.mark.parametrize("limit", [1, 5])
async def test_max_attempts_is_respected(
    started: Starter, upstream: MisbehavingUpstream, limit: int
) -> None:
    """So many requests reach the upstream and no more."""
    proxy = await started(upstream.base_url, *QUICK, "--max-attempts", str(limit))
    model = f"limit-{limit}"
    upstream.script(model, error_reply(503, "overloaded", "Busy."))
    assert (await stream(proxy.port, model)).status == 503
    assert attempts(upstream, model) == limit


# --- invisible ------------------------------------------------------------------------------

PASSING = {
    "429": (error_reply(429, "rate_limit_exceeded", "Slow.", (("Retry-After", "1"),)), "http"),
    "429-ms": (error_reply(429, "rate_limit", "Slow.", (("retry-after-ms", "300"),)), "http"),
    "408": (error_reply(408, "timeout", "Late."), "http"),
    "409": (error_reply(409, "conflict", "Locked."), "http"),
    "500": (error_reply(500, "server_error", "Oops."), "http"),
    "503": (error_reply(503, "overloaded", "Busy."), "http"),
    "reset": (NO_ANSWER, "reset"),
    "no-http": (Answer(status=0, pieces=(b"SSH-2.0-Whatever\r\n\r\n",), end="fin"), "reset"),
}
FLOOR_S = {"429": 1.0, "429-ms": 0.3}


@pytest.mark.parametrize("case", PASSING)
async def test_a_passing_fault_before_headers_is_invisible(
    proxy: Proxy, upstream: MisbehavingUpstream, case: str
) -> None:
    """The client gets the next attempt's answer whole; the wait asked for is kept."""
    answer, kind = PASSING[case]
    model = f"once-{case}"
    upstream.script(model, [answer, good(model)])
    before = await idle(proxy)
    got = await stream(proxy.port, model)
    counted = (await idle(proxy)).since(before)
    check_complete(got)
    assert [got.body] == [b"".join(stream_for(Asked(model=model), 2).events)]
    assert got.header("x-wholestream-attempts") == "2"
    fault = "http_status" if kind == "http" else kind
    assert counted.incidents == {(fault, "before_headers", "restarted"): 1.0}
    assert counted.streams == {("chat_completions", "recovered"): 1.0}
    first, second = [request for request in upstream.requests if request.model == model]
    assert second.at - first.at >= FLOOR_S.get(case, 0.0)
    assert second.body == first.body


@pytest.mark.parametrize("endpoint", ["chat_completions", "completions", "responses"])
async def test_a_passing_error_told_first_in_the_stream_is_invisible(
    proxy: Proxy, upstream: MisbehavingUpstream, endpoint: str
) -> None:
    """A 200 that begins with an overload is asked again like a 503."""
    model = f"told-{endpoint}"
    error = error_event(Asked(endpoint), "overloaded", "Busy.", "server_error")
    upstream.script(model, [sse(error), good(model, endpoint=endpoint)])
    got = await stream(proxy.port, model, endpoint)
    check_complete(got, endpoint)
    assert got.header("x-wholestream-attempts") == "2"


async def test_a_connection_refused_until_the_upstream_is_up_is_invisible(
    alone: Starter,
) -> None:
    """A client that asks while the upstream restarts gets its answer."""
    port = _closed_port()
    flags = ("--max-attempts", "20", "--backoff-base-s", "0.1", "--backoff-max-s", "0.2")
    proxy = await alone(f"http://127.0.0.1:{port}/v1", *QUICK, *flags)
    asking_ = asyncio.create_task(stream(proxy.port, "late"))

    async def refused() -> None:
        assert ("connect_error", "before_headers", "restarted") in proxy.incidents()

    await eventually(refused)
    async with MisbehavingUpstream(port) as late:
        late.script("late", good("late"))
        got = await asking_
    check_complete(got)
    assert int(got.header("x-wholestream-attempts") or 0) > 1


async def test_pooled_connections_that_went_stale_are_invisible_and_free(
    started: Starter, upstream: MisbehavingUpstream
) -> None:
    """All idle connections are dead at once, only one attempt is allowed: still one answer."""
    proxy = await started(upstream.base_url, *QUICK, "--max-attempts", "1")

    def dead_if_pooled(asked: Asked, _attempt: int) -> Answer:
        return Answer(status=0, end="fin") if asked.reused else good("stale")

    upstream.script("stale", dead_if_pooled)
    warm = await asyncio.gather(*(stream(proxy.port, "ws-ok") for _ in range(6)))
    assert [got.status for got in warm] == [200] * 6
    await idle(proxy)
    got = await stream(proxy.port, "stale")
    check_complete(got)
    assert got.header("x-wholestream-attempts") == "2"
    assert attempts(upstream, "stale") == 2


async def test_a_reset_before_headers_is_invisible_to_a_call_without_a_stream_too(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """Nothing was answered, so asking again costs nobody anything."""
    upstream.script("plain", [NO_ANSWER, reply(200, json_for(Asked(model="plain"), 2))])
    body = json.dumps({"model": "plain"}).encode()
    got = await call(proxy.port, PATHS["chat_completions"], body)
    assert got.status == 200
    assert got.json["choices"][0]["message"]["content"] == TEXT
    assert got.header("x-wholestream-attempts") == "2"


async def test_an_upload_is_never_repeated(proxy: Proxy, upstream: MisbehavingUpstream) -> None:
    """Its body is gone once it is sent: the first fault is the answer."""
    upstream.script("", NO_ANSWER)
    before = len(upstream.requests)
    kind = ("Content-Type", "multipart/form-data; boundary=b")
    got = await call(proxy.port, "/v1/files", b"--b--", headers=[kind])
    assert (got.status, got.error["code"]) == (502, "upstream_unreachable")
    assert len(upstream.requests) - before == 1


# --- recovery off, budget spent -------------------------------------------------------------


@pytest.mark.parametrize("value", ["off", "Off", " OFF "])
async def test_recovery_can_be_turned_off_for_one_request(
    proxy: Proxy, upstream: MisbehavingUpstream, value: str
) -> None:
    """One attempt, the fault is told, and the header does not reach the upstream."""
    model = f"off-{value.strip()}"
    upstream.script(model, [error_reply(500, "server_error", "Oops."), good(model)])
    got = await stream(proxy.port, model, headers=[("X-Wholestream-Recovery", value)])
    assert (got.status, got.error["code"]) == (500, "server_error")
    [request] = [request for request in upstream.requests if request.model == model]
    assert request.header("x-wholestream-recovery") is None


async def test_honest_endings_stay_when_recovery_is_off(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """A cut before any content is a real status then, not an empty success."""
    opening = stream_for(Asked(model="off-cut"), 1).opening
    upstream.script("off-cut", [sse(*opening, end="fin"), good("off-cut")])
    got = await stream(proxy.port, "off-cut", headers=[("X-Wholestream-Recovery", "off")])
    assert (got.status, got.error["code"]) == (502, "stream_incomplete")
    assert attempts(upstream, "off-cut") == 1


async def test_a_spent_retry_budget_ends_the_repetitions(
    started: Starter, upstream: MisbehavingUpstream
) -> None:
    """Without a token the first fault is told, and the refusal is counted."""
    none = ("--retry-budget-ratio", "0", "--retry-budget-min-per-s", "0")
    proxy = await started(upstream.base_url, *none)
    upstream.script("spent", [error_reply(503, "overloaded", "Busy."), good("spent")])
    assert (await stream(proxy.port, "spent")).status == 503
    assert attempts(upstream, "spent") == 1
    metrics = await proxy.scrape()
    assert metrics.total("wholestream_retry_budget_exhausted_total") == 1


# --- the proxy's own statuses ---------------------------------------------------------------


async def test_a_silent_upstream_is_a_504(proxy: Proxy, upstream: MisbehavingUpstream) -> None:
    """No first event in time, however often it was asked."""
    upstream.script("silent", Answer(end="hold"))
    got = await stream(proxy.port, "silent")
    assert (got.status, got.error["code"]) == (504, "upstream_timeout")
    _check_own(got, attempts=3)
    assert attempts(upstream, "silent") == 3


async def test_comments_do_not_count_as_a_first_event(
    started: Starter, upstream: MisbehavingUpstream
) -> None:
    """An upstream that only sends keep-alives is silent all the same."""
    proxy = await started(upstream.base_url, *QUICK, "--max-attempts", "1")
    answer = sse(*(piece for _ in range(40) for piece in (b": PROCESSING\n\n", Pause(0.05))))
    upstream.script("comments", answer)
    got = await stream(proxy.port, "comments")
    assert (got.status, got.error["code"]) == (504, "upstream_timeout")


async def test_an_empty_stream_is_a_502(proxy: Proxy, upstream: MisbehavingUpstream) -> None:
    """A 200 without an event, every time, is no success."""
    upstream.script("empty", sse())
    got = await stream(proxy.port, "empty")
    assert (got.status, got.error["code"]) == (502, "empty_stream")
    _check_own(got, attempts=3)


async def test_openers_without_content_are_a_502(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """A role and nothing else, every time, is no success either."""
    upstream.script("opener", sse(*stream_for(Asked(model="opener"), 1).opening))
    got = await stream(proxy.port, "opener")
    assert (got.status, got.error["code"]) == (502, "stream_incomplete")
    _check_own(got, attempts=3)


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_unreachable_upstream_is_a_502(started: Starter, *, streaming: bool) -> None:
    """Refused every time, with and without a stream."""
    proxy = await started("http://127.0.0.1:9/v1", *QUICK)
    got = await call(proxy.port, PATHS["chat_completions"], asking("m", stream=streaming))
    assert (got.status, got.error["code"]) == (502, "upstream_unreachable")
    _check_own(got, attempts=3)


DETERMINISTIC = {
    "context_length_exceeded": 400,
    "invalid_api_key": 401,
    "model_not_found": 404,
    "insufficient_quota": 429,
    "content_policy_violation": 400,
}


@pytest.mark.parametrize("code", DETERMINISTIC)
@pytest.mark.parametrize("endpoint", ["chat_completions", "responses"])
async def test_a_lasting_error_told_first_in_the_stream_becomes_a_real_status(
    proxy: Proxy, upstream: MisbehavingUpstream, code: str, endpoint: str
) -> None:
    """The status it should have had, the upstream's words, and no second attempt."""
    model = f"{endpoint}-{code}"
    error = error_event(Asked(endpoint), code, "Because of this.", "invalid_request_error")
    upstream.script(model, sse(error, end="clean"))
    got = await stream(proxy.port, model, endpoint)
    assert got.status == DETERMINISTIC[code]
    assert got.error["code"] == code
    assert got.error["message"] == "Because of this."
    assert got.header("content-type") == "application/json"
    assert attempts(upstream, model) == 1


async def test_every_answer_names_its_request(proxy: Proxy, upstream: MisbehavingUpstream) -> None:
    """Streams, plain answers, upstream errors and the proxy's own errors carry an id each."""
    upstream.script("named-empty", sse())
    upstream.script("named-404", error_reply(404, "model_not_found", "No."))
    upstream.script("named-json", Answer(200, (("Content-Type", "x/y"),), "length", (b"1",)))
    models = ("ws-ok", "named-empty", "named-404")
    replies = [await stream(proxy.port, model) for model in models]
    replies.append(await stream(proxy.port, "named-json", "other"))
    assert [got.status for got in replies] == [200, 502, 404, 200]
    assert len({got.header("x-wholestream-request-id") for got in replies}) == 4


def _check_own(got: Reply, *, attempts: int) -> None:
    assert got.header("content-type") == "application/json"
    assert got.header("x-should-retry") == "false"
    assert got.header("x-wholestream-attempts") == str(attempts)
    assert got.header("x-wholestream-request-id")
    assert got.error["type"] == "upstream_error"


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
