"""Reads the settings: file, environment and flags; what is wrong is told in one line.

Knows where names are written, and how. Must not know what a setting is for.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pydantic_settings
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from proxy.settings import FIELDS, FILE, PREFIX, Settings, SettingsError
from proxy.settings_tables import TABLES, printable

_WORDS = {
    "missing": "is missing",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "list_type": "must be a list",
    # These would quote the value.
    "byte_size": "must be a size such as 16MiB",
    "byte_size_unit": "must be a size such as 16MiB",
}
"""Our words for some types of pydantic's errors."""


def load(flags: Mapping[str, Any], path: str | None = None) -> tuple[Settings, list[str]]:
    """Gather the settings; return them and the warnings. Raises SettingsError.

    A flag has its setting's name, with a dot for the key of a table.
    """
    path = path or os.environ.get(PREFIX + "CONFIG")
    token = FILE.set(_read_file(path) if path else {})
    try:
        settings = Settings(**_nested(flags))
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from None
    except (pydantic_settings.SettingsError, RecursionError) as error:
        # What is decoded for us are the tables.
        named = [name for name in ("recovery", "quirks") if f'"{name}"' in str(error)]
        raise SettingsError(f"{(named or ['recovery'])[0]}: must be a JSON object") from None
    finally:
        FILE.reset(token)
    return settings, _unknown_variables(settings)


def meant(key: str, known: Iterable[str], spell: Callable[[str], str] = str) -> str:
    """Return the end of a message about an unknown key: which known one may have been meant.

    ``spell`` writes a key as its source does.
    """
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    if not close:
        return "; see the settings table in README.md"
    return f"; did you mean {spell(close[0])}?"


def _nested(flags: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flags.items():
        table, dot, key = name.partition(".")
        if dot:
            nested.setdefault(table, {})[key] = value
        else:
            nested[name] = value
    return nested


def _read_file(path: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"config: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"config: {path} is not TOML: {error}") from None
    for key in values:
        if key not in Settings.model_fields:
            hint = meant(key, Settings.model_fields)
            raise SettingsError(f"{printable(key)}: unknown key in {path}{hint}")
    return values


def _variable(name: str) -> str:
    return PREFIX + name.upper().replace(".", "__")


def _unknown_variables(settings: Settings) -> list[str]:
    names = {*FIELDS, *Settings.model_fields}
    known = {_variable(name) for name in names} | {PREFIX + "CONFIG"}
    known |= {(entry.api_key_env or "").upper() for entry in settings.upstreams}
    wrong = [name for name in os.environ if name.startswith(PREFIX) and name.upper() not in known]
    return [
        f"{printable(name)}: unknown variable, ignored"
        + meant(name.removeprefix(PREFIX).lower().replace("__", "."), sorted(names), _variable)
        for name in sorted(wrong)
    ]


def _one_line(error: ValidationError) -> str:
    errors = error.errors(include_url=False, include_input=False)
    # A mistyped key is often the reason that another one is missing.
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    place = [*first["loc"], *first.get("ctx", {}).get("at", ())]
    entry = first.get("ctx", {}).get("entry")
    if entry is not None:
        place = [entry if isinstance(part, int) else part for part in place]
    name = ".".join(str(part) for part in place) or "settings"
    return f"{printable(name)}: {_what(first)}"


def _what(error: ErrorDetails) -> str:
    kind = error["type"]
    if kind == "extra_forbidden":
        *table, key = (part for part in error["loc"] if isinstance(part, str))
        return "unknown key" + meant(key, TABLES[tuple(table)].model_fields)
    return _WORDS.get(kind) or error["msg"].removeprefix("Value error, ")
