"""The command ``check``: where a capture comes from, where the verdict goes, exit codes.

Knows files and standard input. Must not know what is in them.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from proxy.lint.capture import CaptureError
from proxy.lint.reading import lint
from proxy.lint.report import as_json, as_text

_USAGE = 2
_READ_BYTES = 2**20


def check(file: str | None, endpoint: str | None, *, json: bool) -> int:
    """Judge a capture and print that: 0 clean, 1 not, 2 for one that cannot be read."""
    try:
        verdict = lint(_captured(file), endpoint or "")
    except (OSError, CaptureError) as error:
        text = error.strerror if isinstance(error, OSError) else error
        named = f"{file if file.isprintable() else repr(file)}: " if file else ""
        print(f"wholestream: {named}{text}", file=sys.stderr)  # noqa: T201 - for the user
        return _USAGE
    print(as_json(verdict) if json else as_text(verdict))  # noqa: T201 - the command's output
    return 0 if verdict.clean else 1


def _captured(file: str | None) -> bytes:
    if file not in {None, "-"}:
        return Path(str(file)).read_bytes()
    if sys.stdin is None or (file is None and sys.stdin.isatty()):
        raise CaptureError("give a file, or pipe a body in: curl -sN ... | wholestream check -")
    read = bytearray()
    # Who interrupts curl interrupts this as well, and wants to know what came until then.
    for _ in ("interrupted", "and again"):
        with contextlib.suppress(KeyboardInterrupt):
            while piece := os.read(sys.stdin.fileno(), _READ_BYTES):
                read += piece
            break
    return bytes(read)
