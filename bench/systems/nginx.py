"""nginx with one worker, unbuffered, as its users stream through it.

It moves bytes and frames nothing.
Buffers have their default sizes: with ``proxy_buffering off`` a read is at most 4 KB.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from bench.processes import Launch
from bench.systems.base import HOST, MAX_STREAMS, Place, System, said

_CONFIG = """\
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
worker_rlimit_nofile {files};
events {{ worker_connections {files}; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    tcp_nodelay on;
    keepalive_requests 10000000;
    upstream bench {{
        server {host}:{upstream_port};
        keepalive {streams};
        keepalive_requests 10000000;
    }}
    server {{
        listen {host}:{port} backlog=8192;
        location / {{
            proxy_pass http://bench;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""


def _binary() -> str | None:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Nginx(System):
    """The machine's nginx."""

    name: str = "nginx"

    def missing(self) -> str | None:
        """Look for the binary."""
        return None if _binary() else "no nginx on this machine; try: apt-get install nginx-light"

    def version(self) -> str:
        """Ask it."""
        return said(_binary() or "nginx", "-v").removeprefix("nginx version: ")

    def launch(self, place: Place) -> Launch:
        """Write its configuration."""
        config = _CONFIG.format(
            # Root's worker would become a user that cannot read the folder.
            user="user root;" if os.geteuid() == 0 else "",
            host=HOST,
            port=place.port,
            upstream_port=place.upstream_port,
            folder=place.folder,
            files=2 * MAX_STREAMS + 100,
            streams=MAX_STREAMS,
        )
        argv = [_binary() or "nginx", "-p", str(place.folder), "-e", "stderr"]
        return Launch([*argv, "-c", place.file("nginx.conf", config)])
