"""Agents sessions: one turn that was asked for, or the events of a session as they come."""

from __future__ import annotations

from typing import Any

import pytest
from support import CUT, RESET, hear, payloads, raw, sse

from proxy.core.commands import Finish, Open
from proxy.core.errors import read_error
from proxy.core.fault import Fault, IncidentOutcome, Phase
from proxy.core.grammars import endpoint_of, grammar_for
from proxy.core.grammars.agents import AgentsGrammar, is_agents
from proxy.core.grammars.base import Kind
from proxy.core.journal import Journal
from proxy.core.request import Request
from proxy.core.sse import Event

TURN = Request("POST", "/agents/sessions/as_1/turns", b'{"stream":true}')
EVENTS = Request("GET", "/agents/sessions/as_1/events?after=3")

OUTCOMES = [
    *("turn.completed", "turn.failed", "turn.cancelled"),
    *("idle", "failed", "requires_action", "budget_reached"),
]


def session(kind: str) -> dict[str, Any]:
    """Make an event of a session."""
    return {"type": f"agent.session.{kind}", "id": "as_1"}


STARTED = session("turn.started")


@pytest.mark.parametrize(
    ("target", "agents"),
    [
        ("/agents/sessions", True),
        ("/agents/sessions/", True),
        ("/agents/sessions/as_1/events", True),
        ("/agents/sessions?x=/y", True),
        ("/agents/sessionsx", False),
        ("/agents", False),
        ("/v1/agents/sessions", False),
    ],
)
def test_the_paths_of_agents_are_known(target: str, agents: bool) -> None:  # noqa: FBT001
    """They are counted as other endpoints are."""
    request = Request("POST", target)
    assert is_agents(request) is agents
    assert isinstance(grammar_for(request), AgentsGrammar) is agents
    assert endpoint_of(request) == "other"


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_turn_is_complete_once_its_outcome_was_told(outcome: str) -> None:
    """Whichever it is; what follows it is given as well."""
    body = sse(STARTED, session(outcome), session("item.added"))
    heard = hear(body, TURN)
    assert (heard.out, heard.facts) == (body, [])


@pytest.mark.parametrize("first", [STARTED, session("turn.completed.soon"), session("idles")])
def test_a_turn_without_an_outcome_is_not_complete(first: Any) -> None:
    """A clean end is a fault, told as the SDK expects it; nothing is asked again."""
    heard = hear(sse(first), TURN)
    assert heard.facts == [(Fault.CLEAN_EOF, Phase.MID_CONTENT, IncidentOutcome.SURFACED)]
    error = payloads(heard.out)[-1]
    assert (error["type"], error["error"]["code"]) == ("error", "stream_incomplete")


def test_an_event_of_another_kind_is_no_outcome() -> None:
    """It was the session's own language before."""
    heard = hear(sse(STARTED, {"type": "ping"}), TURN)
    assert [fault for fault, _, _ in heard.facts] == [Fault.CLEAN_EOF]


@pytest.mark.parametrize("end", [CUT, RESET], ids=["cut", "reset"])
@pytest.mark.parametrize("request_", [TURN, EVENTS], ids=["turn", "events"])
def test_a_cut_is_a_cut_whatever_was_told(request_: Request, end: Any) -> None:
    """Something may have followed."""
    heard = hear(sse(STARTED, session("turn.completed")), request_, end=end)
    assert heard.facts == [(end.fault, Phase.MID_CONTENT, IncidentOutcome.SURFACED)]


def test_a_turn_that_said_nothing_is_asked_for_again() -> None:
    """No answer had begun."""
    heard = hear(b"", TURN)
    assert isinstance(heard.command, Open)
    assert [fault for fault, _, _ in heard.facts] == [Fault.EMPTY_STREAM]


@pytest.mark.parametrize("payload", [{"type": "x"}, {"text": "a"}, {"type": 5}, 5, None])
def test_a_stream_of_another_servers_events_is_whole_when_its_body_is(payload: Any) -> None:
    """Nothing is known of what it promised."""
    heard = hear(sse(payload), TURN)
    assert (heard.out, heard.facts) == (sse(payload), [])


@pytest.mark.parametrize("body", [b"", sse(STARTED), sse(session("idle"), STARTED)])
def test_the_events_of_a_session_have_no_end_of_their_own(body: bytes) -> None:
    """A proper end of the body was no cut, and silence is no fault."""
    heard = hear(body, EVENTS)
    assert isinstance(heard.command, Finish)
    assert (heard.out, heard.facts) == (body, [])
    assert EVENTS.asks_stream
    assert grammar_for(EVENTS).open_ended
    assert not grammar_for(TURN).open_ended


@pytest.mark.parametrize("request_", [TURN, EVENTS], ids=["turn", "events"])
def test_an_error_is_an_item_like_any_other(request_: Request) -> None:
    """The SDK hands it to the application."""
    body = sse(STARTED, {"type": "error", "error": {"message": "m"}}, session("turn.failed"))
    heard = hear(body, request_)
    assert (heard.out, heard.facts) == (body, [])


def test_what_no_decoder_takes_is_malformed_and_what_nests_deeply_passes() -> None:
    """As everywhere."""
    grammar = grammar_for(TURN)
    assert grammar.read(Event(b"", b"{")) is Kind.MALFORMED
    assert grammar.read(Event(b"", b"[" * 100_000 + b"]" * 100_000)) is Kind.EVENT
    assert grammar.read(Event(b"", raw({"type": "\ud800"}))) is Kind.EVENT


def test_an_error_of_the_upstreams_keeps_its_words() -> None:
    """Under the type that the SDK knows."""
    error = read_error(b'{"error":{"message":"m","code":"c"}}')
    (only,) = grammar_for(TURN).error_events(error, Journal(1000))
    assert (only.name, only.data[:15]) == (b"", b'{"type":"error"')
    assert b'"message":"m"' in only.data
