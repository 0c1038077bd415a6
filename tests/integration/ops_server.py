"""The ops app on a real socket, beside a scripted runtime; and `resilience serve` as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import httpx

import resilience
from resilience.ops.gate import read_tokens
from resilience.ops.serve import Server, address, listen
from resilience.testing.upstream import ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from resilience.testing import LoopbackProvider

CONFIG: dict[str, Any] = {
    "routes": {
        "chat": {
            "targets": [
                {"model": "openai/gpt-4o-mini", "name": "gpt", "provider": "openai", "api_key": "sk-planted-secret"},
                {"model": "anthropic/claude-haiku-4-5", "name": "claude", "provider": "anthropic"},
            ]
        }
    }
}


def scripted(script: Mapping[str, Any] | None = None, config: Any = None) -> resilience.MultiProviderFallback:
    """A runtime whose providers do what a script says."""
    return resilience.MultiProviderFallback(config or CONFIG, upstream=ScriptedUpstream(script or {}), sinks=())


@contextlib.asynccontextmanager
async def serving(
    runtime: resilience.MultiProviderFallback, tokens: str | None = None, *, drain_seconds: float = 5.0
) -> AsyncIterator[Running]:
    """Serve a runtime on a port of the system's choice."""
    listener = listen("127.0.0.1", 0)
    server = Server(runtime, read_tokens(tokens), drain_seconds=drain_seconds)
    # Without uvicorn's signals: they are this test process's own.
    task = asyncio.create_task(server._serve([listener]))
    async with httpx.AsyncClient(base_url=address(listener), trust_env=False, timeout=20) as client:
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield Running(address(listener), client, server)
        finally:
            server.app.state.ops.draining = True
            server.should_exit = True
            await task
            server.app.state.ops.close()
            listener.close()


class Running:
    """A running server, and a client for it."""

    def __init__(self, url: str, client: httpx.AsyncClient, server: Server) -> None:
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self.client = client
        self.server = server


def environment(**more: str) -> dict[str, str]:
    """This process's environment for a child, without what would change its mind."""
    dropped = {"RESILIENCE_TOKEN", "RESILIENCE_URL", "RESILIENCE_CONFIG", "PROMETHEUS_MULTIPROC_DIR"}
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    return {**kept, "LITELLM_LOCAL_MODEL_COST_MAP": "True", **more}


@contextlib.asynccontextmanager
async def process(*arguments: str, stdin: int | None = None, **variables: str) -> AsyncIterator[Any]:
    """A child process that is gone afterwards, whatever happens."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "resilience", *arguments, env=environment(**variables),
        stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def where(child: Any) -> str:
    """The address that it prints."""
    line = (await asyncio.wait_for(child.stdout.readline(), 60)).decode()
    found = re.search(r"http://\S+", line)
    assert found is not None, (line, (await child.stderr.read()).decode())
    return found[0]


def written(folder: Path, provider: LoopbackProvider) -> str:
    """A settings file with one target at a provider."""
    target = {"model": "openai/gpt-4o-mini", "api_base": provider.openai_base, "api_key": "sk-planted-secret"}
    file = folder / "resilience.json"
    file.write_text(json.dumps({"routes": {"chat": {"targets": [{**target, "provider": "openai"}]}}}))
    return str(file)
