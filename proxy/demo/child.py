"""The real proxy as a child process of the demonstration, which never outlives it.

Knows the command line and the admin listener. Must not know scenarios.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import proxy

READY_S = 15.0
STOP_S = 5.0


class ChildError(Exception):
    """The proxy did not start; the message holds the end of what it printed."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running proxy."""

    port: int
    admin_port: int
    pid: int

    @property
    def base_url(self) -> str:
        """What an application's ``OPENAI_BASE_URL`` is to be."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def admin_url(self) -> str:
        """Where metrics and incidents are."""
        return f"http://127.0.0.1:{self.admin_port}"

    async def metrics(self) -> str:
        """Return the text of ``/metrics``."""
        _, body = await asyncio.to_thread(_get, self.admin_port, "/metrics")
        return body


@contextlib.asynccontextmanager
async def running(
    upstream: str, flags: Sequence[str], ports: tuple[int, int] = (0, 0)
) -> AsyncIterator[Child]:
    """Run the proxy in front of an upstream. A port that is 0 or taken becomes a free one."""
    port, admin_port = (_free_port(wanted) for wanted in ports)
    listeners = ["--port", str(port), "--admin-port", str(admin_port), "--upstream", upstream]
    with tempfile.TemporaryFile() as printed:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "proxy", "serve", *listeners, *flags),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            # Where this very package is found, whatever the user's directory has.
            cwd=Path(proxy.__file__).parent.parent,
            env={k: v for k, v in os.environ.items() if not k.startswith("WHOLESTREAM_")},
        )
        try:
            await _wait_ready(process, admin_port, printed)
            yield Child(port, admin_port, process.pid)
        finally:
            await _stop(process)


async def _wait_ready(
    process: asyncio.subprocess.Process, admin_port: int, printed: IO[bytes]
) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + READY_S
    while process.returncode is None and loop.time() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, _ = await asyncio.to_thread(_get, admin_port, "/readyz")
            if status == http.HTTPStatus.OK:
                return
        await asyncio.sleep(0.05)
    printed.seek(0)
    last = printed.read().decode("utf-8", "replace").splitlines()[-5:]
    raise ChildError("\n".join(["the proxy did not become ready", *last]))


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await process.wait()
    finally:
        # Also when this very wait is cancelled: the child must not stay behind.
        if process.returncode is None:
            process.kill()
            await process.wait()


def _get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found: int = probe.getsockname()[1]
            return found
    raise ChildError("no free port on 127.0.0.1")
