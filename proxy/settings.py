"""Settings: flags over environment over file over defaults, checked, named, redactable.

Knows the external names of the contract and which source goes before which. Must not know what
is done with them; the core gets its frozen ``Policy`` from here. ``settings_load`` reads the
sources and words the errors, ``settings_tables`` has what is a table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from proxy.core.policy import Fallback, Policy, Target
from proxy.settings_quirks import OwnQuirks, Profile, preset
from proxy.settings_tables import (
    FallbackRule,
    OtherUpstream,
    Recovery,
    lead_somewhere,
    normal_base_url,
    told_apart,
)
from proxy.settings_types import Authorities, Host, Names, Port, Seconds, SecondsOrOff, Size

PREFIX = "WHOLESTREAM_"
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to

FILE: ContextVar[Mapping[str, Any] | None] = ContextVar("settings file", default=None)
"""What the file says, while settings are made."""


class SettingsError(Exception):
    """A setting that cannot be used. The message is one line and names it."""


class _Environment(EnvSettingsSource):
    """Reads a table's known keys only; for the others there is a warning, not an error."""

    def explode_env_vars(
        self, field_name: str, field: FieldInfo, env_vars: Mapping[str, str | None]
    ) -> dict[str, Any]:
        """Return the keys of a table that have a variable of their own."""
        prefix = f"{PREFIX}{field_name}__".lower()
        keys = _keys(field)
        return {key: env_vars[prefix + key] for key in keys if prefix + key in env_vars}


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
    upstream: Annotated[str, AfterValidator(normal_base_url)] = Field(
        "https://api.openai.com/v1",
        description="base URL: `/v1/X` goes to `<upstream>/X`, the query byte for byte",
    )
    workers: int = Field(1, ge=1, le=256, description="processes that share the port, one a core")
    max_attempts: int = Field(
        3,
        ge=1,
        le=20,
        description="upstream attempts on one target for one request, the first included",
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
        0.2, ge=0, le=10, description="repetitions that each whole answer earns, over all streams"
    )
    retry_budget_min_per_s: float = Field(
        1, ge=0, le=10_000, description="repetitions allowed per second in any case"
    )
    breaker_failures: int = Field(
        5,
        ge=1,
        description="failures of a target in a row, after which others are asked, if there are any",
    )
    breaker_open_s: Seconds = Field(10, description="for how long, before one request may try it")
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
    ca_bundle: Authorities | None = Field(
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
    recovery: Recovery = Field(Recovery(), description="how far a broken stream may be mended")
    profile: Profile = Field(
        "any", description="which server `upstream` is; it only presets `quirks`"
    )
    quirks: OwnQuirks = Field(OwnQuirks(), description="how `upstream` differs from OpenAI")
    upstreams: Annotated[list[OtherUpstream], AfterValidator(told_apart), NoDecode] = Field(
        [], description="further upstreams, for fallbacks"
    )
    fallbacks: Annotated[list[FallbackRule], NoDecode] = Field(
        [], description="whom to ask once the attempts at the first target are spent"
    )

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: object) -> object:
        return preset(values, OwnQuirks)

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

    @field_validator("upstreams", "fallbacks", mode="before")
    @classmethod
    def _decode(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value or "[]")
        except (ValueError, RecursionError):
            msg = "must be a JSON array of objects"
            raise ValueError(msg) from None

    @field_validator("fallbacks")
    @classmethod
    def _lead_somewhere(cls, value: list[FallbackRule], info: ValidationInfo) -> list[FallbackRule]:
        if "upstreams" in info.data:  # else they are wrong themselves
            lead_somewhere(value, [entry.name for entry in info.data["upstreams"]])
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
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - given by the base class
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - given by the base class
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - given by the base class
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: flags, environment, file."""
        return (
            init_settings,
            _Environment(settings_cls),
            InitSettingsSource(settings_cls, dict(FILE.get() or {})),
        )

    @property
    def policy(self) -> Policy:
        """Return what the core needs to know."""
        return Policy(
            max_attempts=self.max_attempts,
            backoff_base_s=self.backoff_base_s,
            backoff_max_s=self.backoff_max_s,
            retry_after_max_s=self.retry_after_max_s,
            stall_timeout_s=self.stall_timeout_s,
            max_event_bytes=self.max_event_bytes,
            journal_max_bytes=self.journal_max_bytes,
            skip_malformed=self.malformed_events == "skip",
            resume=self.recovery.resume,
            replay=self.recovery.replay,
            continuation=self.recovery.continuation,
            hold=self.recovery.hold,
            fallbacks=self._fallbacks(),
            quirks=self.quirks.of_streams,
        )

    def _fallbacks(self) -> tuple[Fallback, ...]:
        ways = {one.name: (one.continuation, one.quirks.of_streams) for one in self.upstreams}
        ways[""] = (self.recovery.continuation, self.quirks.of_streams)
        return tuple(
            Fallback(
                tuple(rule.models),
                tuple(Target(to.upstream, to.model, *ways[to.upstream]) for to in rule.to),
            )
            for rule in self.fallbacks
        )


def _keys(field: FieldInfo) -> dict[str, FieldInfo]:
    kind = field.annotation
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_fields
    return {}


LISTS = ("upstreams", "fallbacks")
"""Settings that are lists of tables: from the file, or as JSON in a variable; no flags."""

FIELDS: dict[str, FieldInfo] = {
    dotted: of
    for name, field in Settings.model_fields.items()
    for dotted, of in (
        [(f"{name}.{key}", of) for key, of in _keys(field).items()] or [(name, field)]
    )
}
"""Every setting by its dotted name, the keys of a table one by one."""


def base_url(host: str, port: int) -> str:
    """Return the URL a client on this machine would use."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared with
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
