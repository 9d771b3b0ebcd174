"""Every property, over streams broken in the ways that streams break, and over plain bytes.

By default the same thousand cases each time. ``HYPOTHESIS_PROFILE=deep`` tries 20,000 new ones
a property, and remembers under ``.hypothesis`` which of them failed::

    HYPOTHESIS_PROFILE=deep .venv/bin/python -m pytest tests/fuzz/test_properties.py
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.database import DirectoryBasedExampleDatabase

from fuzz.properties import PROPERTIES
from fuzz.strategies import joined, spoken, streams

ROOT = Path(__file__).parents[2]
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]

settings.register_profile(
    "fuzz", settings.get_profile("proxy"), max_examples=1000, suppress_health_check=SLOW
)
settings.register_profile(
    "deep",
    settings.get_profile("fuzz"),
    derandomize=False,
    max_examples=20_000,
    database=DirectoryBasedExampleDatabase(ROOT / ".hypothesis" / "examples"),
)
DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
PROFILE = settings.get_profile("deep" if DEEP else "fuzz")

pytestmark = pytest.mark.timeout(0 if DEEP else 120)

STRATEGIES = {
    **{target: spoken(target) for target in PROPERTIES},
    "stream": streams() | spoken("stream"),
    "joining": joined() | spoken("joining"),
}


@pytest.mark.parametrize("target", PROPERTIES)
def test_the_property_holds(target: str) -> None:
    """No exception, no invariant broken."""

    @PROFILE
    @given(data=STRATEGIES[target])
    def check(data: bytes) -> None:
        PROPERTIES[target](data)

    check()
