"""Answers that break off, and are told anew with other ids and other borders.

Knows the shape of the invented streams, and how an upstream plays an attempt. Must not know who
reads, nor the proxy's own code.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from splices import SPELLINGS, SPOKEN, Answer, again, encode, lengths, twisted
from support import STREAMS, ask

from e2e.heard import Payload, ids
from e2e.stage import CHUNKED, EVENT_STREAM, JSON, Exchange

ONCE = ("Connection", "close")
"""This upstream keeps no connection, so that none is found stale: that would be a restart."""

Family = Literal["chat", "completions", "responses"]
End = Literal["fin", "clean"]


# --- what is asked, and the whole answer ----------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One kind of answer: whom it is asked of, with which fields, and its whole stream."""

    name: str
    family: Family
    body: bytes
    fields: Payload = field(default_factory=dict)

    @property
    def runs_on(self) -> bool:
        """Whether the upstream goes on with it while nobody reads."""
        return bool(self.fields.get("background"))

    @property
    def params(self) -> Payload:
        """The parameters that an application gives the SDK."""
        said: dict[str, Payload] = {
            "chat": {"messages": [{"role": "user", "content": "Tell."}]},
            "completions": {"prompt": "Tell."},
            "responses": {"input": "Tell."},
        }
        return {"model": "gpt-harbour", **said[self.family], **self.fields}

    @cached_property
    def events(self) -> list[bytes]:
        """The events as they are written."""
        return [block + b"\n\n" for block in self.body.split(b"\n\n") if block]

    @cached_property
    def payloads(self) -> list[Payload]:
        """The data of the events, without the end mark."""
        datas = [event.partition(b"data: ")[2] for event in self.events]
        return [json.loads(data) for data in datas if data != b"[DONE]\n\n"]

    def ids(self, events: int) -> set[str]:
        """Return the ids that so many events tell."""
        return set(ids(self.payloads[:events]))

    @cached_property
    def openers(self) -> int:
        """How many events come before there is any content."""
        return next(at for at, payload in enumerate(self.payloads) if _has_content(payload))

    @cached_property
    def finished(self) -> int:
        """How many events make a whole answer, but for what may follow it."""
        if self.family == "responses":
            return len(self.payloads)
        ends = (at for at, p in enumerate(self.payloads) if _finishes(p))
        return 1 + max(ends)

    def told_anew(self, spelling: int, tag: str = "x") -> bytes:
        """Tell the same answer with other ids, times, models and borders of its deltas."""
        return again(Answer(ask(), self.payloads), SPELLINGS[spelling % len(SPELLINGS)], tag)

    def told_otherwise(self) -> bytes:
        """Tell an answer that has another first character."""
        answer = Answer(ask(), self.payloads)
        return twisted(answer, next(iter(lengths(self.payloads))), 0).body

    def rest(self, events: int) -> bytes:
        """Tell in an answer of its own what follows so many events."""
        rest = [self.payloads[0], *self.payloads[max(1, events) :]]
        return again(Answer(ask(), rest), "letters", "x")


def _has_content(payload: Payload) -> bool:
    if "type" in payload:
        return "response" not in payload
    return any(
        value
        for choice in payload["choices"]
        for key, value in {**choice, **choice.get("delta", {})}.items()
        if key in {"content", "refusal", "text", "tool_calls"}
    )


def _finishes(payload: Payload) -> bool:
    return any(choice["finish_reason"] for choice in payload["choices"])


def _tool(name: str) -> Payload:
    empty = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    function = {"name": name, "strict": True, "parameters": empty}
    return {"type": "function", "function": function}


_TWINS = STREAMS["chat-n2"].replace(b'"length"', b'"stop"')
"""At the other reason the helper for Python raises, as it does for an answer that is whole."""

_USAGE = {"stream_options": {"include_usage": True}}
_ITEMS = encode(SPOKEN["responses items"])
_RUNS_ON = {"background": True}
_FORGOTTEN = {"store": False}
KINDS = {
    kind.name: kind
    for kind in (
        Kind("chat-text", "chat", STREAMS["chat-text"]),
        Kind("chat-n2", "chat", _TWINS, {"n": 2}),
        Kind(
            "chat-tools",
            "chat",
            STREAMS["chat-tools-parallel"],
            {"tools": [_tool("tide_table"), _tool("wind")], "parallel_tool_calls": True},
        ),
        Kind("chat-refusal", "chat", STREAMS["chat-refusal"]),
        Kind("chat-usage", "chat", STREAMS["chat-usage-moderation"], _USAGE),
        Kind("completions", "completions", STREAMS["completions-text"], _USAGE),
        Kind("responses-text", "responses", STREAMS["responses-text"], _FORGOTTEN),
        Kind("responses-call", "responses", STREAMS["responses-function-call"], _FORGOTTEN),
        Kind("responses-items", "responses", _ITEMS, _FORGOTTEN),
        Kind("background", "responses", STREAMS["responses-background"], _RUNS_ON),
        Kind("background-items", "responses", _ITEMS, _RUNS_ON),
    )
}


# --- what the upstream does -----------------------------------------------------------------


@dataclass(frozen=True)
class Attempt:
    """One answer of the upstream: ``pause_s`` of silence lie before ``body[pause_at:]``."""

    body: bytes
    end: End = "clean"
    pause_at: int = 0
    pause_s: float = 0.0


@dataclass
class Case:
    """One stream: the attempts as they are asked for, the last of them for ever.

    ``given`` counts the whole events of the first attempt, ``had`` those of them that an
    application must have; where it has none, the answer is another attempt's. ``polled`` refuses
    the stream of a background response, which must then be fetched; of a ``strange`` one the
    stream is another's.
    """

    name: str
    kind: Kind
    attempts: list[Attempt]
    given: int = 0
    had: int = 0
    polled: bool = False
    strange: bool = False
    asked: int = 0

    @property
    def is_over(self) -> bool:
        """Whether the first attempt was a whole answer already."""
        return self.given >= self.kind.finished

    @property
    def known(self) -> set[str]:
        """The ids that an application has of the first answer, and must find everywhere."""
        # A response that runs on is the same one, whoever asks.
        return self.kind.ids(len(self.kind.payloads) if self.kind.runs_on else self.had)

    async def play(self, exchange: Exchange) -> None:
        """Answer one request of the proxy."""
        with contextlib.suppress(ConnectionError):
            if exchange.method == "GET":
                await self._retrieved(exchange)
                return
            await exchange.body()
            attempt = self.attempts[min(self.asked, len(self.attempts) - 1)]
            self.asked += 1
            await _answer(exchange, attempt)

    async def _retrieved(self, exchange: Exchange) -> None:
        query = parse_qs(urlsplit(exchange.target).query)
        if "stream" not in query and not self.strange:
            whole = self.kind.payloads[-1]["response"]
            await _reply(exchange, 200, whole)
        elif self.polled or "stream" not in query:
            await _reply(exchange, 400, {"error": {"message": "It is more than 5 minutes old."}})
        else:
            after = int(query.get("starting_after", ["-1"])[0])
            body = self.kind.told_anew(2) if self.strange else self.kind.body
            events = body.split(b"\n\n")[after + 1 :]
            await _answer(exchange, Attempt(b"\n\n".join(events)))


async def _answer(exchange: Exchange, attempt: Attempt) -> None:
    await exchange.answer(headers=[*EVENT_STREAM, *CHUNKED, ONCE])
    parts = [attempt.body[: attempt.pause_at], attempt.body[attempt.pause_at :]]
    for part, after_s in zip(parts, (attempt.pause_s, 0.0), strict=True):
        if part:
            await exchange.chunk(part)
        await asyncio.sleep(after_s)
    if attempt.end == "clean":
        await exchange.chunk(b"")


async def _reply(exchange: Exchange, status: int, value: Payload) -> None:
    body = json.dumps(value).encode()
    await exchange.answer(status, [JSON, ("Content-Length", str(len(body))), ONCE], body)


# --- where it breaks off --------------------------------------------------------------------


def uncut(kind: Kind) -> list[Case]:
    """Return the cases that nothing happens to: the first answer, and the one told anew."""
    size = len(kind.events)
    first = Case(f"{kind.name}/first", kind, [Attempt(kind.body)], size, size)
    return [first, Case(f"{kind.name}/anew", kind, [Attempt(kind.told_anew(0))], size)]


def cut(kind: Kind, events: int, *seconds: bytes, inside: bool = False) -> Case:
    """Break off after so many events, or in the middle of the next one; then tell the rest."""
    at = sum(map(len, kind.events[:events]))
    at += len(kind.events[events]) // 2 if inside else 0
    # Where the framing ends well nothing but the grammar tells that something is lacking.
    end: End = "fin" if inside or events % 4 < 2 else "clean"
    name = f"{kind.name}/{events:02}{'-inside' if inside else ''}"
    told = seconds or (kind.told_anew(events + inside),)
    # Of a response that runs on the id is enough to ask for the same one.
    had = events if events > kind.openers or kind.runs_on else 0
    return Case(name, kind, [Attempt(kind.body[:at], end), *map(Attempt, told)], events, had)


def cuts(kind: Kind) -> Iterator[Case]:
    """Break off after each count of whole events but all: at the border, or within the next."""
    for events in range(len(kind.events)):
        yield cut(kind, events, inside=events % 3 == 0)
