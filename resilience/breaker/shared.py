"""Shared state: what a fleet knows of one circuit, and how a breaker takes it over. Runs under the breaker's lock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from resilience.breaker.states import CircuitState, Closed, HalfOpen, Isolated, Open
from resilience.breaker.trip import Reason
from resilience.outcome import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilience.breaker.permit import ProbePermit
    from resilience.breaker.rules import PolicyRules


@dataclass(frozen=True, slots=True)
class SharedState:
    """One circuit as the fleet knows it, in this process's monotonic time.

    Attributes:
        state: Which state it is in.
        reason: Why it is not closed; for an isolated one the person's own words.
        kind: The failure kind that opened it.
        since: Monotonic time of the present opening, or of the state.
        until: Monotonic end of the opening.
        first_since: When the circuit left closed.
        failures: Failures that the rule saw.
        calls: Calls that it saw.
        rounds: Failed probe rounds of an outage.
        account_rounds: Failed probe rounds of an account error.
        remembers_until: When a closed circuit forgets those rounds.
        successes: Probes of this half-open round that worked, of all processes.
        earned: Places earned in the ramp, by all processes.
        doubters: Sources whose probe failed in this round, and until when they must not probe.
    """

    state: CircuitState
    since: float
    reason: str | None = None
    kind: str | None = None
    until: float = 0.0
    first_since: float = 0.0
    failures: int = 0
    calls: int = 0
    rounds: int = 0
    account_rounds: int = 0
    remembers_until: float = 0.0
    successes: int = 0
    earned: int = 0
    doubters: Mapping[str, float] = field(default_factory=dict)


class FleetSeat(Protocol):
    """What a breaker asks of its place in a fleet. Nothing here does I/O: it reads memory and leaves notes."""

    def moved_locked(self, *, by_hand: bool = False) -> None:
        """The circuit has entered another state, or moved its end."""

    def failed_locked(self) -> None:
        """A call failed and the circuit stayed closed: the fleet's sum may say otherwise."""

    def wait_locked(self, now: float, until: float) -> None:
        """Somebody asked while the open time runs: this process will want to probe at its end."""

    def probe_chance_locked(self, now: float) -> float | None:
        """Monotonic time from which a probe may go: now with a lease in hand. None: this process is on its own."""

    def eager_chance_locked(self, now: float) -> float | None:
        """The same for the once-a-second probe past an open time or a doubt."""

    def take_probe_locked(self, permit: ProbePermit, now: float) -> None:
        """A probe goes out: it uses a lease."""

    def probed_locked(self, ticket: int, *, worked: bool, doubted: str | None = None) -> None:
        """A probe has ended. Neither worked nor doubted: it told nothing, and the lease may be used again.

        Both: it was an eager one past the doubt of that source, and lifts it.
        """

    def earned_locked(self, ticket: int) -> None:
        """A streaming probe has earned its place."""

    def renewed_locked(self, ticket: int) -> None:
        """A streaming probe shows life."""


def describe_locked(rules: PolicyRules) -> SharedState:
    """The breaker's own state, to be told to the fleet."""
    state = rules.state
    if isinstance(state, Isolated):
        return SharedState(CircuitState.ISOLATED, state.since, state.reason)
    if isinstance(state, Closed):
        return SharedState(
            CircuitState.CLOSED,
            state.since,
            rounds=state.rounds,
            account_rounds=state.account_rounds,
            remembers_until=state.remembers_until,
        )
    half = state if isinstance(state, HalfOpen) else None
    opened = state if isinstance(state, Open) else state.opened
    return SharedState(
        state.name,
        opened.since,
        opened.reason.value,
        opened.kind.value if opened.kind is not None else None,
        until=opened.until,
        first_since=opened.first_since,
        failures=opened.failures,
        calls=opened.calls,
        rounds=opened.rounds,
        account_rounds=opened.account_rounds,
        successes=half.successes if half is not None else 0,
        earned=half.earned if half is not None else 0,
        doubters=dict(half.doubters) if half is not None else {},
    )


def adopt_locked(rules: PolicyRules, shared: SharedState, now: float) -> None:
    """Enter the state that the fleet is in."""
    if shared.state is CircuitState.ISOLATED:
        rules.isolate_locked(shared.reason or "", now)
    elif shared.state is CircuitState.CLOSED:
        if not isinstance(rules.state, Closed):
            rules.close_locked(now, shared.reason or "closed by another process of the fleet")
        rules.state = Closed(now, shared.rounds, shared.account_rounds, shared.remembers_until)
    elif shared.state is CircuitState.OPEN:
        rules.enter_open_locked(_opening(rules, shared))
    else:
        rules.half_open_locked(_opening(rules, shared), now)
        merge_locked(rules, shared, now)


def merge_locked(rules: PolicyRules, shared: SharedState, now: float) -> None:
    """News of the same era: a later end, or other processes' probes."""
    state = rules.state
    if isinstance(state, Open) and shared.state is CircuitState.OPEN:
        rules.extend_locked(shared.until)
    elif isinstance(state, HalfOpen) and shared.state is CircuitState.HALF_OPEN:
        if shared.doubters.keys() - state.doubters.keys():
            state.opened.eager_at = now  # they have asked it just now
        state.doubters.update(shared.doubters)
        state.successes = max(state.successes, shared.successes)
        state.earned = max(state.earned, shared.earned)
        if state.successes >= rules.policy.probe_successes:
            rules.close_locked(now, "probes succeeded")


def _opening(rules: PolicyRules, shared: SharedState) -> Open:
    try:
        reason = Reason(shared.reason or "")
    except ValueError:
        reason = Reason.FORCED  # a newer version's own reason
    return Open(
        label=rules.breaker.label,
        since=shared.since,
        until=shared.until,
        first_since=shared.first_since or shared.since,
        reason=reason,
        kind=Kind(shared.kind) if shared.kind in set(Kind) else None,
        failures=shared.failures,
        calls=shared.calls,
        rounds=shared.rounds,
        account_rounds=shared.account_rounds,
    )
