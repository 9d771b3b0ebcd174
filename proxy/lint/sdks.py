"""What the official SDKs do with each fault and each repair that a captured body can show.

Knows ``openai`` 3.x for Python and 7.x for Node, each reading a stream event by event; what older
ones do is another matter. The table is held against the real ones by ``test_check_sdks``. Must
not know how anything is found, or how forms are told apart.

A body does not show how HTTP ended. All is told as for a body that ended properly, since that is
where SDKs go wrong in silence; a broken connection makes both of them raise.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

Sdk = Literal["python", "node"]


class Fate(enum.Enum):
    """What becomes of an application that reads such a body."""

    SURVIVES = "survives"
    """It has all of the answer, and nothing else."""
    MISLED = "misled"
    """It is given an item that is no part of the answer, or not right."""
    LOSES = "loses_an_event"
    """An event in the middle is missing, and it does not notice."""
    SILENT = "takes_it_for_whole"
    """The end, or all of it, is missing, and it does not notice."""
    HONEST = "raises_api_error"
    """It has to catch an ``APIError``, which says what happened."""
    CRASHES = "crashes"
    """It has to catch an exception of a parser."""


@dataclass(frozen=True, slots=True)
class Survival:
    """What both SDKs do; ``error`` is the class of Python's exception, where it crashes.

    ``allowed`` says that the SSE standard and the endpoint's protocol allow the form, or that it
    is only worth a note.
    """

    python: Fate
    node: Fate
    allowed: bool = False
    error: str = "JSONDecodeError"

    def of(self, sdk: Sdk) -> Fate:
        """Return what one of them does."""
        return self.python if sdk == "python" else self.node


NODE_ERROR = "SyntaxError"
"""What Node's SDK crashes with, always: only its parser of JSON is strict."""

_SURVIVE, _CRASH = Fate.SURVIVES, Fate.CRASHES
_FINE = Survival(_SURVIVE, _SURVIVE, allowed=True)
_WRONG = Survival(_SURVIVE, _SURVIVE)
_BOTH_CRASH = Survival(_CRASH, _CRASH)
_BOTH_LOSE = Survival(Fate.LOSES, Fate.LOSES)
_BOTH_MISLED = Survival(Fate.MISLED, Fate.MISLED)
_BOTH_SILENT = Survival(Fate.SILENT, Fate.SILENT)
_BOTH_RAISE = Survival(Fate.HONEST, Fate.HONEST)
_PYTHON_CRASHES = Survival(_CRASH, _SURVIVE)

SURVIVAL: dict[str, Survival] = {
    "clean_eof": _BOTH_SILENT,
    "cut_mid_event": Survival(Fate.SILENT, _CRASH),
    "cut_mid_event/character": Survival(_CRASH, _CRASH, error="UnicodeDecodeError"),
    "cut_mid_event/field": _BOTH_SILENT,
    "cut_mid_event/whole": Survival(_SURVIVE, _CRASH),
    "cut_mid_event/stub": _WRONG,
    "empty_stream": _BOTH_SILENT,
    "in_stream_error": _BOTH_RAISE,
    "in_stream_error/flat": Survival(Fate.MISLED, Fate.HONEST),
    "in_stream_error/nameless": _BOTH_MISLED,
    "in_stream_error/failed": _BOTH_MISLED,
    "in_stream_error/text": _BOTH_CRASH,
    "malformed_event": _BOTH_CRASH,
    "malformed_event/page": _BOTH_SILENT,
    "oversize_event": _WRONG,
    "http_status": _BOTH_RAISE,
    "added_done": _WRONG,
    "added_finish_reason": _FINE,
    "added_response_failed": _WRONG,
    "bom": Survival(Fate.LOSES, _SURVIVE),
    "bom/name": _FINE,
    "closed_final_event": Survival(Fate.SILENT, _SURVIVE),
    "closed_final_event/done": _WRONG,
    "data_prefix": _BOTH_CRASH,
    "data_prefix/bare": _BOTH_LOSE,
    "data_space": _FINE,
    "decoded_body": _FINE,
    "done_form": _BOTH_CRASH,
    "done_form/more": Survival(_SURVIVE, _CRASH),
    "dropped_comment": _FINE,
    "dropped_comment/behind_id": _PYTHON_CRASHES,
    "dropped_comment/data": _BOTH_CRASH,
    "dropped_dataless": _BOTH_CRASH,
    "dropped_dataless/nothing": _FINE,
    "dropped_done": _BOTH_SILENT,
    "dropped_duplicate": _BOTH_MISLED,
    "dropped_event_name": _FINE,
    "dropped_foreign_event": _BOTH_MISLED,
    "dropped_nul": _BOTH_CRASH,
    "dropped_nul/before": _BOTH_LOSE,
    "dropped_nul/between": _WRONG,
    "escaped_control": _BOTH_CRASH,
    "escaped_separator": _FINE,
    "joined_events": _BOTH_CRASH,
    "joined_lines": _FINE,
    "joined_lines/string": _BOTH_CRASH,
    "json_to_sse": _BOTH_SILENT,
    "line_ends": _FINE,
    "nan_to_null": Survival(_SURVIVE, _CRASH),
    "reattached_event_name": _BOTH_CRASH,
    "replaced_utf8": Survival(_CRASH, _SURVIVE, error="UnicodeDecodeError"),
    "rewrote_finish_reason": _BOTH_MISLED,
    "set_content_type": _WRONG,
    "split_events": _BOTH_CRASH,
    "split_events/bare": _BOTH_LOSE,
    "stripped_id_retry": _FINE,
    "stripped_id_retry/alone": _PYTHON_CRASHES,
    "stripped_id_retry/blank": _PYTHON_CRASHES,
}
"""By the name of a fault or a repair, and a form of it where forms have different fates."""

DOCUMENT = "document"
"""The form of a fault in one JSON object: SDKs find no event in it, whatever it says."""

UNSEEN = frozenset(
    {
        # what a body does not show: it ends, and nobody knows how or when
        *("connect_error", "reset", "cut_between_events", "stall", "first_event_timeout"),
        "ended_body",
        # what has to be asked for, and mends nothing that an SDK stumbles over
        *("dropped_empty_choices", "dropped_malformed", "filled_fields", "sse_to_json"),
    }
)
"""Faults and repairs that are never found in a captured body."""


def survival_of(name: str, form: str) -> Survival:
    """Return what the SDKs do with a fault or a repair in a form."""
    if form == DOCUMENT:
        return SURVIVAL["json_to_sse"]
    return SURVIVAL[f"{name}/{form}" if form else name]
