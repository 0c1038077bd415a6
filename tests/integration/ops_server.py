"""The ops app on a real socket, beside a scripted runtime."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

import httpx

import resilience
from resilience.ops.gate import read_tokens
from resilience.ops.serve import Server, address, listen
from resilience.testing.upstream import ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

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
