"""Single events judged: pages, plain errors, names and events of another language, zeros.

Each with its wire bytes, and with its innocent look-alike left alone.
"""

from __future__ import annotations

from typing import Any

import pytest
from support import (
    ANSWER,
    CLEAN,
    CREATED,
    CUT,
    DONE,
    HI,
    RESET,
    ROLE,
    STOP,
    ask,
    chunk,
    hear,
    lifecycle,
    payloads,
    raw,
    spoken,
    sse,
    start,
    told,
)

from proxy.core.commands import Finish, Open
from proxy.core.fault import Fault, IncidentOutcome, Phase
from proxy.core.policy import Quirks
from proxy.core.request import Request

BEFORE, MID = Phase.BEFORE_CONTENT, Phase.MID_CONTENT
RESTARTED, SURFACED = IncidentOutcome.RESTARTED, IncidentOutcome.SURFACED
PASS = Quirks(foreign_events="pass")

PAGE = b"""<!DOCTYPE html>
<html><head><title>502 Bad Gateway</title><style>h1 { color: red }</style></head>

<body>
<h1>502 Bad&nbsp;Gateway</h1>
<!-- padding -->
</body></html>
"""


# --- pages ---


@pytest.mark.parametrize("body", [PAGE, PAGE.replace(b"\n\n", b"\n"), b"  \n" + PAGE, PAGE[:60]])
@pytest.mark.parametrize("end", [CLEAN, CUT, RESET], ids=["clean", "cut", "reset"])
@pytest.mark.parametrize("family", ["chat", "responses", "images", "other"])
def test_a_page_in_place_of_a_stream_is_a_malformed_event(
    family: str, end: Any, body: bytes
) -> None:
    """Never relayed; asked again, as nothing of an answer had begun (oc-web#143)."""
    heard = hear(body, ask(family), end=end)
    assert (heard.out, heard.facts) == (b"", [(Fault.MALFORMED_EVENT, BEFORE, RESTARTED)])
    incident = heard.session.report().incidents[0]
    assert incident.detail.startswith("it sent an HTML page: 502 Bad")
    assert incident.tail.lstrip().startswith(b"<!DOCTYPE")


def test_a_page_that_stays_is_a_502_that_says_what_it_was() -> None:
    """With the status that the page speaks of, and nothing else of it."""
    heard = hear(PAGE, max_attempts=1)
    assert isinstance(heard.command, Finish)
    assert heard.command.reply is not None
    assert heard.command.reply.status == 502
    message = told(heard.command)["message"]
    assert "(it sent an HTML page: 502 Bad Gateway)" in message
    assert "<" not in message
    other = hear(b"<html>\n<p>Dear jane@example.com</p></html>", max_attempts=1)
    assert isinstance(other.command, Finish)
    assert "(it sent an HTML page)" in told(other.command)["message"]


def test_a_page_behind_a_200_is_an_error_event() -> None:
    """Where the client waited so long that it has its headers."""
    (only,) = payloads(hear(PAGE, max_attempts=1, committed=True).out)
    assert "HTML page" in only["error"]["message"]


@pytest.mark.parametrize(
    "stray", [b"hello", b"502 Bad Gateway", b"a < b", b"<html>", b"<!-- x -->", b"x\ny"]
)
def test_a_block_without_fields_behind_an_event_is_nothing(stray: bytes) -> None:
    """As WHATWG has it; a page is one only in place of a stream."""
    heard = hear(sse(ROLE) + stray + b"\n\n" + sse(HI, STOP) + stray + b"\n\n" + DONE)
    assert (heard.out, heard.facts, heard.repairs) == (ANSWER, [], {})


@pytest.mark.parametrize("stray", [b"hello", b"502 Bad Gateway", b"a <b>", b"x: <html>"])
def test_a_block_without_fields_in_front_is_nothing(stray: bytes) -> None:
    """Some servers begin with a line of their own."""
    heard = hear(stray + b"\n\n" + ANSWER)
    assert (heard.out, heard.facts, heard.repairs) == (ANSWER, [], {})


def test_a_body_of_nothing_else_is_an_empty_stream() -> None:
    """Nobody said anything."""
    heard = hear(b"hello\n\n")
    assert heard.facts == [(Fault.EMPTY_STREAM, BEFORE, RESTARTED)]


@pytest.mark.parametrize("text", ["<html><body>Ahoy</body></html>", "<!DOCTYPE html>"])
def test_a_model_may_write_a_page(text: str) -> None:
    """Inside JSON it is content."""
    body = sse(ROLE, chunk(content=text), STOP) + DONE
    assert hear(body).out == body


# --- plain errors ---


@pytest.mark.parametrize("text", ["error: out of memory", "Error:out of memory", " ERROR : x"])
@pytest.mark.parametrize("mark", [b"", DONE], ids=["", "[DONE]"])
def test_an_error_in_plain_text_is_the_upstreams(text: str, mark: bytes) -> None:
    """In its own words; the end mark behind it is no success (lucasjinreal/Crane#121)."""
    heard = hear(sse(text) + mark)
    assert heard.facts == [(Fault.IN_STREAM_ERROR, BEFORE, RESTARTED)]
    heard = hear(sse(ROLE, HI, text) + mark)
    assert heard.facts == [(Fault.IN_STREAM_ERROR, MID, SURFACED)]
    assert heard.out.startswith(sse(ROLE, HI))
    error = payloads(heard.out)[-1]["error"]
    assert error["message"] == text.partition(":")[2].strip()
    assert error["retryable"] is True


def test_a_plain_error_that_is_the_requests_own_fault_is_its_status() -> None:
    """As far as it can be told from the words."""
    heard = hear(sse("error: quota exceeded"))
    assert isinstance(heard.command, Finish)
    assert heard.command.reply is not None
    assert heard.command.reply.status == 429


def test_a_plain_error_is_told_to_a_response_with_an_ending() -> None:
    """The upstream said nothing that Codex reads."""
    heard = hear(sse(CREATED, spoken(1), "error: x"), ask("responses"))
    assert [event["type"] for event in payloads(heard.out)[-2:]] == ["error", "response.failed"]
    assert heard.repairs == {"added_response_failed": 1}


@pytest.mark.parametrize("family", ["images", "audio", "threads", "other"])
def test_what_has_its_effect_is_not_repeated_for_a_plain_error(family: str) -> None:
    """The upstream had begun."""
    heard = hear(sse("error: x"), ask(family))
    assert isinstance(heard.command, Finish)
    assert heard.facts == [(Fault.IN_STREAM_ERROR, BEFORE, SURFACED)]


@pytest.mark.parametrize("text", ["errors: 5", "an error: x", "error", "error:", "error: "])
def test_what_only_resembles_a_plain_error_is_malformed(text: str) -> None:
    """It is not known what it means."""
    assert hear(sse(ROLE, HI, text)).facts == [(Fault.MALFORMED_EVENT, MID, SURFACED)]


def test_a_model_may_speak_of_errors() -> None:
    """Inside JSON it is content."""
    body = sse(ROLE, chunk(content="error: x"), STOP) + DONE
    assert hear(body).out == body


# --- names, and events of another language ---

TOOL = sse({"tool": "web_search", "label": "searching"}, name="hermes.tool.progress")
"""anomalyco/opencode#38106"""


@pytest.mark.parametrize("name", ["message", "chunk", "chat.completion.chunk", "completion"])
@pytest.mark.parametrize("family", ["chat", "completions"])
def test_the_name_of_a_chunk_is_taken_off(family: str, name: str) -> None:
    """Some clients take it for another kind of event (janhq/jan#8392)."""
    body = sse(ROLE, HI, STOP, name=name) + DONE
    heard = hear(body, ask(family))
    assert (heard.out, heard.repairs) == (ANSWER, {"dropped_event_name": 3})


@pytest.mark.parametrize("mark", ["[DONE]", "[DONE] "])
def test_the_end_mark_has_no_name(mark: str) -> None:
    """Exactly one form of it."""
    heard = hear(sse(ROLE, HI, STOP) + sse(mark, name="done"))
    assert heard.out == ANSWER
    assert heard.repairs["dropped_event_name"] == 1


def test_a_name_is_kept_by_setting() -> None:
    """Where the user's clients know what it means."""
    body = sse(ROLE, HI, STOP, name="chunk") + sse("[DONE]", name="done")
    heard = hear(body, quirks=PASS)
    assert (heard.out, heard.repairs) == (body, {})


@pytest.mark.parametrize(
    "body",
    [
        sse(CREATED, name="response.created") + sse(spoken(1), name="any.name"),
        sse({"type": "x.y"}, name="vendor.event"),
    ],
)
def test_names_of_a_response_are_never_touched(body: bytes) -> None:
    """There they are the language."""
    body += sse(lifecycle("completed", 2))
    assert hear(body, ask("responses")).out == body


def test_names_of_a_thread_are_never_touched() -> None:
    """Its end mark has one too."""
    body = sse({"id": "run_1"}, name="thread.run.created") + sse("[DONE]", name="done")
    heard = hear(body, ask("threads"))
    assert (heard.out, heard.repairs) == (body, {})


@pytest.mark.parametrize(
    "foreign",
    [
        TOOL,
        sse({}, name="ping"),
        sse({"type": "ping"}, name="ping"),
        sse(5, name="ping"),
        sse({"choices": None}, name="x"),
        sse('{"tool":"x","progress":NaN}', name="x"),
        sse('{"tool":"\\ud800"}', name="x"),
        sse(b'{"x":' + b"[" * 3000 + b"]" * 3000 + b"}", name="x"),
    ],
)
def test_an_event_of_another_language_is_dropped(foreign: bytes) -> None:
    """AI SDKs die of what is no chunk; it is no part of the answer."""
    body = foreign + sse(ROLE) + foreign + sse(HI) + foreign + sse(STOP) + foreign + DONE
    heard = hear(body)
    assert (heard.out, heard.facts) == (ANSWER, [])
    assert heard.repairs == {"dropped_foreign_event": 4}


def test_an_event_of_another_language_passes_by_setting() -> None:
    """As it came."""
    body = sse(ROLE) + TOOL + sse(HI, STOP) + DONE
    heard = hear(body, quirks=PASS)
    assert (heard.out, heard.repairs) == (body, {})


@pytest.mark.parametrize(
    "event",
    [
        {"tool": "web_search"},
        {"x": 1, "usage": {"total_tokens": 1}},
        {"x": 1, "choices": []},
    ],
    ids=str,
)
def test_a_chunk_of_any_shape_without_a_name_passes(event: Any) -> None:
    """Nothing says that it is of another language."""
    body = sse(ROLE, HI, event, STOP) + DONE
    assert hear(body).out == body


@pytest.mark.parametrize("event", [{"usage": {"total_tokens": 1}}, {"choices": []}, chunk()])
def test_a_named_event_with_something_of_a_chunk_stays(event: Any) -> None:
    """Its name goes."""
    heard = hear(sse(ROLE, HI) + sse(event, name="x") + sse(STOP) + DONE)
    assert heard.out == sse(ROLE, HI, event, STOP) + DONE
    assert heard.repairs == {"dropped_event_name": 1}


@pytest.mark.parametrize(
    "error",
    [sse({"error": {"message": "m"}}, name="x"), sse({"message": "m"}, name="error")],
)
def test_an_error_by_any_name_is_an_error(error: bytes) -> None:
    """It is never dropped."""
    heard = hear(sse(ROLE, HI) + error + DONE)
    assert heard.facts == [(Fault.IN_STREAM_ERROR, MID, SURFACED)]
    assert DONE not in heard.out


def test_a_stream_of_another_language_alone_is_empty() -> None:
    """Nothing of an answer came."""
    heard = hear(TOOL * 3 + DONE)
    assert heard.facts == [(Fault.EMPTY_STREAM, BEFORE, RESTARTED)]


# --- zeros ---

ZEROS = {
    "between events": sse(ROLE) + b"\0\0\0\n\n" + sse(HI, STOP) + DONE,
    "in front of an event": sse(ROLE) + b"\0" + sse(HI, STOP) + DONE,
    "in front of all": b"\0\0" + ANSWER,
    "behind data": sse(ROLE, raw(HI) + b"\0\0", STOP) + DONE,
    "in front of data": sse(ROLE, b"\0" + raw(HI), STOP) + DONE,
    "around the end mark": sse(ROLE, HI, STOP, b"\0[DONE]\0"),
    "on lines of their own": sse(ROLE) + b"\0\n\0\n" + sse(HI, STOP) + DONE,
}


@pytest.mark.parametrize("body", ZEROS.values(), ids=ZEROS)
def test_zeros_around_fields_and_data_are_stripped(body: bytes) -> None:
    """Padding, or memory that was never written."""
    heard = hear(body)
    assert (heard.out, heard.repairs, heard.facts) == (ANSWER, {"dropped_nul": 1}, [])


@pytest.mark.parametrize(
    "data",
    [
        raw(HI).replace(b"Hi", b"H\0i"),
        raw(HI).replace(b"Hi", b"H\0\ti"),
        raw(HI).replace(b": ", b":\0", 1),
        b"\0",
        b"\0" + raw(HI)[:-1],
    ],
)
def test_a_zero_inside_data_is_malformed(data: bytes) -> None:
    """What it hides is not known."""
    heard = hear(sse(ROLE, HI, data, STOP) + DONE)
    assert heard.facts == [(Fault.MALFORMED_EVENT, MID, SURFACED)]
    assert DONE not in heard.out


def test_an_escaped_zero_is_a_character() -> None:
    """A model may say it."""
    body = sse(ROLE, chunk(content="a\0b"), STOP) + DONE
    assert b"\\u0000" in body
    heard = hear(body)
    assert (heard.out, heard.repairs) == (body, {})


# --- duplicates ---


def test_an_exact_repeat_of_a_numbered_event_is_dropped() -> None:
    """Some gateways send each event twice."""
    one, two = sse(spoken(1, "ha")), sse(spoken(2, "ha"))
    end = sse(lifecycle("completed", 3))
    heard = hear(sse(CREATED, CREATED) + one * 3 + two + end * 2, ask("responses"))
    assert heard.out == sse(CREATED) + one + two + end
    assert heard.repairs == {"dropped_duplicate": 3}


@pytest.mark.parametrize(
    "body",
    [
        sse(spoken(1, "ha"), spoken(2, "ha")),
        sse(spoken(1, "ha"), spoken(1, "ho")),
        sse(spoken(1), spoken(2), spoken(1)),
        sse(*[{key: of for key, of in spoken(1).items() if key != "sequence_number"}] * 2),
    ],
)
def test_what_only_resembles_a_repeat_is_given(body: bytes) -> None:
    """The same text twice is what the model said (lidge-jun/opencodex#361)."""
    body = sse(CREATED) + body + sse(lifecycle("completed", 9))
    heard = hear(body, ask("responses"))
    assert (heard.out, heard.repairs) == (body, {})


def test_chunks_of_a_chat_are_never_compared() -> None:
    """They have no numbers."""
    body = sse(ROLE, HI, HI, HI, STOP) + DONE
    assert hear(body).out == body


# --- endings that strict clients hear ---


@pytest.mark.parametrize(
    "error",
    [
        {"type": "error", "sequence_number": 2, "error": {"code": "server_error"}},
        {"type": "error", "code": "400", "message": "m", "sequence_number": 2},
        {"error": {"message": "m"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("mark", [b"", DONE], ids=["", "[DONE]"])
def test_an_error_of_a_response_gets_its_ending(error: Any, mark: bytes) -> None:
    """Codex hears nothing but ``response.failed`` (zyycn/codex-proxy-rs#90)."""
    heard = hear(sse(CREATED, spoken(1), error) + mark, ask("responses"))
    first, last = payloads(heard.out)[-2:]
    assert (first["type"], last["type"]) == ("error", "response.failed")
    assert [first["sequence_number"], last["sequence_number"]] == [2, 3]
    assert last["response"]["id"] == "resp_1"
    assert heard.repairs == {"added_response_failed": 1}


def test_an_ending_that_the_upstream_gave_is_not_added() -> None:
    """``response.failed`` passes as it came."""
    failed = sse(lifecycle("failed", 2, error={"code": "server_error", "message": "m"}))
    body = sse(CREATED, spoken(1)) + failed
    heard = hear(body, ask("responses"))
    assert (heard.out, heard.repairs) == (body, {})


def test_an_ending_of_the_proxys_own_is_no_repair() -> None:
    """A cut is told in the same events, but the upstream said nothing."""
    heard = hear(sse(CREATED, spoken(1)), ask("responses"), end=CUT)
    assert payloads(heard.out)[-1]["type"] == "response.failed"
    assert heard.repairs == {}


def test_an_ending_is_counted_only_where_it_was_given() -> None:
    """Before the 200 the error is a status; a restart tells nobody."""
    error = sse({"type": "error", "code": "invalid_prompt", "message": "m"})
    heard = hear(sse(CREATED) + error, ask("responses"))
    assert isinstance(heard.command, Finish)
    assert (heard.out, heard.repairs) == (b"", {})
    passing = sse({"type": "error", "code": "server_error", "message": "m"})
    heard = hear(sse(CREATED) + passing, ask("responses"))
    assert isinstance(heard.command, Open)
    assert heard.repairs == {}


def test_an_error_of_a_chat_needs_no_ending() -> None:
    """Its one event is heard by all."""
    heard = hear(sse(ROLE, HI, {"error": "x"}))
    assert len(payloads(heard.out)) == 3
    assert heard.repairs == {}


# --- uploads and other shapes of request are read in the same way ---


@pytest.mark.parametrize(
    "request_",
    [
        Request("POST", "/chat/completions", None, form={"stream": "true"}),
        Request("POST", "/openai/deployments/d/chat/completions", b"{}", own_path=True),
        Request("POST", "/openai/v1/chat/completions", b"{}", own_path=True),
    ],
)
def test_a_chat_is_a_chat_however_it_is_asked_for(request_: Request) -> None:
    """Names are taken off all the same."""
    heard = hear(sse(ROLE, HI, STOP, name="x") + DONE, request_)
    assert heard.out == ANSWER


def test_what_is_held_while_a_half_waits_is_nothing_else() -> None:
    """What came before it is out already."""
    session = start()
    assert session.receive_data(sse(ROLE, HI) + sse(raw(HI)[:9])) == sse(ROLE, HI)
