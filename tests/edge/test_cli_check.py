"""``wholestream check``, run as a user runs it: what goes in, what comes out, and exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from captures import CHAT, EVENT_STREAM, WHOLE, gzipped, head
from support import sse

from proxy.demo.answers import Asked
from proxy.demo.scenarios import SCENARIOS
from proxy.lint.reading import lint
from proxy.lint.report import as_text

ROOT = Path(__file__).parent.parent.parent
PROGRAM = (sys.executable, "-m", "proxy", "check")
CUT = sse(*CHAT[:2])
CODED = head(headers=(*EVENT_STREAM, ("Content-Encoding", "br"))) + b"\x8b\x02\x80"

Ended = subprocess.CompletedProcess[bytes]


def check(*arguments: str, body: bytes = b"") -> Ended:
    """Run the command to its end, with a body on standard input."""
    return subprocess.run(  # noqa: S603 - our own program
        [*PROGRAM, *arguments], check=False, capture_output=True, input=body, timeout=60, cwd=ROOT
    )


def refusal(ended: Ended) -> str:
    """Return the one line of a run that refused its usage."""
    assert (ended.returncode, ended.stdout) == (2, b""), ended
    [line] = ended.stderr.decode().splitlines()
    assert line.startswith("wholestream: ")
    return line.removeprefix("wholestream: ")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Return a file with a whole answer."""
    path = tmp_path / "whole.sse"
    path.write_bytes(WHOLE)
    return path


@pytest.mark.parametrize(
    ("body", "code"),
    [(WHOLE, 0), (b": ping\n\n" + WHOLE, 0), (gzipped(WHOLE), 0), (CUT, 1), (b"", 1)],
    ids=["whole", "comment", "gzip", "cut", "empty"],
)
def test_the_exit_code_says_whether_a_body_is_clean(body: bytes, code: int, tmp_path: Path) -> None:
    """The same from a file, from a pipe, and from a pipe that is named; nothing on stderr."""
    path = tmp_path / "captured"
    path.write_bytes(body)
    runs = [check(str(path)), check(body=body), check("-", body=body)]
    assert {(run.returncode, run.stdout, run.stderr) for run in runs} == {
        (code, as_text(lint(body)).encode() + b"\n", b"")
    }


def test_json_is_one_object(stored: Path) -> None:
    """With the same exit codes."""
    assert json.loads(check(str(stored), "--json").stdout)["clean"] is True
    ended = check("--json", "-", body=CUT)
    assert (ended.returncode, json.loads(ended.stdout)["clean"]) == (1, False)


def test_the_endpoint_may_be_given(stored: Path) -> None:
    """It goes before what the events tell."""
    ended = check("--endpoint", "responses", "--json", str(stored))
    assert (ended.returncode, json.loads(ended.stdout)["endpoint"]) == (1, "responses")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no/such.sse"], "no/such.sse: No such file or directory"),
        (["."], ".: Is a directory"),
        (["a\x1bb"], "'a\\x1bb': No such file or directory"),
        (["--endpoint", "chats"], "argument --endpoint: choose one of chat_completions, "),
        (["--endpoint"], "argument --endpoint: expected one argument"),
        (["--jsonn"], "--jsonn: unknown flag"),
        (["--port", "1"], "--port: unknown flag"),
        (["a", "b"], "unexpected argument"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], told: str) -> None:
    """It says what is wrong, and exits with 2."""
    assert refusal(check(*arguments, body=WHOLE)).startswith(told)


def test_a_compression_that_is_not_known_is_one_line() -> None:
    """Which says what to do."""
    assert refusal(check(body=CODED)).endswith("try curl --compressed")


def test_nobody_waits_for_a_person_to_type_a_stream() -> None:
    """On a terminal it is said how to give a body."""
    here, there = pty.openpty()
    with os.fdopen(here, "wb", 0), os.fdopen(there, "rb", 0) as terminal:
        ended = subprocess.run(  # noqa: S603 - our own program
            PROGRAM, check=False, capture_output=True, stdin=terminal, timeout=60, cwd=ROOT
        )
    assert "| wholestream check -" in refusal(ended)


def test_no_standard_input_is_wrong_usage() -> None:
    """As a service might start it."""
    ended = subprocess.run(  # noqa: S603 - our own program
        ["/bin/sh", "-c", 'exec "$@" <&-', "sh", *PROGRAM],
        check=False,
        capture_output=True,
        timeout=60,
        cwd=ROOT,
    )
    assert "| wholestream check -" in refusal(ended)


def test_the_readme_shows_a_report_as_it_is() -> None:
    """Of what the demonstration's upstream sends for a model."""
    answer = SCENARIOS["ws-id-field"].answer(Asked(model="ws-id-field"), 1)
    body = b"".join(piece for piece in answer.pieces if isinstance(piece, bytes))
    page = (ROOT / "README.md").read_text("utf-8")
    assert f"$ wholestream check answer.sse\n{as_text(lint(body))}\n```" in page


@pytest.mark.parametrize("flag", ["", "--json"])
@pytest.mark.parametrize("body", [WHOLE, CUT], ids=["clean", "cut"])
def test_a_verdict_that_nobody_reads_is_none(body: bytes, flag: str, tmp_path: Path) -> None:
    """Neither clean nor not; and not a word about it, as of any program in a pipe."""
    path = tmp_path / "captured"
    path.write_bytes(body)
    here, there = os.pipe()
    os.close(here)
    with os.fdopen(there, "wb", 0) as closed:
        ended = subprocess.run(  # noqa: S603 - our own program
            [*PROGRAM, str(path), *filter(None, [flag])],
            check=False,
            stdout=closed,
            stderr=subprocess.PIPE,
            timeout=60,
            cwd=ROOT,
        )
    assert (ended.returncode, ended.stderr) == (2, b"")


def test_a_verdict_that_cannot_be_written_is_one_line(stored: Path) -> None:
    """A full disk is no fault of the stream."""
    with Path("/dev/full").open("wb", 0) as full:
        ended = subprocess.run(  # noqa: S603 - our own program
            [*PROGRAM, str(stored)],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            cwd=ROOT,
        )
    assert ended.returncode == 2
    assert ended.stderr == b"wholestream: standard output: No space left on device\n"


def test_an_interrupt_ends_the_judging_without_a_word() -> None:
    """Once all is read, there is nothing else to end. Interrupts before that end the reading."""
    pipe = subprocess.PIPE
    with subprocess.Popen(PROGRAM, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT) as running:  # noqa: S603 - our own program
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None
        # Takes much longer than three seconds; once it is written, all but a pipe's size was read.
        running.stdin.write(b":\n\n" * 2**22)
        running.stdin.close()
        for _ in range(3):
            running.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(1)
                break
        out, err = running.stdout.read(), running.stderr.read()
    assert (running.returncode, out, err) == (130, b"", b"")


def test_an_interrupt_ends_the_capture_and_not_the_check() -> None:
    """Who interrupts ``curl | wholestream check`` wants to know what came until then.

    The first is curl's, which then closes the pipe; where nobody does, the second ends it.
    """
    pipe = subprocess.PIPE
    more = b": more\n\n" * 2**15  # than a pipe holds: once it is written, some has been read
    with subprocess.Popen(PROGRAM, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT) as running:  # noqa: S603 - our own program
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None
        for part in (sse(*CHAT) + more, more):
            running.stdin.write(part)
            running.stdin.flush()
            running.send_signal(signal.SIGINT)
        out, err = running.stdout.read(), running.stderr.read()
    assert (running.returncode, err) == (1, b"")
    assert b"added_done" in out
