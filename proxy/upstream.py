"""The outgoing side: requests to one base URL.

Knows the credentials an upstream gets, and holds the one table from foreign exceptions to
faults. Must not know what is done about a fault, nor how connections are kept (``clients``) or
answers are read (``answer``).
Figures and reasons: measured with aiohttp 3.14.5 on uvloop 0.23 (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from http import HTTPStatus
from types import SimpleNamespace

import aiohttp
from multidict import CIMultiDict

from proxy.answer import Answer, UpstreamFault
from proxy.clients import Clients
from proxy.core.fault import Fault
from proxy.origin import Origin
from proxy.settings import Settings
from proxy.settings_tables import OtherUpstream

_CREDENTIALS = (
    *("Authorization", "api-key", "x-api-key", "x-goog-api-key", "Ocp-Apim-Subscription-Key"),
    *("Cookie", "OpenAI-Organization", "OpenAI-Project"),
)
"""Where a caller's key may be, or its account, of which another party's upstream knows nothing."""


class Upstream(Origin):
    """Requests to one base URL. Keys are the client's own, unless a setting names another."""

    def __init__(
        self,
        settings: Settings,
        entry: OtherUpstream | None = None,
        clients: Clients | None = None,
    ) -> None:
        """Prepare for an entry of ``upstreams``, or for the primary; in the running loop.

        Upstreams that share ``clients`` are closed together.
        """
        quirks, own = entry.quirks if entry else settings.quirks, settings.quirks.paths
        super().__init__(
            entry.base_url if entry else settings.upstream,
            query=quirks.query,
            paths=() if entry else tuple(own),
        )
        self._entry = entry
        self._clients = clients or Clients(settings)

    def dress(self, headers: CIMultiDict[str]) -> CIMultiDict[str]:
        """Return the headers to send here: with the upstream's own key and headers, if any."""
        entry = self._entry
        if entry is None or not (entry.api_key or entry.headers):
            return headers
        dressed = headers.copy()
        if entry.api_key is not None:
            for name in _CREDENTIALS:
                dressed.popall(name, None)
            key = entry.api_key.get_secret_value()
            if entry.quirks.key_header == "api-key":
                dressed["api-key"] = key
            else:
                dressed["Authorization"] = f"Bearer {key}"
        for name, value in entry.headers.items():
            dressed[name] = value.get_secret_value()
        return dressed

    def aim(self, target: str) -> str:
        """Return the target to ask here, without the caller's key where there is an own one."""
        entry = self._entry
        return self.asked_with(target, keyless=entry is not None and entry.api_key is not None)

    async def open(  # noqa: PLR0913 - a request has so many parts
        self,
        method: str,
        target: str,
        headers: CIMultiDict[str],
        body: bytes | AsyncIterable[bytes] | None,
        *,
        fresh: bool = False,
        own: bool = False,
    ) -> Answer:
        """Send one request and return its answer with the headers read. Raises UpstreamFault.

        With ``fresh`` it goes out on a connection of its own; ``own`` is as in ``url``. Only
        where the headers ask for an upgrade the answer may be a 101.
        """
        notes = SimpleNamespace(reused=False)
        session = self._clients.unpooled if fresh else self._clients.pooled
        try:
            response = await session.request(
                method,
                self.url(target, own=own),
                headers=headers,
                data=body or None,
                allow_redirects=False,
                trace_request_ctx=notes,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _fault_of(error, reused=notes.reused) from error
        answer = Answer(response)
        if answer.status < HTTPStatus.OK and ("Upgrade" not in headers or answer.switched is None):
            # A protocol that nobody asked for is no answer to anything.
            answer.close()
            raise UpstreamFault(Fault.RESET, "it switched protocols unasked")
        return answer

    async def close(self) -> None:
        """Close every connection."""
        await self._clients.close()


_FAULTS: tuple[tuple[type[BaseException], Fault, str], ...] = (
    (aiohttp.ClientConnectorCertificateError, Fault.CONNECT_ERROR, "certificate not trusted"),
    (aiohttp.ClientConnectorSSLError, Fault.CONNECT_ERROR, "TLS handshake failed"),
    (aiohttp.ClientConnectorDNSError, Fault.CONNECT_ERROR, "name not found"),
    (aiohttp.ClientConnectorError, Fault.CONNECT_ERROR, "connection refused or unreachable"),
    (aiohttp.ServerTimeoutError, Fault.CONNECT_ERROR, "connecting took too long"),
    (TimeoutError, Fault.CONNECT_ERROR, "connecting took too long"),
    (aiohttp.ServerDisconnectedError, Fault.RESET, "connection closed before an answer"),
    (aiohttp.ClientOSError, Fault.RESET, "connection reset before an answer"),
    (aiohttp.ClientResponseError, Fault.RESET, "the answer was not HTTP"),
    (aiohttp.ClientError, Fault.RESET, "no answer"),
    (OSError, Fault.CONNECT_ERROR, "no connection"),
)
"""The one table from exceptions to faults; the first match counts."""


def _fault_of(error: BaseException, *, reused: bool) -> UpstreamFault:
    for kind, fault, detail in _FAULTS:
        if isinstance(error, kind):
            stale = reused and fault is Fault.RESET and _came_to_nothing(error)
            return UpstreamFault(fault, detail, stale=stale)
    raise error


def _came_to_nothing(error: BaseException) -> bool:
    """Say whether a connection died before any byte of an answer."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        # Otherwise the message is the head as far as it came, which means work was done.
        return isinstance(error.message, str)
    return isinstance(error, OSError)
