"""The systems that are compared, each in a file of its own.

A system says whether it is there, how it is installed, which version it is, and how it is started
between a port and the upstream. Each runs on one thread (or one worker), without an access log.
"""

from __future__ import annotations

from bench.systems.base import Place, System
from bench.systems.direct import Direct
from bench.systems.envoy import Envoy
from bench.systems.haproxy import HAProxy
from bench.systems.litellm import LiteLLM
from bench.systems.nginx import Nginx
from bench.systems.portkey import Portkey
from bench.systems.wholestream import Wholestream

__all__ = ["ALL", "USUAL", "Place", "System"]

ALL: dict[str, System] = {
    system.name: system
    for system in (Direct(), Wholestream(), Nginx(), HAProxy(), Envoy(), LiteLLM(), Portkey())
}
USUAL = ("direct", "wholestream", "nginx", "haproxy", "envoy")
"""Those that are compared unless told otherwise; the others take long, and a lot of room."""
