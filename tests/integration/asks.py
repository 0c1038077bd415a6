"""What the integration tests ask of a provider, and how long they wait."""

from __future__ import annotations

import asyncio
import importlib.util
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest

from resilience.upstream import CallTimeouts, Operation

if TYPE_CHECKING:
    from collections.abc import Callable

# What LiteLLM does is told by its release where it has changed within the range that we take.
LITELLM = tuple(int(part) for part in version("litellm").split(".")[:3])

MESSAGES = [{"role": "user", "content": "hi"}]
ASKS: dict[Operation, dict[str, Any]] = {
    Operation.COMPLETION: {"messages": MESSAGES},
    Operation.EMBEDDING: {"input": ["hi"]},
    Operation.RESPONSES: {"input": "hi"},
}
TIMEOUTS = CallTimeouts(attempt=5.0, first_token=5.0, stall=5.0)
SHORT = CallTimeouts(attempt=0.1, first_token=0.1, stall=0.1)

needs_mcp = pytest.mark.skipif(
    importlib.util.find_spec("mcp") is None, reason="LiteLLM's responses calls import mcp, which is not installed"
)


async def becomes_true(fact: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Wait until something has crossed a socket. The limit only keeps a broken test from hanging."""
    for _ in range(int(seconds / 0.005)):
        if fact():
            return True
        await asyncio.sleep(0.005)
    return False
