"""The examples in ``config/``: each loads, and the full one tells the truth."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from proxy.settings import PREFIX, Settings, load

CONFIG = Path(__file__).parent.parent / "config"
EXAMPLES = sorted(CONFIG.glob("*.toml"))
FULL = CONFIG / "wholestream.toml"
SHORT = [path for path in EXAMPLES if path != FULL]

UNSET = {name for name, field in Settings.model_fields.items() if field.default is None}
"""Settings without a default, for which the full example can only show a value."""

_COMMENTED = re.compile(r"^# ([a-z_]+ = .*)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)
    monkeypatch.delenv(PREFIX + "CONFIG", raising=False)


def commented() -> dict[str, Any]:
    """Return what the full example says when its comments are taken off."""
    return tomllib.loads("\n".join(_COMMENTED.findall(FULL.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_loads(path: Path) -> None:
    """No key is unknown and no value is wrong."""
    load({}, str(path))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_says_how_to_use_it(path: Path) -> None:
    """The command at its top names the file itself."""
    assert f"wholestream --config config/{path.name}\n" in path.read_text(encoding="utf-8")


def test_the_full_example_changes_nothing_as_it_stands() -> None:
    """Everything in it is a comment."""
    assert tomllib.loads(FULL.read_text(encoding="utf-8")) == {}


def test_the_full_example_mentions_every_setting() -> None:
    """Each once."""
    names = [line.partition(" ")[0] for line in _COMMENTED.findall(FULL.read_text())]
    assert len(names) == len(set(names))
    assert set(names) == set(Settings.model_fields)


def test_the_full_example_shows_the_true_defaults(tmp_path: Path) -> None:
    """With its comments taken off it is the same as nothing at all."""
    uncommented = tmp_path / "wholestream.toml"
    lines = _COMMENTED.findall(FULL.read_text(encoding="utf-8"))
    kept = [line for line in lines if line.partition(" ")[0] not in UNSET]
    uncommented.write_text("\n".join(kept), encoding="utf-8")
    assert load({}, str(uncommented)) == load({})


@pytest.mark.parametrize("name", sorted(UNSET))
def test_the_full_example_shows_a_value_where_there_is_no_default(name: str) -> None:
    """So that its form is known."""
    assert isinstance(commented()[name], str)


@pytest.mark.parametrize("path", SHORT, ids=lambda path: path.name)
def test_a_short_example_says_only_what_differs(path: Path) -> None:
    """A default that is repeated would hide what the example is about."""
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    settings, _ = load({}, str(path))
    defaults, _ = load({})
    same = [name for name in values if getattr(settings, name) == getattr(defaults, name)]
    assert same == []
