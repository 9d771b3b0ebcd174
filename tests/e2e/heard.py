"""What an application has of a stream, so that nothing is lost but what borders may change.

Knows what of an event may differ between two tellings of one answer. Must not know the proxy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

Payload = dict[str, Any]

_TEXTS = {"content", "refusal", "arguments", "text"}
_OWN = {"sequence_number", "obfuscation"}
_NAMES = {"id", "item_id", "call_id"}
_LATE = {"usage", "moderation"}
"""What comes behind the last finish reason, and must not be invented where it is lost."""


def ids(value: Any) -> Iterator[str]:
    """Give every id that stands in a value."""
    if isinstance(value, list):
        for inner in value:
            yield from ids(inner)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from [inner] if key in _NAMES else ids(inner)


def renamed(found: Any, known: set[str], tag: str = "x") -> Any:
    """Give all but the known ids, of items that the first answer had not come to, the tag."""
    if isinstance(found, list):
        return [renamed(inner, known, tag) for inner in found]
    if not isinstance(found, dict):
        return found
    return {
        key: f"{v}{tag}" if key in _NAMES and v and v not in known else renamed(v, known, tag)
        for key, v in found.items()
    }


def heard(items: Iterable[Payload]) -> Any:
    """Add up what was read, so that only what borders may change is lost.

    Texts are joined; all else is listed as often as it came, but for the identity that stands on
    each chunk: of that the different values are listed.
    """
    found = list(items)
    return _events(found) if found and "sequence_number" in found[0] else _chunks(found)


def _chunks(items: list[Payload]) -> dict[str, Any]:
    texts: dict[str, str] = {}
    rest: dict[str, list[Any]] = {}
    for item in items:
        for path, value in _leaves(item):
            key = path.rpartition(".")[2]
            if key in _OWN or value is None:
                continue
            if key in _TEXTS:
                texts[path] = texts.get(path, "") + value
            elif "." in path or value not in rest.get(path, []):
                rest.setdefault(path, []).append(value)
    return {**{path: text for path, text in texts.items() if text}, **rest}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key != "index":
                yield from _leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            place = inner.get("index", at) if isinstance(inner, dict) else at
            yield from _leaves(inner, f"{path}[{place}]")
    else:
        yield path, value


def _events(items: list[Payload]) -> dict[str, Any]:
    texts: dict[str, str] = {}
    numbers = [item["sequence_number"] for item in items]
    for item in items:
        if "delta" in item:
            place = {key: item[key] for key in sorted(item) if key not in {*_OWN, "delta"}}
            place.pop("logprobs", None)
            texts[json.dumps(place)] = texts.get(json.dumps(place), "") + item["delta"]
    others = sorted_done([item for item in items if "delta" not in item])
    return {**texts, "others": others, "contiguous": numbers == list(range(len(numbers)))}


def sorted_done(events: Iterable[Payload]) -> list[str]:
    """Return events without what is theirs alone, in an order of their own."""
    plain = ({key: v for key, v in event.items() if key not in _OWN} for event in events)
    return sorted(json.dumps(event, sort_keys=True) for event in plain)


def landmarks(events: Iterable[Payload]) -> list[tuple[str, int]]:
    """Return the events that an item or a response has once, however it is told."""
    endings = ("item.added", "item.done", "text.done", "arguments.done", "response.completed")
    found = ((event["type"], event.get("output_index", -1)) for event in events)
    return sorted(place for place in found if place[0].endswith(endings))


def joined(items: Iterable[Payload]) -> dict[str, Any]:
    """Return the texts alone, of what was read."""
    return {key: text for key, text in heard(items).items() if isinstance(text, str)}


def without_late(found: Payload) -> Payload:
    """Leave out what is told behind the last finish reason."""
    return {
        key: v for key, v in found.items() if key.partition(".")[0].partition("[")[0] not in _LATE
    }
