"""Healthy runs of assistants and turns of agents, streamed and whole.

Knows the shape of runs as recorded from the real service, that of agents sessions from the types
of OpenAI's SDK, as no recording exists; ids and texts are invented. Must not know faults, HTTP or
attempts at recovery.
"""

from __future__ import annotations

import re
from typing import Any

from proxy.demo.answers import Asked
from proxy.demo.shapes import EPOCH, TEXT, Split, Stream, event, input_output, words

_THREAD = re.compile(r".*/threads/([^/]+)/runs(?:/([^/]+)/submit_tool_outputs)?")
_SESSION = re.compile(r".*/agents/sessions/([^/]+)(?:/events)?")

Told = list[tuple[str, dict[str, Any]]]
"""Names of events, and what is in them."""


# --- assistants -----------------------------------------------------------------------------


def threads(asked: Asked, attempt: int, text: str = TEXT, split: Split = words) -> Stream:
    """Return a run that answers with one message, on a thread of its own if none is named."""
    found = _THREAD.fullmatch(asked.path)
    opening: Told = []
    if found is None:
        opening = [("thread.created", _thread(attempt))]
    if found is None or found[2] is None:
        opening += [("thread.run.created", run(asked, attempt, "queued"))]
    opening += [
        ("thread.run.queued", run(asked, attempt, "queued")),
        ("thread.run.in_progress", run(asked, attempt, "in_progress")),
    ]
    begun = _message(asked, attempt, None)
    content: Told = [("thread.message.created", begun), ("thread.message.in_progress", begun)]
    content += [("thread.message.delta", _delta(attempt, word)) for word in split(text)]
    closing: Told = [
        ("thread.message.completed", _message(asked, attempt, text)),
        ("thread.run.completed", run(asked, attempt, "completed", text)),
    ]
    done = b"event: done\ndata: [DONE]\n\n"
    return Stream(_named(opening), _named(content), (*_named(closing), done))


def run(asked: Asked, attempt: int, status: str, text: str = "") -> dict[str, Any]:
    """Return the object that a run is, in one of its states."""
    done = status == "completed"
    counted = input_output(text)
    usage = {
        "prompt_tokens": counted["input_tokens"],
        "completion_tokens": counted["output_tokens"],
        "total_tokens": counted["total_tokens"],
    }
    return {
        "id": _run_id(asked, attempt),
        "object": "thread.run",
        "created_at": EPOCH + attempt,
        "assistant_id": "asst_demo",
        "thread_id": _thread_id(asked, attempt),
        "status": status,
        "started_at": None if status == "queued" else EPOCH + attempt,
        "expires_at": None if done else EPOCH + attempt + 600,
        "cancelled_at": None,
        "failed_at": None,
        "completed_at": EPOCH + attempt if done else None,
        "required_action": None,
        "last_error": None,
        "model": asked.model,
        "instructions": "",
        "tools": [],
        "tool_resources": {},
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "max_completion_tokens": None,
        "max_prompt_tokens": None,
        "truncation_strategy": {"type": "auto", "last_messages": None},
        "incomplete_details": None,
        "usage": usage if done else None,
        "response_format": "auto",
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    }


def _thread(attempt: int) -> dict[str, Any]:
    kept: dict[str, Any] = {"metadata": {}, "tool_resources": {}}
    created = EPOCH + attempt
    return {"id": f"thread_demo_a{attempt}", "object": "thread", "created_at": created, **kept}


def _thread_id(asked: Asked, attempt: int) -> str:
    found = _THREAD.fullmatch(asked.path)
    return found[1] if found else f"thread_demo_a{attempt}"


def _run_id(asked: Asked, attempt: int) -> str:
    found = _THREAD.fullmatch(asked.path)
    return (found and found[2]) or f"run_demo_a{attempt}"


def _message(asked: Asked, attempt: int, text: str | None) -> dict[str, Any]:
    part = {"type": "text", "text": {"value": text, "annotations": []}}
    return {
        "id": f"msg_demo_a{attempt}",
        "object": "thread.message",
        "created_at": EPOCH + attempt,
        "assistant_id": "asst_demo",
        "thread_id": _thread_id(asked, attempt),
        "run_id": _run_id(asked, attempt),
        "status": "in_progress" if text is None else "completed",
        "incomplete_details": None,
        "incomplete_at": None,
        "completed_at": None if text is None else EPOCH + attempt,
        "role": "assistant",
        "content": [] if text is None else [part],
        "attachments": [],
        "metadata": {},
    }


def _delta(attempt: int, word: str) -> dict[str, Any]:
    part = {"index": 0, "type": "text", "text": {"value": word, "annotations": []}}
    head = {"id": f"msg_demo_a{attempt}", "object": "thread.message.delta"}
    return {**head, "delta": {"content": [part]}}


def _named(told: Told) -> tuple[bytes, ...]:
    return tuple(event(value, name) for name, value in told)


# --- agents ---------------------------------------------------------------------------------


def agents(asked: Asked, attempt: int, text: str = TEXT, split: Split = words) -> Stream:
    """Return one turn of a session, of a new one if none is named, with numbered events."""
    turn = {"turn_id": f"turn_demo_a{attempt}"}
    at = {"item_id": f"msg_demo_a{attempt}", "output_index": 0, "content_index": 0, **turn}
    opening: Told = [
        ("in_progress", {"session": session(asked, attempt, "in_progress")}),
        ("turn.created", {"turn": _turn(asked, attempt, "queued"), **turn}),
        ("turn.in_progress", {"turn": _turn(asked, attempt, "in_progress"), **turn}),
    ]
    if _SESSION.fullmatch(asked.path) is None:
        opening.insert(0, ("created", {"session": session(asked, attempt, "idle")}))
    added, done = ({"item": _said(attempt, said), "output_index": 0} for said in (None, text))
    content: Told = [
        ("turn.item.added", {**added, **turn}),
        ("turn.content_part.added", {**at, "part": _part("")}),
    ]
    content += [("turn.output_text.delta", {**at, "delta": word}) for word in split(text)]
    completed = {"turn": _turn(asked, attempt, "completed"), "usage": _usage(text), **turn}
    closing: Told = [
        ("turn.output_text.done", {**at, "text": text}),
        ("turn.content_part.done", {**at, "part": _part(text)}),
        ("turn.item.done", {**done, **turn}),
        ("turn.completed", completed),
        ("idle", {"session": session(asked, attempt, "idle")}),
    ]
    numbered = [
        event({"type": f"agent.session.{name}", **fields, **event_ids(asked, attempt, number)})
        for number, (name, fields) in enumerate([*opening, *content, *closing])
    ]
    first, last = len(opening), len(opening) + len(content)
    return Stream(tuple(numbered[:first]), tuple(numbered[first:last]), tuple(numbered[last:]))


def event_ids(asked: Asked, attempt: int, number: int) -> dict[str, str]:
    """Return what every event of a session has, and has it alone; ``number`` counts from 0."""
    shared = _session_id(asked, attempt)
    return {"event_id": f"evt_demo_a{attempt}_{number}", "session_id": shared}


def _session_id(asked: Asked, attempt: int) -> str:
    found = _SESSION.fullmatch(asked.path)
    return found[1] if found else f"sess_demo_a{attempt}"


def session(asked: Asked, attempt: int, status: str) -> dict[str, Any]:
    """Return the object that a session is, in one of its states."""
    agent: dict[str, Any] = {
        "id": "agent_demo",
        "instructions": None,
        "model": asked.model,
        "multi_agent": {"enabled": False, "max_concurrent_subagents": None},
        "name": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "auto",
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tools": [],
    }
    return {
        "id": _session_id(asked, attempt),
        "object": "agent.session",
        "agent": agent,
        "created_at": EPOCH + attempt,
        "environment": {"type": "none"},
        "error": None,
        "last_active_at": EPOCH + attempt,
        "metadata": {},
        "required_actions": [],
        "status": status,
        "usage": None,
        "vault_ids": [],
    }


def _turn(asked: Asked, attempt: int, status: str) -> dict[str, Any]:
    return {
        "id": f"turn_demo_a{attempt}",
        "object": "agent.session.turn",
        "agent_id": "agent_demo",
        "session_id": _session_id(asked, attempt),
        "created_at": EPOCH + attempt,
        "started_at": None if status == "queued" else EPOCH + attempt,
        "completed_at": EPOCH + attempt if status == "completed" else None,
        "status": status,
        "error": None,
        "subagent_id": None,
        "usage": None,
    }


def _said(attempt: int, text: str | None) -> dict[str, Any]:
    return {
        "id": f"msg_demo_a{attempt}",
        "type": "message",
        "role": "assistant",
        "status": "in_progress" if text is None else "completed",
        "content": [] if text is None else [_part(text)],
        "phase": "final_answer",
        "turn_id": f"turn_demo_a{attempt}",
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text}


def _usage(text: str) -> dict[str, Any]:
    return {
        **input_output(text),
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
