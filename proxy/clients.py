"""The two HTTP clients of a process, shared by all upstreams.

Knows aiohttp's client, with every default that bites a proxy set right. Must not know whom it
is used for: sessions are not tied to a base URL, and hold no cookies and no keys.
Figures and reasons: measured with aiohttp 3.14.5 on uvloop 0.23 (docs/architecture.md).
"""

from __future__ import annotations

import ssl
from typing import Any

import aiohttp

from proxy.pool import Pool
from proxy.settings import Settings

_READ_BUFSIZE = 128 * 1024
"""aiohttp reads ahead twice this much before it pauses the upstream; a slow client costs that."""

_KEEPALIVE_S = 15.0
"""Idle connections are given up before most upstreams give them up (openai/openai-python#371)."""


class Clients:
    """One session that keeps connections, one that does not."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; must be called in the running loop."""
        context = _ssl_context(settings)
        self.pooled = _client(settings, ssl=context, keepalive_timeout=_KEEPALIVE_S)
        # For repeated attempts: where one idle connection died, the others may have as well.
        self.unpooled = _client(settings, ssl=context, force_close=True)

    async def close(self) -> None:
        """Close every connection."""
        await self.pooled.close()
        await self.unpooled.close()


def _client(settings: Settings, **options: Any) -> aiohttp.ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_note_reuse)
    wait = settings.connect_timeout_s
    session = aiohttp.ClientSession(
        connector=Pool(**options),
        timeout=aiohttp.ClientTimeout(total=None, connect=wait, sock_connect=wait),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        raise_for_status=False,
        read_bufsize=_READ_BUFSIZE,
        trace_configs=[trace],
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    )
    # It would ask twice wherever HTTP lets it, unseen by max_attempts and by who wants no retry.
    session._retry_connection = False  # noqa: SLF001 - no public way (aiohttp 3.14.5, client.py)
    return session


async def _note_reuse(_session: aiohttp.ClientSession, context: Any, _params: object) -> None:
    context.trace_request_ctx.reused = True


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    bundle = settings.ca_bundle
    context = ssl.create_default_context(cafile=str(bundle) if bundle else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
