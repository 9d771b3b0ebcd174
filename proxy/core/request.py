"""What the client asked for, as far as the core needs to know.

Knows the request's method, target and body, and the few JSON fields that decide how its
stream is read and whether it may be repeated. Must not know headers: they are the edge's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs

import msgspec

MAX_CHOICES = 128
"""OpenAI's own ceiling for ``n``; a larger number in a request is not believed."""

_DIGITS = 9
_EVENTS_OF_A_SESSION = re.compile(r"/agents/sessions/[^/]+/events/?")
"""These have no other form than a stream."""


class _Fields(msgspec.Struct):
    """The fields of a JSON request body that are looked at; any type is let in."""

    stream: Any = None
    stream_format: Any = None
    model: Any = None
    n: Any = None
    background: Any = None
    store: Any = None
    temperature: Any = None
    seed: Any = None
    stream_options: Any = None


_decode = msgspec.json.Decoder(_Fields).decode


@dataclass(frozen=True)
class Request:
    """One request to an endpoint.

    ``target`` is path and query below the base URL, as sent (``/chat/completions``);
    ``body`` the whole body, or None when it is an upload that streams through;
    ``recovery`` is False when the client asked for no retry and no recovery. ``form`` has the
    fields of an upload that came before its files, None where these are not known. With
    ``own_path`` the target is not below the base URL, but the upstream's own (Azure's).
    """

    method: str
    target: str
    body: bytes | None = b""
    recovery: bool = True
    form: Mapping[str, str] | None = None
    own_path: bool = False

    @property
    def replayable(self) -> bool:
        """Whether the same bytes can be sent again. Known before the first attempt."""
        return self.body is not None

    @cached_property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def choices_known(self) -> bool:
        """Whether it is known how many choices were asked for; an upload may say so later on."""
        return self.body is not None or "n" in (self.form or ())

    @property
    def is_legacy(self) -> bool:
        """Whether it is for a completion of text, not of a chat."""
        return not self.path.rstrip("/").endswith("/chat/completions")

    @cached_property
    def asks_stream(self) -> bool:
        """Whether the client asked for a stream."""
        if self.method == "GET" and _EVENTS_OF_A_SESSION.fullmatch(self.path):
            return True
        if self.method == "GET":
            query = parse_qs(self.target.partition("?")[2])
            return query.get("stream", ["false"])[-1].lower() == "true"
        if self.method != "POST":
            return False
        told, form = self._fields.stream, self.form is not None
        return told is True or (form and told == "true") or self._fields.stream_format == "sse"

    @cached_property
    def asks_usage(self) -> bool:
        """Whether the client asked for a stream's statistics (``stream_options``)."""
        options = self._fields.stream_options
        return isinstance(options, dict) and options.get("include_usage") is True

    @cached_property
    def starting_after(self) -> int:
        """The number after which a re-attached Responses stream goes on, or -1."""
        query = parse_qs(self.target.partition("?")[2])
        number = query.get("starting_after", [""])[-1]
        return int(number) if re.fullmatch(r"[0-9]{1,18}", number) else -1

    @property
    def response_id(self) -> str:
        """The id of the response that is retrieved, or an empty string."""
        return self.path.rstrip("/").rpartition("/responses/")[2] if self.method == "GET" else ""

    @property
    def model(self) -> str:
        """The model asked for, or an empty string."""
        model = self._fields.model
        return model if isinstance(model, str) else ""

    @property
    def choices(self) -> int:
        """How many choices were asked for (``n``), at least 1."""
        n = self._fields.n
        if self.form is not None and isinstance(n, str) and n.isdecimal():
            n = int(n[:_DIGITS])
        return n if isinstance(n, int) and 1 <= n <= MAX_CHOICES else 1

    @property
    def background(self) -> bool:
        """Whether a Responses call runs on at the upstream without its stream."""
        return self._fields.background is True

    @property
    def stored(self) -> bool:
        """Whether the upstream keeps the response under its id (Responses' default)."""
        return self._fields.store is not False

    @cached_property
    def json(self) -> dict[str, Any]:
        """The whole body, decoded; empty if it is no JSON object. For the cold path."""
        try:
            found = json.loads(self.body or b"")
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def deterministic(self) -> bool:
        """Whether the client asked for the same answer each time: temperature 0, or a seed."""
        temperature, seed = self._fields.temperature, self._fields.seed
        cold = isinstance(temperature, int | float) and not isinstance(temperature, bool)
        seeded = isinstance(seed, int) and not isinstance(seed, bool)
        return (cold and temperature == 0) or seeded

    def asking(self, model: str) -> Request:
        """Return the same request for another model; an empty name leaves it as it is."""
        if not model or model == self.model or not self.json:
            return self
        return self.saying({**self.json, "model": model})

    def saying(self, body: dict[str, Any]) -> Request:
        """Return the same request with another body."""
        return replace(self, body=json.dumps(body, separators=(",", ":")).encode())

    @cached_property
    def _fields(self) -> _Fields:
        if self.form is not None:
            return _Fields(**{name: self.form.get(name) for name in _Fields.__struct_fields__})
        if not self.body:
            return _Fields()
        try:
            return _decode(self.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self._lenient_fields()

    def _lenient_fields(self) -> _Fields:
        # Lone surrogates and NaN are legal to the SDKs' own encoder, so the standard library
        # has the last word; what it refuses as well, the upstream will answer with a 400.
        try:
            found = json.loads(self.body or b"")
        except (ValueError, RecursionError):
            return _Fields()
        if not isinstance(found, dict):
            return _Fields()
        return _Fields(**{name: found.get(name) for name in _Fields.__struct_fields__})
