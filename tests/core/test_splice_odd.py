"""Odd input in front of and behind a seam: whatever comes, the core answers and never raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import CUT, RESET, ask, whole_events

from proxy.core.budget import RetryBudget
from proxy.core.commands import Open
from proxy.core.policy import Fallback, Policy, Target
from proxy.core.session import StreamSession

_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 3), st.sampled_from(["", "a", "Hi", "message"])
)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=4,
)
_CHAT = ("id", "model", "choices", "usage", "error", "obfuscation", "moderation")
_CHOICE = ("index", "delta", "finish_reason", "logprobs", "text")
_DELTA = ("role", "content", "tool_calls", "function_call", "refusal", "audio")
_CALL = ("index", "id", "type", "function", "custom")
_TYPES = (
    *("response.created", "response.in_progress", "response.output_item.added", "keepalive"),
    *("response.output_text.delta", "response.output_text.done", "response.output_item.done"),
    *("response.function_call_arguments.delta", "response.completed", "response.failed", "error"),
)
_EVENT = (
    *("sequence_number", "output_index", "content_index", "delta", "item", "item_id", "text"),
    *("response", "logprobs", "part", "error", "annotation_index"),
)
_INNER = ("id", "type", "call_id", "status", "output", "content", "name", "arguments", "usage")


def _some(keys: tuple[str, ...], **better: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields = {key: better.get(key, _JSON) | _JSON for key in keys}
    return st.fixed_dictionaries({}, optional=fields)


_call = _some(_CALL, function=_some(("name", "arguments")), index=st.integers(0, 1))
_delta = _some(_DELTA, tool_calls=st.lists(_call, max_size=2), content=st.just("Hi"))
_choice = _some(_CHOICE, delta=_delta, index=st.integers(0, 1), logprobs=_some(("content",)))
_chunk = _some(_CHAT, choices=st.lists(_choice, min_size=1, max_size=2))
_inner = _some(_INNER, type=st.sampled_from(["message", "function_call", "web_search_call"]))
_event = _some(_EVENT, item=_inner, response=_inner, sequence_number=st.integers(0, 9)).flatmap(
    lambda fields: st.sampled_from(_TYPES).map(lambda name: {**fields, "type": name})
)
_BODIES = {
    "chat": st.lists(_chunk, max_size=5),
    "completions": st.lists(_chunk, max_size=5),
    "responses": st.lists(_event, max_size=6),
}
_POLICIES = [
    Policy(replay="always", continuation=way, hold=hold, backoff_base_s=0.0, fallbacks=rules)
    for way in ("off", "completions", "prefill", "instructed")
    for hold in ("none", "tool_calls", "all")
    for rules in ((), (Fallback(("*",), (Target(model="other"),)),))
]


@pytest.mark.parametrize("family", _BODIES)
@settings(max_examples=100)
@given(data=st.data())
def test_no_input_on_either_side_of_a_seam_raises(family: str, data: st.DataObject) -> None:
    """And all that is given is whole events, whatever the upstream said in any attempt."""
    policy = data.draw(st.sampled_from(_POLICIES))
    background = family == "responses" and data.draw(st.booleans())
    request = ask(family, store=False, background=background, messages=[{"role": "user"}])
    session = StreamSession(request, policy, RetryBudget(1.0, 10.0))
    command: Any = session.begin(0.0)
    out = b""
    while isinstance(command, Open):
        session.receive_head()
        events = data.draw(_BODIES[family])
        body = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)
        if command.document:
            body = json.dumps(data.draw(_inner)).encode()
        out += session.receive_data(body)
        command = session.receive_end(data.draw(st.sampled_from([CUT, RESET])), 0.0)
    whole_events(out + command.body)
    report = session.report()
    assert len(report.attempts) <= 6
