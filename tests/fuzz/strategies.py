"""Hypothesis: streams broken in the ways that streams break, and plain bytes.

Knows how a stream is taken apart and put together wrongly. Must not know what should come of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from splices import ANSWERS, again
from support import RECORDED, STREAMS

from fuzz import words
from fuzz.cases import KNOBS, SEPARATOR
from fuzz.seeds import SEEDS, shapes_of

_LONGEST = 16_000
"""A longer recorded stream says nothing more in this, and takes its time."""

_WHOLE = {
    **STREAMS,
    **{
        path.stem: path.read_bytes()
        for path in sorted(RECORDED.glob("*.sse"))
        if path.stat().st_size <= _LONGEST
    },
}
_FAMILIES = {"compat": "chat", "assistants": "threads", "completions": "chat"}

Blocks = list[bytes]
Draw = Callable[[st.SearchStrategy[Any]], Any]

knobs = st.lists(
    st.sampled_from((0, 0, 0, 1, 2)) | st.integers(0, 255), min_size=KNOBS, max_size=KNOBS
).map(bytes)
"""Choices, most of them the plain ones."""


def _place(draw: Draw, blocks: Blocks) -> int:
    place: int = draw(st.integers(0, max(0, len(blocks) - 1)))
    return place


def _cut(draw: Draw, blocks: Blocks) -> Blocks:
    at = _place(draw, blocks)
    return [*blocks[:at], blocks[at][: draw(st.integers(0, len(blocks[at])))]]


def _twice(draw: Draw, blocks: Blocks) -> Blocks:
    at, to = _place(draw, blocks), _place(draw, blocks)
    return [*blocks[:to], blocks[at], *blocks[to:]]


def _drop(draw: Draw, blocks: Blocks) -> Blocks:
    at = _place(draw, blocks)
    return [*blocks[:at], *blocks[at + 1 :]] or [b""]


def _swap(draw: Draw, blocks: Blocks) -> Blocks:
    blocks, at, to = [*blocks], _place(draw, blocks), _place(draw, blocks)
    blocks[at], blocks[to] = blocks[to], blocks[at]
    return blocks


def _insert(draw: Draw, blocks: Blocks) -> Blocks:
    at = _place(draw, blocks)
    to, word = draw(st.integers(0, len(blocks[at]))), draw(st.sampled_from(words.STREAMS))
    return [*blocks[:at], blocks[at][:to] + word + blocks[at][to:], *blocks[at + 1 :]]


def _lose(draw: Draw, blocks: Blocks) -> Blocks:
    at = _place(draw, blocks)
    start = draw(st.integers(0, len(blocks[at])))
    end = start + draw(st.integers(1, 20))
    return [*blocks[:at], blocks[at][:start] + blocks[at][end:], *blocks[at + 1 :]]


def _join(draw: Draw, blocks: Blocks) -> Blocks:
    at = _place(draw, blocks)
    joint = draw(st.sampled_from((b"", b"\n", b"\r\n\r\n", b"\n\n\n")))
    return [*blocks[:at], joint.join(blocks[at : at + 2]), *blocks[at + 2 :]]


def _odd(draw: Draw, blocks: Blocks) -> Blocks:
    """Put another value in some place of an event's JSON."""
    at = _place(draw, blocks)
    head, data, text = blocks[at].partition(b"data: ")
    try:
        found = json.loads(text)
    except ValueError:
        return blocks
    homes = list(_homes(found))
    if homes:
        home, key = draw(st.sampled_from(homes))
        home[key] = draw(st.sampled_from(words.ODD))
    block = head + data + json.dumps(found, separators=(",", ":")).encode()
    return [*blocks[:at], block, *blocks[at + 1 :]]


def _homes(value: Any) -> list[tuple[Any, Any]]:
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        pairs = [(value, key) for key in value]
    elif isinstance(value, list):
        pairs = [(value, place) for place in range(len(value))]
    return [*pairs, *(found for home, key in pairs for found in _homes(home[key]))]


_CHANGES = (_cut, _twice, _drop, _swap, _insert, _lose, _join, _odd, _odd, _odd, _insert)


@st.composite
def broken(draw: Draw, body: bytes, most: int = 4) -> bytes:
    """Return a stream after a few changes."""
    blocks = body.split(b"\n\n")
    for change in draw(st.lists(st.sampled_from(_CHANGES), max_size=most)):
        blocks = change(draw, blocks)
    return b"\n\n".join(blocks)


@st.composite
def streams(draw: Draw) -> bytes:
    """Return a case of ``stream``: mostly an answer to the right kind of request."""
    name = draw(st.sampled_from(sorted(_WHOLE)))
    head: bytes = draw(knobs)
    family = name.partition("-")[0]
    shapes = shapes_of(_FAMILIES.get(family, family))
    shape = draw(st.sampled_from(shapes) | st.integers(0, 255))
    count = draw(st.integers(1, 3))
    bodies = [draw(broken(_WHOLE[name])) for _ in range(count)]
    return bytes([shape]) + head[1:] + SEPARATOR.join(bodies)


@st.composite
def joined(draw: Draw) -> bytes:
    """Return a case of ``joining``: an answer cut, and the same one told anew, or nearly."""
    name = draw(st.sampled_from(sorted(ANSWERS)))
    answer = ANSWERS[name]
    head: bytes = draw(knobs)
    shape = {"responses": 3, "legacy": 2 if "completion" in name else 0, "two": 1}
    spelling = draw(st.sampled_from(("same", "lumps", "letters")))
    second = answer.body if spelling == "same" else again(answer, spelling)
    first = draw(broken(answer.body, 2))
    first = first[: draw(st.integers(0, len(first)))]
    bodies = SEPARATOR.join([first, draw(broken(second, 3))])
    return bytes([shape.get(name.partition(" ")[0], 0)]) + head[1:] + bodies


def spoken(target: str) -> st.SearchStrategy[bytes]:
    """Return cases made of a property's words, of its seeds, and of plain bytes."""
    word = st.sampled_from(words.OF[target])
    bodies = st.lists(word | st.binary(max_size=3), max_size=14).map(b"".join)
    plain = st.tuples(knobs, bodies | st.binary(max_size=60)).map(b"".join)
    return plain | _changed(target)


@st.composite
def _changed(draw: Draw, target: str) -> bytes:
    """Return a seed with a few words put in, and a few bytes lost."""
    seed: bytes = draw(st.sampled_from(_SEEDS[target]))
    for word in draw(st.lists(st.sampled_from(words.OF[target]), max_size=3)):
        at, lost = draw(st.integers(0, len(seed))), draw(st.integers(0, 9))
        seed = seed[:at] + word + seed[at + lost :]
    return seed


_SEEDS = {target: list(made()) for target, made in SEEDS.items()}
