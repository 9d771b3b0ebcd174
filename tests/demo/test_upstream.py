"""The upstream itself: what it records, how it is scripted, when it sees a client leave."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from rawclient import PATHS, Client, connected, knock

from proxy.demo.answers import Answer, Asked, Pause, Raw, reply, sse
from proxy.demo.upstream import MisbehavingUpstream, asked_by
from proxy.demo.wire import Received

FOREVER = Pause(3600)


@pytest.fixture(name="upstream")
async def _upstream() -> AsyncIterator[MisbehavingUpstream]:
    async with MisbehavingUpstream() as upstream:
        yield upstream


@pytest.fixture(name="client")
async def _client(upstream: MisbehavingUpstream) -> AsyncIterator[Client]:
    async with connected(upstream) as client:
        yield client


async def test_a_request_is_recorded_as_it_came(
    upstream: MisbehavingUpstream, client: Client
) -> None:
    """Method, target, header names, order and repetitions, and the body, byte for byte."""
    body = b'{"model": "m",  "stream": true}'
    head = b"POST /v1/chat/completions?a=%2F HTTP/1.1\r\nHost: x\r\nX-B: 2\r\nx-a: 1\r\nX-B: 3\r\n"
    await client.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    await client.head()
    (request,) = upstream.requests
    assert (request.method, request.target) == ("POST", "/v1/chat/completions?a=%2F")
    assert request.headers[1:4] == (("X-B", "2"), ("x-a", "1"), ("X-B", "3"))
    assert request.header("X-A") == "1"
    assert request.header("absent") is None
    assert request.body == body
    assert (request.connection, request.attempt, request.model) == (1, 1, "m")


async def test_a_chunked_request_body_is_read(
    upstream: MisbehavingUpstream, client: Client
) -> None:
    """Chunks, a chunk extension and a trailer."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    await client.send(head + b'5\r\n{"mod\r\n9;x=y\r\nel":"abc"\r\n1\r\n}\r\n0\r\nT: 1\r\n\r\n')
    await client.head()
    assert upstream.requests[0].body == b'{"model":"abc"}'


async def test_a_client_that_waits_for_a_continue_gets_it(client: Client) -> None:
    """``Expect: 100-continue`` is answered before the body comes."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
    await client.send(head + b"Content-Length: 2\r\n\r\n")
    assert (await client.head())[0] == 100
    await client.send(b"{}")
    assert (await client.head())[0] == 200


async def test_requests_sent_at_once_are_answered_in_order(client: Client) -> None:
    """Pipelining works, and a connection that ended cleanly is used again."""
    await client.post("one", stream=False)
    await client.post("two", stream=False)
    assert [(await client.json())["model"] for _ in range(2)] == ["one", "two"]


async def test_a_get_names_its_model_in_the_query(
    upstream: MisbehavingUpstream, client: Client
) -> None:
    """Without a body the query says which scenario is meant, and that a stream is wanted."""
    upstream.script("m", sse(b"data: 1\n\n"))
    await client.send(b"GET /v1/responses/resp_1?stream=true&model=m HTTP/1.1\r\nHost: x\r\n\r\n")
    await client.head()
    assert await client.chunks() == [b"data: 1\n\n"]


async def test_models_lists_the_scenarios(client: Client) -> None:
    """``GET /v1/models`` answers JSON."""
    await client.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
    found = json.dumps(await client.json())
    assert '"ws-ok"' in found
    assert '"ws-cut-mid-event"' in found


async def test_head_has_the_length_but_no_body(client: Client) -> None:
    """What follows the head on the wire is the next answer."""
    await client.send(b"HEAD /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
    status, headers = await client.head()
    assert (status, int(headers["content-length"]) > 0) == (200, True)
    await client.post("m", stream=False)
    assert (await client.head())[0] == 200


async def test_an_unknown_path_is_not_found(client: Client) -> None:
    """In OpenAI's error shape."""
    await client.send(b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await client.head())[0] == 404


@pytest.mark.parametrize(
    "door", ["chat_completions", "completions", "responses", "threads", "agents"]
)
async def test_each_attempt_has_an_identity_of_its_own(client: Client, door: str) -> None:
    """The number of the attempt is in the ids, streamed or not."""
    for attempt in (1, 2):
        await client.post("m", door)
        await client.head()
        assert f"demo-a{attempt}".replace("-", "_") in str(await client.chunks()).replace("-", "_")
    await client.post("m", door, stream=False)
    assert str((await client.json())["id"]).endswith("a3")


@pytest.mark.parametrize("endpoint", ["chat_completions", "completions"])
async def test_token_counts_come_where_they_were_asked_for(client: Client, endpoint: str) -> None:
    """The usage chunk is the last event but ``[DONE]``."""
    await client.post("m", endpoint, stream_options={"include_usage": True})
    await client.head()
    *_, usage, done = await client.chunks()
    assert b'"choices":[],"usage":{"prompt_tokens":9' in usage
    assert done == b"data: [DONE]\n\n"


async def test_a_script_of_several_answers_gives_one_an_attempt(
    upstream: MisbehavingUpstream, client: Client
) -> None:
    """The last answer repeats; ``rewind`` starts again."""
    upstream.script("m", [reply(500, 1), reply(200, 2)])
    codes = []
    for _ in range(3):
        await client.post("m")
        codes.append((await client.head())[0])
        await client.reader.readexactly(1)
    upstream.rewind()
    await client.post("m")
    codes.append((await client.head())[0])
    assert codes == [500, 200, 200, 500]
    assert [request.attempt for request in upstream.requests] == [1, 2, 3, 1]


async def test_a_script_may_be_a_function_of_what_was_asked(
    upstream: MisbehavingUpstream, client: Client
) -> None:
    """It is told the endpoint, the options, whether the connection is reused, the attempt."""
    asked: list[tuple[Asked, int]] = []

    def answer(facts: Asked, attempt: int) -> Answer:
        asked.append((facts, attempt))
        return Answer(status=204, framing="length")

    upstream.script("m", answer)
    await client.post("m", "responses")
    await client.head()
    await client.post("m", stream=False, stream_options={"include_usage": True})
    assert (await client.head())[0] == 204
    first = knock("responses", "m")
    second = replace(knock("chat_completions", "m", reused=True), stream=False, usage=True)
    assert asked == [(first, 1), (second, 2)]


@pytest.mark.parametrize(
    ("target", "endpoint"),
    [
        ("/v1/chat/completions", "chat_completions"),
        ("/any/prefix/completions/", "completions"),
        ("/v1/responses/resp_1", "responses"),
        ("/v1/images/generations", "images"),
        ("/v1/images/edits", "images"),
        ("/v1/images/variations", "other"),
        ("/v1/audio/transcriptions", "audio"),
        ("/v1/audio/speech", "audio"),
        ("/v1/audio/translations", "other"),
        ("/v1/threads/runs", "threads"),
        ("/v1/threads/t_1/runs", "threads"),
        ("/v1/threads/t_1/runs/r_1/submit_tool_outputs", "threads"),
        ("/v1/threads/t_1/messages", "other"),
        ("/v1/agents/sessions", "agents"),
        ("/v1/agents/sessions/s_1/events", "agents"),
        ("/v1/models", "models"),
        ("/v1/embeddings", "other"),
    ],
)
def test_an_endpoint_is_known_by_the_end_of_its_path(target: str, endpoint: str) -> None:
    """Whatever the base URL was."""
    asked = asked_by(Received("POST", target, (), b"{}"))
    assert asked.endpoint == endpoint
    assert asked.path == target.rstrip("/")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"n": 3}, {"count": 3}),
        ({"n": 1000}, {"count": 10}),
        ({"n": None}, {"count": 1}),
        ({"n": -2}, {"count": 1}),
        ({"messages": [{"role": "user"}, {"role": "assistant"}]}, {"prefilled": True}),
        ({"messages": [{"role": "assistant"}, {"role": "user"}]}, {"prefilled": False}),
        ({"messages": []}, {"prefilled": False}),
        ({"background": True}, {"background": True}),
    ],
)
def test_what_an_answer_depends_on_is_understood(
    fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    """And what is not understood is as if it had not been said."""
    body = json.dumps({"model": "m", "stream": True, **fields}).encode()
    asked = asked_by(Received("POST", PATHS["chat_completions"], (), body))
    assert asked == replace(knock("chat_completions", "m"), **expected)


async def test_status_zero_puts_the_pieces_on_the_wire_alone(
    upstream: MisbehavingUpstream, client: Client
) -> None:
    """So any head can be made, a broken one as well."""
    upstream.script("m", Answer(status=0, pieces=(b"HTTP/1.1 what\r\n", Raw(b"\r\n")), end="fin"))
    await client.post("m")
    assert await client.rest() == (b"HTTP/1.1 what\r\n\r\n", "fin")


async def test_a_content_length_may_promise_more_than_comes(
    upstream: MisbehavingUpstream, client: Client
) -> None:
    """The head tells ``length``, the body stops before it."""
    upstream.script("m", Answer(framing="length", length=99, pieces=(b"data: 1\n\n",), end="fin"))
    await client.post("m")
    assert (await client.head())[1]["content-length"] == "99"
    assert await client.rest() == (b"data: 1\n\n", "fin")


async def test_a_connection_that_says_close_is_closed(
    upstream: MisbehavingUpstream, client: Client
) -> None:
    """After a proper end of the body."""
    upstream.script("m", Answer(headers=(("Connection", "close"),), pieces=(b"x",)))
    await client.post("m")
    await client.head()
    assert await client.rest() == (b"1\r\nx\r\n0\r\n\r\n", "fin")


@pytest.mark.parametrize("pieces", [(FOREVER,), (b"data: 1\n\n", FOREVER), (b"x" * 2**24,)])
async def test_a_client_that_leaves_is_seen_at_once(
    upstream: MisbehavingUpstream, client: Client, pieces: tuple[bytes | Pause, ...]
) -> None:
    """In the middle of a silence, and of a write that the client does not read."""
    upstream.script("m", sse(*pieces))
    await client.post("m")
    await client.head()
    assert upstream.open_connections == 1
    await client.leave()
    closed_at = await upstream.wait_closed(1)
    assert upstream.open_connections == 0
    assert upstream.connections[0].closed_by_peer
    assert closed_at >= upstream.requests[0].at


@pytest.mark.parametrize("end", ["fin", "reset"])
async def test_a_connection_ended_here_is_not_said_to_be_left(
    upstream: MisbehavingUpstream, client: Client, end: str
) -> None:
    """``closed_by_peer`` tells who was first."""
    upstream.script("m", sse(end="fin" if end == "fin" else "reset"))
    await client.post("m")
    await client.head()
    assert await client.rest() == (b"", end)
    await upstream.wait_closed(1)
    assert not upstream.connections[0].closed_by_peer


async def test_requests_can_be_waited_for(upstream: MisbehavingUpstream, client: Client) -> None:
    """Also where nothing is ever answered."""
    upstream.script("m", Answer(status=0, end="hold"))
    await client.post("m")
    await upstream.wait_requests(1)
    assert upstream.requests[0].model == "m"


async def test_what_is_no_request_ends_its_connection(
    upstream: MisbehavingUpstream, client: Client
) -> None:
    """And is not recorded."""
    await client.send(b"nonsense\r\n\r\n")
    assert await client.rest() == (b"", "fin")
    assert not upstream.requests


async def test_leaving_the_upstream_closes_what_is_open() -> None:
    """No connection outlives it, whatever it was doing."""
    async with contextlib.AsyncExitStack() as stack:
        async with MisbehavingUpstream() as upstream:
            upstream.script("m", sse(end="hold"))
            client = await stack.enter_async_context(connected(upstream))
            await client.post("m")
            await client.head()
        assert upstream.open_connections == 0
        assert (await client.rest())[0] == b""
        assert not upstream.connections[0].closed_by_peer
