"""Captured bodies, one for each form of each fault and repair that a body can show.

Knows bytes, what an application should have had of them, and short names for what was found.
What the linter finds is said by ``test_lint``, what the SDKs do by ``test_check_sdks``.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from support import DONE, chunk, lifecycle, raw, spoken, sse

from proxy.lint.verdict import Verdict

Payload = dict[str, Any]
Headers = tuple[tuple[str, str], ...]

EVENT_STREAM = (("Content-Type", "text/event-stream"),)
OVERSIZE = 16 * 2**20 + 1


def head(status: int = 200, headers: Headers = EVENT_STREAM) -> bytes:
    """Write a head as ``curl -i`` does."""
    lines = [f"HTTP/1.1 {status} OK", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode()


@dataclass(frozen=True)
class Capture:
    """A body, and the payloads that a client should have of it.

    ``key`` is what is to be found in it, as in ``SURVIVAL``; empty: nothing. ``status`` and
    ``headers`` are those that it came with.
    """

    key: str
    body: bytes
    payloads: tuple[Payload, ...]
    family: str = "chat"
    headers: Headers = EVENT_STREAM
    status: int = 200

    @property
    def captured(self) -> bytes:
        """What a file has of it: the head as well, where that says something."""
        usual = self.status == 200 and self.headers == EVENT_STREAM
        return self.body if usual else head(self.status, self.headers) + self.body


ROLE, HI, THERE = chunk(role="assistant", content=""), chunk(content="Hi"), chunk(content=" é")
STOP = chunk(finish="stop")
CHAT = (ROLE, HI, THERE, STOP)
OPENED = (ROLE, HI)
WHOLE = sse(*CHAT) + DONE

RESPONSE = (
    lifecycle("created", 0),
    lifecycle("in_progress", 1),
    spoken(2, "Hi"),
    spoken(3, " there"),
    lifecycle("completed", 4, status="completed"),
)


def keys(verdict: Verdict) -> list[str]:
    """Return what was found, as the keys of the table of SDKs."""
    return [f"{f.name}/{f.form}" if f.form else f.name for f in verdict.findings]


def places(verdict: Verdict) -> dict[str, int]:
    """Return where each was found first."""
    return dict(zip(keys(verdict), (finding.at for finding in verdict.findings), strict=True))


def named(*events: Payload) -> bytes:
    """Write Responses events under their names."""
    return b"".join(sse(event, name=event["type"]) for event in events)


def gzipped(body: bytes) -> bytes:
    """Compress a body."""
    packer = zlib.compressobj(wbits=31)
    return packer.compress(body) + packer.flush()


def _chat(key: str, body: bytes, *payloads: Payload, **more: Any) -> Capture:
    return Capture(key, body, payloads or CHAT, **more)


def _response(key: str, body: bytes, *payloads: Payload) -> Capture:
    return Capture(key, body, payloads or RESPONSE, "responses")


def _around(middle: bytes) -> bytes:
    """Write a whole answer with something between its events."""
    return sse(*OPENED) + middle + sse(THERE, STOP) + DONE


def _legal() -> Iterator[Capture]:
    yield _chat("", WHOLE)
    yield _response("", named(*RESPONSE))
    yield _response("", named(*RESPONSE) + DONE)
    yield _chat("dropped_comment", b": first\n\n" + _around(b": PROCESSING\n\n"))
    yield _chat("dropped_comment", b"".join(b": x\n" + sse(p) for p in CHAT) + DONE)
    yield _chat("data_space", WHOLE.replace(b"data: ", b"data:"))
    yield _chat("line_ends", WHOLE.replace(b"\n", b"\r\n"))
    yield _chat("line_ends", WHOLE.replace(b"\n", b"\r"))
    pretty = json.dumps(HI, indent=1).replace("\n", "\ndata: ").encode()
    yield _chat("joined_lines", sse(ROLE) + sse(pretty) + sse(THERE, STOP) + DONE)
    separated = json.dumps(chunk(content="a\u2028b\u0085c"), ensure_ascii=False).encode()
    payload = json.loads(separated)
    yield _chat("escaped_separator", sse(separated, STOP) + DONE, payload, STOP)
    ids = b"".join(b"id: %d\nretry: 3000\n%b" % (at, sse(p)) for at, p in enumerate(CHAT))
    yield _chat("stripped_id_retry", ids + DONE)
    yield _chat("dropped_event_name", sse(*CHAT, name="chunk") + DONE)
    coded = (*EVENT_STREAM, ("Content-Encoding", "gzip"))
    yield _chat("decoded_body", gzipped(WHOLE), headers=coded)
    yield _chat("added_finish_reason", sse(*OPENED) + DONE, *OPENED)


def _framing() -> Iterator[Capture]:
    bom = b"\xef\xbb\xbf"
    yield _chat("bom", bom + WHOLE)
    yield _response("bom/name", bom + named(*RESPONSE))
    yield _chat("dropped_comment/data", _around(b"data: : keepalive\n\n"))
    yield _chat("dropped_comment/behind_id", b"id: 7\n" + _around(b": ping\n\n"))
    yield _chat("dropped_dataless", _around(b"event: ping\n\n"))
    yield _chat("dropped_dataless", _around(b"data:\n\n"))
    yield _chat("dropped_dataless/nothing", _around(b"event:\n\n"))
    yield _response("dropped_dataless", named(*RESPONSE) + b"event: ping\n\n")
    yield _chat("stripped_id_retry/alone", _around(b"retry: 3000\n\n"))
    yield _chat("stripped_id_retry/alone", _around(b"id: 7\n\n"))
    yield _chat("stripped_id_retry/blank", b"id: 7\n" + sse(ROLE) + b"\n" + sse(*CHAT[1:]) + DONE)
    split = b"event: response.in_progress\n\n" + sse(RESPONSE[1])
    yield _response("reattached_event_name", named(RESPONSE[0]) + split + named(*RESPONSE[2:]))
    yield _chat("split_events", sse(ROLE)[:-1] + sse(*CHAT[1:]) + DONE)
    yield _chat("split_events", sse(raw(ROLE) + raw(HI)) + sse(THERE, STOP) + DONE)
    yield _chat("split_events/bare", sse(raw(ROLE) + b"\n" + raw(HI)) + sse(THERE, STOP) + DONE)
    yield _chat("data_prefix/bare", sse(ROLE) + raw(HI) + b"\n\n" + sse(THERE, STOP) + DONE)
    yield _chat("data_prefix", _around(b"").replace(b"data: ", b"data: data: "))
    yield _chat("dropped_nul", WHOLE.replace(b"}\n\n", b"}\0\n\n", 1))
    yield _chat("dropped_nul/before", sse(ROLE) + b"\0" + sse(*CHAT[1:]) + DONE)
    yield _chat("dropped_nul/between", _around(b"\0\0\n\n"))
    yield _chat("set_content_type", WHOLE, headers=(("Content-Type", "application/json"),))
    half = raw(HI)
    yield _chat("joined_events", sse(ROLE, half[:40]) + sse(half[40:]) + sse(THERE, STOP) + DONE)


def _data() -> Iterator[Capture]:
    broken = raw(HI).replace(b"Hi", b"H\ndata: i")
    payloads = (ROLE, chunk(content="Hi"), STOP)
    yield _chat("joined_lines/string", sse(ROLE, broken, STOP) + DONE, *payloads)
    tab = raw(HI).replace(b"Hi", b"H\ti")
    yield _chat("escaped_control", sse(ROLE, tab, STOP) + DONE, ROLE, chunk(content="H\ti"), STOP)
    bad = raw(HI).replace(b"Hi", b"H\xffi")
    said = chunk(content="H\ufffdi")
    yield _chat("replaced_utf8", sse(ROLE, bad, STOP) + DONE, ROLE, said, STOP)
    nan = {**HI, "score": math.nan}
    yield _chat("nan_to_null", sse(ROLE, nan, STOP) + DONE, ROLE, nan, STOP)
    event = sse({"tool": "search"}, name="tool.progress")
    yield _chat("dropped_foreign_event", _around(event))
    yield _response("dropped_duplicate", named(*RESPONSE[:3], *RESPONSE[2:]))
    function = {"name": "f", "arguments": '{"a": '}
    call = chunk(tool_calls=[{"index": 0, "id": "c", "type": "function", "function": function}])
    stop, right = chunk(finish="tool_calls"), chunk(finish="length")
    yield _chat("rewrote_finish_reason", sse(ROLE, call, stop) + DONE, ROLE, call, right)


def _endings() -> Iterator[Capture]:
    yield _chat("added_done", sse(*CHAT))
    yield _chat("closed_final_event", sse(*CHAT)[:-1])
    yield _response("closed_final_event", named(*RESPONSE)[:-2])
    yield _chat("closed_final_event/done", WHOLE[:-1])
    yield _chat("done_form", sse(*CHAT, b"DONE"))
    yield _chat("done_form/more", sse(*CHAT, b"[DONE] "))
    early = named(*RESPONSE[:3]) + DONE + named(*RESPONSE[3:])
    yield _response("dropped_done", early)
    yield _chat("json_to_sse", raw(COMPLETION))


COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    ],
}

_TOLD = {"message": "The worker died.", "type": "server_error", "code": "server_error"}
_FLAT = {"type": "error", "sequence_number": 3, "code": "server_error", "message": "died"}
_FAILED = lifecycle("failed", 3, status="failed", error={"code": "server_error", "message": "x"})


def _errors() -> Iterator[Capture]:
    error = {"error": _TOLD}
    yield _chat("in_stream_error", sse(error), *CHAT)
    yield _chat("in_stream_error", sse(*OPENED, error) + DONE, *CHAT)
    yield _chat("in_stream_error", sse(*OPENED) + sse(error, name="error"), *CHAT)
    begun = named(*RESPONSE[:3])
    yield _response("in_stream_error/flat", begun + named(_FLAT))
    yield _response("in_stream_error/nameless", begun + sse(_FLAT))
    yield _response("in_stream_error/failed", begun + named(_FAILED))
    yield _response("in_stream_error", begun + named({**_FLAT, "error": _TOLD}))
    yield _chat("in_stream_error/text", sse(*OPENED, "error: out of memory"), *CHAT)
    yield _chat("in_stream_error/document", raw(error), *CHAT)
    yield _chat("http_status", raw(error), status=500)


def _cuts() -> Iterator[Capture]:
    yield _chat("clean_eof", sse(*OPENED))
    other = chunk(index=1, finish="stop")
    yield _chat("clean_eof", sse(*OPENED, other) + DONE, *OPENED, other, STOP)
    yield _response("clean_eof", named(*RESPONSE[:4]))
    yield _chat("cut_mid_event", sse(*CHAT)[:-20])
    yield _response("cut_mid_event", named(*RESPONSE)[:-20])
    yield _chat("cut_mid_event/field", sse(*OPENED) + b"dat")
    yield _response("cut_mid_event", named(*RESPONSE[:4]) + b"event: response.comp")
    cut = json.dumps(chunk(content="日"), ensure_ascii=False).encode().partition("日".encode()[2:])
    yield _chat("cut_mid_event/character", sse(*OPENED) + b"data: " + cut[0])
    yield _chat("cut_mid_event/stub", sse(*CHAT) + b"da")
    yield _chat("cut_mid_event/whole", sse(*CHAT) + b"data: [DO")
    yield _chat("empty_stream", b"")
    yield _chat("empty_stream", b": PROCESSING\n\n")
    yield _chat("empty_stream", DONE)
    yield _chat("malformed_event", _around(b'data: {"choices":[{"index":0\n\n'))
    yield _chat("malformed_event", _around(b"data: not json\n\n"))
    yield _chat("malformed_event/page", b"<!DOCTYPE html>\n<html><body>502</body></html>\n")
    yield _chat("malformed_event/document", raw(HI) + b"\n" + raw(STOP) + b"\n")
    yield _chat("cut_mid_event/document", raw(COMPLETION)[:-9])
    large = chunk(content="x" * OVERSIZE)
    yield _chat("oversize_event", sse(ROLE, large, STOP) + DONE, ROLE, large, STOP)


CAPTURES = (*_legal(), *_framing(), *_data(), *_endings(), *_errors(), *_cuts())
"""All of them. The first three have nothing that is worth a word."""
