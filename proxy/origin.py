"""Where requests are sent: below one base URL, or to paths of the upstream's own, nowhere else.

Knows how a target becomes a URL that is sent byte for byte, and the queries of one upstream. Must
not know connections, headers or answers.
"""

from __future__ import annotations

import functools
import re

from yarl import URL

_KEY_IN_QUERY = re.compile(r"(?i)(?:^|(?<=&))(?:api[-_]?key|key|access[-_]token|token)=[^&]*&?")


_STEP = r"(?:[/\\]|%2f|%5c)"
_DOTS = re.compile(rf"(?i){_STEP}(?:\.|%2e){{1,2}}(?={_STEP}|;|$)")
"""Segments that lead elsewhere, in all spellings that some server takes for them."""


class BadTargetError(Exception):
    """A request target that cannot be sent on byte for byte."""


class Origin:
    """One base URL. ``query`` is added to what lacks it, ``paths`` are served as they stand.

    As they stand at the origin, where the base's path is empty or ``/v1``, or has them in it, and
    else below the base: it may be the path of a gateway.
    """

    def __init__(self, base: str, *, query: str = "", paths: tuple[str, ...] = ()) -> None:
        """Take a base URL in its normal form, see ``settings_tables``."""
        self._origin = URL(base).origin()
        self._prefix = base.removeprefix(str(self._origin))
        self._query = query.split("&") if query else []
        self._paths = paths
        self.host = self._origin.host or ""
        # Most requests are for a few targets.
        self.url = functools.lru_cache(maxsize=256)(self._url)

    def asked_with(self, target: str, *, keyless: bool) -> str:
        """Return a target with the query of this upstream; ``keyless``: without a caller's key."""
        path, asked, query = target.partition("?")
        if keyless:
            query = _KEY_IN_QUERY.sub("", query).rstrip("&")
            asked = ""
        said = {pair.partition("=")[0] for pair in query.split("&")}
        missing = [pair for pair in self._query if pair.partition("=")[0] not in said]
        query = "&".join([*([query] if query else []), *missing])
        return f"{path}?{query}" if query else path + asked

    def owns(self, path: str) -> bool:
        """Say whether a path outside of ``/v1`` is served as it stands here."""
        return any(path == own or path.startswith(own + "/") for own in self._paths)

    def _url(self, target: str, *, own: bool = False) -> URL:
        """Return the URL for a target below the base, or an ``own`` one; raises BadTargetError.

        An own path with a dot segment could lead out of what is served (RFC 3986, 5.2.4).
        """
        if own and _DOTS.search(target.partition("?")[0]):
            raise BadTargetError
        prefix = self._root_of(target) if own else self._prefix
        try:
            url = URL(str(self._origin) + prefix + target, encoded=True)
            # What is compared is what aiohttp will write into the request line.
            sent = url.raw_path_qs == (prefix + target or "/")
            same = sent and url.origin() == self._origin
        except ValueError:
            same = False
        if not same:
            raise BadTargetError
        return url

    def _root_of(self, target: str) -> str:
        """Return what stands in front of an own path: of the base's path what does not repeat it.

        ``/openai/deployments/...`` of ``https://x.example/openai/v1`` is not below that, nor is
        it of ``https://x.example/v1``.
        """
        path, prefix = target.partition("?")[0] + "/", self._prefix + "/"
        places = [prefix.find(own + "/") for own in self._paths if path.startswith(own + "/")]
        found = [place for place in places if place >= 0]
        if found:
            return prefix[: found[0]]
        return "" if self._prefix == "/v1" else self._prefix
