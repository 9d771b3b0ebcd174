"""All cases of the catalogue by their number in docs/faults.md. To add one: a line in its theme.

Knows the themes. Must not know what the page says: ``test_catalogue`` compares the two.
"""

from __future__ import annotations

from catalogue.edges import EDGES
from catalogue.ends import ENDS
from catalogue.errors import ERRORS
from catalogue.framing import FRAMING
from catalogue.meaning import MEANING
from catalogue.tale import Case

THEMES = (ENDS, ERRORS, FRAMING, MEANING, EDGES)

CASES: dict[int, Case] = {
    case.number: case
    for case in sorted((case for theme in THEMES for case in theme), key=lambda case: case.number)
}
