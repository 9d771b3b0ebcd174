"""All upstreams of a process, by name; the primary's is empty.

Knows that they share their connections. Must not know when one is asked in place of another.
"""

from __future__ import annotations

from proxy.clients import Clients
from proxy.origin import BadTargetError
from proxy.settings import Settings
from proxy.upstream import Upstream


class Upstreams:
    """The primary and each of the setting ``upstreams``."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; must be called in the running loop."""
        self._clients = Clients(settings)
        self._by_name = {"": Upstream(settings, clients=self._clients)}
        for entry in settings.upstreams:
            self._by_name[entry.name] = Upstream(settings, entry, self._clients)

    def __getitem__(self, name: str) -> Upstream:
        """Return the upstream of a name that the settings have checked."""
        return self._by_name[name]

    def can_send(self, target: str, *, own: bool = False) -> bool:
        """Say whether a request target can be sent on byte for byte, to whomever.

        One that is the primary's ``own`` goes to nobody else.
        """
        try:
            for upstream in [self[""]] if own else self._by_name.values():
                upstream.url(target, own=own)
        except BadTargetError:
            return False
        return True

    async def close(self) -> None:
        """Close every connection."""
        await self._clients.close()
