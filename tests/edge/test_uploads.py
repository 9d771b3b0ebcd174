"""What is known of a multipart upload before its file, and that all of it is passed on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from hypothesis import given
from hypothesis import strategies as st
from support import bytewise, cut_randomly

from proxy.uploads import Upload, fields_of, opened

KIND = "multipart/form-data; boundary=b15"
MOST = 64 * 1024


def part(headers: str, value: bytes) -> bytes:
    """Write one part."""
    return b"--b15\r\n" + headers.encode() + b"\r\n\r\n" + value + b"\r\n"


def text(name: str, value: str) -> bytes:
    """Write a text field."""
    return part(f'Content-Disposition: form-data; name="{name}"', value.encode())


FILE = part(
    'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav',
    b"RIFF\r\n--b1 is no boundary\r\n\x00\xff",
)
END = b"--b15--\r\n"
FIELDS = text("model", "m") + text("stream", "true")
ASKED = {"model": "m", "stream": "true"}


def begun(*reads: bytes) -> StreamReader:
    """Return a body of which some reads have come."""
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    protocol.transport = asyncio.Transport()  # its connection is there
    content = StreamReader(protocol, 2**20, loop=loop)
    for read in reads:
        content.feed_data(read)
    return content


def reader(reads: Iterable[bytes]) -> StreamReader:
    """Return a body whose reads have come, and its end."""
    content = begun(*reads)
    content.feed_eof()
    return content


async def read(upload: Upload) -> bytes:
    """Read an upload to its end."""
    return b"".join([piece async for piece in upload])


# --- fields ---------------------------------------------------------------------------------

FORMS: dict[str, tuple[bytes, dict[str, str]]] = {
    "fields first": (FIELDS + FILE + END, ASKED),
    "file first": (FILE + FIELDS + END, {}),
    "file between": (text("model", "m") + FILE + text("stream", "true") + END, {"model": "m"}),
    "no file": (FIELDS + END, ASKED),
    "a preamble": (b"not for you\r\n" + FIELDS + END, ASKED),
    "no end": (FIELDS + FILE, ASKED),
    "a field that is not whole": (FIELDS + text("n", "2")[:-2], ASKED),
    "a name in another place": (
        part('content-disposition:form-data;NAME="model"\r\nX-Y: 1', b"m") + END,
        {"model": "m"},
    ),
    "a value of several lines": (
        text("prompt", "a\r\nb\r\n\r\nc") + END,
        {"prompt": "a\r\nb\r\n\r\nc"},
    ),
    "an empty value": (text("prompt", "") + END, {"prompt": ""}),
    "a value that is no UTF-8": (
        part('Content-Disposition: form-data; name="prompt"', b"\xff") + END,
        {"prompt": "\ufffd"},
    ),
    "a name without quotes": (part("Content-Disposition: form-data; name=model", b"m") + END, {}),
    "no name": (part("Content-Disposition: form-data", b"m") + END, {}),
    "no blank line": (b'--b15\r\nContent-Disposition: form-data; name="a"\r\n' + END, {}),
    "a file in other words": (
        part("Content-Disposition: form-data; name=\"model\"; filename*=UTF-8''m", b"m") + END,
        {},
    ),
    "the same name twice": (text("model", "a") + text("model", "b") + END, {"model": "b"}),
    "nothing": (b"", {}),
    "no form": (b"ID3\x00" * 9, {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_whole_text_fields_before_the_first_file_are_found(form: str) -> None:
    """And nothing else: what may not be all of it is no field."""
    body, fields = FORMS[form]
    assert fields_of(body, b"b15") == fields


@given(body=st.binary(max_size=200) | st.text('\r\n-b15;=name" :', max_size=80).map(str.encode))
def test_no_body_is_an_error(body: bytes) -> None:
    """Whatever comes, it is for the upstream to judge."""
    fields = fields_of(body, b"b15")
    assert all(isinstance(value, str) for value in fields.values())


# --- reading --------------------------------------------------------------------------------

KINDS = {
    KIND: ASKED,
    'Multipart/Form-Data; charset=utf-8; Boundary="b15"': ASKED,
    "multipart/form-data;boundary=b15;x=y": ASKED,
    "multipart/form-data; boundary=other": {},
    "multipart/form-data": None,
    "multipart/form-data; boundary=": None,
    'multipart/form-data; boundary=""': None,
    "multipart/mixed; boundary=b15": None,
    "application/octet-stream": None,
    "": None,
}


@pytest.mark.parametrize("kind", KINDS)
async def test_only_a_form_with_a_boundary_is_looked_at(kind: str) -> None:
    """Of all else it is not known whether it has fields; it is passed on unread."""
    body = FIELDS + FILE + END
    content = reader([body])
    fields, upload = await opened(content, kind)
    assert fields == KINDS[kind]
    if fields is None:
        assert content.total_bytes == len(body)
        assert not content.at_eof()
    assert await read(upload) == body


@pytest.mark.parametrize("form", FORMS)
async def test_a_body_is_passed_on_as_it_came_however_it_came(form: str) -> None:
    """The fields are the same for any reads, and no byte is lost."""
    body, fields = FORMS[form]
    for reads in ([body], bytewise(body), *(cut_randomly(body, seed) for seed in range(3))):
        found, upload = await opened(reader(filter(None, reads)), KIND)
        assert found == fields
        assert await read(upload) == body


async def test_nothing_is_waited_for_once_the_file_begins() -> None:
    """The rest of it may be long in coming."""
    content = begun(FIELDS + FILE[:80])
    async with asyncio.timeout(5):
        fields, upload = await opened(content, KIND)
    assert fields == ASKED
    content.feed_data(FILE[80:] + END)
    content.feed_eof()
    assert await read(upload) == FIELDS + FILE + END


async def test_what_is_looked_at_is_bounded() -> None:
    """A prompt of megabytes is streamed on; fields before the bound are known."""
    body = FIELDS + text("prompt", "x" * 300_000) + text("n", "2") + FILE + END
    reads = [body[at : at + 1000] for at in range(0, len(body), 1000)]
    content = begun(*reads[: MOST // 1000 + 1])
    async with asyncio.timeout(5):
        fields, upload = await opened(content, KIND)
    assert fields == ASKED
    for one in reads[MOST // 1000 + 1 :]:
        content.feed_data(one)
    content.feed_eof()
    assert await read(upload) == body


async def test_a_form_that_breaks_off_is_told_to_whoever_reads_it() -> None:
    """Before the file at once, within it by the upload: never a shorter whole body."""
    for sent in (FIELDS[:-20], FIELDS + FILE[:80]):
        content = begun(sent)

        async def all_of_it(content: StreamReader = content) -> bytes:
            _, upload = await opened(content, KIND)
            return await read(upload)

        reading = asyncio.create_task(all_of_it())
        await asyncio.sleep(0)
        content.set_exception(ConnectionResetError("gone"))
        with pytest.raises(ConnectionResetError):
            await reading


async def test_an_upload_without_a_head_begins_with_its_first_read() -> None:
    """No empty piece stands in front: as a chunk it would be the end of the body."""
    upload = Upload(b"", reader([b"a", b"b"]))
    assert b"" not in [piece async for piece in upload]
