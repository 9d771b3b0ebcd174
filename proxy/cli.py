"""The commands: serve (the default), check, config, healthcheck, demo.

Knows flags and exit codes: 0 well, 1 not, 2 wrong usage or setting. No traceback reaches a user.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from proxy.lint.endpoints import ENDPOINTS
from proxy.logs import LOG, set_up
from proxy.settings import FIELDS, LISTS, Settings, SettingsError, base_url
from proxy.settings_load import load, meant
from proxy.settings_tables import printable
from proxy.version import __version__

_USAGE = 2
_COMMANDS = ("serve", "check", "config", "healthcheck", "demo")
_FLAGS = [name for name in FIELDS if name not in LISTS]
_TABLES = ("recovery", "quirks", *LISTS)
_OWN_FLAGS = {"check", "demo"}
_CHECK = "lint a captured stream: exit 0 clean, 1 faults or wrong forms, 2 usage"
_QUOTED = re.compile(r":? ['\"].*", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, return its exit code."""
    try:
        return _run(argv)
    except BrokenPipeError:
        # Whoever read the output is gone; the flush at exit must not complain about it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (arguments[0].startswith("-") and not _asks_help(arguments)):
        arguments.insert(0, "serve")
    options = _parse(arguments)
    command = options.pop("command")
    if command == "demo":
        from proxy.demo.showcase import main as demo  # noqa: PLC0415 - its extras are optional

        return int(demo(serve=options["serve"]))
    if command == "check":
        from proxy.lint.command import check  # noqa: PLC0415 - no other command needs it

        return check(**options)
    path = options.pop("config")
    flags = {name: value for name, value in options.items() if value is not None}
    try:
        settings, warnings = load(flags, path)
        if command == "config":
            return _show(settings, warnings)
        if command == "healthcheck":
            return _healthcheck(settings)
        return _serve(settings, warnings)
    except SettingsError as error:
        print(f"wholestream: {error}", file=sys.stderr)  # noqa: T201 - for the user
        return _USAGE


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, and quotes no value."""

    def error(self, message: str) -> NoReturn:
        """Exit with the code for wrong usage."""
        self.exit(_USAGE, f"wholestream: {_QUOTED.sub('', message)}\n")


def _parse(arguments: list[str]) -> dict[str, Any]:
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        flag = next((word for word in unknown if word.startswith("-")), "")
        name = flag.partition("=")[0]
        key = name.lstrip("-").replace("-", "_")
        if not flag:
            parser.error(
                "unexpected argument; flags go after the command: wholestream config --port 1"
            )
        hint = "" if options.command in _OWN_FLAGS else meant(key, _FLAGS, _flag)
        parser.error(f"{printable(name)}: unknown flag{hint}")
    return vars(options)


def _asks_help(arguments: list[str]) -> bool:
    return arguments[0] in {"-h", "--help", "--version"}


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="wholestream",
        allow_abbrev=False,
        description="A local reverse proxy for LLM streams that never break silently.",
        epilog="Without a command: serve, whose --help lists the settings. They also come from "
        "WHOLESTREAM_* and a TOML file.",
    )
    parser.add_argument("--version", action="version", version=f"wholestream {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(_COMMANDS))
    for name, text in (
        ("serve", "run the proxy"),
        ("config", "check the settings and print the effective ones"),
        ("healthcheck", "exit 0 if the running proxy is ready"),
    ):
        _add_settings(commands.add_parser(name, help=text, description=text, allow_abbrev=False))
    _add_check(commands.add_parser("check", help=_CHECK, description=_CHECK, allow_abbrev=False))
    demo = commands.add_parser("demo", help="see it work on an embedded, misbehaving upstream")
    demo.add_argument("--serve", action="store_true", help="keep running, with traffic")
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings")
    for name in _FLAGS:
        text = (FIELDS[name].description or "").replace("%", "%%")
        default = FIELDS[name].default
        shown = _toml(default) if isinstance(default, bool) else default
        parser.add_argument(_flag(name), dest=name, metavar="X", help=f"{text} [{shown}]")


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", help="a body; -: standard input")
    text = f"what it is of, where its events do not tell: {', '.join(ENDPOINTS)}"
    parser.add_argument("--endpoint", type=_endpoint, metavar="X", help=text)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _endpoint(name: str) -> str:
    if name not in ENDPOINTS:
        raise argparse.ArgumentTypeError(f"choose one of {', '.join(ENDPOINTS)}")
    return name


def _flag(name: str) -> str:
    return "--" + name.replace(".", "-").replace("_", "-")


def _show(settings: Settings, warnings: list[str]) -> int:
    for warning in warnings:
        print(f"# warning: {warning}", file=sys.stderr)  # noqa: T201 - for the user
    values = settings.model_dump(mode="json")
    tables = {name: value for name, value in values.items() if name in _TABLES and value}
    lines = _lines({name: value for name, value in values.items() if name not in tables})
    for name, value in tables.items():
        entries = value if isinstance(value, list) else [value]
        head = f"[[{name}]]" if isinstance(value, list) else f"[{name}]"
        for entry in entries:
            lines += ["", head, *_lines(entry)]
    print("\n".join(lines), flush=True)  # noqa: T201 - the command's output
    return 0


def _lines(values: dict[str, Any]) -> list[str]:
    return [
        f"# {name} is not set" if value is None else f"{name} = {_toml(value)}"
        for name, value in values.items()
    ]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(of)}" for key, of in value.items()) + "}"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for this one character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)


def _healthcheck(settings: Settings) -> int:
    address = base_url(settings.admin_host, settings.admin_port).removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=3)
    try:
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        print(f"wholestream: nothing answers at {address}", file=sys.stderr)  # noqa: T201
        return 1
    finally:
        connection.close()
    if status != http.client.OK:
        print(f"wholestream: not ready ({status})", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _serve(settings: Settings, warnings: list[str]) -> int:
    from proxy import app  # noqa: PLC0415 - config and healthcheck start faster without it

    text = set_up(settings.log_level, settings.log_format)
    for warning in warnings:
        LOG.warning(warning)

    def started(running: app.Running) -> None:
        facts = app.describe(running)
        if not text:
            LOG.info("listening", extra={"fields": facts})
            return
        lines = [
            f"wholestream {facts['version']} -> {facts['upstream']}",
            "",
            f"  {facts['export']}",
        ]
        lines += ["", f"  metrics    {facts['metrics']}", f"  incidents  {facts['admin']}", ""]
        print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201 - for the user

    return app.serve(settings, started)
