"""The healthy bodies: each is what its endpoint's specification and OpenAI's SDK say it is."""

from __future__ import annotations

import base64
import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from openai.types import ImageEditStreamEvent, ImageGenStreamEvent, ImagesResponse
from openai.types.audio import Transcription, TranscriptionStreamEvent
from openai.types.beta import AgentSession, AgentSessionEvent, AssistantStreamEvent
from openai.types.beta.threads import Run
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.completion import Completion
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from rawclient import PATHS, Client, connected, knock

from proxy.demo.answers import Asked, sse
from proxy.demo.bodies import TEXT, error_event, json_for, stream_for, words
from proxy.demo.bodies_media import PARTIALS, images, text_of
from proxy.demo.shapes import Stream, payload_of
from proxy.demo.upstream import MisbehavingUpstream

TYPES: dict[str, Any] = {
    "chat_completions": ChatCompletionChunk,
    "responses": ResponseStreamEvent,
    "images": ImageGenStreamEvent,
    "edits": ImageEditStreamEvent,
    "audio": TranscriptionStreamEvent,
    "threads": AssistantStreamEvent,
    "agents": AgentSessionEvent,
}
"""What the SDK takes events for. It has no types for those of completions and of speech."""

DOCUMENTS: dict[str, Any] = {
    "chat_completions": ChatCompletion,
    "completions": Completion,
    "responses": Response,
    "images": ImagesResponse,
    "edits": ImagesResponse,
    "audio": Transcription,
    "threads": Run,
    "agents": AgentSession,
}

Told = list[tuple[str, Any]]


def told(stream: Stream) -> Told:
    """Return the name and the JSON of each event; the end mark as it is."""
    found = []
    for event in stream.events:
        head, payload = payload_of(event)
        assert event == head + payload + b"\n\n"
        name = head.removesuffix(b"data: ").removeprefix(b"event: ").decode().strip()
        found.append((name, "[DONE]" if payload == b"[DONE]" else json.loads(payload)))
    return found


def types_of(found: Told) -> list[str]:
    """Return what the events call themselves, repetitions left out."""
    called = [name if name.startswith("thread") else data["type"] for name, data in found]
    return [name for name, before in zip(called, ["", *called], strict=False) if name != before]


def check(kind: Any, value: object) -> None:
    """Check a value against a type of the SDK's."""
    TypeAdapter(kind).validate_python(value)


# --- streams --------------------------------------------------------------------------------


@pytest.mark.parametrize("door", TYPES)
def test_every_event_is_one_that_the_sdk_knows(door: str) -> None:
    """Required fields, their types and the names of events, but for the end mark."""
    for name, data in told(stream_for(knock(door, "m"), 1)):
        if data != "[DONE]":
            check(TYPES[door], {"event": name, "data": data} if door == "threads" else data)


@pytest.mark.parametrize("door", PATHS)
def test_events_have_names_where_they_should(door: str) -> None:
    """On responses and images the type, on threads what is in them, elsewhere none."""
    named = {"responses", "images", "edits"}
    for name, data in told(stream_for(knock(door, "m"), 1)):
        if door in named:
            assert name == data["type"]
        elif door == "threads":
            assert name == "done" or name.startswith(data["object"].removesuffix(".delta"))
        else:
            assert not name


@pytest.mark.parametrize(
    ("door", "kind"), [("images", "image_generation"), ("edits", "image_edit")]
)
def test_images_come_after_unfinished_ones(door: str, kind: str) -> None:
    """Partial images are numbered, the last one counts tokens, and there is no end mark."""
    found = told(stream_for(knock(door, "m"), 1))
    assert [name for name, _ in found] == [
        *[f"{kind}.partial_image"] * PARTIALS,
        f"{kind}.completed",
    ]
    assert [data["partial_image_index"] for _, data in found[:-1]] == list(range(PARTIALS))
    seen = [text_of(data["b64_json"]) for _, data in found]
    assert seen[-1] == TEXT
    assert all(len(less) < len(more) for less, more in itertools.pairwise(seen))
    assert all(TEXT.startswith(part) for part in seen)
    assert found[-1][1]["usage"]["total_tokens"] > 0


def test_as_many_images_are_completed_as_were_asked_for() -> None:
    """In a stream and in a document."""
    asked = replace(knock("images", "m"), count=3)
    assert [name for name, _ in told(stream_for(asked, 1))][-4:] == [
        "image_generation.partial_image",
        *["image_generation.completed"] * 3,
    ]
    assert len(json_for(asked, 1)["data"]) == 3


@pytest.mark.parametrize("size", [0, 6 * 2**20])
def test_images_are_as_large_as_a_test_wants(size: int) -> None:
    """In base64, which makes four bytes of three: 8 MiB here. The text in them is the same."""
    for _, data in told(images(knock("images", "m"), 1, size=size)):
        assert len(data["b64_json"]) >= size * 4 // 3
        assert TEXT.startswith(text_of(data["b64_json"]))


def test_a_transcription_is_told_word_by_word_and_once_whole() -> None:
    """Deltas, then the text, and nothing after that."""
    found = told(stream_for(knock("audio", "m"), 1))
    assert types_of(found) == ["transcript.text.delta", "transcript.text.done"]
    assert "".join(data["delta"] for _, data in found[:-1]) == found[-1][1]["text"] == TEXT


def test_speech_is_audio_in_base64_and_a_count() -> None:
    """Deltas, then the usage, and nothing after that."""
    found = told(stream_for(knock("speech", "m"), 1))
    assert types_of(found) == ["speech.audio.delta", "speech.audio.done"]
    assert b"".join(base64.b64decode(data["audio"]) for _, data in found[:-1]) == TEXT.encode()
    assert set(found[-1][1]["usage"]) == {"input_tokens", "output_tokens", "total_tokens"}


RUN = [
    *("thread.run.queued", "thread.run.in_progress"),
    *("thread.message.created", "thread.message.in_progress", "thread.message.delta"),
    *("thread.message.completed", "thread.run.completed"),
]


@pytest.mark.parametrize(
    ("path", "opening", "ids"),
    [
        ("", ["thread.created", "thread.run.created"], ("thread_demo_a2", "run_demo_a2")),
        ("/v1/threads/runs", ["thread.created", "thread.run.created"], None),
        ("/v1/threads/thread_7/runs", ["thread.run.created"], ("thread_7", "run_demo_a2")),
        ("/v1/threads/thread_7/runs/run_8/submit_tool_outputs", [], ("thread_7", "run_8")),
    ],
)
def test_a_run_is_told_from_where_it_was_asked_to_begin(
    path: str, opening: list[str], ids: tuple[str, str] | None
) -> None:
    """A thread and a run are created once, and keep the ids they have."""
    *found, last = told(stream_for(Asked("threads", "m", path=path), 2))
    assert last == ("done", "[DONE]")
    assert types_of(found) == [*opening, *RUN]
    run = found[-1][1]
    assert (run["thread_id"], run["id"]) == (ids or ("thread_demo_a2", "run_demo_a2"))
    parts = [data["delta"]["content"][0] for name, data in found if name.endswith("delta")]
    assert "".join(part["text"]["value"] for part in parts) == TEXT


@pytest.mark.parametrize("path", ["/v1/agents/sessions", "/v1/agents/sessions/sess_7/events"])
def test_a_turn_of_an_agent_is_told_to_its_outcome(path: str) -> None:
    """With ids of events that never repeat; a session is created where none is named."""
    found = told(stream_for(Asked("agents", "m", path=path), 2))
    names = [name.removeprefix("agent.session.") for name in types_of(found)]
    assert (names[0] == "created") == path.endswith("/sessions")
    assert names[-2:] == ["turn.completed", "idle"]
    assert "turn.output_text.delta" in names
    assert len({data["event_id"] for _, data in found}) == len(found)
    [session] = {data["session_id"] for _, data in found}
    assert session == ("sess_demo_a2" if path.endswith("/sessions") else "sess_7")


@pytest.mark.parametrize("door", [door for door in PATHS if door not in {"audio", "speech"}])
def test_no_two_attempts_have_the_same_identity(door: str) -> None:
    """Whatever in the first event is not the same in another attempt, is another in a third."""
    firsts = {stream_for(knock(door, "m"), attempt).events[0] for attempt in (1, 2, 3)}
    assert len(firsts) == 3


@pytest.mark.parametrize("door", PATHS)
def test_a_stream_to_be_broken_keeps_something_back(door: str) -> None:
    """However much was to be given, one event with content is left that can be cut."""
    stream = stream_for(knock(door, "m"), 1)
    for count in (0, 1, 5, 1000):
        given = stream.given(count)
        assert given == stream.events[: len(given)]
        assert len(given) - len(stream.opening) == min(count, len(stream.content) - 1)
        assert stream.kept(count) < len(stream.content)


@pytest.mark.parametrize("door", PATHS)
def test_a_text_comes_in_the_pieces_that_are_wanted(door: str) -> None:
    """A text of one's own, in one's own pieces, and no other."""
    stream = stream_for(knock(door, "m"), 1, "a b c", lambda text: [text])
    body = b"".join(stream.events).decode()
    assert words(TEXT)[0] not in body
    assert len(stream.content) < len(stream_for(knock(door, "m"), 1).content) or door in {
        "images",
        "edits",
    }


# --- documents and errors -------------------------------------------------------------------


@pytest.mark.parametrize("door", DOCUMENTS)
def test_every_document_is_one_that_the_sdk_knows(door: str) -> None:
    """The answers to requests for no stream."""
    check(DOCUMENTS[door], json_for(knock(door, "m"), 1))


def test_a_document_says_what_its_stream_says() -> None:
    """The same text, where it is there already."""
    assert [text_of(image["b64_json"]) for image in json_for(knock("images", "m"), 1)["data"]] == [
        TEXT
    ]
    assert json_for(knock("audio", "m"), 1)["text"] == TEXT
    assert json_for(knock("threads", "m"), 1)["status"] == "queued"
    assert json_for(knock("agents", "m"), 1)["status"] == "in_progress"


ERROR = {"message": "Gone.", "type": "server_error", "param": None, "code": "dead"}
FLAT = {"type": "error", "code": "dead", "message": "Gone.", "param": None, "sequence_number": 4}
IDS = {"event_id": "evt_demo_a2_4", "session_id": "sess_demo_a2"}


@pytest.mark.parametrize(
    ("door", "name", "data"),
    [
        ("chat_completions", "", {"error": ERROR}),
        ("completions", "", {"error": ERROR}),
        ("images", "", {"error": ERROR}),
        ("audio", "", {"error": ERROR}),
        ("speech", "", {"error": ERROR}),
        ("threads", "error", ERROR),
        ("responses", "error", FLAT),
        ("agents", "", {"type": "error", "error": ERROR, **IDS}),
    ],
)
def test_an_error_is_told_in_the_language_of_its_endpoint(
    door: str, name: str, data: dict[str, Any]
) -> None:
    """Threads name the event and give the bare object, agents make an item of it."""
    event = error_event(knock(door, "m"), "dead", "Gone.", "server_error", 4, attempt=2)
    assert told(Stream((event,), (), ())) == [(name, data)]
    if door in {"threads", "agents", "responses"}:
        check(TYPES[door], {"event": name, "data": data} if door == "threads" else data)


# --- on the wire ----------------------------------------------------------------------------


async def test_speech_without_events_is_bytes() -> None:
    """As it is by default."""
    async with MisbehavingUpstream() as upstream, connected(upstream) as client:
        await client.post("m", "speech", stream_format="audio")
        _, headers = await client.head()
        assert headers["content-type"] == "audio/mpeg"
        assert b"".join(await client.chunks()) == TEXT.encode()


async def test_the_events_of_a_session_are_always_a_stream() -> None:
    """A GET without a body; its scenario is named in the query."""
    async with MisbehavingUpstream() as upstream, connected(upstream) as client:
        await get(client, "/v1/agents/sessions/sess_7/events?model=ws-clean-eof")
        events = await client.chunks()
        assert b'"sess_7"' in events[0]
        # Such a stream has no end that could be missing.
        assert b"agent.session.idle" in events[-1]


async def get(client: Client, target: str) -> None:
    """Ask for an event stream, and read its head."""
    await client.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    _, headers = await client.head()
    assert headers["content-type"].startswith("text/event-stream")


FORM = (
    '--b0 b\r\nContent-Disposition: form-data; name="model"\r\n\r\nws-ok\r\n'
    '--b0 b\r\nContent-Disposition: form-data; name="file"; filename="stream"\r\n'
    "Content-Type: audio/wav\r\n\r\n\x00\r\n--b0\r\n\xff\r\n"
    '--b0 b\r\nContent-Disposition: form-data; name="n"\r\n\r\n2\r\n'
    '--b0 b\r\ncontent-disposition: form-data; name="stream"\r\n\r\ntrue\r\n'
    "--b0 b--\r\n"
).encode("latin-1")


@pytest.mark.parametrize(
    ("door", "last"),
    [("audio", b"transcript.text.done"), ("edits", b"event: image_edit.completed")],
)
async def test_a_form_asks_as_json_does(door: str, last: bytes) -> None:
    """Its fields are read, its files are not, whatever is in them."""
    async with MisbehavingUpstream() as upstream, connected(upstream) as client:
        head = f"POST {PATHS[door]} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(FORM)}\r\n"
        kind = 'Content-Type: multipart/form-data; boundary="b0 b"\r\n\r\n'
        await client.send((head + kind).encode() + FORM)
        await client.head()
        events = await client.chunks()
        [request] = upstream.requests
    assert request.fields == {"model": "ws-ok", "n": "2", "stream": "true"}
    assert request.model == "ws-ok"
    assert last in events[-1]
    assert (last in events[-2]) == (door == "edits")


async def test_an_agent_names_its_model() -> None:
    """There is no other place for it where a session is created."""
    async with MisbehavingUpstream() as upstream, connected(upstream) as client:
        upstream.script("ws-mine", sse(b"data: 1\n\n"))
        await client.post("", "agents", agent={"model": "ws-mine"})
        await client.head()
        assert await client.chunks() == [b"data: 1\n\n"]
