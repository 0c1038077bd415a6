"""Providers that die while slow answers still come in open by a rate, and were then asked by everybody for ever.

A target that a rate opened is used when nothing else is left, since most of its calls still work. Where both providers
died at once, their open circuits therefore hid from `on_exhausted: wait` that there was nothing to be had.
"""

from __future__ import annotations

from resilience.simulator import simulate

DEAD = {"outages": [{"at_seconds": 30, "lasts_seconds": 4}]}


def test_nobody_asks_two_dead_providers_for_ever_because_a_rate_opened_them() -> None:
    scenario = {
        "lasts_seconds": 60,
        "traffic": {"per_second": 40},
        "settings": {"routes": {"chat": {"targets": ["a/model", "b/model"]}}},
        "providers": {"a": DEAD, "b": DEAD},
    }
    found = simulate(scenario).findings[0]
    # The requests of those seconds wait for the first provider to come back; before, 65 were lost and 717 attempts.
    assert found.requests - found.answered <= 20
    assert found.wasted <= 300
