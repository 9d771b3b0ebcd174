"""One worker process, from the parent's side: started, asked, told, buried.

Knows processes and the channel to them. Must not know when a worker is wanted. Secrets go
through the channel, never on a command line or into a file.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

from proxy.channel import WORDS, Channel, Drain, Listening, Refused, Report, Setup, Told, Word
from proxy.worker import SIGNALS

START_S = 60.0
"""Longer than a worker takes to start, however busy the machine is."""

_EXIT_S = 2.0
_LOOK_S = 0.01
_MAX_QUESTIONS = 8


class Worker:
    """One process, from its start to its end."""

    def __init__(
        self, setup: Setup, listening: Callable[[Worker], None], told: Callable[[Told], None]
    ) -> None:
        """Take what it is to be, and who is told that it listens and what it tells."""
        self.number = setup.number
        self.pid = 0
        self.serving = False
        """It listens, and was not told to stop."""
        self.has_listened = False
        self.refusal = ""
        """Why it could not start, if it said so."""
        self._setup = setup
        self._listening = listening
        self._told = told
        self._channel: Channel[Word] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._questions = itertools.count(1)
        self._asked: dict[int, asyncio.Future[None]] = {}

    async def live(self) -> int:
        """Start the process and wait for its end; return its code, negative for a signal.

        Whoever cancels this kills it. Raises OSError where it cannot be started.
        """
        self._process, end = _spawn(self.number)
        self.pid = self._process.pid
        try:
            self._channel = await Channel.over(end, WORDS)
            self._channel.say(self._setup)
            await self._listen(self._channel)
        except BaseException:
            self.kill()
            raise
        finally:
            self.serving = False
            await self._hang_up()
            code = await _buried(self._process)
        return code

    def ask(self) -> asyncio.Future[None]:
        """Ask for its numbers; done when they have been told, cancelled when they never will."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._channel is None or len(self._asked) >= _MAX_QUESTIONS:
            # One that has not answered so often does not answer.
            answer.cancel()
            return answer
        question = next(self._questions)
        self._asked[question] = answer
        self._channel.say(Report(question))
        return answer

    def drain(self) -> None:
        """Tell it to serve no more; the second time, to end at once. One that starts is killed."""
        self.serving = False
        if not self.has_listened:
            self.kill()
        elif self._channel is not None:
            self._channel.say(Drain())

    def kill(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _listen(self, channel: Channel[Word]) -> None:
        try:
            async with asyncio.timeout(START_S) as patience:
                while (word := await channel.hear()) is not None:
                    self._take(word)
                    if self.has_listened:
                        patience.reschedule(None)
        except TimeoutError:
            self.kill()

    async def _hang_up(self) -> None:
        channel, self._channel = self._channel, None
        for answer in self._asked.values():
            answer.cancel()
        if channel is not None:
            await channel.close()

    def _take(self, word: Word) -> None:
        if isinstance(word, Listening):
            self.serving = self.has_listened = True
            self._listening(self)
        elif isinstance(word, Refused):
            self.refusal = word.text
        else:
            self._told(word)
            answer = self._asked.pop(word.question, None)
            if answer is not None and not answer.done():
                answer.set_result(None)


def _spawn(number: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a process; return it and our end of the channel. Raises OSError."""
    ours, theirs = socket.socketpair()
    with theirs:
        # Not -m: that would look for our package in the current directory, where another one of
        # its name may be. The child finds what we have found. The name is for lists of processes.
        call = f"from proxy.worker import main; main({theirs.fileno()})"
        code = f"'wholestream worker {number}'; import sys; sys.path[:] = {sys.path!r}; {call}"
        # A signal to the group must not end the child before it knows how to ignore it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process, ours


async def _buried(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process that has closed its channel, or make an end of it; return its code."""
    for _ in range(int(_EXIT_S / _LOOK_S)):
        if process.poll() is not None:
            return process.returncode
        await asyncio.sleep(_LOOK_S)
    process.kill()
    return await asyncio.to_thread(process.wait)


def ending(code: int) -> str:
    """Return in words how a process ended."""
    if code >= 0:
        return f"exit code {code}"
    known = {number.value: number.name for number in signal.Signals}
    return known.get(-code, f"signal {-code}")
