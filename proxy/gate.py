"""Who may come in: hosts, origins, methods, versions, targets.

Knows the rules of the contract's edges, for both listeners. Must not know what lies behind.
Everything refused is refused with an OpenAI-shaped error that names the setting to change.
"""

from __future__ import annotations

import ipaddress
import re
from http import HTTPStatus

from aiohttp import HttpVersion10, HttpVersion11, web

from proxy.core.errors import Reply, error_reply
from proxy.settings import WILDCARDS, Settings

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_TARGET = re.compile(r"/(?!/)[!\"$-\[\]-~]*")
"""Origin form in visible ASCII: no ``//host``, ``#`` or backslash."""

_KIND = "invalid_request_error"


class Gate:
    """The rules of one listener. ``probes`` are paths that may be asked for by IP address."""

    def __init__(self, settings: Settings, probes: frozenset[str] = frozenset()) -> None:
        """Take the allow-lists."""
        self._any_host = "*" in settings.allowed_hosts
        self._hosts = set(settings.allowed_hosts)
        self._hosts |= {h.lower() for h in (settings.host, settings.admin_host)} - WILDCARDS
        self._origins = frozenset(settings.allowed_origins)
        self._probes = probes

    def refuse(self, request: web.BaseRequest) -> Reply | None:
        """Return why a request may not come in, or None."""
        return (
            self._refuse_form(request) or self._refuse_host(request) or self._refuse_origin(request)
        )

    def cors(self, request: web.BaseRequest) -> dict[str, str]:
        """Return the CORS headers for a browser page of a listed origin."""
        origin = request.headers.get("Origin", "")
        if origin not in self._origins:
            return {}
        headers = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        if request.method == "OPTIONS":
            asked = request.headers.get("Access-Control-Request-Headers", "")
            headers["Access-Control-Allow-Methods"] = ", ".join(sorted(METHODS))
            headers["Access-Control-Allow-Headers"] = asked
        return headers

    def _refuse_form(self, request: web.BaseRequest) -> Reply | None:
        if request.method not in METHODS:
            return _reply(HTTPStatus.METHOD_NOT_ALLOWED, "This method is not allowed.")
        if request.version not in {HttpVersion10, HttpVersion11}:
            return _reply(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "Use HTTP/1.1.")
        coding = request.headers.get("Transfer-Encoding")
        if coding is not None:
            if coding.strip().lower() != "chunked":
                return _reply(HTTPStatus.NOT_IMPLEMENTED, "No transfer coding but chunked.")
            if request.version == HttpVersion10:
                return _reply(HTTPStatus.BAD_REQUEST, "No transfer coding in HTTP/1.0.")
        if not _TARGET.fullmatch(request.raw_path):
            return _reply(HTTPStatus.BAD_REQUEST, "The request target must be a plain path.")
        return None

    def _refuse_host(self, request: web.BaseRequest) -> Reply | None:
        host = _host_name(request.headers.get("Host", ""))
        if self._any_host or host in self._hosts or not host:
            return None
        if request.raw_path.partition("?")[0] in self._probes and _is_address(host):
            return None
        text = "This Host is not allowed. Add its name to the setting allowed_hosts."
        return _reply(HTTPStatus.FORBIDDEN, text)

    def _refuse_origin(self, request: web.BaseRequest) -> Reply | None:
        origin = request.headers.get("Origin")
        if origin in self._origins:
            return None
        if origin is None and request.headers.get("Sec-Fetch-Site") != "cross-site":
            return None
        text = "Calls from this web origin are not allowed. See the setting allowed_origins."
        return _reply(HTTPStatus.FORBIDDEN, text)


def _host_name(header: str) -> str:
    """Take the port off; brackets of an IPv6 address too."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if header.count(":") == 1 else header


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _reply(status: HTTPStatus, message: str) -> Reply:
    return error_reply(status, status.phrase.lower().replace(" ", "_"), message, _KIND)
