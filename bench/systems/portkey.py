"""Portkey's gateway on Node. On request: npm installs it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.processes import Launch
from bench.systems.base import HOME, HOST, Place, System

PINNED = {
    "private": True,
    "dependencies": {"@portkey-ai/gateway": "1.15.2"},
    # With the newer ones that npm would choose (seen with 1.19.19) each stream answers 500: they
    # hand out headers that cannot be changed.
    "overrides": {"@hono/node-server": "1.13.8"},
}
FOLDER = HOME / "portkey"
_PACKAGE = FOLDER / "node_modules" / "@portkey-ai" / "gateway"


@dataclass(frozen=True)
class Portkey(System):
    """Portkey, from npm's index."""

    name: str = "portkey"
    load: float = 0.2
    headers: Mapping[str, str] = field(
        default_factory=lambda: {
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://{HOST}:{{upstream_port}}/v1",
        }
    )

    def missing(self) -> str | None:
        """Look for the package."""
        if not shutil.which("node"):
            return "no node on this machine, so no portkey"
        if _PACKAGE.exists():
            return None
        return 'no portkey here; try: make bench BENCH="--with portkey --install"'

    def install(self) -> None:
        """Get the pinned one."""
        if not _PACKAGE.exists():
            argv = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
            FOLDER.mkdir(parents=True, exist_ok=True)
            (FOLDER / "package.json").write_text(json.dumps(PINNED))
            subprocess.run(argv, check=True, cwd=FOLDER)  # noqa: S603 - our own arguments

    def version(self) -> str:
        """Read its package file."""
        told = json.loads((_PACKAGE / "package.json").read_text())
        return f"portkey {told['version']}"

    def launch(self, place: Place) -> Launch:
        """Run its server without its console."""
        server = str(_PACKAGE / "build" / "start-server.js")
        return Launch(
            ["node", server, f"--port={place.port}", "--headless"], {"NODE_ENV": "production"}
        )
