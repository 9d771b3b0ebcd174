"""The linter: what it finds in a captured body, where, and what that means for an SDK."""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from pathlib import Path

import pytest
from captures import (
    CAPTURES,
    CHAT,
    RESPONSE,
    WHOLE,
    Capture,
    gzipped,
    head,
    keys,
    named,
    places,
)
from hypothesis import given
from hypothesis import strategies as st
from support import CLEAN, DONE, RECORDED, STREAMS, chunk, raw, sse
from test_docs import repairs_in_code

from proxy.core.budget import RetryBudget
from proxy.core.fault import Fault
from proxy.core.session import StreamSession
from proxy.demo.answers import Asked
from proxy.demo.scenarios import SCENARIOS
from proxy.lint import reading
from proxy.lint.endpoints import ENDPOINTS, request_for
from proxy.lint.reading import lint
from proxy.lint.report import MEANINGS, as_json, as_text, meaning_of
from proxy.lint.sdks import DOCUMENT, SURVIVAL, UNSEEN, Fate, survival_of
from proxy.lint.verdict import Ending, KnownBy

ROOT = Path(__file__).parent.parent.parent
CANARY = "kaleidoscope"

UNCLEAN = {"compat-groq-error", "compat-openrouter-error", "compat-writer-n2", "chat-no-done"}
"""Streams that end with an error, or without ``[DONE]``."""

BODIES = {
    **{f"invented {name}": body for name, body in STREAMS.items()},
    **{f"recorded {path.stem}": path.read_bytes() for path in sorted(RECORDED.glob("*.sse"))},
}


def parts(key: str) -> tuple[str, str]:
    """Return the name and the form of a key."""
    name, _, form = key.partition("/")
    return name, form


def name_of(capture: Capture) -> str:
    """Name a capture for the test report."""
    return f"{capture.key or 'healthy'}-{len(capture.body)}"


def endpoint_of(stream: str) -> str:
    """Name the endpoint of a stream, by the name of its file."""
    if "responses" in stream:
        return "responses"
    if "completions" in stream:
        return "completions"
    first = stream.partition("-")[0]
    own = {"assistants": "threads", "chat": "chat_completions", "compat": "chat_completions"}
    return own.get(first, first)


# --- what is found --------------------------------------------------------------------------


@pytest.mark.parametrize("capture", CAPTURES, ids=name_of)
def test_each_form_is_found(capture: Capture) -> None:
    """And the body is clean exactly if the standard allows the form and every SDK survives it."""
    verdict = lint(capture.captured)
    assert (capture.key in keys(verdict)) if capture.key else keys(verdict) == []
    assert verdict.clean == (not capture.key or survival_of(*parts(capture.key)).allowed)


@pytest.mark.parametrize("stream", BODIES)
def test_healthy_streams_are_clean_and_known(stream: str) -> None:
    """Recorded and invented ones, each as what it is."""
    name, verdict = stream.partition(" ")[2], lint(BODIES[stream])
    assert (verdict.endpoint, verdict.known_by) == (endpoint_of(name), KnownBy.EVENTS)
    assert verdict.clean == (name not in UNCLEAN)
    if verdict.clean:
        assert {verdict.outcome(sdk).fate for sdk in ("python", "node")} == {Fate.SURVIVES}


@pytest.mark.parametrize("body", [WHOLE, named(*RESPONSE)], ids=["chat", "responses"])
def test_no_cut_is_clean(body: bytes) -> None:
    """Wherever a body stops, down to the last line end, and never with a place outside of it."""
    for size in range(len(body)):
        verdict = lint(body[:size])
        assert not verdict.clean, size
        assert all(0 <= finding.at <= size for finding in verdict.findings)


@pytest.mark.parametrize("capture", CAPTURES, ids=name_of)
def test_the_core_finds_the_same_in_a_body_that_is_fed_whole(capture: Capture) -> None:
    """As often: the linter looks on, block by block, and adds nothing of its own to a stream."""
    verdict = lint(capture.body)
    session = StreamSession(request_for(verdict.endpoint), reading._POLICY, RetryBudget(0, 0))
    session.begin(0.0)
    session.receive_head(document=capture.body.startswith(b"{"))
    decoded = zlib.decompress(capture.body, wbits=31) if verdict.decoded else capture.body
    session.receive_data(decoded)
    session.receive_end(CLEAN, 0.0)
    found: Counter[str] = Counter()
    for finding in verdict.findings:
        found[finding.name] += finding.times
    # Of its own are what the edge does, a note, and what follows the end.
    own = {"decoded_body", "added_finish_reason"}
    own |= {"dropped_dataless"} if verdict.endpoint == "responses" else set()
    report = session.report()
    counted = Counter(incident.fault.value for incident in report.incidents) + Counter(
        report.repairs
    )
    assert {name: n for name, n in found.items() if name not in own} == dict(counted)


VISIBLE = {key.partition("/")[0] for key in SURVIVAL} - {fault.value for fault in Fault}
SHOWN = [
    (scenario, endpoint)
    for scenario in SCENARIOS.values()
    for endpoint in sorted(scenario.endpoints & {"chat_completions", "completions", "responses"})
    if scenario.fault in VISIBLE - {"set_content_type"}
]


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: f"{shown[0].name}-{shown[1]}")
def test_what_a_scenario_shows_is_found(shown: tuple[object, str]) -> None:
    """The demonstration's upstream breaks rules that the linter knows."""
    scenario, endpoint = shown
    asked = Asked(endpoint=endpoint, model=scenario.name)  # type: ignore[attr-defined]
    answer = scenario.answer(asked, 1)  # type: ignore[attr-defined]
    body = b"".join(piece for piece in answer.pieces if isinstance(piece, bytes))
    verdict = lint(body)
    assert scenario.fault in {f.name for f in verdict.findings}  # type: ignore[attr-defined]
    assert verdict.endpoint == endpoint


# --- where ----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize(
    ("form", "key"),
    [
        (b"event: ping\n\n", "dropped_dataless"),
        (b"data: : ping\n\n", "dropped_comment/data"),
        (b"data: broken\n\n", "malformed_event"),
        (sse({"error": {"message": "x"}}), "in_stream_error"),
        (sse(raw(CHAT[1])[:40], raw(CHAT[1])[40:]), "joined_events"),
        (sse(b'{"choices":[{"index":0,"delta":'), "malformed_event"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_finding_is_at_the_event_that_it_is_made_in(form: bytes, key: str, end: bytes) -> None:
    """Whatever the line ends are, and if it is only known with the next event."""
    before, after = sse(*CHAT[:2]).replace(b"\n", end), (sse(*CHAT[2:]) + DONE).replace(b"\n", end)
    found = places(lint(before + form.replace(b"\n", end) + after))
    assert found[key] == len(before)


def test_an_end_that_is_missing_is_missing_at_the_end() -> None:
    """Where the body stops; what stopped inside an event is where that begins."""
    body = sse(*CHAT[:2])
    assert places(lint(body))["clean_eof"] == len(body)
    assert places(lint(sse(*CHAT)))["added_done"] == len(sse(*CHAT))
    assert places(lint(body + b"data: {"))["cut_mid_event"] == len(body)
    assert places(lint(sse(*CHAT[:3]) + sse(CHAT[3])[:-1]))["closed_final_event"] == len(
        sse(*CHAT[:3])
    )


def test_repairs_of_one_form_are_one_finding() -> None:
    """With the first place and a count; another form is another finding."""
    ping, wrapped = b": ping\n\n", b"data: : ping\n\n"
    verdict = lint(sse(CHAT[0]) + ping + sse(CHAT[1]) + wrapped + ping + sse(*CHAT[2:]) + DONE)
    found = [(f.form, f.at, f.times) for f in verdict.findings]
    first = len(sse(CHAT[0]))
    assert found == [("", first, 2), ("data", first + len(ping) + len(sse(CHAT[1])), 1)]


def test_offsets_count_the_head_and_what_was_compressed_is_counted_decoded() -> None:
    """They are where one would look."""
    bad = sse(*CHAT[:2]) + b"data: no\n\n"
    assert places(lint(head() + bad))["malformed_event"] == len(head() + sse(*CHAT[:2]))
    verdict = lint(head() + gzipped(bad))
    assert verdict.decoded
    assert (verdict.size, places(verdict)["malformed_event"]) == (len(bad), len(sse(*CHAT[:2])))


# --- what the SDKs make of it ---------------------------------------------------------------


def test_the_first_exception_ends_it_and_what_is_behind_does_not_count() -> None:
    """Else the worst counts."""
    body = b"\xef\xbb\xbf" + sse(CHAT[0]) + b"event: ping\n\n" + sse(CHAT[1]) + b"data: no\n\n"
    outcome = lint(body).outcome("python")
    assert (outcome.fate, outcome.error) == (Fate.CRASHES, "JSONDecodeError")
    assert outcome.finding is not None
    assert outcome.finding.name == "dropped_dataless"
    mild = lint(b"\xef\xbb\xbf" + WHOLE.replace(b"\n", b"\r\n"))
    assert mild.outcome("python").fate is Fate.LOSES
    assert mild.outcome("node").fate is Fate.SURVIVES


def test_what_follows_the_end_is_judged_where_sdks_read_it() -> None:
    """They stop at ``[DONE]``, and read a response to its last byte."""
    rest = b"event: ping\n\n" + sse({"half": 1})[:-6]
    assert keys(lint(WHOLE + rest)) == []
    assert lint(WHOLE + rest).unread == len(rest.strip()) - 2
    response = lint(named(*RESPONSE) + rest)
    assert keys(response) == ["dropped_dataless", "cut_mid_event/whole"]
    assert response.ending is Ending.TERMINAL_EVENT
    assert {finding.phase for finding in response.findings} == {"", "after_terminal"}


def test_every_fault_and_repair_has_its_fate() -> None:
    """Or cannot be seen in a body."""
    names = {key.partition("/")[0] for key in SURVIVAL}
    assert {fault.value for fault in Fault} | repairs_in_code() <= names | UNSEEN
    assert not names & UNSEEN


def test_no_fate_is_of_something_that_does_not_exist() -> None:
    """Every name is a fault, or one that the code counts somewhere."""
    sources = (path for path in (ROOT / "proxy").rglob("*.py") if path.parent.name != "lint")
    code = "\n".join(path.read_text("utf-8") for path in sources)
    names = {key.partition("/")[0] for key in SURVIVAL} | UNSEEN
    assert [name for name in names if f'"{name}"' not in code] == []


def test_every_fate_has_a_body_that_it_was_tried_with() -> None:
    """What the SDKs do with those is seen in ``test_check_sdks``."""
    tried = {capture.key for capture in CAPTURES if parts(capture.key)[1] != DOCUMENT}
    # The last one never comes alone: it follows an error.
    assert tried - {""} == SURVIVAL.keys() - {"added_response_failed"}


def test_whatever_is_allowed_is_survived() -> None:
    """By both."""
    allowed = [survival for survival in SURVIVAL.values() if survival.allowed]
    assert {(s.python, s.node) for s in allowed} == {(Fate.SURVIVES, Fate.SURVIVES)}


# --- what is shown --------------------------------------------------------------------------


def test_every_finding_has_its_sentence() -> None:
    """Each repair, and each form of one that has a fate of its own."""
    faults = {fault.value for fault in Fault}
    repairs = {key for key in SURVIVAL if key.partition("/")[0] not in faults}
    told = {key for key in MEANINGS if key.partition("/")[0] not in faults}
    assert told == repairs
    assert len(set(MEANINGS.values())) == len(MEANINGS)


@pytest.mark.parametrize("capture", CAPTURES, ids=name_of)
def test_a_report_is_narrow_and_says_what_the_json_says(capture: Capture) -> None:
    """A line for each finding and each SDK, and a last one that sums up."""
    verdict = lint(capture.captured)
    text, facts = as_text(verdict), json.loads(as_json(verdict))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert text.isascii()
    assert lines[-1].startswith("clean") == verdict.clean == facts["clean"]
    for finding, told in zip(verdict.findings, facts["findings"], strict=True):
        assert re.search(rf"^ *{finding.at}  {finding.name} +{finding.times}  ", text, re.MULTILINE)
        assert (told["byte"], told["name"], told["times"]) == (
            *(finding.at, finding.name, finding.times),
        )
        assert told["meaning"] == meaning_of(finding)
        assert told["kind"] == ("fault" if finding.is_fault else "repair")
    for sdk, name in (("python", "Python"), ("node", "Node")):
        outcome = facts["sdks"][sdk]
        [line] = [line for line in lines if line.startswith("openai") and name in line]
        assert outcome["exception"] is None or outcome["exception"] in line
        assert outcome["byte"] is None or f"at byte {outcome['byte']})" in line


def test_the_json_has_the_keys_that_are_promised() -> None:
    """All of them, also where there is nothing to say."""
    facts = json.loads(as_json(lint(sse(*CHAT[:2]))))
    assert list(facts) == [
        *("endpoint", "known_by", "bytes", "decoded", "events", "ending", "clean"),
        *("findings", "sdks", "unread_bytes"),
    ]
    [finding] = facts["findings"]
    assert list(finding) == [
        *("kind", "name", "form", "byte", "times", "phase", "allowed", "meaning"),
    ]
    assert list(facts["sdks"]["node"]) == ["fate", "exception", "name", "byte"]


@pytest.mark.parametrize(
    "body",
    [
        sse(chunk(content=CANARY)) + f"event: {CANARY}\n\ndata: {CANARY}\n\n".encode(),
        sse({"error": {"message": CANARY, "code": CANARY}}),
        f"<html><body>{CANARY}</body></html>".encode(),
        raw({"error": {"message": CANARY}}),
        f"data: error: {CANARY}\n\n: {CANARY}\n\n".encode(),
        head(500, (("x", CANARY),)) + CANARY.encode(),
    ],
)
def test_nothing_of_the_body_is_shown(body: bytes) -> None:
    """It may be somebody's letter."""
    verdict = lint(body)
    assert CANARY not in as_text(verdict) + as_json(verdict)


# --- whatever the bytes are -----------------------------------------------------------------

_PIECES = st.sampled_from(
    [
        *(sse(payload) for payload in (*CHAT, *RESPONSE)),
        *(DONE, b"\xef\xbb\xbf", b"\n", b"\r", b"\r\n", b"\0", b": c", b"event: x\n", b"data:"),
        *(b"id: 1\n", b"retry: 2\n", b"{", b"}", b"data: {", b'{"error":', b"[", b"<p>", b"\xff"),
        *(head(), head(500), gzipped(WHOLE), b'"type":"response.failed"', b"HTTP/1.1 200\n"),
    ]
)


@given(st.binary() | st.lists(_PIECES, max_size=12).map(b"".join))
def test_any_bytes_have_a_verdict(body: bytes) -> None:
    """No exception, and a report that is consistent with itself."""
    for endpoint in ("", *ENDPOINTS):
        verdict = lint(body, endpoint)
        assert as_text(verdict)
        facts = json.loads(as_json(verdict))
        assert facts["clean"] == all(finding["allowed"] for finding in facts["findings"])
        assert all(0 <= finding["byte"] <= facts["bytes"] for finding in facts["findings"])
        assert (verdict.ending is Ending.BROKEN) <= (not verdict.clean)


@pytest.mark.parametrize(
    "piece",
    [
        *(b"\n", b"\r", b"\r\n", b"x", b": c\n\n", b"\n:", b"event: x\n\n", b"data: x\n", b"{"),
        *(
            sse(CHAT[1]),
            b'"',
            b"\\",
            b"\0",
            b"id: 1\n\n",
            b"HTTP/1.1 200\n\n",
            b"HTTP/1.1 200\na\n",
        ),
    ],
    ids=repr,
)
def test_a_large_body_takes_no_more_than_its_share(piece: bytes) -> None:
    """What is quadratic in a megabyte does not come to an end."""
    assert as_text(lint(piece * (2**20 // len(piece))))
