"""How upstreams differ: the quirks that can be set, and the profiles that only preset them.

Knows the quirks' names, values and reasons. Nothing is learned from what a server sends: what
is not set here or by a profile has the default that suits every server. Must not know what is
done about a quirk: those of streams are the core's, those of requests ``upstream``'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_core import PydanticUseDefault

from proxy.core.policy import FinishReason, PassOrDrop, Quirks
from proxy.settings_types import Table

_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_PAIR = r"[\w.~%-]+=[\w.~%:,/@!$'()*+;-]*"
_PAIRS = re.compile(f"{_PAIR}(?:&{_PAIR})*", re.ASCII)
_DOTS = frozenset({".", ".."})

Profile = Literal[
    "any",
    "openai",
    "azure",
    "openrouter",
    "vllm",
    "ollama",
    "llamacpp",
    "deepseek",
    "mistral",
    "groq",
]

PROFILES: dict[str, dict[str, Any]] = {
    "any": {},
    # 140 of 140 recorded chat streams have both a finish_reason and [DONE].
    "openai": {"finish_reason": "required"},
    # Its deployments have paths of their own, and its keys a header of their own.
    "azure": {"paths": ["/openai"], "key_header": "api-key"},
    # Comments while it waits, errors inside chunks: known to all, nothing to be set.
    "openrouter": {},
    # It ends with [DONE] after any exception, so without a finish_reason the answer is cut.
    "vllm": {"finish_reason": "required"},
    # It was seen to leave out the finish_reason of whole answers (pydantic/pydantic-ai#3045).
    "ollama": {"finish_reason": "optional"},
    "llamacpp": {},
    "deepseek": {},
    # Texts and lists of parts in one stream: known to all.
    "mistral": {},
    # Another id in every chunk, usage under x_groq: known to all.
    "groq": {},
}
"""What each profile presets. A quirk that is set by hand goes before its profile."""


def _listed(value: object) -> object:
    """Read a list from a flag or a variable: JSON, or one text."""
    if not isinstance(value, str):
        return value
    if not value:
        raise PydanticUseDefault
    if not value.startswith("["):
        return [value]
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        msg = "must be a JSON array of strings, or one string"
        raise ValueError(msg) from None


class OtherQuirks(Table):
    """The quirks of one of ``upstreams``."""

    finish_reason: FinishReason = Field(
        default="optional",
        description="chat: `[DONE]` without any `finish_reason` is passed on, is a cut, or is"
        " given the reason `stop`",
    )
    foreign_events: PassOrDrop = Field(
        default="drop",
        description="chat: events of another language between the chunks, and names of chunks",
    )
    empty_choices: PassOrDrop = Field(
        default="pass", description="chat: chunks with an empty `choices` and no `usage`"
    )
    fill_fields: bool = Field(
        default=False, description="chat: fill in missing or null `delta`, `index`, `arguments`..."
    )
    nan: Literal["pass", "null"] = Field(
        default="pass", description="`NaN` and `Infinity`, which are no JSON"
    )
    tool_arguments: Literal["pass", "length"] = Field(
        default="pass",
        description="chat: `tool_calls` as the reason although the arguments break off; length: say"
        " so",
    )
    empty_answer: Literal["pass", "restart"] = Field(
        default="pass", description="a finished answer without content; restart: ask once more"
    )
    overload_texts: Annotated[list[str], BeforeValidator(_listed)] = Field(
        default=[], description="answers that, word for word, mean overload: asked again, else 503"
    )
    aggregate: bool = Field(
        default=False, description="events that answer a request for none become one JSON object"
    )
    key_header: Literal["authorization", "api-key"] = Field(
        default="authorization", description="where the key of `api_key_env` is sent"
    )
    query: str = Field(
        default="", description="added to each target that lacks it, such as `api-version=...`"
    )

    @field_validator("overload_texts")
    @classmethod
    def _say_something(cls, value: list[str]) -> list[str]:
        if not all(text.strip() for text in value):
            msg = "must not have an empty text"
            raise ValueError(msg)
        return value

    @field_validator("query")
    @classmethod
    def _can_be_sent(cls, value: str) -> str:
        if value and not _PAIRS.fullmatch(value):
            msg = "must be pairs such as api-version=2024-10-21, written as in a URL"
            raise ValueError(msg)
        return value

    @property
    def of_streams(self) -> Quirks:
        """What the core needs to know."""
        return Quirks(
            finish_reason=self.finish_reason,
            foreign_events=self.foreign_events,
            empty_choices=self.empty_choices,
            fill_fields=self.fill_fields,
            nan=self.nan,
            tool_arguments=self.tool_arguments,
            empty_answer=self.empty_answer,
            overload_texts=tuple(self.overload_texts),
            aggregate=self.aggregate,
        )


class OwnQuirks(OtherQuirks):
    """The quirks of ``upstream`` itself."""

    paths: Annotated[list[str], BeforeValidator(_listed)] = Field(
        default=[],
        description="paths outside `/v1` that are served too, each as it stands at the upstream",
    )

    @field_validator("paths")
    @classmethod
    def _are_paths(cls, value: list[str]) -> list[str]:
        for path in value:
            bad = not _PATH.fullmatch(path) or _DOTS & set(path.split("/"))
            if bad or path == "/v1" or path.startswith("/v1/"):
                msg = "must be plain paths such as /openai, outside /v1"
                raise ValueError(msg)
        return value


def preset(values: object, quirks: type[OtherQuirks]) -> object:
    """Return the values of a table with ``profile`` and ``quirks``, the preset ones filled in."""
    if not isinstance(values, Mapping):
        return values
    given, profile = values.get("quirks", {}), values.get("profile", "any")
    known = PROFILES.get(profile, {}) if isinstance(profile, str) else {}
    if not isinstance(given, Mapping) or not known:
        return values
    mine = {key: value for key, value in known.items() if key in quirks.model_fields}
    return {**values, "quirks": {**mine, **given}}
