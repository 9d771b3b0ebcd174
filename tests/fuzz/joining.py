"""What a second answer may add to the first: nothing that contradicts it.

Knows how the deltas of chat and of responses add up in a client, told once more here. A second
answer is first run alone, which says what it would have given; then it is joined to a first one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from support import ask

from fuzz import signs
from fuzz.asking import Asked
from fuzz.cases import SEPARATOR, Case, case
from fuzz.driving import Run, drive
from fuzz.signs import Told
from fuzz.streaming import check_counts, check_endings, check_outcome

SHAPES = (
    Asked("chat", ask("chat")),
    Asked("chat", ask("chat", n=2), 2),
    Asked("chat", ask("completions")),
    Asked("responses", ask("responses", store=False)),
)
"""Whatever may be asked again. Only ever added to: the corpus counts."""

_NAMES = ("id", "created", "model", "system_fingerprint", "service_tier")
_LIMITS, _ENDS, _READS = 1, 9, 14
_ALWAYS, _TWO, _ONE, _AT_ONCE = 2, 1, 2, 1

Slot = tuple[str | int, ...]


@dataclass
class Heard:
    """What a client adds up: texts, and what stands once."""

    texts: dict[Slot, str] = field(default_factory=dict)
    ends: dict[Slot, list[str]] = field(default_factory=dict)

    def add(self, slot: Slot, text: str) -> None:
        """Add to a text, in UTF-16's units: an escape may stand for half a character."""
        units = text.encode("utf-16-be", "surrogatepass").decode("latin-1")
        if units:
            self.texts[slot] = self.texts.get(slot, "") + units


def check_joining(data: bytes) -> None:
    """Break one answer, give another, and compare what the client has.

    Knobs: 0 the request, 9 how the first ends, 10 how the second ends, 14 how bodies are cut. Two
    bodies.
    """
    knobs = Case(data)
    asked = knobs.pick(0, SHAPES)
    first, second = (*knobs.bodies, b"")[:2]
    both = drive(_case(knobs, first, second), asked, limits=_LIMITS, first=_ENDS, reads=_READS)
    report, events = both.report, signs.read(both.out)
    check_endings(both, events)
    check_outcome(both, report, events)
    check_counts(both, report, events)
    if report.recoveries and report.recoveries[0][0] == "replay":
        alone = drive(_alone(knobs, second), asked, limits=_LIMITS, first=_ENDS, reads=_READS)
        _check_texts(both, alone, whole=report.recoveries[0][1] == "success")
        _check_identity(both)


def _case(knobs: Case, first: bytes, second: bytes) -> Case:
    ends = {"k9": 1 + knobs.number(9) % 3, "k10": knobs.number(10) % 6, "k14": knobs.number(14)}
    return Case(case(first, second, k2=_TWO, k6=_ALWAYS, **ends))


def _alone(knobs: Case, second: bytes) -> Case:
    """Run the second one as the only one, its openers given at once."""
    ends = {"k9": knobs.number(10) % 6, "k14": knobs.number(14), "k2": _ONE}
    return Case(case(second.replace(SEPARATOR, b""), k12=_AT_ONCE, **ends))


def _check_texts(both: Run, alone: Run, *, whole: bool) -> None:
    """Each text goes on as the second answer has it, or does not go on at all."""
    given = _hear(both, both.given_before(1))
    final, other = _hear(both, both.out), _hear(alone, alone.out)
    for slot in given.texts.keys() | final.texts.keys():
        was, now = given.texts.get(slot, ""), final.texts.get(slot, "")
        assert now.startswith(was)
        if now != was or whole:
            told = other.texts.get(slot, "")
            assert told.startswith(now), f"{slot}: {now!r} was given, {told!r} was told"
    good = both.report.outcome.value == "recovered"
    if good:
        assert final.texts == other.texts, "the answer is not all there"
        assert {slot: set(ends) for slot, ends in final.ends.items()} == {
            slot: set(ends) for slot, ends in other.ends.items()
        }


def _check_identity(both: Run) -> None:
    """Look for the one identity: that of what was given first."""
    first = [_fields(told) for told in signs.read(both.given_before(1))]
    rest = [_fields(told) for told in signs.read(both.out)[len(first) :]]
    if both.asked.family == "responses":
        ids = {_response_id(fields) for fields in first if "response" in fields}
        # Where an opener has no id, none is known to be the one.
        if len(ids) == 1 and None not in ids:
            assert {_response_id(fields) for fields in rest} <= {None, *ids}
        return
    known = {
        name: next((fields[name] for fields in first if fields.get(name)), None) for name in _NAMES
    }
    once = {slot for fields in first for slot in _once(fields)}
    for fields in rest:
        assert not once & set(_once(fields)), f"given twice: {fields}"
        if not fields.get("error") and any(known.values()):
            for name in _NAMES:
                assert not known[name] or fields.get(name, known[name]) == known[name], fields


def _once(fields: dict[str, Any]) -> Iterator[Slot]:
    """Name what is given once: a choice's role, a call's id."""
    for choice in _dicts(fields.get("choices")):
        index, delta = _index(choice.get("index"), 0), choice.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        if delta.get("role"):
            yield index, "role"
        for place, call in enumerate(_dicts(delta.get("tool_calls"))):
            if call.get("id"):
                yield index, "id", _index(call.get("index"), place)


def _response_id(fields: dict[str, Any]) -> str | None:
    response: Any = fields.get("response")
    known = isinstance(response, dict) and "id" in response
    return json.dumps(response["id"]) if known else None


# --- what a client adds up ---


def _hear(run: Run, out: bytes) -> Heard:
    heard = Heard()
    for told in signs.read(out):
        fields = _fields(told)
        if run.asked.family == "responses":
            _hear_delta(heard, fields)
        else:
            for choice in _dicts(fields.get("choices")):
                _hear_choice(heard, choice)
    return heard


def _fields(told: Told) -> dict[str, Any]:
    """Read an event without the numbers that are none: where it is written anew, they go."""
    try:
        found = json.loads(told.data, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _finite(text: str) -> float:
    return max(-sys.float_info.max, min(sys.float_info.max, float(text)))


def _hear_delta(heard: Heard, fields: dict[str, Any]) -> None:
    kind, delta = fields.get("type"), fields.get("delta")
    if isinstance(delta, str):
        parts = ("output_index", "content_index", "summary_index", "annotation_index")
        where = (_index(fields.get(part), -1) for part in parts)
        stem = kind.removesuffix(".delta") if isinstance(kind, str) else ""
        heard.add((stem, *where), delta)


def _hear_choice(heard: Heard, choice: dict[str, Any]) -> None:
    index = _index(choice.get("index"), 0)
    for slot, value in _parts(choice):
        if isinstance(value, str):
            heard.add((index, *slot), value)
        elif value:
            heard.add((index, *slot, "values"), json.dumps(value) + "\n")
    if choice.get("finish_reason"):
        heard.ends.setdefault((index,), []).append(json.dumps(choice["finish_reason"]))


def _parts(choice: dict[str, Any]) -> Iterator[tuple[Slot, Any]]:
    if isinstance(choice.get("text"), str):
        yield ("", "text"), choice["text"]
    delta = choice.get("delta")
    for key, value in delta.items() if isinstance(delta, dict) else ():
        calls = _dicts(value)
        if key == "tool_calls":
            # What is in the list and is no object is no call.
            for place, call in enumerate(calls):
                at = _index(call.get("index"), place)
                for body in (inner for inner in call.values() if isinstance(inner, dict)):
                    yield from (((key, at, name), text) for name, text in _strings(body))
        elif key == "function_call" and isinstance(value, dict):
            yield from (((key, name), text) for name, text in _strings(value))
        elif key != "role":
            yield (key,), value


def _strings(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    return ((name, text) for name, text in body.items() if isinstance(text, str))


def _dicts(value: object) -> list[dict[str, Any]]:
    return [inner for inner in value if isinstance(inner, dict)] if isinstance(value, list) else []


def _index(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise
