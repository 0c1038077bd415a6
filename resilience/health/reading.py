"""Readings: turns a live breaker into a frozen snapshot with times that people can read."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from resilience.breaker.states import HalfOpen, Isolated, Open
from resilience.snapshots import BreakerSnapshot

if TYPE_CHECKING:
    from resilience.breaker.circuit import CircuitBreaker
    from resilience.health.overdue import InFlight


def read_breaker(
    breaker: CircuitBreaker, in_flight: InFlight | None = None, *, elsewhere: bool = True
) -> BreakerSnapshot:
    """Read one breaker.

    Args:
        breaker: The breaker.
        in_flight: A target's calls on the wire.
        elsewhere: Whether everything else that a call needs would let it through, as a target's provider.
    """
    now, wall = breaker.monotonic(), breaker.clock.now()
    eligible = breaker.is_eligible()
    state = breaker.rules.state if breaker.rules is not None else None
    reading = breaker.reading()
    opened = state.opened if isinstance(state, HalfOpen) else state if isinstance(state, Open) else None
    reason = state.reason if isinstance(state, Isolated) else opened.reason.value if opened is not None else None
    next_probe = None
    if isinstance(state, Open) and breaker.current_state == "open":
        next_probe = wall + timedelta(seconds=max(0.0, state.until - now))
    rules = breaker.rules
    since = wall - timedelta(seconds=max(0.0, now - breaker.since))
    out_since = since if breaker.current_state != "closed" else None
    if opened is not None:
        out_since = wall - timedelta(seconds=max(0.0, now - opened.first_since))
    elif out_since is None and in_flight is not None and in_flight.overdue_since is not None:
        out_since = wall - timedelta(seconds=max(0.0, now - in_flight.overdue_since))
    return BreakerSnapshot(
        name=breaker.label,
        role=breaker.role,
        provider=breaker.provider,
        state=str(breaker.current_state),
        reason=reason,
        since=since,
        out_since=out_since,
        next_probe_at=next_probe,
        eligible=eligible and elsewhere,
        calls=reading.calls,
        failures=reading.failures,
        slow_calls=reading.slow,
        failure_rate=reading.failure_rate,
        consecutive_failures=reading.streak,
        opens=rules.opens if rules is not None else breaker.stock.opens,
        holds=rules.holds if rules is not None else 0,
        rejected=breaker.rejected,
        probe_rounds_failed=max(opened.rounds, opened.account_rounds) if opened is not None else 0,
        probes_in_flight=len(state.probes) if isinstance(state, HalfOpen) else 0,
        last_error_kind=rules.last_kind.value if rules is not None and rules.last_kind is not None else None,
        generation=breaker.generation,
        shadow=breaker.policy.shadow if breaker.policy is not None else False,
        in_flight=len(in_flight) if in_flight is not None else 0,
        overdue=in_flight is not None and in_flight.overdue_since is not None,
        typical_seconds=in_flight.typical_seconds() if in_flight is not None else None,
    )
