"""Telling: what an opening looks like to those who hear events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilience.breaker.trip import BY_RATE
from resilience.events import CircuitOpened

if TYPE_CHECKING:
    from resilience.breaker.circuit import CircuitBreaker
    from resilience.breaker.states import Open


def opened_event(breaker: CircuitBreaker, opened: Open, *, shadow: bool) -> CircuitOpened:
    """The event of an opening. Made when it is told: the other breaker of the attempt may still have moved the end."""
    return CircuitOpened(
        breaker.label,
        breaker.provider,
        opened.reason.value,
        opened.kind,
        opened.failures,
        opened.calls,
        opened.failures / opened.calls if opened.calls and opened.reason in BY_RATE else None,
        opened.until - opened.since,
        breaker.generation,
        shadow,
    )
