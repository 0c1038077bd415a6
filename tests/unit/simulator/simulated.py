"""Small worlds for the simulator's tests."""

from __future__ import annotations

from typing import Any

from resilience.simulator import Scenario

FIRST, SECOND = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"


def scenario(*outages: dict[str, Any], targets: list[Any] | None = None, **more: Any) -> Scenario:
    """Two targets of two providers, 20 requests a second for two minutes; ``outages`` are the first provider's."""
    route = {"targets": targets or [FIRST, SECOND], **more.pop("route_keys", {})}
    providers = {"openai": {"outages": list(outages), **more.pop("openai", {})}, **more.pop("providers", {})}
    told = {
        "seed": 7,
        "lasts_seconds": 120,
        "settings": {"routes": {"chat": route}, **more.pop("settings", {})},
        "traffic": {"per_second": 20.0, **more.pop("traffic", {})},
        "providers": providers,
        **more,
    }
    return Scenario.load(told)


def down(at: float = 30, lasts: float = 30, **more: Any) -> dict[str, Any]:
    return {"at_seconds": at, "lasts_seconds": lasts, **more}
