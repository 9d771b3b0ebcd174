"""Images and audio in one piece: what is told of them, and when it is enough."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import ask, hear, payloads, raw, sse

from proxy.core.grammars import grammar_for
from proxy.core.grammars.anew import TooMuchError
from proxy.core.request import Request
from proxy.core.sse import Event

EDIT = Request("POST", "/images/edits", None, form={"stream": "true", "n": "2"})


def told(request: Request, answer: Any) -> list[tuple[bytes, Any]]:
    """Return the events that tell an answer."""
    events = grammar_for(request).unroll(raw(answer), 2**20)
    return [(event.name, json.loads(event.data)) for event in events]


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (ask("images"), "image_generation.completed"),
        (EDIT, "image_edit.completed"),
        (Request("POST", "/images/edits/", b"{}"), "image_edit.completed"),
        (Request("POST", "/openai/v1/images/edits", b"{}", own_path=True), "image_edit.completed"),
        (Request("POST", "/images/variations", b"{}"), "image_generation.completed"),
    ],
)
def test_each_image_is_told_by_an_event_with_all_that_they_share(
    request_: Request, name: str
) -> None:
    """Under the name of what was asked for, with the time under a stream's own name for it."""
    answer = {
        "created": 7,
        "size": "1024x1024",
        "data": [{"b64_json": "AA"}, {"b64_json": "BB", "size": "auto"}],
        "usage": {"total_tokens": 3},
    }
    shared = {"type": name, "created_at": 7, "usage": {"total_tokens": 3}}
    assert told(request_, answer) == [
        (name.encode(), {**shared, "size": "1024x1024", "b64_json": "AA"}),
        (name.encode(), {**shared, "size": "auto", "b64_json": "BB"}),
    ]


def test_more_images_than_anybody_asks_for_are_no_answer() -> None:
    """What they share would be told with each."""
    assert len(told(ask("images"), {"data": [{"b64_json": "AA"}] * 128})) == 128
    with pytest.raises(TooMuchError):
        told(ask("images"), {"data": [{"b64_json": "AA"}] * 129})


@pytest.mark.parametrize("data", [None, "text", [], [5, None], {"b64_json": "AA"}])
def test_without_images_nothing_is_told(data: Any) -> None:
    """No end is invented."""
    assert told(ask("images"), {"created": 1, "data": data}) == []
    assert told(ask("images"), {}) == []
    assert told(ask("images"), [data]) == []


def test_a_transcription_is_told_by_its_last_event() -> None:
    """It repeats the whole text, so that no delta is needed; what has no place there is left."""
    answer = {
        "text": "Ahoy",
        "logprobs": [{"token": "A"}],
        "usage": {"type": "tokens"},
        "language": "en",
        "segments": [],
    }
    kept = {key: answer[key] for key in ("text", "logprobs", "usage")}
    assert told(ask("audio"), answer) == [(b"", {"type": "transcript.text.done", **kept})]
    assert told(ask("audio"), {"text": ""}) == [(b"", {"type": "transcript.text.done", "text": ""})]


@pytest.mark.parametrize("answer", [{}, {"text": None}, {"text": ["a"]}, ["text"], 5])
def test_without_a_text_nothing_is_told(answer: Any) -> None:
    """No end is invented."""
    assert told(ask("audio"), answer) == []


@pytest.mark.parametrize("family", ["threads", "other"])
def test_what_has_no_form_in_one_piece_tells_nothing(family: str) -> None:
    """Nobody knows what its events would be."""
    grammar = grammar_for(ask(family))
    assert grammar.unroll(b'{"text":"a","data":[{}],"choices":[{}]}', 2**20) == []


def test_what_can_be_told_and_what_can_be_folded_is_known() -> None:
    """The edge asks before it reads."""
    families = ("chat", "completions", "responses", "images", "audio", "threads", "other")
    grammars = {family: grammar_for(ask(family)) for family in families}
    folding = {family for family, grammar in grammars.items() if grammar.folds}
    unrolling = {family for family, grammar in grammars.items() if grammar.unrolls}
    assert folding == {"chat", "completions", "responses"}
    assert unrolling == {"chat", "completions", "responses", "images", "audio", "threads"}


# --- how many images an upload asks for ---

IMAGE = {"type": "image_edit.completed", "b64_json": "AA"}


def test_an_upload_that_says_how_many_images_it_wants_ends_with_the_last() -> None:
    """It was said before its files."""
    body = sse(IMAGE) * 2
    assert hear(body + b"data: late\n\n", EDIT).out == body
    heard = hear(sse(IMAGE), EDIT)
    assert payloads(heard.out)[-1]["error"]["code"] == "stream_incomplete"


@pytest.mark.parametrize("form", [None, {}, {"stream": "true"}])
def test_an_upload_that_may_say_so_later_ends_with_its_body(form: Any) -> None:
    """One image is enough where it is not known."""
    request = Request("POST", "/images/edits", None, form=form)
    for count in (1, 2, 3):
        heard = hear(sse(IMAGE) * count, request)
        assert (heard.out, heard.facts) == (sse(IMAGE) * count, [])


def test_an_end_mark_is_believed_once_nothing_is_missing() -> None:
    """Of an unknown number one image is enough."""
    request = Request("POST", "/images/edits", None, form={})
    body = sse(IMAGE) + sse("[DONE]")
    heard = hear(body, request)
    assert (heard.out, heard.facts) == (body, [])
    assert hear(sse({"type": "image_edit.partial_image"}, "[DONE]"), request).facts != []


def test_speech_may_be_told_by_any_event() -> None:
    """Until its last one."""
    grammar = grammar_for(ask("audio"))
    assert not grammar.whole(clean=True)
    grammar.read(Event(b"", b'{"type":"speech.audio.delta"}'))
    assert not grammar.whole(clean=True)
