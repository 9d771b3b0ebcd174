"""One grammar a family of endpoints. To add one: a file, and a line in ``GRAMMARS``.

The keys are the values of the ``endpoint`` label.
"""

from __future__ import annotations

import re

from proxy.core.grammars.agents import AgentsGrammar, is_agents
from proxy.core.grammars.base import Grammar, Kind
from proxy.core.grammars.chat import ChatGrammar
from proxy.core.grammars.plain import PlainGrammar
from proxy.core.grammars.responses import ResponsesGrammar
from proxy.core.grammars.typed import AudioGrammar, ImagesGrammar, ThreadsGrammar
from proxy.core.policy import SAFE, Quirks
from proxy.core.request import Request

__all__ = ["GRAMMARS", "Grammar", "Kind", "endpoint_of", "grammar_for"]

GRAMMARS: dict[str, type[Grammar]] = {
    "chat_completions": ChatGrammar,
    "completions": ChatGrammar,
    "responses": ResponsesGrammar,
    "images": ImagesGrammar,
    "audio": AudioGrammar,
    "threads": ThreadsGrammar,
    "other": PlainGrammar,
}

_FIRST_SEGMENT = {
    "responses": "responses",
    "images": "images",
    "audio": "audio",
    "threads": "threads",
}

_KNOWN = re.compile(r"/(?:(?:chat/)?completions|(?:responses|images|audio|threads)(?:/.*)?)$")
_AZURE = re.compile(r"^.*?/openai(?:/v1|/deployments/[^/]+)?(?=/)")
"""What Azure puts in front of the paths that are OpenAI's."""


def endpoint_of(request: Request) -> str:
    """Name the family of a request's path; ``other`` for all that is not known."""
    path = request.path.rstrip("/")
    if request.own_path:
        found = _KNOWN.search(_AZURE.sub("", path))
        path = found[0] if found else path
    if path == "/chat/completions":
        return "chat_completions"
    if path == "/completions":
        return "completions"
    return _FIRST_SEGMENT.get(path.lstrip("/").partition("/")[0], "other")


def grammar_for(request: Request, quirks: Quirks = SAFE) -> Grammar:
    """Return a fresh grammar for one attempt at a request, sent to an upstream with such quirks."""
    if is_agents(request):
        return AgentsGrammar(request, quirks)
    return GRAMMARS[endpoint_of(request)](request, quirks)
