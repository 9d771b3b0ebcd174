"""Repairs: each with its innocent look-alike left alone.

They are tested where they work: in an attempt at an endpoint whose events all pass.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from support import ask, bytewise, chunk, raw, sse, whole_events

from proxy.core.attempt import Attempt
from proxy.core.fault import Fault
from proxy.core.policy import Policy
from proxy.core.repairs import REPAIRS, TEXT_REPAIRS, clean_text
from proxy.core.sse import Event


class Mended:
    """What became of a body: the events given on, the repairs, the fault."""

    def __init__(self, body: bytes, family: str = "other", **limits: Any) -> None:
        """Read a body, byte by byte."""
        self.repairs: Counter[str] = Counter()
        attempt = Attempt(ask(family), Policy(**limits), self._count)
        self.events: list[Event] = []
        for read in bytewise(body):
            if not attempt.settled:
                self.events += attempt.feed(read)
        self.data = [event.data for event in self.events]
        self.fault = attempt.fault
        self.tail = attempt.tail.removeprefix(b"data: ").removesuffix(b"\n")
        whole_events(b"".join([event.encode() for event in self.events]))

    def _count(self, repair: str) -> None:
        self.repairs[repair] += 1


def assert_untouched(body: bytes, family: str = "other") -> None:
    """Check that a body passes byte for byte, without a repair or a fault."""
    mended = Mended(body, family)
    assert b"".join([event.encode() for event in mended.events]) == body
    assert (mended.repairs, mended.fault) == ({}, None)


# --- look-alikes of all of them ---

TEXTS = [
    "data: ",
    "data: [DONE]",
    "[DONE]",
    "\n\ndata: [DONE]\n\n",
    'data: {"error":{"message":"x"}}',
    '{"error":"x"}{"a":1}',
    '"}\n{"b":2}',
    ": keepalive",
    "\\u2028 and \\u0085",
    "\\\\u2028",
    "tab\tbell\x07nul\x00",
    'quote " and backslash \\',
    "\ufffd",
    "é 🐳 \u200b",
]


@pytest.mark.parametrize("family", ["chat", "completions", "responses", "threads", "other"])
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_text_that_looks_like_trouble_is_left_alone(text: str, family: str) -> None:
    """Inside a string it is what the model said."""
    assert_untouched(sse(chunk(content=text)), family)
    assert_untouched(sse(json.dumps(chunk(content=text), ensure_ascii=False)), family)


@pytest.mark.parametrize("value", ["1", "-0.5e3", '"x"', "[1, 2]", "null", "NaN", '"\\ud800"'])
def test_any_json_value_is_left_alone(value: str) -> None:
    """A value need not be an object."""
    assert_untouched(sse(value))


def test_a_healthy_event_keeps_its_own_bytes() -> None:
    """Spaces, key order and number forms are the upstream's."""
    assert_untouched(b'data: { "b" : 1.0e0 ,"a":[ ], "c":"\\u0041\\/"}\n\n')


# --- text ---


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    """Each becomes U+FFFD; openai-python dies of them (ggml-org/llama.cpp#4036)."""
    mended = Mended(b'data: {"a":"x\xff\xc3y"}\n\n')
    assert mended.data == ['{"a":"x\ufffd\ufffdy"}'.encode()]
    assert mended.repairs == {"replaced_utf8": 1}


def test_a_name_that_is_not_utf8_is_replaced() -> None:
    """A client decodes the whole line, not only the data."""
    mended = Mended(b"event: \xff\ndata: {}\n\n")
    assert mended.events == [Event("\ufffd".encode(), b"{}")]


@pytest.mark.parametrize(
    ("separator", "escape"),
    [("\u2028", b"\\u2028"), ("\u2029", b"\\u2029"), ("\x85", b"\\u0085")],
)
def test_raw_line_separators_are_escaped(separator: str, escape: bytes) -> None:
    """The value is the same, but ``splitlines`` no longer cuts it (openai/openai-python#1230)."""
    mended = Mended(f'data: {{"a":"x{separator}y"}}\n\n'.encode())
    assert mended.data == [b'{"a":"x%by"}' % escape]
    assert json.loads(mended.data[0]) == {"a": f"x{separator}y"}
    assert mended.repairs == {"escaped_separator": 1}


@pytest.mark.parametrize("character", ["\u2027", "\u202a", "\x86", "Å", "蠨"])
def test_neighbours_of_the_separators_are_left_alone(character: str) -> None:
    """Only the very characters are escaped, not bytes that resemble them."""
    assert_untouched(f'data: {{"a":"{character}"}}\n\n'.encode())


def test_text_is_mended_before_it_is_judged() -> None:
    """Both text repairs may meet in one event."""
    mended = Mended(b'data: {"a":"\xff\xe2\x80\xa8"}\n\n')
    assert mended.data == ['{"a":"\ufffd\\u2028"}'.encode()]
    assert mended.repairs == dict.fromkeys(TEXT_REPAIRS, 1)


def test_clean_text_keeps_what_is_clean() -> None:
    """Asked for every event that is not ASCII, it changes few."""
    event = Event("é".encode(), "🐳".encode())
    assert clean_text(event, pytest.fail) == event


@pytest.mark.parametrize("control", [b"\x01", b"\t", b"\x1f"])
def test_raw_controls_inside_strings_are_escaped(control: bytes) -> None:
    """JSON forbids them there (RFC 8259, 7)."""
    mended = Mended(b'data: {"a\\"":"x%by"}\n\n' % control)
    assert json.loads(mended.data[0]) == {'a"': f"x{control.decode()}y"}
    assert mended.repairs == {"escaped_control": 1}


def test_only_so_many_controls_are_escaped() -> None:
    """Each becomes an object before it is six bytes; what is between strings stays."""
    escape = REPAIRS["escaped_control"]
    most = b'{"a":1,\n"b":"' + b"\t" * 99_999 + b'"}'
    assert escape(most) == [b'{"a":1,\n"b":"' + b"\\u0009" * 99_999 + b'"}']
    assert escape(most + b"\t") is None


def test_controls_that_are_white_space_are_left_alone() -> None:
    """Between values a tab is legal."""
    assert_untouched(b'data: {\t"a":\t1}\n\n')


@pytest.mark.parametrize("data", [b'{"a":\x01}', b'{"a":"\x01', b'{"a":"\x01\\', b"\x01"])
def test_controls_elsewhere_cannot_be_mended(data: bytes) -> None:
    """Escaping them does not make it JSON."""
    mended = Mended(sse(data))
    assert (mended.fault, mended.repairs) == (Fault.MALFORMED_EVENT, {})


def test_a_control_behind_a_backslash_is_not_escaped() -> None:
    """The backslash would be escaped instead, and the text made up."""
    mended = Mended(sse(b'{"a":"x\\\x01"}'))
    assert (mended.fault, mended.repairs) == (Fault.MALFORMED_EVENT, {})


# --- several lines ---


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        ([b'{"a":', b"1}"], b'{"a": 1}'),
        ([b"{", b'  "a": 1', b"}"], b'{   "a": 1 }'),
        ([b'{"text":"Hel', b'lo"}'], b'{"text":"Hello"}'),
        ([b'{"n":1', b"2}"], b'{"n":12}'),
    ],
)
def test_a_value_broken_over_data_lines_is_one_line(lines: list[bytes], value: bytes) -> None:
    """A line end between tokens is white space, one inside a token was never meant."""
    body = b"".join([b"data: %b\n" % line for line in lines]) + b"\n"
    mended = Mended(body)
    assert mended.data == [value]
    assert mended.repairs == {"joined_lines": 1}


@pytest.mark.parametrize(
    ("body", "values", "repair"),
    [
        (b'data: {"a":\ndata: 1}\ndata: {"b":2}\n\n', [b'{"a": 1}', b'{"b":2}'], "split_events"),
        (b'data: data: {"a":\ndata: 1}\n\n', [b'{"a": 1}'], "data_prefix"),
        (b'data: {"a":\ndata: "\x01"}\n\n', [b'{"a": "\\u0001"}'], "escaped_control"),
    ],
)
def test_no_repair_lets_a_line_end_into_an_event(
    body: bytes, values: list[bytes], repair: str
) -> None:
    """Whatever mended it, data leaves as one line."""
    mended = Mended(body)
    assert (mended.data, mended.repairs) == (values, {repair: 1})


# --- several values ---


@pytest.mark.parametrize(
    "data",
    [b'{"a":1}\ndata: {"b":"}{"}', b'{"a":1}{"b":"}{"}', b'{"a":1} \t {"b":"}{"}'],
    ids=["no blank line", "no line end", "white space"],
)
def test_several_objects_in_one_event_are_split(data: bytes) -> None:
    """Each is an event (anomalyco/opencode#27365, danny-avila/LibreChat#4820)."""
    mended = Mended(sse(data))
    assert mended.data == [b'{"a":1}', b'{"b":"}{"}']
    assert mended.repairs == {"split_events": 1}


def test_more_values_than_a_stream_has_are_not_split() -> None:
    """No blank lines were forgotten there, and each would cost an event."""
    split = REPAIRS["split_events"]
    assert split(b"{}" * 10_000) == [b"{}"] * 10_000
    assert split(b"{}" * 10_001) is None


@pytest.mark.parametrize("joint", [b"\ndata: ", b"", b" "])
def test_done_behind_an_object_ends_the_stream(joint: bytes) -> None:
    """A missing blank line must not hide the end."""
    mended = Mended(sse(raw(chunk(content="x")) + joint + b"[DONE]", chunk(content="late")), "chat")
    assert mended.data == [raw(chunk(content="x")), b"[DONE]"]


def test_an_error_behind_an_object_is_the_fault() -> None:
    """What follows it is not looked at."""
    data = raw(chunk(content="x")) + b'{"error":{"message":"m"}}' + raw(chunk(content="y"))
    mended = Mended(sse(data), "chat")
    assert (mended.data, mended.fault) == ([raw(chunk(content="x"))], Fault.IN_STREAM_ERROR)


@pytest.mark.parametrize(
    ("second", "names"),
    [
        (b'{"type":"b"}', [b"a", b"b"]),
        (b'{"b":1}', [b"a", b""]),
        (b'{"type":5}', [b"a", b""]),
        (b"[DONE]", [b"a", b""]),
    ],
)
def test_split_events_are_named_by_their_own_type(second: bytes, names: list[bytes]) -> None:
    """The one name of the block fits only one of them."""
    mended = Mended(b'event: a\ndata: {"type":"a"}\ndata: %b\n\n' % second)
    assert [event.name for event in mended.events] == names


def test_split_events_without_a_name_get_none() -> None:
    """Chat chunks have no event line, whatever their type says."""
    mended = Mended(sse(b'{"type":"a"}{"type":"b"}'))
    assert [event.name for event in mended.events] == [b"", b""]


@pytest.mark.parametrize("data", [b'{"a":1}{"b"', b'{"a":1} x', b"1 2", b"[1][2]", b'x{"a":1}'])
def test_values_that_are_not_all_whole_objects_are_not_split(data: bytes) -> None:
    """Half of it would be a guess."""
    mended = Mended(sse(data))
    assert (mended.fault, mended.repairs, mended.tail) == (Fault.MALFORMED_EVENT, {}, data)


def test_nesting_too_deep_to_look_into_is_not_split() -> None:
    """It cannot be known where the first value ends."""
    nest = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert Mended(sse(b'{"a":1}' + nest)).fault is Fault.MALFORMED_EVENT


# --- wrapped data ---


@pytest.mark.parametrize("prefix", [b"data: ", b"data:", b"data: data: data:"])
def test_a_second_prefix_is_taken_off(prefix: bytes) -> None:
    """A framework framed what was framed (paiml/aprender#2015)."""
    mended = Mended(sse(prefix + b'{"a":1}'))
    assert (mended.data, mended.repairs) == ([b'{"a":1}'], {"data_prefix": 1})


def test_a_prefixed_done_is_the_end() -> None:
    """It is judged again after the repair."""
    mended = Mended(sse(chunk(content="x"), "data: [DONE]"), "chat")
    assert mended.data[-1] == b"[DONE]"


@pytest.mark.parametrize("data", [b"data: ", b"data: hello", b'data: {"a"', b'event: {"a":1}'])
def test_a_prefix_before_anything_else_is_left(data: bytes) -> None:
    """Without JSON behind it, it may be text of any kind."""
    mended = Mended(sse(data))
    assert (mended.fault, mended.repairs) == (Fault.MALFORMED_EVENT, {})


@pytest.mark.parametrize("data", [b": keepalive", b": OPENROUTER PROCESSING", b":"])
def test_a_comment_wrapped_as_data_is_dropped(data: bytes) -> None:
    """A gateway made it of a keep-alive (anomalyco/opencode#50871)."""
    mended = Mended(sse(data, {"a": 1}))
    assert (mended.data, mended.repairs) == ([b'{"a": 1}'], {"dropped_comment": 1})


def test_a_wrapped_comment_never_takes_an_event_with_it() -> None:
    """A hole in the text would be silent; a fault is not."""
    body = b'data: : keepalive\ndata: {"a":1}\n\n'
    assert Mended(body).fault is Fault.MALFORMED_EVENT


# --- zeros ---


@pytest.mark.parametrize(
    "data", [b'\0{"a":1}', b'{"a":1}\0\0', b'\0\0{"a":1}\0', b'\0{"a":"\\u0000"}']
)
def test_zeros_around_json_are_taken_off(data: bytes) -> None:
    """They are no part of it."""
    mended = Mended(sse(data))
    assert (mended.data, mended.repairs) == ([data.strip(b"\0")], {"dropped_nul": 1})


def test_zeros_around_the_end_mark_are_taken_off() -> None:
    """It is judged again after the repair."""
    mended = Mended(sse(chunk(content="x"), b"\0[DONE]\0"), "chat")
    assert (mended.data[-1], mended.repairs) == (b"[DONE]", {"dropped_nul": 1})


@pytest.mark.parametrize(
    "data",
    [b"\0", b"\0\0\0", b'{"a":"x\0y"}', b'{"a":\0 1}', b"\0hello", b"DO\0NE", b'{"a":"\0\x01"}'],
)
def test_zeros_anywhere_else_cannot_be_mended(data: bytes) -> None:
    """Something is missing there, and nobody knows what."""
    mended = Mended(sse(data))
    assert (mended.fault, mended.repairs) == (Fault.MALFORMED_EVENT, {})


# --- forms of [DONE] ---


@pytest.mark.parametrize("form", ["[DONE] ", "[DONE]\t", "[DONE]!"])
def test_done_leaves_in_its_one_form(form: str) -> None:
    """Newer SDKs want exactly that."""
    mended = Mended(sse({"a": 1}, form))
    assert (mended.data[-1], mended.repairs) == (b"[DONE]", {"done_form": 1})


@pytest.mark.parametrize("family", ["chat", "other"])
def test_a_bare_done_gets_its_brackets(family: str) -> None:
    """Some servers forget them (googleapis/java-genai#1084)."""
    mended = Mended(sse(chunk(finish="stop"), "DONE"), family)
    assert (mended.data[-1], mended.repairs) == (b"[DONE]", {"done_form": 1})


@pytest.mark.parametrize("data", ["done", "DONE.", "DONE DONE"])
def test_what_only_resembles_done_is_not_it(data: str) -> None:
    """A guess here would be a success that nobody gave."""
    assert Mended(sse(chunk(finish="stop"), data), "chat").fault is Fault.MALFORMED_EVENT


def test_done_on_a_responses_stream_is_dropped() -> None:
    """It broke copilot-api#338."""
    mended = Mended(sse({"type": "keepalive"}, "[DONE]"), "responses")
    assert (mended.data, mended.repairs) == ([b'{"type": "keepalive"}'], {"dropped_done": 1})


# --- what nobody can mend ---


@pytest.mark.parametrize("data", ["errors gone", "<html>", "{", "hello", '{"a":1'])
def test_what_cannot_be_mended_is_a_fault(data: str) -> None:
    """It is not given; what came before it is."""
    mended = Mended(sse({"a": 1}, data, {"b": 2}))
    assert mended.data == [b'{"a": 1}']
    assert (mended.fault, mended.tail) == (Fault.MALFORMED_EVENT, data.encode())


def test_malformed_events_may_be_skipped() -> None:
    """By setting, a hole is preferred to an end, and counted."""
    mended = Mended(sse({"a": 1}, "hello", {"b": 2}), skip_malformed=True)
    assert mended.data == [b'{"a": 1}', b'{"b": 2}']
    assert (mended.fault, mended.repairs) == (None, {"dropped_malformed": 1})


def test_what_a_repair_could_not_look_into_is_judged_again() -> None:
    """At some depth the decoder gives up in the repair, and finds the fault one call higher up."""
    for depth in range(800, 1000):
        nest = b'{"a":' + b"[" * depth + b"]" * depth + b" x}"
        attempt = Attempt(ask("other"), Policy(), list[str]().append)
        events = attempt.feed(sse(b"data: " + nest))
        # Where no decoder can look it is enough that all is closed that was opened.
        fine = not events and attempt.fault is Fault.MALFORMED_EVENT
        assert fine or [event.data for event in events] == [nest]


@pytest.mark.parametrize(
    "flood",
    [
        b"data:" * 1_000_000,
        b'"' + b'\\"' * 200_000,
        b'{"a":1}' * 50_000 + b"x",
        b'{"\n' * 50_000,
        b"\0" * 1_000_000,
    ],
    ids=["prefixes", "quotes", "objects", "lines", "zeros"],
)
def test_a_flood_is_judged_in_one_pass(flood: bytes) -> None:
    """A repair that began anew at each of them would keep the whole process busy for minutes."""
    for repair in REPAIRS.values():
        assert repair(flood) is None
