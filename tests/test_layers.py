"""Imports go one way: the table, and the check that holds it.

Inside the core a module may import what lies in a lower layer, and its own package. Above the
core each module names what it may import. Whatever is not in a table fails.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import proxy

ROOT = Path(proxy.__path__[0])
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))

CORE: dict[str, int] = {
    "sse": 0,
    "fault": 0,
    "request": 0,
    "budget": 0,
    "policy": 0,
    "errors": 0,
    "states": 0,
    "journal": 1,
    "grammars": 2,
    "repairs": 3,
    "recovery": 3,
    "hold": 3,
    "doubt": 3,
    "document": 3,
    "judgement": 4,
    "shortcut": 4,
    "attempt": 5,
    "commands": 5,
    "course": 6,
    "ledger": 6,
    "outlet": 6,
    "telling": 7,
    "facts": 8,
    "session": 9,
}
"""Layers of the core. Those of one layer do not know each other."""

ABOVE: dict[str, set[str]] = {
    "version": set(),
    # parts of the edge
    "decoding": set(),
    "headers": set(),
    "logs": set(),
    "raw": set(),
    "sniff": {"decoding"},
    "origin": set(),
    "intake": set(),
    "pool": {"intake", "raw"},
    "tally": set(),
    "incidents": {"core"},
    "replies": {"core"},
    "settings_types": set(),
    "settings_quirks": {"core", "settings_types"},
    "settings_tables": {"core", "settings_quirks", "settings_types"},
    "settings": {"core", "settings_quirks", "settings_tables", "settings_types"},
    "settings_load": {"settings", "settings_tables"},
    "metrics": {"core", "tally", "version"},
    "clocks": {"settings"},
    "gate": {"core", "settings"},
    "clients": {"pool", "settings"},
    "answer": {"core", "intake", "pool", "raw"},
    "upstream": {"answer", "clients", "core", "origin", "settings", "settings_tables"},
    "upstreams": {"clients", "origin", "settings", "upstream"},
    # what a request needs
    "edge": {"core", "incidents", "metrics", "settings", "upstreams"},
    "asking": {"answer", "core", "edge", "headers"},
    "downstream": {"answer", "core", "headers", "raw", "replies"},
    "record": {"core", "edge", "logs", "metrics", "tally"},
    "exchange": {
        *("answer", "clocks", "core", "downstream", "edge", "record", "replies"),
    },
    "flow": {"answer", "core", "exchange", "pool"},
    "reception": {"answer", "core", "decoding", "exchange", "flow", "headers", "sniff"},
    "relay": {"answer", "asking", "core", "edge", "exchange", "logs", "reception"},
    "tunnel": {"answer", "core", "edge", "exchange", "headers", "logs", "raw", "replies"},
    # the two listeners
    "uploads": set(),
    "api": {
        *("asking", "core", "edge", "gate", "metrics", "relay", "replies", "settings"),
        *("tunnel", "uploads"),
    },
    "admin": {"core", "edge", "gate", "headers", "incidents", "metrics", "replies"},
    "server": {"core", "logs", "raw", "replies"},
    "listening": {"server", "settings"},
    # one process, or several
    "service": {"api", "edge", "gate", "listening", "logs", "settings"},
    "totals": set(),
    "channel": {"totals"},
    "worker": {"channel", "logs", "service", "settings", "totals"},
    "workers": {"channel", "worker"},
    "crew": {"channel", "edge", "incidents", "logs", "settings", "totals", "workers"},
    "parent": {"admin", "crew", "gate", "listening", "logs", "metrics", "settings", "totals"},
    "app": {
        *("admin", "crew", "edge", "gate", "listening", "logs", "parent", "service", "settings"),
        "version",
    },
    # the commands
    "demo": {"core", "version"},
    "lint": {"core", "decoding", "headers", "sniff"},
    "cli": {
        *("app", "core", "demo", "lint", "logs"),
        *("settings", "settings_load", "settings_tables", "version"),
    },
    "__main__": {"cli"},
}
"""What each module above the core may import of ours; ``core`` stands for all of it."""

NO_WORLD = {
    *("asyncio", "aiohttp", "uvloop", "socket", "ssl", "select", "selectors", "threading"),
    *("time", "datetime", "random", "secrets", "uuid"),
    *("os", "pathlib", "io", "subprocess", "signal", "logging", "warnings"),
    *("prometheus_client", "pydantic", "pydantic_settings"),
}
"""What the core must not import: law 1."""


# --- the check ---


def imports(tree: ast.AST) -> Iterator[str]:
    """Give the dotted name of every import, wherever it stands; ``.`` for a relative one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "."
            elif node.module in {"proxy", "proxy.core"}:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def owner(path: Path) -> tuple[str, str]:
    """Say which table a file belongs to, and under which name; an empty one is a map."""
    parts = path.with_suffix("").parts
    if parts[0] == "core":
        return "core", "" if parts[1] == "__init__" else parts[1]
    return "above", "" if parts[0] == "__init__" else parts[0]


def broken_rules(path: Path, source: str) -> list[str]:
    """Return one line for each import of a file that the tables do not allow."""
    table, name = owner(path)
    check = _core_may_not if table == "core" else _above_may_not
    found = [(target, check(name, target.split("."))) for target in imports(ast.parse(source))]
    return [f"{path} imports {target}: {reason}" for target, reason in found if reason]


def _core_may_not(name: str, target: list[str]) -> str:
    if target[0] != "proxy":
        return "the core knows no world" if target[0] in {*NO_WORLD, ""} else ""
    if target[1:2] != ["core"]:
        return "the core knows nothing above it"
    other = target[2] if len(target) > 2 else ""
    if not name or other not in CORE:
        return "not in the table"
    return "" if other == name or CORE[other] < CORE[name] else "not below it"


def _above_may_not(name: str, target: list[str]) -> str:
    if target[0] != "proxy" or len(target) == 1:
        return "" if target[0] else "a relative import hides its layer"
    return "" if target[1] in {name, *ABOVE.get(name, ())} else "not in its row"


# --- what holds ---


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    """Every file of the package, imports inside functions included."""
    assert broken_rules(path, (ROOT / path).read_text()) == []


def test_the_tables_name_every_module_and_nothing_else() -> None:
    """A new module needs its place, a removed one leaves."""
    there = {owner(path) for path in FILES} - {("core", ""), ("above", "")}
    named = {("core", name) for name in CORE} | {("above", name) for name in ABOVE}
    assert there == named


def test_no_two_modules_above_the_core_know_each_other() -> None:
    """The rows of the table can be put in one order."""
    order = list(TopologicalSorter(ABOVE).static_order())
    assert order.index("core") < order.index("relay") < order.index("app") < order.index("cli")


@pytest.mark.parametrize("module", ["relay", "api", "app", "cli"])
def test_the_demonstration_does_not_know_what_it_demonstrates(module: str) -> None:
    """It sees the proxy from outside, as an app does."""
    assert module not in ABOVE["demo"]


# --- the check itself ---

BREACHES = [
    ("core/sse.py", "import asyncio"),
    ("core/sse.py", "import os.path"),
    ("core/session.py", "from time import monotonic"),
    ("core/session.py", "def wait():\n    import time"),
    ("core/session.py", "if TYPE_CHECKING:\n    from aiohttp import web"),
    ("core/grammars/chat.py", "import json, random"),
    ("core/recovery/restart.py", "import proxy.settings"),
    ("core/recovery/restart.py", "from proxy import settings"),
    ("core/policy.py", "from proxy.settings import Settings"),
    ("core/sse.py", "from proxy.core.fault import Fault"),
    ("core/sse.py", "from proxy.core import fault"),
    ("core/sse.py", "from . import fault"),
    ("core/sse.py", "import proxy.core"),
    ("core/journal.py", "from proxy.core.grammars import Grammar"),
    ("core/grammars/chat.py", "from proxy.core.session import StreamSession"),
    ("core/repairs/text.py", "from proxy.core.recovery import climb"),
    ("core/recovery/restart.py", "from proxy.core.repairs import mend"),
    ("core/recovery/situation.py", "from proxy.core.hold import Hold"),
    ("core/hold.py", "from proxy.core.recovery import Plan"),
    ("core/course.py", "from proxy.core.ledger import Ledger"),
    ("core/course.py", "from proxy.core.telling import Failure"),
    ("core/attempt.py", "from proxy.core.commands import Open"),
    ("core/session.py", "from proxy.core.unknown import thing"),
    ("core/__init__.py", "from proxy.core.session import StreamSession"),
    ("__init__.py", "from proxy.app import main"),
    ("headers.py", "from proxy.relay import Relay"),
    ("headers.py", "from .relay import Relay"),
    ("admin.py", "from proxy import relay"),
    ("demo/showcase.py", "from proxy.relay import Relay"),
    ("demo/showcase.py", "from proxy.app import serve"),
    ("unheard_of.py", "from proxy.core.fault import Fault"),
]


@pytest.mark.parametrize(("path", "source"), BREACHES)
def test_the_check_sees_a_forbidden_import(path: str, source: str) -> None:
    """A check that cannot fail proves nothing."""
    assert len(broken_rules(Path(path), source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/session.py", "import json\nfrom collections import Counter"),
        ("core/session.py", "from proxy.core.sse import Event\nfrom proxy.core import budget"),
        ("core/grammars/chat.py", "from proxy.core.grammars.base import Kind"),
        ("core/attempt.py", "from proxy.core.repairs.text import replace_utf8"),
        ("relay.py", "import asyncio\nfrom proxy.core.session import StreamSession"),
        ("demo/showcase.py", "import proxy\nfrom proxy.demo.seen import Seen"),
        ("demo/showcase.py", "from proxy.core.sse import Event"),
    ],
)
def test_the_check_lets_a_legal_import_pass(path: str, source: str) -> None:
    """And nothing else is forbidden."""
    assert broken_rules(Path(path), source) == []
