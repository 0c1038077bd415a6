"""Admissions: the right to one attempt, made of the target's permit and the provider's, settled together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilience.breaker.permit import holding
from resilience.breaker.states import Open
from resilience.outcome import Effect, Kind

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from resilience.breaker.circuit import CircuitBreaker
    from resilience.breaker.permit import Permit
    from resilience.health.registry import HealthRegistry
    from resilience.health.roster import TargetHealth
    from resilience.outcome import Outcome
    from resilience.upstream import Target


class Admission:
    """The single-use right to one attempt at one target.

    Settle it with the attempt's outcome. Dropped without a word, it gives everything back as *ignored*.

    Attributes:
        is_eager: Sent before the open time was over; does not count against ``max_attempts``.
        is_forced: Sent although the circuit is open; decides nothing.
    """

    __slots__ = (
        "_health",
        "_provider",
        "_registry",
        "_settled",
        "_target",
        "_ticket",
        "is_eager",
        "is_forced",
        "started",
    )

    def __init__(
        self,
        registry: HealthRegistry,
        health: TargetHealth,
        target: Permit | None,
        provider: Permit | None,
        started: float,
        *,
        is_eager: bool = False,
        is_forced: bool = False,
    ) -> None:
        self._registry = registry
        self._health = health
        self._target = target
        self._provider = provider
        self._settled = False
        self.started = started
        self.is_eager = is_eager
        self.is_forced = is_forced
        health.provider.in_flight += 1
        self._ticket = health.in_flight.enter(started)

    @property
    def target(self) -> Target:
        """Whom to call."""
        return self._health.target

    @property
    def is_probe(self) -> bool:
        """Whether a half-open circuit waits for this attempt."""
        return bool((self._target and self._target.is_probe) or (self._provider and self._provider.is_probe))

    def held(self) -> AbstractContextManager[None]:
        """Mark both breakers as held while the attempt runs: guards and callbacks below it do not ask again."""
        return holding(self._health.breaker, self._health.provider.breaker)

    def first_content(self, latency_seconds: float) -> None:
        """A stream's first content has come: the target is not hanging, and a probe earns its place."""
        if self._settled:
            return
        self._health.in_flight.leave(self._ticket)
        self._registry.answered(self._health, latency_seconds)
        for permit in (self._target, self._provider):
            if permit is not None:
                permit.first_content(latency_seconds)

    def touch(self) -> None:
        """A stream shows life: renew the lease of a probe."""
        for permit in (self._target, self._provider):
            if permit is not None:
                permit.touch()

    def settle(self, outcome: Outcome, *, shortened: bool = False) -> None:
        """Tell what the attempt came to. Only the first call counts.

        Args:
            outcome: What happened.
            shortened: Whether the caller had made the timeout shorter than the target's own. Such a timeout says
                nothing if another call to the target succeeded while this one ran.
        """
        if self._settled:
            return
        self._leave()
        health = self._health
        verdict = outcome.verdict
        target_effect, provider_effect = verdict.target, verdict.provider
        if shortened and outcome.kind is Kind.TIMEOUT and health.in_flight.last_success > self.started:
            target_effect = provider_effect = Effect.IGNORED
        if target_effect is Effect.SUCCESS:
            self._registry.answered(health, outcome.latency_seconds)
        opened = [
            breaker
            for breaker, permit, effect in (
                (health.breaker, self._target, target_effect),
                (health.provider.breaker, self._provider, provider_effect),
            )
            if permit is not None and self._record(breaker, permit, effect, outcome)
        ]
        if len(opened) > 1:
            _share_end(opened)
        if opened:
            self._registry.tripped(health)
            for breaker in opened:
                breaker.drain()

    def give_back(self) -> None:
        """End without an outcome: nothing was sent, or nobody knows."""
        if self._settled:
            return
        self._leave()
        for permit in (self._target, self._provider):
            if permit is not None:
                permit.ignore()

    def _leave(self) -> None:
        self._settled = True
        self._health.in_flight.leave(self._ticket)
        self._health.provider.in_flight -= 1
        self._health.last_used = self._registry.monotonic()

    def _record(self, breaker: CircuitBreaker, permit: Permit, effect: Effect, outcome: Outcome) -> bool:
        if permit.is_settled:
            return False
        if effect is Effect.SUCCESS:
            window = breaker.window
            if window.era is permit.era:
                permit.detach()
                window.calls += 1
                return False
        elif effect is Effect.FAILURE and breaker is self._health.provider.breaker:
            permit.source = self._health.evidence(outcome.kind)
        permit.detach()
        opened = breaker.record(permit, effect, outcome, draining=False)
        if not opened:
            breaker.drain()
        return opened

    def __del__(self) -> None:
        if not getattr(self, "_settled", True):
            # The permits give themselves back as they are dropped; what we count ourselves is left here.
            self._settled = True
            self._health.provider.in_flight -= 1
            self._health.in_flight.drop(self._ticket)


def _share_end(opened: list[CircuitBreaker]) -> None:
    """Breakers that open on the same outcome share the same end: the later one."""
    states = [breaker.rules.state for breaker in opened if breaker.rules is not None]
    until = max((state.until for state in states if isinstance(state, Open)), default=0.0)
    for breaker in opened:
        breaker.extend(until)
