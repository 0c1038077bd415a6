"""A provider that begins every stream and finishes none was met by a herd in each half-open round.

A stream earns its place in the ramp with its first content, so that long answers do not slow a recovery. Each first
content doubled the ramp, without end: 41 streams at once hung on a provider that the circuit was open for.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from resilience.breaker.circuit import CircuitBreaker
from resilience.errors import CircuitOpenError
from resilience.settings import BreakerSettings
from resilience.testing.clock import ManualClock

if TYPE_CHECKING:
    from resilience.breaker.permit import Permit


def begin(breaker: CircuitBreaker) -> Permit | None:
    """A stream that shows its first content in time, and nothing after it."""
    try:
        permit = breaker.acquire(timeout_seconds=60)
    except CircuitOpenError:
        return None
    permit.first_content(0.1)
    return permit


@pytest.mark.parametrize(("permits", "successes", "most"), [(1, 3, 8), (2, 3, 16), (1, 1, 2)])
def test_first_contents_alone_let_in_no_more_than_the_successes_that_close(
    permits: int, successes: int, most: int
) -> None:
    clock = ManualClock()
    policy = BreakerSettings(jitter=0.0, probe_permits=permits, probe_successes=successes)
    breaker = CircuitBreaker(name="openai", policy=policy, clock=clock, rng=random.Random(7))
    breaker.open()
    clock.advance(10)
    begun = [permit for permit in (begin(breaker) for _ in range(100)) if permit is not None]
    assert len(begun) == most
    begun[0].success()
    assert breaker.current_state == ("closed" if successes == 1 else "half-open")
    begun[1].failure(ConnectionError("stalled"))
    assert breaker.current_state == ("closed" if successes == 1 else "open")
