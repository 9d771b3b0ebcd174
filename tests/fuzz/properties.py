"""The properties: each a plain function of bytes, which raises AssertionError where it is broken.

Any other exception breaks it as well: no input of an upstream or a client may raise. The names
are those of the directories in ``corpus`` and of ``coverage_guided.py --target``.
"""

from __future__ import annotations

from collections.abc import Callable

from fuzz.crossing import check_errors, check_headers, check_request, check_targets
from fuzz.framing import check_splitter
from fuzz.joining import check_joining
from fuzz.mending import check_repairs
from fuzz.streaming import check_stream

PROPERTIES: dict[str, Callable[[bytes], None]] = {
    "splitter": check_splitter,
    "stream": check_stream,
    "joining": check_joining,
    "repairs": check_repairs,
    "headers": check_headers,
    "targets": check_targets,
    "request": check_request,
    "errors": check_errors,
}
SHARES = {"stream": 6, "joining": 4, "splitter": 2, "repairs": 2}
"""How much of the time a property gets, where it is not 1: by how much there is behind it."""
