"""Single scenarios of the catalogue: what is odd about them, and what a setting makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from rawclient import connected, knock
from throughcore import POLICY, Played, through_the_core

from proxy.core.policy import Quirks
from proxy.demo import showcase
from proxy.demo.answers import Answer, Pause, Raw
from proxy.demo.bodies import TEXT, stream_for
from proxy.demo.misbehaviour_chats import FILTERED_TEXT
from proxy.demo.misbehaviour_errors import OVERSIZE_BYTES, PREFILL
from proxy.demo.misbehaviour_forms import FLOOD_TEXT, HUGE_BYTES, OVERLOADED, WIDE_TEXT
from proxy.demo.scenarios import SCENARIOS
from proxy.demo.shapes import payload_of
from proxy.demo.upstream import MisbehavingUpstream

CHATS = ["chat_completions", "completions"]


def answer_of(name: str, door: str = "chat_completions", attempt: int = 1) -> Answer:
    """Return the answer to a request for a scenario."""
    return SCENARIOS[name].answer(knock(door, name), attempt)


def blocks_of(name: str, door: str = "chat_completions") -> list[bytes]:
    """Return the bytes of the pieces."""
    return [piece for piece in answer_of(name, door).pieces if isinstance(piece, bytes)]


def pauses_of(name: str) -> list[float]:
    """Return the lengths of the silences."""
    return [piece.seconds for piece in answer_of(name).pieces if isinstance(piece, Pause)]


def chunks_of(name: str, door: str = "chat_completions") -> list[dict[str, Any]]:
    """Return the JSON of the events."""
    payloads = (payload_of(block)[1] for block in blocks_of(name, door))
    return [json.loads(payload) for payload in payloads if payload.startswith(b"{")]


def told_error(played: Played) -> dict[str, Any]:
    """Return the error that the client was told in the end, in the language of the chats."""
    found: dict[str, Any] = played.events[-1]["error"]
    return found


# --- sizes and times ------------------------------------------------------------------------


def test_sizes_lie_on_both_sides_of_the_demonstrations_cap() -> None:
    """What is large passes, what is too large does not."""
    flags = dict(zip(showcase.FLAGS[::2], showcase.FLAGS[1::2], strict=True))
    cap = int(flags["--max-event-bytes"])
    assert cap == POLICY.max_event_bytes
    assert HUGE_BYTES < max(map(len, blocks_of("ws-huge-event"))) < cap < OVERSIZE_BYTES
    assert max(map(len, blocks_of("ws-oversize-event"))) > OVERSIZE_BYTES
    endless = b"".join(blocks_of("ws-no-delimiter")).rpartition(b"\n")[2]
    assert len(endless) > OVERSIZE_BYTES


@pytest.mark.parametrize("door", sorted(SCENARIOS["ws-flood"].endpoints))
def test_a_flood_is_some_mebibytes_of_small_events(door: str) -> None:
    """Many more than a socket takes at once, none of them large."""
    body = b"".join(blocks_of("ws-flood", door))
    assert 2 * 2**20 < len(body) < 6 * 2**20
    assert body.count(b"\n\n") > len(FLOOD_TEXT.split())
    assert max(map(len, body.split(b"\n\n"))) < POLICY.max_event_bytes


def test_silence_is_longer_than_a_heartbeat_and_shorter_than_patience() -> None:
    """So that the demonstration shows it as healthy."""
    flags = dict(zip(showcase.FLAGS[::2], showcase.FLAGS[1::2], strict=True))
    silences = pauses_of("ws-long-silence")
    assert silences == [3.0, 3.0]
    assert isinstance(answer_of("ws-long-silence").pieces[0], Pause)
    assert float(flags["--heartbeat-s"]) < min(silences)
    assert max(silences) < float(flags["--stall-timeout-s"])
    assert max(silences) < float(flags["--first-event-timeout-s"])


def test_a_burst_is_one_write_after_a_silence() -> None:
    """Of the same bytes that come one by one elsewhere."""
    assert len(pauses_of("ws-burst")) == 1
    [burst] = blocks_of("ws-burst")
    assert burst.replace(b"ws-burst", b"ws-ok") == b"".join(blocks_of("ws-ok"))


@pytest.mark.parametrize("door", ["chat_completions", "images", "agents"])
def test_a_capped_stream_is_cut_at_the_same_age_while_data_flows(door: str) -> None:
    """However many events it has."""
    pieces = answer_of("ws-lifetime-cap", door).pieces
    silences = [piece.seconds for piece in pieces if isinstance(piece, Pause)]
    assert sum(silences) == pytest.approx(1.2)
    assert len(silences) > 1
    assert isinstance(pieces[-1], bytes)


async def test_a_last_chunk_that_comes_apart_is_one_all_the_same() -> None:
    """Five writes outside of the framing, and the connection is used again."""
    apart = [
        piece.data for piece in answer_of("ws-last-chunk-apart").pieces if isinstance(piece, Raw)
    ]
    assert apart == [b"0", b"\r", b"\n", b"\r", b"\n"]
    async with MisbehavingUpstream() as upstream, connected(upstream) as client:
        for _ in range(2):
            await client.post("ws-last-chunk-apart")
            await client.head()
            assert (await client.chunks())[-1] == b"data: [DONE]\n\n"
        assert len(upstream.connections) == 1


# --- bytes and fields -----------------------------------------------------------------------


def test_characters_of_every_width_are_split() -> None:
    """Two, three and four bytes, each byte a write of its own."""
    assert {len(character.encode()) for character in WIDE_TEXT} == {1, 2, 3, 4}
    assert {len(block) for block in blocks_of("ws-utf8-split")} == {1}


@pytest.mark.parametrize("door", sorted(SCENARIOS["ws-split-json"].endpoints))
def test_a_split_event_is_no_event_in_either_part(door: str) -> None:
    """The second one has no prefix, and both together are JSON."""
    blocks = blocks_of("ws-split-json", door)
    [second] = [block for block in blocks if b"data: " not in block]
    first = blocks[blocks.index(second) - 1]
    for part in (payload_of(first)[1], second):
        with pytest.raises(json.JSONDecodeError):
            json.loads(part)
    healthy = stream_for(knock(door, "ws-split-json"), 1).events
    assert first.removesuffix(b"\n\n") + second in healthy


@pytest.mark.parametrize("door", CHATS)
def test_azures_chunks_have_no_choices_or_no_delta(door: str) -> None:
    """The first one not even an id."""
    first, *others = chunks_of("ws-empty-choices", door)
    assert (first["id"], first["object"], first["choices"]) == ("", "", [])
    assert "prompt_filter_results" in first
    bare = [c for chunk in others for c in chunk["choices"] if not {"delta", "text"} & set(c)]
    assert [set(choice) >= {"content_filter_results"} for choice in bare] == [True]


@pytest.mark.parametrize("door", CHATS)
def test_nulls_stand_where_something_else_should(door: str) -> None:
    """In place of a delta or a text, and some chunks lack what every chunk has."""
    chunks = chunks_of("ws-null-fields", door)
    field = "delta" if door == "chat_completions" else "text"
    assert any(choice[field] is None for chunk in chunks for choice in chunk["choices"])
    assert any({"object", "created"} - set(chunk) for chunk in chunks)


@pytest.mark.parametrize("door", CHATS)
def test_a_finish_reason_is_missing_or_that_of_a_filter(door: str) -> None:
    """The end mark comes in both cases."""
    for name, wanted in (
        ("ws-no-finish-reason", {None}),
        ("ws-content-filter", {None, "content_filter"}),
    ):
        chunks = chunks_of(name, door)
        assert {c["finish_reason"] for chunk in chunks for c in chunk["choices"]} == wanted
        assert blocks_of(name, door)[-1] == b"data: [DONE]\n\n"
    assert TEXT.startswith(FILTERED_TEXT)
    assert FILTERED_TEXT != TEXT


@pytest.mark.parametrize("usage", [True, False])
def test_usage_follows_the_finish_reason_once(usage: bool) -> None:  # noqa: FBT001 - a parameter
    """Whether it was asked for or not."""
    asked = replace(knock("chat_completions", "ws-usage-after-finish"), usage=usage)
    pieces = SCENARIOS["ws-usage-after-finish"].answer(asked, 1).pieces
    *_, finish, last = (json.loads(payload_of(p)[1]) for p in pieces[:-1] if isinstance(p, bytes))
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 21)
    assert pieces[-1] == b"data: [DONE]\n\n"


async def test_a_stream_comes_although_none_was_asked_for() -> None:
    """And a document although a stream was."""
    async with MisbehavingUpstream() as upstream, connected(upstream) as client:
        await client.post("ws-sse-for-json", stream=False)
        assert (await client.head())[1]["content-type"].startswith("text/event-stream")
        assert (await client.chunks())[-1] == b"data: [DONE]\n\n"
        await client.post("ws-json-body")
        assert TEXT in json.dumps(await client.json())


# --- what settings make of them -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "quirks", "repair"),
    [
        ("ws-empty-choices", Quirks(empty_choices="drop"), "dropped_empty_choices"),
        ("ws-null-fields", Quirks(fill_fields=True), "filled_fields"),
        ("ws-nan", Quirks(nan="null"), "nan_to_null"),
        ("ws-no-finish-reason", Quirks(finish_reason="added"), "added_finish_reason"),
    ],
)
@pytest.mark.parametrize("door", CHATS)
def test_what_passes_is_repaired_where_a_quirk_says_so(
    door: str, name: str, quirks: Quirks, repair: str
) -> None:
    """And by default not: the bytes are the upstream's then."""
    passed = through_the_core(SCENARIOS[name], door)
    assert passed.report.repairs == {}
    assert passed.body == b"".join(blocks_of(name, door))
    mended = through_the_core(SCENARIOS[name], door, policy=replace(POLICY, quirks=quirks))
    assert repair in mended.report.repairs
    assert mended.text == TEXT
    assert mended.report.outcome.value == "complete"


@pytest.mark.parametrize(
    ("name", "quirks", "fault"),
    [
        ("ws-overload-as-content-once", Quirks(overload_texts=(OVERLOADED,)), "in_stream_error"),
        ("ws-empty-answer-once", Quirks(empty_answer="restart"), "empty_stream"),
    ],
)
@pytest.mark.parametrize("door", sorted(SCENARIOS["ws-empty-answer-once"].endpoints))
def test_success_in_name_alone_is_asked_again_where_a_quirk_says_so(
    door: str, name: str, quirks: Quirks, fault: str
) -> None:
    """The next attempt is well, and nothing of the first one is seen."""
    played = through_the_core(SCENARIOS[name], door, policy=replace(POLICY, quirks=quirks))
    assert [incident.fault.value for incident in played.report.incidents] == [fault]
    assert (played.text, played.report.outcome.value) == (TEXT, "recovered")


def test_an_answer_without_a_finish_reason_is_refused_where_one_is_required() -> None:
    """An honest error then."""
    policy = replace(POLICY, quirks=Quirks(finish_reason="required"))
    played = through_the_core(SCENARIOS["ws-no-finish-reason"], "chat_completions", policy=policy)
    assert [incident.fault.value for incident in played.report.incidents] == ["clean_eof"]
    assert b"[DONE]" not in played.body


@pytest.mark.parametrize("door", ["chat_completions", "responses"])
def test_what_is_cut_at_the_same_age_twice_is_not_asked_a_third_time(door: str) -> None:
    """And the error says so."""
    played = through_the_core(SCENARIOS["ws-lifetime-cap"], door, "cold")
    assert len(played.asked) == 2
    assert played.report.capped
    assert b"cut twice at the same age, 1.2 s" in played.body


def test_a_refused_prefill_does_not_hide_what_broke_the_answer() -> None:
    """The error that is told is the first one, the refusal is an incident of its own."""
    policy = replace(POLICY, continuation="prefill")
    messages = [{"role": "user", "content": "How do streams end?"}]
    name = "ws-prefill-rejected"
    played = through_the_core(SCENARIOS[name], "chat_completions", policy=policy, messages=messages)
    assert len(played.asked) == 2
    told = [(i.fault.value, i.outcome.value) for i in played.report.incidents]
    assert told == [("clean_eof", "continued"), ("http_status", "surfaced")]
    assert told_error(played)["code"] == "stream_incomplete"
    refusal = SCENARIOS[name].answer(replace(knock("chat_completions", name), prefilled=True), 1)
    assert refusal.status == 400
    assert PREFILL in str(refusal.pieces)


@pytest.mark.parametrize("nested", [True, False])
def test_a_response_tells_overload_in_two_forms(nested: bool) -> None:  # noqa: FBT001 - a parameter
    """Flat as specified, nested as it is met; either way the client hears of it."""
    name = "ws-overloaded-mid-stream" if nested else "ws-error-event-only"
    error = chunks_of(name, "responses")[-1]
    assert error["type"] == "error"
    assert ("error" in error) == nested
    assert ("message" in error) != nested
    played = through_the_core(SCENARIOS[name], "responses")
    assert played.events[-1]["type"] == "response.failed"
