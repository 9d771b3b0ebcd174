"""What settings are made of: tables, and the kinds of values that more than one has.

Knows ranges and units. Must not know any setting.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ByteSize, ConfigDict, Field
from pydantic_settings import NoDecode


def _with_certificates(value: Path) -> Path:
    try:
        ssl.create_default_context(cafile=str(value))
    except OSError:  # an SSLError is one
        msg = "must be a readable PEM file with certificates"
        raise ValueError(msg) from None
    return value


Names = Annotated[list[str], NoDecode]
Host = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
SecondsOrOff = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Size = Annotated[ByteSize, Field(ge=1)]
Authorities = Annotated[Path, AfterValidator(_with_certificates)]


class Table(BaseModel):
    """A table of settings."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True
    )
