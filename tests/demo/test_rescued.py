"""The scenarios that are rescued: second halves on the wire, and what the core makes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rawclient import Client, connected
from throughcore import Played, through_the_core

from proxy.demo.bodies import TEXT, words
from proxy.demo.rescues import OTHER_TEXT, WINDOW_CLOSED
from proxy.demo.scenarios import SCENARIOS
from proxy.demo.scenarios_rescued import RESCUED
from proxy.demo.upstream import MisbehavingUpstream

COLD = [
    pytest.param(scenario.name, endpoint, id=f"{scenario.name}-{endpoint}")
    for scenario in RESCUED
    for endpoint in sorted(scenario.endpoints)
    if scenario.rescue == "cold"
]
TORN = [scenario.name for scenario in RESCUED if scenario.rescue == "background"]


def payloads(chunks: list[bytes]) -> list[dict[str, Any]]:
    """Return the JSON of events."""
    found = (chunk.partition(b"data: ")[2] for chunk in chunks)
    return [json.loads(data) for data in found if data.startswith(b"{")]


def text_of(events: list[dict[str, Any]], endpoint: str) -> list[str]:
    """Return the pieces of text of events."""
    if endpoint == "responses":
        return [event["delta"] for event in events if "delta" in event]
    choices = [choice for event in events for choice in event["choices"]]
    found = [choice.get("text") or choice.get("delta", {}).get("content") for choice in choices]
    return [text for text in found if text]


async def created(client: Client, name: str) -> tuple[str, bytes]:
    """Create a background response; return its id, and the start of its stream."""
    await client.post(name, "responses", background=True)
    await client.head()
    body, _ = await client.rest()
    blocks = [line for line in body.split(b"\n") if line.startswith(b"data: ")]
    return json.loads(blocks[0][6:])["response"]["id"], body


async def get(client: Client, target: str) -> None:
    """Ask for a response that was created before."""
    await client.send(f"GET /v1/responses/{target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


# --- on the wire ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "endpoint"), COLD)
async def test_the_second_attempt_says_the_same_in_other_pieces(name: str, endpoint: str) -> None:
    """Text, not events, is all that can be compared with the first one; nor is the id the same."""
    async with MisbehavingUpstream() as upstream:
        async with connected(upstream) as first:
            await first.post(name, endpoint)
            await upstream.wait_requests(1)
        async with connected(upstream) as second:
            await second.post(name, endpoint)
            await second.head()
            events = payloads(await second.chunks())
    pieces = text_of(events, endpoint)
    assert "".join(pieces) == TEXT
    assert not set(pieces) & set(words(TEXT)[:5])
    identity = events[0].get("id") or events[0]["response"]["id"]
    assert identity.endswith("_a2" if endpoint == "responses" else "-a2")


async def test_other_words_begin_to_differ_inside_of_what_was_given() -> None:
    """After the first word, on every endpoint, and the answer is whole."""
    async with MisbehavingUpstream() as upstream, connected(upstream) as client:
        for endpoint in sorted(SCENARIOS["ws-other-words-once"].endpoints):
            upstream.rewind()
            given: list[str] = []
            for _ in range(2):
                await client.post("ws-other-words-once", endpoint)
                await client.head()
                given.append("".join(text_of(payloads(await client.chunks()), endpoint)))
            assert TEXT.startswith(given[0])
            assert given[1] == OTHER_TEXT
            assert given[0].split()[:1] == OTHER_TEXT.split()[:1]
            assert given[0].split()[1] != OTHER_TEXT.split()[1]


async def test_a_background_response_is_queued_before_it_runs() -> None:
    """As recorded: created and queued with that status, then in progress, numbered from 0."""
    async with MisbehavingUpstream() as upstream, connected(upstream) as client:
        await client.post("ws-ok", "responses", background=True)
        await client.head()
        events = payloads(await client.chunks())
    lifecycle = [(e["type"], e["response"]["status"]) for e in events if "response" in e]
    assert lifecycle == [
        ("response.created", "queued"),
        ("response.queued", "queued"),
        ("response.in_progress", "in_progress"),
        ("response.completed", "completed"),
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert all(event["response"]["background"] for event in events if "response" in event)


@pytest.mark.parametrize("name", ["ws-ok", "ws-background-cut-once"])
async def test_a_background_response_goes_on_after_any_of_its_events(name: str) -> None:
    """The two parts are, byte for byte, the stream that was never cut."""
    async with MisbehavingUpstream() as upstream, connected(upstream) as client:
        await client.post("ws-ok", "responses", background=True)
        await client.head()
        whole = b"".join(await client.chunks()).replace(b"ws-ok", name.encode())
        events = whole.split(b"\n\n")[:-1]
        for number in range(-1, len(events)):
            after = f"&starting_after={number}" if number >= 0 else ""
            await get(client, f"resp_demo_{name}_a1?stream=true{after}")
            await client.head()
            rest = b"".join(await client.chunks())
            given = b"".join(event + b"\n\n" for event in events[: number + 1])
            assert given + rest == whole


async def test_a_cut_background_response_is_had_by_the_id_it_gave() -> None:
    """The rest follows what came, with the same ids, and is whole however often it is asked for."""
    async with MisbehavingUpstream() as upstream:
        async with connected(upstream) as first:
            identity, body = await created(first, "ws-background-cut-once")
        last = body.count(b"sequence_number") - 1
        async with connected(upstream) as second:
            for _ in range(2):
                await get(second, f"{identity}?stream=true&starting_after={last}")
                await second.head()
                events = payloads(await second.chunks())
                assert events[0]["sequence_number"] == last + 1
                assert events[-1]["type"] == "response.completed"
                assert events[-1]["response"]["id"] == identity
                assert {e["item_id"] for e in events if "item_id" in e} == {"msg_demo_a1"}


async def test_a_closed_window_refuses_the_stream_and_gives_the_response() -> None:
    """A 400 in the upstream's own words, and the completed object where no stream is asked for."""
    async with MisbehavingUpstream() as upstream:
        async with connected(upstream) as first:
            await first.post("ws-background-window-closed", "responses", background=True)
            await first.head()
            start = payloads(await first.chunks())
        identity = start[0]["response"]["id"]
        assert start[-1]["type"] == "response.output_text.delta"
        async with connected(upstream) as second:
            await get(second, f"{identity}?stream=true&starting_after={len(start) - 1}")
            error = await second.json()
            await get(second, identity)
            found = await second.json()
    assert WINDOW_CLOSED in json.dumps(error)
    assert (found["id"], found["status"]) == (identity, "completed")
    assert TEXT in json.dumps(found["output"])


async def test_asking_for_a_response_again_is_no_attempt_of_its_scenario() -> None:
    """What happens once happens to the next request all the same, not to every other one."""
    async with MisbehavingUpstream() as upstream, connected(upstream) as client:
        await get(client, "resp_demo_ws-background-window-closed_a1")
        await client.json()
        await client.post("ws-background-window-closed", "responses", background=True)
        await client.head()
        assert [request.attempt for request in upstream.requests] == [1, 1]


# --- through the core -----------------------------------------------------------------------


def check_one_answer(played: Played, endpoint: str) -> None:
    """Check that a client cannot tell: one id, one role, one end, numbers without a gap."""
    assert played.text == TEXT
    assert played.finish.reply is None
    if endpoint == "responses":
        numbers = [event["sequence_number"] for event in played.events]
        assert numbers == list(range(len(numbers)))
        assert len({e["response"]["id"] for e in played.events if "response" in e}) == 1
        assert played.events[-1]["type"] == "response.completed"
    else:
        assert len({event["id"] for event in played.events}) == 1
        assert played.body.count(b'"role"') == (endpoint == "chat_completions")
        assert played.body.endswith(b"data: [DONE]\n\n")
        assert played.body.count(b"[DONE]") == 1


@pytest.mark.parametrize(("name", "endpoint"), COLD)
def test_a_deterministic_request_is_replayed(name: str, endpoint: str) -> None:
    """The same request again, and one answer from two attempts."""
    played = through_the_core(SCENARIOS[name], endpoint, "cold")
    [incident] = played.report.incidents
    assert incident.fault.value == SCENARIOS[name].fault
    assert (incident.phase.value, incident.outcome.value) == ("mid_content", "replayed")
    assert played.asked[0] == played.asked[1]
    assert played.report.recoveries == (("replay", "success"),)
    check_one_answer(played, endpoint)


@pytest.mark.parametrize("endpoint", sorted(SCENARIOS["ws-other-words-once"].endpoints))
def test_an_answer_in_other_words_is_not_given(endpoint: str) -> None:
    """The prefix of the first one, then an error that says why; nothing of the second."""
    played = through_the_core(SCENARIOS["ws-other-words-once"], endpoint, "cold")
    assert played.text
    assert TEXT.startswith(played.text)
    assert b"did not fit" in played.body
    assert b"[DONE]" not in played.body
    assert ("replay", "mismatch") in played.report.recoveries
    assert [i.outcome.value for i in played.report.incidents] == ["surfaced"]


def test_a_background_response_is_resumed() -> None:
    """By its id, after the last number given, and not by another run."""
    played = through_the_core(SCENARIOS["ws-background-cut-once"], "responses", "background")
    identity = played.events[0]["response"]["id"]
    after = max(i for i, event in enumerate(played.events) if event.get("delta") == " end")
    target = f"/responses/{identity}?stream=true&starting_after={after}"
    assert played.asked == ("POST /responses", f"GET {target}")
    assert [i.outcome.value for i in played.report.incidents] == ["resumed"]
    check_one_answer(played, "responses")


def test_a_background_response_that_is_streamed_no_more_is_fetched() -> None:
    """The refusal is an incident of its own, and the rest is told from the whole object."""
    played = through_the_core(SCENARIOS["ws-background-window-closed"], "responses", "background")
    identity = played.events[0]["response"]["id"]
    assert played.asked[0] == "POST /responses"
    assert played.asked[1].startswith(f"GET /responses/{identity}?stream=true&starting_after=")
    assert played.asked[2] == f"GET /responses/{identity}"
    told = [(i.fault.value, i.outcome.value) for i in played.report.incidents]
    assert told == [("clean_eof", "resumed"), ("http_status", "resumed")]
    check_one_answer(played, "responses")


@pytest.mark.parametrize("name", TORN)
def test_a_response_that_does_not_run_on_is_not_asked_for_again(name: str) -> None:
    """Without ``background`` the same scenario ends in an honest error, after one attempt."""
    played = through_the_core(SCENARIOS[name], "responses")
    assert played.events[-1]["type"] == "response.failed"
    assert played.asked == ("POST /responses",)


@pytest.mark.parametrize(("name", "endpoint"), COLD)
def test_a_request_that_may_have_many_answers_is_not_replayed(name: str, endpoint: str) -> None:
    """Without temperature 0 or a seed: an exact prefix, an honest error, one attempt."""
    played = through_the_core(SCENARIOS[name], endpoint)
    assert played.text
    assert TEXT.startswith(played.text)
    assert len(played.asked) == 1
    assert [i.outcome.value for i in played.report.incidents] == ["surfaced"]
