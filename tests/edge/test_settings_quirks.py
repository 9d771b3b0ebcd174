"""Quirks and profiles: what is preset, what goes before it, and what reaches the core."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import pytest

from proxy.core.policy import SAFE, Quirks
from proxy.settings import Settings, SettingsError
from proxy.settings_load import load
from proxy.settings_quirks import PROFILES, OtherQuirks, OwnQuirks, Profile

OF_REQUESTS = {"key_header", "query", "paths"}
"""Quirks that concern what is sent, which is not the core's."""

SET: dict[str, Any] = {
    "finish_reason": "added",
    "foreign_events": "pass",
    "empty_choices": "drop",
    "fill_fields": True,
    "nan": "null",
    "tool_arguments": "length",
    "empty_answer": "restart",
    "overload_texts": ["Come back later."],
    "aggregate": True,
}
"""Every quirk of streams, away from its default."""


def toml(tmp_path: Path, text: str) -> str:
    """Write a file of settings."""
    path = tmp_path / "wholestream.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refusal(flags: dict[str, Any], path: str | None = None) -> str:
    """Load what must be refused, return the line."""
    with pytest.raises(SettingsError) as caught:
        load(flags, path)
    return str(caught.value)


def test_every_profile_of_the_setting_is_known() -> None:
    """And none is made up."""
    assert set(get_args(Profile)) == PROFILES.keys()


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_presets_quirks_and_nothing_else(profile: str) -> None:
    """All other settings are as without it."""
    plain, preset = load({})[0].model_dump(), load({"profile": profile})[0].model_dump()
    assert preset.pop("profile") == profile
    del plain["profile"]
    assert preset.pop("quirks") == {**plain.pop("quirks"), **PROFILES[profile]}
    assert preset == plain


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_knows_only_quirks_that_are_settings(profile: str) -> None:
    """With values that they may have."""
    assert OwnQuirks(**PROFILES[profile]).model_fields_set == PROFILES[profile].keys()


def test_what_is_set_by_hand_goes_before_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From whichever source; the rest of the profile stays."""
    path = toml(tmp_path, 'profile = "azure"\n[quirks]\nkey_header = "authorization"\n')
    quirks = load({}, path)[0].quirks
    assert (quirks.key_header, quirks.paths) == ("authorization", ["/openai"])
    monkeypatch.setenv("WHOLESTREAM_PROFILE", "vllm")
    assert load({})[0].quirks.finish_reason == "required"
    monkeypatch.setenv("WHOLESTREAM_QUIRKS__FINISH_REASON", "optional")
    assert load({})[0].quirks.finish_reason == "optional"
    assert load({"quirks.finish_reason": "added"})[0].quirks.finish_reason == "added"


def test_every_quirk_of_streams_reaches_the_core() -> None:
    """By the same name, for the primary and for the others."""
    assert {field.name for field in dataclasses.fields(Quirks)} == SET.keys()
    assert OwnQuirks.model_fields.keys() - SET.keys() == OF_REQUESTS
    told = dataclasses.asdict(OtherQuirks(**SET).of_streams)
    assert {**told, "overload_texts": list(told["overload_texts"])} == SET
    assert OwnQuirks().of_streams == SAFE


def test_each_target_has_the_quirks_of_its_upstream(tmp_path: Path) -> None:
    """The primary its own, a fallback those of whom it leads to."""
    path = toml(
        tmp_path,
        'profile = "openai"\n[[upstreams]]\nname = "b"\nbase_url = "http://127.0.0.1:1/v1"\n'
        'profile = "azure"\nquirks = { nan = "null", query = "api-version=1" }\n'
        '[[fallbacks]]\nmodels = ["*"]\nto = [{ upstream = "b" }, { model = "m" }]\n',
    )
    settings = load({}, path)[0]
    policy = settings.policy
    assert policy.quirks == Quirks(finish_reason="required")
    there, here = policy.fallbacks[0].to
    assert there.quirks == Quirks(nan="null")
    assert here.quirks == policy.quirks
    quirks = settings.upstreams[0].quirks
    assert (quirks.key_header, quirks.query) == ("api-key", "api-version=1")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("finish_reason", "sometimes", "Input should be"),
        ("query", "api-version", "must be pairs"),
        ("query", "a=b#c", "must be pairs"),
        ("query", "a=ü", "must be pairs"),
        ("query", "a=b c", "must be pairs"),
        ("paths", "openai", "must be plain paths"),
        ("paths", "/v1", "must be plain paths"),
        ("paths", "/v1/x", "must be plain paths"),
        ("paths", "/a/../b", "must be plain paths"),
        ("paths", "/a?b", "must be plain paths"),
        ("paths", "//a", "must be plain paths"),
        ("overload_texts", '["a", 1]', "Input should be a valid string"),
        ("overload_texts", "[", "must be a JSON array"),
        ("overload_texts", '[" "]', "must not have an empty text"),
    ],
)
def test_a_bad_quirk_is_named_with_what_to_do(key: str, value: str, words: str) -> None:
    """In one line."""
    message = refusal({f"quirks.{key}": value})
    assert message.startswith(f"quirks.{key}")
    assert words in message


def test_an_unknown_quirk_or_profile_is_told_with_the_nearest(tmp_path: Path) -> None:
    """As for every other key."""
    assert "did you mean nan?" in refusal({}, toml(tmp_path, "[quirks]\nnann = 1\n"))
    assert refusal({"profile": "openia"}).startswith("profile: ")
    assert refusal({}, toml(tmp_path, "quirks = 1\n")).startswith("quirks: must be a table")
    assert refusal({}, toml(tmp_path, "profile = 1\n")).startswith("profile: ")


def test_a_text_that_means_overload_may_have_commas() -> None:
    """One text from a flag, several as JSON, none for nothing."""
    assert load({"quirks.overload_texts": "Busy, sorry."})[0].quirks.overload_texts == [
        "Busy, sorry."
    ]
    assert load({"quirks.overload_texts": '["a", "b"]'})[0].quirks.overload_texts == ["a", "b"]
    assert load({"quirks.overload_texts": ""})[0].quirks.overload_texts == []


def test_a_table_that_is_no_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a whole it is JSON in one variable."""
    monkeypatch.setenv("WHOLESTREAM_QUIRKS", "{")
    assert refusal({}) == "quirks: must be a JSON object"


def test_only_the_first_upstream_has_paths_of_its_own(tmp_path: Path) -> None:
    """A request for one of them can be sent to nobody else."""
    text = '[[upstreams]]\nname = "b"\nbase_url = "http://127.0.0.1:1"\nquirks = { paths = [] }\n'
    assert "paths" in refusal({}, toml(tmp_path, text))
    assert "paths" in Settings.model_fields["quirks"].default.model_dump()
