"""Settings: every key, its default and what is allowed. Values only; `load` alone reads files.

A default gives way to what was said: ``open_seconds: 600`` alone lifts ``open_max_seconds`` to 600 too.
Two values that were both given and contradict each other are an error. Durations are seconds.
"""

from resilience.settings.breaker import BreakerSettings
from resilience.settings.environment import missing_variables, resolve
from resilience.settings.root import ProbingSettings, ProviderSettings, Settings
from resilience.settings.routes import (
    RouteSettings,
    StreamSettings,
    TargetSettings,
    TimeoutSettings,
    ValidationSettings,
)

__all__ = [
    "BreakerSettings",
    "ProbingSettings",
    "ProviderSettings",
    "RouteSettings",
    "Settings",
    "StreamSettings",
    "TargetSettings",
    "TimeoutSettings",
    "ValidationSettings",
    "missing_variables",
    "resolve",
]
