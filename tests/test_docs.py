"""The documentation, compared with the code it speaks of.

What can be compared is: tables, names, numbers that are defaults, commands, links, transcripts.
Whether the rest is true is for the reader of a change to see.
"""

from __future__ import annotations

import ast
import json
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from enum import Enum
from itertools import dropwhile
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from prometheus_client import CollectorRegistry

from proxy import cli
from proxy.core.commands import own_error
from proxy.core.fault import AttemptEnd, Fault, Incident, IncidentOutcome, Phase, StreamOutcome
from proxy.core.grammars import GRAMMARS, grammar_for
from proxy.core.journal import Journal
from proxy.core.repairs import REPAIRS, TEXT_REPAIRS
from proxy.core.request import Request
from proxy.demo.scenarios import SCENARIOS
from proxy.incidents import IncidentRing
from proxy.metrics import Metrics
from proxy.settings import FIELDS, PREFIX, Settings
from proxy.settings_load import load
from proxy.settings_quirks import OwnQuirks
from proxy.version import __version__

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FILES = [
    *PAGES,
    ROOT / "Dockerfile",
    *sorted((ROOT / "config").glob("*")),
    *sorted((ROOT / "deploy").rglob("*.yaml")),
]
TABLES: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "tables.py"))

HOSTS = {
    *("127.0.0.1", "localhost", "wholestream"),
    *("api.openai.com", "your-provider.example", "169.254.169.254"),
    # Nobody's: what stands before the provider's own name is to be replaced.
    "your-resource.openai.azure.com",
}
"""Whose addresses may stand in a page."""

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_ASSIGNMENT = re.compile(r"[A-Z_]+=.*")


def text_of(page: str) -> str:
    """Return a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """Return what stands under a heading, up to the next one of its level."""
    level = heading.partition(" ")[0]
    _, found, rest = text_of(page).partition(f"\n{heading}\n")
    assert found, f"{page} has no {heading}"
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def spans(text: str) -> list[str]:
    """Return what stands in backquotes, outside of blocks."""
    return _SPAN.findall(_FENCE.sub("", text))


def rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows, heads included."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def values(names: type[Enum]) -> set[str]:
    """Return the values of an enumeration."""
    return {name.value for name in names}


def name_of(page: Path) -> str:
    """Name a page for the test report."""
    return str(page.relative_to(ROOT))


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command of ours in a page: from its blocks and its backquotes."""
    text = page.read_text(encoding="utf-8")
    if page.name == "README.md":
        text = text.replace(section("README.md", "## Not yet"), "")
    blocks = [body for kind, body in _FENCE.findall(text) if kind in {"sh", "console", "text"}]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    for line in [*lines, *spans(text)]:
        command = line.strip().removeprefix("$ ")
        if re.match(r"(?:[A-Z_]+=\S+ )*(?:\S+/)?(?:wholestream|python -m proxy)(?: |$)", command):
            yield shlex.split(command, comments=True)


def parse(words: list[str]) -> None:
    """Let the real parser read a command. Raises SystemExit if it refuses."""
    words = list(dropwhile(_ASSIGNMENT.fullmatch, words))
    arguments = words[3:] if words[1:3] == ["-m", "proxy"] else words[1:]
    if not arguments or arguments[0].startswith("-"):
        arguments.insert(0, "serve")
    cli._parser().parse_args(arguments)


def repairs_in_code() -> set[str]:
    """Return every repair that is counted anywhere: from the tables, and from where it is named."""
    found = {*REPAIRS, *TEXT_REPAIRS}
    for path in (ROOT / "proxy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found |= _repairs_named_by(node)
    return found - {""}


def _repairs_named_by(node: ast.AST) -> set[str]:
    match node:
        # What is told the name of a repair, or has places for them.
        case (
            ast.Call(
                func=ast.Name(id="count") | ast.Attribute(attr="_count" | "repaired"),
                args=[ast.Constant(value=str(name))],
            )
            | ast.Call(
                func=ast.Attribute(attr="labels", value=ast.Attribute(attr="repairs")),
                args=[_, ast.Constant(value=str(name))],
            )
            | ast.Subscript(
                value=ast.Attribute(attr="_repairs"), slice=ast.Constant(value=str(name))
            )
        ):
            return {name}
        # What is counted later by whoever reads the name.
        case ast.Assign(
            targets=[
                ast.Name(id="repair" | "added_ending") | ast.Attribute(attr="surplus"),
            ],
            value=ast.Constant(value=str(name)),
        ):
            return {name}
        case ast.Assign(targets=[ast.Name(id="_STRIPPED")], value=ast.Dict() as table):
            return set(ast.literal_eval(table).values())
        case ast.AugAssign(target=ast.Name(id="changed"), value=value):
            return {
                constant.value
                for constant in ast.walk(value)
                if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
            }
    return set()


# --- tables ---------------------------------------------------------------------------------


@pytest.mark.parametrize("page", TABLES["TABLES"])
def test_the_tables_made_from_code_are_up_to_date(page: str) -> None:
    """Settings, metrics, imports and states are as the code has them."""
    up_to_date = TABLES["renewed"](page) == text_of(page)
    assert up_to_date, f"{page} is out of date: run {TABLES['COMMAND']}"


def test_the_labels_left_out_of_the_metrics_table_are_those_of_opentelemetry() -> None:
    """They are the same for every metric of that kind, and docs/metrics.md names them."""
    registry = Metrics("", lambda: 0.0).registry
    labels = registry._names_to_collectors["gen_ai_client_token_usage"]._labelnames  # type: ignore[attr-defined]
    assert (*TABLES["SHARED_LABELS"], "gen_ai_token_type") == labels
    assert set(labels) <= set(spans(section("docs/metrics.md", "## Labels")))


@pytest.mark.parametrize(
    ("label", "wanted"),
    [
        ("`endpoint`", set(GRAMMARS)),
        ("`outcome` of a stream", values(StreamOutcome)),
        ("`fault`", values(Fault)),
        ("`phase`", values(Phase)),
        ("`outcome` of a fault", values(IncidentOutcome)),
    ],
)
def test_the_values_of_a_label_are_all_told(label: str, wanted: set[str]) -> None:
    """None is missing and none is made up."""
    told = {row[0]: row[1] for row in rows(section("docs/metrics.md", "## Labels"))}
    assert set(spans(told[label])) == wanted


# --- faults, repairs, scenarios -------------------------------------------------------------


def test_every_fault_has_its_section() -> None:
    """In the order of the code."""
    told = _HEADING.findall(section("docs/faults.md", "## Faults"))
    assert told == [fault.value for fault in Fault]


def test_every_repair_has_its_row() -> None:
    """Wherever in the code it is made."""
    told = [row[0] for row in rows(section("docs/faults.md", "## Repairs"))[1:]]
    assert told == [f"`{name}`" for name in sorted(repairs_in_code())]


@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
def test_a_fault_is_reproduced_by_every_scenario_that_shows_it(fault: Fault) -> None:
    """And by no other."""
    told = {
        name for name in spans(section("docs/faults.md", f"### {fault.value}")) if "ws-" in name
    }
    assert told == {name for name, scenario in SCENARIOS.items() if scenario.fault == fault.value}


def test_a_repair_is_reproduced_by_every_scenario_that_shows_it() -> None:
    """What has no scenario has bytes for a script, or a setting that makes one show it.

    A scenario that shows something else first is told where the catalogue says so as well.
    """
    labels = {row[1]: spans(row[5]) for row in rows(section("docs/faults.md", "## Catalogue"))[1:]}
    scenarios = {row[1]: spans(row[6]) for row in rows(section("docs/faults.md", "## Catalogue"))}
    for name, *_, reproduce in rows(section("docs/faults.md", "## Repairs"))[1:]:
        repair = name.strip("`")
        wanted = {s.name for s in SCENARIOS.values() if s.fault == repair}
        told = {span for span in spans(reproduce) if span.startswith("ws-")}
        assert wanted <= told, repair
        also = {
            name for id_, of in scenarios.items() if repair in labels.get(id_, ()) for name in of
        }
        assert told - wanted <= also or repair == "dropped_malformed", repair
        assert told or "script" in reproduce


def test_every_scenario_is_told() -> None:
    """The page that explains them leaves none out."""
    assert {span for span in spans(text_of("docs/faults.md")) if span in SCENARIOS} == {*SCENARIOS}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_scenario_is_made_up(page: Path) -> None:
    """Whatever looks like a scenario is one."""
    found = set(re.findall(r"\bws-[a-z0-9-]*[a-z0-9]", page.read_text(encoding="utf-8")))
    assert found <= set(SCENARIOS)


# --- quirks ---------------------------------------------------------------------------------


def test_every_quirk_has_its_section() -> None:
    """In the order of the settings, and with every value that it can have."""
    page = text_of("docs/quirks.md")
    told = re.findall(r"^### (.+)$", page, re.MULTILINE)
    assert told == list(OwnQuirks.model_fields)
    for name, field in OwnQuirks.model_fields.items():
        values = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        assert set(values) <= set(spans(section("docs/quirks.md", f"### {name}"))), name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_quirk_that_is_named_is_a_setting(page: Path) -> None:
    """Wherever it stands, with a value or without."""
    found = re.findall(r"`(quirks\.[a-z_]+)(?: = ([^`]+))?`", page.read_text(encoding="utf-8"))
    for name, value in found:
        assert name in FIELDS
        if value:
            given = tomllib.loads(f"value = {value}")["value"]
            OwnQuirks.model_validate({name.removeprefix("quirks."): given})


EXAMPLES = [
    pytest.param(body, id=f"{name_of(page)}-{number}")
    for page in PAGES
    for number, (kind, body) in enumerate(_FENCE.findall(page.read_text(encoding="utf-8")))
    if kind == "toml"
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_a_file_loads(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key of it is unknown and no value is wrong."""
    for variable in re.findall(r'api_key_env = "([A-Z_]+)"', example):
        monkeypatch.setenv(variable, "sk-example")
    file = tmp_path / "wholestream.toml"
    file.write_text(example, encoding="utf-8")
    load({}, str(file))


# --- transcripts ----------------------------------------------------------------------------


def test_the_readme_quotes_errors_as_they_are() -> None:
    """The message of the traceback, and the event of the second ending."""
    told = text_of("README.md")
    assert own_error(Fault.CLEAN_EOF, "", 6).message in told
    error = own_error(Fault.STALL, "", 6)
    grammar = grammar_for(Request("POST", "/chat/completions"))
    [event] = grammar.error_events(error, Journal(1))
    assert event.encode().decode().strip() in told


def test_the_readme_shows_an_incident_as_it_is() -> None:
    """The same keys in the same order, and a tail that is masked as told."""
    [block] = [body for kind, body in _FENCE.findall(text_of("README.md")) if kind == "json"]
    told = json.loads(block)
    incident = Incident(
        *(Fault.CUT_MID_EVENT, Phase.MID_CONTENT, IncidentOutcome.SURFACED),
        *(told["attempt"], told["age_s"], AttemptEnd().status, told["events"], told["bytes"]),
        *(told["tail_offset"], told["tail"].encode(), ""),
    )
    facts = {key: told[key] for key in ("request_id", "endpoint", "model", "upstream", "target")}
    shown = IncidentRing("masked").add(incident, facts=facts, attempts=told["attempts"])
    assert list(shown) == list(told)
    assert shown | {"time": 0} == told | {"time": 0}


# --- commands, settings, metrics ------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_is_one_that_the_parser_knows(page: Path) -> None:
    """With all of its flags, wherever it stands."""
    for words in commands(page):
        parse(words)


def test_the_search_for_commands_finds_them() -> None:
    """A check that finds nothing proves nothing."""
    found = list(commands(ROOT / "README.md"))
    assert ["wholestream", "config"] in found
    assert any("--serve" in words for words in found)
    with pytest.raises(SystemExit):
        parse(["wholestream", "--no-such-flag", "1"])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_variable_is_a_setting(path: Path) -> None:
    """In pages, examples and deployments alike."""
    found = re.findall(rf"{PREFIX}([A-Z][A-Z_]*)", path.read_text(encoding="utf-8"))
    known = {*FIELDS, *Settings.model_fields, "config"}
    assert {name.lower().replace("__", ".") for name in found} <= known


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_metric_exists(page: Path) -> None:
    """Queries and alerts name what is there."""
    text = page.read_text(encoding="utf-8")
    found = set(re.findall(r"\b(?:wholestream|gen_ai_client)_[a-z_]+", text))
    assert found <= set(_series(Metrics("", lambda: 0.0).registry))


def _series(registry: CollectorRegistry) -> Iterator[str]:
    for name in registry._names_to_collectors:
        yield name
        yield from (name + suffix for suffix in ("_bucket", "_sum", "_count"))


def test_what_is_not_yet_there_is_not_there() -> None:
    """The list shrinks when something of it is built."""
    told = spans(section("README.md", "## Not yet"))
    assert "max_streams" in told
    assert not {name.partition(".")[0] for name in told} & set(Settings.model_fields)
    for command in (name for name in told if name.startswith("wholestream ")):
        with pytest.raises(SystemExit):
            parse(command.split())


def test_the_sidecar_runs_this_version() -> None:
    """Its image has the version's tag."""
    assert f"image: wholestream:{__version__}\n" in text_of("deploy/kubernetes/sidecar.yaml")


# --- links and addresses --------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(text))
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """To a file, and to a heading in it."""
    for target, anchor in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        file = (page.parent / target) if target else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}#{anchor}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_page_names_a_machine(path: Path) -> None:
    """Neither the one it was written on nor one that the reader has no business with."""
    text = path.read_text(encoding="utf-8")
    hosts = set(re.findall(r"https?://\[?([\w.-]+)", text))
    assert hosts <= HOSTS
    here = [str(place) for place in (ROOT, sys.prefix, Path.home())]
    assert not [place for place in here if len(place) > 1 and f"{place}/" in text]
