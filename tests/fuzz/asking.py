"""Requests, policies and quirks, by number.

Knows one request of each shape that is read in a way of its own. Must not know what comes of it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

from support import ask

from fuzz.cases import Case
from proxy.core.policy import Continuation, Fallback, Hold, Policy, Quirks, Replay, Target
from proxy.core.request import Request


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request, and what an answer to it must have: its family, how many of what."""

    family: str
    request: Request
    count: int | None = 1
    """How many choices or images were asked for; None if that is not known."""


def _upload(target: str, form: dict[str, str]) -> Request:
    return Request("POST", target, None, form={"stream": "true", **form})


_AZURE = Request(
    "POST",
    "/openai/deployments/d/chat/completions?api-version=1",
    b'{"stream":true}',
    own_path=True,
)
SHAPES = (
    Asked("chat", ask("chat")),
    Asked("chat", ask("chat", n=2), 2),
    Asked("chat", ask("chat", temperature=0, stream_options={"include_usage": True})),
    Asked("chat", ask("chat", recovery=False)),
    Asked("chat", ask("chat", stream=False, seed=1)),
    Asked("chat", _AZURE),
    Asked("chat", ask("completions")),
    Asked("chat", ask("completions", n=2, temperature=0, prompt="p"), 2),
    Asked("responses", ask("responses")),
    Asked("responses", ask("responses", background=True)),
    Asked("responses", ask("responses", store=False, temperature=0)),
    Asked("responses", Request("GET", "/responses/resp_15?stream=true&starting_after=2")),
    Asked("responses", Request("GET", "/responses/resp_15?stream=true")),
    Asked("images", ask("images")),
    Asked("images", ask("images", n=2), 2),
    Asked("images", _upload("/images/edits", {"n": "2"}), 2),
    Asked("images", _upload("/images/edits", {}), None),
    Asked("audio", ask("audio")),
    Asked("audio", _upload("/audio/transcriptions", {})),
    Asked("threads", ask("threads")),
    Asked("other", ask("other")),
    Asked("agents", Request("POST", "/agents/sessions", b'{"stream":true}')),
    Asked("agents", Request("GET", "/agents/sessions/s_15/events")),
    Asked("chat", ask("completions", stream=False)),
    Asked("responses", ask("responses", stream=False)),
)
"""One of each shape that is read in a way of its own. Only ever added to: the corpus counts."""

NOTICES = ("Hi", "The harbour is full.")
"""What an upstream may be known to say instead of an answer."""

_CAPS = ((16 * 2**20, 4 * 2**20), (16 * 2**20, 400), (300, 4 * 2**20), (96, 64))


def quirks(number: int) -> Quirks:
    """Return the quirks of a number, of which 0 has every default.

    Read from the fields themselves, so that a new one is tried from its first day.
    """
    chosen: dict[str, Any] = {}
    hints = get_type_hints(Quirks)
    for known in dataclasses.fields(Quirks):
        options = _options(hints[known.name], known.default)
        number, place = divmod(number, len(options))
        chosen[known.name] = options[place]
    return Quirks(**chosen)


def _options(hint: Any, default: object) -> list[Any]:
    found: list[Any] = [default]
    if hint is bool:
        found.append(not default)
    elif get_origin(hint) is Literal:
        found += [value for value in get_args(hint) if value != default]
    elif get_origin(hint) is tuple:
        found.append(NOTICES)
    else:
        raise TypeError(f"no choice is known for a quirk of the type {hint}")
    return found


def policy(case: Case, *, first: int) -> Policy:
    """Return the policy that eight knobs stand for, beginning with the one given."""
    bytes_, journal = case.pick(first, _CAPS)
    flags, number = case.number(first + 1), case.number(first + 2) + 256 * case.number(first + 3)
    theirs = case.pick(first + 4, get_args(Continuation))
    other = Target("other", "m2", theirs, quirks(number >> 3))
    return Policy(
        max_attempts=3 - flags % 3,
        max_event_bytes=bytes_,
        journal_max_bytes=journal,
        skip_malformed=bool(flags & 4),
        resume=not flags & 8,
        fallbacks=(Fallback(("*",), (other,)),) if flags & 16 else (),
        replay=case.pick(first + 5, get_args(Replay)),
        continuation=case.pick(first + 6, get_args(Continuation)),
        hold=case.pick(first + 7, get_args(Hold)),
        quirks=quirks(number),
    )
