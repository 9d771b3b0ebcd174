"""Repairs that have to be asked for: whole JSON in a shape that some clients cannot bear.

Each is turned on by a quirk of the upstream, since the data is written anew and what it says is
no fault by itself. To add one: a class with ``take``, which changes a chunk in place and says
whether it did, and a line in ``shaper_for``. Must not know sockets, or what other clients bear.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Protocol

from proxy.core.errors import dumps
from proxy.core.grammars import Grammar
from proxy.core.grammars.base import dicts
from proxy.core.grammars.chat import ChatGrammar
from proxy.core.grammars.chat_seam import choices_of, index_of
from proxy.core.grammars.seam import finite
from proxy.core.sse import Event

_OF_ALL = ("id", "created", "model")

_OF_A_CALL = 500
"""What remembering a call costs beside its arguments, in bytes."""

_SIGNS = re.compile(r'\\.?|["{}\[\]]', re.DOTALL)
_LONGEST_WORD = len("-Infinity")
"""A value without brackets or quotes that has not become one by then never does."""


class Shape(Protocol):
    """One repair of a whole chunk, for all chunks of one attempt."""

    repair: str

    def take(self, chunk: dict[str, Any]) -> bool:
        """Change a chunk in place; say whether there was anything to change."""


class Shaper:
    """Asks its shapes of every event; an event that none changes keeps its bytes."""

    def __init__(
        self, shapes: list[Shape], count: Callable[[str], None], *, null: bool, drops: bool
    ) -> None:
        """Take what is turned on; ``count`` is told the name of each repair.

        ``null`` is for numbers that are none, ``drops`` for chunks without a choice.
        """
        self._shapes = shapes
        self._count = count
        self._null = null
        self._drops = drops

    def take(self, event: Event) -> Event | None:
        """Return the event as it is to be read, or None if it is to be left out."""
        try:
            return self._take(event)
        except (ValueError, RecursionError):
            return event  # no JSON, or too deep to be written again

    def _take(self, event: Event) -> Event | None:
        numbers = _Numbers(null=self._null)
        found = json.loads(event.data.decode(), parse_float=finite, parse_constant=numbers.read)
        if not isinstance(found, dict):
            return event
        if self._drops and _is_empty(found):
            self._count("dropped_empty_choices")
            return None
        # An event of another language is no chunk of which something is missing.
        foreign = event.name and "choices" not in found
        changed = [shape.repair for shape in self._shapes if not foreign and shape.take(found)]
        changed += ["nan_to_null"] if numbers.nulled else []
        shaped = Event(event.name, dumps(found)) if changed else event
        for repair in changed:
            self._count(repair)
        return shaped


class _Numbers:
    """Reads what JSON has no number for, and Python writes (infiniflow/ragflow#15266)."""

    def __init__(self, *, null: bool) -> None:
        self._null = null
        self.nulled = False

    def read(self, name: str) -> float | None:
        if not self._null:
            return float(name)
        self.nulled = True
        return None


def shaper_for(grammar: Grammar, cap: int, count: Callable[[str], None]) -> Shaper | None:
    """Return the repairs that the quirks of an upstream ask for, or None.

    ``cap`` bounds in bytes what is remembered of a stream.
    """
    quirks = grammar.quirks
    chat = isinstance(grammar, ChatGrammar)
    shapes: list[Shape] = []
    if chat and quirks.fill_fields:
        shapes.append(_Filled(grammar))
    if chat and quirks.tool_arguments == "length":
        shapes.append(_Shortened(cap))
    null, drops = quirks.nan == "null", chat and quirks.empty_choices == "drop"
    wanted = shapes or null or drops
    return Shaper(shapes, count, null=null, drops=drops) if wanted else None


def _is_empty(chunk: dict[str, Any]) -> bool:
    """Say whether a chunk has no choice and nothing in their place that somebody waits for."""
    return chunk.get("choices") == [] and not chunk.get("usage") and not chunk.get("error")


class _Filled:
    """Fills in what strict clients insist on (open-webui/open-webui#27195, openai-python#2806)."""

    repair = "filled_fields"

    def __init__(self, grammar: Grammar) -> None:
        self._known: dict[str, Any] = {}
        self._asked = {"model": grammar.request.model}
        self._legacy = grammar.request.is_legacy
        self._object = "text_completion" if self._legacy else "chat.completion.chunk"

    def take(self, chunk: dict[str, Any]) -> bool:
        if chunk.get("error"):
            return False
        before = dumps(chunk)
        for key in _OF_ALL:
            if chunk.get(key):
                self._known.setdefault(key, chunk[key])
            elif known := self._known.get(key) or self._asked.get(key):
                chunk[key] = known
        if not chunk.get("object"):
            chunk["object"] = self._object
        if not isinstance(chunk.get("choices"), list):
            chunk["choices"] = []
        for place, choice in enumerate(choices_of(chunk)):
            self._fill(choice, place)
        return dumps(chunk) != before

    def _fill(self, choice: dict[str, Any], place: int) -> None:
        if not isinstance(choice.get("index"), int):
            choice["index"] = place
        choice.setdefault("finish_reason", None)
        if self._legacy:
            choice["text"] = choice.get("text") or ""
            return
        if not isinstance(choice.get("delta"), dict):
            choice["delta"] = {}
        for at, call in enumerate(dicts(choice["delta"].get("tool_calls"))):
            _fill_call(call, at)


def _fill_call(call: dict[str, Any], place: int) -> None:
    if not isinstance(call.get("index"), int):
        call["index"] = place
    if call.get("id") and not call.get("type"):
        call["type"] = "function"
    if not isinstance(call.get("function"), dict):
        call["function"] = {}
    if not isinstance(call["function"].get("arguments"), str):
        call["function"]["arguments"] = ""


class _Shortened:
    """Says ``length`` of a call whose arguments stop short (vllm-project/vllm#53739).

    Otherwise an application would run, or mend and run, half of what the model wanted to say.
    """

    repair = "rewrote_finish_reason"

    def __init__(self, cap: int) -> None:
        self._left = cap
        self._calls: dict[tuple[int, int], _Arguments] = {}
        self._short: dict[int, set[int]] = {}
        """The calls that stop short as far as they came, by choice."""

    def take(self, chunk: dict[str, Any]) -> bool:
        changed = False
        for choice in choices_of(chunk):
            self._gather(choice)
            # What is longer than may be remembered was not remembered whole, and is believed.
            short = self._left >= 0 and bool(self._short.get(index_of(choice)))
            if choice.get("finish_reason") == "tool_calls" and short:
                choice["finish_reason"] = "length"
                changed = True
        return changed

    def _gather(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        for place, call in enumerate(dicts(delta.get("tool_calls"))):
            function, index = call.get("function"), call.get("index")
            text = function.get("arguments") if isinstance(function, dict) else None
            if isinstance(text, str) and self._left >= 0:
                self._add(index_of(choice), index if isinstance(index, int) else place, text)

    def _add(self, choice: int, at: int, text: str) -> None:
        if (choice, at) not in self._calls:
            self._calls[choice, at] = _Arguments()
            self._left -= _OF_A_CALL
        call = self._calls[choice, at]
        self._left -= len(text)
        call.add(text)
        short = self._short.setdefault(choice, set())
        (short.add if call.short else short.discard)(at)


class _Arguments:
    """The arguments of one call, judged once: where their first value ends, if it does.

    Each character is looked at once: some servers give a finish reason in every chunk.
    """

    def __init__(self) -> None:
        self.short = False
        """Whether a value began and is not whole."""
        self.parts: list[str] = []
        self._judged = False
        self._depth = 0
        self._quoted = False
        self._carry = ""

    def add(self, text: str) -> None:
        """Take the next piece of the text."""
        if not self.parts:
            text = text.lstrip()
        if not text or self._judged:
            return
        self.parts.append(text)
        if self.parts[0][0] in '{["':
            self.short = True
            self._follow(text)
        else:
            self._judge()
            if sum(map(len, self.parts)) > _LONGEST_WORD:
                self._judged = True

    def _follow(self, text: str) -> None:
        """Look for the end of the first value, bracket by bracket."""
        signs, self._carry = _SIGNS.finditer(self._carry + text), ""
        for found in signs:
            sign = found[0]
            if sign[0] == "\\":
                self._carry = sign if len(sign) == 1 else ""  # what it escapes comes later
                continue
            if sign == '"':
                self._quoted = not self._quoted
            elif not self._quoted:
                self._depth += 1 if sign in "{[" else -1
            if not self._quoted and self._depth <= 0:
                self._judge()
                self._judged = True  # what follows changes nothing
                return

    def _judge(self) -> None:
        self.short = _breaks_off("".join(self.parts))
        self._judged = not self.short


def _breaks_off(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        # Calls without an index of their own add up to several values, all of them whole.
        return error.msg != "Extra data"
    except (ValueError, RecursionError):
        pass  # what cannot be read is believed
    return False
