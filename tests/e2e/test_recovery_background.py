"""Background responses over real sockets: re-attached wherever and however often they break."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio

from e2e.child import QUICK, Proxy, idle
from e2e.conftest import Starter
from e2e.retold import recoveries
from e2e.stage import CHUNKED, EVENT_STREAM, JSON, Exchange, Stage
from e2e.wire import PATHS, Reply, asking, call, check_complete, check_failed
from proxy.demo.answers import Asked
from proxy.demo.bodies import TEXT, json_for, payload_of, stream_for

ASKED = Asked("responses", "m")
EVENTS = stream_for(ASKED, 1).events
OPENERS = len(stream_for(ASKED, 1).opening)
IDENTITY = "resp_demo_a1"
PATH = f"/v1/responses/{IDENTITY}"


class Background:
    """The upstream's side of one background response, which runs on whoever listens.

    ``gives`` has how many events each stream gives before it is cut; later ones are whole. A
    re-attachment is refused with ``refused``, if that is set; a poll says that the response is
    ``status``.
    """

    def __init__(
        self, gives: Sequence[int] = (), *, refused: int = 0, status: str = "completed"
    ) -> None:
        """Take how it is to behave."""
        self._gives = list(gives)
        self._refused = refused
        self._status = status
        self.asked: list[str] = []
        self.bodies: list[bytes] = []

    async def play(self, exchange: Exchange) -> None:
        """Answer one request."""
        self.asked.append(f"{exchange.method} {exchange.target}")
        self.bodies.append(await exchange.body())
        query = parse_qs(urlsplit(exchange.target).query)
        if exchange.method == "GET" and "stream" not in query:
            found = {**json_for(ASKED, 1), "status": self._status}
            await _tell(exchange, 200, found)
        elif exchange.method == "GET" and self._refused:
            error = {"message": "No.", "type": "invalid_request_error", "code": None}
            await _tell(exchange, self._refused, {"error": {**error, "param": None}})
        else:
            await self._stream(exchange, int(query.get("starting_after", ["-1"])[0]) + 1)

    async def _stream(self, exchange: Exchange, first: int) -> None:
        count = self._gives.pop(0) if self._gives else len(EVENTS)
        await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
        for event in EVENTS[first : first + count]:
            await exchange.chunk(event)
        if first + count >= len(EVENTS):
            await exchange.chunk(b"")


async def _tell(exchange: Exchange, status: int, value: Any) -> None:
    body = json.dumps(value).encode()
    await exchange.answer(status, [JSON, ("Content-Length", str(len(body)))], body)


def after(number: int) -> str:
    """Return the request that re-attaches behind an event."""
    return f"GET {PATH}?stream=true&starting_after={number}"


async def ask(proxy: Proxy, stage: Stage, name: str, behind: Background, **fields: Any) -> Reply:
    """Create a background response and read its stream."""
    headers = [stage.plays(name, behind.play), ("Authorization", "Bearer sk-client")]
    body = asking("m", background=True, input="Q", **fields)
    return await call(proxy.port, PATHS["responses"], body, headers=headers)


@pytest_asyncio.fixture(loop_scope="session")
async def quick(started: Starter, stage: Stage) -> Proxy:
    """Return the proxy in front of the staged upstream, with short waits."""
    return await started(stage.base_url, *QUICK)


async def test_a_background_response_is_resumed_at_every_event_and_again(
    quick: Proxy, stage: Stage
) -> None:
    """Cut after every event and once more in the resumed stream: identical, event for event."""
    cases = [(at, more) for at in range(1, len(EVENTS)) for more in (0, 1, 4)]
    before = await idle(quick)

    async def one(at: int, more: int) -> int:
        behind = Background([at, more])
        got = await ask(quick, stage, f"resumed-{at}-{more}", behind)
        check_complete(got, "responses")
        assert got.body == b"".join(EVENTS)
        again = at + more < len(EVENTS)
        resumed = [after(at - 1), after(at + more - 1)][: 1 + again]
        assert behind.asked == ["POST /v1/responses", *resumed]
        assert behind.bodies[1:] == [b""] * len(resumed)
        return len(resumed)

    resumed = sum(await asyncio.gather(*(one(*case) for case in cases)))
    counted = (await idle(quick)).since(before)
    assert counted.streams == {("responses", "recovered"): len(cases)}
    assert sum(recoveries(counted).values()) == resumed
    assert {strategy for strategy, _ in recoveries(counted)} == {"resume"}


async def test_a_resumed_stream_carries_the_client_s_key_and_no_body(
    quick: Proxy, stage: Stage
) -> None:
    """What re-attaches is a GET with the same authorization, without type or length of a body."""
    await ask(quick, stage, "headers", Background([6]))
    first, second = stage.exchanges["headers"]
    assert second.headers("authorization") == first.headers("authorization") == ["Bearer sk-client"]
    assert second.headers("content-type") == []
    assert second.headers("content-length") in ([], ["0"])


@pytest.mark.parametrize("refused", [400, 404])
async def test_where_the_window_is_closed_one_poll_completes_the_answer(
    quick: Proxy, stage: Stage, refused: int
) -> None:
    """After each event: the re-attachment is refused, the state fetched once, the rest told."""

    async def one(at: int) -> None:
        behind = Background([at], refused=refused)
        got = await ask(quick, stage, f"poll-{refused}-{at}", behind)
        assert behind.asked == ["POST /v1/responses", after(at - 1), f"GET {PATH}"]
        check_complete(got, "responses")
        # Openers that nobody was given yet are told anew.
        assert at <= OPENERS or got.body.startswith(b"".join(EVENTS[:at]))
        _check_told(got)

    await asyncio.gather(*(one(at) for at in range(1, len(EVENTS))))


def _check_told(got: Reply) -> None:
    """Assert a whole response with the numbers in order and the ids of the first attempt."""
    events = [json.loads(data) for data in got.payloads]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert "".join(e["delta"] for e in events if e["type"].endswith(".delta")) == TEXT
    assert {event["response"]["id"] for event in events if "response" in event} == {IDENTITY}
    assert {event["item_id"] for event in events if "item_id" in event} == {"msg_demo_a1"}
    assert _milestones(got.payloads) == _milestones(payload_of(event)[1] for event in EVENTS)


def _milestones(payloads: Iterable[bytes]) -> list[str]:
    """Return the names of all events but deltas; a finished response is in progress no more."""
    names = [str(json.loads(data)["type"]) for data in payloads]
    return [n for n in names if not n.endswith((".delta", ".in_progress"))]


@pytest.mark.parametrize("status", ["in_progress", "failed"])
async def test_a_poll_that_finds_no_end_is_an_honest_error(
    quick: Proxy, stage: Stage, status: str
) -> None:
    """Still running, or failed at the upstream: told so, after exactly one poll."""
    behind = Background([6], refused=400, status=status)
    got = await ask(quick, stage, f"poll-{status}", behind)
    check_failed(got, "responses")
    assert json.loads(got.payloads[-1])["response"]["id"] == IDENTITY
    assert behind.asked.count(f"GET {PATH}") == 1


async def test_resuming_ends_where_max_attempts_says(quick: Proxy, stage: Stage) -> None:
    """Three streams cut in a row: the client has all that came, and one honest error."""
    behind = Background([5, 3, 2, 9])
    got = await ask(quick, stage, "resume-ends", behind)
    check_failed(got, "responses")
    assert behind.asked == ["POST /v1/responses", after(4), after(7)]
    assert got.body.startswith(b"".join(EVENTS[:10]))


async def test_a_stream_that_the_client_re_attached_itself_is_resumed(
    quick: Proxy, stage: Stage
) -> None:
    """A GET that breaks goes on behind the last number that was given."""
    behind = Background([3, 4])
    header = stage.plays("own-get", behind.play)
    target = f"{PATH}?stream=true&starting_after=4"
    got = await call(quick.port, target, method="GET", headers=[header])
    assert got.body == b"".join(EVENTS[5:])
    assert behind.asked == [after(4), after(7), after(11)]


async def test_what_is_retrieved_is_what_was_asked_for(quick: Proxy, stage: Stage) -> None:
    """``include`` and the padding go along in the query."""
    behind = Background([4])
    options = {"include_obfuscation": False}
    include = ["file_search_call.results"]
    await ask(quick, stage, "include", behind, include=include, stream_options=options)
    query = parse_qs(urlsplit(behind.asked[1].split(" ")[1]).query)
    assert query == {
        "stream": ["true"],
        "starting_after": ["3"],
        "include[]": include,
        "include_obfuscation": ["false"],
    }


async def test_a_response_that_names_itself_anew_is_not_joined(quick: Proxy, stage: Stage) -> None:
    """Events of another response behind the cut: none of them is given, the poll decides."""

    async def play(exchange: Exchange) -> None:
        behind.asked.append(f"{exchange.method} {exchange.target}")
        if exchange.method == "GET" and "stream" in exchange.target:
            other = stream_for(ASKED, 2).events
            await exchange.answer(200, [*EVENT_STREAM, *CHUNKED])
            with contextlib.suppress(ConnectionError):  # nobody need hear it to its end
                for event in [*other[5:], b""]:
                    await exchange.chunk(event)
            return
        behind.asked.pop()
        await behind.play(exchange)

    behind = Background([5])
    header = stage.plays("another", play)
    body = asking("m", background=True, input="Q")
    got = await call(quick.port, PATHS["responses"], body, headers=[header])
    assert behind.asked == ["POST /v1/responses", after(4), f"GET {PATH}"]
    check_complete(got, "responses")
    _check_told(got)
