"""Inputs to begin with: the invented streams, whole and broken in the ways that streams break.

Knows which knobs make which case. Must not know what should come of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from splices import ANSWERS, again
from support import DONE, STREAMS

from fuzz import asking, driving, joining
from fuzz.cases import case

_CUT, _RESET, _DOCUMENT = 1, 2, 6
_REFUSED = next(at for at, how in enumerate(driving.ANSWERS) if how.end.status == 400)
_FRAMES: dict[str, Callable[[bytes], bytes]] = {
    "crlf": lambda body: body.replace(b"\n", b"\r\n"),
    "cr": lambda body: body.replace(b"\n", b"\r"),
    "bom": lambda body: b"\xef\xbb\xbf" + body,
    "ids": lambda body: body.replace(b"data: ", b"id: 7\nretry: 1\ndata: "),
    "comments": lambda body: body.replace(b"\n\n", b"\n\n: keepalive\n\n"),
    "no space": lambda body: body.replace(b"data: ", b"data:"),
    "name alone": lambda body: body.replace(b"\ndata: ", b"\n\ndata: "),
    "zeros": lambda body: body.replace(b"\n\n", b"\n\n\0\0"),
}
"""What is done to the framing of a whole stream."""

_BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "no end": lambda body: body.removesuffix(b"\n\n"),
    "no done": lambda body: body.removesuffix(DONE),
    "bare done": lambda body: body.replace(b"[DONE]", b"DONE"),
    "malformed": lambda body: _with(body, b"data: {oops}\n\n"),
    "error": lambda body: _with(body, b'data: {"error":{"message":"x","code":503}}\n\n'),
    "named error": lambda body: _with(body, b'event: error\ndata: {"message":"x"}\n\n'),
    "plain error": lambda body: _with(body, b"data: error: overloaded\n\n"),
    "two in one": lambda body: body.replace(b"}\n\ndata: {", b"}\ndata: {", 2),
    "in two": lambda body: body.replace(b'":"', b'":\n\ndata: "', 1),
    "twice": lambda body: _with(body, _block(body)),
    "foreign": lambda body: _with(body, b'event: ping\ndata: {"type":"ping"}\n\n'),
    "page": lambda body: b"<html><h1>502 Bad Gateway</h1></html>",  # noqa: ARG005 - the body went
    "nothing": lambda body: b"",  # noqa: ARG005 - the same
    "latin": lambda body: body.replace(b"e", b"\xe9", 30),
    "separator": lambda body: body.replace(b" ", b"\xe2\x80\xa8", 3),
}
"""What is done to a whole stream."""

_DATA = (
    *(b"[DONE]", b"DONE", b"data: {}", b'data: data: {"a":1}', b'{"a":\n1}', b'{"a":1}\n{"b":2}'),
    *(b'{"a":1}[DONE]', b'{"a":"\x01\x0b"}', b": keepalive", b'\0{"a":1}\0', b'{"a":"\xff"}'),
    *(b'{"a":"\xe2\x80\xa8\xc2\x85"}', b"[1, 2]", b"error: no", b"<p>", b'{"type":"a.b"} {"c":3}'),
)
_HEADERS = (
    b"Authorization: Bearer k\nConnection: close, authorization, X-Own\nX-Own: 1\nVia: 1.1 a",
    b"Content-Type: text/event-stream\nSet-Cookie: a\nX-A: 1\nx-a: 2\nAlt-Svc: h3\nX-B: \xff",
    b"api-key: k\nTransfer-Encoding: chunked\nTE: trailers\nUpgrade: websocket\nX-C: a\rb\nExpect:",
)
_TARGETS = (
    *(b"/v1/chat/completions", b"/v1/models?key=k&limit=1", b"//evil.example/", b"/a%2F..;/b?c#d"),
    *(b"/openai/deployments/d/chat/completions?api-version=2", b"?a", b"http://evil.example/x"),
)
_ERRORS = (
    *(b'{"error":{"message":"x","type":"t","code":"rate_limit_exceeded"}}', b"error: overloaded"),
    *(b'{"type":"error","error":{"type":"overloaded_error"}}', b"<html><p>502 Bad Gateway</p>"),
    *(
        b'{"message":"x","code":500}',
        b'{"error":"quota"}',
        b'{"error":{"code":""}}',
        b'{"object":"error","code":40303}',
    ),
    *(b'{"response":{"error":{"code":"server_error"}}}', b'{"choices":[]}\ndata: [DONE]\n\n'),
)
_BODIES = (
    *(b'{"model":"m","stream":true,"n":2,"seed":1}', b'{"temperature":0,"store":false}', b"{"),
    *(
        b"stream=true\nn=3",
        b'{"n":0,"stream":1}',
        b'{"n":129}',
        b'{"background":true,"model":NaN,"stream_format":"sse"}',
        b"",
    ),
)


def _with(body: bytes, extra: bytes) -> bytes:
    """Put an event in the middle."""
    blocks = body.split(b"\n\n")
    half = len(blocks) // 2
    return b"\n\n".join(blocks[:half]) + b"\n\n" + extra + b"\n\n".join(blocks[half:])


def _block(body: bytes) -> bytes:
    blocks = body.split(b"\n\n")
    return blocks[len(blocks) // 2 - 1] + b"\n\n"


def shapes_of(stream: str) -> list[int]:
    """Return the numbers of the requests that an invented stream may be an answer to."""
    family = {"completions": "chat"}.get(stream.partition("-")[0], stream.partition("-")[0])
    return [at for at, asked in enumerate(asking.SHAPES) if asked.family == family]


def _splitter() -> Iterator[bytes]:
    yield case(b'id: 1\ndata:  {"a":1}\nevent:  x\n\ndata\ndata: 1\n\n', k0=1)
    for body in STREAMS.values():
        yield case(body)
    for number, change in enumerate(_FRAMES.values()):
        yield case(change(STREAMS["chat-comments"]), k0=number, k1=number, k2=1)
        yield case(change(STREAMS["responses-incomplete"]), k0=number * 7)


def _stream() -> Iterator[bytes]:
    for name, body in STREAMS.items():
        for shape in shapes_of(name):
            yield case(body, k0=shape, k14=9)
        shape = shapes_of(name)[0]
        half = body[: len(body) // 2]
        for end in (_CUT, _RESET):
            yield case(half, body, k0=shape, k9=end, k6=2)
        for knob, value in ((12, 1), (13, 8), (13, 9), (8, 1), (8, 2), (3, 255), (9, _REFUSED)):
            yield case(body, k0=shape, **{f"k{knob}": value})
    for number, change in enumerate((*_FRAMES.values(), *_BROKEN.values())):
        for name in ("chat-text", "responses-text", "images-partial", "threads-run"):
            body = change(STREAMS[name])
            yield case(body, STREAMS[name], k0=shapes_of(name)[0], k9=number % 3, k14=1)
    for shape, document in _documents():
        yield case(document, k0=shape, k9=_DOCUMENT)


def _documents() -> Iterator[tuple[int, bytes]]:
    message = {"role": "assistant", "content": "Hi"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    item = {"id": "msg_1", "type": "message", "content": [{"type": "output_text", "text": "Hi"}]}
    answers: dict[str, dict[str, Any]] = {
        "chat": {"id": "c", "choices": [choice], "usage": {"total_tokens": 1}},
        "responses": {"id": "r", "object": "response", "status": "completed", "output": [item]},
        "images": {"created": 1, "data": [{"b64_json": "x"}]},
        "audio": {"text": "Hi"},
    }
    for family, answer in answers.items():
        yield shapes_of(family)[0], json.dumps(answer).encode()
        yield shapes_of(family)[0], json.dumps({**answer, "error": {"message": "x"}}).encode()


def _joining() -> Iterator[bytes]:
    for name, answer in ANSWERS.items():
        places = [
            at
            for at, asked in enumerate(joining.SHAPES)
            if asked.request.path == answer.request.path
        ]
        shape = places[-1] if "two" in name else places[0]
        for cut in (answer.ends[answer.content - 1], answer.ends[-3] - 9):
            yield case(answer.body[:cut], answer.body, k0=shape)
            yield case(answer.body[:cut], again(answer, "lumps"), k0=shape, k14=1)
        yield case(answer.body[:cut], answer.body[: cut + 20], k0=shape, k10=1)


def _request() -> Iterator[bytes]:
    for number, body in enumerate(_BODIES):
        yield case(b"/chat/completions?a=1", body, k1=number % 3)
        yield case(b"/responses/resp_1?stream=true&starting_after=4", body, k0=1, k1=number % 2)


SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "splitter": _splitter,
    "stream": _stream,
    "joining": _joining,
    "repairs": lambda: (case(data, b'"rest"}', k0=at % 4) for at, data in enumerate(_DATA)),
    "headers": lambda: (case(some, k0=at % 2, k1=at // 2) for at in range(4) for some in _HEADERS),
    "targets": lambda: (case(target, k0=at, k1=at) for at in range(4) for target in _TARGETS),
    "request": _request,
    "errors": lambda: (case(error, k0=at, k1=at * 3) for at in range(4) for error in _ERRORS),
}
"""By property: what a search begins with, beside the corpus."""
