"""What the integration tests ask of a provider, and how long they wait."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from resilience.upstream import CallTimeouts, Operation

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
