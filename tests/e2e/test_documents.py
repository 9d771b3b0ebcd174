"""A stream was asked for, and something else is answered: JSON, a page, text, audio, nothing.

The simplest cases of each text endpoint are in ``test_catalogue_forms``.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import Any

import pytest

from e2e.child import QUICK, Metrics, Proxy, eventually, idle
from e2e.conftest import Starter
from e2e.doors import DOORS, Door
from e2e.stage import CHUNKED, JSON, Exchange, Stage
from e2e.wire import HEARTBEAT, Reply, check_complete, check_failed, connected
from proxy.demo.answers import Answer, Headers, reply, sse
from proxy.demo.bodies import TEXT, json_for
from proxy.demo.bodies_media import picture, text_of
from proxy.demo.upstream import MisbehavingUpstream

TOLD_IN_EVENTS = [
    *("chat", "completions", "responses"),
    *("images", "edits", "edits, fields first", "transcriptions, fields first"),
]
"""Doors where one object is known to be an answer, and a stream to be wanted."""

REPEATED = ["chat", "completions", "responses"]
PASSED = ["other", "agents", "edits, file first", "transcriptions, file first"]
"""Doors where nobody knows what is wanted, or what the object says."""

JSON_200: Headers = (("Content-Type", "application/json"),)
AUDIO: Headers = (("Content-Type", "audio/mpeg"),)
TEXT_200: Headers = (("Content-Type", "text/plain; charset=utf-8"),)
PAGE = b"<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head><body>x</body></html>"
SOON = (*QUICK, "--commit-after-s", "0.2", "--heartbeat-s", "0.2", "--first-event-timeout-s", "20")


def document(door: Door, model: str, attempt: int = 1) -> bytes:
    """Return a whole answer in one piece."""
    return json.dumps(json_for(door.asked(model), attempt)).encode()


def said(answer: Reply, door: Door) -> str:
    """Return the text that events tell, read as an application would."""
    found = [json.loads(data) for data in answer.payloads if data != b"[DONE]"]
    if door.endpoint == "images":
        return text_of(found[-1]["b64_json"])
    if door.endpoint == "audio":
        return str(found[-1]["text"])
    if door.endpoint == "responses":
        return "".join(one["delta"] for one in found if one["type"].endswith("output_text.delta"))
    choices = [choice for one in found for choice in one["choices"]]
    return "".join(
        choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices
    )


def model_for(door: Door, case: str) -> str:
    """Name a model that nobody else asks for."""
    return f"one-{case}-{list(DOORS).index(door.name):02}"


async def counted(proxy: Proxy, before: Metrics, repairs: dict[str, float]) -> Metrics:
    """Return what was counted since; these repairs and no others."""
    after = (await idle(proxy)).since(before)
    found = after.labelled("wholestream_repairs_total", "repair")
    assert {name: count for (name,), count in found.items()} == repairs
    return after


# --- told in events -------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["plain", "gzip", "unsaid gzip", "deflate", "chunked", "marked"])
@pytest.mark.parametrize("name", TOLD_IN_EVENTS)
async def test_one_object_becomes_a_stream_in_whatever_form_it_comes(
    proxy: Proxy, upstream: MisbehavingUpstream, name: str, form: str
) -> None:
    """The same text, its endpoint's own ending, no length and no coding of the object's."""
    door = DOORS[name]
    model = model_for(door, form.replace(" ", "-"))
    body = document(door, model)
    mark = b"\n\ndata: [DONE]\n\n"
    answers = {
        "plain": Answer(200, JSON_200, "length", (body,)),
        "gzip": Answer(
            200, (*JSON_200, ("Content-Encoding", "gzip")), "length", (gzip.compress(body),)
        ),
        "unsaid gzip": Answer(200, JSON_200, "length", (gzip.compress(body),)),
        "deflate": Answer(
            200, (*JSON_200, ("Content-Encoding", "deflate")), "length", (zlib.compress(body),)
        ),
        "chunked": Answer(200, JSON_200, pieces=tuple(body[at : at + 7] for at in range(0, 700, 7)))
        if len(body) <= 700
        else Answer(200, JSON_200, pieces=(body[:1], body[1:300], body[300:])),
        "marked": Answer(200, JSON_200, "length", (body + mark,)),
    }
    upstream.script(model, answers[form])
    before = await idle(proxy)
    got = await door.ask(proxy.port, model)
    check_complete(got, door.endpoint)
    assert said(got, door) == TEXT
    coded = {"decoded_body": 1.0} if form in {"gzip", "unsaid gzip", "deflate"} else {}
    after = await counted(proxy, before, {"json_to_sse": 1.0, **coded})
    assert after.streams == {(door.endpoint, "complete"): 1.0}
    assert after.incidents == {}


async def test_several_images_become_an_event_each(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """With what all of them share, and no unfinished ones invented."""
    door, model = DOORS["images"], "one-several"
    pictures = [{"b64_json": picture(word)} for word in ("sea", "sky", "sail")]
    answer = {"created": 7, "data": pictures, "size": "64x64", "usage": {"total_tokens": 3}}
    upstream.script(model, reply(200, answer))
    got = await door.ask(proxy.port, model, stream=True, n=3)
    check_complete(got, "images")
    assert [name for name, _ in got.events] == [b"image_generation.completed"] * 3
    for one, made in zip(map(json.loads, got.payloads), pictures, strict=True):
        shared = {"created_at": 7, "size": "64x64", "usage": {"total_tokens": 3}}
        assert one == {"type": "image_generation.completed", **shared, **made}


@pytest.mark.parametrize("name", ["chat", "images", "transcriptions, fields first"])
async def test_an_object_that_is_long_in_coming_is_waited_for_with_heartbeats(
    started: Starter, stage: Stage, name: str
) -> None:
    """The 200 goes out in time, before anybody knows that it will be no stream."""
    proxy = await started(stage.base_url, *SOON)
    door, heard = DOORS[name], asyncio.Event()
    body = document(door, "m")

    async def play(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(200, [JSON, *CHUNKED])
        await exchange.chunk(body[:20])
        await heard.wait()
        await exchange.chunk(body[20:])
        await exchange.chunk(b"")

    kind, asked = door.body("m")
    before = await idle(proxy)
    async with connected(proxy.port) as wire:
        staged = stage.plays(f"long in coming {name}", play)
        await wire.ask(door.target, asked, headers=[*kind, staged])
        got = await wire.head()
        while got.chunks.count(HEARTBEAT) < 2:
            got.chunks.append(await wire.chunk())
        heard.set()
        got = await wire.rest(got)
    check_complete(got, door.endpoint)
    assert said(got, door) == TEXT
    after = await counted(proxy, before, {"json_to_sse": 1.0})
    assert after.streams == {(door.endpoint, "complete"): 1.0}


ERROR = {"message": "No.", "type": "invalid_request_error", "param": None}


@pytest.mark.parametrize("name", TOLD_IN_EVENTS)
async def test_an_error_in_place_of_an_answer_is_the_status_that_it_should_have_had(
    proxy: Proxy, upstream: MisbehavingUpstream, name: str
) -> None:
    """Its own words, and it is not asked for again."""
    door = DOORS[name]
    for code, status in (("invalid_api_key", 401), ("context_length_exceeded", 400)):
        model = model_for(door, code)
        upstream.script(model, reply(200, {"error": {**ERROR, "code": code}}))
        before = await idle(proxy)
        got = await door.ask(proxy.port, model)
        assert (got.status, got.error["code"], got.error["message"]) == (status, code, "No.")
        after = await counted(proxy, before, {})
        assert after.incidents == {("in_stream_error", "before_content", "surfaced"): 1.0}
        assert after.total("wholestream_upstream_attempts_total") == 1


BROKEN: dict[str, tuple[Answer, str]] = {
    "a passing error": (
        reply(200, {"error": {"message": "Busy.", "type": "server_error", "code": "overloaded"}}),
        "in_stream_error",
    ),
    "an error in one string": (reply(200, {"error": "Busy."}), "in_stream_error"),
    "half an object": (Answer(200, JSON_200, "length", (b'{"id":"x","cho',)), "cut_mid_event"),
    "less than its length": (
        Answer(200, JSON_200, "length", (b'{"id":"x","cho',), length=500, end="fin"),
        "cut_mid_event",
    ),
    "an end before the first byte": (Answer(200, JSON_200, end="fin"), "cut_between_events"),
    "silence": (Answer(200, JSON_200, end="hold"), "first_event_timeout"),
    "a reset": (Answer(200, JSON_200, pieces=(b'{"id":"x"',), end="reset"), "reset"),
    "something else": (reply(200, {"hello": "harbour"}), "clean_eof"),
    "a list": (Answer(200, JSON_200, "length", (b"[1, 2]",)), "malformed_event"),
    "more than one": (Answer(200, JSON_200, "length", (b'{"a":1}{"b":2}',)), "malformed_event"),
    "a page": (Answer(200, (("Content-Type", "text/html"),), "length", (PAGE,)), "malformed_event"),
    "a page as events": (sse(PAGE), "malformed_event"),
    "a page as JSON": (Answer(200, JSON_200, "length", (PAGE,)), "malformed_event"),
    "text": (Answer(200, TEXT_200, "length", (b"upstream connect error",)), "malformed_event"),
    "nothing": (Answer(200, JSON_200, "length", ()), "empty_stream"),
    "white space": (Answer(200, JSON_200, "length", (b" \n",)), "empty_stream"),
}
"""What is no answer, and the fault that it is."""


@pytest.mark.parametrize(
    ("name", "case"),
    # A silence takes its time, and is the same for all.
    [(name, case) for name in REPEATED for case in BROKEN if case != "silence" or name == "chat"],
)
async def test_what_is_no_answer_is_asked_for_again_and_in_the_end_no_success(
    proxy: Proxy, upstream: MisbehavingUpstream, name: str, case: str
) -> None:
    """Nothing of it is given: the next attempt is the answer, or there is a status."""
    door, (answer, fault) = DOORS[name], BROKEN[case]
    model, always = model_for(door, f"{case}-once"), model_for(door, f"{case}-always")
    upstream.script(model, [answer, sse(*door.stream(model, 2).events)])
    upstream.script(always, answer)
    before = await idle(proxy)
    got = await door.ask(proxy.port, model)
    check_complete(got, door.endpoint)
    assert got.body == b"".join(door.stream(model, 2).events)
    after = await counted(proxy, before, {})
    phases = {"before_headers"} if fault == "reset" else set()
    [(found, phase, outcome)] = after.incidents
    assert (found, outcome) == (fault, "restarted")
    assert phase in {"before_content", *phases}
    got = await door.ask(proxy.port, always)
    assert got.status == {"a passing error": 503, "silence": 504}.get(case, 502)
    assert got.header("x-should-retry") == "false"
    assert got.header("x-wholestream-attempts") == "3"
    assert "hello" not in got.body.decode()


async def test_a_page_is_told_by_the_status_that_it_speaks_of_and_by_nothing_else(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """Plain text for whoever reads the error; what a page quotes is not passed on."""
    for case in ("a page", "a page as events", "a page as JSON"):
        model = f"page-{case}"
        upstream.script(model, BROKEN[case][0])
        got = await DOORS["chat"].ask(proxy.port, model)
        assert (got.status, got.error["code"]) == (502, "stream_incomplete")
        assert "502 Bad Gateway" in got.error["message"]
        assert "<" not in got.error["message"]


ONCE_ONLY = ["a passing error", "something else", "a list", "half an object", "a page"]


@pytest.mark.parametrize("name", [*TOLD_IN_EVENTS[3:], "runs"])
async def test_what_is_no_answer_is_a_status_where_the_request_had_its_effect(
    proxy: Proxy, upstream: MisbehavingUpstream, name: str
) -> None:
    """An image is not paid for twice because of how it was told."""
    door = DOORS[name]
    for case in ONCE_ONLY:
        answer, fault = BROKEN[case]
        model = model_for(door, case)
        upstream.script(model, [answer, sse(*door.stream(model, 2).events)])
        before = await idle(proxy)
        got = await door.ask(proxy.port, model)
        after = await counted(proxy, before, {})
        [(found, phase, outcome)] = after.incidents
        assert (found, phase) == (fault, "before_content"), case
        if outcome == "restarted":
            assert case == "a page"  # nothing that ran would have answered with one
            check_complete(got, door.endpoint)
            continue
        assert got.status >= 500, case
        assert got.header("content-type") == "application/json"


async def test_what_is_no_answer_is_told_in_the_stream_once_a_200_is_out(
    started: Starter, stage: Stage
) -> None:
    """The error that the object is, in its endpoint's words."""
    proxy = await started(stage.base_url, *SOON, "--max-attempts", "1")
    for name in ("chat", "images", "responses"):
        door, heard = DOORS[name], asyncio.Event()
        told = {"error": {"message": "Busy.", "type": "server_error", "code": "overloaded"}}

        async def play(
            exchange: Exchange, heard: asyncio.Event = heard, told: dict[str, Any] = told
        ) -> None:
            await exchange.body()
            await exchange.answer(200, [JSON, *CHUNKED])
            await heard.wait()
            await exchange.chunk(json.dumps(told).encode())
            await exchange.chunk(b"")

        kind, asked = door.body("m")
        async with connected(proxy.port) as wire:
            staged = stage.plays(f"told in the stream {name}", play)
            await wire.ask(door.target, asked, headers=[*kind, staged])
            got = await wire.head()
            heard.set()
            got = await wire.rest(got)
        error = check_failed(got, door.endpoint)
        assert (error["code"], error["message"]) == ("overloaded", "Busy.")


# --- passed as it is ------------------------------------------------------------------------

AS_IT_IS: dict[str, Answer] = {
    "JSON": reply(200, {"a": [1, 2.50], "z": "ü"}),
    "an error": reply(200, {"error": {"message": "No.", "code": "invalid_api_key"}}),
    "text": Answer(200, TEXT_200, "length", (b"Ease the sheets.",)),
    "a page": Answer(200, (("Content-Type", "text/html"),), "length", (PAGE,)),
    "audio": Answer(200, AUDIO, pieces=(b"ID3\x00data: x\n\n", bytes(range(256)) * 40)),
}


@pytest.mark.parametrize("case", AS_IT_IS)
@pytest.mark.parametrize("name", PASSED)
async def test_what_nobody_can_know_passes_unchanged(
    proxy: Proxy, upstream: MisbehavingUpstream, name: str, case: str
) -> None:
    """Status, type and bytes are the upstream's, and no fault is seen in it."""
    door, answer = DOORS[name], AS_IT_IS[case]
    model = model_for(door, f"as-it-is-{case}")
    upstream.script(model, answer)
    before = await idle(proxy)
    got = await door.ask(proxy.port, model)
    assert got.status == 200
    assert got.header("content-type") == dict(answer.headers)["Content-Type"]
    assert got.body == b"".join(piece for piece in answer.pieces if isinstance(piece, bytes))
    assert got.end == "clean"
    after = await counted(proxy, before, {})
    assert after.incidents == {}


@pytest.mark.parametrize("case", ["text", "audio"])
@pytest.mark.parametrize("name", ["speech", "transcriptions, fields first"])
async def test_audio_and_text_are_answers_although_a_stream_was_asked_for(
    proxy: Proxy, upstream: MisbehavingUpstream, name: str, case: str
) -> None:
    """Servers that know no streams of these give what they have, and it is whole."""
    door, answer = DOORS[name], AS_IT_IS[case]
    model = model_for(door, f"had-{case}")
    upstream.script(model, answer)
    before = await idle(proxy)
    got = await door.ask(proxy.port, model)
    assert got.status == 200
    assert got.header("content-type") == dict(answer.headers)["Content-Type"]
    assert got.body == b"".join(piece for piece in answer.pieces if isinstance(piece, bytes))
    after = await counted(proxy, before, {})
    assert after.streams == {("audio", "complete"): 1.0}
    assert after.incidents == {}


async def test_audio_that_breaks_off_is_broken_off(
    proxy: Proxy, upstream: MisbehavingUpstream
) -> None:
    """There is no event to tell an error in: the client must see an incomplete body."""
    door, model = DOORS["speech"], "broken-audio"
    upstream.script(model, Answer(200, AUDIO, pieces=(b"ID3\x00", b"\xff" * 100), end="fin"))
    before = await idle(proxy)
    got = await door.ask(proxy.port, model)
    assert (got.status, got.end) == (200, "cut")

    async def told() -> None:
        after = (await proxy.scrape()).since(before)
        assert after.incidents == {("cut_between_events", "mid_content", "surfaced"): 1.0}
        assert after.streams == {("audio", "failed"): 1.0}

    await eventually(told)
