"""A real LiteLLM Proxy as a subprocess on loopback, with the two lines of the contract in its config.yaml."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import yaml

import resilience

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY = "sk-master-of-the-test"
LINES = {
    "callbacks": ["resilience.middleware.proxy.callback"],
    "custom_provider_map": [{"provider": "resilience", "custom_handler": "resilience.middleware.proxy.provider"}],
}
_START_SECONDS = 100.0


class Proxy:
    """Runs until its block is left. Only processes that it started are ended.

    Args:
        place: A directory of its own.
        settings: Ours, for RESILIENCE_CONFIG.
        model_list: The Proxy's deployments.
        workers: How many processes answer.
        **more: Further sections of config.yaml.
    """

    def __init__(
        self,
        place: Path,
        settings: Mapping[str, Any],
        model_list: list[dict[str, Any]],
        *,
        workers: int = 1,
        **more: Any,
    ) -> None:
        self.place, self.workers = place, workers
        config = {
            "model_list": model_list,
            "litellm_settings": LINES,
            "general_settings": {"master_key": KEY},
            **more,
        }
        (place / "config.yaml").write_text(yaml.safe_dump(config))
        (place / "resilience.json").write_text(json.dumps(settings))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("LITELLM", "DATABASE"))},
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "RESILIENCE_CONFIG": str(self.place / "resilience.json"),
            "PYTHONPATH": str(Path(resilience.__file__).parent.parent),
        }
        command = [Path(sys.executable).with_name("litellm"), "--config", self.place / "config.yaml"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--num_workers", str(self.workers)]
        if self.workers > 1:  # a worker that imports on a busy machine is not a dead one: uvicorn's limit is 5 s
            command += ["--timeout_worker_healthcheck", "90"]
        self.output = (self.place / "output").open("wb")
        self.process = subprocess.Popen(  # our own command
            command, cwd=self.place, env=environment, stdout=self.output, stderr=subprocess.STDOUT
        )
        try:
            self._until_it_answers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.output.close()

    def get(self, path: str, key: str | None = KEY) -> httpx.Response:
        """Ask the Proxy itself, on a connection of its own, so that any worker may answer."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.get(self.url + path, headers=headers, timeout=30, trust_env=False, verify=False)  # noqa: S501 (plain http)

    def _until_it_answers(self) -> None:
        for _ in range(int(_START_SECONDS / 0.1)):
            if self.process.poll() is not None:
                raise AssertionError(f"the Proxy ended:\n{self.said()}")
            try:
                if self.get("/health/liveliness", None).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)  # another process is starting
        raise AssertionError(f"the Proxy does not answer:\n{self.said()}")

    def said(self) -> str:
        """What it wrote."""
        return (self.place / "output").read_text(errors="replace")[-4000:]
