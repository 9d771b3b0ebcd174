"""The scenarios: each does on the wire what it says, and the core sees what it shows."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest
from rawclient import Client, connected, doors, knock, on_the_wire
from throughcore import through_the_core

from proxy.demo.answers import Answer, Asked, Pause
from proxy.demo.bodies import TEXT, TOOL_ARGUMENTS
from proxy.demo.misbehaviour import SETTLE
from proxy.demo.scenarios import SCENARIOS, Scenario
from proxy.demo.upstream import MisbehavingUpstream

AT_THE_EDGE = {"decoded_body", "set_content_type", "ended_body", "sse_to_json"}
"""Repairs of which the core knows nothing."""

OF_TEXT = {"escaped_separator", "replaced_utf8"}
"""Repairs of text, of which there is none in speech."""

TRANSPORT = {"reset", "cut_between_events"}

EVERY = [
    pytest.param(scenario, door, id=f"{name}-{door}")
    for name, scenario in SCENARIOS.items()
    for door in doors(scenario.endpoints)
]


@pytest.mark.parametrize(("scenario", "door"), EVERY)
async def test_a_scenario_is_on_the_wire_what_its_answer_says(
    scenario: Scenario, door: str
) -> None:
    """Head, framing, every byte, and the way it ends."""
    async with MisbehavingUpstream() as upstream:
        reused = scenario.when == "reused"
        upstream.script(scenario.name, lambda asked, attempt: _hurry(scenario, asked, attempt))
        answer = _hurry(scenario, knock(door, scenario.name, reused=reused), 1)
        async with connected(upstream) as client:
            if reused:
                await _use(client)
            await client.post(scenario.name, door)
            await _check_head(client, answer)
            expected = on_the_wire(answer)
            assert await client.reader.readexactly(len(expected)) == expected
            await _check_end(client, answer, upstream)


def _hurry(scenario: Scenario, asked: Asked, attempt: int) -> Answer:
    answer = scenario.answer(asked, attempt)
    # Before a reset there is a pause that the client needs.
    longest = SETTLE.seconds if answer.end == "reset" else 0.0
    pieces = (
        Pause(min(piece.seconds, longest)) if isinstance(piece, Pause) else piece
        for piece in answer.pieces
    )
    return replace(answer, pieces=tuple(pieces))


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
    elif answer.end in {"clean", "told"} and answer.framing != "close":
        if answer.framing == "chunked" and answer.end == "clean":
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


@pytest.mark.parametrize(("scenario", "door"), EVERY)
def test_the_core_sees_the_fault_that_a_scenario_shows(scenario: Scenario, door: str) -> None:
    """The table's fault is the one that is counted, and the outcome is the one expected."""
    played = through_the_core(scenario, door)
    report = played.report
    counted = {incident.fault.value for incident in report.incidents} | set(report.repairs)
    elsewhere = AT_THE_EDGE | (OF_TEXT if door == "speech" else set())
    # A fault after the terminal event may go unseen: nobody reads that far.
    late = not counted and scenario.expected == "complete" and scenario.fault in TRANSPORT
    assert scenario.fault in {"", *elsewhere, *counted} or late
    assert (report.outcome.value in {"complete", "recovered"}) == (scenario.expected == "complete")
    assert played.finish.pass_on == (scenario.expected == "upstream error")
    if scenario.expected == "complete":
        assert played.text == scenario.text
    else:
        assert scenario.text.startswith(played.text)


def test_the_text_of_the_tool_call_is_json() -> None:
    """So that half of it is of no use to an application."""
    assert json.loads(TOOL_ARGUMENTS)["city"] == "Lisbon"
