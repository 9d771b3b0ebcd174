"""The commands, run as a user runs them: exit codes, what is printed, and where."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from e2e.child import eventually
from e2e.child import start as start_proxy
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.loopback import HOST, made, raw_server
from proxy.cli import main
from proxy.settings import FIELDS, LISTS, Settings
from proxy.settings_load import load
from proxy.version import __version__

ROOT = Path(__file__).parent.parent.parent
NOWHERE = "http://127.0.0.1:9/v1"
CANARY = "sk-canary-4711"
BASE_ENV = {key: value for key, value in os.environ.items() if not key.startswith("WHOLESTREAM_")}

BAD = [
    ("port", "70000"),
    ("upstream", f"https://{CANARY}@api.example/v1"),
    ("max_event_bytes", CANARY),
    ("log_level", CANARY),
    ("recovery.replay", CANARY),
]
"""Of each kind one; ``test_settings`` has all."""


Ended = subprocess.CompletedProcess[str]


def run(*arguments: str, env: Mapping[str, str] | None = None) -> Ended:
    """Run the program to its end."""
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "proxy", *arguments],
        check=False,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        cwd=ROOT,
        env={**BASE_ENV, **(env or {})},
        stdin=subprocess.DEVNULL,
    )


def refusal(ended: Ended) -> str:
    """Return the one line of a run that refused its usage or a setting."""
    assert ended.returncode == 2, ended
    assert ended.stdout == ""
    assert ended.stderr.endswith("\n")
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("wholestream: ")
    assert "canary" not in lines[0]
    return lines[0].removeprefix("wholestream: ")


def toml(where: Path, text: str) -> str:
    """Write a settings file, return its path."""
    path = where / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@contextlib.contextmanager
def taken(*, listening: bool = True) -> Iterator[str]:
    """Hold a port, so that nobody else can have it."""
    with socket.socket() as holder:
        holder.bind((HOST, 0))
        if listening:
            holder.listen()
        yield str(holder.getsockname()[1])


# --- what it says of itself -------------------------------------------------------------


def test_the_version_is_printed() -> None:
    """On standard output, and nothing else."""
    ended = run("--version")
    assert (ended.returncode, ended.stdout) == (0, f"wholestream {__version__}\n")
    assert ended.stderr == ""


def test_the_help_of_serve_lists_every_setting_as_a_flag() -> None:
    """With its default."""
    ended = run("serve", "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    flags = set(re.findall(r"^  (--[a-z-]+) ", ended.stdout, re.MULTILINE))
    named = {"--" + re.sub(r"[._]", "-", name) for name in FIELDS if name not in LISTS}
    assert flags == named | {"--config"}
    assert "[8787]" in ended.stdout
    assert "[https://api.openai.com/v1]" in ended.stdout
    assert "[deterministic]" in ended.stdout
    assert "[true]" in ended.stdout


def test_the_help_lists_the_commands() -> None:
    """And says that serve is the default."""
    ended = run("--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    for command in ("serve", "config", "healthcheck", "demo"):
        assert command in ended.stdout
    assert "Without a command: serve" in ended.stdout


# --- config -----------------------------------------------------------------------------


def test_config_prints_the_effective_settings_as_a_file_that_gives_them_again(
    tmp_path: Path,
) -> None:
    """Flag over variable over file, and every value comes back as it was."""
    path = toml(tmp_path, 'port = 1\nadmin_port = 2\nstall_timeout_s = 0.00001\ncapture = "off"')
    ended = run(
        *("config", "--config", path, "--port", "3", "--allowed-origins", 'http://a,"b\\c'),
        *("--max-event-bytes", "1.5MiB"),
        env={"WHOLESTREAM_PORT": "4", "WHOLESTREAM_ADMIN_PORT": "5"},
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    again, _ = load({}, toml(tmp_path, ended.stdout))
    assert (again.port, again.admin_port, again.stall_timeout_s) == (3, 5, 0.00001)
    assert again.capture == "off"
    assert again.allowed_origins == ["http://a", '"b\\c']
    assert again.max_event_bytes == 3 * 2**19


def test_config_prints_every_setting_at_its_default() -> None:
    """One that is not set is a comment, since TOML has no null."""
    ended = run("config")
    printed = tomllib.loads(ended.stdout)
    unset = set(re.findall(r"^# (\w+) is not set$", ended.stdout, re.MULTILINE))
    assert printed.keys() | unset == Settings.model_fields.keys()
    assert unset == {name for name, value in made().model_dump().items() if value is None}


TABLES = """
max_attempts = 2
[recovery]
hold = "all"
[[upstreams]]
name = "backup"
base_url = "https://backup.example/v1"
api_key_env = "BACKUP_KEY"
headers = { "X-Title" = "sk-canary-4711", "x.!y" = "" }
continuation = "prefill"
[[upstreams]]
name = "third"
base_url = "https://third.example/v1"
[[fallbacks]]
models = ["gpt-*", "a\\"b"]
to = [{ upstream = "backup", model = "m" }, { model = "n" }]
[[fallbacks]]
models = ["*"]
to = [{ upstream = "third" }]
"""
"""Every kind of table."""


def test_config_prints_tables_as_a_file_that_gives_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below everything else; what comes back is the same but for the secrets."""
    monkeypatch.setenv("BACKUP_KEY", CANARY)
    path = toml(tmp_path, TABLES)
    given_again, _ = load({"recovery.replay": "always"}, path)
    ended = run("config", "--config", path, "--recovery-replay", "always", env=os.environ)
    assert (ended.returncode, ended.stderr) == (0, "")
    again, _ = load({}, toml(tmp_path, ended.stdout))
    assert again.model_dump(mode="json") == given_again.model_dump(mode="json")
    assert again.policy == given_again.policy
    assert list(tomllib.loads(ended.stdout))[-4:] == [
        "recovery",
        "quirks",
        "upstreams",
        "fallbacks",
    ]


def test_config_prints_the_variable_of_a_key_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header may hold a key as well."""
    monkeypatch.setenv("BACKUP_KEY", CANARY)
    ended = run("config", "--config", toml(tmp_path, TABLES), env=os.environ)
    upstream = tomllib.loads(ended.stdout)["upstreams"][0]
    assert upstream["api_key_env"] == "BACKUP_KEY"
    assert upstream["headers"] == {"X-Title": "***", "x.!y": "***"}
    assert "canary" not in ended.stdout + ended.stderr


def test_config_names_the_key_that_is_not_there(tmp_path: Path) -> None:
    """With the variable to set."""
    env = {"WHOLESTREAM_CONFIG": toml(tmp_path, TABLES), "BACKUP_KEY": ""}
    line = refusal(run("config", env=env))
    assert line.startswith("upstreams.backup.api_key_env: ")
    assert "BACKUP_KEY" in line


@settings(max_examples=100)
@given(names=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), max_size=3))
def test_any_text_of_a_setting_comes_back_from_what_config_prints(names: list[str]) -> None:
    """Quotes, controls and whatever else a string may hold."""
    given_by_flag = ["config", "--allowed-origins=" + ",".join(names)]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(given_by_flag) == 0
    with tempfile.TemporaryDirectory() as where:
        again, _ = load({}, toml(Path(where), printed.getvalue()))
    expected, _ = load({"allowed_origins": ",".join(names)})
    assert again == expected


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "OPENAI_API_BASE"])
def test_what_applications_call_is_never_taken_as_the_upstream(name: str) -> None:
    """It is the proxy's own address, so that would be a loop."""
    ended = run("config", env={name: "http://127.0.0.1:8787/v1"})
    assert tomllib.loads(ended.stdout)["upstream"] == "https://api.openai.com/v1"


def test_an_unknown_variable_is_a_warning() -> None:
    """On standard error; what is printed stays a file."""
    ended = run("config", env={"WHOLESTREAM_PROT": CANARY})
    assert ended.returncode == 0
    assert ended.stderr.startswith("# warning: WHOLESTREAM_PROT: ")
    assert ended.stderr.endswith("did you mean WHOLESTREAM_PORT?\n")
    assert tomllib.loads(ended.stdout)["port"] == 8787
    assert CANARY not in ended.stdout + ended.stderr


# --- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), BAD)
@pytest.mark.parametrize("source", ["flag", "variable", "file"])
def test_a_bad_value_exits_2_with_one_line_that_names_the_setting(
    name: str, value: str, source: str, tmp_path: Path
) -> None:
    """Wherever it came from, and never with the value."""
    if source == "flag":
        ended = run("--" + re.sub(r"[._]", "-", name), value)
    elif source == "variable":
        ended = run("serve", env={f"WHOLESTREAM_{name.upper().replace('.', '__')}": value})
    else:
        ended = run("serve", "--config", toml(tmp_path, f'{name} = "{value}"'))
    assert refusal(ended).startswith(f"{name}: ")


@pytest.mark.parametrize("command", ["serve", "config", "healthcheck"])
def test_every_command_refuses_an_unknown_key_of_the_file(command: str, tmp_path: Path) -> None:
    """With the name that was probably meant."""
    line = refusal(run(command, "--config", toml(tmp_path, f'prot = "{CANARY}"')))
    assert line.startswith("prot: ")
    assert line.endswith("did you mean port?")


@pytest.mark.parametrize("text", ["port", "port = 1 2", '[port\n"\x1b[2J"', "port = 1\nport = 2"])
def test_a_file_that_is_not_toml_is_named(text: str, tmp_path: Path) -> None:
    """In one line that names the setting it came by."""
    line = refusal(run("--config", toml(tmp_path, text)))
    assert line.startswith("config: ")
    assert "settings.toml is not TOML" in line


def test_a_file_that_does_not_exist_is_named_by_flag_and_by_variable(tmp_path: Path) -> None:
    """Going on without it would be a proxy set up in another way than it was told."""
    path = str(tmp_path / "missing.toml")
    line = refusal(run("--config", path))
    assert line.startswith(f"config: cannot read {path}")
    assert refusal(run("serve", env={"WHOLESTREAM_CONFIG": path})) == line


@pytest.mark.parametrize("setting", ["port", "admin_port"])
def test_a_port_in_use_is_named_by_its_setting(setting: str) -> None:
    """With the flag that chooses another."""
    with taken() as port:
        ports = {"port": "0", "admin_port": "0", setting: port}
        line = refusal(run("--port", ports["port"], "--admin-port", ports["admin_port"]))
    assert line.startswith(f"{setting}: ")
    assert f"{HOST}:{port}" in line
    assert line.endswith("--" + setting.replace("_", "-"))


@pytest.mark.parametrize("flag", ["--host", "--admin-host"])
def test_an_address_that_is_not_this_machines_is_named_by_its_setting(flag: str) -> None:
    """192.0.2.0/24 is nobody's."""
    line = refusal(run(flag, "192.0.2.1", "--port", "0", "--admin-port", "0"))
    assert line.startswith(flag.removeprefix("--").replace("-", "_") + ": ")


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "0.0.0.0"])  # noqa: S104 - not bound to
@pytest.mark.parametrize("flag", ["--port", "--admin-port"])
def test_an_upstream_that_is_the_proxy_itself_is_refused(name: str, flag: str) -> None:
    """Every request would come back, without end."""
    with taken(listening=False) as port:
        ports = {"--port": "0", "--admin-port": "0", flag: port}
        words = [word for pair in ports.items() for word in pair]
        line = refusal(run(*words, "--upstream", f"http://{name}:{port}/v1"))
    assert line.startswith("upstream: points at this proxy itself")


def test_an_upstream_at_the_default_port_of_this_proxy_is_refused() -> None:
    """The mistake that is made: giving the proxy what the application should get."""
    line = refusal(run("--upstream", "http://localhost:8787/v1"))
    assert line.startswith("upstream: ")


def test_another_upstream_that_is_the_proxy_itself_is_refused(tmp_path: Path) -> None:
    """It is named by its entry."""
    text = '[[upstreams]]\nname = "backup"\nbase_url = "http://localhost:8787/v1"'
    line = refusal(run("--config", toml(tmp_path, text)))
    assert line.startswith("upstreams.backup.base_url: points at this proxy itself")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--prot", "1"], "--prot: unknown flag; did you mean --port?"),
        (["serve", f"--zzz={CANARY}"], "--zzz: unknown flag"),
        (["--por", "1"], "--por: unknown flag; did you mean --port?"),
        (["--port"], "--port"),
        (["serve", CANARY], "unexpected argument"),
        (["config", "--zzz"], "--zzz: unknown flag"),
        (["--recovery-reply", "never"], "did you mean --recovery-replay?"),
        (["--recovery.replay", "never"], "unknown flag; did you mean --recovery-replay?"),
        (["--upstreams", "[]"], "--upstreams: unknown flag; did you mean --upstream?"),
        (["--fallbacks=[]"], "--fallbacks: unknown flag"),
        (["healthcheck", "--serve"], "--serve: unknown flag"),
        (["--a\nb\x1b[2J"], "unknown flag"),
        (["zzz"], "serve"),
        ([CANARY], "serve"),
        ([""], "serve"),
        ([f"--help={CANARY}"], "--help"),
    ],
)
def test_wrong_usage_exits_2_with_one_line(words: list[str], named: str) -> None:
    """No traceback, no page of usage, and nothing quoted that may be a key."""
    assert named in refusal(run(*words))


# --- a running proxy --------------------------------------------------------------------


def test_a_health_check_of_nothing_fails() -> None:
    """One line, which names the address."""
    with taken(listening=False) as port:
        ended = run("healthcheck", "--admin-port", port)
    assert ended.returncode == 1
    assert ended.stderr == f"wholestream: nothing answers at {HOST}:{port}\n"


async def test_a_health_check_of_another_program_fails() -> None:
    """Whatever it answers."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-canary\r\n\r\n")

    async with raw_server(play) as port:
        ended = await asyncio.to_thread(run, "healthcheck", "--admin-port", str(port))
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "canary" not in ended.stderr


async def test_a_health_check_follows_the_life_of_the_proxy(tmp_path: Path) -> None:
    """Well while it serves, not while it drains; variables of proxies do not matter."""
    proxy = await start_proxy(tmp_path, NOWHERE, "--drain-grace-s", "60")
    try:
        # By variable, as in a container.
        env = {"WHOLESTREAM_ADMIN_PORT": str(proxy.admin_port), "http_proxy": NOWHERE}
        ended = await asyncio.to_thread(run, "healthcheck", env=env)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

        proxy.process.terminate()

        async def drains() -> None:
            assert any(line["event"] == "draining" for line in proxy.log)

        await eventually(drains)
        ended = await asyncio.to_thread(run, "healthcheck", env=env)
        assert ended.returncode == 1
        assert ended.stderr == "wholestream: not ready (503)\n"
    finally:
        await proxy.stop()


async def test_what_a_proxy_says_at_its_start_is_json(tmp_path: Path) -> None:
    """The warnings and where it listens: the base URL for applications among it."""
    proxy = await start_proxy(tmp_path, NOWHERE, env={"WHOLESTREAM_PROT": CANARY})
    try:
        warning, listening = proxy.log
        assert warning["level"] == "warning"
        assert warning["event"].startswith("WHOLESTREAM_PROT: unknown variable, ignored")
        assert listening["event"] == "listening"
        assert listening["export"] == f"export OPENAI_BASE_URL=http://127.0.0.1:{proxy.port}/v1"
        assert listening["upstream"] == NOWHERE
        assert proxy.stdout == ""
        assert CANARY not in proxy.stderr
    finally:
        await proxy.stop()


def test_a_reader_that_is_gone_gets_no_traceback() -> None:
    """As in ``wholestream config | head -1``."""
    command, pipe = [sys.executable, "-m", "proxy", "config"], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe) as ended:  # noqa: S603 - ours
        assert ended.stdout is not None
        assert ended.stderr is not None
        ended.stdout.close()
        assert ended.stderr.read() == b""
    assert ended.returncode == 1
