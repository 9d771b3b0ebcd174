"""Healthy images, transcriptions and speech, streamed and whole.

Knows their shapes from the specification; no recording exists. There is nothing to see or to
hear: a picture is the signature of a format and a text, audio is the bytes of a text, so that
whoever reads them can tell whether they are whole. Must not know faults, HTTP or attempts at
recovery.
"""

from __future__ import annotations

import base64
from typing import Any

from proxy.demo.answers import Asked
from proxy.demo.shapes import EPOCH, PROMPT_UNITS, TEXT, Split, Stream, event, input_output, words

PARTIALS = 3
"""So many unfinished pictures are sent before the first finished one; OpenAI's maximum."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_FORMAT = {"background": "opaque", "output_format": "png", "quality": "low", "size": "1024x1024"}


# --- images ---------------------------------------------------------------------------------


def images(
    asked: Asked, attempt: int, text: str = TEXT, split: Split = words, size: int = 0
) -> Stream:
    """Return as many images as were asked for, of ``size`` bytes each if that is more."""
    kind = "image_edit" if asked.path.endswith("/edits") else "image_generation"
    head = {"created_at": EPOCH + attempt, **_FORMAT}
    pieces = split(text)
    seen = [pieces[: len(pieces) * part // (PARTIALS + 1)] for part in range(1, PARTIALS + 1)]
    unfinished = f"{kind}.partial_image"
    partials = [
        {"type": unfinished, "partial_image_index": index, "b64_json": picture("".join(part), size)}
        for index, part in enumerate(seen)
    ]
    last = {"type": f"{kind}.completed", "b64_json": picture(text, size), "usage": _usage(text)}
    return Stream(
        opening=(),
        content=tuple(event({**partial, **head}, unfinished) for partial in partials),
        closing=(event({**last, **head}, f"{kind}.completed"),) * asked.count,
    )


def images_document(asked: Asked, attempt: int, text: str) -> dict[str, Any]:
    """Return images in one piece."""
    data = [{"b64_json": picture(text)}] * asked.count
    return {"created": EPOCH + attempt, "data": data, **_FORMAT, "usage": _usage(text)}


def picture(text: str, size: int = 0) -> str:
    """Return a picture of a text in base64, filled up to ``size`` bytes before that."""
    return base64.b64encode((SIGNATURE + text.encode()).ljust(size, b"\0")).decode()


def text_of(picture: str) -> str:
    """Return the text that a picture is of."""
    return base64.b64decode(picture).removeprefix(SIGNATURE).rstrip(b"\0").decode()


def _usage(text: str) -> dict[str, Any]:
    details = {"image_tokens": 0, "text_tokens": PROMPT_UNITS}
    return {**input_output(text), "input_tokens_details": details}


# --- audio ----------------------------------------------------------------------------------


def speaks(asked: Asked) -> bool:
    """Say whether audio is asked for, not what is said in it."""
    return asked.path.endswith("/speech")


def audio(
    asked: Asked,
    attempt: int,  # noqa: ARG001 - audio has no identity
    text: str = TEXT,
    split: Split = words,
) -> Stream:
    """Return speech, or a transcription."""
    done: dict[str, Any]
    if speaks(asked):
        deltas = [{"type": "speech.audio.delta", "audio": sound} for sound in sounds(text, split)]
        done = {"type": "speech.audio.done", "usage": input_output(text)}
    else:
        deltas = [{"type": "transcript.text.delta", "delta": word} for word in split(text)]
        done = {"type": "transcript.text.done", **transcription_document(text)}
    return Stream((), tuple(map(event, deltas)), (event(done),))


def sounds(text: str, split: Split = words) -> list[str]:
    """Return the audio of a text in base64, piece by piece."""
    return [base64.b64encode(word.encode()).decode() for word in split(text)]


def transcription_document(text: str) -> dict[str, Any]:
    """Return a transcription in one piece."""
    details = {"audio_tokens": 0, "text_tokens": PROMPT_UNITS}
    usage = {"type": "tokens", **input_output(text), "input_token_details": details}
    return {"text": text, "usage": usage}
