"""One request: a pure plan of steps, written once, and two thin drivers that perform them."""

from __future__ import annotations

from resilience.execution.engine import Engine
from resilience.execution.steps import CallOptions
from resilience.execution.stream import AsyncGuardedStream, GuardedStream

__all__ = ["AsyncGuardedStream", "CallOptions", "Engine", "GuardedStream"]
