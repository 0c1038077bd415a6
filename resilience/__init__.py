"""As long as one of your LLM providers works, your call works, and you can see why.

Names by concept. Importing this package does not import LiteLLM, which takes seconds: the doors load it when
they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from resilience import events
from resilience.breaker.circuit import CircuitBreaker
from resilience.breaker.permit import Permit
from resilience.breaker.states import CircuitState
from resilience.errors import (
    CircuitIsolatedError,
    CircuitOpenError,
    ConcurrencyLimitError,
    ConfigurationError,
    DeadlineExceededError,
    RejectedError,
    ResilienceError,
    RouteExhaustedError,
    StreamInterruptedError,
)
from resilience.outcome import Kind, Outcome
from resilience.upstream import AttemptRecord, attempts

if TYPE_CHECKING:
    from resilience.decorators import configure, default, failover, protect
    from resilience.health.registry import HealthRegistry
    from resilience.middleware import install, uninstall
    from resilience.requests import AIRequest, AIResponse, ProcessingStatus
    from resilience.runtime import MultiProviderFallback
    from resilience.settings import BreakerSettings, RouteSettings, Settings, TargetSettings
    from resilience.snapshots import BreakerSnapshot, Snapshot
    from resilience.telemetry.monitor import monitor

__all__ = [
    "AIRequest",
    "AIResponse",
    "AttemptRecord",
    "BreakerSettings",
    "BreakerSnapshot",
    "CircuitBreaker",
    "CircuitIsolatedError",
    "CircuitOpenError",
    "CircuitState",
    "ConcurrencyLimitError",
    "ConfigurationError",
    "DeadlineExceededError",
    "HealthRegistry",
    "Kind",
    "MultiProviderFallback",
    "Outcome",
    "Permit",
    "ProcessingStatus",
    "RejectedError",
    "ResilienceError",
    "RouteExhaustedError",
    "RouteSettings",
    "Settings",
    "Snapshot",
    "StreamInterruptedError",
    "TargetSettings",
    "attempts",
    "configure",
    "default",
    "events",
    "failover",
    "install",
    "monitor",
    "protect",
    "uninstall",
]

# What a breaker by itself has no need of comes with its first use. Pydantic alone takes longer than all that is above.
_LAZY = {
    "AIRequest": "resilience.requests",
    "AIResponse": "resilience.requests",
    "BreakerSettings": "resilience.settings",
    "BreakerSnapshot": "resilience.snapshots",
    "HealthRegistry": "resilience.health.registry",
    "MultiProviderFallback": "resilience.runtime",
    "ProcessingStatus": "resilience.requests",
    "RouteSettings": "resilience.settings",
    "Settings": "resilience.settings",
    "Snapshot": "resilience.snapshots",
    "TargetSettings": "resilience.settings",
    "configure": "resilience.decorators",
    "default": "resilience.decorators",
    "failover": "resilience.decorators",
    "install": "resilience.middleware",
    "monitor": "resilience.telemetry.monitor",
    "protect": "resilience.decorators",
    "uninstall": "resilience.middleware",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 (a tenth of the import time)

        try:
            return version("litellm-resilience")
        except PackageNotFoundError:  # a source tree that nobody installed
            return "0+unknown"
    if name in _LAZY:
        thing = globals()[name] = getattr(import_module(_LAZY[name]), name)
        return thing
    raise AttributeError(f"module 'resilience' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
