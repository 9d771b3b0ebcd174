"""Log lines: one JSON object a line, or text on a terminal; secrets scrubbed at the last net.

Knows formats. Must not know what is worth logging. Fields given as ``extra={"fields": {...}}``
become keys of the object.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

LOG = logging.getLogger("wholestream")

_SECRET = re.compile(
    r"\b(?:sk|rk|pk)-[\w-]{4,}|(?i:bearer|basic)\s+\S+"
    # Up to the end of the line or of the quotes: a scheme or a first cookie is not all of it.
    # Quotes may be escaped, and the value may be the repr of bytes.
    r"|(?i:(?:authorization|api[-_]?key|cookie)\W{1,8}(?:b[\"'])?)[^\"'\r\n]+"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def scrub(text: str) -> str:
    """Take out what looks like a key. The last net, not the first: nothing secret is logged."""
    return _SECRET.sub("[redacted]", text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Render a record."""
        line: dict[str, Any] = {
            "ts": _timestamp(record),
            "level": record.levelname.lower(),
            "event": scrub(record.getMessage()),
            **{key: _shown(value) for key, value in getattr(record, "fields", {}).items()},
        }
        if record.exc_info:
            line["traceback"] = scrub(self.formatException(record.exc_info))
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """One readable line."""

    def format(self, record: logging.LogRecord) -> str:
        """Render a record."""
        fields = " ".join(
            f"{key}={_shown(value)}"
            for key, value in getattr(record, "fields", {}).items()
            if value
        )
        event = scrub(record.getMessage())
        text = f"{_timestamp(record)} {record.levelname.lower():7} {event} {fields}".rstrip()
        text = _CONTROL.sub(_escaped, text)
        if record.exc_info:
            lines = scrub(self.formatException(record.exc_info)).split("\n")
            text = "\n".join([text, *(_CONTROL.sub(_escaped, line) for line in lines)])
        return text


def set_up(level: str, style: str, stream: TextIO | None = None) -> bool:
    """Send all logging to stderr in one style; return whether it is text."""
    stream = stream or sys.stderr
    text = style == "text" or (style == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if text else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    LOG.setLevel(level.upper())
    # aiohttp logs whole header lines with a malformed request, keys included.
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL + 1)
    logging.captureWarnings(capture=True)
    return text


def _shown(value: object) -> object:
    return scrub(value) if isinstance(value, str) else value


def _escaped(control: re.Match[str]) -> str:
    """Take from a character its power over a terminal."""
    return repr(control[0])[1:-1]


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
