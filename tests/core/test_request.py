"""The request: the few fields that decide how its stream is read and whether it may repeat."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.core.request import Request


def post(body: bytes | None, target: str = "/chat/completions") -> Request:
    """Make a POST request."""
    return Request("POST", target, body)


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({"stream": True}, True),
        ({"stream": False}, False),
        ({"stream": None}, False),
        ({"stream": "true"}, False),
        ({"stream": 1}, False),
        ({}, False),
        ({"stream_format": "sse"}, True),
        ({"stream_format": "audio"}, False),
        ({"messages": [{"content": '"stream":true'}]}, False),
        ([{"stream": True}], False),
    ],
    ids=str,
)
def test_a_post_asks_for_a_stream_in_its_json(body: Any, asked: bool) -> None:  # noqa: FBT001
    """``stream`` is true, or speech is asked for as events."""
    assert post(json.dumps(body).encode()).asks_stream is asked


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"include_usage": True}, True),
        ({"include_usage": True, "include_obfuscation": False}, True),
        ({"include_usage": False}, False),
        ({"include_usage": "true"}, False),
        ({"include_usage": 1}, False),
        ({}, False),
        (None, False),
        ("include_usage", False),
        (["include_usage"], False),
    ],
    ids=str,
)
def test_statistics_are_asked_for_in_the_options_of_a_stream(options: Any, asked: bool) -> None:  # noqa: FBT001
    """And nowhere else."""
    body = json.dumps({"stream": True, "stream_options": options})
    assert post(body.encode()).asks_usage is asked
    # What only the standard library reads says the same.
    assert post(body.replace("true", 'true, "x": NaN', 1).encode()).asks_usage is asked


def test_statistics_are_not_asked_for_where_nothing_is_said() -> None:
    """Nor by a form, which has no objects."""
    assert not post(b'{"stream":true}').asks_usage
    assert not post(b"").asks_usage
    form = {"stream_options": '{"include_usage":true}'}
    assert not Request("POST", "/audio/transcriptions", None, form=form).asks_usage


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("/responses/resp_1?stream=true", True),
        ("/responses/resp_1?starting_after=4&stream=TRUE", True),
        ("/responses/resp_1?stream=true&stream=false", False),
        ("/responses/resp_1?stream=false", False),
        ("/responses/resp_1?stream", False),
        ("/responses/resp_1", False),
        ("/models?x=stream=true", False),
        ("//[?stream=true", True),
        ("?stream=true?", False),
    ],
)
def test_a_get_asks_for_a_stream_in_its_query(target: str, asked: bool) -> None:  # noqa: FBT001
    """Any target can be asked, however odd."""
    assert Request("GET", target).asks_stream is asked


def test_the_path_is_the_target_without_its_query() -> None:
    """Byte for byte."""
    assert post(b"", "/a%20b/c?x=/y?z").path == "/a%20b/c"
    assert post(b"", "/a").path == "/a"


@pytest.mark.parametrize(
    ("n", "choices"),
    [(1, 1), (3, 3), (128, 128), (129, 1), (0, 1), (-2, 1), (None, 1), ("2", 1), (2.0, 1)],
)
def test_the_number_of_choices_is_believed_up_to_the_ceiling(n: Any, choices: int) -> None:
    """Anything else is one choice: the upstream will refuse it anyway."""
    assert post(json.dumps({"n": n}).encode()).choices == choices


def test_the_fields_that_decide_about_recovery() -> None:
    """A response is stored unless it says no, and in the foreground unless it says so."""
    plain, asked = post(b"{}"), post(b'{"background":true,"store":false,"model":"gpt-x"}')
    assert (plain.background, plain.stored, plain.model) == (False, True, "")
    assert (asked.background, asked.stored, asked.model) == (True, False, "gpt-x")
    odd = post(b'{"background":"true","store":null,"model":5}')
    assert (odd.background, odd.stored, odd.model) == (False, True, "")


@pytest.mark.parametrize(
    "body", [b'{"stream":true,"x":NaN}', b'{"stream":true,"x":"\\ud800"}', b' {"stream":true}\n']
)
def test_what_the_sdks_can_send_is_read(body: bytes) -> None:
    """NaN and lone surrogates are legal to Python's encoder."""
    request = post(body)
    assert request.asks_stream
    assert request.stored


@pytest.mark.parametrize(
    "body", [b"", None, b"{", b"\xff", b"[NaN]", b'{"stream":true}x', b'{"x":' + b"[" * 100_000]
)
def test_a_body_that_cannot_be_read_asks_for_nothing(body: bytes | None) -> None:
    """The upstream will say what is wrong with it."""
    request = post(body)
    assert not request.asks_stream
    assert request.choices == 1


@pytest.mark.parametrize(
    ("body", "same"),
    [
        (b'{"temperature":0}', True),
        (b'{"temperature":0.0}', True),
        (b'{"temperature":-0.0}', True),
        (b'{"temperature":0.1}', False),
        (b'{"temperature":null}', False),
        (b'{"temperature":false}', False),
        (b'{"temperature":"0"}', False),
        (b'{"temperature":NaN}', False),
        (b'{"seed":0}', True),
        (b'{"seed":7,"temperature":1}', True),
        (b'{"seed":true}', False),
        (b'{"seed":null}', False),
        (b'{"seed":"7"}', False),
        (b'{"seed":7.5}', False),
        (b"{}", False),
        (b"[0]", False),
        (b"", False),
    ],
)
def test_the_same_answer_is_asked_for_by_temperature_zero_or_a_seed(
    body: bytes,
    same: bool,  # noqa: FBT001
) -> None:
    """Only what a server would take as such counts."""
    assert post(body).deterministic is same


# --- other requests made of one ---


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"5", b"\xff", b"[" * 100_000, None])
def test_what_is_no_object_has_no_fields(body: bytes | None) -> None:
    """Nothing can be changed in it."""
    assert post(body).json == {}
    assert post(body).asking("m-2") == post(body)


def test_the_whole_body_can_be_read() -> None:
    """Fields that the proxy has no name for included."""
    assert post(b'{"model":"m","x":{"y":[1]}}').json == {"model": "m", "x": {"y": [1]}}


def test_another_model_is_asked_with_everything_else_as_it_was() -> None:
    """Fields keep their order, and the request its target, method and wish."""
    request = Request("POST", "/chat/completions?a=b", b'{"x":1,"model":"m","y":"\xc3\xa9"}')
    other = request.asking("m-2")
    assert list(other.json.items()) == [("x", 1), ("model", "m-2"), ("y", "é")]
    assert (other.method, other.target, other.recovery) == ("POST", "/chat/completions?a=b", True)
    assert request.model == "m"
    assert other.model == "m-2"


@pytest.mark.parametrize("model", ["", "m"])
def test_a_target_that_takes_the_same_model_gets_the_same_bytes(model: str) -> None:
    """White space and all: nothing is encoded anew."""
    request = post(b'{ "model" : "m" }')
    assert request.asking(model) is request


def test_another_body_is_compact_and_drops_what_was_known_of_the_old_one() -> None:
    """Cached fields are those of the new body."""
    request = Request("POST", "/x", b'{"stream":true}', recovery=False)
    assert request.asks_stream
    other = request.saying({"stream": False, "a": ["é"]})
    assert other == Request("POST", "/x", b'{"stream":false,"a":["\\u00e9"]}', recovery=False)
    assert not other.asks_stream


def test_only_an_upload_cannot_be_repeated() -> None:
    """It streams through and is not kept; known before the first attempt."""
    assert not post(None).replayable
    assert post(b"").replayable
    assert post(b"{}").replayable


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE"])
def test_only_a_post_or_a_get_asks_for_a_stream(method: str) -> None:
    """The answer to a HEAD has no body to frame."""
    assert not Request(method, "/chat/completions", b'{"stream":true}').asks_stream


# --- uploads, of which some fields are known ---


def upload(**form: str) -> Request:
    """Make an upload that said so much before its files."""
    return Request("POST", "/audio/transcriptions", None, form=form)


@pytest.mark.parametrize(
    ("form", "asked"),
    [
        ({"stream": "true"}, True),
        ({"stream": "false"}, False),
        ({"stream": "True"}, False),
        ({"stream": "1"}, False),
        ({"stream": ""}, False),
        ({"stream_format": "sse"}, True),
        ({"stream_format": "audio"}, False),
        ({"model": "stream=true"}, False),
        ({}, False),
    ],
    ids=str,
)
def test_an_upload_asks_for_a_stream_in_its_form(
    form: dict[str, str],
    asked: bool,  # noqa: FBT001 - the expectation
) -> None:
    """A form has no types: the word is what the SDKs write."""
    assert upload(**form).asks_stream is asked
    assert not Request("POST", "/x", None).asks_stream
    assert not Request("PUT", "/x", None, form=form).asks_stream


@pytest.mark.parametrize(
    ("n", "choices"),
    [
        *(("1", 1), ("4", 4), ("128", 128), ("129", 1), ("0", 1), ("-2", 1), ("2.0", 1), ("", 1)),
        *(("\u0663", 3), ("9" * 5000, 1), ("two", 1)),
    ],
)
def test_the_number_of_choices_of_an_upload_is_a_text(n: str, choices: int) -> None:
    """Believed as far as one in JSON is."""
    assert upload(n=n).choices == choices
    assert upload(n=n).choices_known


def test_what_an_upload_did_not_say_before_its_files_is_not_known() -> None:
    """It may come behind them."""
    assert not upload(stream="true").choices_known
    assert not Request("POST", "/x", None).choices_known
    assert post(b"{}").choices_known
    assert upload().choices == 1


def test_an_upload_has_a_model_and_nothing_that_decides_about_recovery() -> None:
    """It is never repeated, so a text that looks like a number or a truth is none."""
    request = upload(model="whisper-1", temperature="0", seed="1", background="true")
    assert request.model == "whisper-1"
    assert not request.deterministic
    assert not request.background
    assert not request.replayable
    assert request.asking("other") is request


# --- other ways to ask ---


@pytest.mark.parametrize(
    ("method", "target", "asked"),
    [
        ("GET", "/agents/sessions/as_1/events", True),
        ("GET", "/agents/sessions/as_1/events/?after=2", True),
        ("GET", "/agents/sessions/as_1/events?stream=false", True),
        ("GET", "/agents/sessions/as_1", False),
        ("GET", "/agents/sessions/as_1/events/e_1", False),
        ("GET", "/agents/sessions//events", False),
        ("GET", "/x/agents/sessions/as_1/events", False),
        ("POST", "/agents/sessions/as_1/events", False),
        ("HEAD", "/agents/sessions/as_1/events", False),
    ],
)
def test_the_events_of_a_session_are_always_a_stream(
    method: str,
    target: str,
    asked: bool,  # noqa: FBT001 - the expectation
) -> None:
    """They have no other form."""
    assert Request(method, target).asks_stream is asked


@pytest.mark.parametrize(
    ("target", "legacy"),
    [
        ("/chat/completions", False),
        ("/chat/completions/?x=/completions", False),
        ("/openai/deployments/d/chat/completions", False),
        ("/completions", True),
        ("/openai/deployments/d/completions/", True),
    ],
)
def test_a_completion_of_text_is_told_from_a_chat(
    target: str,
    legacy: bool,  # noqa: FBT001 - the expectation
) -> None:
    """Their chunks differ."""
    assert post(b"", target).is_legacy is legacy


def test_another_body_or_model_leaves_the_path_the_upstreams_own() -> None:
    """It is still not below the base URL."""
    request = Request("POST", "/openai/v1/responses", b'{"model":"m"}', own_path=True)
    assert request.asking("other").own_path
    assert request.saying({}).own_path
