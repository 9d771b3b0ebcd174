"""A verdict in words, and as JSON. Nothing of the body itself is ever shown.

The JSON is one object; more keys may come, these stay::

    endpoint      a value of the label, and in known_by: caller, events or default
    bytes         of the capture; with decoded: true, of what it decodes to
    events        events with data; ending: see verdict.Ending
    clean         the exit code: true is 0, false is 1
    findings      in the order of the body; each has
                    kind     fault or repair
                    name     a value of that label
                    form     where SDKs treat forms of it differently, else null
                    byte     offset of the event in which it was found first
                    times    how often
                    phase    of a fault, else null
                    allowed  whether the standard allows it, and both SDKs survive it
                    meaning  a sentence
    sdks          python and node; each has fate (see sdks.Fate), and exception, name and byte of
                  what it is due to, or null
    unread_bytes  behind the end of the stream, white space left out

Knows words. Must not know how anything was found.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator

from proxy.core.fault import EXPLANATIONS, Fault
from proxy.lint.sdks import DOCUMENT, Fate, Sdk
from proxy.lint.verdict import Ending, Finding, KnownBy, Outcome, Verdict

MEANINGS: dict[str, str] = {
    "added_done": "every choice has its finish_reason, but [DONE] is missing",
    "added_finish_reason": "[DONE] without any finish_reason; some servers never send one",
    "added_response_failed": "an error without response.failed behind it, which some wait for",
    "bom": "a byte order mark, which hides the first event from openai-python",
    "bom/name": "a byte order mark, which the standard allows",
    "closed_final_event": "the last event lacks its blank line",
    "closed_final_event/done": "only the blank line behind [DONE] is missing",
    "data_prefix": "data: twice in front of a payload",
    "data_prefix/bare": "a JSON object on a line without data: in front of it",
    "data_space": "no space behind the colon, which the standard allows",
    "decoded_body": "compressed; all offsets count decoded bytes",
    "done_form": "DONE without its brackets",
    "done_form/more": "something stands behind [DONE] in its event",
    "dropped_comment": "comments, which the standard allows",
    "dropped_comment/behind_id": "comments behind an id: to openai-python, events without data",
    "dropped_comment/data": "comments that were written as data",
    "dropped_dataless": "events without data",
    "dropped_dataless/nothing": "an empty event field alone, which says nothing",
    "dropped_done": "[DONE] before the end of a response: SDKs stop reading there",
    "dropped_duplicate": "an event came twice, with the same sequence_number",
    "dropped_event_name": "names on events that have none in this endpoint's language",
    "dropped_foreign_event": "events that are not in this endpoint's language",
    "dropped_nul": "NUL bytes around the data of an event",
    "dropped_nul/before": "NUL bytes in front of an event, which hide it from SDKs",
    "dropped_nul/between": "NUL bytes between events",
    "escaped_control": "raw control characters inside JSON strings, which JSON forbids",
    "escaped_separator": "raw line separators in JSON, which are legal, but some clients cut there",
    "joined_events": "one JSON value, broken over two events",
    "joined_lines": "JSON over several data lines, which the standard allows",
    "joined_lines/string": "JSON that was broken over several data lines inside a string",
    "json_to_sse": "a whole answer, but it is one JSON object and no stream",
    "line_ends": "CR LF or CR at line ends, which the standard allows",
    "nan_to_null": "NaN or Infinity, which are not JSON",
    "reattached_event_name": "a blank line between an event's name and its data",
    "replaced_utf8": "bytes that are not UTF-8",
    "rewrote_finish_reason": "a tool call whose arguments stop short, as if they were complete",
    "set_content_type": "an event stream that calls itself something else",
    "split_events": "several JSON values in one event",
    "split_events/bare": "a JSON value without data: in front of it",
    "stripped_id_retry": "id or retry fields inside events, which the standard allows",
    "stripped_id_retry/alone": "id or retry fields alone: to openai-python, events without data",
    "stripped_id_retry/blank": "two blank lines behind an id: to openai-python, an empty event",
    "in_stream_error/document": "an error object in JSON, in place of a stream",
    "in_stream_error/text": "an error in plain text, where JSON should be",
    "malformed_event/document": "JSON that is no answer, in place of a stream",
    "malformed_event/page": "no event stream, but an HTML page or other text",
}
"""What was found, by the keys of ``sdks.SURVIVAL``; of faults only where a form says more."""

_ENDINGS = {
    Ending.TERMINAL_EVENT: "ends with its terminal event",
    Ending.FINISHED: "complete, but without its end mark",
    Ending.END_OF_BODY: "ends with its body, as such streams do",
    Ending.DOCUMENT: "one JSON object",
    Ending.BROKEN: "no complete answer",
}
_KNOWN_BY = {
    KnownBy.CALLER: " (as you say)",
    KnownBy.EVENTS: "",
    KnownBy.DEFAULT: " (assumed, no event tells)",
}
_FATES = {
    Fate.SURVIVES: "has all of the answer, and nothing else",
    Fate.MISLED: "is given something that is not right",
    Fate.LOSES: "loses an event and does not notice",
    Fate.SILENT: "takes what it has for a whole answer",
    Fate.HONEST: "raises {}, which says what happened",
    Fate.CRASHES: "dies of it: {}",
}
_SDKS: dict[Sdk, str] = {"python": "openai 3.x for Python", "node": "openai 7.x for Node"}

_WIDTH = 100


def meaning_of(finding: Finding) -> str:
    """Return a sentence on a finding."""
    named = MEANINGS.get(f"{finding.name}/{finding.form}") or MEANINGS.get(finding.name)
    if named:
        return named
    text = EXPLANATIONS[Fault(finding.name)]
    return f"one JSON object in place of a stream: {text}" if finding.form == DOCUMENT else text


def as_text(verdict: Verdict) -> str:
    """Return a verdict for a person to read."""
    endpoint = verdict.endpoint + _KNOWN_BY[verdict.known_by]
    size = f"{_many(verdict.size, 'byte')}, {_many(verdict.events, 'event')}"
    lines = [f"{endpoint}, {size}: {_ENDINGS[verdict.ending]}", ""]
    if verdict.findings:
        lines += [*_table(verdict.findings), ""]
    lines += [_said_of(sdk, verdict.outcome(sdk)) for sdk in _SDKS]
    if verdict.unread:
        lines.append(f"not judged: {_many(verdict.unread, 'byte')} behind that")
    return "\n".join([*lines, "", _summed_up(verdict)])


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _table(findings: tuple[Finding, ...]) -> Iterator[str]:
    head = ("byte", "what", "times", "meaning")
    rows = [head, *((str(f.at), f.name, str(f.times), meaning_of(f)) for f in findings)]
    byte, what, times = (max(len(row[column]) for row in rows) for column in range(3))
    indent = " " * (byte + what + times + 6)
    for row in rows:
        cells = f"{row[0]:>{byte}}  {row[1]:<{what}}  {row[2]:>{times}}  "
        yield from textwrap.wrap(row[3], _WIDTH, initial_indent=cells, subsequent_indent=indent)


def _said_of(sdk: Sdk, outcome: Outcome) -> str:
    finding = outcome.finding
    place = f" ({finding.name} at byte {finding.at})" if finding else ""
    return f"{_SDKS[sdk]} {_FATES[outcome.fate].format(outcome.error)}{place}"


def _summed_up(verdict: Verdict) -> str:
    if verdict.clean:
        return "clean" if not verdict.findings else "clean: all of this is allowed"
    wrong = [finding.name for finding in verdict.findings if not finding.survival.allowed]
    return f"not clean: {', '.join(dict.fromkeys(wrong))}"


def as_json(verdict: Verdict) -> str:
    """Return a verdict for a program to read."""
    outcomes = {sdk: _outcome(verdict.outcome(sdk)) for sdk in _SDKS}
    facts = {
        "endpoint": verdict.endpoint,
        "known_by": verdict.known_by.value,
        "bytes": verdict.size,
        "decoded": verdict.decoded,
        "events": verdict.events,
        "ending": verdict.ending.value,
        "clean": verdict.clean,
        "findings": [_finding(finding) for finding in verdict.findings],
        "sdks": outcomes,
        "unread_bytes": verdict.unread,
    }
    return json.dumps(facts, indent=2)


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "kind": "fault" if finding.is_fault else "repair",
        "name": finding.name,
        "form": finding.form or None,
        "byte": finding.at,
        "times": finding.times,
        "phase": finding.phase or None,
        "allowed": finding.survival.allowed,
        "meaning": meaning_of(finding),
    }


def _outcome(outcome: Outcome) -> dict[str, object]:
    finding = outcome.finding
    return {
        "fate": outcome.fate.value,
        "exception": outcome.error or None,
        "name": finding.name if finding else None,
        "byte": finding.at if finding else None,
    }
