"""The tables among the settings: recovery, further upstreams, fallbacks.

Knows what may stand in each of them, and the one form of a base URL. Must not know where a
table comes from, nor what is done with it.
"""

from __future__ import annotations

import difflib
import os
import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from yarl import URL

from proxy.core.policy import Continuation, Hold, Replay
from proxy.settings_quirks import OtherQuirks, OwnQuirks, Profile, preset
from proxy.settings_types import Table

_BASE_URL = re.compile(r"(?i:https?)://[^/?#@\\\s]+(?P<path>(?:/[!\"$->@-\[\]-~]*)?)")
"""No user, query or fragment; a path that can be sent as it stands."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(r"[!#$%&'*+\-.^`|~0-9A-Za-z]+")

_OURS = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *("content-encoding", "content-length", "content-type", "expect", "host", "via"),
    }
)
"""Headers of the connection (RFC 9110 7.6.1) and of the body's framing, and who is asked."""


def normal_base_url(value: str) -> str:
    """Return a base URL in the one form that targets can be joined to. Raises ValueError."""
    found = _BASE_URL.fullmatch(value)
    try:
        origin = URL(value).origin() if found else URL()
        (origin.host or "").encode("idna")
    except ValueError:
        origin = URL()
    if found is None or not origin.host or not origin.port:
        msg = "must be a base URL such as https://api.openai.com/v1, without user or query"
        raise ValueError(msg)
    # No capitals, no port that is the default.
    return str(origin) + found["path"].rstrip("/")


def _upstream_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        msg = "must be up to 64 letters, digits, dots, underscores and hyphens"
        raise ValueError(msg)
    if value == "primary":
        msg = "must be another name: primary is what the upstream itself is called in metrics"
        raise ValueError(msg)
    return value


class Recovery(Table):
    """How far a stream that broke in the middle may be mended."""

    resume: bool = Field(
        default=True, description="Responses background streams are re-attached where they broke"
    )
    replay: Replay = Field(
        default="deterministic",
        description="ask again, match what was given, pass the rest; deterministic: only for"
        " temperature 0 or a seed",
    )
    continuation: Continuation = Field(
        default="off", description="how `upstream` lets a partial answer be continued"
    )
    hold: Hold = Field(
        default="none",
        description="what is held back until it is complete, so that a restart is invisible",
    )


class OtherUpstream(Table):
    """One more upstream. Its key comes from the environment, or is the client's own."""

    name: Annotated[str, AfterValidator(_upstream_name)] = Field(
        description="how fallbacks, logs and metrics call it"
    )
    base_url: Annotated[str, AfterValidator(normal_base_url)] = Field(
        description="as in `upstream`"
    )
    api_key_env: str | None = Field(
        default=None,
        description="the variable that holds its key (without it the client's own is sent)",
    )
    headers: dict[str, SecretStr] = Field(default={}, description="sent to it in every request")
    continuation: Continuation = Field(default="off", description="as in `recovery.continuation`")
    profile: Profile = Field(default="any", description="as in `profile`")
    quirks: OtherQuirks = Field(
        default=OtherQuirks(), description="a table with the keys of `quirks`, but for `paths`"
    )

    _api_key: SecretStr | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: object) -> object:
        return preset(values, OtherQuirks)

    @property
    def api_key(self) -> SecretStr | None:
        """The key to send, if it is not the client's own."""
        return self._api_key

    def model_post_init(self, _context: Any) -> None:
        """Remember the key: later changes of the environment change nothing."""
        if self.api_key_env is not None:
            self._api_key = SecretStr(_key(self.api_key_env))

    @field_validator("api_key_env")
    @classmethod
    def _has_a_key(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return value
        if not _VARIABLE.fullmatch(value):
            msg = "must be the name of an environment variable, not the key itself"
            raise ValueError(msg)
        # A name in lower case may be a key that was pasted here, so it is not quoted.
        quoted = value if value.isupper() else "that it names"
        key = _key(value)
        text = ""
        if not key:
            text = f"the environment variable {quoted} is not set or empty; set it to the key"
        elif not (key.isascii() and key.isprintable() and " " not in key):
            text = f"the environment variable {quoted} holds no key: a space or control is in it"
        if text:
            name = info.data.get("name")
            raise PydanticCustomError("entry", "{text}", {"text": text, "entry": name})
        return value

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        names = [name.lower() for name in value]
        if len(names) != len(set(names)):
            msg = "must not name a header twice"
            raise ValueError(msg)
        if taken := sorted(_OURS.intersection(names)):
            msg = f"must not set {taken[0]}, which belongs to the connection or the body"
            raise ValueError(msg)
        texts = [secret.get_secret_value() for secret in value.values()]
        if not all(_TOKEN.fullmatch(name) for name in names):
            msg = "must have header names of letters, digits and !#$%&'*+-.^_`|~"
            raise ValueError(msg)
        if not all(text.isprintable() and text == text.strip() for text in texts):
            msg = "must have header values without control characters and outer spaces"
            raise ValueError(msg)
        return value

    @field_serializer("headers", when_used="json")
    def _redacted(self, value: dict[str, SecretStr]) -> dict[str, str]:
        return dict.fromkeys(value, "***")  # any of them may hold a key


class FallbackTarget(Table):
    """Whom to ask instead, and for which model."""

    upstream: str = Field(
        default="", description="a name of `upstreams`; left out: `upstream` itself"
    )
    model: str = Field(default="", description="left out: as asked")

    @model_validator(mode="after")
    def _changes_something(self) -> FallbackTarget:
        if not (self.upstream or self.model):
            msg = "must name an upstream or a model, or it changes nothing"
            raise ValueError(msg)
        return self


class FallbackRule(Table):
    """For some models, the targets to try in order."""

    models: list[Annotated[str, Field(min_length=1)]] = Field(
        min_length=1, description="globs of the models it is for"
    )
    to: list[FallbackTarget] = Field(
        min_length=1,
        description="targets tried in order, each with an `upstream` (a name, else the primary), a"
        " `model` (else as asked), or both",
    )


def told_apart(upstreams: list[OtherUpstream]) -> list[OtherUpstream]:
    """Return the upstreams. Raises if two of them have one name."""
    names: set[str] = set()
    for position, entry in enumerate(upstreams):
        if entry.name in names:
            raise _misplaced((position, "name"), f"there is another upstream {entry.name}")
        names.add(entry.name)
    return upstreams


def lead_somewhere(fallbacks: list[FallbackRule], names: list[str]) -> None:
    """Raise if a fallback names an upstream that is not one of these."""
    for place, rule in enumerate(fallbacks):
        for position, target in enumerate(rule.to):
            name = target.upstream
            if not name or name in names:
                continue
            close = difflib.get_close_matches(name, names, n=1, cutoff=0)
            hint = f"did you mean {close[0]}?" if close else "there are no [[upstreams]]"
            text = f"there is no upstream {printable(name)}; {hint}"
            raise _misplaced((place, "to", position, "upstream"), text)


TABLES: dict[tuple[str, ...], type[BaseModel]] = {
    ("recovery",): Recovery,
    ("quirks",): OwnQuirks,
    ("upstreams",): OtherUpstream,
    ("upstreams", "quirks"): OtherQuirks,
    ("fallbacks",): FallbackRule,
    ("fallbacks", "to"): FallbackTarget,
}
"""Every table by its place, positions in lists left out."""


def printable(name: str) -> str:
    """Return a name that somebody else chose, fit for one line."""
    return name if name.isprintable() else repr(name)


def _misplaced(at: tuple[str | int, ...], text: str) -> PydanticCustomError:
    """Return an error of a place below the one that is being validated."""
    return PydanticCustomError("misplaced", "{text}", {"text": text, "at": at})


def _key(variable: str) -> str:
    # A line break at its end comes from a file; nobody means it.
    return os.environ.get(variable, "").strip()
