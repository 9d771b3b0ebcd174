"""The scenarios: each does on the wire what it says, and the core sees what it shows."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest
from rawclient import Client, connected, on_the_wire
from throughcore import through_the_core

from proxy.demo.answers import Answer, Asked, Pause
from proxy.demo.bodies import TEXT, TOOL_ARGUMENTS
from proxy.demo.scenarios import SCENARIOS, Scenario
from proxy.demo.upstream import MisbehavingUpstream

AT_THE_EDGE = {"decoded_body", "set_content_type"}
"""Repairs that are made before the core sees a byte."""

EVERY = [
    pytest.param(scenario, endpoint, id=f"{name}-{endpoint}")
    for name, scenario in SCENARIOS.items()
    for endpoint in sorted(scenario.endpoints)
]
IN_THE_CORE = [param for param in EVERY if getattr(param.values[0], "fault", "") not in AT_THE_EDGE]


@pytest.mark.parametrize(("scenario", "endpoint"), EVERY)
async def test_a_scenario_is_on_the_wire_what_its_answer_says(
    scenario: Scenario, endpoint: str
) -> None:
    """Head, framing, every byte, and the way it ends."""
    async with MisbehavingUpstream() as upstream:
        reused = scenario.when == "reused"
        upstream.script(scenario.name, lambda asked, attempt: _hurry(scenario, asked, attempt))
        answer = _hurry(scenario, Asked(endpoint, scenario.name, reused=reused), 1)
        async with connected(upstream) as client:
            if reused:
                await _use(client)
            await client.post(scenario.name, endpoint)
            await _check_head(client, answer)
            expected = on_the_wire(answer)
            assert await client.reader.readexactly(len(expected)) == expected
            await _check_end(client, answer, upstream)


def _hurry(scenario: Scenario, asked: Asked, attempt: int) -> Answer:
    answer = scenario.answer(asked, attempt)
    if scenario.name != "ws-slow":
        return answer
    return replace(answer, pieces=tuple(p for p in answer.pieces if not isinstance(p, Pause)))


async def _use(client: Client) -> None:
    await client.post("ws-ok", stream=False)
    await client.json()


async def _check_head(client: Client, answer: Answer) -> None:
    if not answer.status:
        return
    status, headers = await client.head()
    assert status == answer.status
    assert all(headers[name.lower()] == value for name, value in answer.headers)
    assert ("transfer-encoding" in headers) == (answer.framing == "chunked")
    assert ("content-length" in headers) == (answer.framing == "length")


async def _check_end(client: Client, answer: Answer, upstream: MisbehavingUpstream) -> None:
    if answer.end == "hold":
        await upstream.wait_requests(1)
        assert not client.reader.at_eof()
        assert upstream.open_connections == 1
    elif answer.end == "clean" and answer.framing != "close":
        if answer.framing == "chunked":
            assert await client.reader.readexactly(5) == b"0\r\n\r\n"
        await _use(client)
    else:
        assert await client.rest() == (b"", "reset" if answer.end == "reset" else "fin")


@pytest.mark.parametrize("name", [s.name for s in SCENARIOS.values() if s.when == "first"])
async def test_what_happens_once_is_healed_by_asking_again(name: str) -> None:
    """Every second attempt is well, so each request of a user meets it once."""
    async with MisbehavingUpstream() as upstream:
        async with connected(upstream) as first:
            await first.post(name)
            await upstream.wait_requests(1)
        async with connected(upstream) as second:
            await second.post(name)
            assert (await second.head())[0] == 200
            assert (await second.chunks())[-1] == b"data: [DONE]\n\n"


async def test_a_scenario_of_streams_leaves_json_alone() -> None:
    """Only what comes before a body reaches requests that ask for no stream."""
    async with MisbehavingUpstream() as upstream, connected(upstream) as client:
        await client.post("ws-cut-mid-event", stream=False)
        assert TEXT in json.dumps(await client.json())
        await client.post("ws-500-once", stream=False)
        assert (await client.head())[0] == 500


def test_the_compressed_stream_is_the_healthy_one() -> None:
    """It is one gzip member, and says so."""
    asked = Asked(model="ws-ok")
    answer = SCENARIOS["ws-gzip"].answer(asked, 1)
    assert ("Content-Encoding", "gzip") in answer.headers
    healthy = SCENARIOS["ws-ok"].answer(asked, 1)
    assert gzip.decompress(on_the_wire(_bare(answer))) == on_the_wire(_bare(healthy))


def _bare(answer: Answer) -> Answer:
    return replace(answer, framing="close")


@pytest.mark.parametrize(("scenario", "endpoint"), IN_THE_CORE)
def test_the_core_sees_the_fault_that_a_scenario_shows(scenario: Scenario, endpoint: str) -> None:
    """The table's fault is the one that is counted, and the outcome is the one expected."""
    played = through_the_core(scenario, endpoint)
    report = played.report
    counted = {incident.fault.value for incident in report.incidents} | set(report.repairs)
    # A fault after the terminal event may go unseen: nobody reads that far.
    late = scenario.expected == "complete" and scenario.when == "always"
    assert scenario.fault in counted or not scenario.fault or (late and not counted)
    assert (report.outcome.value in {"complete", "recovered"}) == (scenario.expected == "complete")
    assert played.finish.pass_on == (scenario.expected == "upstream error")
    text = played.text
    assert text == scenario.text if scenario.expected == "complete" else text in scenario.text


def test_the_text_of_the_tool_call_is_json() -> None:
    """So that half of it is of no use to an application."""
    assert json.loads(TOOL_ARGUMENTS)["city"] == "Lisbon"
