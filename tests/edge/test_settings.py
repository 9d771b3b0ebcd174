"""Settings: where they come from, what they may be, and what is said when they are wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.loopback import certificate, made
from proxy.core.policy import Fallback, Policy, Target
from proxy.settings import FIELDS, LISTS, PREFIX, Settings, SettingsError, base_url
from proxy.settings_load import load

MIB = 2**20
CANARY = "sk-canary-4711"

CONTRACT: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 8787,
    "admin_host": "127.0.0.1",
    "admin_port": 8788,
    "allowed_hosts": ["localhost", "127.0.0.1", "::1"],
    "allowed_origins": [],
    "upstream": "https://api.openai.com/v1",
    "workers": 1,
    "max_attempts": 3,
    "connect_timeout_s": 10,
    "first_event_timeout_s": 300,
    "stall_timeout_s": 300,
    "commit_after_s": 10,
    "heartbeat_s": 15,
    "backoff_base_s": 0.5,
    "backoff_max_s": 8,
    "retry_after_max_s": 60,
    "retry_budget_ratio": 0.2,
    "retry_budget_min_per_s": 1,
    "breaker_failures": 5,
    "breaker_open_s": 10,
    "max_streams": 1000,
    "max_event_bytes": 16 * MIB,
    "max_request_bytes": 64 * MIB,
    "journal_max_bytes": 4 * MIB,
    "drain_grace_s": 0,
    "drain_timeout_s": 300,
    "ca_bundle": None,
    "egress_proxy": None,
    "log_level": "info",
    "log_format": "auto",
    "capture": "masked",
    "recovery": {
        "resume": True,
        "replay": "deterministic",
        "continuation": "off",
        "hold": "none",
    },
    "malformed_events": "recover",
    "profile": "any",
    "quirks": {
        "finish_reason": "optional",
        "foreign_events": "drop",
        "empty_choices": "pass",
        "fill_fields": False,
        "nan": "pass",
        "tool_arguments": "pass",
        "empty_answer": "pass",
        "overload_texts": [],
        "aggregate": False,
        "key_header": "authorization",
        "query": "",
        "paths": [],
    },
    "upstreams": [],
    "fallbacks": [],
}
"""The settings table of the contract, and what came to it since."""

FREE = {"host", "admin_host", "allowed_hosts", "allowed_origins", "quirks.overload_texts"}
"""Settings that take any text."""

SECONDS = [name for name in Settings.model_fields if name.endswith("_s")]
OFF_BY_ZERO = {
    "heartbeat_s",
    "backoff_base_s",
    "backoff_max_s",
    "retry_after_max_s",
    "retry_budget_min_per_s",
    "drain_grace_s",
    "drain_timeout_s",
}

BAD = [
    ("host", ""),
    ("admin_host", ""),
    ("port", "http"),
    ("port", "-1"),
    ("port", "65536"),
    ("port", "1.5"),
    ("admin_port", "8788/tcp"),
    ("max_attempts", "0"),
    ("max_attempts", "21"),
    ("max_attempts", "two"),
    ("workers", "0"),
    ("workers", "all"),
    ("max_event_bytes", "0"),
    ("max_event_bytes", "-1"),
    ("max_event_bytes", "much"),
    ("max_event_bytes", "16 bananas"),
    ("max_request_bytes", "16MiBs"),
    ("retry_budget_ratio", "-0.1"),
    ("retry_budget_ratio", "nan"),
    ("retry_budget_min_per_s", "often"),
    ("ca_bundle", "/nowhere/at/all.pem"),
    ("ca_bundle", "/"),
    ("ca_bundle", ""),
    ("log_level", "loud"),
    ("log_format", "xml"),
    ("capture", "everything"),
    ("malformed_events", "ignore"),
    ("breaker_failures", "0"),
    ("breaker_failures", "few"),
    ("recovery.resume", "maybe"),
    ("recovery.resume", ""),
    ("recovery.replay", "sometimes"),
    ("recovery.replay", ""),
    ("recovery.continuation", "on"),
    ("recovery.hold", "tools"),
    ("upstreams", "backup"),
    ("upstreams", "{}"),
    ("upstreams", "[1]"),
    ("upstreams", "null"),
    ("fallbacks", "{"),
    ("fallbacks", "[" * 100_000),
    *[(name, bad) for name in SECONDS for bad in ("soon", "-1", "nan", "inf", "1e9", "")],
    *[(name, "0") for name in SECONDS if name not in OFF_BY_ZERO],
]

BAD_UPSTREAMS = [
    "",
    "api.openai.com/v1",
    "ftp://api.openai.com/v1",
    "https://",
    "https:///v1",
    "https:/api.openai.com/v1",
    f"https://{CANARY}@api.openai.com/v1",
    f"https://user:{CANARY}@api.openai.com/v1",
    f"https://api.openai.com/v1?key={CANARY}",
    "https://api.openai.com/v1?",
    "https://api.openai.com/v1#",
    f"https://api.openai.com/v1#{CANARY}",
    "https://api.openai.com/v1\n",
    " https://api.openai.com/v1",
    "https://api.openai.com/v1 ",
    "https://api.openai.com/v 1",
    "https://api.openai.com/v\u00e9",
    "https://api.openai.com\\@evil.example/v1",
    "https://api.openai.com/v1\\x",
    "http://api.openai.com:99999/v1",
    "http://api.openai.com:0/v1",
    "http://api.openai.com:port/v1",
    "http://[::1/v1",
]


BACKUP = {"name": "backup", "base_url": "https://backup.example/v1"}
"""The least that an upstream has."""

RULE = {"models": ["m"], "to": [{"model": "n"}]}
"""A fallback that is well."""

BAD_ENTRIES: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name"),
    ({"name": "a b"}, "name"),
    ({"name": "a/b"}, "name"),
    ({"name": "a\n"}, "name"),
    ({"name": "a" * 65}, "name"),
    ({"name": 1}, "name"),
    *[({"base_url": url}, "base_url") for url in BAD_UPSTREAMS],
    ({"api_key_env": ""}, "api_key_env"),
    ({"api_key_env": CANARY}, "api_key_env"),
    ({"api_key_env": "A=B"}, "api_key_env"),
    ({"headers": "x"}, "headers"),
    ({"headers": {"x y": "canary"}}, "headers"),
    ({"headers": {"": "canary"}}, "headers"),
    ({"headers": {"x:": "canary"}}, "headers"),
    ({"headers": {"x": "canary\r\ny: z"}}, "headers"),
    ({"headers": {"x": "canary\0"}}, "headers"),
    ({"headers": {"x": " canary"}}, "headers"),
    ({"headers": {"x": "canary", "X": "canary"}}, "headers"),
    ({"headers": {"x": 1}}, "headers.x"),
    *[
        ({"headers": {name: "canary"}}, "headers")
        for name in ("Host", "connection", "TE", "Transfer-Encoding", "content-length", "Upgrade")
    ],
    ({"continuation": "canary"}, "continuation"),
]
"""What is wrong in an upstream, and the key that is named for it."""

BAD_RULES: list[tuple[dict[str, Any], str]] = [
    ({"models": []}, "models"),
    ({"models": "m"}, "models"),
    ({"models": [""]}, "models.0"),
    ({"models": [1]}, "models.0"),
    ({"to": []}, "to"),
    ({"to": {"model": "n"}}, "to"),
    ({"to": ["n"]}, "to.0"),
    ({"to": [{"model": "n"}, {}]}, "to.1"),
    ({"to": [{"upstream": "", "model": ""}]}, "to.0"),
    ({"to": [{"model": "n"}, {"upstream": "bakcup"}]}, "to.1.upstream"),
    ({"to": [{"model": 1}]}, "to.0.model"),
]
"""What is wrong in a fallback, and the key that is named for it."""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


def variable(name: str) -> str:
    """Return the variable of a setting."""
    return PREFIX + name.upper().replace(".", "__")


def toml(path: Path, text: str) -> str:
    """Write a file, return its path."""
    path = path / "wholestream.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def literal(value: str) -> str:
    """Write a text as TOML does."""
    return json.dumps(value)


def refused(flags: dict[str, Any], path: str | None = None) -> str:
    """Return the message of the error that loading ends in."""
    with pytest.raises(SettingsError) as caught:
        load(flags, path)
    assert caught.value.__cause__ is None
    message = str(caught.value)
    assert message.isprintable(), "one line, nothing a terminal obeys"
    return message


# --- defaults and the core's policy -----------------------------------------------------


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_has_the_default_of_the_contract(name: str) -> None:
    """Names are the contract's, and so are the values without any source."""
    given_none, warnings = load({})
    assert given_none.model_dump()[name] == CONTRACT[name]
    assert warnings == []


@pytest.mark.parametrize("name", FIELDS)
def test_each_setting_is_described(name: str) -> None:
    """The description is the help of the flag and a row of the README's table."""
    assert FIELDS[name].description


def test_each_key_of_a_table_is_a_setting_of_its_own() -> None:
    """By its dotted name; a list of tables is one."""
    tables = {"recovery", "quirks"}
    plain = Settings.model_fields.keys() - tables
    inside = {f"{table}.{key}" for table in tables for key in CONTRACT[table]}
    assert FIELDS.keys() == plain | inside
    assert plain >= set(LISTS)


def test_the_core_is_told_its_limits() -> None:
    """Each limit of the core comes from the setting of its name."""
    limits = {
        "max_attempts": 7,
        "backoff_base_s": 0.25,
        "backoff_max_s": 4.0,
        "retry_after_max_s": 30.0,
        "stall_timeout_s": 60.0,
        "max_event_bytes": 1000,
        "journal_max_bytes": 2000,
    }
    policy = load({**limits, "malformed_events": "skip"})[0].policy
    assert {name: getattr(policy, name) for name in limits} == limits
    assert policy.skip_malformed
    assert not load({})[0].policy.skip_malformed


def test_the_core_has_the_defaults_of_the_settings() -> None:
    """Two lists of defaults that cannot drift apart."""
    assert load({})[0].policy == Policy()


def test_the_core_is_told_what_it_may_mend() -> None:
    """Each choice of the table comes through, and each target has its own upstream's way."""
    settings = made(
        recovery={"resume": False, "replay": "never", "continuation": "vllm", "hold": "all"},
        upstreams=[{**BACKUP, "continuation": "prefix"}, {**BACKUP, "name": "third"}],
        fallbacks=[
            {
                "models": ["a*", "b"],
                "to": [{"upstream": "backup", "model": "m"}, {"model": "n"}, {"upstream": "third"}],
            }
        ],
    )
    policy = settings.policy
    assert (policy.resume, policy.replay, policy.hold) == (False, "never", "all")
    assert policy.continuation == "vllm"
    targets = (Target("backup", "m", "prefix"), Target("", "n", "vllm"), Target("third"))
    assert policy.fallbacks == (Fallback(("a*", "b"), targets),)


def test_settings_do_not_change_afterwards() -> None:
    """They are frozen: what was printed at the start stays true."""
    settings, _ = load({})
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


# --- precedence -------------------------------------------------------------------------


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One source after the other is taken away."""
    path = toml(tmp_path, "max_attempts = 5")
    monkeypatch.setenv("WHOLESTREAM_MAX_ATTEMPTS", "6")
    assert load({"max_attempts": "7"}, path)[0].max_attempts == 7
    assert load({}, path)[0].max_attempts == 6
    monkeypatch.delenv("WHOLESTREAM_MAX_ATTEMPTS")
    assert load({}, path)[0].max_attempts == 5
    assert load({})[0].max_attempts == 3


def test_the_sources_are_merged_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that one source does not name is taken from the next."""
    path = toml(tmp_path, 'port = 1\nadmin_port = 2\ncapture = "off"')
    monkeypatch.setenv("WHOLESTREAM_ADMIN_PORT", "3")
    settings, _ = load({"port": "4"}, path)
    assert (settings.port, settings.admin_port, settings.capture) == (4, 3, "off")


def test_the_keys_of_a_table_are_merged_from_all_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flag for one key hides neither the variable's nor the file's other keys."""
    path = toml(tmp_path, '[recovery]\nreplay = "never"\nhold = "all"\nresume = false')
    monkeypatch.setenv("WHOLESTREAM_RECOVERY__REPLAY", "always")
    monkeypatch.setenv("WHOLESTREAM_RECOVERY__HOLD", "tool_calls")
    recovery = load({"recovery.hold": "none"}, path)[0].recovery
    assert (recovery.hold, recovery.replay, recovery.resume) == ("none", "always", False)
    assert recovery.continuation == "off"


def test_a_table_may_be_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON; a variable for one key goes before it."""
    monkeypatch.setenv("WHOLESTREAM_RECOVERY", '{"replay": "never", "hold": "all"}')
    monkeypatch.setenv("WHOLESTREAM_RECOVERY__HOLD", "tool_calls")
    settings, warnings = load({})
    assert (settings.recovery.replay, settings.recovery.hold) == ("never", "tool_calls")
    assert warnings == []


def test_lists_of_tables_may_be_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON, in place of the whole list of the file; none where the variable is empty."""
    path = toml(tmp_path, '[[upstreams]]\nname = "a"\nbase_url = "http://a.example"')
    assert [entry.name for entry in load({}, path)[0].upstreams] == ["a"]
    monkeypatch.setenv("WHOLESTREAM_UPSTREAMS", json.dumps([BACKUP]))
    monkeypatch.setenv("WHOLESTREAM_FALLBACKS", json.dumps([RULE]))
    settings, _ = load({}, path)
    assert [entry.name for entry in settings.upstreams] == ["backup"]
    assert settings.fallbacks[0].models == ["m"]
    monkeypatch.setenv("WHOLESTREAM_UPSTREAMS", "")
    assert load({}, path)[0].upstreams == []


def test_the_file_may_be_named_by_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WHOLESTREAM_CONFIG is no unknown variable, and a flag beats it."""
    monkeypatch.setenv("WHOLESTREAM_CONFIG", toml(tmp_path, "port = 1"))
    settings, warnings = load({})
    assert (settings.port, warnings) == (1, [])
    (tmp_path / "other").mkdir()
    assert load({}, toml(tmp_path / "other", "port = 2"))[0].port == 2


def test_a_file_is_forgotten_after_it_was_used(tmp_path: Path) -> None:
    """Also when it held an error: the next load knows nothing of it."""
    assert load({}, toml(tmp_path, "port = 1"))[0].port == 1
    refused({}, toml(tmp_path, "port = -1"))
    assert load({})[0].port == 8787


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "OPENAI_API_BASE", "HTTPS_PROXY", "UPSTREAM"])
def test_the_upstream_never_comes_from_the_variables_of_applications(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Applications point OPENAI_BASE_URL at the proxy: taken as upstream it would be a loop."""
    monkeypatch.setenv(name, "http://127.0.0.1:8787/v1")
    assert load({})[0].upstream == "https://api.openai.com/v1"


# --- types ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_named_in_one_line_from_any_source(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flag, variable and file give the same line, which begins with the setting's name."""
    message = refused({name: value})
    assert message.startswith((f"{name}: ", f"{name}.0: "))
    assert refused({}, toml(tmp_path, f"{name} = {literal(value)}")) == message
    monkeypatch.setenv(variable(name), value)
    assert refused({}) == message


def test_the_two_listeners_have_two_ports() -> None:
    """The same one twice is told before either is opened; two free ones are no clash."""
    assert refused({"port": 8000, "admin_port": 8000}).startswith("admin_port: ")
    assert refused({"port": 8788}).startswith("admin_port: ")
    assert load({"port": 0, "admin_port": 0})[0].port == 0


@pytest.mark.parametrize("name", sorted({*FIELDS, "recovery"} - FREE))
@pytest.mark.parametrize(
    "value", [CANARY, f"12{CANARY}", f"12 canary{CANARY}", f"{CANARY}\n\x1b[2J"]
)
def test_a_bad_value_is_never_quoted(name: str, value: str) -> None:
    """Somebody may have pasted a key into the wrong variable."""
    message = refused({name: value})
    assert message.startswith(f"{name}: ")
    assert "canary" not in message


@pytest.mark.parametrize("value", BAD_UPSTREAMS)
def test_an_upstream_that_targets_cannot_be_joined_to_is_refused(value: str) -> None:
    """No user, query, fragment or space; nothing of it is quoted."""
    message = refused({"upstream": value})
    assert message.startswith("upstream: must be a base URL")
    assert "canary" not in message


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("https://api.openai.com:443/v1", "https://api.openai.com/v1"),
        ("HTTPS://API.OpenAI.com/V1", "https://api.openai.com/V1"),
        ("http://127.0.0.1:80/v1", "http://127.0.0.1/v1"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("https://b\u00fccher.example/v1", "https://xn--bcher-kva.example/v1"),
        ("https://x.example/a%2fb/%7Ec/../d", "https://x.example/a%2fb/%7Ec/../d"),
        ("http://vllm_0.internal:8000/v1", "http://vllm_0.internal:8000/v1"),
    ],
)
def test_an_upstream_is_brought_to_the_form_that_targets_are_joined_to(
    value: str, taken: str
) -> None:
    """Scheme and host lose their capitals, a port that is the default goes, the path stays."""
    assert load({"upstream": value})[0].upstream == taken


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("16MiB", 16 * MIB),
        ("16 MiB", 16 * MIB),
        ("1.5mib", 3 * MIB // 2),
        ("16MB", 16_000_000),
        ("64k", 64_000),
        ("1 GiB", 1024 * MIB),
        ("4096", 4096),
        (4096, 4096),
    ],
)
@pytest.mark.parametrize("name", ["max_event_bytes", "max_request_bytes"])
def test_a_size_may_have_a_unit(name: str, value: str | int, size: int) -> None:
    """Binary and decimal units are told apart."""
    assert getattr(load({name: value})[0], name) == size


@pytest.mark.parametrize("name", ["allowed_hosts", "allowed_origins"])
def test_a_list_is_written_with_commas_or_as_an_array(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spaces and empty places do not count; flag, variable and file alike."""
    expected = ["http://a.example", "b"]
    text = " http://a.example ,b, ,"
    assert getattr(load({name: text})[0], name) == expected
    assert getattr(load({}, toml(tmp_path, f'{name} = "{text}"'))[0], name) == expected
    array = f'{name} = ["http://a.example", "b"]'
    assert getattr(load({}, toml(tmp_path, array))[0], name) == expected
    monkeypatch.setenv(PREFIX + name.upper(), text)
    assert getattr(load({})[0], name) == expected
    monkeypatch.setenv(PREFIX + name.upper(), "")
    assert getattr(load({})[0], name) == []


def test_a_list_of_anything_but_names_is_refused(tmp_path: Path) -> None:
    """In one line that names the list, and the place in it."""
    assert refused({}, toml(tmp_path, "allowed_hosts = [1]")).startswith("allowed_hosts.0: ")
    assert refused({}, toml(tmp_path, "allowed_hosts = 1")).startswith("allowed_hosts: ")


def test_allowed_hosts_are_compared_in_one_form() -> None:
    """Lower case, and IPv6 without its brackets."""
    hosts = load({"allowed_hosts": "Gateway.Example, [FE80::1], *"})[0].allowed_hosts
    assert hosts == ["gateway.example", "fe80::1", "*"]


def test_a_ca_bundle_is_a_file_with_certificates(tmp_path: Path) -> None:
    """A file without any is refused when it is set, not when the first call fails."""
    empty = tmp_path / "empty.pem"
    empty.write_text(f"not a certificate {CANARY}\n", encoding="utf-8")
    assert refused({"ca_bundle": str(empty)}).startswith("ca_bundle: must be a readable PEM file")
    bundle, _ = certificate(tmp_path, "localhost")
    assert load({"ca_bundle": str(bundle)})[0].ca_bundle == bundle


@settings(max_examples=30)
@given(value=st.text(max_size=40))
def test_no_value_of_any_setting_gets_past_the_one_line(value: str) -> None:
    """Whatever the text: a setting takes it, or one line names the setting."""
    for name in (*FIELDS, "recovery"):
        try:
            load({name: value})
        except SettingsError as error:
            message = str(error)
            assert message.startswith((f"{name}: ", f"{name}.0: "))
            assert message.isprintable()


# --- tables -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["true", "1", "'never'", "[]", "[[1]]"])
def test_a_table_is_a_table(value: str, tmp_path: Path) -> None:
    """Anything else in its place is named by the table."""
    assert refused({}, toml(tmp_path, f"recovery = {value}")) == "recovery: must be a table"


@pytest.mark.parametrize("value", ["{", CANARY, "", "[" * 50_000, "'never'"])
def test_a_variable_of_a_table_is_json(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is not quoted when it is none."""
    monkeypatch.setenv("WHOLESTREAM_RECOVERY", value)
    assert refused({}) == "recovery: must be a JSON object"


@pytest.mark.parametrize(("change", "key"), BAD_ENTRIES)
def test_a_bad_key_of_an_upstream_is_named_by_its_place(
    change: dict[str, Any], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line that quotes nothing: a header may hold a key, a URL a password."""
    monkeypatch.setenv("WHOLESTREAM_UPSTREAMS", json.dumps([BACKUP, {**BACKUP, **change}]))
    message = refused({})
    assert message.startswith(f"upstreams.1.{key}: ")
    assert "canary" not in message


@pytest.mark.parametrize(("change", "key"), BAD_RULES)
def test_a_bad_key_of_a_fallback_is_named_by_its_place(
    change: dict[str, Any], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of its targets as well."""
    monkeypatch.setenv("WHOLESTREAM_UPSTREAMS", json.dumps([BACKUP]))
    monkeypatch.setenv("WHOLESTREAM_FALLBACKS", json.dumps([RULE, {**RULE, **change}]))
    assert refused({}).startswith(f"fallbacks.1.{key}: ")


@pytest.mark.parametrize(
    ("table", "missing"), [(BACKUP, "name"), (BACKUP, "base_url"), (RULE, "models"), (RULE, "to")]
)
def test_a_key_that_a_table_needs_is_named(table: dict[str, Any], missing: str) -> None:
    """It has no default."""
    kind = "upstreams" if table is BACKUP else "fallbacks"
    rest = {key: value for key, value in table.items() if key != missing}
    assert refused({kind: [rest]}) == f"{kind}.0.{missing}: is missing"


def test_no_two_upstreams_have_one_name() -> None:
    """A fallback could mean either."""
    message = refused({"upstreams": [BACKUP, BACKUP]})
    assert message == "upstreams.1.name: there is another upstream backup"


@pytest.mark.parametrize(
    ("known", "hint"),
    [
        ([], "there are no [[upstreams]]"),
        (["zzz"], "did you mean zzz?"),
        (["zzz", "backup"], "did you mean backup?"),
    ],
)
def test_a_fallback_to_nowhere_is_told_with_the_nearest_upstream(
    known: list[str], hint: str
) -> None:
    """Otherwise it would be found out when it is needed."""
    upstreams = [{**BACKUP, "name": name} for name in known]
    fallbacks = [{"models": ["m"], "to": [{"upstream": "bakcup"}]}]
    message = refused({"upstreams": upstreams, "fallbacks": fallbacks})
    assert message == f"fallbacks.0.to.0.upstream: there is no upstream bakcup; {hint}"


def test_an_upstream_that_is_wrong_is_told_before_a_fallback_to_it() -> None:
    """The cause, not what follows from it."""
    fallbacks = [{"models": ["m"], "to": [{"upstream": "backup"}]}]
    flags = {"upstreams": [{**BACKUP, "base_url": "x"}], "fallbacks": fallbacks}
    assert refused(flags).startswith("upstreams.0.base_url: ")


def test_the_base_url_of_an_upstream_is_brought_to_one_form() -> None:
    """As that of the primary."""
    entry = {**BACKUP, "base_url": "HTTPS://Backup.Example:443/V1/"}
    assert made(upstreams=[entry]).upstreams[0].base_url == "https://backup.example/V1"


# --- keys of upstreams ------------------------------------------------------------------

KEYED = {**BACKUP, "api_key_env": "BACKUP_KEY", "headers": {"X-Key": CANARY}}


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_a_key_that_is_not_there_is_told_with_its_variable(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going on without it would send the client's key to somebody else."""
    monkeypatch.delenv("BACKUP_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("BACKUP_KEY", value)
    expected = "the environment variable BACKUP_KEY is not set or empty; set it to the key"
    assert refused({"upstreams": [KEYED]}) == f"upstreams.backup.api_key_env: {expected}"


@pytest.mark.parametrize("value", [f"{CANARY} x", f"{CANARY}\r\nx: y", f"{CANARY}\u00e9"])
def test_a_key_that_cannot_be_sent_is_told_but_not_quoted(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first request fails on it."""
    monkeypatch.setenv("BACKUP_KEY", value)
    message = refused({"upstreams": [KEYED]})
    assert message.startswith("upstreams.backup.api_key_env: ")
    assert "canary" not in message


def test_what_may_be_a_key_in_place_of_a_variable_is_not_quoted() -> None:
    """Keys of some providers look like names, but have small letters."""
    message = refused({"upstreams": [{**BACKUP, "api_key_env": "gsk_canary4711"}]})
    assert message.startswith("upstreams.backup.api_key_env: ")
    assert "canary" not in message


def test_a_key_is_read_once_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither it nor the values of headers; a line break at its end is not part of it."""
    monkeypatch.setenv("BACKUP_KEY", f"{CANARY}\n")
    settings = made(upstreams=[KEYED])
    monkeypatch.delenv("BACKUP_KEY")
    entry = settings.upstreams[0]
    assert entry.api_key is not None
    assert entry.api_key.get_secret_value() == CANARY
    shown = [repr(settings), str(settings), repr(entry), repr(entry.api_key)]
    shown += [settings.model_dump_json(), repr(settings.model_dump()), repr(settings.policy)]
    assert "canary" not in "".join(shown)


def test_the_variable_of_a_key_is_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it is called as ours are."""
    monkeypatch.setenv("WHOLESTREAM_BACKUP_KEY", CANARY)
    entry = {**BACKUP, "api_key_env": "WHOLESTREAM_BACKUP_KEY"}
    assert load({"upstreams": [entry]})[1] == []


# --- names that are not known -----------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("prot", "port"), ("max_attempt", "max_attempts"), ("heartbeat", "heartbeat_s")],
)
def test_an_unknown_key_of_the_file_is_an_error_with_the_nearest_name(
    key: str, nearest: str, tmp_path: Path
) -> None:
    """A mistyped key would otherwise be a setting that silently is not set."""
    message = refused({}, toml(tmp_path, f'{key} = "{CANARY}"'))
    assert message.startswith(f"{key}: unknown key in ")
    assert message.endswith(f"did you mean {nearest}?")
    assert CANARY not in message


@pytest.mark.parametrize("line", ['"a\\nb\\u001b[2J" = 1', "[zzz]\nport = 1", "[[zzz]]"])
def test_any_unknown_key_of_the_file_is_told_in_one_line(line: str, tmp_path: Path) -> None:
    """A table, and a name that would break the line."""
    assert "see the settings table in README.md" in refused({}, toml(tmp_path, line))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[recovery]\nreply = "never"', "recovery.reply: unknown key; did you mean replay?"),
        ("recovery.zzz = 1", "recovery.zzz: unknown key; see the settings table in README.md"),
        (
            '[[upstreams]]\nname = "a"\nbase_ulr = "http://canary"',
            "upstreams.0.base_ulr: unknown key; did you mean base_url?",
        ),
        (
            '[[fallbacks]]\nmodel = ["canary"]\nto = [{ model = "m" }]',
            "fallbacks.0.model: unknown key; did you mean models?",
        ),
        (
            '[[fallbacks]]\nmodels = ["m"]\nto = [{ model = "m", upstraem = "canary" }]',
            "fallbacks.0.to.0.upstraem: unknown key; did you mean upstream?",
        ),
    ],
)
def test_an_unknown_key_of_a_table_is_an_error_with_the_nearest_name(
    text: str, line: str, tmp_path: Path
) -> None:
    """Before the key that is missing because of it."""
    assert refused({}, toml(tmp_path, text)) == line


def test_an_unknown_key_that_would_break_the_line_does_not(tmp_path: Path) -> None:
    """Deep in a table either."""
    assert "unknown key" in refused({}, toml(tmp_path, 'recovery."a\\nb\\u001b[2J" = 1'))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("RECOVERY__REPLY", "did you mean WHOLESTREAM_RECOVERY__REPLAY?"),
        ("RECOVERY_REPLAY", "did you mean WHOLESTREAM_RECOVERY__REPLAY?"),
        ("RECOVERY__REPLAY__X", "did you mean WHOLESTREAM_RECOVERY__REPLAY?"),
        ("UPSTREAMS__0__NAME", "did you mean WHOLESTREAM_UPSTREAMS?"),
        ("RECOVERY__QQQQQQQQ", "see the settings table in README.md"),
        ("PORT__X", "did you mean WHOLESTREAM_PORT?"),
        ("ALLOWED_HOSTS__0", "did you mean WHOLESTREAM_ALLOWED_HOSTS?"),
    ],
)
def test_an_unknown_variable_of_a_table_is_a_warning(
    name: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And changes nothing, even where its beginning is a setting."""
    monkeypatch.setenv(PREFIX + name, CANARY)
    settings, warnings = load({})
    assert settings == made()
    assert warnings == [f"{PREFIX}{name}: unknown variable, ignored; {hint}"]


def test_an_unknown_variable_is_a_warning_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be another version's; its value is not quoted."""
    monkeypatch.setenv("WHOLESTREAM_PROT", CANARY)
    monkeypatch.setenv("WHOLESTREAM_QQQQ", CANARY)
    settings, warnings = load({})
    assert settings.port == 8787
    assert warnings == [
        "WHOLESTREAM_PROT: unknown variable, ignored; did you mean WHOLESTREAM_PORT?",
        "WHOLESTREAM_QQQQ: unknown variable, ignored; see the settings table in README.md",
    ]


# --- the file ---------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["port 1", "port = ", "= 1", 'port = "1', "port = 1\nport = 2"])
def test_a_file_that_is_not_toml_is_an_error_of_the_setting_config(
    text: str, tmp_path: Path
) -> None:
    """With the place, as the parser tells it."""
    message = refused({}, toml(tmp_path, text))
    assert message.startswith("config: ")
    assert "is not TOML" in message


def test_a_file_in_another_encoding_is_no_toml(tmp_path: Path) -> None:
    """TOML is UTF-8."""
    path = tmp_path / "latin.toml"
    path.write_bytes(b'host = "\xe9"')
    assert "is not TOML" in refused({}, str(path))


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_an_error_of_the_setting_config(
    name: str, tmp_path: Path
) -> None:
    """It was asked for, so going on without it would be wrong."""
    message = refused({}, str(tmp_path / name))
    assert message.startswith("config: cannot read ")


# --- addresses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("gateway.example", "http://gateway.example:1"),
        ("::1", "http://[::1]:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),  # noqa: S104 - shown, not bound to
        ("::", "http://[::1]:1"),
    ],
)
def test_a_base_url_is_one_that_a_client_on_this_machine_can_use(host: str, url: str) -> None:
    """A wildcard is no address to call; ``::`` listens on IPv6 only."""
    assert base_url(host, 1) == url
