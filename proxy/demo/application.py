"""An ordinary application: the official ``openai`` SDK, asked for a stream.

Knows the SDK, and only what any application would do with it. Must not know that there is a
proxy. This is the one module that imports ``openai``, which is an optional dependency.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import openai

from proxy.demo.scenario import FIELDS, Way
from proxy.demo.seen import Seen

_PROMPT = "How do streams end?"


@dataclass(slots=True)
class _Notes:
    text: str = ""
    finished: bool = False
    identities: set[str] = field(default_factory=set)


class Application:
    """One application with one client. ``timeout_s`` is how long it bears silence."""

    def __init__(self, base_url: str, timeout_s: float) -> None:
        """Make a client as a user would, but for retries, which would blur what is shown."""
        self._timeout_s = timeout_s
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key="demo-key",
            max_retries=0,
            timeout=timeout_s,
            # Without the proxies of the environment, which may not reach this host's loopback.
            http_client=openai.DefaultHttpxClient(trust_env=False, timeout=timeout_s),
        )

    def close(self) -> None:
        """Close the client's connections."""
        self._client.close()

    def warm_up(self) -> None:
        """Make a call that leaves a connection alive for the next one."""
        self._client.models.list()

    def ask(self, endpoint: str, model: str, way: Way = "plain") -> Seen:
        """Ask for one stream in a way, read it to its end, return what was seen."""
        notes = _Notes()
        read: Callable[[dict[str, Any], _Notes], None] = getattr(self, f"_read_{endpoint}")
        try:
            read({"model": model, "stream": True, **FIELDS[way]}, notes)
        except Exception as error:  # noqa: BLE001 - whatever an application would meet
            return self._failed(error, notes)
        return Seen(notes.text, notes.finished, frozenset(notes.identities))

    def _failed(self, error: Exception, notes: _Notes) -> Seen:
        name = type(error).__name__
        told = isinstance(error, openai.APIError) and not isinstance(
            error, openai.APIConnectionError
        )
        return Seen(
            notes.text,
            notes.finished,
            frozenset(notes.identities),
            error=name,
            told=told,
            code=str(getattr(error, "code", None) or ""),
            status=getattr(error, "status_code", 0),
            # By name: older SDKs let the HTTP library's own timeout through.
            gave_up_s=self._timeout_s if "Timeout" in name else 0.0,
        )

    def _read_chat(self, fields: dict[str, Any], notes: _Notes) -> None:
        messages: Any = [{"role": "user", "content": _PROMPT}]
        chunk: Any
        for chunk in self._client.chat.completions.create(messages=messages, **fields):
            notes.identities.add(chunk.id)
            for choice in chunk.choices:
                notes.text += choice.delta.content or ""
                for call in choice.delta.tool_calls or ():
                    notes.text += (call.function and call.function.arguments) or ""
                notes.finished = notes.finished or bool(choice.finish_reason)

    def _read_responses(self, fields: dict[str, Any], notes: _Notes) -> None:
        event: Any
        for event in self._client.responses.create(input=_PROMPT, **fields):
            if event.type == "response.output_text.delta":
                notes.text += event.delta
            notes.finished = notes.finished or event.type == "response.completed"
            if event.type.startswith("response.") and hasattr(event, "response"):
                notes.identities.add(event.response.id)
