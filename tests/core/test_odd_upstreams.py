"""Upstreams that say things in the wrong place, once too often, or not at all what they mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import (
    ANSWER,
    CLEAN,
    CREATED,
    CUT,
    DONE,
    HI,
    ROLE,
    STOP,
    ask,
    bytewise,
    chunk,
    facts,
    feed,
    finish,
    hear,
    lifecycle,
    payloads,
    sse,
    start,
)

from proxy.core.commands import Finish
from proxy.core.fault import Fault, IncidentOutcome, Phase
from proxy.core.grammars.base import is_balanced
from proxy.core.policy import Quirks
from proxy.core.repairs import REPAIRS

WHOLE = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Ahoy é"},
            "finish_reason": "stop",
        }
    ],
}


def text_of(out: bytes) -> str:
    """Return the text of a chat's chunks."""
    chunks = [found for found in payloads(out) if found != "[DONE]"]
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])


# --- JSON under the wrong name ---


@pytest.mark.parametrize("indent", [None, 2])
def test_json_that_calls_itself_a_stream_is_told_as_one(indent: int | None) -> None:
    """An SDK would find no event in it, and an empty answer."""
    heard = hear(json.dumps(WHOLE, indent=indent, ensure_ascii=False).encode())
    assert text_of(heard.out) == "Ahoy é"
    assert heard.out.endswith(DONE)
    assert heard.repairs == {"json_to_sse": 1}
    assert heard.facts == []


def test_an_error_in_json_that_calls_itself_a_stream_keeps_its_words() -> None:
    """Its code, and the status that it stands for."""
    told = {"error": {"message": "m", "code": "insufficient_quota"}}
    heard = hear(json.dumps(told, indent=2).encode())
    assert isinstance(heard.command, Finish)
    assert heard.command.reply is not None
    assert heard.command.reply.status == 429
    assert heard.facts == [(Fault.IN_STREAM_ERROR, Phase.BEFORE_CONTENT, IncidentOutcome.SURFACED)]


def test_events_that_lack_their_prefix_are_events_still() -> None:
    """Given as they come, if the first read has more than a bracket; at the end otherwise."""
    bare = ANSWER.replace(b"data: {", b"{")
    session = start()
    first = bare.index(b"\n\n", bare.index(b"Hi")) + 2
    assert text_of(session.receive_data(bare[:first])) == "Hi"
    for reads in ([bare], bytewise(bare)):
        session = start()
        out = feed(session, *reads)
        assert out + finish(session).body == ANSWER
        assert session.report().repairs == {"data_prefix": 3}


def test_half_a_json_that_calls_itself_a_stream_is_a_cut() -> None:
    """At whatever byte."""
    body = json.dumps(WHOLE).encode()
    for at in range(1, len(body)):
        session = start(max_attempts=1)
        assert feed(session, body[:at]) == b""
        session.receive_end(CLEAN, 0.0)
        assert [i.fault for i in session.report().incidents] == [Fault.CUT_MID_EVENT]


@pytest.mark.parametrize("mark", [b"", DONE])
def test_a_completion_in_one_event_is_told_in_chunks(mark: bytes) -> None:
    """``message`` is nothing that a reader of ``delta`` would see."""
    heard = hear(sse(WHOLE) + mark)
    assert text_of(heard.out) == "Ahoy é"
    assert heard.out.endswith(DONE)
    assert heard.repairs == {"json_to_sse": 1}


def test_a_chunk_that_speaks_of_completions_is_a_chunk() -> None:
    """Inside of a string the quotes have escapes."""
    body = sse(chunk(content='"chat.completion" is an object'), STOP) + DONE
    heard = hear(body)
    assert heard.out == body
    assert heard.repairs == {}


def test_a_completion_too_deep_to_be_written_again_raises_nothing() -> None:
    """It is left to the grammar."""
    deep = b"[" * 5_000 + b"]" * 5_000
    body = b'data: {"object":"chat.completion","choices":[{"message":{"content":%b}}]}\n\n' % deep
    start().receive_data(body)


# --- numbers that do not count ---


@pytest.mark.parametrize("number", [0, -1, 7])
def test_a_number_that_every_event_has_says_nothing(number: int) -> None:
    """What is said three times was meant three times."""
    delta = {"type": "response.output_text.delta", "delta": "ha", "sequence_number": number}
    body = sse(CREATED) + sse(delta) * 3
    heard = hear(body, ask("responses"))
    assert [found.get("delta") for found in payloads(heard.out)].count("ha") == 3
    assert "dropped_duplicate" not in heard.repairs


def test_a_lifecycle_event_that_comes_twice_is_one() -> None:
    """It has no text that could be meant twice."""
    body = sse(CREATED, CREATED, lifecycle("completed", 1))
    assert hear(body, ask("responses")).repairs == {"dropped_duplicate": 1}


# --- reasons that are not the last word ---


def test_a_reason_in_every_chunk_is_no_end() -> None:
    """There only the end mark is one: a cut must not become a success."""
    said = [chunk(finish="stop", content=word) for word in ("a", "b", "c")]
    for end in (CLEAN, CUT):
        heard = hear(sse(*said), end=end)
        assert not heard.out.endswith(DONE)
        assert len(heard.facts) == 1
    whole = sse(*said) + DONE
    assert hear(whole).out == whole


def test_a_reason_that_is_repeated_with_usage_is_still_the_end() -> None:
    """OpenRouter's last chunk has it again, and no content (a recorded stream)."""
    again = {**chunk(finish="stop", role="assistant", content=""), "usage": {"total_tokens": 1}}
    body = sse(ROLE, HI, STOP, again)
    assert hear(body).out == body + DONE


# --- failures by another name ---


@pytest.mark.parametrize("name", ["exception", "Error", "upstream_error", "chat.failed"])
def test_an_event_that_is_named_a_failure_is_one(name: str) -> None:
    """Dropped as foreign it would leave a success behind."""
    heard = hear(sse(ROLE, HI) + sse({"message": "gone", "code": 500}, name=name) + DONE)
    assert not heard.out.endswith(DONE)
    assert b"gone" in heard.out
    assert heard.facts == [(Fault.IN_STREAM_ERROR, Phase.MID_CONTENT, IncidentOutcome.SURFACED)]


def test_a_chunk_with_such_a_name_is_a_chunk() -> None:
    """What it holds says more than what it is called."""
    body = sse(ROLE) + sse(HI, name="no_failure") + sse(STOP) + DONE
    heard = hear(body)
    assert text_of(heard.out) == "Hi"
    assert heard.facts == []


def test_text_under_the_name_of_an_error_is_its_message() -> None:
    """It need not be JSON to be understood."""
    heard = hear(sse(ROLE, HI) + sse("the worker died", name="error") + DONE)
    assert b"the worker died" in heard.out
    assert heard.facts == [(Fault.IN_STREAM_ERROR, Phase.MID_CONTENT, IncidentOutcome.SURFACED)]


# --- depth ---


@pytest.mark.parametrize(
    ("data", "balanced"),
    [
        (b'{"a":[1,-2.5e+3,true,null,"\\"]"]}', True),
        (b"[NaN,-Infinity]", True),
        (b"[[]", False),
        (b"[}", False),
        (b"]", False),
        (b'["a]', False),
        (b'["\x00"]', False),
        (b"[garbage]", False),
    ],
)
def test_what_is_too_deep_is_judged_by_its_words_and_brackets(data: bytes, balanced: Any) -> None:
    """Nothing else can be asked of it, but that at least."""
    assert is_balanced(data) is balanced


def test_strings_without_end_are_judged_once() -> None:
    """From every quote anew it would take hours, at this size."""
    assert not is_balanced(b'{"a":' + b"[" * 2_000 + b'"\\' * 4_000_000)
    assert feed(start(), *bytewise(b'data: {"a":' + b"[" * 2_000 + b'"\\' * 100)) == b""


# --- what is told or mended is judged again ---


def test_a_whole_completion_with_an_error_in_it_is_an_error() -> None:
    """Nothing behind the first chunk that says so is told."""
    twice = [{**WHOLE["choices"][0], "index": index} for index in (0, 1)]  # type: ignore[index]
    told = {**WHOLE, "choices": twice, "error": {"message": "m", "code": "insufficient_quota"}}
    heard = hear(sse(told) + DONE)
    assert b"[DONE]" not in heard.out
    assert [fault for fault, _, _ in heard.facts] == [Fault.IN_STREAM_ERROR]


def test_a_repair_that_is_wrong_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that is sure wins, but its word is not the last one."""
    monkeypatch.setitem(REPAIRS, "dropped_comment", lambda data: [data])
    heard = hear(sse(ROLE, HI, "hello") + DONE)
    assert heard.facts == [(Fault.MALFORMED_EVENT, Phase.MID_CONTENT, IncidentOutcome.SURFACED)]


def test_a_cut_behind_an_empty_answer_that_is_believed_is_counted() -> None:
    """It came after the end, and changed nothing."""
    session = start(max_attempts=1, quirks=Quirks(empty_answer="restart"))
    feed(session, sse(ROLE, STOP))
    assert finish(session, CUT).body.endswith(DONE)
    cut = (Fault.CUT_BETWEEN_EVENTS, Phase.AFTER_TERMINAL, IncidentOutcome.SWALLOWED)
    assert facts(session) == [cut]
