"""What both ends of the benchmark say: what is asked for, and what the events look like.

Knows the bytes of requests and events, and the mark by which the load generator finds each
event's time. Must not know sockets, loops or systems.

What the upstream shall send stands in the request's ``model``, because proxies pass a body on:
``bench:events=1000;rate=100;size=330``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Literal

PREFIX = "bench:"

MARK = b'"@t'
"""Begins the content of each event; 19 digits follow: monotonic nanoseconds, or zeros."""

STAMP = len(MARK) + 19
"""Bytes of the mark with its digits."""

DONE = b"data: [DONE]\n\n"
RELEASE = "/bench/release"
"""Where the upstream is told to go on with its idle streams."""

STATS = "/bench/stats"
"""Where the upstream tells how late it was, and its own CPU time."""

_PAD = b" and so the words go on, one after another, until the event is as large as it shall be,"

_FULL = (
    b'data: {"id":"chatcmpl-Bk3XvQm9TqPzWn4RcYs7LdHfJg2Ae","object":"chat.completion.chunk",'
    b'"created":1764000000,"model":"bench-model-2025-11-24","system_fingerprint":"fp_1a2b3c4d5e",'
    b'"choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]}\n\n'
)
_SMALL = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"b",'
    b'"choices":[{"index":0,"delta":%b,"finish_reason":%b}]}\n\n'
)
_SMALLEST_FULL = 310
"""Bytes; events below it are told without what servers could leave out."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What one request asks the upstream for.

    ``events`` are those with content; the opener, the finish and ``[DONE]`` come on top. ``rate``
    is in events per second, 0 is unpaced. ``size`` is bytes of one event. ``kind`` is a stream, one
    JSON object, or a stream that stops after its first event until it is released.
    """

    events: int = 1000
    rate: float = 0.0
    size: int = 330
    chunk: Literal["event", "read"] = "event"
    kind: Literal["stream", "json", "idle"] = "stream"

    def model(self) -> str:
        """Return the name that asks for it."""
        return PREFIX + ";".join(f"{name}={value}" for name, value in asdict(self).items())

    @classmethod
    def of(cls, model: str) -> Ask:
        """Read such a name. Raises ValueError for any other, KeyError for an unknown part."""
        if not model.startswith(PREFIX):
            raise ValueError(f"not a model of the benchmark: {model!r}")
        types = {"events": int, "size": int, "rate": float, "chunk": str, "kind": str}
        # Commas are for a command line; in a model's name LiteLLM takes them for several models.
        told = model[len(PREFIX) :].replace(",", ";").split(";")
        parts = (part.partition("=") for part in told if part)
        return cls(**{name: types[name](value) for name, _, value in parts})

    @property
    def timed(self) -> bool:
        """Tell whether the events say when they were due."""
        return self.kind == "idle" or self.rate > 0

    @property
    def marks(self) -> int:
        """How many marks a whole answer has."""
        return {"stream": self.events, "json": 1, "idle": 2}[self.kind]


@lru_cache(maxsize=64)
def halves(size: int) -> tuple[bytes, bytes]:
    """Return what stands before and after the 19 digits of an event of ``size`` bytes.

    An event cannot be smaller than its fields; the smallest has about 145 bytes.
    """
    form = _FULL if size >= _SMALLEST_FULL else _SMALL
    empty = form % (b'{"content":' + MARK + b"#" + b'"}', b"null")
    pad = size - (len(empty) - 1 + 19)
    text = (_PAD * (pad // len(_PAD) + 1))[:pad] if pad > 0 else b""
    before, _, after = empty.partition(b"#")
    return before, text + after


def event(size: int, at_ns: int = 0) -> bytes:
    """Return one event with content that tells ``at_ns``."""
    before, after = halves(size)
    return b"%b%019d%b" % (before, at_ns, after)


def opener(size: int) -> bytes:
    """Return the event that begins a stream of such events."""
    form = _FULL if size >= _SMALLEST_FULL else _SMALL
    return form % (b'{"role":"assistant","content":""}', b"null")


def finish(size: int) -> bytes:
    """Return the event that finishes the answer."""
    form = _FULL if size >= _SMALLEST_FULL else _SMALL
    return form % (b"{}", b'"stop"')


def document() -> bytes:
    """Return a whole answer of about 1 KB in one JSON object."""
    text = '"' + (MARK[1:] + b"0" * 19 + _PAD * 8).decode() + '"'
    return (
        '{"id":"chatcmpl-Bk3XvQm9TqPzWn4RcYs7LdHfJg2Ae","object":"chat.completion",'
        '"created":1764000000,"model":"bench-model-2025-11-24","choices":[{"index":0,"message":'
        f'{{"role":"assistant","content":{text},"refusal":null}},"logprobs":null,'
        '"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":140,'
        '"total_tokens":152}}'
    ).encode()


def chunk(data: bytes) -> bytes:
    """Return one HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def post(path: str, host: str, body: bytes, header: str = "") -> bytes:
    """Return one request; ``header`` are more of its lines, separated by ``|``."""
    more = "".join(f"{line.strip()}\r\n" for line in header.split("|") if line)
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer sk-bench\r\n"
        "Accept: application/json\r\nContent-Type: application/json\r\nUser-Agent: bench\r\n"
        f"{more}Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def request(ask: Ask, host: str, path: str = "/v1/chat/completions", header: str = "") -> bytes:
    """Return the request that asks for it; ``host`` and ``header`` are for its head."""
    told = {
        "model": ask.model(),
        "messages": [{"role": "user", "content": "How fast do streams go?"}],
        "stream": ask.kind != "json",
    }
    return post(path, host, json.dumps(told, separators=(",", ":")).encode(), header)
