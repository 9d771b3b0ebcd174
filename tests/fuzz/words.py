"""The words of the languages spoken here: what a change of some bytes is likely to need.

Knows tokens of event streams, of JSON, of the endpoints, and of headers; no grammar.
"""

from __future__ import annotations

from typing import Any

from fuzz.cases import SEPARATOR

FRAMING = (
    *(
        b"data: ",
        b"data:",
        b"data:  ",
        b"event: ",
        b"id: 1\n",
        b"retry: 5\n",
        b": keepalive\n\n",
        b"\n\n",
    ),
    *(b"\n", b"\r\n", b"\r", b"\xef\xbb\xbf", b"\0", b" ", b"\xff", b"\xe2\x80\xa8", b"\xc2\x85"),
    *(
        b"data: [DONE]\n\n",
        b"[DONE]",
        b"DONE",
        b"event: error\n",
        b"event: done\n",
        b"data: data: ",
    ),
    *(b"<html>", b"error: overloaded", b"data: : keepalive\n\n", b"\x01", b"\x0b"),
)
VALUES = (
    *(b"null", b"true", b"0", b"-1", b"1e999", b"NaN", b'""', b'"x"', b"{}", b"[]", b"{ }"),
    *(b'"\\ud83d"', b'"\\ude00"', b'"\\u0000"', b'"\\u2028"', b"9" * 30),
)
JSON = (*(b"{", b"}", b"[", b"]", b",", b'"', b":", b"\\"), *VALUES)
FIELDS = (
    *(b'"choices":', b'"index":1', b'"delta":{"content":"Hi"}', b'"finish_reason":"stop"'),
    *(b'"role":"assistant"', b'"text":"Hi"', b'"usage":{"total_tokens":1}', b'"object":"error"'),
    *(b'"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{"}}]',),
    *(b'"error":{"message":"x"}', b'"error":null', b'"error":"x"', b'"code":"rate_limit"'),
    *(b'"code":"context_length_exceeded"', b'"code":"content_filter"', b'"code":500'),
    *(b'"type":"error"', b'"type":"response.created"', b'"type":"response.completed"'),
    *(b'"type":"response.failed"', b'"type":"response.incomplete"', b'"type":"response.queued"'),
    *(b'"type":"response.output_text.delta"', b'"type":"response.output_item.added"'),
    *(b'"response":{"id":"resp_15"}', b'"sequence_number":3', b'"item":{"type":"message"}'),
    *(b'"output_index":0', b'"delta":"Hi"', b'"item":{"type":"function_call"}', b'"id":"x"'),
    *(b'"type":"image_generation.completed"', b'"type":"transcript.text.done"'),
    *(b'"type":"agent.session.idle"', b'"object":"thread.run"', b'"expires_at":1'),
    *(b'"object":"chat.completion"', b'"message":{"content":"Hi"}', b'"status":"completed"'),
)
HEADERS = (
    *(b"Connection: close, authorization\n", b"Connection:", b"Authorization: k\n", b"TE: x\n"),
    *(b"api-key: x\n", b"Via: 1.0 a\n", b"Cookie: a\n", b"Set-Cookie: a\n", b"Content-Type: a\n"),
    *(b"Host: localhost\n", b"Origin: http://x\n", b"Upgrade: websocket\n", b"keep-alive", b", "),
    *(
        b"Transfer-Encoding: chunked\n",
        b"Accept-Encoding: gzip\n",
        b"X-A: 1\n",
        b"\x80",
        b"\xc3\xa9",
    ),
)
TARGETS = (
    *(b"/", b"//", b"?", b"&", b"=", b"#", b"@", b":", b"%2f", b"%", b"\\", b"..", b"[", b"]"),
    *(b"/v1/chat/completions", b"/responses/", b"/openai/deployments/d", b"/v1beta/models/m"),
    *(b"api-key=k", b"key=", b"access_token=t", b"stream=true", b"starting_after=7", b"http://"),
    *(b"/agents/sessions/s/events", b"/images/edits", b'"stream":true', b'"n":2', b'"seed":1'),
    *(
        b'"n":0',
        b'"n":-1',
        b'"n":129',
        b'"temperature":0',
        b'"model":"m"',
        b'"background":true',
        b'"store":false',
    ),
)

STREAMS = (*FRAMING, *JSON, *FIELDS, SEPARATOR)
OF = {
    "splitter": (*FRAMING, b"{}", b'"type":"x"'),
    "stream": STREAMS,
    "joining": STREAMS,
    "repairs": (*FRAMING, *JSON, SEPARATOR),
    "headers": HEADERS,
    "targets": (*TARGETS, *HEADERS, SEPARATOR),
    "request": (*TARGETS, *JSON, b"\xff", SEPARATOR),
    "errors": (*FRAMING, *JSON, *FIELDS),
}
"""By property."""

ODD: tuple[Any, ...] = (
    *(
        None,
        "",
        0,
        -1,
        1,
        2**70,
        1.5,
        True,
        False,
        {},
        [],
        "x",
        "stop",
        "error",
        "\ud83d",
        "\ude00",
    ),
    *([None], [{}], [[]], {"message": "x"}, {"": ""}, float("nan"), float("inf"), "\u2028", "\0"),
)
"""Values that may stand where other ones are expected."""
