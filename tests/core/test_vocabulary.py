"""The closed vocabularies: label values and defaults that the contract binds."""

from __future__ import annotations

import enum

import pytest

from proxy.core.commands import http_reply, own_error
from proxy.core.fault import EXPLANATIONS, Fault, IncidentOutcome, Phase, StreamOutcome
from proxy.core.grammars import GRAMMARS
from proxy.core.policy import Policy

WORDS: dict[type[enum.Enum], str] = {
    Fault: (
        "connect_error reset cut_mid_event cut_between_events clean_eof empty_stream stall "
        "first_event_timeout in_stream_error malformed_event oversize_event http_status"
    ),
    Phase: "before_headers before_content mid_content after_terminal",
    IncidentOutcome: (
        "restarted resumed replayed continued fell_back repaired swallowed surfaced client_gone"
    ),
    StreamOutcome: "complete recovered failed client_closed aborted",
}


@pytest.mark.parametrize(
    ("kind", "words"), WORDS.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_the_words_are_the_contracts(kind: type[enum.Enum], words: str) -> None:
    """They are label values: no more, no fewer, none renamed."""
    assert [member.value for member in kind] == words.split()


def test_the_endpoints_are_the_contracts() -> None:
    """The keys of the table are the values of the label."""
    words = "chat_completions completions responses images audio threads other"
    assert list(GRAMMARS) == words.split()


def test_the_defaults_are_the_contracts() -> None:
    """What is not set is this."""
    policy = Policy()
    assert (policy.max_attempts, policy.max_event_bytes) == (3, 16 * 1024 * 1024)
    assert (policy.backoff_base_s, policy.backoff_max_s) == (0.5, 8.0)
    assert policy.retry_after_max_s == 60.0
    assert not policy.skip_malformed


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_is_explained_where_it_is_told(fault: Fault) -> None:
    """One plain sentence, and the word to search for."""
    sentence = EXPLANATIONS[fault]
    message = own_error(fault, "", 4).message
    assert message.lower().startswith(sentence.lower())
    assert "The 4 events before this one are whole" in message
    assert message.endswith(f"[{fault.value}]")
    assert sentence[1:].encode() in http_reply(fault, Phase.BEFORE_CONTENT, 1, "").body
