"""Chances: when a target may be asked again, and when an eager probe of it is due."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilience.breaker.held import is_held
from resilience.breaker.states import HalfOpen

if TYPE_CHECKING:
    from resilience.breaker.circuit import CircuitBreaker
    from resilience.health.roster import TargetHealth


def chance_of(health: TargetHealth, now: float, *, accounts: bool = False) -> float | None:
    """Monotonic time at which both its breakers and the overdue rule let a call through; None: not by itself.

    Nobody waits for an account, but with ``accounts`` its end is told as well.
    """
    latest = now
    for breaker, source in _asked(health):
        chance = breaker.next_chance(source)
        if chance is None and accounts and (left := breaker.rejection(source).retry_after) is not None:
            chance = now + left
        if chance is None:
            return None
        latest = max(latest, chance)
    if health.in_flight.refuses(now):
        latest = max(latest, health.in_flight.next_let())
    return latest


def eager_chance_of(health: TargetHealth, now: float) -> float | None:
    """Monotonic time at which an eager probe of it is due; None where asking earlier cannot help or need not be.

    Where one is in flight, its success may bring the target back at any moment before.
    """
    latest: float | None = None
    for breaker, source in _asked(health):
        if is_held(breaker) or breaker.is_eligible(source):
            continue
        rules = breaker.rules
        due = rules.next_eager(now, source) if rules is not None else None
        if due is None and rules is not None and isinstance(rules.state, HalfOpen):
            due = breaker.next_chance(source)  # its probes are in flight: at the latest then, and at any moment before
        if due is None:
            return None  # an account, a rate limit or a person
        latest = due if latest is None else max(latest, due)
    return latest


def _asked(health: TargetHealth) -> tuple[tuple[CircuitBreaker, str | None], ...]:
    return (health.breaker, None), (health.provider.breaker, health.witness)
