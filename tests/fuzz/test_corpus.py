"""The corpus: every input that was worth keeping, through its property once more."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.properties import PROPERTIES
from fuzz.seeds import SEEDS

CORPUS = Path(__file__).parent / "corpus"
KEPT = sorted(path for path in CORPUS.glob("*/*"))
MOST_BYTES = 400_000


@pytest.mark.parametrize("target", PROPERTIES)
def test_what_was_kept_is_held_to(target: str) -> None:
    """No input of the corpus breaks its property; the message names the one that does."""
    inputs = [path for path in KEPT if path.parent.name == target]
    assert inputs, "there is a property without a corpus"
    for path in inputs:
        try:
            PROPERTIES[target](path.read_bytes())
        except Exception as error:  # noqa: BLE001 - whatever it is, it breaks the property
            pytest.fail(f"{path} breaks {target}: {error!r}", pytrace=True)


@pytest.mark.parametrize("target", PROPERTIES)
def test_what_a_search_begins_with_breaks_nothing(target: str) -> None:
    """The invented streams in the shapes of the faults."""
    for data in SEEDS[target]():
        PROPERTIES[target](data)


def test_the_corpus_is_small_and_of_known_properties() -> None:
    """It is for the repository, so it stays small; a directory nobody reads is a mistake."""
    assert {path.parent.name for path in KEPT} == set(PROPERTIES)
    assert sum(path.stat().st_size for path in KEPT) < MOST_BYTES
