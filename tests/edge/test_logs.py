"""The log: one object or one line for each record, and no key in it."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.logs import LOG, JsonFormatter, TextFormatter, scrub, set_up

HOSTILE = 'a\nb\r\n{"level":"x"}\x1b[2J\x00\x7f\x85\u2028\u2029"\\\'\ud800'


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Put the logging of the process back after a test."""
    root, aiohttp = logging.getLogger(), logging.getLogger("aiohttp")
    handlers, levels = root.handlers[:], [(each, each.level) for each in (root, aiohttp, LOG)]
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    for each, level in levels:
        each.setLevel(level)


def record(message: str, *arguments: object, **fields: object) -> logging.LogRecord:
    """Make a record as ``LOG`` would."""
    made = LOG.makeRecord(LOG.name, logging.WARNING, __file__, 1, message, arguments, None)
    made.fields = fields
    return made


def _fail(message: str) -> NoReturn:
    raise LookupError(message)


def failed(message: str) -> logging.LogRecord:
    """Make a record of an exception with this message."""
    made = record("bug")
    try:
        _fail(message)
    except LookupError:
        made.exc_info = sys.exc_info()
    return made


def written(shown: logging.LogRecord) -> dict[str, Any]:
    """Return the object of a record, which is one line."""
    line = JsonFormatter().format(shown)
    assert line.isprintable()
    assert line.isascii()
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


# --- one JSON object a line -------------------------------------------------------------


def test_a_record_is_an_object_with_its_fields_beside_time_level_and_event() -> None:
    """The values keep their types."""
    found = written(record("inci%s", "dent", attempt=2, age_s=0.5, status=None, list=["a"]))
    assert datetime.fromisoformat(found.pop("ts")).utcoffset() is not None
    assert found == {
        "level": "warning",
        "event": "incident",
        "attempt": 2,
        "age_s": 0.5,
        "status": None,
        "list": ["a"],
    }


def test_a_record_without_fields_is_an_object_too() -> None:
    """Those of libraries have none."""
    made = logging.getLogger("x").makeRecord("x", logging.INFO, __file__, 1, "m", (), None)
    found = written(made)
    assert found.keys() == {"ts", "level", "event"}


def test_nothing_in_a_record_breaks_its_line() -> None:
    """Line ends of all kinds, escapes of terminals, quotes: they come back as they were."""
    found = written(record(HOSTILE.replace("%", "%%"), field=HOSTILE))
    assert found["event"] == HOSTILE
    assert found["field"] == HOSTILE


@given(text=st.text(st.characters(exclude_categories=())))
def test_any_text_is_one_line_of_json_and_one_of_text(text: str) -> None:
    """Lone surrogates too: they come from JSON bodies."""
    shown = record("%s", text, field=text)
    assert written(shown)["event"] == scrub(text)
    assert len(TextFormatter().format(shown).splitlines()) == 1


def test_a_value_that_json_does_not_know_is_shown_as_text() -> None:
    """A log line must not raise."""
    assert written(record("m", where=ValueError("x")))["where"] == "x"


def test_an_exception_is_inside_its_line() -> None:
    """With its traceback, free of keys."""
    found = written(failed(f"sk-canary-4711 {HOSTILE}"))
    assert found["event"] == "bug"
    assert found["traceback"].startswith("Traceback (most recent call last):\n")
    assert "LookupError: [redacted] a\nb" in found["traceback"]


# --- text for a terminal ----------------------------------------------------------------


def test_a_text_line_shows_the_fields_that_say_something() -> None:
    """What is empty, none or zero is left out."""
    line = TextFormatter().format(record("incident", fault="reset", status=None, detail="", n=3))
    assert re.fullmatch(r"\S+ warning incident fault=reset n=3", line)


def test_a_text_line_without_fields_ends_with_its_event() -> None:
    """No blank at the end."""
    assert TextFormatter().format(record("draining")).endswith(" draining")


def test_a_text_line_has_no_power_over_the_terminal() -> None:
    """Controls are shown, not sent."""
    line = TextFormatter().format(record(HOSTILE, field=HOSTILE))
    assert line.isprintable() or line.replace("\ud800", "").isprintable()
    assert r"a\nb\r\n" in line
    assert r"\x1b[2J\x00\x7f\x85\u2028\u2029" in line


def test_an_exception_on_a_terminal_follows_its_line_without_power_over_it() -> None:
    """Only the traceback's own line ends are line ends."""
    text = TextFormatter().format(failed("sk-canary-4711 a\x1b[2J\r\u2028b"))
    first, *rest = text.split("\n")
    assert first.endswith(" bug")
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == r"LookupError: [redacted] a\x1b[2J\r\u2028b"


# --- the last net for keys --------------------------------------------------------------

SECRETS = [
    "sk-canary4711",
    "sk-proj-canary_4711-x",
    "the key sk-canary4711, which",
    '{"key":"sk-canary4711"}',
    "rk-canary4711",
    "Bearer canary4711",
    "bearer   canary4711",
    "BEARER canary4711",
    "Basic Y2FuYXJ5canary",
    "Authorization: canary4711",
    "authorization=canary4711",
    "Authorization: Bearer canary4711 canary",
    "api-key: canary4711",
    "Api-Key:canary4711",
    "x-api-key: canary4711",
    "api_key=canary4711",
    "apikey: canary4711",
    "Cookie: a=canary; b=canary",
    "set-cookie: session=canary4711; Path=/",
    '{"api_key": "canary4711"}',
    '{"authorization":"canary 4711"}',
    r'"{\"api_key\": \"canary4711\"}"',
    "{'Authorization': 'canary4711'}",
    "(b'authorization', b'canary4711')",
    "b'cookie': b'a=canary'",
    'b"api-key: canary4711"',
]

INNOCENT = [
    "risk-free",
    "task-1",
    "disk-usage-high",
    "flask-server",
    "desk-bound sk-1",
    "chatcmpl-123 resp_456 ws_0123456789abcdef",
    "bearer",
    "basically everything",
    "cookies are dropped",
    "authorized",
    "gpt-4o-mini",
    "https://api.openai.com/v1",
    "first_event_timeout: the upstream sent no event in time",
    "",
]


@pytest.mark.parametrize("text", SECRETS)
def test_what_looks_like_a_key_is_taken_out(text: str) -> None:
    """In the message, in a field, in a traceback; in both styles."""
    assert "canary" not in scrub(text)
    assert "[redacted]" in scrub(text)
    for formatter in (JsonFormatter(), TextFormatter()):
        shown = formatter.format(record("%s", text, field=text))
        assert "canary" not in shown
        assert shown.count("[redacted]") >= 2
        assert "canary" not in formatter.format(failed(text)).partition("LookupError: ")[2]


@pytest.mark.parametrize("text", INNOCENT)
def test_what_only_resembles_a_key_stays(text: str) -> None:
    """A log with holes helps nobody."""
    assert scrub(text) == text


def test_only_the_line_of_a_key_is_taken_out() -> None:
    """The lines around it stay."""
    text = "first\nAuthorization: Bearer canary x\r\nlast"
    assert scrub(text) == "first\n[redacted]\r\nlast"


@given(before=st.text(), after=st.text())
def test_a_key_is_taken_out_whatever_is_around_it(before: str, after: str) -> None:
    """And taking out twice changes nothing more."""
    once = scrub(f"{before} sk-canary-4711 {after}")
    assert "canary" not in once
    assert scrub(once) == once


# --- how it is set up -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "terminal", "text"),
    [
        ("auto", False, False),
        ("auto", True, True),
        ("json", True, False),
        ("json", False, False),
        ("text", False, True),
        ("text", True, True),
    ],
)
def test_auto_is_text_on_a_terminal_and_json_elsewhere(
    style: str, *, terminal: bool, text: bool
) -> None:
    """The other two are what they say."""
    stream = Terminal() if terminal else io.StringIO()
    assert set_up("info", style, stream) is text
    LOG.info("listening", extra={"fields": {"a": 1}})
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("{") is not text
    assert line.endswith(" listening a=1") is text


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_level_is_that_of_our_own_log(level: str) -> None:
    """Others speak from a warning on."""
    stream = io.StringIO()
    set_up(level, "json", stream)
    names = ["debug", "info", "warning", "error"]
    for name in names:
        LOG.log(logging.getLevelNamesMapping()[name.upper()], name)
    logging.getLogger("asyncio").info("no")
    logging.getLogger("asyncio").warning("yes")
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events == [*names[names.index(level) :], "yes"]


def test_aiohttp_says_nothing() -> None:
    """It logs header lines of malformed requests, keys included."""
    stream = io.StringIO()
    set_up("debug", "json", stream)
    for name in ("aiohttp", "aiohttp.server", "aiohttp.access", "aiohttp.client", "aiohttp.web"):
        logging.getLogger(name).critical("Authorization: canary")
    assert stream.getvalue() == ""


def test_a_warning_of_python_is_a_line_like_any_other() -> None:
    """It spans two lines by itself."""
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        set_up("info", "json", stream)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    (line,) = stream.getvalue().splitlines()
    assert "DeprecationWarning: old" in json.loads(line)["event"]


def test_setting_up_twice_does_not_write_twice() -> None:
    """The last one counts."""
    first, last = io.StringIO(), io.StringIO()
    set_up("info", "json", first)
    set_up("info", "json", last)
    LOG.info("once")
    assert first.getvalue() == ""
    assert len(last.getvalue().splitlines()) == 1
