"""Broken and second answers for the tests of recovery: cut, with other borders, in new words.

Knows healthy streams, how they are taken apart, and how a client adds them up. Must not know
what the proxy does with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from e2e.child import Metrics
from e2e.wire import Reply, check_complete
from proxy.demo.answers import Answer, Asked, End, Pause, sse
from proxy.demo.bodies import TEXT, Stream, stream_for
from proxy.demo.upstream import MisbehavingUpstream

READ_S = 0.05
"""What was sent so long ago has been read; a reset loses the rest."""


def retold(asked: Asked, attempt: int, size: int, text: str = TEXT) -> Stream:
    """Return the stream of an attempt with its text cut into pieces of other sizes."""
    return stream_for(asked, attempt, text, lambda t: re.findall(f".{{1,{size}}}", t))


def whole(
    model: str, attempt: int = 2, size: int = 5, endpoint: str = "chat_completions"
) -> Answer:
    """Return a whole answer with borders of its own."""
    return sse(*retold(Asked(endpoint, model), attempt, size).events)


def cut(stream: Stream, content: int, end: End = "fin") -> Answer:
    """Return an answer that ends after so many events of content."""
    return sse(*stream.opening, *stream.content[:content], Pause(READ_S), end=end)


@dataclass
class Heard:
    """What a client of chat or legacy completions adds up."""

    text: str = ""
    roles: int = 0
    identities: set[tuple[Any, ...]] = field(default_factory=set)

    @classmethod
    def of(cls, payloads: Iterable[bytes]) -> Heard:
        """Listen to the data of events; an error is not heard."""
        heard = cls()
        for payload in payloads:
            found = {} if payload == b"[DONE]" else json.loads(payload)
            if "choices" not in found:
                continue
            names = ("id", "created", "model", "system_fingerprint")
            heard.identities.add(tuple(found.get(name) for name in names))
            for choice in found["choices"]:
                delta = choice.get("delta", {})
                heard.text += choice.get("text") or delta.get("content") or ""
                heard.roles += "role" in delta
        return heard


def check_joined(reply: Reply, endpoint: str = "chat_completions") -> None:
    """Assert one whole answer in the identity of the first attempt."""
    check_complete(reply, endpoint)
    heard = Heard.of(reply.payloads)
    assert heard.text == TEXT
    assert heard.roles == (endpoint == "chat_completions")
    [(name, *_)] = heard.identities
    assert name.endswith("-a1")


def check_prefix(reply: Reply) -> str:
    """Assert that what was given before an error begins the first attempt's text; return it."""
    heard = Heard.of(reply.payloads)
    assert TEXT.startswith(heard.text)
    assert heard.text != TEXT
    assert len(heard.identities) == 1
    return heard.text


def recoveries(counted: Metrics) -> dict[tuple[str, ...], float]:
    """Return what was counted of recoveries, by strategy and result."""
    return counted.labelled("wholestream_recoveries_total", "strategy", "result")


def asked_for(upstream: MisbehavingUpstream, model: str) -> list[dict[str, Any]]:
    """Return the bodies of all requests for a model."""
    return [request.fields for request in upstream.requests if request.model == model]
