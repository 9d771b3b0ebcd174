"""One JSON object where a stream was asked for: what it is, before it is told in events.

Knows where the JSON ends, what may follow it, and errors told in place of an answer. Must not
know how an answer is told in events: that is its grammar's.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from proxy.core.errors import UpstreamError, read_error, told_error
from proxy.core.fault import Fault

_AFTER = re.compile(r"\s*(data:\s*\[DONE\]\s*)?")
"""A stream's end mark behind JSON is what some gateways cannot help sending (9router#3492)."""

_raw_decode = json.JSONDecoder().raw_decode


class Document(NamedTuple):
    """The object's own bytes; or the fault that it is, and the error that it tells.

    ``marked`` says that the end mark of a stream came behind it.
    """

    data: bytes
    fault: Fault | None = None
    detail: str = ""
    error: UpstreamError | None = None
    marked: bool = False


def read_document(body: bytes) -> Document:
    """Judge a body that ended as HTTP says it should."""
    text = body.decode("utf-8", "replace").removeprefix("\ufeff").lstrip()
    try:
        found, end = _raw_decode(text)
    except (ValueError, RecursionError):
        return Document(body, Fault.CUT_MID_EVENT, "its JSON is not whole")
    data = text[:end].encode("utf-8", "surrogatepass")
    after = _AFTER.fullmatch(text[end:])
    if not isinstance(found, dict) or after is None:
        return Document(body, Fault.MALFORMED_EVENT, "its JSON is no answer to this request")
    # A response that failed has an error of its own in it, and is told as that.
    if told_error(found) and found.get("object") != "response":
        return Document(data, Fault.IN_STREAM_ERROR, error=read_error(data))
    return Document(data, marked=after[1] is not None)
