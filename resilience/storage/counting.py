"""Counting: what a window has counted since it was told last, for the sum of the fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilience.breaker.states import Closed

if TYPE_CHECKING:
    from resilience.breaker.rules import PolicyRules


class Counting:
    """How far one breaker's window has been told.

    Args:
        era: The breaker's present era.
    """

    __slots__ = ("_era", "_told")

    def __init__(self, era: object) -> None:
        self._era = era
        self._told = 0

    def take_locked(self, rules: PolicyRules, now: float, *, again: bool) -> dict[str, Any] | None:
        """The next batch, None where there is nothing to tell.

        Args:
            rules: The breaker's rules.
            now: Monotonic time.
            again: Whether to ask for the sum although nothing was counted here.
        """
        breaker, policy = rules.breaker, rules.policy
        if self._era is not breaker.window:
            self._era, self._told = breaker.window, 0
        window = breaker.window
        calls = window.calls - self._told
        if not isinstance(rules.state, Closed) or (calls <= 0 and not again):
            return None
        reading = window.read(now, policy.window_calls, policy.window_seconds)
        failures = [entry for entry in window.failures or () if entry[0] > self._told]
        slow = sum(entry[0] > self._told for entry in window.slow or ())
        count, self._told = len(failures), self._told + calls
        share = min(1.0, count / reading.streak_failures) if reading.streak_failures else 0.0
        return {
            "c": calls,
            "f": count,
            "w": slow,
            "fw": reading.streak * share,
            "tail": reading.streak,
            "tn": reading.streak_failures,
            "src": sorted({entry[2] or "*" for entry in failures}),
            "wc": policy.window_calls,
            "ws": round(policy.window_seconds * 1000),
        }
