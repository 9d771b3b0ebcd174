"""Scenarios of whole answers in a form, or with an ending, that breaks some clients.

Knows names, repairs and expectations. The forms are made in ``misbehaviour``.
"""

from __future__ import annotations

from proxy.demo import misbehaviour as do
from proxy.demo.answers import EVENT_STREAM, JSON
from proxy.demo.scenario import CHATS, Scenario

GZIPPED = (*EVENT_STREAM, ("Content-Encoding", "gzip"))

ENDINGS = (
    Scenario(
        "ws-missing-done",
        "added_done",
        "complete",
        do.rewritten(do.without_done),
        "A finished answer without [DONE].",
        endpoints=CHATS,
    ),
    Scenario(
        "ws-missing-last-blank-line",
        "closed_final_event",
        "complete",
        do.rewritten(do.unclosed),
        "The last event lacks its blank line.",
    ),
    Scenario(
        "ws-cut-after-terminal",
        "cut_between_events",
        "complete",
        do.whole_then("fin"),
        "The connection closes without the last chunk after a whole answer.",
    ),
    Scenario(
        "ws-reset-after-terminal",
        "reset",
        "complete",
        do.whole_then("reset"),
        "The connection is reset after a whole answer.",
    ),
    Scenario(
        "ws-terminal-then-open",
        "",
        "complete",
        do.whole_then("hold"),
        "A whole answer, but the body is never ended.",
    ),
)

FORMS = (
    Scenario(
        "ws-ok",
        "",
        "complete",
        do.healthy,
        "A healthy stream.",
    ),
    Scenario(
        "ws-slow",
        "",
        "complete",
        do.rewritten(do.slow),
        "A healthy stream with 0.3 s before each event.",
    ),
    Scenario(
        "ws-one-byte-writes",
        "",
        "complete",
        do.rewritten(do.one_byte_writes),
        "Every byte comes as a chunk of its own.",
    ),
    Scenario(
        "ws-crlf",
        "line_ends",
        "complete",
        do.rewritten(do.crlf),
        "Lines end with CR LF.",
    ),
    Scenario(
        "ws-bom",
        "bom",
        "complete",
        do.rewritten(do.bom),
        "The stream begins with a byte order mark.",
    ),
    Scenario(
        "ws-comments",
        "dropped_comment",
        "complete",
        do.rewritten(do.between(b": PROCESSING\n\n")),
        "Comments stand between the events.",
    ),
    Scenario(
        "ws-dataless-event",
        "dropped_dataless",
        "complete",
        do.rewritten(do.between(b"event: ping\n\n")),
        "Events without data stand between the events.",
    ),
    Scenario(
        "ws-retry-field",
        "stripped_id_retry",
        "complete",
        do.rewritten(do.between(b"retry: 3000\n\n")),
        "A retry field stands alone between the events.",
    ),
    Scenario(
        "ws-id-field",
        "stripped_id_retry",
        "complete",
        do.rewritten(do.between(b"id: 7\n\n: ping\n\n")),
        "An id field and a comment stand between the events.",
    ),
    Scenario(
        "ws-double-data-prefix",
        "data_prefix",
        "complete",
        do.rewritten(do.double_prefix),
        "Every payload is prefixed by data: twice.",
    ),
    Scenario(
        "ws-missing-blank-line",
        "split_events",
        "complete",
        do.rewritten(do.no_blank_line),
        "Every other blank line is missing.",
    ),
    Scenario(
        "ws-several-json",
        "split_events",
        "complete",
        do.rewritten(do.several_json),
        "Every event holds two JSON objects.",
    ),
    Scenario(
        "ws-multi-line-data",
        "joined_lines",
        "complete",
        do.rewritten(do.multi_line),
        "JSON printed prettily over several data lines.",
    ),
    Scenario(
        "ws-unicode-separators",
        "escaped_separator",
        "complete",
        do.rewritten(do.as_is, text=do.SEPARATED_TEXT),
        "Raw U+2028, U+2029 and U+0085 inside the text.",
        text=do.SEPARATED_TEXT,
    ),
    Scenario(
        "ws-bad-utf8",
        "replaced_utf8",
        "complete",
        do.rewritten(do.bad_utf8, text=do.BAD_TEXT),
        "A byte that is no UTF-8 inside the text.",
        text=do.BAD_TEXT,
    ),
    Scenario(
        "ws-wrong-content-type",
        "set_content_type",
        "complete",
        do.rewritten(do.as_is, headers=JSON),
        "An event stream that calls itself application/json.",
    ),
    Scenario(
        "ws-gzip",
        "decoded_body",
        "complete",
        do.rewritten(do.gzipped, headers=GZIPPED),
        "A compressed stream, although nobody asked for it.",
    ),
)
