r"""Events in forms that break clients: their lines, their borders, their bytes.

Knows what is on the wire and the one canonical form that it is given in. Must not know why a
server writes so.
"""

from __future__ import annotations

import json

from support import ANSWER, CREATED, DONE, HI, ROLE, STOP, ask, chunk, lifecycle, raw, spoken, sse

from catalogue.tale import (
    BEGUN,
    RESPONSE,
    SPEAKING,
    Case,
    Part,
    Replied,
    Tale,
    breaks,
    named,
    passes,
    restarted,
    says,
    whole,
)

RESPONSES = ask("responses", store=False)
CAP = 2**16
"""The cap of an event where one is to grow past it."""


def _split(between: bytes) -> bytes:
    """Write the second of three chunks so that its JSON is cut in two."""
    data = raw(HI)
    return sse(ROLE) + b"data: " + data[:40] + between + data[40:] + b"\n\n" + sse(STOP) + DONE


def _spaced(text: str) -> bytes:
    """Write a chat answer as it is with raw UTF-8 in it."""
    said = json.dumps(chunk(content=text), ensure_ascii=False)
    return sse(ROLE, said, STOP) + DONE


def _sized(size: int) -> bytes:
    """Write a chat chunk whose event, without its blank line, has so many bytes."""
    bare = len(sse(chunk(content=""))) - 2
    return sse(chunk(content="x" * (size - bare)))


PRETTY = b"".join(b"data: %b\n" % line for line in json.dumps(HI, indent=1).encode().split(b"\n"))

FRAMING = (
    Case(
        *(14, "keepalive-comment-breaks-client"),
        {
            "between events": whole(
                b": OPENROUTER PROCESSING\n\n" + BEGUN + b": keep-alive\n\n" + sse(STOP) + DONE,
                ANSWER,
                None,
                *("dropped_comment",) * 2,
            ),
            "glued to an event": whole(
                sse(ROLE, HI, STOP) + b": x-provider=minimax\n" + DONE,
                ANSWER,
                None,
                "dropped_comment",
            ),
            "of a response": whole(
                b": ping\n\n" + RESPONSE, RESPONSE, RESPONSES, "dropped_comment"
            ),
        },
        {"a comment as text": passes(says("\n: OPENROUTER PROCESSING\n\n"))},
    ),
    Case(
        *(18, "meta-only-event"),
        {
            "retry": whole(b"retry: 3000\n\n" + ANSWER, ANSWER, None, "stripped_id_retry"),
            "id, with a comment behind it": whole(
                b"id: 7\n" + sse(ROLE) + b": ping\n\n" + sse(HI, STOP) + DONE,
                ANSWER,
                None,
                *("stripped_id_retry", "dropped_comment"),
            ),
            "a name without data": whole(
                b"event: ping\n\n" + ANSWER, ANSWER, None, "dropped_dataless"
            ),
            "data without anything": whole(
                b"data: \n\n" + ANSWER, ANSWER, None, "dropped_dataless"
            ),
            "a name that belongs to the next data": whole(
                b"event: response.created\n\n"
                + sse(raw(CREATED).replace(b'": "', b'":"'))
                + named(spoken(1), lifecycle("completed", 2)),
                sse(raw(CREATED).replace(b'": "', b'":"'), name="response.created")
                + named(spoken(1), lifecycle("completed", 2)),
                RESPONSES,
                "reattached_event_name",
            ),
        },
        {
            "the same as text": passes(says("retry: 3000\n\nid: 7\n\nevent: ping\n\n")),
            "fields of JSON": passes(sse({**ROLE, "retry": 3, "event": "x"}, HI, STOP) + DONE),
        },
    ),
    Case(
        *(20, "unicode-line-separator"),
        {
            "of every kind": whole(
                _spaced("a\u2028b\u2029c\u0085d"),
                _spaced("a\\u2028b\\u2029c\\u0085d").replace(b"\\\\u", b"\\u"),
                None,
                "escaped_separator",
            ),
            "in a response": whole(
                named(CREATED)
                + sse('{"type":"response.x","delta":"\u2028"}'.encode(), name="response.x")
                + named(lifecycle("completed", 2)),
                named(CREATED)
                + sse('{"type":"response.x","delta":"\\u2028"}', name="response.x")
                + named(lifecycle("completed", 2)),
                RESPONSES,
                "escaped_separator",
            ),
            "and control characters, which JSON forbids": whole(
                sse(ROLE, raw(chunk(content="H\ti")).replace(b"\\t", b"\t"), STOP) + DONE,
                sse(ROLE, raw(chunk(content="H\ti")).replace(b"\\t", b"\\u0009"), STOP) + DONE,
                None,
                "escaped_control",
            ),
        },
        {
            "escaped ones": passes(says("a\u2028b\u2029c\u0085d")),
            "their neighbours": passes(_spaced("a\u2027b\u202ac\u00a0d\u00e9 \u2705")),
        },
    ),
    Case(
        *(21, "final-event-no-blank-line"),
        {
            "one line end": whole(ANSWER[:-1], ANSWER, None, "closed_final_event"),
            "none": whole(ANSWER[:-2], ANSWER, None, "closed_final_event"),
            "of a response": whole(RESPONSE[:-2], RESPONSE, RESPONSES, "closed_final_event"),
            "of the last chunk, without an end mark": whole(
                sse(ROLE, HI, STOP)[:-1], ANSWER, None, *("closed_final_event", "added_done")
            ),
            "of half an event": breaks(BEGUN + sse(STOP)[:-9], BEGUN, "cut_mid_event"),
        },
        {"a blank line that comes late": passes(ANSWER)},
        tests=(
            "tests/core/test_attempt.py::test_after_a_broken_end_only_a_terminal_event_is_used",
        ),
        alike_tests=(
            "tests/e2e/test_recorded_streams.py::test_a_stream_byte_by_byte_arrives_unchanged_and_is_counted_once",
        ),
    ),
    Case(
        *(26, "huge-event-line"),
        {
            "half a mebibyte": passes(sse(ROLE, chunk(content="x" * 2**19), STOP) + DONE),
            "more than the cap": breaks(
                BEGUN + _sized(CAP + 1), BEGUN, "oversize_event", limits={"max_event_bytes": CAP}
            ),
            "more than the cap, first": Tale(
                (Part(_sized(CAP + 1)),),
                b"",
                Replied(502, "stream_incomplete"),
                ("oversize_event/before_content/surfaced",),
                limits={"max_event_bytes": CAP},
            ),
        },
        {
            "as much as the cap": passes(
                sse(ROLE) + _sized(CAP) + sse(STOP) + DONE, max_event_bytes=CAP
            )
        },
    ),
    Case(
        *(27, "missing-blank-line-between"),
        {
            "between two chunks": whole(
                sse(ROLE)[:-1] + sse(HI, STOP) + DONE, ANSWER, None, "split_events"
            ),
            "before the end mark": whole(
                sse(ROLE, HI, STOP)[:-1] + DONE, ANSWER, None, "split_events"
            ),
            "between two events of a response": whole(
                named(CREATED)[:-1] + named(spoken(1), lifecycle("completed", 2)),
                RESPONSE,
                RESPONSES,
                "split_events",
            ),
        },
        {"the same as text": passes(says('{"a":1}\ndata: {"b":2}'))},
    ),
    Case(
        *(28, "no-space-after-colon"),
        {
            "of chunks": whole(ANSWER.replace(b"data: ", b"data:"), ANSWER, None, "data_space"),
            "of a response": whole(
                RESPONSE.replace(b"data: ", b"data:").replace(b"event: ", b"event:"),
                RESPONSE,
                RESPONSES,
                "data_space",
            ),
        },
        {"the same as text": passes(says('data:{"a":1}\n\ndata:[DONE]'))},
    ),
    Case(
        *(30, "utf8-split"),
        {
            "characters that are split over reads": passes(_spaced("\u00e4\u20ac\U0001f389")),
            "half a character": whole(
                sse(ROLE, raw(HI).replace(b"Hi", b"H\xe4\xb8i"), STOP) + DONE,
                sse(ROLE, raw(HI).replace(b"Hi", "H\ufffdi".encode()), STOP) + DONE,
                None,
                "replaced_utf8",
            ),
            "a cut inside of one": breaks(BEGUN + b'data: {"a":"\xe4\xb8', BEGUN, "cut_mid_event"),
        },
        {"the sign for half a character": passes(_spaced("H\ufffdi"))},
        tests=(
            "tests/e2e/test_recorded_streams.py::test_a_stream_byte_by_byte_arrives_unchanged_and_is_counted_once",
        ),
    ),
    Case(
        *(37, "crlf-cr"),
        {
            "CR LF": whole(ANSWER.replace(b"\n", b"\r\n"), ANSWER, None, "line_ends"),
            "CR alone": whole(ANSWER.replace(b"\n", b"\r"), ANSWER, None, "line_ends"),
            "all of them": whole(
                sse(ROLE).replace(b"\n\n", b"\n\r\n")
                + sse(HI).replace(b"\n", b"\r")
                + sse(STOP)
                + DONE,
                ANSWER,
                None,
                "line_ends",
            ),
        },
        {"the same as text": passes(says("a\r\n\r\ndata: {}\r\r"))},
    ),
    Case(
        *(44, "multi-json-per-event"),
        {
            "in one line": whole(
                sse(ROLE)[:-2] + raw(HI) + b"\n\n" + sse(STOP) + DONE, ANSWER, None, "split_events"
            ),
            "in two": whole(
                sse(ROLE)[:-1] + raw(HI) + b"\n\n" + sse(STOP) + DONE,
                ANSWER,
                None,
                *("split_events", "data_prefix"),
            ),
            "with something left": breaks(
                BEGUN + sse(raw(HI) + b'{"choices":[') + DONE, BEGUN, "malformed_event"
            ),
        },
        {"the same as text": passes(says('{"a":1}{"b":2}\n{"c":3}'))},
    ),
    Case(
        *(50, "double-data-prefix"),
        {
            "of chunks": whole(
                ANSWER.replace(b"data: ", b"data: data: "), ANSWER, None, *("data_prefix",) * 4
            ),
            "before something else": breaks(
                BEGUN + b"data: data: what?\n\n" + DONE, BEGUN, "malformed_event"
            ),
        },
        {"the same as text": passes(says("data: data: {}"))},
    ),
    Case(
        *(51, "data-colon-keepalive"),
        {
            "between events": whole(
                b"data: : keepalive\n\n"
                + BEGUN
                + b"data: : OPENROUTER PROCESSING\n\n"
                + sse(STOP)
                + DONE,
                ANSWER,
                None,
                *("dropped_comment",) * 2,
            )
        },
        {"the same as text": passes(says(": keepalive"))},
    ),
    Case(
        *(52, "json-split-over-events"),
        {
            "the second part without a prefix": whole(
                _split(b"\n\n"), ANSWER, None, "joined_events"
            ),
            "the second part with one": whole(_split(b"\n\ndata: "), ANSWER, None, "joined_events"),
            "no second part": breaks(
                BEGUN + b"data: " + raw(STOP)[:40] + b"\n\n" + DONE, BEGUN, "malformed_event"
            ),
            "a second part that does not fit": breaks(
                BEGUN + b"data: " + raw(STOP)[:40] + b"\n\ndata: xyz\n\n" + DONE,
                BEGUN,
                "malformed_event",
            ),
            "before content": restarted(
                Part(sse(ROLE) + b"data: " + raw(HI)[:40] + b"\n\n" + sse(STOP)),
                "malformed_event",
                ANSWER,
            ),
        },
        {
            "two texts that are halves of JSON": passes(
                sse(ROLE, chunk(content='{"a":'), chunk(content="1}"), STOP) + DONE
            )
        },
    ),
    Case(
        *(53, "multi-line-data"),
        {
            "printed prettily": whole(
                sse(ROLE) + PRETTY + b"\n" + sse(STOP) + DONE,
                sse(ROLE, json.dumps(HI, indent=1).replace("\n", " "), STOP) + DONE,
                None,
                "joined_lines",
            ),
            "cut inside of a text": whole(
                sse(ROLE) + sse(HI).replace(b"Hi", b"H\ndata: i") + sse(STOP) + DONE,
                ANSWER,
                None,
                "joined_lines",
            ),
        },
        {"the same as text": passes(says('{\ndata: "a": 1\ndata: }'))},
    ),
    Case(
        *(59, "no-delimiter-flood"),
        {
            "after content": breaks(
                BEGUN + b'data: {"x":"' + b"x" * CAP,
                BEGUN,
                "oversize_event",
                limits={"max_event_bytes": CAP},
            ),
            "first": Tale(
                (Part(b"x" * (CAP + 1)),),
                b"",
                Replied(502, "stream_incomplete"),
                ("oversize_event/before_content/surfaced",),
                limits={"max_event_bytes": CAP},
            ),
        },
        {
            "much in many events": passes(
                sse(ROLE, *(chunk(content="x" * 999) for _ in range(80)), STOP) + DONE,
                max_event_bytes=CAP,
            )
        },
        tests=("tests/core/test_repairs.py::test_a_flood_is_judged_in_one_pass",),
    ),
    Case(
        *(60, "done-variants"),
        {
            "without brackets": whole(
                sse(ROLE, HI, STOP) + b"data: DONE\n\n", ANSWER, None, "done_form"
            ),
            "without a space": whole(
                sse(ROLE, HI, STOP) + b"data:[DONE]\n\n", ANSWER, None, "data_space"
            ),
            "with something behind it": whole(
                sse(ROLE, HI, STOP) + b"data: [DONE] \n\n", ANSWER, None, "done_form"
            ),
            "twice": whole(ANSWER + DONE, ANSWER),
            "in a response": whole(
                SPEAKING + DONE + named(lifecycle("completed", 2)),
                RESPONSE,
                RESPONSES,
                "dropped_done",
            ),
            "behind a response": whole(RESPONSE + DONE, RESPONSE, RESPONSES),
        },
        {
            "the same as text": passes(
                sse(ROLE, chunk(content="DONE"), chunk(content="[DONE]"), STOP) + DONE
            )
        },
    ),
    Case(
        *(64, "bom"),
        {
            "before a chat": whole(b"\xef\xbb\xbf" + ANSWER, ANSWER, None, "bom"),
            "before a response": whole(b"\xef\xbb\xbf" + RESPONSE, RESPONSE, RESPONSES, "bom"),
        },
        {"the same as text": passes(_spaced("\ufeff"))},
    ),
    Case(
        *(65, "nul-byte"),
        {
            "before an event": whole(
                sse(ROLE) + b"\0" + sse(HI, STOP) + DONE, ANSWER, None, "dropped_nul"
            ),
            "behind its data": whole(
                sse(ROLE, HI)[:-2] + b"\0\n\n" + sse(STOP) + DONE, ANSWER, None, "dropped_nul"
            ),
            "inside of JSON": breaks(
                BEGUN + sse(STOP).replace(b"stop", b"st\0op") + DONE, BEGUN, "malformed_event"
            ),
            "where malformed events are skipped": whole(
                sse(ROLE, HI) + sse(HI).replace(b"Hi", b"H\0i") + sse(STOP) + DONE,
                ANSWER,
                None,
                "dropped_malformed",
                skip_malformed=True,
            ),
        },
        {"an escaped one": passes(says("a\0b"))},
    ),
)
