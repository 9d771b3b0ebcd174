"""One JSON object where a stream was asked for: what it is taken for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import raw

from proxy.core.document import read_document
from proxy.core.fault import Fault

ANSWER = b'{"choices":[{"message":{"content":"\xc3\xa9"}}]}'


def test_an_answer_keeps_its_own_bytes() -> None:
    """White space inside, numbers, characters: all as they came."""
    body = b'{ "choices" : [ ],\n "x": 1.0e0, "y": "\xc3\xa9\\u00e9" }'
    assert read_document(body) == (body, None, "", None, False)


@pytest.mark.parametrize("before", [b"", b" ", b"\r\n\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf \n"])
@pytest.mark.parametrize("after", [b"", b"\n", b" \r\n\t"])
def test_white_space_and_a_bom_around_it_are_nothing(before: bytes, after: bytes) -> None:
    """Some servers write line by line."""
    assert read_document(before + ANSWER + after) == (ANSWER, None, "", None, False)


@pytest.mark.parametrize(
    "mark",
    [b"data: [DONE]", b"\n\ndata: [DONE]\n\n", b"data:[DONE]", b"\r\ndata:  [DONE]\r\n\r\n"],
)
def test_the_end_mark_of_a_stream_behind_it_is_taken_off_and_noted(mark: bytes) -> None:
    """What some gateways cannot help sending (decolua/9router#3492)."""
    assert read_document(ANSWER + mark) == (ANSWER, None, "", None, True)


@pytest.mark.parametrize(
    "tail",
    [
        b"x",
        b"[DONE]",
        b"data: ",
        b"data: DONE",
        b"data: [DONE]x",
        b"data: [DONE]\n\ndata: [DONE]",
        b"event: done\ndata: [DONE]",
        b"}",
        ANSWER,
        b"\0",
    ],
)
def test_anything_else_behind_it_makes_it_no_answer(tail: bytes) -> None:
    """It is not known what it belongs to."""
    document = read_document(ANSWER + tail)
    assert (document.fault, document.data) == (Fault.MALFORMED_EVENT, ANSWER + tail)
    assert "no answer" in document.detail


@pytest.mark.parametrize("body", [b"[]", b"5", b'"text"', b"null", b"true", b"[1]data: [DONE]"])
def test_json_that_is_no_object_is_no_answer(body: bytes) -> None:
    """No endpoint answers so."""
    assert read_document(body).fault is Fault.MALFORMED_EVENT


@pytest.mark.parametrize("cut", range(len(ANSWER)))
def test_an_object_that_breaks_off_is_cut(cut: int) -> None:
    """However little is missing; half of it is never an answer."""
    document = read_document(ANSWER[:cut])
    assert (document.fault, document.data) == (Fault.CUT_MID_EVENT, ANSWER[:cut])
    assert "not whole" in document.detail


def test_an_object_too_deep_to_be_looked_into_is_no_answer() -> None:
    """Input never raises."""
    assert read_document(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}").fault is not None


def test_bytes_that_are_no_characters_are_replaced() -> None:
    """As in an event."""
    assert read_document(b'{"a":"\xff"}').data == '{"a":"\ufffd"}'.encode()


@pytest.mark.parametrize("value", ['"\\ud800"', "NaN", "1e999"])
def test_what_the_sdks_decoder_takes_is_taken(value: str) -> None:
    """It is not for this module to be stricter than the client."""
    body = f'{{"a":{value}}}'.encode()
    assert read_document(body) == (body, None, "", None, False)


@pytest.mark.parametrize(
    ("found", "status", "transient"),
    [
        ({"error": {"message": "quota exceeded"}}, 429, False),
        ({"error": "STREAM_EXPLODED"}, 502, True),
        ({"error": {"message": "Compute error."}, "message": "Compute error."}, 502, True),
        ({"error": "Input validation error", "error_type": "validation"}, 400, False),
        ({"type": "error", "error": {"code": "server_is_overloaded", "message": "m"}}, 503, True),
        ({"type": "error", "code": "400", "message": "not found"}, 400, False),
        ({"object": "error", "message": "m", "code": 404}, 404, False),
        ({"error": {"message": "m", "code": "server_error"}, "choices": []}, 502, True),
        ({"error": {"message": "m"}, "choices": [{"message": {"content": "half"}}]}, 502, True),
        ({"error": {"message": "m"}, "data": [{"b64_json": "x"}]}, 502, True),
    ],
    ids=str,
)
@pytest.mark.parametrize("tail", [b"", b"\ndata: [DONE]\n\n"], ids=["", "[DONE]"])
def test_each_form_of_error_is_an_error(
    found: dict[str, Any],
    status: int,
    transient: bool,  # noqa: FBT001 - the expectation
    tail: bytes,
) -> None:
    """Whatever else is in the object: half an answer with an error is an error."""
    document = read_document(raw(found) + tail)
    assert document.fault is Fault.IN_STREAM_ERROR
    assert document.error is not None
    assert (document.error.status, document.error.transient) == (status, transient)
    assert json.loads(document.data) == found


@pytest.mark.parametrize(
    "found",
    [
        {"error": None, "choices": []},
        {"error": {}, "choices": []},
        {"error": "", "text": "a"},
        {"choices": [{"message": {"content": '{"error":{"message":"x"}}'}}]},
        {"choices": [{"error": {"message": "of one choice"}}]},
        {"text": "error: none"},
        {"object": "response", "status": "failed", "error": {"message": "told by its own event"}},
        {"type": "transcription", "object": "errors"},
    ],
    ids=str,
)
def test_what_only_resembles_an_error_is_none(found: dict[str, Any]) -> None:
    """An answer that speaks of errors is an answer."""
    assert read_document(raw(found)) == (raw(found), None, "", None, False)
