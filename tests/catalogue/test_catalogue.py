"""docs/faults.md, the scenarios and the cases tell the same catalogue: none lacks anything."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from catalogue.cases import CASES, THEMES
from catalogue.tale import Case
from proxy.core.fault import Fault, IncidentOutcome, Phase
from proxy.demo.scenarios import SCENARIOS

ROOT = Path(__file__).parent.parent.parent
COUNT = 65
COLUMNS = ["#", "fault", "without the proxy", "cause", "wholestream", "labels", "reproduce"]
FAULTS = {fault.value for fault in Fault}
WORDS = {word.value for words in (Phase, IncidentOutcome) for word in words}

_SPAN = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Row:
    """One row of the page's table."""

    number: int
    id: str
    cells: list[str]

    @property
    def labels(self) -> set[str]:
        """What is counted of it."""
        return {
            span for span in _SPAN.findall(self.cells[5]) if not span.startswith("wholestream_")
        }

    @property
    def scenarios(self) -> list[str]:
        """The scenarios that show it."""
        return _SPAN.findall(self.cells[6])


def table() -> list[list[str]]:
    """Return the cells of the page's table, its head and the line below that included."""
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    _, found, rest = text.partition("\n## Catalogue\n")
    assert found
    lines = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


ROWS = [Row(int(cells[0]), cells[1].strip("`"), cells) for cells in table()[2:]]
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.number}-{row.id}")
each_case = pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.id)


def repairs() -> set[str]:
    """Return the repairs that the page has a row for; ``test_docs`` holds them to the code."""
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").partition("\n## Repairs\n")[2]
    return set(re.findall(r"^\| `([a-z0-9_]+)` \|", text, re.MULTILINE))


def counted(case: Case) -> set[str]:
    """Return every fault and repair that the tales of a case come to."""
    facts = (fact for tale in case.tales.values() for fact in tale.faults)
    mended = (name for tale in case.tales.values() for name in tale.repairs)
    return {*(fact.partition("/")[0] for fact in facts), *mended}


@cache
def functions(file: str) -> set[str]:
    """Return the tests that a file has, by what Python reads in it."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds)}


# --- the page -------------------------------------------------------------------------------


def test_the_table_has_its_columns_and_every_number_once() -> None:
    """In order, without a gap; and no fault has two names, or two faults one."""
    assert table()[0] == COLUMNS
    assert [row.number for row in ROWS] == list(range(1, COUNT + 1))
    assert len({row.id for row in ROWS}) == COUNT


@each_row
def test_a_row_leaves_nothing_out(row: Row) -> None:
    """Every cell says something."""
    assert len(row.cells) == len(COLUMNS)
    assert all(row.cells)
    assert row.cells[1] == f"`{row.id}`"


@each_row
def test_a_row_names_labels_that_exist(row: Row) -> None:
    """Or says that nothing is counted."""
    assert row.labels <= FAULTS | WORDS | repairs()
    assert row.labels or row.cells[5].startswith(("none", "as "))


@each_row
def test_a_row_is_reproduced_by_a_scenario(row: Row) -> None:
    """That exists, and of which nothing is counted but what the row says."""
    assert row.scenarios
    assert set(row.scenarios) <= set(SCENARIOS)
    assert {SCENARIOS[name].fault for name in row.scenarios} <= row.labels | {""}


# --- the cases ------------------------------------------------------------------------------


def test_every_row_has_its_case_and_every_case_its_row() -> None:
    """Under the same number and name, and no number twice."""
    assert sum(map(len, THEMES)) == len(CASES)
    assert {number: case.id for number, case in CASES.items()} == {r.number: r.id for r in ROWS}


@each_case
def test_a_case_has_a_test_and_an_innocent_look_alike(case: Case) -> None:
    """Either as bytes for the core, or as tests that exist."""
    assert case.tales or case.tests
    assert case.alike or case.alike_tests
    for told in (*case.tests, *case.alike_tests):
        file, _, name = told.partition("::")
        assert name.startswith("test_")
        assert name in functions(file), told


@each_case
def test_what_a_case_counts_is_what_its_row_says(case: Case) -> None:
    """No label is left out, and none is told of which nobody has seen anything counted."""
    row = ROWS[case.number - 1]
    assert counted(case) <= row.labels
    seen = counted(case) | {SCENARIOS[name].fault for name in row.scenarios}
    assert case.tests or row.labels - WORDS <= seen


def test_no_two_cases_share_their_bytes_and_say_something_else() -> None:
    """What comes to one thing here must not come to another there."""
    told: dict[str, tuple[str, object]] = {}
    for case in CASES.values():
        for tale in (*case.tales.values(), *case.alike.values()):
            asked = repr((tale.parts, tale.request, tale.limits, tale.committed))
            said = (repr(tale.ending), (tale.given, tale.faults, dict(tale.repairs)))
            assert told.setdefault(asked, said)[1] == said[1], case.id
