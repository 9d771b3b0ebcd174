"""Settings: flags over environment over file over defaults, checked, named, redactable.

Knows the external names of the contract and where values may come from. Must not know what is
done with them; the core gets its frozen ``Policy`` from here.
"""

from __future__ import annotations

import difflib
import os
import re
import ssl
import tomllib
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from yarl import URL

from proxy.core.policy import Policy

PREFIX = "WHOLESTREAM_"
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to

Names = Annotated[list[str], NoDecode]
Host = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
SecondsOrOff = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Size = Annotated[ByteSize, Field(ge=1)]

_BASE_URL = re.compile(r"(?i:https?)://[^/?#@\\\s]+(?P<path>(?:/[!\"$->@-\[\]-~]*)?)")
"""No user, query or fragment; a path that can be sent as it stands."""

_file: ContextVar[Mapping[str, Any] | None] = ContextVar("settings file", default=None)


class SettingsError(Exception):
    """A setting that cannot be used. The message is one line and names it."""


class Settings(BaseSettings):
    """All settings. The field descriptions make the settings table of the README."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    host: Host = Field("127.0.0.1", description="address of the API listener")
    port: Port = Field(
        8787, description="its port; apps set `OPENAI_BASE_URL=http://127.0.0.1:8787/v1`"
    )
    admin_host: Host = Field("127.0.0.1", description="address of the admin listener")
    admin_port: Port = Field(
        8788, description="its port: `/metrics`, `/healthz`, `/readyz`, `/api/`"
    )
    allowed_hosts: Names = Field(
        ["localhost", "127.0.0.1", "::1"],
        description="names a `Host` header may carry, beside `host` itself; `*` allows any",
    )
    allowed_origins: Names = Field(
        [], description="browser origins that may call the proxy; any other `Origin` gets 403"
    )
    upstream: str = Field(
        "https://api.openai.com/v1",
        description="base URL: `/v1/X` goes to `<upstream>/X`, the query byte for byte",
    )
    max_attempts: int = Field(
        3, ge=1, le=20, description="upstream attempts for one request, the first included"
    )
    connect_timeout_s: Seconds = Field(10, description="longest wait for a connection")
    first_event_timeout_s: Seconds = Field(
        300, description="request sent to first data event; comments do not count"
    )
    stall_timeout_s: Seconds = Field(300, description="longest silence between data events")
    commit_after_s: Seconds = Field(
        10, description="headers wait at most this long for content; then 200 and heartbeats"
    )
    heartbeat_s: SecondsOrOff = Field(
        15, description="longest silence towards the client once headers are out; 0 = off"
    )
    backoff_base_s: SecondsOrOff = Field(
        0.5, description="ceiling of the first wait, doubled each time"
    )
    backoff_max_s: SecondsOrOff = Field(8, description="ceiling of any wait (full jitter below it)")
    retry_after_max_s: SecondsOrOff = Field(
        60, description="a longer `Retry-After` is passed to the client, not slept"
    )
    retry_budget_ratio: float = Field(
        0.2, ge=0, le=10, description="repetitions allowed per request, over all streams"
    )
    retry_budget_min_per_s: float = Field(
        1, ge=0, le=10_000, description="repetitions allowed per second in any case"
    )
    max_event_bytes: Size = Field(ByteSize(16 * 2**20), description="cap of one event")
    max_request_bytes: Size = Field(
        ByteSize(64 * 2**20),
        description="cap of a JSON request body, kept to be repeated; larger: 413. Uploads: none",
    )
    journal_max_bytes: Size = Field(
        ByteSize(4 * 2**20), description="cap of what is held or remembered of one stream"
    )
    drain_grace_s: SecondsOrOff = Field(
        0, description="after SIGTERM: unready at once, but still accepting for this long"
    )
    drain_timeout_s: SecondsOrOff = Field(
        300, description="then wait this long for streams, then end them loudly"
    )
    ca_bundle: Path | None = Field(
        None, description="PEM file of the authorities to trust upstream, in place of the system's"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level that is logged"
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="auto: text on a terminal, else one JSON object a line"
    )
    capture: Literal["masked", "raw", "off"] = Field(
        "masked",
        description="what an incident keeps of the broken bytes; masked: lengths and structure",
    )
    malformed_events: Literal["recover", "skip"] = Field(
        "recover",
        description="an event that is not JSON: a fault like a cut, or dropped and counted",
    )

    @field_validator("allowed_hosts", "allowed_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return [name.strip() for name in value.split(",") if name.strip()]
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _bare(cls, value: list[str]) -> list[str]:
        return [name.lower().strip("[]") for name in value]

    @field_validator("upstream")
    @classmethod
    def _base_url(cls, value: str) -> str:
        found = _BASE_URL.fullmatch(value)
        try:
            origin = URL(value).origin() if found else URL()
            (origin.host or "").encode("idna")
        except ValueError:
            origin = URL()
        if found is None or not origin.host or not origin.port:
            msg = "must be a base URL such as https://api.openai.com/v1, without user or query"
            raise ValueError(msg)
        # In the one form that targets can be joined to: no capitals, no port that is the default.
        return str(origin) + found["path"].rstrip("/")

    @field_validator("ca_bundle")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        try:
            if value is not None:
                ssl.create_default_context(cafile=str(value))
        except OSError:  # an SSLError is one
            msg = "must be a readable PEM file with certificates"
            raise ValueError(msg) from None
        return value

    @field_validator("admin_port")
    @classmethod
    def _its_own(cls, value: int, info: ValidationInfo) -> int:
        if value and value == info.data.get("port"):
            msg = "must not be the same as port"
            raise ValueError(msg)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - given by the base class
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - given by the base class
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: flags, environment, file."""
        return (
            init_settings,
            env_settings,
            InitSettingsSource(settings_cls, dict(_file.get() or {})),
        )

    @property
    def policy(self) -> Policy:
        """Return what the core needs to know."""
        return Policy(
            max_attempts=self.max_attempts,
            backoff_base_s=self.backoff_base_s,
            backoff_max_s=self.backoff_max_s,
            retry_after_max_s=self.retry_after_max_s,
            max_event_bytes=self.max_event_bytes,
            journal_max_bytes=self.journal_max_bytes,
            skip_malformed=self.malformed_events == "skip",
        )


def load(flags: Mapping[str, Any], path: str | None = None) -> tuple[Settings, list[str]]:
    """Gather the settings; return them and the warnings. Raises SettingsError."""
    path = path or os.environ.get(PREFIX + "CONFIG")
    token = _file.set(_read_file(path) if path else {})
    try:
        return Settings(**flags), _unknown_variables()
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from None
    finally:
        _file.reset(token)


def base_url(host: str, port: int) -> str:
    """Return the URL a client on this machine would use."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared with
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _read_file(path: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"config: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"config: {path} is not TOML: {error}") from None
    for key in values:
        if key not in Settings.model_fields:
            raise SettingsError(f"{printable(key)}: unknown key in {path}{meant(key)}")
    return values


def printable(name: str) -> str:
    """Return a name that somebody else chose, fit for one line."""
    return name if name.isprintable() else repr(name)


def meant(key: str, spell: Callable[[str], str] = str) -> str:
    """Return the end of a message about an unknown key: which one may have been meant.

    ``spell`` writes a key as its source does.
    """
    close = difflib.get_close_matches(key, Settings.model_fields, n=1, cutoff=0.7)
    if not close:
        return "; see the settings table in README.md"
    return f"; did you mean {spell(close[0])}?"


def _variable(key: str) -> str:
    return PREFIX + key.upper()


def _unknown_variables() -> list[str]:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {PREFIX + "CONFIG"}
    wrong = [name for name in os.environ if name.startswith(PREFIX) and name.upper() not in known]
    return [
        f"{printable(name)}: unknown variable, ignored"
        + meant(name.removeprefix(PREFIX).lower(), _variable)
        for name in sorted(wrong)
    ]


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    if first["type"] in {"byte_size", "byte_size_unit"}:  # these quote the value
        return f"{name}: must be a size such as 16MiB"
    return f"{name}: {first['msg'].removeprefix('Value error, ')}"
