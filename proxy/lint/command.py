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
_INTERRUPTED = 130
_READ_BYTES = 2**20


def check(file: str | None, endpoint: str | None, *, json: bool) -> int:
    """Judge a capture and print that: 0 clean, 1 not, 2 where one of both cannot be done."""
    try:
        return _check(file, endpoint, json=json)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _check(file: str | None, endpoint: str | None, *, json: bool) -> int:
    try:
        verdict = lint(_captured(file), endpoint or "")
    except (OSError, CaptureError) as error:
        text = error.strerror if isinstance(error, OSError) else error
        named = f"{file if file.isprintable() else repr(file)}: " if file else ""
        print(f"wholestream: {named}{text}", file=sys.stderr)  # noqa: T201 - for the user
        return _USAGE
    try:
        print(as_json(verdict) if json else as_text(verdict), flush=True)  # noqa: T201 - the output
    except OSError as error:
        # What is left of it must not be complained about again by the flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"wholestream: standard output: {error.strerror}", file=sys.stderr)  # noqa: T201
        return _USAGE
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
