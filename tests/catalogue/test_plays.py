"""Each fault of the catalogue comes to what its case says, its look-alike to nothing."""

from __future__ import annotations

import pytest

from catalogue.cases import CASES
from catalogue.play import CUTTINGS, check, play
from catalogue.tale import Tale

TALES = [
    pytest.param(tale, id=f"{case.number}-{case.id}-{name}")
    for case in CASES.values()
    for name, tale in case.tales.items()
]
ALIKE = [
    pytest.param(tale, id=f"{case.number}-{case.id}-{name}")
    for case in CASES.values()
    for name, tale in case.alike.items()
]


@pytest.mark.parametrize("cutting", CUTTINGS)
@pytest.mark.parametrize("tale", TALES)
def test_a_fault_comes_to_what_its_case_says(tale: Tale, cutting: str) -> None:
    """To the byte, whatever the reads; counted under its labels, once."""
    check(tale, play(tale, CUTTINGS[cutting]))


@pytest.mark.parametrize("cutting", CUTTINGS)
@pytest.mark.parametrize("tale", ALIKE)
def test_what_only_resembles_a_fault_passes_and_counts_as_nothing(tale: Tale, cutting: str) -> None:
    """Byte for byte, and complete."""
    [part] = tale.parts
    assert tale.given == part.body
    assert not tale.faults
    assert not tale.repairs
    check(tale, play(tale, CUTTINGS[cutting]))
