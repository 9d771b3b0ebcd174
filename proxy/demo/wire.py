"""HTTP/1.1 by hand: requests read as they came, answers written as they are told.

Knows sockets and framing, and breaks both on demand. Must not know endpoints or scenarios.
A library would refuse to send most of what is sent here.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from functools import cached_property
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from proxy.demo.answers import Answer, Pause, Piece, Raw

HEAD_BYTES = 2**20
"""A request head longer than this ends its connection."""

_LINGER_ZERO = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Received:
    """One request as it came. ``at`` is ``loop.time()`` when its last byte was read.

    ``connection`` counts the upstream's connections from 1, ``attempt`` the requests for the
    same model from 1.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int = 0
    attempt: int = 0
    at: float = 0.0

    def header(self, name: str) -> str | None:
        """Return the first header of this name, whatever its case."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)

    @cached_property
    def path(self) -> str:
        """The target without its query."""
        return urlsplit(self.target).path

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The body's JSON object, the fields of a form, or else the query's last values."""
        try:
            found = json.loads(self.body)
        except ValueError:
            found = form_fields(self.header("content-type") or "", self.body)
        if isinstance(found, dict):
            return found
        return {key: values[-1] for key, values in parse_qs(urlsplit(self.target).query).items()}

    @property
    def model(self) -> str:
        """The model asked for, that of an agent included, or nothing."""
        agent = self.fields.get("agent")
        model = self.fields.get("model") or (isinstance(agent, dict) and agent.get("model"))
        return model if isinstance(model, str) else ""


def form_fields(content_type: str, body: bytes) -> dict[str, str] | None:
    """Return the fields of a form that are no files (RFC 7578); None if it is no form."""
    told = Message()
    told["Content-Type"] = content_type
    boundary = told.get_boundary()
    if told.get_content_type() != "multipart/form-data" or not boundary:
        return None
    fields: dict[str, str] = {}
    for part in (b"\r\n" + body).split(f"\r\n--{boundary}".encode("latin-1"))[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        headers = BytesHeaderParser().parsebytes(head.lstrip(b"\r\n"))
        name = headers.get_param("name", header="content-disposition")
        if isinstance(name, str) and headers.get_filename() is None:
            fields[name] = value.decode("utf-8", "replace")
    return fields


async def read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Received | None:
    """Read one request; None when the connection ended. Raises ValueError if it is none."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = lines[0].split(" ")
        pairs = (line.partition(":") for line in lines[1:])
        headers = tuple((name, value.strip()) for name, _, value in pairs)
        known = {name.lower(): value for name, value in headers}
        if known.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await _read_body(reader, known)
    except (ConnectionError, EOFError):
        return None
    except asyncio.LimitOverrunError as error:
        raise ValueError("the head is too long") from error
    return Received(method, target, headers, body, at=asyncio.get_running_loop().time())


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        continue
    return bytes(body)


async def send(answer: Answer, writer: asyncio.StreamWriter) -> bool:
    """Write an answer; return whether its connection may carry another request."""
    await asyncio.sleep(answer.before_s)
    if answer.status:
        await _write(writer, _head(answer))
    for piece in answer.pieces:
        await _send_piece(piece, writer, chunked=bool(answer.status) and _is_chunked(answer))
    if answer.end == "hold":
        await asyncio.Event().wait()
    if answer.end == "reset":
        reset(writer)
        return False
    if answer.end == "clean" and answer.status and _is_chunked(answer):
        await _write(writer, b"0\r\n\r\n")
    if answer.end in {"clean", "told"} and not _says_close(answer):
        return True
    writer.write_eof()
    writer.close()
    return False


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection by RST."""
    # Through a duplicate of the descriptor, because uvloop's sockets take no options.
    twin = socket.fromfd(
        writer.get_extra_info("socket").fileno(), socket.AF_INET, socket.SOCK_STREAM
    )
    twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    twin.close()
    writer.transport.abort()


def _head(answer: Answer) -> bytes:
    phrase = HTTPStatus(answer.status).phrase if answer.status in set(HTTPStatus) else ""
    lines = [f"HTTP/1.1 {answer.status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    if answer.framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
    elif answer.framing == "length":
        lines.append(f"Content-Length: {answer.size if answer.length is None else answer.length}")
    else:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _is_chunked(answer: Answer) -> bool:
    return answer.framing == "chunked"


def _says_close(answer: Answer) -> bool:
    told = (value.lower() for name, value in answer.headers if name.lower() == "connection")
    return "close" in told or answer.framing == "close"


async def _send_piece(piece: Piece, writer: asyncio.StreamWriter, *, chunked: bool) -> None:
    if isinstance(piece, Pause):
        await asyncio.sleep(piece.seconds)
    elif isinstance(piece, Raw):
        await _write(writer, piece.data)
    elif chunked and piece:
        await _write(writer, b"%x\r\n%b\r\n" % (len(piece), piece))
    else:
        await _write(writer, piece)


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    # The write buffer's limit is 0, so this returns once the kernel has it all; the sleep lets
    # a client in the same process read before the next write is there as well.
    writer.write(data)
    await writer.drain()
    await asyncio.sleep(0)
