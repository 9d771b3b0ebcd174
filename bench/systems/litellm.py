"""LiteLLM's proxy with one worker, in an environment of its own. On request: it is large."""

from __future__ import annotations

import json
from dataclasses import dataclass

from bench.processes import Launch
from bench.systems.base import HOME, HOST, Place, System, said
from bench.systems.venvs import Venv

PINNED = "litellm[proxy]==1.100.5"
VENV = Venv(HOME / "litellm", (PINNED,))
_VERSION = "from importlib.metadata import version; print('litellm', version('litellm'))"


@dataclass(frozen=True)
class LiteLLM(System):
    """LiteLLM, from the package index."""

    name: str = "litellm"
    start_s: float = 120.0
    load: float = 0.02

    def missing(self) -> str | None:
        """Look for the environment."""
        if VENV.there():
            return None
        return 'no litellm here; try: make bench BENCH="--with litellm --install" (about 500 MB)'

    def install(self) -> None:
        """Get the pinned one; what it depends on is not pinned."""
        VENV.install()

    def version(self) -> str:
        """Ask its environment."""
        return said(VENV.python, "-c", _VERSION)

    def launch(self, place: Place) -> Launch:
        """Write its configuration (JSON is YAML): any model goes to the upstream as it is."""
        target = {
            "model": "openai/*",
            "api_base": f"http://{HOST}:{place.upstream_port}/v1",
            "api_key": "sk-bench",
        }
        config = {"model_list": [{"model_name": "*", "litellm_params": target}]}
        path = place.file("litellm.yaml", json.dumps(config))
        argv = [str(VENV.folder / "bin" / "litellm"), "--config", path, "--host", HOST]
        env = {
            "LITELLM_LOG": "ERROR",
            # It would fetch its price list from the network at each start.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_TELEMETRY": "False",
        }
        argv += ["--port", str(place.port), "--num_workers", "1", "--telemetry", "False"]
        return Launch(argv, env, unset=("LITELLM_", "DATABASE_URL"))
