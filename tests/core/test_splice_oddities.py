"""Splices of answers as real servers vary them: what is legal must be joined as well."""

from __future__ import annotations

import pytest
from splices import (
    ALWAYS,
    ANSWERS,
    SPELLINGS,
    Answer,
    Heard,
    Payload,
    again,
    broken,
    encode,
    message,
    numbered,
    renamed,
    response,
    run,
    said,
)
from support import DONE, ask, payloads

TEXT = ANSWERS["text"]
SPOKEN = ANSWERS["responses text"]


def test_a_second_answer_may_come_in_one_chunk() -> None:
    """Role, all of the text and the finish reason at once."""
    whole = said(finish="stop", role="assistant", content="The ferry 🛳\nat 8")
    for events in range(TEXT.content, TEXT.finished):
        cut = broken(TEXT.body, TEXT.ends[events - 1])
        made = run(TEXT.request, ALWAYS, cut, encode([renamed(whole, "x")]))
        assert made.heard.meaning == Heard(TEXT.body).meaning
        assert made.outcome == "recovered"


def test_a_role_in_every_chunk_is_not_given_again_behind_the_seam() -> None:
    """Some servers repeat it; a splice never does."""
    chunks = [said(role="assistant", content=text) for text in "abcd"]
    answer = Answer(ask(), [*chunks, said(finish="stop")])
    for events in range(1, 5):
        made = run(
            answer.request, ALWAYS, broken(answer.body, answer.ends[events - 1]), again(answer)
        )
        heard = Heard(made.out)
        assert heard.texts == Heard(answer.body).texts
        assert len(heard.once["once", 0, "role"]) == events


def test_an_opener_without_an_id_does_not_become_the_identity() -> None:
    """Azure's first chunk has only the results of its prompt filter."""
    opener: Payload = {"id": "", "created": 0, "model": "", "choices": []}
    opener["prompt_filter_results"] = [{"prompt_index": 0}]
    answer = Answer(ask(), [opener, *TEXT.payloads])
    for events in range(3, len(answer.ends) - 2):
        made = run(
            answer.request, ALWAYS, broken(answer.body, answer.ends[events - 1]), again(answer)
        )
        first, *rest, done = payloads(made.out)
        assert (first, done) == (opener, "[DONE]")
        assert {(chunk["id"], chunk["created"], chunk["model"]) for chunk in rest} == {
            ("c1", 1, "m")
        }
        assert made.out.count(b"prompt_filter_results") == 1


def test_a_response_without_numbers_is_joined_without_numbers() -> None:
    """Old recordings have none, and none are invented."""
    bare = [{k: v for k, v in p.items() if k != "sequence_number"} for p in SPOKEN.payloads]
    answer = Answer(SPOKEN.request, bare)
    for events in range(answer.content, len(answer.ends)):
        second = encode([renamed(event, "x") for event in bare])
        made = run(answer.request, ALWAYS, broken(answer.body, answer.ends[events - 1]), second)
        assert payloads(made.out) == bare


@pytest.mark.parametrize("place", range(1, 8))
def test_a_keepalive_of_the_second_answer_takes_a_number(place: int) -> None:
    """Wherever it comes, the numbers go on one by one."""
    events = [*SPOKEN.payloads[:place], {"type": "keepalive"}, *SPOKEN.payloads[place:]]
    second = encode([renamed(event, "x") for event in numbered(events)])
    for given in range(SPOKEN.content, len(SPOKEN.ends)):
        made = run(SPOKEN.request, ALWAYS, broken(SPOKEN.body, SPOKEN.ends[given - 1]), second)
        assert made.heard.texts == Heard(SPOKEN.body).texts
        assert made.outcome == "recovered"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_annotation_is_given_once(spelling: str) -> None:
    """It is no text, so it is found again by its value."""
    at = {"item_id": "msg_0", "output_index": 0, "content_index": 0, "annotation_index": 0}
    note = {"type": "response.output_text.annotation.added", **at, "annotation": {"url": "x"}}
    events = response(message(0, "Calm ", "seas"))
    events = numbered([*events[:5], note, *events[5:]])
    answer = Answer(SPOKEN.request, events)
    for given in range(answer.content, len(answer.ends)):
        cut = broken(answer.body, answer.ends[given - 1])
        made = run(answer.request, ALWAYS, cut, again(answer, spelling))
        assert made.heard.texts == Heard(answer.body).texts
        assert made.out.count(b'annotation.added"') == 1


def test_a_tool_call_told_with_its_text_in_one_chunk_is_taken_apart() -> None:
    """What of such a chunk was given is taken out, the rest goes on."""
    answer = ANSWERS["parallel tools"]
    for offset in range(answer.ends[1], answer.ends[answer.finished - 2], 7):
        made = run(answer.request, ALWAYS, broken(answer.body, offset), again(answer, "lumps"))
        assert made.heard.meaning == Heard(answer.body).meaning
        assert made.out.endswith(DONE)
        assert made.out.count(b'"id":"call_0') == 1
