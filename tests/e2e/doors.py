"""Every door at which a stream can be asked for: how one asks there, and what a whole answer is.

Knows requests as the SDKs write them, healthy answers, and how each endpoint's answers end. Must
not know faults, nor how the proxy reads any of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from e2e.wire import Pairs, Reply, call
from proxy.demo.answers import Asked
from proxy.demo.bodies import TEXT, Stream, stream_for
from proxy.demo.shapes import event, words

Form = Literal["json", "fields first", "file first", "query"]

BOUNDARY = "----formdata-b0undary"
FILE = b"RIFF\x00\xff" + b"--" + BOUNDARY.encode()[4:] + b"\r\n" + bytes(range(256))
"""With a line in it that is nearly a boundary."""


@dataclass(frozen=True)
class Door:
    """One way to ask for a stream.

    ``endpoint`` is the metrics' label, ``asks`` what the embedded upstream calls it. The last
    event is the ``terminal`` one, or a proper end of the body is needed as well; ``spare`` events
    of the end may be missing all the same. ``open_ended``: any proper end is one. ``opens`` says
    that openers are no content, ``again`` that an attempt can be repeated before any event.
    """

    name: str
    endpoint: str
    target: str
    asks: str = ""
    form: Form = "json"
    fields: dict[str, Any] = field(default_factory=lambda: {"stream": True}, hash=False)
    terminal: bool = True
    spare: int = 0
    open_ended: bool = False
    opens: bool = False

    @property
    def again(self) -> bool:
        """Whether the request can be sent again: its body was kept."""
        return self.form in {"json", "query"}

    @property
    def method(self) -> str:
        """The method of its requests."""
        return "GET" if self.form == "query" else "POST"

    def asked(self, model: str) -> Asked:
        """Return what the embedded upstream understands."""
        path = self.target.partition("?")[0]
        return Asked(self.asks or self.endpoint, model, path=path)

    def stream(self, model: str, attempt: int = 1, text: str = TEXT) -> Stream:
        """Return a healthy answer."""
        if self.endpoint == "other" and not self.asks:
            return _progress(model, attempt, text)
        return stream_for(self.asked(model), attempt, text)

    def body(self, model: str, **fields: Any) -> tuple[Pairs, bytes | None]:
        """Return the headers and the body of a request, with ``fields`` in place of its own."""
        told = {"model": model, **(fields or self.fields)}
        if self.form == "query":
            return (), None
        if self.form == "json":
            return [("Content-Type", "application/json")], json.dumps(told).encode()
        kind = ("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
        return [kind], multipart(told, file_first=self.form == "file first")

    async def ask(self, port: int, model: str, headers: Pairs = (), **fields: Any) -> Reply:
        """Ask for a stream on a connection of its own and read the whole answer."""
        kind, body = self.body(model, **fields)
        target = f"{self.target}?model={model}" if self.form == "query" else self.target
        return await call(port, target, body, method=self.method, headers=[*kind, *headers])


def multipart(fields: dict[str, Any], *, file_first: bool, file: bytes = FILE) -> bytes:
    """Write a form as openai-python does, fields first, or as openai-node, in any order."""
    told = [(name, json.dumps(v).strip('"').encode()) for name, v in fields.items()]
    parts = [_part(f'name="{name}"\r\n', value) for name, value in told]
    name = 'name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n'
    parts.insert(0 if file_first else len(parts), _part(name, file))
    return b"".join([*parts, b"--", BOUNDARY.encode(), b"--\r\n"])


def _part(named: str, value: bytes) -> bytes:
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; {named}\r\n"
    return head.encode() + value + b"\r\n"


def _progress(model: str, attempt: int, text: str) -> Stream:
    """Return a stream in a language that nobody knows."""
    steps = [{"step": word, "of": model, "try": attempt} for word in words(text)]
    last = event({"moored": True, "of": model, "try": attempt})
    return Stream((), tuple(event(step, "progress") for step in steps), (last,))


_SPEECH = {"voice": "alloy", "input": "Say it.", "stream_format": "sse"}
_EDIT = {"prompt": "Paint it.", "stream": True}
_ALL: Sequence[Door] = (
    Door("chat", "chat_completions", "/v1/chat/completions", spare=1, opens=True),
    Door("completions", "completions", "/v1/completions", spare=1, opens=True),
    Door("responses", "responses", "/v1/responses", opens=True),
    Door("images", "images", "/v1/images/generations"),
    Door("edits", "images", "/v1/images/edits", fields=_EDIT),
    # How many images are asked for is not known of a form that does not say so before its file.
    Door(
        *("edits, fields first", "images", "/v1/images/edits"),
        form="fields first",
        fields={**_EDIT, "n": 1},
    ),
    Door(
        *("edits, file first", "images", "/v1/images/edits"),
        form="file first",
        fields=_EDIT,
        terminal=False,
    ),
    Door(
        *("transcriptions, fields first", "audio", "/v1/audio/transcriptions"),
        form="fields first",
    ),
    Door(
        *("transcriptions, file first", "audio", "/v1/audio/transcriptions"),
        form="file first",
    ),
    Door("speech", "audio", "/v1/audio/speech", fields=_SPEECH),
    Door("runs", "threads", "/v1/threads/thread_15/runs"),
    Door("thread and run", "threads", "/v1/threads/runs"),
    Door(
        *("agents", "other", "/v1/agents/sessions", "agents"),
        terminal=False,
        spare=1,
    ),
    Door(
        *("agents, events", "other", "/v1/agents/sessions/sess_15/events", "agents"),
        form="query",
        terminal=False,
        open_ended=True,
    ),
    Door("other", "other", "/v1/harbour/progress", terminal=False, open_ended=True),
)
DOORS = {door.name: door for door in _ALL}
