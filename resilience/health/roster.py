"""The roster: every target and provider with its breaker, and which of them are forgotten again."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Final, Literal

from resilience.breaker.states import CircuitState
from resilience.health.overdue import InFlight

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilience.breaker.circuit import CircuitBreaker
    from resilience.upstream import Target

Role = Literal["provider", "target"]

# Targets made of callers' own keys: beyond these, idle closed ones are forgotten.
MAX_DYNAMIC_TARGETS: Final = 10_000
IDLE_SECONDS: Final = 900.0
_SWEEP_EVERY: Final = 256
# A probe has failed that takes more than half of its limit, so that twice the typical time is never too long.
TYPICAL_TIMES: Final = 4.0
# A circuit whose open time is over reads half-open; it has forgotten its trouble if nobody asks for long.
_OVER: Final = frozenset({CircuitState.CLOSED, CircuitState.HALF_OPEN})


class ProviderHealth:
    """One provider: its breaker, and how many of its targets are in use."""

    __slots__ = ("_lock", "breaker", "in_flight", "is_pinned", "max_concurrency", "name", "targets")

    def __init__(self, name: str, breaker: CircuitBreaker, max_concurrency: int | None) -> None:
        self.name = name
        self.breaker = breaker
        self.max_concurrency = max_concurrency
        self.in_flight = 0
        self.targets = 0
        # Somebody outside holds the breaker, or the settings name a target of it: never forgotten.
        self.is_pinned = False
        self._lock = threading.Lock()

    def enter(self) -> bool:
        """Count one more call in flight; False: as many as are allowed are. Nothing is counted without a limit."""
        if self.max_concurrency is None:
            return True
        with self._lock:
            if self.in_flight >= self.max_concurrency:
                return False
            self.in_flight += 1
            return True

    def leave(self) -> None:
        """Count one less. Without the lock: the garbage collector calls it, anywhere."""
        # More than none: a forked child may end a call that its parent began and that nobody counted here.
        if self.max_concurrency is not None and self.in_flight > 0:
            self.in_flight -= 1

    def renew_after_fork(self) -> None:
        """In a forked child: a fresh lock, and none of the parent's calls."""
        self._lock = threading.Lock()
        self.in_flight = 0


class TargetHealth:
    """One target: its breaker, its provider, its calls in flight."""

    __slots__ = ("breaker", "breakers", "forced_failures", "in_flight", "last_used", "provider", "target")

    def __init__(self, target: Target, breaker: CircuitBreaker, provider: ProviderHealth, now: float) -> None:
        self.target = target
        self.breaker = breaker
        self.provider = provider
        self.breakers = (breaker, provider.breaker)
        self.in_flight = InFlight(ejects=breaker.policy is None or not breaker.policy.shadow)
        self.last_used = now
        # Of the attempts made although it is open, how many have failed since one worked.
        self.forced_failures = 0

    @property
    def witness(self) -> str | None:
        """Who testifies against the provider; None where one witness is enough, having no siblings."""
        return self.target.name if self.provider.targets > 1 else None

    def patience(self, timeout_seconds: float | None) -> float | None:
        """The limit of which a probe may take half: the attempt's, or four times what is typical for the target.

        A model whose good answers take more than half of their time would otherwise never come back after one trip.
        """
        if timeout_seconds is None or all(breaker.doorway.era is not None for breaker in self.breakers):
            return timeout_seconds
        return max(timeout_seconds, TYPICAL_TIMES * (self.in_flight.typical_seconds() or 0.0))

    def is_forgettable(self) -> bool:
        """Whether nobody would miss it: nothing in flight, and what it knows is over."""
        return not len(self.in_flight) and self.breaker.current_state in _OVER


class Roster:
    """Who there is. Targets from the settings stay; those made of callers' keys are forgotten when idle.

    Args:
        make_breaker: Makes a breaker of a name, a role and a provider.
        limit: The calls that a provider may have in flight, by its name.
        monotonic: Where time comes from.
        entered: Told of each new breaker, with its target where it is a target's.

    Attributes:
        providers: By name.
        targets: By name.
        by_identity: The same targets by what makes them equal; by name where they have nothing else.
    """

    def __init__(
        self,
        make_breaker: Callable[[str, Role, str], CircuitBreaker],
        limit: Callable[[str], int | None],
        monotonic: Callable[[], float],
        entered: Callable[[CircuitBreaker, Target | None], None],
    ) -> None:
        self.providers: dict[str, ProviderHealth] = {}
        self.targets: dict[str, TargetHealth] = {}
        self.by_identity: dict[str, TargetHealth] = {}
        self._make_breaker = make_breaker
        self._limit = limit
        self._monotonic = monotonic
        self._entered = entered
        self._lock = threading.Lock()
        self._dynamic = 0

    def find(self, target: Target) -> TargetHealth | None:
        """The entry of an equal target, None where there is none."""
        return self.by_identity.get(_identity(target))

    def add(self, target: Target) -> TargetHealth:
        """Enter a target, or find the equal one."""
        known = self.find(target)
        if known is not None:
            return known
        with self._lock:
            known = self.find(target)
            if known is not None:
                return known
            if target.name in self.targets:  # another target by the same name, added by another thread just now
                names = (f"{target.name}#{number}" for number in count(2))
                target = replace(target, name=next(name for name in names if name not in self.targets))
            if target.dynamic:
                self._dynamic += 1
                if self._dynamic % _SWEEP_EVERY == 0:
                    self._sweep_locked()
            provider = self._provider_locked(target.provider)
            provider.targets += 1
            provider.is_pinned = provider.is_pinned or not target.dynamic
            breaker = self._make_breaker(target.name, "target", target.provider)
            self._entered(breaker, target)
            entry = TargetHealth(target, breaker, provider, self._monotonic())
            self.targets[target.name] = self.by_identity[_identity(target)] = entry
            return entry

    def provider(self, name: str) -> ProviderHealth:
        """A provider's entry, made where there is none yet, and kept."""
        with self._lock:
            provider = self._provider_locked(name)
            provider.is_pinned = True
            return provider

    def renew_after_fork(self) -> None:
        """In a forked child: a fresh lock, and none of the parent's calls in flight."""
        self._lock = threading.Lock()
        for entry in self.by_identity.values():
            entry.in_flight.renew_after_fork()
        for provider in self.providers.values():
            provider.renew_after_fork()

    def _provider_locked(self, name: str) -> ProviderHealth:
        provider = self.providers.get(name)
        if provider is None:
            provider = ProviderHealth(name, self._make_breaker(name, "provider", name), self._limit(name))
            self.providers[name] = provider
            self._entered(provider.breaker, None)
        return provider

    def _sweep_locked(self) -> None:
        """Forget idle dynamic targets; past the limit the longest idle first, then open ones: bad keys are many."""
        now = self._monotonic()
        dynamic = sorted(
            (entry for entry in self.by_identity.values() if entry.target.dynamic), key=lambda entry: entry.last_used
        )
        surplus = len(dynamic) - MAX_DYNAMIC_TARGETS
        for entry in filter(TargetHealth.is_forgettable, dynamic):
            if surplus <= 0 and now - entry.last_used < IDLE_SECONDS:
                break
            self._forget_locked(entry)
            surplus -= 1
        for entry in dynamic:
            if surplus <= 0:
                break
            gone = _identity(entry.target) not in self.by_identity
            if gone or len(entry.in_flight) or entry.breaker.current_state == CircuitState.ISOLATED:
                continue
            self._forget_locked(entry)
            surplus -= 1

    def _forget_locked(self, entry: TargetHealth) -> None:
        del self.by_identity[_identity(entry.target)], self.targets[entry.target.name]
        provider = entry.provider
        provider.targets -= 1
        # An open provider that nobody uses any more has nobody left to tell.
        isolated = provider.breaker.current_state == CircuitState.ISOLATED
        if provider.targets == 0 and not provider.is_pinned and not isolated:
            self.providers.pop(provider.name, None)


def _identity(target: Target) -> str:
    # Made by hand, for a test or a script, a target may have nothing but its name.
    return target.identity or target.name
