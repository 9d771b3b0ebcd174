"""The SDKs for Python and for Node as applications use them, and all that an application has.

Knows the SDKs' calls. What is read comes back as plain JSON, in one form for all: ``items`` of
a stream read as it is, or a helper's ``final`` object with its ``done`` events, or ``error``.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import openai

from e2e.sdk import async_client, sync_client

Told = dict[str, Any]
Sdk = Literal["python", "python-async", "openai", "openai-6"]

NODE = Path(__file__).parent / "node"
NODE_S = 60.0
INSTALL_S = 110.0
AT_ONCE = 16


@dataclass(frozen=True)
class Call:
    """One call of an application; ``read`` is a family and a way, such as "chat helper"."""

    name: str
    sdk: Sdk
    read: str
    params: Told
    headers: dict[str, str]


async def read_all(base_url: str, calls: Iterable[Call]) -> dict[str, Told]:
    """Make all calls, return by name what each of them gave."""
    by_sdk: dict[str, list[Call]] = {}
    for call in calls:
        group = {"python": "sync", "python-async": "async"}.get(call.sdk, "node")
        by_sdk.setdefault(group, []).append(call)
    ways = {"sync": _in_threads, "async": _in_loop, "node": _in_node}
    found: dict[str, Told] = {}
    for (
        group,
        few,
    ) in by_sdk.items():  # one after another: threads must not collect a loop's streams
        found.update(await ways[group](base_url, few))
    return found


# --- Python ---------------------------------------------------------------------------------


async def _in_threads(base_url: str, calls: list[Call]) -> dict[str, Told]:
    loop = asyncio.get_running_loop()
    with sync_client(base_url) as client, ThreadPoolExecutor(AT_ONCE) as threads:
        one = functools.partial(_sync, client)
        told = await asyncio.gather(*(loop.run_in_executor(threads, one, call) for call in calls))
    return {call.name: one for call, one in zip(calls, told, strict=True)}


async def _in_loop(base_url: str, calls: list[Call]) -> dict[str, Told]:
    free = asyncio.Semaphore(AT_ONCE)
    async with async_client(base_url) as client:

        async def one(call: Call) -> Told:
            async with free:
                return await _async(client, call)

        told = await asyncio.gather(*map(one, calls))
    # What the SDK left to the collector must not be left to one that runs in another thread.
    gc.collect()
    await asyncio.sleep(0.01)
    return {call.name: one for call, one in zip(calls, told, strict=True)}


def _sync(client: openai.OpenAI, call: Call) -> Told:
    opened = _open(client, call)
    try:
        if call.read.endswith("raw"):
            return {"items": [plain(item) for item in opened()]}
        with opened() as stream:
            done = list(_done(stream))
            return {"final": plain(_final(stream)), "done": done}
    except Exception as error:  # noqa: BLE001 - whatever an application would meet
        return _caught(error)


async def _async(client: openai.AsyncOpenAI, call: Call) -> Told:
    opened = _open(client, call)
    try:
        if call.read.endswith("raw"):
            return {"items": [plain(item) async for item in await opened()]}
        async with opened() as stream:
            done = [event async for event in _done_async(stream)]
            return {"final": plain(await _final(stream)), "done": done}
    except Exception as error:  # noqa: BLE001 - whatever an application would meet
        return _caught(error)


FILE = ("a.wav", b"RIFF\x00\xff" + bytes(range(256)), "audio/wav")

_FILES = {"edits": "image", "transcriptions": "file"}
"""What the file is called that goes along with a request."""

_OTHERS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "images": lambda client: client.images.generate,
    "edits": lambda client: client.images.edit,
    "transcriptions": lambda client: client.audio.transcriptions.create,
    "runs": lambda client: client.beta.threads.runs.create,
    "threads": lambda client: client.beta.threads.create_and_run,
    "agents": lambda client: client.beta.agents.sessions.create,
    "session": lambda client: client.beta.agents.sessions.events.stream,
}


def _open(client: Any, call: Call) -> Any:
    family, _, way = call.read.partition(" ")
    made: Told = {**call.params, "extra_headers": call.headers}
    if family in _FILES:
        made[_FILES[family]] = FILE
    if family in _OTHERS:
        asks = {} if family == "session" else {"stream": True}
        return lambda: _OTHERS[family](client)(**made, **asks)
    home = client.chat.completions if family == "chat" else getattr(client, family)
    if way == "raw":
        return lambda: home.create(**made, stream=True)
    return lambda: home.stream(**made)


def _final(stream: Any) -> Any:
    if hasattr(stream, "get_final_response"):
        return stream.get_final_response()
    return stream.get_final_completion()


def _done(stream: Any) -> Iterator[Told]:
    yield from (plain(event) for event in stream if _is_done(event))


async def _done_async(stream: Any) -> AsyncIterator[Told]:
    async for event in stream:
        if _is_done(event):
            yield plain(event)


def _is_done(event: Any) -> bool:
    return event.type != "chunk" and not event.type.endswith(".delta")


def plain(found: Any) -> Told:
    """Make JSON of one of the SDK's objects, with what the wire had and nothing else."""
    # The SDK's parsed types are not those that their fields declare.
    made: Told = found.model_dump(mode="json", exclude_unset=True, by_alias=True, warnings=False)
    return made


def _caught(error: Exception) -> Told:
    refused = isinstance(error, openai.APIError)
    found = {"name": type(error).__name__, "message": str(error), "api_error": refused}
    return {"error": {**found, "code": getattr(error, "code", None)}}


# --- Node -----------------------------------------------------------------------------------


async def installed() -> None:
    """Install the packages for Node where they are not, or fail and say why."""
    wanted = json.loads((NODE / "package.json").read_text("utf-8"))["dependencies"]
    if all(version.endswith(_found(name)) for name, version in wanted.items()):
        return
    npm = shutil.which("npm")
    assert npm, "Node and npm are needed to try the SDK for Node"
    flags = ("--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock")
    code, out, err = await _run(INSTALL_S, npm, "install", "--engine-strict=false", *flags)
    assert code == 0, f"npm install in {NODE} failed:\n{out.decode()}\n{err.decode()}"


def _found(name: str) -> str:
    """Return the version that is installed, or what no version is."""
    path = NODE / "node_modules" / name / "package.json"
    return str(json.loads(path.read_text("utf-8"))["version"]) if path.exists() else "none"


async def _in_node(base_url: str, calls: list[Call]) -> dict[str, Told]:
    await installed()
    node = shutil.which("node")
    assert node, "Node is needed to try its SDK"
    asked = json.dumps([vars(call) for call in calls]).encode()
    code, out, err = await _run(NODE_S, node, "consume.mjs", base_url, asked=asked)
    assert (code, err) == (0, b""), err.decode()
    found = {one.pop("name"): one for one in map(json.loads, out.splitlines())}
    assert found.keys() == {call.name for call in calls}
    return found


async def _run(within_s: float, *command: str, asked: bytes = b"") -> tuple[int, bytes, bytes]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=NODE, env=os.environ
    )
    try:
        async with asyncio.timeout(within_s):
            out, err = await process.communicate(asked)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, out, err
