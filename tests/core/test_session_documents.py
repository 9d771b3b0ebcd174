"""An answer in one piece to a request for a stream: told in events, or never taken for one.

Every whole answer that is known, recorded or invented, is made one object, told again in events,
and must add up to the same object.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import (
    CLEAN,
    CREATED,
    CUT,
    DONE,
    RECORDED,
    RESET,
    STREAMS,
    Heard,
    ask,
    begin,
    facts,
    feed,
    finish,
    hear,
    lifecycle,
    payloads,
    raw,
    sse,
    told,
    whole_events,
)

from proxy.core.commands import Finish, Open
from proxy.core.fault import AttemptEnd, Fault, IncidentOutcome, Phase, StreamOutcome
from proxy.core.grammars import grammar_for
from proxy.core.policy import Quirks
from proxy.core.request import Request
from proxy.core.sse import Event, EventSplitter

RESTARTED, SURFACED = IncidentOutcome.RESTARTED, IncidentOutcome.SURFACED
BEFORE = Phase.BEFORE_CONTENT
MARKS = [b"", b"\n\ndata: [DONE]\n\n"]


def answer(content: str | None = "Ahoy", finish: str | None = "stop", **message: Any) -> Any:
    """Make a chat completion."""
    spoken = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "message": spoken, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def response(status: str = "completed", **fields: Any) -> dict[str, Any]:
    """Make a response with one message."""
    part = {"type": "output_text", "text": "Ahoy", "annotations": []}
    item = {"id": "msg_1", "type": "message", "content": [part]}
    return {"id": "resp_1", "object": "response", "status": status, "output": [item], **fields}


SMALL: dict[str, tuple[Request, bytes]] = {
    "chat": (ask(), raw(answer())),
    "completions": (
        ask("completions"),
        raw({"object": "text_completion", "choices": [{"text": "é", "finish_reason": "stop"}]}),
    ),
    "responses": (ask("responses"), raw(response())),
    "images": (ask("images"), raw({"created": 1, "data": [{"b64_json": "AA=="}]})),
    "audio": (ask("audio"), raw({"text": "Ahoy"})),
}
"""A small whole answer of each family that has one."""


def assert_told(heard: Heard) -> None:
    """Check for a whole stream, nothing of which was at fault."""
    assert heard.command == Finish(heard.command.body)
    assert (heard.facts, heard.repairs) == ([], {"json_to_sse": 1})
    assert heard.session.report().outcome is StreamOutcome.COMPLETE


# --- whole answers ---


def events_of(body: bytes) -> list[Event]:
    """Cut a recorded stream."""
    return EventSplitter(len(body), lambda _repair: None).feed(body)


def request_for(family: str, answer: Any) -> Request:
    """Make the request that an answer in one piece answers."""
    choices = len(answer.get("choices", [None]))
    return ask(family, n=choices, stream_options={"include_usage": True})


def assert_round_trip(family: str, body: bytes) -> None:
    """Fold a stream, feed it as one object, fold what comes of it: the same object."""
    grammar = grammar_for(ask(family))
    events = events_of(hear(body, ask(family)).out)
    whole = json.loads(grammar.fold(events))
    # Where a choice has no reason to end, the upstream's own mark must say that it has ended.
    finished = all(choice["finish_reason"] for choice in whole.get("choices", ()))
    document = raw(whole) + MARKS[not finished]
    heard = hear(document, request_for(family, whole), document=True)
    assert_told(heard)
    assert heard.session.grammar.usage == raw_usage(whole)
    assert json.loads(grammar.fold(events_of(heard.out))) == whole


def raw_usage(whole: Any) -> bytes:
    """Return the statistics of an answer, as they are reported."""
    usage = whole.get("usage")
    return json.dumps(usage, separators=(",", ":")).encode() if usage else b""


ROUND_TRIPS = [
    name for name in STREAMS if name.partition("-")[0] in {"chat", "completions", "responses"}
]


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_every_whole_answer_in_one_piece_is_told_and_adds_up_again(name: str) -> None:
    """The invented streams: n=2, tool calls, refusals, reasoning, legacy completions, responses."""
    assert_round_trip(name.partition("-")[0], STREAMS[name])


def real_ones() -> list[tuple[str, str]]:
    """Return the recorded streams of these endpoints that are whole, by family and name."""
    found = []
    for path in sorted(RECORDED.glob("*.json")):
        target = json.loads(path.read_text())["request"]["path"]
        family = "responses" if "/responses" in target else "chat"
        family = "completions" if target.endswith("/v1/completions") else family
        if "threads" not in target and path.stem not in {
            "compat-groq-error",
            "compat-openrouter-error",
        }:
            found.append((family, path.stem))
    return found


@pytest.mark.skipif(not RECORDED.is_dir(), reason="../shared/streams is not there")
@pytest.mark.parametrize(("family", "name"), real_ones())
def test_every_real_answer_in_one_piece_is_told_and_adds_up_again(family: str, name: str) -> None:
    """OpenAI's own streams and those of compatible servers."""
    assert_round_trip(family, (RECORDED / f"{name}.sse").read_bytes())


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("mark", MARKS, ids=["", "[DONE]"])
@pytest.mark.parametrize("family", SMALL)
def test_an_answer_in_one_piece_is_told_in_events(
    family: str,
    mark: bytes,
    committed: bool,  # noqa: FBT001 - a parameter
) -> None:
    """With or without the end mark of a stream behind it, the client waiting or not."""
    request, body = SMALL[family]
    heard = hear(body + mark, request, document=True, committed=committed)
    assert_told(heard)
    last = payloads(heard.out)[-1]
    if family in {"chat", "completions"}:
        assert last == "[DONE]"
        assert heard.out.count(DONE) == 1
    else:
        assert last["type"] in {
            "response.completed",
            "image_generation.completed",
            "transcript.text.done",
        }


def test_events_of_a_response_have_names_and_numbers() -> None:
    """As from a server that streams."""
    heard = hear(raw(response()), ask("responses"), document=True)
    assert [name for name, _ in whole_events(heard.out)][0::7] == [
        b"response.created",
        b"response.completed",
    ]
    assert [event["sequence_number"] for event in payloads(heard.out)] == list(range(8))


def test_every_image_is_told() -> None:
    """As many as were asked for; the edit of one has a name of its own."""
    body = raw({"created": 1, "data": [{"b64_json": "AA"}, {"b64_json": "BB"}], "usage": {"x": 1}})
    heard = hear(body, ask("images", n=2), document=True)
    assert_told(heard)
    images = payloads(heard.out)
    assert [image["b64_json"] for image in images] == ["AA", "BB"]
    edit = Request("POST", "/images/edits", None, form={"stream": "true"})
    heard = hear(body, edit, document=True)
    assert_told(heard)
    assert {image["type"] for image in payloads(heard.out)} == {"image_edit.completed"}


def test_nothing_is_given_before_all_is_there() -> None:
    """Of half an object nothing is known."""
    session = begin()
    session.receive_head(document=True)
    assert session.commit_by_time() == b""
    assert feed(session, raw(answer())) == b""
    assert (session.settled, session.data_events) == (False, 0)
    assert finish(session).body.endswith(DONE)


def test_a_document_that_grows_past_the_cap_is_oversize() -> None:
    """Memory stays bounded, and asking again would not help."""
    heard = hear(raw(answer("x" * 100)), document=True, max_event_bytes=100)
    assert (heard.out, heard.facts) == (b"", [(Fault.OVERSIZE_EVENT, BEFORE, SURFACED)])


# --- what is no whole answer ---


@pytest.mark.parametrize("end", [CLEAN, CUT, RESET], ids=["clean", "cut", "reset"])
@pytest.mark.parametrize("family", SMALL)
def test_half_an_object_is_never_a_success(family: str, end: AttemptEnd) -> None:
    """Cut at every byte: nothing is given, and it is asked again where that is honest."""
    request, body = SMALL[family]
    for place in range(1, len(body)):
        session = begin(request)
        session.receive_head(document=True)
        assert feed(session, body[:place]) == b""
        command = session.receive_end(end, 0.0)
        fault = Fault.RESET if end is RESET else Fault.CUT_MID_EVENT
        again = family not in {"images", "audio"}
        assert facts(session) == [(fault, BEFORE, RESTARTED if again else SURFACED)]
        assert isinstance(command, Open if again else Finish)
        assert session.report().incidents[0].tail == body[:place]
        if isinstance(command, Finish):
            assert command.reply is not None
            assert command.reply.status == 502


@pytest.mark.parametrize("family", SMALL)
def test_half_an_object_behind_a_200_ends_in_an_error_event(family: str) -> None:
    """The client hears it, and no end mark."""
    request, body = SMALL[family]
    heard = hear(body[:-1], request, document=True, committed=True, max_attempts=1)
    assert not any(event == "[DONE]" for event in payloads(heard.out))
    assert payloads(heard.out)[0]["error"]["code"] == "stream_incomplete"
    assert heard.facts == [(Fault.CUT_MID_EVENT, BEFORE, SURFACED)]


@pytest.mark.parametrize("end", [CUT, RESET], ids=["cut", "reset"])
def test_a_whole_object_whose_body_was_cut_is_not_believed(end: AttemptEnd) -> None:
    """HTTP says that something is missing."""
    heard = hear(raw(answer()), document=True, end=end)
    assert isinstance(heard.command, Open)
    assert (heard.out, heard.repairs) == (b"", {})


def test_a_body_without_a_byte_can_be_asked_for_again() -> None:
    """No answer had begun, whatever the endpoint."""
    session = begin(ask("images"))
    session.receive_head(document=True)
    assert isinstance(session.receive_end(CUT, 0.0), Open)


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (ask(), {}),
        (ask(), {"choices": []}),
        (ask(), {"detail": "Not Found"}),
        (ask(), answer(finish=None)),
        (ask(), answer(finish="")),
        (ask(n=2), answer()),
        (ask(), response()),
        (ask("responses"), answer()),
        (ask("responses"), response("in_progress")),
        (ask("responses"), response("cancelled")),
        (ask("images"), {"created": 1, "data": []}),
        (ask("images"), {"created": 1}),
        (ask("audio"), {"text": None}),
        (ask("threads"), {"id": "run_1", "object": "thread.run", "status": "completed"}),
    ],
    ids=str,
)
def test_an_object_that_is_no_finished_answer_gives_nothing(request_: Request, body: Any) -> None:
    """No end is invented: a choice without its reason, a response that runs on, another API's."""
    heard = hear(raw(body), request_, document=True)
    assert heard.out == b""
    assert [fault for fault, _, _ in heard.facts] == [Fault.CLEAN_EOF]
    assert heard.repairs == {}


def test_an_unfinished_choice_passes_with_the_upstreams_own_end_mark() -> None:
    """As in a stream: what the upstream calls the end is the end, unless a quirk says no."""
    body = raw(answer(finish=None)) + MARKS[1]
    assert_told(hear(body, document=True))
    heard = hear(body, document=True, quirks=Quirks(finish_reason="required"))
    assert (heard.out, heard.facts) == (b"", [(Fault.CLEAN_EOF, BEFORE, RESTARTED)])


@pytest.mark.parametrize("mark", MARKS, ids=["", "[DONE]"])
def test_a_reason_that_an_upstream_never_sends_is_added(mark: bytes) -> None:
    """Where the user said so; a call is never finished by us."""
    added = Quirks(finish_reason="added")
    heard = hear(raw(answer(finish=None)) + mark, document=True, quirks=added)
    assert heard.repairs == {"json_to_sse": 1, "added_finish_reason": 1}
    assert payloads(heard.out)[-2]["choices"][0]["finish_reason"] == "stop"
    call = {"id": "a", "function": {"name": "f", "arguments": "{"}}
    heard = hear(raw(answer(None, None, tool_calls=[call])), document=True, quirks=added)
    assert b'"finish_reason":"stop"' not in heard.out


@pytest.mark.parametrize(
    "said",
    [
        {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{"}}]},
        {"function_call": {"name": "f", "arguments": "{"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["message", "delta"])
def test_no_end_is_added_to_half_a_call(said: Any, place: str) -> None:
    """It would be run; where nobody says that it has ended, it broke off."""
    added = Quirks(finish_reason="added")
    body = raw({"choices": [{"index": 0, place: {"role": "assistant", **said}}]})
    body = body.replace(b'"delta"', b'"\\u0064elta"')  # or it would not be taken for a document
    heard = hear(body, document=True, quirks=added, max_attempts=1)
    assert b"[DONE]" not in heard.out
    assert [fault for fault, _, _ in heard.facts] == [Fault.CLEAN_EOF]


def test_images_that_are_missing_are_told_behind_those_that_came() -> None:
    """They cannot be asked for again, so what came is the client's."""
    body = raw({"created": 1, "data": [{"b64_json": "AA=="}]})
    heard = hear(body, ask("images", n=2), document=True)
    image, error = payloads(heard.out)
    assert (image["b64_json"], error["error"]["code"]) == ("AA==", "stream_incomplete")
    assert heard.facts == [(Fault.CLEAN_EOF, Phase.MID_CONTENT, SURFACED)]


@pytest.mark.parametrize("brackets", ["[]", "{}"])
@pytest.mark.parametrize("family", SMALL)
def test_an_object_nested_however_deeply_raises_nothing(family: str, brackets: str) -> None:
    """Told whole, or not at all: at some depth it can be read, but not be written again."""
    left, right = ("[", "]") if brackets == "[]" else ('{"a":', "}")
    request, body = SMALL[family]
    for depth in (90, *range(800, 1000), 50_000):
        nest = f"{left * depth}1{right * depth}"
        session = begin(request)
        session.receive_head(document=True)
        feed(session, body[:-1] + f',"usage":{nest}}}'.encode())
        out = session.receive_end(CLEAN, 0.0).body
        whole_events(out)
        assert out or facts(session)


# --- errors ---

DETERMINISTIC = [
    ({"error": {"message": "quota exceeded"}}, 429),
    ({"error": "Input validation error: `top_p` must be > 0.0", "error_type": "validation"}, 400),
    ({"type": "error", "code": "400", "message": "not found", "sequence_number": 5}, 400),
    ({"error": {"message": "m", "code": "context_length_exceeded"}}, 400),
    ({"error": {"message": "m", "code": "invalid_api_key"}}, 401),
    ({"error": {"message": "m", "code": "insufficient_quota"}, "choices": []}, 429),
    ({"object": "error", "message": "m", "type": "NotFoundError", "code": 404}, 404),
]
TRANSIENT = [
    ({"error": "STREAM_EXPLODED"}, 502),
    ({"error": {"message": "Compute error."}, "message": "Compute error."}, 502),
    (
        {
            "type": "error",
            "sequence_number": 2,
            "error": {"type": "service_unavailable_error", "code": "server_is_overloaded"},
        },
        503,
    ),
]


@pytest.mark.parametrize("mark", MARKS, ids=["", "[DONE]"])
@pytest.mark.parametrize(("body", "status"), DETERMINISTIC, ids=str)
def test_an_error_of_the_requests_own_is_its_status(body: Any, status: int, mark: bytes) -> None:
    """Whatever the 200 said (goai#110, TGI#1896); nobody is asked again."""
    heard = hear(raw(body) + mark, document=True)
    assert isinstance(heard.command, Finish)
    assert heard.command.reply is not None
    assert (heard.out, heard.command.reply.status) == (b"", status)
    assert not heard.command.reply.should_retry
    assert heard.facts == [(Fault.IN_STREAM_ERROR, BEFORE, SURFACED)]


@pytest.mark.parametrize("mark", MARKS, ids=["", "[DONE]"])
@pytest.mark.parametrize(("body", "status"), TRANSIENT, ids=str)
def test_an_error_that_may_pass_is_restarted(body: Any, status: int, mark: bytes) -> None:
    """And is its status once the attempts are spent."""
    heard = hear(raw(body) + mark, document=True)
    assert isinstance(heard.command, Open)
    assert heard.facts == [(Fault.IN_STREAM_ERROR, BEFORE, RESTARTED)]
    session = heard.session
    session.receive_head(document=True)
    feed(session, raw(answer()))
    assert finish(session).body.endswith(DONE)
    assert session.report().outcome is StreamOutcome.RECOVERED
    last = hear(raw(body) + mark, document=True, max_attempts=1)
    assert isinstance(last.command, Finish)
    assert last.command.reply is not None
    assert last.command.reply.status == status


def test_an_error_behind_a_200_is_told_in_the_stream() -> None:
    """In the endpoint's dialect and the upstream's words."""
    body = raw({"error": {"message": "quota exceeded"}}) + MARKS[1]
    (only,) = payloads(hear(body, document=True, committed=True).out)
    assert only["error"]["message"] == "quota exceeded"
    heard = hear(body, ask("responses"), document=True, committed=True)
    first, last = payloads(heard.out)
    assert (first["type"], last["type"]) == ("error", "response.failed")
    assert heard.repairs == {"added_response_failed": 1}


def test_a_response_that_failed_is_its_error() -> None:
    """Nothing of it is given, so it can be asked for again, or become a status."""
    body = raw(response("failed", error={"code": "server_error", "message": "m"}))
    heard = hear(body, ask("responses"), document=True)
    assert isinstance(heard.command, Open)
    refused = raw(response("failed", error={"code": "invalid_prompt", "message": "m"}))
    heard = hear(refused, ask("responses"), document=True)
    assert isinstance(heard.command, Finish)
    assert told(heard.command)["code"] == "invalid_prompt"


def test_a_response_that_failed_behind_a_200_is_told_with_its_id() -> None:
    """Its own words in events of ours: nothing is repaired, as the upstream said `failed`."""
    body = raw(response("failed", error={"code": "invalid_prompt", "message": "m"}))
    heard = hear(body, ask("responses"), document=True, committed=True)
    first, last = payloads(heard.out)
    assert [first["sequence_number"], last["sequence_number"]] == [0, 1]
    assert last["response"]["id"] == "resp_1"
    assert last["response"]["error"] == {"code": "invalid_prompt", "message": "m"}
    assert heard.repairs == {}


def test_a_restart_may_be_answered_in_one_piece_behind_given_openers() -> None:
    """One identity, and numbers that go on."""
    session = begin(ask("responses", store=False))
    session.receive_head()
    feed(session, sse(CREATED))
    out = session.commit_by_time()
    assert isinstance(session.receive_end(RESET, 0.0), Open)
    session.receive_head(document=True)
    feed(session, raw({**response(), "id": "resp_2", "created_at": 9}))
    out += finish(session).body
    events = payloads(out)
    assert [event["sequence_number"] for event in events] == list(range(8))
    ids = {event["response"]["id"] for event in events if "response" in event}
    assert ids == {lifecycle("created", 0)["response"]["id"]}
