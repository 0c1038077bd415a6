"""Admissions: the right to one attempt, made of the target's permit and the provider's, settled together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from resilience.breaker.held import Holding
from resilience.breaker.permit import Permit
from resilience.breaker.states import Open
from resilience.outcome import VERDICTS, Effect, Kind

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from resilience.breaker.circuit import CircuitBreaker
    from resilience.breaker.window import CallWindow
    from resilience.health.registry import HealthRegistry
    from resilience.health.roster import TargetHealth
    from resilience.outcome import Outcome
    from resilience.upstream import Target

# Looking up a member of an enumeration costs ten times a module's own name, and this is once per attempt.
_SUCCEEDED, _TIMEOUT, _CONNECTION = Kind.SUCCESS, Kind.TIMEOUT, Kind.CONNECTION


class Admission(Holding):
    """The single-use right to one attempt at one target.

    Settle it with the attempt's outcome. Dropped without a word, it gives everything back as *ignored*. It is itself
    the mark that its attempt runs under: one object less for each attempt.

    Attributes:
        is_eager: Sent before the open time was over; does not count against ``max_attempts``.
        is_forced: Sent although the circuit is open; decides nothing.
    """

    __slots__ = (
        "_answered_at",
        "_health",
        "_own",
        "_registry",
        "_settled",
        "_shared",
        "_ticket",
        "is_eager",
        "is_forced",
        "started",
    )

    def __init__(
        self,
        registry: HealthRegistry,
        health: TargetHealth,
        own: Permit | CallWindow | None,
        shared: Permit | CallWindow | None,
        started: float,
    ) -> None:
        self._breakers = health.breakers
        self.is_live = False
        self._outer = self._token = None
        self._registry = registry
        self._health = health
        # Of a circuit that is plainly closed no permit is made: its window is what a permit of it would hold.
        self._own = own
        self._shared = shared
        self._settled = False
        self._answered_at: float | None = None
        self.started = started
        self.is_eager = self.is_forced = False
        self._ticket = health.in_flight.enter(started)

    @property
    def target(self) -> Target:
        """Whom to call."""
        return self._health.target

    @property
    def is_probe(self) -> bool:
        """Whether a half-open circuit waits for this attempt."""
        return any(isinstance(permit, Permit) and permit.is_probe for permit in (self._own, self._shared))

    def held(self) -> AbstractContextManager[object]:
        """Mark both breakers as held while the attempt runs: guards and callbacks below it do not ask again."""
        return self

    def first_content(self, latency_seconds: float) -> None:
        """A stream's first content has come: the target is not hanging, and a probe earns its place."""
        if self._settled:
            return
        health = self._health
        health.in_flight.leave(self._ticket)
        others = self._others_succeeded()  # asked before our own content is noted over theirs
        if (overdue := health.in_flight.succeeded(self._registry.monotonic(), latency_seconds)) is not None:
            self._registry.on_time(health, overdue)
        self._answered_at = -math.inf if others else health.in_flight.last_success
        own, shared = self._own, self._shared
        opened = [health.breaker] if isinstance(own, Permit) and own.first_content(latency_seconds) else []
        if isinstance(shared, Permit) and shared.first_content(latency_seconds):
            opened.append(health.provider.breaker)
        if opened:
            self._opened(opened)

    def touch(self) -> None:
        """A stream shows life: renew the lease of a probe."""
        for permit in (self._own, self._shared):
            if isinstance(permit, Permit):
                permit.touch()

    def settle(self, outcome: Outcome, *, shortened: bool = False) -> None:
        """Tell what the attempt came to. Only the first call counts.

        Args:
            outcome: What happened.
            shortened: Whether the caller had made the timeout shorter than the target's own. Such a timeout says
                nothing if another call to the target succeeded while this one ran.
        """
        settled, self._settled = self._settled, True  # one step under the GIL: two threads may both end a stream
        if settled:
            return
        health, now = self._health, self._leave()
        if outcome.kind is _SUCCEEDED:
            # A stream has told its time to the first token already.
            latency = outcome.latency_seconds if self._answered_at is None else None
            health.forced_failures = 0
            if (overdue := health.in_flight.succeeded(now, latency)) is not None:
                self._registry.on_time(health, overdue)
            own, shared = health.breaker.doorway.era, health.provider.breaker.doorway.era
            if own is not None and own is self._own and shared is not None and shared is self._shared:
                own.calls += 1
                shared.calls += 1
                return
        self._tell(outcome, shortened=shortened)

    def _tell(self, outcome: Outcome, *, shortened: bool) -> None:
        health, kind = self._health, outcome.kind
        own, shared = self._own, self._shared
        breaker, provider = health.breaker, health.provider.breaker
        verdict = VERDICTS[kind]
        target_effect, provider_effect = verdict.target, verdict.provider
        if shortened and kind is _TIMEOUT and self._others_succeeded():
            target_effect = provider_effect = Effect.IGNORED
        opened = [breaker] if _record(breaker, own, target_effect, outcome, None) else []
        witness = health.witness
        if kind is _CONNECTION:  # nobody is there: no second witness is needed
            witness = None
            if isinstance(shared, Permit):
                shared.source = None
        if _record(provider, shared, provider_effect, outcome, witness):
            opened.append(provider)
        if self.is_forced and target_effect is Effect.FAILURE:
            health.forced_failures += 1
        if opened:
            self._opened(opened)

    def give_back(self) -> None:
        """End without an outcome: nothing was sent, or nobody knows."""
        settled, self._settled = self._settled, True
        if settled:
            return
        self._leave()
        for permit in (self._own, self._shared):
            if isinstance(permit, Permit):
                permit.ignore()

    def _leave(self) -> float:
        health = self._health
        health.in_flight.leave(self._ticket)
        if health.provider.max_concurrency is not None:
            health.provider.leave()
        monotonic = self._registry.monotonic
        health.last_used = now = monotonic()
        return now

    def _others_succeeded(self) -> bool:
        last = self._health.in_flight.last_success
        return last > self.started and last != self._answered_at

    def _opened(self, opened: list[CircuitBreaker]) -> None:
        if len(opened) > 1:
            _share_end(opened)
        self._registry.tripped(self._health)
        for breaker in opened:
            breaker.drain()

    def __del__(self) -> None:
        try:
            settled = self._settled
        except AttributeError:
            return  # it was never finished
        if not settled:
            # The permits give themselves back as they are dropped; what we count ourselves is left here.
            self._settled = True
            self._health.provider.leave()
            self._health.in_flight.leave(self._ticket)


def _record(
    breaker: CircuitBreaker, permit: Permit | CallWindow | None, effect: Effect, outcome: Outcome, source: str | None
) -> bool:
    """Tell one breaker; whether that opened it. ``source`` is for where no permit was made."""
    if permit is None:
        return False
    if not isinstance(permit, Permit):
        permit = Permit(breaker, permit, 0.0, source)
    elif permit.is_settled:
        return False
    permit.detach()
    era = breaker.doorway.era
    if effect is Effect.SUCCESS and era is not None and era is permit.era:
        era.calls += 1
        return False
    opened = breaker.record(permit, effect, outcome, draining=False)
    if not opened:
        breaker.drain()
    return opened


def _share_end(opened: list[CircuitBreaker]) -> None:
    """Breakers that open on the same outcome share the same end: the later one."""
    states = [breaker.rules.state for breaker in opened if breaker.rules is not None]
    until = max((state.until for state in states if isinstance(state, Open)), default=0.0)
    for breaker in opened:
        breaker.extend(until)
