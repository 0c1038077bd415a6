"""Refusals: the error that says why no permit is given now, and when to ask again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilience.breaker import trip
from resilience.breaker.states import HalfOpen, Isolated, Open
from resilience.errors import CircuitIsolatedError, CircuitOpenError, RejectedError

if TYPE_CHECKING:
    from resilience.breaker.states import State
    from resilience.settings import BreakerSettings


def refusal(
    state: State, policy: BreakerSettings, name: str, provider: str | None, now: float, source: str | None
) -> RejectedError:
    """Make the error.

    Args:
        state: Where the circuit stands.
        policy: The breaker's settings.
        name: The breaker's name.
        provider: The provider that it watches.
        now: Monotonic time.
        source: Who asked.
    """
    if isinstance(state, Isolated):
        return isolated(name, provider, state.reason)
    if isinstance(state, Open):
        return CircuitOpenError(state, name, provider, max(0.0, state.until - now), state.kind)
    if isinstance(state, HalfOpen):
        doubted = state.doubted_until(source) - now
        if doubted > 0:
            message = f"{name} is half-open and waits for the word of another target; {source} failed its probe"
            return CircuitOpenError(message, name, provider, doubted, state.opened.kind)
        if len(state.probes) < trip.ramp(policy, state.earned):
            message = f"{name} is half-open, and its probes are other processes' for the moment"
            return CircuitOpenError(message, name, provider, None, state.opened.kind)
        message = f"{name} is half-open with {len(state.probes)} of {trip.ramp(policy, state.earned)} probes in flight"
        return CircuitOpenError(message, name, provider, None, state.opened.kind)
    return CircuitOpenError(f"{name} has just closed again; ask once more", name, provider, 0.0)


def isolated(name: str, provider: str | None, reason: str) -> CircuitIsolatedError:
    """The error of a circuit that a person opened."""
    because = f": {reason}" if reason else ""
    return CircuitIsolatedError(f"{name} is isolated{because}; it stays so until somebody resets it", name, provider)
