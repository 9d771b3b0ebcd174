"""The examples in ``config/``: each loads, and the full one tells the truth."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from proxy.settings import FIELDS, LISTS, PREFIX, SettingsError
from proxy.settings_load import load
from proxy.settings_tables import TABLES

CONFIG = Path(__file__).parent.parent / "config"
EXAMPLES = sorted(CONFIG.glob("*.toml"))
FULL = CONFIG / "wholestream.toml"
SHORT = [path for path in EXAMPLES if path != FULL]

UNSET = {name for name, field in FIELDS.items() if field.default is None}
"""Settings without a default, for which the full example can only show a value."""

_COMMENTED = re.compile(r"^# ([a-z_]+ = .*|\[+[a-z]+\]+)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv("BACKUP_API_KEY", "sk-backup")


def uncommented() -> list[str]:
    """Return the lines of the full example that are settings, without their comment signs."""
    return _COMMENTED.findall(FULL.read_text(encoding="utf-8"))


def commented() -> dict[str, Any]:
    """Return what the full example says when its comments are taken off; no key comes twice."""
    return tomllib.loads("\n".join(uncommented()))


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
    """Each once, those of a table below its head."""
    values = commented()
    inside = {f"{table}.{key}" for table in ("recovery", "quirks") for key in values.pop(table)}
    assert values.keys() | inside == FIELDS.keys()


def test_the_quirks_of_every_upstream_are_those_of_the_first() -> None:
    """So they are shown once; but other upstreams are not asked by paths of their own."""
    first, others = TABLES["quirks",].model_fields, TABLES["upstreams", "quirks"].model_fields
    assert first.keys() - others.keys() == {"paths"}
    assert others.keys() <= first.keys()


SHOWN = [place for place in TABLES if place[0] in LISTS and place[-1] != "quirks"]


@pytest.mark.parametrize("place", SHOWN, ids=".".join)
def test_the_full_example_mentions_every_key_of_a_list_of_tables(place: tuple[str, ...]) -> None:
    """Between its entries."""
    entries = [commented()]
    for key in place:
        entries = [inner for entry in entries for inner in entry[key]]
    assert {key for entry in entries for key in entry} == TABLES[place].model_fields.keys()


def test_the_full_example_loads_with_its_comments_taken_off(tmp_path: Path) -> None:
    """Its upstreams and fallbacks fit together, and only what has no default differs."""
    path = tmp_path / "wholestream.toml"
    kept = [line for line in uncommented() if line.partition(" ")[0] not in UNSET]
    path.write_text("\n".join(kept), encoding="utf-8")
    settings, _ = load({}, str(path))
    assert [entry.name for entry in settings.upstreams] == ["backup"]
    plain = settings.model_copy(update={key: [] for key in LISTS})
    assert plain.model_dump() == load({})[0].model_dump()


@pytest.mark.parametrize("name", sorted(UNSET))
def test_the_full_example_shows_a_value_where_there_is_no_default(name: str) -> None:
    """So that its form is known."""
    assert isinstance(commented()[name], str)


@pytest.mark.parametrize("path", SHORT, ids=lambda path: path.name)
def test_a_short_example_says_only_what_differs(path: Path) -> None:
    """A default that is repeated would hide what the example is about."""
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    settings, _ = load({}, str(path))
    assert said_again(values, settings.model_dump(), load({})[0].model_dump()) == []


def said_again(said: dict[str, Any], got: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    """Return the keys that are said and have their default."""
    same = []
    for name, value in said.items():
        if isinstance(value, dict):
            same += said_again(value, got[name], defaults[name])
        elif got[name] == defaults[name]:
            same.append(name)
    return same


def test_the_failover_example_leads_to_the_other_upstream() -> None:
    """With the key from the environment, and its own name for the model."""
    settings, _ = load({}, str(CONFIG / "failover.toml"))
    key = settings.upstreams[0].api_key
    assert key is not None
    assert key.get_secret_value() == "sk-backup"
    first = settings.policy.fallbacks[0]
    assert [(to.upstream, to.model) for to in first.to] == [("backup", "small")]
    assert settings.policy.hold == "tool_calls"


def test_the_failover_example_needs_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, the client's key would go to somebody else."""
    monkeypatch.delenv("BACKUP_API_KEY")
    with pytest.raises(SettingsError, match=r"^upstreams\.backup\.api_key_env: .*BACKUP_API_KEY"):
        load({}, str(CONFIG / "failover.toml"))
