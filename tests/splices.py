"""What the tests of splices share: small answers, the same ones told anew, and an SDK's ears.

Knows how answers are written and heard. Nothing here asks the core what is right.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from support import CLEAN, DONE, RESET, ask, bytewise, cut_randomly, whole_events

from proxy.core.budget import Breakers, RetryBudget
from proxy.core.commands import Finish, Open
from proxy.core.fault import AttemptEnd
from proxy.core.policy import Policy
from proxy.core.request import Request
from proxy.core.session import StreamSession

Payload = dict[str, Any]

ALWAYS = Policy(replay="always", backoff_base_s=0.0)
OPENERS = {"response.created", "response.queued", "response.in_progress", "keepalive"}
ENDINGS = {f"response.{end}" for end in ("completed", "incomplete", "failed", "cancelled")}
FEEDS: dict[str, Callable[[bytes], Iterable[bytes]]] = {
    "whole": lambda body: [body],
    "byte by byte": bytewise,
    "cut at random": lambda body: cut_randomly(body, seed=len(body), cuts=5),
}
"""The three ways in which every body is fed."""


# --- answers ---


def said(index: int = 0, finish: str | None = None, **delta: Any) -> Payload:
    """Make a chat chunk with an identity, of one choice; ``logprobs`` goes beside the delta."""
    beside = {"logprobs": delta.pop("logprobs")} if "logprobs" in delta else {}
    choice = {"index": index, "delta": delta, **beside, "finish_reason": finish}
    return {"id": "c1", "created": 1, "model": "m", "system_fingerprint": "f", "choices": [choice]}


def beside(**fields: Any) -> Payload:
    """Make a chat chunk without choices."""
    return {**said(), "choices": [], **fields}


def called(place: int, arguments: str, name: str = "") -> Payload:
    """Make a chat chunk with a fragment of a tool call, the first one if it has a name."""
    call: Payload = {"index": place, "function": {"arguments": arguments}}
    if name:
        call = {"index": place, "id": f"call_{place}", "type": "function"}
        call["function"] = {"name": name, "arguments": arguments}
    return said(tool_calls=[call])


def legacy(text: str, finish: str | None = None) -> Payload:
    """Make a chunk of a legacy completion."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    return {**said(), "choices": [choice]}


def weighed(text: str) -> Payload:
    """Make a chat chunk with the log probabilities of its one token."""
    return said(content=text, logprobs={"content": [{"token": text, "logprob": -1}]})


def message(place: int, *texts: str) -> list[Payload]:
    """Make the events of one message item."""
    text, item = "".join(texts), {"id": f"msg_{place}", "type": "message", "role": "assistant"}
    at = {"item_id": f"msg_{place}", "output_index": place, "content_index": 0}
    stem, part = "response.output_text", {"type": "output_text", "annotations": [], "text": text}
    empty, where = {**part, "text": ""}, {"output_index": place}
    opened = {**item, "status": "in_progress", "content": []}
    return [
        {"type": "response.output_item.added", **where, "item": opened},
        {"type": "response.content_part.added", **at, "part": empty},
        *({"type": f"{stem}.delta", **at, "delta": text, "logprobs": []} for text in texts),
        {"type": f"{stem}.done", **at, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": part},
        done_item(place, {**item, "status": "completed", "content": [part]}),
    ]


def function(place: int, *fragments: str) -> list[Payload]:
    """Make the events of one function call item."""
    arguments, at = "".join(fragments), {"item_id": f"fc_{place}", "output_index": place}
    item = {"id": f"fc_{place}", "type": "function_call", "call_id": f"call_{place}", "name": "go"}
    opened = {**item, "status": "in_progress", "arguments": ""}
    stem = "response.function_call_arguments"
    return [
        {"type": "response.output_item.added", "output_index": place, "item": opened},
        *({"type": f"{stem}.delta", **at, "delta": fragment} for fragment in fragments),
        {"type": f"{stem}.done", **at, "arguments": arguments},
        done_item(place, {**item, "status": "completed", "arguments": arguments}),
    ]


def done_item(place: int, item: Payload) -> Payload:
    """Make the event that ends an item."""
    return {"type": "response.output_item.done", "output_index": place, "item": item}


def response(*items: list[Payload], openers: Sequence[str] = ("created", "in_progress")) -> Any:
    """Make a whole Responses stream of items; ``keepalive`` among the openers is itself."""
    inner = {"id": "resp_1", "object": "response", "created_at": 7, "model": "m", "output": []}
    events: list[Payload] = [
        {"type": name}
        if name == "keepalive"
        else {"type": f"response.{name}", "response": {**inner, "status": "in_progress"}}
        for name in openers
    ]
    for item in items:
        events += item
    output = [item[-1]["item"] for item in items]
    whole = {**inner, "status": "completed", "output": output, "usage": {"total_tokens": 9}}
    return numbered([*events, {"type": "response.completed", "response": whole}])


def numbered(events: list[Payload]) -> list[Payload]:
    """Count events from 0."""
    return [{**event, "sequence_number": at} for at, event in enumerate(events)]


def encode(payloads: list[Payload]) -> bytes:
    """Write payloads as the endpoint's stream: chat with its end mark, Responses with names."""
    names = [f"event: {p['type']}\n" if "type" in p else "" for p in payloads]
    lines = [f"{name}data: {write(p)}\n\n" for name, p in zip(names, payloads, strict=True)]
    return "".join(lines).encode() + (b"" if "type" in payloads[0] else DONE)


def write(payload: Payload) -> str:
    """Write compact JSON as upstreams do, letters as they are."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Answer:
    """One whole answer, and the places in it that matter, as counts of events."""

    request: Request
    payloads: list[Payload]

    @cached_property
    def body(self) -> bytes:
        """The stream that gives it."""
        return encode(self.payloads)

    @cached_property
    def ends(self) -> list[int]:
        """Where each event ends, ``[DONE]`` included."""
        blocks = self.body.removesuffix(b"\n\n").split(b"\n\n")
        return [sum(len(b) + 2 for b in blocks[: at + 1]) for at in range(len(blocks))]

    @cached_property
    def content(self) -> int:
        """How many events come up to the first content."""
        return 1 + next(at for at, payload in enumerate(self.payloads) if _says(payload))

    @cached_property
    def finished(self) -> int:
        """How many events come until every choice is finished; of no use to Responses."""
        unfinished = set(range(self.request.choices))
        for at, payload in enumerate(self.payloads):
            unfinished -= {c["index"] for c in payload.get("choices", ()) if c["finish_reason"]}
            if not unfinished:
                return at + 1 if "choices" in payload else len(self.ends)
        return len(self.ends)

    def events(self, offset: int) -> int:
        """Count the events that are whole before an offset; of the last one a line end may lack."""
        whole = sum(end <= offset for end in self.ends)
        return len(self.ends) if offset >= self.ends[-1] - 2 else whole


def _says(payload: Payload) -> bool:
    if "type" in payload:
        return payload["type"] not in OPENERS
    choices = payload["choices"]
    return any(c.get("text") or any(_spoken(c.get("delta", {}))) for c in choices)


def _spoken(delta: Payload) -> list[Any]:
    return [value for key, value in delta.items() if key != "role" and value]


_ROLE = said(role="assistant", content="")
_STOP = said(finish="stop")
CHATS = {
    "text": [_ROLE, said(content="The fe"), said(content="rry 🛳\n"), said(content="at 8"), _STOP],
    "two choices": [
        _ROLE,
        said(1, role="assistant", content=""),
        said(content="North"),
        said(1, content="Sou"),
        said(1, content="th"),
        said(1, "stop"),
        said(content="."),
        said(finish="length"),
    ],
    "parallel tools": [
        said(role="assistant", content=None),
        called(0, "", "tide"),
        called(0, '{"a":'),
        called(0, '"ü"}'),
        called(1, '{"', "wind"),
        called(1, 'b":1}'),
        said(finish="tool_calls"),
    ],
    "refusal": [
        said(role="assistant", content=None, refusal=""),
        said(refusal="I can"),
        said(refusal="not."),
        _STOP,
    ],
    "reasoning": [
        said(role="assistant", content=None, reasoning_content=""),
        said(content=None, reasoning_content="Let me"),
        said(content=None, reasoning_content=" see"),
        said(content="Seven", reasoning_content=None),
        said(content=" bells"),
        _STOP,
    ],
    "legacy function": [
        said(role="assistant", content=None, function_call={"name": "go", "arguments": ""}),
        said(function_call={"arguments": '{"a"'}),
        said(function_call={"arguments": ":1}"}),
        said(finish="function_call"),
    ],
    "usage and moderation": [
        _ROLE,
        said(content="Aye"),
        said(content=", aye"),
        _STOP,
        beside(usage={"total_tokens": 14}),
        beside(moderation={"results": [{"flagged": False}]}),
    ],
    "log probabilities": [_ROLE, weighed("The"), weighed(" sea"), weighed("s"), _STOP],
}
SPOKEN = {
    "responses text": response(message(0, "Calm ", "seas 🐳", " now")),
    "responses function": response(function(0, '{"port"', ':"Kiel"}')),
    "responses items": response(message(0, "Hm", "m"), function(1, "{", "}")),
}
ANSWERS = {
    **{name: Answer(ask(n=2 if name == "two choices" else 1), CHATS[name]) for name in CHATS},
    "legacy completion": Answer(
        ask("completions"),
        [
            legacy("Once"),
            legacy(" upon"),
            legacy(" a"),
            legacy("", "length"),
            beside(usage={"x": 7}),
        ],
    ),
    **{name: Answer(ask("responses", store=False), SPOKEN[name]) for name in SPOKEN},
}
"""By name: every kind of stream that may be replayed."""


# --- the same answer, told anew ---


def again(answer: Answer, spelling: str = "letters", tag: str = "x") -> bytes:
    """Tell an answer with other borders of its deltas, and with other ids, times and models."""
    spelled: list[Payload] = _SPELLINGS[spelling](answer.payloads)
    if "type" in spelled[0]:
        spelled = numbered(spelled)
    return encode([renamed(payload, tag) for payload in spelled])


def renamed(value: Any, tag: str) -> Any:
    """Change every id, time, model and fingerprint."""
    if isinstance(value, list):
        return [renamed(inner, tag) for inner in value]
    return (
        {key: _named(key, v, tag) for key, v in value.items()} if isinstance(value, dict) else value
    )


def _named(key: str, value: Any, tag: str) -> Any:
    if key in {"id", "item_id", "call_id", "model", "system_fingerprint"} and value:
        return f"{value}{tag}"
    return value + len(tag) if key in {"created", "created_at"} else renamed(value, tag)


def _letters(payloads: list[Payload]) -> list[Payload]:
    return [letter for payload in payloads for letter in _spelled(payload)]


def _spelled(payload: Payload) -> list[Payload]:
    if "type" in payload:
        delta = payload.get("delta", "")
        return [{**payload, "delta": letter} for letter in delta] or [payload]
    if not payload["choices"]:
        return [payload]
    (choice,) = payload["choices"]
    if choice.get("text"):
        return [{**payload, "choices": [{**choice, "text": letter}]} for letter in choice["text"]]
    parts = list(_parts(choice.get("delta", {}))) or [{}]
    made = [{**choice, "delta": part} for part in parts]
    for one in made if choice.get("logprobs") else []:
        one["logprobs"] = {"content": [{"token": one["delta"]["content"], "logprob": -2}]}
    return [{**payload, "choices": [one]} for one in made]


def _parts(delta: Payload) -> Iterator[Payload]:
    for key, value in delta.items():
        if key == "role" or not value or "name" in value:
            yield {key: value}
        elif key == "function_call":
            yield from ({key: {"arguments": letter}} for letter in value["arguments"])
        elif key == "tool_calls":
            (call,) = value
            inner = call["function"]
            if "name" in inner:
                yield {key: [{**call, "function": {**inner, "arguments": ""}}]}
            for letter in inner["arguments"]:
                yield {key: [{"index": call["index"], "function": {"arguments": letter}}]}
        else:
            yield from ({key: letter} for letter in value)


def _lumps(payloads: list[Payload]) -> list[Payload]:
    """Put all of a choice, or of a part of an item, where it begins."""
    made: dict[object, Payload] = {}
    out: list[Payload] = []
    for payload in json.loads(json.dumps(payloads)):
        if "type" in payload:
            where = _place(payload) if "delta" in payload else None
        else:
            where = payload["choices"][0]["index"] if payload["choices"] else None
        if where is None or where not in made:
            out.append(payload)
            made[where] = payload
        elif "type" in payload:
            made[where]["delta"] += payload["delta"]
        else:
            _merge(made[where]["choices"][0], payload["choices"][0])
            if payload["choices"][0]["finish_reason"]:
                out.append({**payload, "choices": [{"index": where, "delta": {}, **_end(payload)}]})
    return out


def _end(payload: Payload) -> Payload:
    return {"finish_reason": payload["choices"][0]["finish_reason"]}


def _place(payload: Payload) -> tuple[Any, ...]:
    return (payload["output_index"], payload["type"], payload.get("content_index"))


def _merge(into: Payload, more: Payload) -> None:
    """Add up as SDKs do: strings and lists by appending, calls by their index."""
    for key, value in more.items():
        known = into.get(key)
        if key in {"index", "finish_reason"} or value is None:
            continue
        if key == "tool_calls" and known:
            for call in value:
                same = next((c for c in known if c["index"] == call["index"]), None)
                _merge(same, call) if same else known.append(call)
        elif isinstance(known, dict):
            _merge(known, value)
        else:
            into[key] = known + value if known else value


_SPELLINGS: dict[str, Callable[[list[Payload]], list[Payload]]] = {
    "letters": _letters,
    "lumps": _lumps,
    "same": lambda payloads: payloads,
}
SPELLINGS = tuple(_SPELLINGS)


# --- what an SDK hears ---


class Heard:
    """What an SDK has when it has read a stream; ``meaning`` leaves out what may be another's."""

    def __init__(self, out: bytes) -> None:
        """Read whole events."""
        self.texts: dict[tuple[Any, ...], str] = {}
        self.once: dict[tuple[Any, ...], list[Any]] = {}
        """What may stand once, or must not change: each value that was heard of it."""
        self.rest: list[Any] = []
        self.numbers: list[int] = []
        self.errors: list[Payload] = []
        self.done = 0
        for _, data in whole_events(out):
            if data == b"[DONE]":
                self.done += 1
            else:
                self._hear(json.loads(data))

    @property
    def meaning(self) -> tuple[dict[tuple[Any, ...], str], list[Any]]:
        """What was said, whoever said it, in whatever pieces."""
        return self.texts, self.rest

    def check(self) -> Heard:
        """Hold against the contract what must be one and the same, or stand once."""
        for what, values in self.once.items():
            one = len(values) == 1 if what[0] == "once" else len(set(values)) == 1
            assert one, f"{what}: {values}"
        assert self.numbers == list(range(len(self.numbers)))
        return self

    def _hear(self, found: Payload) -> None:
        if "error" in found:
            self.errors.append(found)
        if "sequence_number" in found:
            self.numbers.append(found["sequence_number"])
            self._event(found)
            return
        if "error" in found:
            return
        for key in ("id", "created", "model", "system_fingerprint"):
            self._same(("chat", key), found.get(key))
        for choice in found.get("choices", ()):
            self._choice(choice)
        self.rest += [(key, found[key]) for key in ("usage", "moderation") if found.get(key)]

    def _choice(self, choice: Payload) -> None:
        index, delta = choice["index"], choice.get("delta", {})
        self._add((index, "text"), choice.get("text"))
        for key, value in delta.items():
            if key == "role":
                self._once(("once", index, key), value)
            elif key == "tool_calls":
                for call in value:
                    self._call((index, call["index"]), call)
            elif key == "function_call":
                self._call((index, key), {"function": value})
            else:
                self._add((index, key), value)
        for entry in (choice.get("logprobs") or {}).get("content", ()):
            self._add((index, "logprobs"), entry["token"])
        if choice["finish_reason"]:
            self._add((index, "finish"), choice["finish_reason"])

    def _call(self, at: tuple[Any, ...], call: Payload) -> None:
        for key in ("id", "type"):
            if key in call:
                self._once(("once", *at, key), call[key])
        for key, value in call.get("function", {}).items():
            if key == "name":
                self._once(("once", *at, key), value)
            self._add((*at, key), value)

    def _event(self, found: Payload) -> None:
        name, place = found["type"], found.get("output_index")
        item, inner = found.get("item", {}), found.get("response")
        if inner is not None:
            for key in ("id", "created_at", "model"):
                self._same(("response", key), inner[key])
        if item or "item_id" in found:
            self._same(("item", place), item.get("id") or found["item_id"])
        if "call_id" in item:
            self._same(("call", place), item["call_id"])
        stem, _, last = name.rpartition(".")
        if last == "delta":
            self._add((place, stem), found["delta"])
        elif last == "done":
            self._is_whole(place, stem, found)
        if inner is not None and name in ENDINGS:
            output = [write(item) for item in inner["output"]]
            items = [self.once[what][0] for what in sorted(self.once) if what[0] == "done"]
            assert output == items or (not output and name == "response.failed")
        if last != "delta" and name != "error" and self.errors == []:
            self.rest.append(anonymous(found))

    def _is_whole(self, place: Any, stem: str, found: Payload) -> None:
        if stem == "response.output_item":
            self._once(("done", place), write(found["item"]))
        for key in ("text", "arguments"):
            if key in found:  # what ends a text repeats it whole
                assert found[key] == self.texts.get((place, stem), "")

    def _add(self, slot: tuple[Any, ...], text: str | None) -> None:
        if text:
            self.texts[slot] = self.texts.get(slot, "") + text

    def _same(self, what: tuple[Any, ...], value: Any) -> None:
        self.once.setdefault(what, []).append(value)

    _once = _same


def anonymous(value: Any) -> Any:
    """Take out ids, times, models and numbers."""
    own = {"id", "item_id", "call_id", "created_at", "model", "sequence_number", "obfuscation"}
    if isinstance(value, list):
        return [anonymous(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {key: anonymous(inner) for key, inner in value.items() if key not in own}


# --- a session, from its beginning to its end ---


@dataclass
class Run:
    """One stream that is over: what went to the client in each attempt, and what was decided."""

    session: StreamSession
    outs: list[bytes] = field(default_factory=list)
    opens: list[Open] = field(default_factory=list)
    finish: Finish = field(default_factory=Finish)

    @property
    def out(self) -> bytes:
        """All that the client has."""
        return b"".join(self.outs) + self.finish.body

    @property
    def heard(self) -> Heard:
        """The same as an SDK has it."""
        return Heard(self.out).check()

    @property
    def facts(self) -> list[tuple[str, str, str]]:
        """What was counted of each incident."""
        found = self.session.report().incidents
        return [(i.fault.value, i.phase.value, i.outcome.value) for i in found]

    @property
    def recoveries(self) -> list[tuple[str, str]]:
        """Which strategies were used, and how each of them turned out."""
        return list(self.session.report().recoveries)

    @property
    def outcome(self) -> str:
        """How the stream ended for the client."""
        return self.session.report().outcome.value


Attempt = tuple[bytes | None, AttemptEnd]
"""A body and its end; None is an answer with another status than 200."""


def run(
    request: Request,
    policy: Policy,
    *attempts: Attempt | bytes,
    feed: str = "whole",
    budget: RetryBudget | None = None,
    breakers: Breakers | None = None,
) -> Run:
    """Run a session over the attempts, which must be exactly as many as it asks for."""
    session = StreamSession(request, policy, budget or RetryBudget(0.2, math.inf), breakers)
    made = Run(session)
    session.begin(0.0)
    left = list(attempts)
    while True:
        one = left.pop(0)
        body, end = (one, CLEAN) if isinstance(one, bytes) else one
        if body is not None:
            session.receive_head()
        made.outs.append(b"".join(map(session.receive_data, FEEDS[feed](body or b""))))
        command = session.receive_end(end, 0.0)
        if isinstance(command, Finish):
            made.finish = command
            assert left == [], f"{len(left)} attempts were not asked for"
            return made
        made.outs[-1] += command.body
        made.opens.append(command)
        assert left, f"another attempt is asked for: {command}"


def broken(body: bytes, offset: int, end: AttemptEnd = RESET) -> Attempt:
    """Cut a body."""
    return body[:offset], end


# --- differences ---


def slots(payload: Payload) -> Iterator[tuple[tuple[Any, ...], Payload, str]]:
    """Find the texts in an event: the name of each, and where it stands."""
    if "delta" in payload:
        yield (_place(payload), payload, "delta")
    for choice in payload.get("choices", ()):
        for name, home in _homes(choice):
            for key, value in home.items():
                if isinstance(value, str) and value and key not in {"role", "finish_reason"}:
                    yield (choice["index"], *name, key), home, key


def _homes(choice: Payload) -> Iterator[tuple[tuple[Any, ...], Payload]]:
    delta = choice.get("delta", {})
    yield (), choice
    yield (), delta
    yield ("function",), delta.get("function_call", {})
    for call in delta.get("tool_calls", ()):
        yield ("call", call["index"]), call["function"]


def lengths(payloads: list[Payload]) -> dict[tuple[Any, ...], int]:
    """Count the characters of each text."""
    found: dict[tuple[Any, ...], int] = {}
    for payload in payloads:
        for slot, home, key in slots(payload):
            found[slot] = found.get(slot, 0) + len(home[key])
    return found


def twisted(answer: Answer, slot: tuple[Any, ...], at: int) -> Answer:
    """Change one character."""
    other: list[Payload] = json.loads(json.dumps(answer.payloads))
    for payload in other:
        for name, home, key in slots(payload):
            if name == slot and 0 <= at < len(home[key]):
                home[key] = f"{home[key][:at]}¤{home[key][at + 1 :]}"
            at -= len(home[key]) if name == slot else 0
    return Answer(answer.request, other)
