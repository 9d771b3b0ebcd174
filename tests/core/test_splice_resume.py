"""Resume: the very same response goes on, number by number, byte by byte.

What the client must have is the uncut stream itself.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

import pytest
from splices import (
    FEEDS,
    Answer,
    Attempt,
    Heard,
    Run,
    anonymous,
    broken,
    encode,
    function,
    message,
    renamed,
    response,
    run,
)
from support import CLEAN, CUT, RESET, ask, sse, whole_events

from proxy.core.fault import AttemptEnd, Fault
from proxy.core.policy import Policy
from proxy.core.request import Request

POLICY = Policy(backoff_base_s=0.0)
BACKGROUND = Answer(
    ask("responses", background=True),
    response(
        message(0, "Slow ", "boat 🛶"),
        function(1, "{", "}"),
        openers=("created", "queued", "keepalive", "in_progress"),
    ),
)
EVENTS = len(BACKGROUND.ends)
WHOLE = BACKGROUND.payloads[-1]["response"]
NOT_FOUND = AttemptEnd(Fault.HTTP_STATUS, status=404, body=b'{"error":{"message":"gone"}}')
CLOSED = AttemptEnd(
    Fault.HTTP_STATUS,
    status=400,
    body=b'{"error":{"message":"This response can no longer be streamed because it is more than '
    b'5 minutes old.","type":"invalid_request_error"}}',
)


def until(events: int) -> int:
    """Return where so many events end."""
    return BACKGROUND.ends[events - 1] if events else 0


def tail(events: int, upto: int = EVENTS) -> bytes:
    """Return what the upstream still has to say after so many events."""
    return BACKGROUND.body[until(events) : until(upto)]


def document(**changes: Any) -> bytes:
    """Write the response as a poll returns it."""
    return json.dumps({**WHOLE, **changes}).encode()


def cursors(made: Run) -> list[str]:
    """Return whom was asked, again and again."""
    assert all(command.request.method == "GET" for command in made.opens)
    assert all(command.request.body == b"" for command in made.opens)
    return [command.request.target for command in made.opens]


def at(events: int) -> str:
    """Return the target that goes on after so many events."""
    return f"/responses/resp_1?stream=true&starting_after={events - 1}"


def resumed(*attempts: Attempt | bytes, feed: str = "whole", policy: Policy = POLICY) -> Run:
    """Run the background request."""
    return run(BACKGROUND.request, policy, *attempts, feed=feed)


def cut_after(events: int) -> Attempt:
    """Cut the first attempt after so many events."""
    return broken(BACKGROUND.body, until(events))


def check_polled(made: Run, first: int) -> None:
    """Hold what came of a poll against the uncut answer."""
    heard, whole = made.heard, Heard(BACKGROUND.body).check()
    assert heard.texts == whole.texts
    assert made.out.startswith(BACKGROUND.body[: until(first)] if first > 4 else b"event: ")
    assert anonymous(last_of(made)) == anonymous(WHOLE)
    assert last_of(made)["id"] == "resp_1"
    assert heard.errors == []
    assert made.outcome == "recovered"


def last_of(made: Run) -> Any:
    """Return the object that ends the stream."""
    return json.loads(whole_events(made.out)[-1][1])["response"]


@pytest.mark.parametrize("feed", FEEDS)
def test_a_cut_at_any_byte_is_resumed_to_the_byte(feed: str) -> None:
    """The upstream is asked for what follows the last number received whole."""
    step = 1 if feed == "whole" else 41
    for offset in range(until(1), until(EVENTS) - 2, step):
        events = BACKGROUND.events(offset)
        made = resumed(broken(BACKGROUND.body, offset), tail(events), feed=feed)
        assert made.out == BACKGROUND.body
        assert cursors(made) == [at(events)]
        assert made.recoveries == [("resume", "success")]
        phase = "mid_content" if events >= BACKGROUND.content else "before_content"
        assert made.facts == [("reset", phase, "resumed")]
        assert made.outcome == "recovered"
        assert not made.opens[0].document
        assert made.opens[0].keep == (events < BACKGROUND.content)


def test_before_its_first_event_a_background_run_may_be_asked_for_again() -> None:
    """No id came, so nothing can be resumed, and nothing is known to run."""
    for offset in range(until(1) - 2):
        made = resumed(broken(BACKGROUND.body, offset), BACKGROUND.body)
        assert made.opens[0].request == BACKGROUND.request
        assert made.out == BACKGROUND.body


def test_a_run_that_told_one_event_is_never_asked_for_twice() -> None:
    """However often and wherever it breaks, only GET requests follow."""
    policy = Policy(backoff_base_s=0.0, replay="always", continuation="instructed")
    for events in range(1, EVENTS):
        made = resumed(cut_after(events), (b"", RESET), (b"", CUT), policy=policy)
        assert cursors(made) == [at(events)] * 2
        assert made.recoveries == [("resume", "failed")] * 2
        made = resumed(cut_after(events), (None, NOT_FOUND), (None, NOT_FOUND), policy=policy)
        assert cursors(made) == [at(events), "/responses/resp_1"]
        assert made.outcome == "failed"


def test_a_resumed_stream_may_break_again() -> None:
    """Every pair of events: each time it goes on where it stopped, inside an event too."""
    for first in range(1, EVENTS):
        for second in range(first, EVENTS):
            half = tail(first)[: until(second) - until(first) + 20]
            made = resumed(cut_after(first), (half, RESET), tail(second))
            assert made.out == BACKGROUND.body
            assert cursors(made) == [at(first), at(second)]
            assert made.outcome == "recovered"


def test_attempts_are_counted_for_all_cuts_together() -> None:
    """With five attempts four cuts are mended, the fifth is told."""
    policy = Policy(backoff_base_s=0.0, max_attempts=5)
    cuts = [(tail(n, n + 1), RESET) for n in (4, 5, 6, 7)]
    made = resumed(cut_after(4), *cuts[:3], tail(7), policy=policy)
    assert made.out == BACKGROUND.body
    made = resumed(cut_after(4), *cuts, policy=policy)
    assert made.out.startswith(BACKGROUND.body[: until(8)])
    assert made.heard.errors[0]["sequence_number"] == 8
    assert [fact[2] for fact in made.facts] == ["resumed"] * 4 + ["surfaced"]


def test_what_the_upstream_repeats_is_dropped() -> None:
    """It may begin anywhere before the number asked for."""
    for events in range(1, EVENTS):
        for start in range(events):
            made = resumed(cut_after(events), tail(start))
            assert made.out == BACKGROUND.body


def test_a_cut_among_repeated_events_does_not_move_the_place_back() -> None:
    """What was received is received; the cursor never goes back."""
    for events in range(2, EVENTS):
        for again in range(1, events):
            made = resumed(cut_after(events), (tail(0, again), RESET), tail(events))
            assert cursors(made) == [at(events)] * 2
            assert made.out == BACKGROUND.body


@pytest.mark.parametrize("refusal", [CLOSED, NOT_FOUND], ids=["too old", "not found"])
def test_where_no_stream_is_to_be_had_the_response_is_polled_once(refusal: AttemptEnd) -> None:
    """The finished object tells the rest."""
    for events in range(1, EVENTS):
        made = resumed(cut_after(events), (None, refusal), document())
        assert cursors(made) == [at(events), "/responses/resp_1"]
        assert [command.document for command in made.opens] == [False, True]
        check_polled(made, events)
        assert made.recoveries == [("resume", "failed"), ("resume", "success")]


def strangers(events: int) -> dict[str, bytes]:
    """Return answers that do not go on where the first one stopped."""
    left = BACKGROUND.payloads[events:]
    return {
        "a gap": encode(left[1:]) or b"",
        "another response": encode([renamed(event, "x") for event in left]),
    }


@pytest.mark.parametrize("kind", ["a gap", "another response"])
def test_what_does_not_fit_is_not_given_but_polled(kind: str) -> None:
    """Neither a missing number nor another response's id reaches the client."""
    for events in range(1, EVENTS - 1):
        strange = strangers(events)[kind]
        if kind == "another response" and events < EVENTS - 2:
            # Its items are new ones, so nothing tells it from the right one before its end.
            made = resumed(cut_after(events), strange, (None, CLOSED))
            assert b"resp_1x" not in made.out
            assert made.outcome == "failed"
            continue
        made = resumed(cut_after(events), strange, document())
        assert b"resp_1x" not in made.out
        assert cursors(made)[1:] == ["/responses/resp_1"]
        check_polled(made, events)
        assert made.recoveries[-1] == ("resume", "success")


def test_a_poll_that_answers_with_another_response_is_an_honest_error() -> None:
    """Before content and after it."""
    for events in range(1, EVENTS - 1):
        made = resumed(cut_after(events), (None, CLOSED), document(id="resp_2"))
        check_honest(made, events)
        assert b"resp_2" not in made.out


@pytest.mark.parametrize("odd", ["longer", "an item less", "another type"])
def test_a_poll_that_contradicts_what_was_given_is_an_honest_error(odd: str) -> None:
    """A text that was closed, an item that was opened, and what it was."""
    output = json.loads(json.dumps(WHOLE["output"]))
    events = {"longer": 9, "an item less": EVENTS - 3, "another type": 7}[odd]
    if odd == "longer":
        output[0]["content"][0]["text"] += " and more"
    elif odd == "an item less":
        del output[1]
    else:
        output[0] = {**output[1], "id": output[0]["id"]}
    made = resumed(cut_after(events), (None, CLOSED), document(output=output))
    check_honest(made, events)


def test_what_an_app_re_attached_to_itself_is_not_told_from_a_poll() -> None:
    """What it has below the number that it named is not known."""
    request = Request("GET", "/responses/resp_1?stream=true&starting_after=5")
    made = run(request, POLICY, (tail(6)[:-20], RESET), (None, CLOSED))
    assert made.outcome == "failed"
    assert not any(command.document for command in made.opens)


def test_a_resumed_stream_without_numbers_is_not_let_in() -> None:
    """Nobody could say where it goes on: the response is polled."""
    left = [{k: v for k, v in e.items() if k != "sequence_number"} for e in BACKGROUND.payloads]
    for events in range(1, EVENTS - 1):
        made = resumed(cut_after(events), encode(left), document())
        assert made.outs[1] == b""
        check_polled(made, events)


def test_an_item_under_another_id_is_not_given() -> None:
    """Behind its own first event an item has one id."""
    for events in range(5, 10):
        left = [json.loads(json.dumps(event)) for event in BACKGROUND.payloads[events:]]
        for event in left:
            if event.get("output_index") == 0:
                event.update({"item_id": "msg_9"} if "item" not in event else {})
                event.get("item", {}).update({"id": "msg_9"})
        made = resumed(cut_after(events), encode(left), document())
        assert made.outs[1] == b""
        assert made.recoveries == [("resume", "mismatch"), ("resume", "success")]
        check_polled(made, events)


def test_a_poll_of_a_run_that_goes_on_is_an_honest_error() -> None:
    """It is polled once, and nothing is made up."""
    for status in ("in_progress", "queued"):
        for events in range(1, EVENTS):
            made = resumed(cut_after(events), (None, CLOSED), document(status=status, output=[]))
            assert made.outcome == "failed"
            assert made.session.attempts == 3
            check_honest(made, events)


def check_honest(made: Run, events: int) -> None:
    """Hold a failure against the contract: what was given is whole, then one error."""
    if made.finish.reply is not None:
        assert events < BACKGROUND.content
        assert made.out == b""
        return
    given = BACKGROUND.body[: until(events)]
    assert made.out.startswith(given)
    assert b"".join(made.outs) in {given, b""}
    heard = made.heard
    assert whole_events(made.out)[-1][0] == b"response.failed"
    assert len(heard.errors) <= 1
    assert made.outcome == "failed"


def test_a_poll_may_find_an_early_end() -> None:
    """A legal ending is told as what it is, with all the text there is."""
    output = [WHOLE["output"][0]]
    for events in range(1, 10):
        body = document(status="incomplete", output=output)
        made = resumed(cut_after(events), (None, CLOSED), body)
        heard = made.heard
        assert heard.texts == {(0, "response.output_text"): "Slow boat 🛶"}
        assert whole_events(made.out)[-1][0] == b"response.incomplete"
        assert made.outcome == "recovered"


def test_a_poll_may_find_that_it_was_cancelled() -> None:
    """A stream has no event for that, and none is made up."""
    for events in range(1, EVENTS - 1):
        body = document(status="cancelled", output=WHOLE["output"][:1])
        check_honest(resumed(cut_after(events), (None, CLOSED), body), events)


def test_a_poll_may_find_a_failure() -> None:
    """The response's own failure is the end, under its own id."""
    error = {"code": "server_error", "message": "The model sank."}
    for events in range(BACKGROUND.content, EVENTS):
        body = document(status="failed", error=error, output=[])
        made = resumed(cut_after(events), (None, CLOSED), body)
        check_honest(made, events)
        assert b"response.completed" not in made.out


def test_a_poll_that_says_less_than_was_given_is_no_end() -> None:
    """Text that was given cannot be taken back."""
    for events in range(8, 11):
        short = json.loads(json.dumps(WHOLE["output"]))
        short[0]["content"][0]["text"] = "Slow"
        made = resumed(cut_after(events), (None, CLOSED), document(output=short))
        check_honest(made, events)
        assert made.recoveries == [("resume", "failed"), ("resume", "mismatch")]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"<html>", b'{"status":1}'])
def test_a_poll_may_answer_anything(body: bytes) -> None:
    """What is no finished response is an honest error."""
    for events in (1, 6, 10):
        check_honest(resumed(cut_after(events), (None, CLOSED), body), events)
        check_honest(resumed(cut_after(events), (None, CLOSED), (document()[:40], RESET)), events)


def test_the_question_is_kept() -> None:
    """What a retrieval takes of body and query goes with it, and what it refuses does not."""
    include = ["reasoning.encrypted_content", "message.output_text.logprobs"]
    body: dict[str, Any] = {"stream_options": {"include_obfuscation": False}, "include": include}
    request = ask("responses", background=True, **body)
    request = Request("POST", "/responses?api-version=preview", request.body)
    made = run(request, POLICY, cut_after(6), (None, CLOSED), document())
    for command, more in zip(
        made.opens, ([("stream", "true"), ("starting_after", "5")], []), strict=True
    ):
        path, _, query = command.request.target.partition("?")
        assert path == "/responses/resp_1"
        assert parse_qsl(query) == [
            ("api-version", "preview"),
            ("include[]", "message.output_text.logprobs"),
            ("include_obfuscation", "false"),
            *more,
        ]


@pytest.mark.parametrize("policy", [Policy(resume=False), Policy(resume=False, replay="always")])
def test_resume_may_be_switched_off(policy: Policy) -> None:
    """Then a background run that broke is told as broken, and not run twice."""
    for events in range(1, EVENTS):
        made = resumed(cut_after(events), policy=policy)
        check_honest(made, events)


def test_the_client_may_forbid_it() -> None:
    """A request with recovery off is never followed by another."""
    request = ask("responses", background=True, recovery=False)
    for events in range(1, EVENTS):
        check_honest(run(request, POLICY, cut_after(events)), events)


def test_the_clients_own_retrieval_is_resumed() -> None:
    """A stream that the app re-attached to itself goes on in the same way."""
    query = "stream=true&include%5B%5D=x"
    for start in range(EVENTS - 1):
        request = Request("GET", f"/responses/resp_1?{query}&starting_after={start}")
        for events in range(start + 2, EVENTS):
            cut = tail(start + 1)[: until(events) - until(start + 1) + 9]
            made = run(request, POLICY, (cut, RESET), tail(events))
            assert made.out == tail(start + 1)
            expected = [("include[]", "x"), ("stream", "true"), ("starting_after", f"{events - 1}")]
            target, _, found = cursors(made)[0].partition("?")
            assert (target, parse_qsl(found)) == ("/responses/resp_1", expected)


@pytest.mark.parametrize(
    "identity", ["../files/f", "a/b", "a?b=c", "a#b", "", "a b", "ä", "%2e%2e", "x" * 300, 7, None]
)
def test_an_id_that_could_change_the_path_is_never_used(identity: object) -> None:
    """The upstream's word does not choose whom the client's key is sent to."""
    events = [json.loads(json.dumps(event)) for event in BACKGROUND.payloads[:8]]
    for event in events:
        if "response" in event:
            event["response"]["id"] = identity
    made = run(BACKGROUND.request, POLICY, (encode(events), RESET))
    assert made.opens == []
    assert made.outcome == "failed"


def test_a_failed_response_is_not_resumed() -> None:
    """It said itself that it failed."""
    failed = {"type": "response.failed", "sequence_number": 6}
    failed["response"] = {**WHOLE, "status": "failed", "error": {"code": "server_error"}}
    made = resumed(BACKGROUND.body[: until(6)] + sse(failed, name="response.failed"))
    assert made.opens == []
    assert made.outcome == "failed"


def test_a_clean_end_without_a_terminal_event_is_resumed_as_well() -> None:
    """A load balancer's idle limit may end a body well."""
    for events in range(1, EVENTS):
        made = resumed((BACKGROUND.body[: until(events)], CLEAN), tail(events))
        assert made.out == BACKGROUND.body


def test_a_path_that_is_the_upstreams_own_stays_its_own() -> None:
    """Azure's: neither the re-attachment nor the poll goes below the base URL."""
    target = "/openai/v1/responses?api-version=preview"
    request = Request("POST", target, BACKGROUND.request.body, own_path=True)
    cut = broken(BACKGROUND.body, until(4))
    made = run(request, POLICY, cut, (None, CLOSED), document())
    assert [command.request.own_path for command in made.opens] == [True, True]
    assert cursors(made) == [
        "/openai/v1/responses/resp_1?api-version=preview&stream=true&starting_after=3",
        "/openai/v1/responses/resp_1?api-version=preview",
    ]
    assert made.outcome == "recovered"
    plain = run(BACKGROUND.request, POLICY, broken(BACKGROUND.body, until(4)), tail(4))
    assert not plain.opens[0].request.own_path
