"""Chances: when may somebody ask again. Reads the state and, in a fleet, the leases at hand; changes no state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilience.breaker import trip
from resilience.breaker.states import Closed, HalfOpen, Open, opening
from resilience.breaker.trip import Reason

if TYPE_CHECKING:
    from resilience.breaker.rules import PolicyRules

# While its route has nothing else, an outage-opened breaker is probed this often whatever its open time.
EAGER_SECONDS: Final = 1.0


def next_chance(rules: PolicyRules, now: float, source: str | None) -> float | None:
    """Monotonic time at which ``source`` may ask again: now, the end of the open time, or of a probe's lease.

    Returns:
        None where it does not come back by itself soon: an account error, or a person's isolation.
    """
    state = rules.state
    if isinstance(state, Closed):
        return now
    if isinstance(state, Open):
        if now < state.until:
            if rules.seat is not None:
                rules.seat.wait_locked(now, state.until)
            return None if state.reason is Reason.ACCOUNT else state.until
        # Once its time is over, an account is worth another look like anything else.
        return now if (leased := of_lease(rules, now)) is None else leased
    if isinstance(state, HalfOpen):
        if (doubted := state.doubted_until(source)) > now:
            return doubted
        if (leased := of_lease(rules, now)) is not None:
            return leased
        ends = [end for end in state.probes.values() if end > now]
        return now if len(ends) < trip.ramp(rules.policy, state.earned) else min(ends)
    return None


def next_eager(rules: PolicyRules, now: float, source: str | None = None) -> float | None:
    """Monotonic time of the next eager probe, past an open time or a doubt.

    Returns:
        None where the circuit is neither open after an outage nor half-open and in doubt of ``source``.
    """
    state = rules.state
    opened = opening(state)
    if opened is None:
        return None
    if state.doubted_until(source) <= now if isinstance(state, HalfOpen) else not opened.is_outage:
        return None
    due = (opened.since if opened.eager_at is None else opened.eager_at) + EAGER_SECONDS
    if opened.eager is not None and opened.eager_at is not None:
        lease_end = opened.eager_at + rules.policy.probe_lease_seconds
        due = lease_end if now < lease_end else due
    if due > now or rules.seat is None or (leased := rules.seat.eager_chance_locked(now)) is None:
        return due
    return leased


def of_lease(rules: PolicyRules, now: float) -> float | None:
    """In a fleet that answers, the time from which a probe may go; None where this process decides alone."""
    seat = rules.seat
    return seat.probe_chance_locked(now) if seat is not None else None
