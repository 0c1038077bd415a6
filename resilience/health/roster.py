"""The roster: every target and provider with its breaker, and which of them are forgotten again."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Literal

from resilience.health.overdue import InFlight
from resilience.outcome import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilience.breaker.circuit import CircuitBreaker
    from resilience.upstream import Target

Role = Literal["provider", "target"]

# Targets made of callers' own keys: beyond these, idle closed ones are forgotten.
MAX_DYNAMIC_TARGETS: Final = 10_000
IDLE_SECONDS: Final = 900.0
_SWEEP_EVERY: Final = 256


class ProviderHealth:
    """One provider: its breaker, and how many of its targets are in use."""

    __slots__ = ("breaker", "in_flight", "max_concurrency", "name", "targets")

    def __init__(self, name: str, breaker: CircuitBreaker, max_concurrency: int | None) -> None:
        self.name = name
        self.breaker = breaker
        self.max_concurrency = max_concurrency
        self.in_flight = 0
        self.targets = 0


class TargetHealth:
    """One target: its breaker, its provider, its calls in flight."""

    __slots__ = ("breaker", "in_flight", "last_used", "provider", "target")

    def __init__(self, target: Target, breaker: CircuitBreaker, provider: ProviderHealth, now: float) -> None:
        self.target = target
        self.breaker = breaker
        self.provider = provider
        self.in_flight = InFlight()
        self.last_used = now

    def evidence(self, kind: Kind) -> str | None:
        """Who testifies against the provider; None where one witness is enough."""
        alone = kind is Kind.CONNECTION or self.provider.targets <= 1
        return None if alone else self.target.name


class Roster:
    """Who there is. Targets from the settings stay; those made of callers' keys are forgotten when idle.

    Args:
        make_breaker: Makes a breaker of a name, a role and a provider.
        limit: The calls that a provider may have in flight, by its name.
        monotonic: Where time comes from.
    """

    def __init__(
        self,
        make_breaker: Callable[[str, Role, str], CircuitBreaker],
        limit: Callable[[str], int | None],
        monotonic: Callable[[], float],
    ) -> None:
        self.providers: dict[str, ProviderHealth] = {}
        self.targets: dict[str, TargetHealth] = {}
        self._by_identity: dict[str, TargetHealth] = {}
        self._make_breaker = make_breaker
        self._limit = limit
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._dynamic = 0

    def find(self, target: Target) -> TargetHealth | None:
        """The entry of an equal target, None where there is none."""
        return self._by_identity.get(target.identity)

    def add(self, target: Target) -> TargetHealth:
        """Enter a target, or find the equal one."""
        known = self._by_identity.get(target.identity)
        if known is not None:
            return known
        with self._lock:
            known = self._by_identity.get(target.identity)
            if known is not None:
                return known
            if target.dynamic:
                self._dynamic += 1
                if self._dynamic % _SWEEP_EVERY == 0:
                    self._sweep_locked()
            provider = self._provider_locked(target.provider)
            provider.targets += 1
            breaker = self._make_breaker(target.name, "target", target.provider)
            entry = TargetHealth(target, breaker, provider, self._monotonic())
            self.targets[target.name] = self._by_identity[target.identity] = entry
            return entry

    def provider(self, name: str) -> ProviderHealth:
        """A provider's entry, made where there is none yet."""
        with self._lock:
            return self._provider_locked(name)

    def renew_after_fork(self) -> None:
        """In a forked child: a fresh lock, and none of the parent's calls in flight."""
        self._lock = threading.Lock()
        for entry in self._by_identity.values():
            entry.in_flight.renew_after_fork()
        for provider in self.providers.values():
            provider.in_flight = 0

    def _provider_locked(self, name: str) -> ProviderHealth:
        provider = self.providers.get(name)
        if provider is None:
            provider = ProviderHealth(name, self._make_breaker(name, "provider", name), self._limit(name))
            self.providers[name] = provider
        return provider

    def _sweep_locked(self) -> None:
        """Forget dynamic targets that are closed and idle; past the limit, the longest idle first."""
        now = self._monotonic()
        dynamic = [entry for entry in self._by_identity.values() if entry.target.dynamic]
        idle = [entry for entry in dynamic if not len(entry.in_flight) and entry.breaker.current_state == "closed"]
        idle.sort(key=lambda entry: entry.last_used)
        surplus = len(dynamic) - MAX_DYNAMIC_TARGETS
        for position, entry in enumerate(idle):
            if position >= surplus and now - entry.last_used < IDLE_SECONDS:
                break
            del self._by_identity[entry.target.identity], self.targets[entry.target.name]
            provider = entry.provider
            provider.targets -= 1
            if provider.targets == 0 and provider.breaker.current_state == "closed":
                self.providers.pop(provider.name, None)
