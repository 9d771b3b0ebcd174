"""Failover Bench: the 16 faults, through the proxy, with the official SDK that retries nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from e2e.benchrun import Bench, provider
from e2e.child import Proxy, start
from e2e.faultlist import FALLBACK, FAULTS, SCALE, SIXTY_WORDS, Call, Run, scaled

NAMES = tuple(FAULTS)
RECOVERIES = "wholestream_recoveries_total"


@dataclass(frozen=True)
class Setup:
    """How the proxy is set up; the rest is as a user would have it, in the bench's seconds."""

    replay: str = "always"
    hold: str = "none"
    malformed: str = "recover"
    prefill: bool = False

    def toml(self, base_url: str) -> str:
        """Write the configuration file."""
        other = f'[[upstreams]]\nname = "b"\nbase_url = "{base_url}"\ncontinuation = "prefill"\n'
        target = f'{{ upstream = "b", model = "{FALLBACK}" }}'
        return f"""
            max_attempts = 3
            malformed_events = "{self.malformed}"
            connect_timeout_s = {scaled(10):g}
            first_event_timeout_s = {scaled(8):g}
            stall_timeout_s = {scaled(30):g}
            commit_after_s = {scaled(10):g}
            heartbeat_s = {scaled(15):g}
            backoff_base_s = {scaled(0.5):g}
            backoff_max_s = {scaled(8):g}
            retry_after_max_s = {scaled(60):g}
            retry_budget_min_per_s = {1 / SCALE:g}
            breaker_open_s = {scaled(10):g}
            [recovery]
            replay = "{self.replay}"
            hold = "{self.hold}"
            {other if self.prefill else ""}
            [[fallbacks]]
            models = ["bench-*"]
            to = [{target if self.prefill else f'{{ model = "{FALLBACK}" }}'}]
            """


@asynccontextmanager
async def benched(printed: Path, setup: Setup) -> AsyncIterator[tuple[Bench, Proxy]]:
    """Start a provider and the proxy in front of it."""
    async with provider() as behind, AsyncExitStack() as ends:
        base_url = behind.upstream.base_url
        config = printed / "wholestream.toml"
        config.write_text(setup.toml(base_url), "utf-8")
        proxy = await start(printed, base_url, "--config", str(config))
        ends.push_async_callback(proxy.stop)
        yield Bench(behind, proxy.base_url), proxy


@dataclass
class Played:
    """The whole bench, played once, and what the circuit of S15's primary was seen to be."""

    bench: Bench
    circuit: list[float]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Play all scenarios one after another; the outage, which takes long, on the side."""
    circuit: list[float] = []
    async with (
        benched(tmp_path_factory.mktemp("bench"), Setup()) as (bench, _),
        benched(tmp_path_factory.mktemp("outage"), Setup()) as (outage, proxy),
    ):

        async def look() -> None:
            metrics = await proxy.scrape()
            gauges = metrics.labelled("wholestream_breaker_open", "target")
            circuit.append(sum(value for (name,), value in gauges.items() if "bench-s15" in name))

        outage.after_call = look
        others = (name for name in NAMES if name != "S15")
        await asyncio.gather(bench.play(*others), outage.play("S15"))
    bench.runs = {name: {**bench.runs, **outage.runs}[name] for name in NAMES}
    return Played(bench, circuit)


# --- the bench itself -----------------------------------------------------------------------


def test_the_answer_has_sixty_words() -> None:
    """The text is as long as the bench wants it."""
    assert len(SIXTY_WORDS.split()) == 60


def _run(**call: Any) -> Run:
    whole = Call(text=SIXTY_WORDS, finished=True, usage=True, took_s=0.1)
    return Run(0.0, [replace(whole, **call)], [1.0, 1.0 + scaled(2)])


def test_the_four_verdicts_are_told_apart() -> None:
    """Whole, whole with a blemish, told of a failure, and each way to fail."""
    first = FAULTS["S01"]
    assert first.verdict(_run()) == "pass"
    assert first.verdict(replace(_run(), primary=[1.0, 1.01])) == "partial"
    assert first.verdict(_run(text="A ferry", error="APIError")) == "safe"
    assert first.verdict(_run(text="A ferry")) == "fail"
    assert first.verdict(_run(finished=False)) == "fail"
    assert first.verdict(_run(hung=True)) == "fail"
    assert first.verdict(_run(took_s=99.0)) == "fail"
    assert first.verdict(replace(_run(), alive=False)) == "fail"
    assert first.verdict(replace(_run(), primary=[1.0, 1.01, 1.02])) == "fail"


def test_the_way_around_a_refusal_is_partial() -> None:
    """The ideal outcome of S13 is the refusal, with its reason."""
    refusal, one = FAULTS["S13"], [1.0]
    told = _run(text="", error="BadRequestError", code="content_policy_violation")
    assert refusal.verdict(replace(told, primary=one)) == "pass"
    assert refusal.verdict(replace(_run(), primary=one)) == "partial"
    assert refusal.verdict(told) == "fail"


async def test_without_the_proxy_the_sdk_alone_passes_what_the_scorecard_says() -> None:
    """Every fault is one: without help only S07, S11 and S13 end well, the rest in an error."""
    async with provider() as behind:
        bench = Bench(behind, behind.upstream.base_url, has_fallback=False)
        slow = ("S06", "S07", "S09")
        rest = (name for name in NAMES if name not in {*slow, "S15"})
        await asyncio.gather(bench.play(*slow), bench.play("S15"), bench.play(*rest))
    passed = {name for name, verdict in bench.verdicts.items() if verdict == "pass"}
    assert passed == {"S07", "S11", "S13"}
    assert {bench.verdicts[name] for name in set(NAMES) - passed} == {"safe"}


# --- through the proxy ----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_fault_is_passed(played: Played, name: str) -> None:
    """Rescued, every required and every advisory check clean."""
    assert played.bench.verdicts[name] == "pass", played.bench.table()


def test_the_scorecard_is_sixteen_passes(played: Played) -> None:
    """16 pass, 0 partial, 0 safe, 0 fail."""
    print(f"\n{played.bench.table()}")  # noqa: T201 - shown by pytest -s, or on failure
    assert list(played.bench.verdicts.values()) == ["pass"] * 16


def test_a_rescue_in_mid_stream_spends_the_primary_first(played: Played) -> None:
    """S08 and S14 use all three attempts, then the fallback once."""
    for name in ("S08", "S14"):
        run = played.bench.runs[name]
        assert (len(run.primary), len(run.fallback)) == (3, 1)


def test_a_silent_primary_is_not_waited_for_twice(played: Played) -> None:
    """S06, S07 and S09 go to the fallback after the first silence."""
    for name in ("S06", "S07", "S09"):
        run = played.bench.runs[name]
        assert (len(run.primary), len(run.fallback)) == (1, 1)


def test_a_refusal_of_content_never_reaches_the_fallback(played: Played) -> None:
    """S13: one attempt, the error itself, nobody else is asked."""
    run = played.bench.runs["S13"]
    assert (len(run.primary), len(run.fallback)) == (1, 0)
    assert run.calls[0].error == "BadRequestError"


def test_faults_that_pass_are_mended_at_the_primary(played: Played) -> None:
    """S01, S03 and S05 need a second attempt and no fallback."""
    for name in ("S01", "S03", "S05"):
        run = played.bench.runs[name]
        assert (len(run.primary), len(run.fallback)) == (2, 0)


def test_an_outage_opens_the_circuit_and_its_end_closes_it(played: Played) -> None:
    """S15: the gauge is seen at 1, in the end at 0; the primary is spared the full attempts."""
    assert max(played.circuit) == 1.0
    assert played.circuit[-1] == 0.0
    run = played.bench.runs["S15"]
    during = [at for at in run.primary if at < run.primary[0] + scaled(60)]
    assert len(during) < 3 * 15


# --- other ways to set it up ----------------------------------------------------------------


async def test_what_is_held_until_it_is_complete_is_rescued_without_a_replay(
    tmp_path: Path,
) -> None:
    """S08, S09 and S14 pass where everything is held back and nothing is replayed."""
    async with benched(tmp_path, Setup(replay="never", hold="all", prefill=True)) as (bench, _):
        await asyncio.gather(*(bench.play(name) for name in ("S08", "S09", "S14")))
    assert bench.verdicts == dict.fromkeys(("S08", "S09", "S14"), "pass"), bench.table()
    assert bench.provider.prefills == 0


async def test_a_bad_event_can_be_skipped(tmp_path: Path) -> None:
    """S10 passes without a second attempt where events that are no JSON are skipped."""
    async with benched(tmp_path, Setup(replay="never", malformed="skip")) as (bench, _):
        await bench.play("S10")
    assert bench.verdicts == {"S10": "pass"}, bench.table()
    assert len(bench.runs["S10"].primary) == 1


async def test_a_refused_prefill_does_not_mask_the_cut(tmp_path: Path) -> None:
    """S14 without replay: the continuation gets its 400, the client hears of the cut."""
    async with benched(tmp_path, Setup(replay="never", prefill=True)) as (bench, proxy):
        await bench.play("S14")
        recoveries = (await proxy.scrape()).labelled(RECOVERIES, "strategy", "result")
    assert recoveries == {("fallback", "failed"): 1.0}
    assert bench.verdicts == {"S14": "safe"}, bench.table()
    assert bench.runs["S14"].calls[0].code == "stream_incomplete"
    assert bench.provider.prefills == 1


async def test_a_fallback_that_refuses_prefills_is_asked_anew_where_replay_may_be(
    tmp_path: Path,
) -> None:
    """S14 with replay: the whole answer, and never a prefill."""
    async with benched(tmp_path, Setup(prefill=True)) as (bench, _):
        await bench.play("S14")
    assert bench.verdicts == {"S14": "pass"}, bench.table()
    assert len(bench.runs["S14"].fallback) == 1
    assert bench.provider.prefills == 0
