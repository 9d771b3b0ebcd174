"""A completion in one piece and in chunks: nothing is lost either way, nothing is said twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk
from support import RECORDED, STREAMS, ask, chunk

from proxy.core.grammars import chat_forms, grammar_for
from proxy.core.grammars.anew import TooMuchError
from proxy.core.grammars.chat_forms import fold
from proxy.core.sse import Event, EventSplitter

HEAD = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
CHUNK = {**HEAD, "object": "chat.completion.chunk"}
LEGACY = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


def unroll(answer: dict[str, Any], *, usage: bool) -> list[dict[str, Any]]:
    """Return all chunks of a completion."""
    return list(chat_forms.unroll(answer, usage=usage))


def completion(*messages: Any, finish: str | None = "stop", **fields: Any) -> dict[str, Any]:
    """Make a completion with one choice a message."""
    choices = [
        {"index": index, "message": message, "finish_reason": finish}
        for index, message in enumerate(messages)
    ]
    return {**HEAD, "choices": choices, **fields}


def said(content: Any, **fields: Any) -> dict[str, Any]:
    """Make a message."""
    return {"role": "assistant", "content": content, **fields}


def deltas(answer: dict[str, Any]) -> list[Any]:
    """Return the deltas of a completion with one choice."""
    return [chunk["choices"][0]["delta"] for chunk in unroll(answer, usage=False)]


# --- from one piece to chunks ---


def test_a_completion_is_opened_spoken_and_finished() -> None:
    """As a stream has it: the role alone, the content, the finish reason."""
    assert unroll(completion(said("Ahoy")), usage=False) == [
        {
            **CHUNK,
            "choices": [
                {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            ],
        },
        {**CHUNK, "choices": [{"index": 0, "delta": {"content": "Ahoy"}, "finish_reason": None}]},
        {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"choices": []},
        {"choices": None},
        {"choices": "text"},
        {"choices": [None, 5]},
        {"object": "response", "output": []},
        {"usage": USAGE, "choices": []},
    ],
    ids=str,
)
def test_without_choices_there_is_nothing_to_tell(answer: dict[str, Any]) -> None:
    """Not even its statistics."""
    assert unroll(answer, usage=True) == []


def test_tool_calls_are_numbered() -> None:
    """A stream counts them, a message does not; a number that is there stays."""
    opening, calls, _ = deltas(completion(said(None, tool_calls=[CALL, {**CALL, "index": 7}])))
    assert opening == {"role": "assistant", "content": None}
    assert calls == {"tool_calls": [{"index": 0, **CALL}, {**CALL, "index": 7}]}


def test_what_is_null_is_said_in_the_opening() -> None:
    """It is no content, and the answer has it all the same."""
    opening, rest, _ = deltas(completion(said("No", refusal=None, audio=None)))
    assert opening == {"role": "assistant", "content": "", "refusal": None, "audio": None}
    assert rest == {"content": "No"}


def test_the_choices_come_one_after_the_other() -> None:
    """Each with its own index and end."""
    chunks = unroll(completion(said("a"), said("b")), usage=False)
    assert [chunk["choices"][0]["index"] for chunk in chunks] == [0, 0, 0, 1, 1, 1]
    assert [len(chunk["choices"]) for chunk in chunks] == [1] * 6


def test_log_probabilities_stay_with_the_content_that_they_are_of() -> None:
    """And so does whatever else a server says of a choice."""
    answer = completion(said("a"))
    answer["choices"][0].update(logprobs={"content": [1]}, stop_reason=5)
    opening, content, end = (chunk["choices"][0] for chunk in unroll(answer, usage=False))
    assert content["logprobs"] == {"content": [1]}
    assert content["stop_reason"] == 5
    assert "logprobs" not in opening | end


@pytest.mark.parametrize("asked", [False, True])
def test_usage_is_told_if_it_was_asked_for(asked: bool) -> None:  # noqa: FBT001
    """In a chunk of its own, without a choice, as the last one."""
    *_, last = unroll(completion(said("a"), usage=USAGE), usage=asked)
    assert ("usage" in last) is asked
    if asked:
        assert last == {**CHUNK, "choices": [], "usage": USAGE}


@pytest.mark.parametrize("legacy", [False, True])
def test_more_choices_than_anybody_asks_for_are_no_answer(legacy: bool) -> None:  # noqa: FBT001
    """A head in front of each would make hundreds of megabytes of a small document."""
    choice = {"text": "", "finish_reason": "s"} if legacy else {"message": said("a")}
    answer = {**HEAD, "choices": [choice] * 128}
    assert {part["choices"][0]["index"] for part in unroll(answer, usage=False)} == {0}
    with pytest.raises(TooMuchError):
        unroll({**HEAD, "choices": [choice] * 129}, usage=False)


@pytest.mark.parametrize("usage", [None, {}])
def test_usage_that_says_nothing_makes_no_chunk(usage: Any) -> None:
    """Clients that look into the first choice die of one without any."""
    assert len(unroll(completion(said("a"), usage=usage), usage=True)) == 3


def test_what_stands_beside_the_choices_is_told_once() -> None:
    """Citations and filter results are part of the answer; an error that is none is not."""
    more = {"citations": ["a"], "provider": "p", "error": None}
    first, *rest = unroll({**completion(said("a")), **more}, usage=False)
    assert (first["citations"], first["provider"]) == (["a"], "p")
    assert not any("citations" in chunk or "error" in chunk for chunk in [*rest])
    assert "error" not in first


def test_a_legacy_completion_is_one_chunk_a_choice() -> None:
    """The form is the same."""
    choice = {"text": "Ahoy", "index": 1, "logprobs": None, "finish_reason": "length"}
    answer = {**LEGACY, "choices": [choice, {**choice, "index": 0}]}
    chunks = unroll(answer, usage=False)
    assert chunks == [
        {**LEGACY, "choices": [choice]},
        {**LEGACY, "choices": [{**choice, "index": 0}]},
    ]


def test_the_role_is_the_servers_own() -> None:
    """Whatever it is called."""
    assert deltas(completion({"role": "model", "content": ""}))[0]["role"] == "model"


@pytest.mark.parametrize(
    ("choice", "kind"),
    [
        ({"text": "a"}, "chat.completion"),
        ({"text": "a", "message": said("a")}, "chat.completion.chunk"),
        ({"finish_reason": "stop"}, "chat.completion.chunk"),
    ],
    ids=str,
)
def test_what_has_a_text_and_no_message_is_a_legacy_completion(choice: Any, kind: str) -> None:
    """It keeps its name; all else becomes chunks."""
    chunks = unroll({**HEAD, "choices": [choice]}, usage=False)
    assert {one["object"] for one in chunks} == {kind}


@pytest.mark.parametrize("message", [None, "text", 5, {}, {"role": None}, {"role": ""}])
def test_a_message_of_no_known_shape_has_an_opening_and_an_end(message: Any) -> None:
    """Whoever speaks here is the assistant."""
    opening, rest, end = deltas(completion(message))
    assert (opening, rest, end) == ({"role": "assistant", "content": None}, {}, {})


def test_a_choice_without_a_number_is_the_first_one() -> None:
    """As everywhere."""
    answer = {**HEAD, "choices": [{"message": said("a"), "finish_reason": "stop"}]}
    assert {chunk["choices"][0]["index"] for chunk in unroll(answer, usage=False)} == {0}


def test_one_chunk_in_place_of_an_answer_passes() -> None:
    """Some servers answer with the last chunk of a stream of one."""
    whole = chunk(content="Hi", finish="stop")
    (only,) = unroll({**whole, "object": "chat.completion.chunk"}, usage=False)
    assert only == {**whole, "object": "chat.completion.chunk"}


# --- from chunks to one piece ---


def folded(*parts: dict[str, Any]) -> Any:
    """Fold the chunks of one choice, return it."""
    return fold([{"choices": [part]} for part in parts])["choices"][0]


def spoken(*parts: Any) -> Any:
    """Fold deltas, return the message."""
    return folded(*({"index": 0, "delta": delta} for delta in parts))["message"]


def test_texts_add_up_and_what_is_said_once_is_said_once() -> None:
    """A role in every chunk is still one role (OpenRouter, Snowflake)."""
    first = {"role": "", "content": "", "refusal": None}
    more = [{"role": "assistant", "content": text} for text in ("Ah", "oy")]
    assert spoken(first, *more) == {"role": "assistant", "content": "Ahoy", "refusal": None}


def test_a_call_adds_up_under_its_index() -> None:
    """Id and type are said once, arguments bit by bit, in whatever order of calls."""
    parts = [
        {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{"}},
        {"index": 0, "id": "a", "function": {"arguments": "{}"}},
        {"index": 1, "type": "function", "function": {"arguments": "}"}},
    ]
    assert spoken(*({"tool_calls": [part]} for part in parts))["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_texts_and_lists_of_parts_add_up_in_one_message() -> None:
    """Mistral speaks in both within one answer."""
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    text = {"type": "text", "text": "So"}
    assert spoken({"content": ""}, {"content": [thinking]})["content"] == [thinking]
    assert spoken({"content": "So"}, {"content": [thinking]})["content"] == [text, thinking]
    assert spoken({"content": [thinking]}, {"content": "So"})["content"] == [thinking, text]
    assert spoken({"content": [thinking]}, {"content": [text]})["content"] == [thinking, text]


def test_objects_in_a_delta_add_up() -> None:
    """Spoken answers come as data and transcript, under one id, with one time."""
    parts = [
        {"audio": {"id": "audio_1", "transcript": "Ah"}},
        {"audio": {"data": "AA==", "transcript": "oy"}},
        {"audio": {"id": "audio_1", "expires_at": 5}},
        {"audio": {"expires_at": 6, "data": None}},
    ]
    audio = {"id": "audio_1", "transcript": "Ahoy", "data": "AA==", "expires_at": 5}
    assert spoken(*parts)["audio"] == audio


def test_of_what_does_not_add_up_the_last_word_counts() -> None:
    """Numbers, flags, and the choice's own fields; an empty word is none."""
    assert spoken({"x": 1}, {"x": 2}, {"x": None})["x"] == 2
    for first, last in ((1, [2]), ("a", 1), ("a", {"b": 1}), ({"b": 1}, "a"), ({"b": 1}, [2])):
        assert spoken({"x": first}, {"x": last})["x"] == last
    choice = folded({"native": "stop"}, {"native": "stop"}, {"native": None})
    assert choice["native"] == "stop"


def test_what_azure_says_of_every_chunk_is_said_once() -> None:
    """A severity is a word, not a text that grows."""
    safe = {"hate": {"severity": "safe"}}
    parts = [{"content_filter_results": part} for part in ({}, safe, None, safe, {"self_harm": 1})]
    assert folded(*parts)["content_filter_results"] == {**safe, "self_harm": 1}


def test_a_message_that_repeats_its_delta_is_not_added_to_it() -> None:
    """Writer sends both in every chunk."""
    part = {"index": 0, "delta": {"content": "a"}, "message": {"content": "a"}}
    assert folded(part, part)["message"]["content"] == "aa"


def test_log_probabilities_follow_each_other() -> None:
    """Token by token, in both forms of the API."""
    parts: list[dict[str, Any]] = [{"logprobs": None}]
    parts += [{"logprobs": {"content": [n], "refusal": None}} for n in (1, 2)]
    assert folded(*parts)["logprobs"] == {"content": [1, 2], "refusal": None}
    parts = [{"text": "a", "logprobs": {"tokens": [n], "text_offset": [n]}} for n in (1, 2)]
    legacy = folded(*parts)
    assert (legacy["text"], legacy["logprobs"]["text_offset"]) == ("aa", [1, 2])


def test_the_first_name_that_says_something_is_the_answers() -> None:
    """Azure's first chunk has none."""
    empty = {"id": "", "model": "", "created": 0, "choices": [], "prompt_filter_results": [1]}
    whole = fold([empty, {**CHUNK, "choices": []}, {**CHUNK, "id": "other", "choices": []}])
    assert whole == {**HEAD, "prompt_filter_results": [1], "choices": []}


def test_usage_is_the_last_one_and_padding_is_nothing() -> None:
    """Some servers count in every chunk."""
    usages = [None, {"total_tokens": 1}, USAGE, None]
    whole = fold([{"choices": [], "usage": usage, "obfuscation": "xy"} for usage in usages])
    assert whole == {"usage": USAGE, "choices": [], "object": None}


def test_choices_are_in_the_order_of_their_numbers() -> None:
    """They may have come in any."""
    parts = [chunk(index=index, content=str(index), finish="stop") for index in (2, 0, 1)]
    assert [choice["index"] for choice in fold(parts)["choices"]] == [0, 1, 2]


def test_a_choice_that_never_finished_says_so() -> None:
    """No end is invented."""
    assert fold([chunk(content="a")])["choices"][0]["finish_reason"] is None
    assert folded({"delta": {"content": "a"}})["finish_reason"] is None


def test_chunks_that_are_none_are_left_out() -> None:
    """The end mark, and what is no object."""
    events = [Event(b"", data) for data in (b"5", json.dumps(chunk(content="a")).encode())]
    whole = json.loads(grammar_for(ask()).fold([*events, Event(b"", b"[DONE]")]))
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "a"}


# --- held against the official SDK, and against itself ---

CHATS = [name for name in STREAMS if name.startswith("chat-")]
ODD = {"compat-groq-error", "compat-mistral-thinking"}
"""An error and nothing else; lists of parts, of which the SDK keeps the last text alone."""

RECORDED_CHATS = [
    path.stem
    for path in sorted(RECORDED.glob("*.sse"))
    if b'"chat.completion.chunk"' in path.read_bytes() and path.stem not in ODD
]


def gist(choice: Any) -> dict[str, Any]:
    """Return what an application looks at in a choice."""
    message = choice["message"]
    calls = [
        (call.get("id"), call["function"].get("name"), call["function"].get("arguments"))
        for call in message.get("tool_calls") or ()
    ]
    texts = {
        key: message.get(key) or None
        for key in ("content", "refusal", "reasoning", "reasoning_content")
    }
    return {"index": choice["index"], "finish": choice["finish_reason"], "calls": calls, **texts}


def assert_as_the_sdk(body: bytes) -> None:
    """Hold a fold against what openai-python adds up."""
    events = EventSplitter(len(body), lambda _repair: None).feed(body)
    state = ChatCompletionStreamState()
    for event in events:
        if event.data.startswith(b"{"):
            state.handle_chunk(ChatCompletionChunk.construct(**json.loads(event.data)))
    theirs = state.current_completion_snapshot.model_dump(warnings=False)
    ours = json.loads(grammar_for(ask()).fold(events))
    assert ours["object"] == "chat.completion"
    assert list(map(gist, ours["choices"])) == list(map(gist, theirs["choices"]))


@pytest.mark.parametrize("name", CHATS)
def test_chunks_add_up_as_in_the_official_sdk(name: str) -> None:
    """The invented streams."""
    assert_as_the_sdk(STREAMS[name])


@pytest.mark.skipif(not RECORDED.is_dir(), reason="../shared/streams is not there")
@pytest.mark.parametrize("name", RECORDED_CHATS)
def test_real_chunks_add_up_as_in_the_official_sdk(name: str) -> None:
    """OpenAI's own streams and those of compatible servers."""
    assert_as_the_sdk((RECORDED / f"{name}.sse").read_bytes())


TEXTS = st.text(max_size=8)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
CALLS = st.builds(
    lambda name, arguments: {**CALL, "function": {"name": name, "arguments": arguments}},
    TEXTS,
    TEXTS,
)
MESSAGES = st.fixed_dictionaries(
    {
        "role": st.just("assistant"),
        "content": st.none() | TEXTS | st.lists(CALLS),
    },
    optional={
        "refusal": st.none() | TEXTS,
        "reasoning_content": st.none() | TEXTS,
        "tool_calls": st.none() | st.lists(CALLS, max_size=3),
        "audio": st.none() | st.dictionaries(st.sampled_from(["id", "data", "transcript"]), TEXTS),
        "annotations": ANYTHING,
        "vendor": ANYTHING,
    },
)
OF_A_CHOICE = st.dictionaries(st.sampled_from(["logprobs", "stop_reason", "seed"]), ANYTHING)
COUNTED = st.dictionaries(st.sampled_from(["total_tokens", "x"]), st.integers(), min_size=1)


@given(
    st.lists(st.tuples(MESSAGES, OF_A_CHOICE, st.sampled_from(["stop", None])), min_size=1),
    COUNTED,
    st.dictionaries(st.sampled_from(["citations", "system_fingerprint"]), ANYTHING),
)
def test_a_completion_comes_back_as_it_was(
    parts: list[tuple[dict[str, Any], dict[str, Any], str | None]],
    usage: dict[str, int],
    more: dict[str, Any],
) -> None:
    """From one piece to chunks and back: the same JSON, whatever was in it."""
    choices = [
        {"index": index, "message": message, "finish_reason": finish, **fields}
        for index, (message, fields, finish) in enumerate(parts)
    ]
    answer = {**HEAD, **more, "choices": choices, "usage": usage}
    assert fold(json.loads(json.dumps(unroll(answer, usage=True)))) == answer


@given(st.lists(st.tuples(TEXTS, st.sampled_from([None, 1.5]), st.sampled_from(["stop", None]))))
def test_a_legacy_completion_comes_back_as_it_was(
    parts: list[tuple[str, float | None, str | None]],
) -> None:
    """The other form of the API."""
    choices = [
        {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        for index, (text, logprobs, finish) in enumerate(parts)
    ]
    answer = {**LEGACY, "choices": choices}
    assert fold(unroll(answer, usage=True)) == (
        answer if parts else {"object": None, "choices": []}
    )


@given(st.lists(TEXTS, min_size=1), st.lists(TEXTS, min_size=1))
def test_texts_cut_anywhere_add_up(texts: list[str], arguments: list[str]) -> None:
    """However a server cuts them."""
    parts: list[Any] = [{"content": text} for text in texts]
    parts += [{"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in arguments]
    message = spoken(*parts)
    assert message["content"] == "".join(texts)
    assert message["tool_calls"] == [{"function": {"arguments": "".join(arguments)}}]


ANY_KEY = st.sampled_from(
    [
        *("choices", "message", "delta", "content", "tool_calls", "index", "object", "usage"),
        *("text", "logprobs", "finish_reason", "role", "function", "id"),
    ]
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_KEY, inner, max_size=5),
    max_leaves=15,
)
ANY_CHOICES = st.lists(st.dictionaries(ANY_KEY, ANY_JSON, max_size=5), max_size=3)
ANY_ANSWER = st.dictionaries(ANY_KEY, ANY_JSON, max_size=4)


@given(st.lists(st.tuples(ANY_ANSWER, ANY_CHOICES), max_size=4))
def test_no_shape_makes_either_way_raise(parts: list[tuple[dict[str, Any], Any]]) -> None:
    """Input never raises."""
    answers = [{**answer, "choices": choices} for answer, choices in parts]
    for answer in answers:
        json.dumps(unroll(answer, usage=True))
    json.dumps(fold(json.loads(json.dumps(answers))))
