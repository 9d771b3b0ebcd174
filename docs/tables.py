"""Writes the tables in README.md and docs/ that are made from the code.

::

    python -m docs.tables            write them anew
    python -m docs.tables --check    write nothing, exit 1 if one of them is out of date

It runs where the tests run: the import rules are read from one of them.

Knows markers and Markdown. Must not know what a table says: that is the code's own word. A
table stands between ``<!-- name -->`` and ``<!-- /name -->``.
"""  # noqa: INP001 - documentation with a script in it, no package

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ByteSize
from pydantic.fields import FieldInfo

from proxy.core.states import table as states_table
from proxy.metrics import Metrics
from proxy.settings import FIELDS
from proxy.settings_quirks import PROFILES
from proxy.settings_tables import TABLES as SETTINGS_TABLES

ROOT = Path(__file__).parent.parent
COMMAND = "python -m docs.tables"

SHARED_LABELS = (
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "server_address",
    "error_type",
)
"""The labels of every ``gen_ai`` metric, in the table "OpenTelemetry's"."""

_MIB = 2**20


def settings_table() -> str:
    """Return every setting with its default, as a Markdown table."""
    rows = [
        (f"`{name}`", _default(field.default), f"{field.description}{_choices(field)}{_keys(name)}")
        for name, field in FIELDS.items()
    ]
    return _table(("setting", "default", "meaning"), rows)


def metrics_table() -> str:
    """Return every metric with its type and labels, as a Markdown table."""
    registry = Metrics("", lambda: 0.0).registry
    rows = []
    for family in registry.collect():
        collector = registry._names_to_collectors[family.name]  # noqa: SLF001 - no public way
        name = family.name + ("_total" if family.type == "counter" else "")
        names = getattr(collector, "label_names", {}).get(family.name)
        labels = _labels(names or getattr(collector, "_labelnames", ()))
        rows.append((f"`{name}`", family.type, labels, family.documentation))
    return _table(("metric", "type", "labels", "meaning"), rows)


def core_layers() -> str:
    """Return the layers of the core as ``tests/test_layers.py`` holds them."""
    layers: dict[int, list[str]] = {}
    for name, layer in _rules()["CORE"].items():
        layers.setdefault(layer, []).append(f"`{name}`")
    rows = [(str(layer), ", ".join(names)) for layer, names in sorted(layers.items())]
    return _table(("layer", "modules of `core`"), rows)


def edge_imports() -> str:
    """Return what each module above the core may import, as ``tests/test_layers.py`` holds it."""
    rows = [
        (f"`{name}`", ", ".join(f"`{other}`" for other in sorted(others)) or "-")
        for name, others in _rules()["ABOVE"].items()
    ]
    return _table(("module", "may import"), rows)


def profiles_table() -> str:
    """Return every profile with the quirks that it presets, as they stand in a settings file."""
    rows = [
        (f"`{name}`", ", ".join(f"`{key} = {json.dumps(value)}`" for key, value in quirks.items()))
        for name, quirks in PROFILES.items()
    ]
    return _table(("profile", "presets"), ((name, presets or "-") for name, presets in rows))


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"settings": settings_table, "metrics": metrics_table},
    "docs/architecture.md": {
        "core layers": core_layers,
        "edge imports": edge_imports,
        "states": states_table,
    },
    "docs/quirks.md": {"profiles": profiles_table},
}
"""Which tables stand in which page."""


def renewed(page: str) -> str:
    """Return a page with its tables as they should be."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, make in TABLES[page].items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, opened, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not opened or not closed:
            raise SystemExit(f"{page} lacks the markers of the table {name}")
        text = f"{before}{begin}{make()}\n{end}{after}"
    return text


def stale() -> list[str]:
    """Return the pages that are out of date."""
    return [page for page in TABLES if renewed(page) != (ROOT / page).read_text(encoding="utf-8")]


def main() -> int:
    """Run the command."""
    pages = stale()
    if sys.argv[1:] == ["--check"]:
        for page in pages:
            sys.stdout.write(f"{page} is out of date: run {COMMAND}\n")
        return 1 if pages else 0
    for page in pages:
        (ROOT / page).write_text(renewed(page), encoding="utf-8")
        sys.stdout.write(f"{page} is renewed\n")
    return 0


def _rules() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tests" / "test_layers.py"))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _default(value: object) -> str:
    if value is None or value in ([], ""):
        return "none"
    if isinstance(value, list):
        return ", ".join(f"`{item}`" for item in value)
    if isinstance(value, ByteSize):
        return f"{value // _MIB} MiB"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, int | float) else f"`{value}`"


def _labels(names: tuple[str, ...]) -> str:
    # The attributes that all gen_ai metrics share would make the table too wide to read.
    shared = SHARED_LABELS if "gen_ai_request_model" in names else ()
    told = ["OpenTelemetry's"] if shared else []
    told += [f"`{name}`" for name in names if name not in shared]
    return ", ".join(told) or "-"


def _choices(field: FieldInfo) -> str:
    if get_origin(field.annotation) is not Literal:
        return ""
    return " (" + ", ".join(f"`{choice}`" for choice in get_args(field.annotation)) + ")"


def _keys(name: str) -> str:
    """Return what each entry of a list of tables says."""
    if (name,) not in SETTINGS_TABLES:
        return ""
    fields = SETTINGS_TABLES[name,].model_fields
    told = [f"`{key}`: {field.description}{_choices(field)}" for key, field in fields.items()]
    return ". Each has " + "; ".join(told)


if __name__ == "__main__":
    sys.exit(main())
