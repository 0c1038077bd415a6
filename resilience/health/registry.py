"""The registry: which targets and providers there are, who is in rotation, and who gets an admission."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from resilience.breaker.circuit import CircuitBreaker
from resilience.breaker.held import HELD, is_held
from resilience.breaker.states import CircuitState, HalfOpen, Open
from resilience.clock import SYSTEM_CLOCK
from resilience.errors import ConcurrencyLimitError, RejectedError, UnknownNameError
from resilience.events import EventHub, PermitRefused, StorageDegraded, StorageRestored, TargetOnTime, TargetOverdue
from resilience.fork import renew_in_children
from resilience.health.admission import Admission
from resilience.health.chance import chance_of, eager_chance_of
from resilience.health.reading import read_breaker
from resilience.health.roster import Roster
from resilience.health.views import BreakerView, TargetName
from resilience.outcome import Kind
from resilience.settings import Settings
from resilience.snapshots import RouteSnapshot, Snapshot
from resilience.upstream import Force

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from resilience.breaker.permit import Permit
    from resilience.clock import Clock
    from resilience.events import Event, Sink
    from resilience.health.roster import Role, TargetHealth
    from resilience.outcome import Outcome
    from resilience.snapshots import BreakerSnapshot
    from resilience.upstream import Target


class HealthRegistry:
    """Every breaker by name, the rotation of each route, and the admission of attempts.

    Thread-safe and bound to no event loop. Reading never changes a state.

    Args:
        settings: The breakers' policies. Default: the defaults.
        clock: Where time comes from.
        rng: Where chance comes from.
        classify: Says what an exception means, for functions guarded by a provider's breaker.

    Attributes:
        providers: Providers' breakers by name.
        targets: Targets' breakers by name.
        hub: Where events are published.
        storage_trouble: Why the fleet's store is out of reach, None where it is not.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
        classify: Callable[[BaseException], Outcome] | None = None,
    ) -> None:
        self.settings = settings if settings is not None else Settings()
        self.hub = EventHub()
        self.clock = clock
        self.monotonic = clock.monotonic
        self._rng = rng or random.Random()
        self._classify = classify
        self._join: Callable[[CircuitBreaker, str], None] | None = None
        self._roster = Roster(
            self._breaker, lambda name: self.settings.provider(name).max_concurrency, self.monotonic, self._entered
        )
        self._routes: dict[str, tuple[str, ...]] = {}
        self.storage_trouble: str | None = None
        self.providers = BreakerView("provider", self._roster.providers)
        self.targets = BreakerView("target", self._roster.targets)
        renew_in_children(self)

    # -- who there is ---------------------------------------------------------------------------------------

    def add(self, target: Target) -> Target:
        """Register a target, or find the equal one that is registered.

        Returns:
            The registered target: equal targets are one, with one breaker, in every route.
        """
        return self._roster.add(target).target

    def known(self, target: Target) -> Target | None:
        """The registered target that equals ``target``, None where there is none."""
        entry = self._roster.find(target)
        return entry.target if entry is not None else None

    def target(self, name: str) -> Target | None:
        """The registered target of a name, None where there is none."""
        entry = self._roster.targets.get(name)
        return entry.target if entry is not None else None

    def add_route(self, name: str, targets: Iterable[Target]) -> None:
        """Register a route: its targets in the order of its settings."""
        self._routes[name] = tuple(self.add(target).name for target in targets)

    def provider_breaker(self, name: str) -> CircuitBreaker:
        """The breaker of a provider, made where there is none yet; for functions that are guarded by name."""
        return self._roster.provider(name).breaker

    def _breaker(self, name: str, role: Role, provider: str) -> CircuitBreaker:
        settings = self.settings
        return CircuitBreaker(
            name=name,
            policy=settings.target_breaker if role == "target" else settings.provider(provider).breaker,
            clock=self.clock,
            rng=self._rng,
            sink=self.hub,
            provider=provider,
            role=role,
            classify=self._classify,
            marks_context=True,
        )

    def share(self, join: Callable[[CircuitBreaker, str], None]) -> None:
        """Let a fleet share the breakers that are registered from now on.

        Targets made of callers' own keys stay this process's own: they are many, and short-lived. Their provider's
        breaker is shared.

        Args:
            join: Takes a breaker and its name in the whole fleet.
        """
        self._join = join

    def _entered(self, breaker: CircuitBreaker, target: Target | None) -> None:
        if self._join is None or (target is not None and target.dynamic):
            return
        self._join(
            breaker, f"provider:{breaker.name}" if target is None else f"target:{target.identity or target.name}"
        )

    # -- may an attempt go? ---------------------------------------------------------------------------------

    def admit(
        self,
        target: Target,
        *,
        timeout_seconds: float | None = None,
        force: Force = Force.NO,
    ) -> Admission:
        """Give the right to one attempt: permits of both breakers, or none.

        Args:
            target: A registered target.
            timeout_seconds: The attempt's limit: a probe slower than half of it has failed.
            force: Which open circuits to use all the same.

        Raises:
            RejectedError: Nothing may be sent now; it says why and until when.
        """
        health = self._health(target)
        now = self.monotonic()
        self._look_for_hang(health, now)
        if force is Force.RATE and health.forced_failures >= self.settings.target_breaker.minimum_calls:
            # What a rate opened has died meanwhile. As many calls as show a rate show this as well: with three
            # calls in four failing, twenty in a row are one chance in three hundred.
            force = Force.NO
        if not health.in_flight.take_let(now):
            raise self._told(self._overdue_error(health, now))
        if not health.provider.enter():
            raise self._told(_too_many(health))
        own: Permit | None = None
        timeout_seconds = health.patience(timeout_seconds)
        try:
            own = _permit(health.breaker, None, timeout_seconds, force)
            shared = _permit(health.provider.breaker, health.witness, timeout_seconds, force)
        except BaseException:
            health.provider.leave()
            if own is not None:
                own.ignore()
            raise
        forced = force is not Force.NO and any(permit is not None and permit.is_stray for permit in (own, shared))
        admission = Admission(self, health, own, shared, now)
        admission.is_forced = forced
        return admission

    def admit_eligible(self, target: Target, *, timeout_seconds: float | None = None) -> Admission | None:
        """The same for a target that is in rotation; None if it is not, and nobody is told of a refusal.

        Raises:
            RejectedError: It was in rotation, and somebody else was quicker.
        """
        health = self._roster.by_identity.get(target.identity or target.name)
        if health is not None and HELD.get() is None:
            provider = health.provider
            own, shared = health.breaker.doorway.era, provider.breaker.doorway.era
            if own is not None and shared is not None and provider.max_concurrency is None:
                monotonic = self.monotonic
                now = monotonic()
                if health.in_flight.is_quiet(now):
                    return Admission(self, health, own, shared, now)
        return self.admit(target, timeout_seconds=timeout_seconds) if self.is_eligible(target) else None

    def admit_eager(self, target: Target, *, timeout_seconds: float | None = None) -> Admission | None:
        """The once-a-second probe of a target out after an outage, whatever its open time; None: not now.

        For a route that has nothing eligible: there is nobody to spare.
        """
        health = self._health(target)
        now = self.monotonic()
        due = eager_chance_of(health, now)
        if due is None or due > now or not health.provider.enter():
            return None
        permits: list[Permit | None] = []
        timeout_seconds = health.patience(timeout_seconds)
        eager = False
        for breaker, source in ((health.breaker, None), (health.provider.breaker, health.witness)):
            permit: Permit | None = None
            if not is_held(breaker):
                permit = breaker.acquire_eager(source=source, timeout_seconds=timeout_seconds)
                eager = eager or permit is not None
            try:
                permits.append(permit or _permit(breaker, source, timeout_seconds, Force.NO))
            except RejectedError:
                health.provider.leave()
                for taken in permits:
                    if taken is not None:
                        taken.ignore()
                return None
        admission = Admission(self, health, permits[0], permits[1], now)
        admission.is_eager = eager
        return admission

    def is_eligible(self, target: Target) -> bool:
        """Whether the target is in rotation now. Changes nothing."""
        health = self._roster.find(target)
        if health is None:
            return True
        if not (health.breaker.is_eligible() and health.provider.breaker.is_eligible(health.witness)):
            return False
        now = self.monotonic()
        self._look_for_hang(health, now)
        return not health.in_flight.refuses(now)

    def rejection(self, target: Target) -> RejectedError | None:
        """Why the target is not in rotation now, None if it is."""
        health = self._health(target)
        for breaker, source in ((health.provider.breaker, health.witness), (health.breaker, None)):
            if not breaker.is_eligible(source):
                return breaker.rejection(source)
        now = self.monotonic()
        return self._overdue_error(health, now) if health.in_flight.refuses(now) else None

    def next_chance(self, targets: Sequence[Target], *, accounts: bool = False) -> float | None:
        """Monotonic time at which the first of ``targets`` comes back by itself.

        Args:
            targets: Registered targets.
            accounts: Whether to count those that wait for an account, to tell the caller when to ask again.

        Returns:
            Now if one is eligible; None if each of them waits for a person, or for an account that is not counted.
        """
        now = self.monotonic()
        times = [chance_of(self._health(target), now, accounts=accounts) for target in targets]
        return min((time for time in times if time is not None), default=None)

    def next_eager(self, targets: Sequence[Target]) -> float | None:
        """Monotonic time of the next eager probe among ``targets``, None if none applies."""
        now = self.monotonic()
        times = [time for target in targets if (time := eager_chance_of(self._health(target), now)) is not None]
        return min(times, default=None)

    # -- what came of it ------------------------------------------------------------------------------------

    def on_time(self, health: TargetHealth, overdue_seconds: float) -> None:
        """An overdue target has given an answer, or the first content of one."""
        self.hub.publish(TargetOnTime(health.target.name, health.target.provider, overdue_seconds))

    def tripped(self, health: TargetHealth) -> None:
        """A breaker of this target opened: the overdue rule has nothing to add."""
        overdue = health.in_flight.forgive(self.monotonic())
        if overdue is not None:
            self.on_time(health, overdue)

    # -- looking and steering -------------------------------------------------------------------------------

    def rotation(self, route: str) -> list[TargetName]:
        """The targets of a route that are eligible now, in order.

        Returns:
            Names, usable as keys of `targets`; each also has ``name``, ``provider`` and ``model``.

        Raises:
            ConfigurationError: There is no such route; the message lists those that there are.
        """
        names = self._routes.get(route)
        if names is None:
            known = ", ".join(sorted(self._routes)) or "none"
            raise UnknownNameError(f"there is no route {route!r}; known routes: {known}")
        healths = [self._roster.targets[name] for name in names]
        return [TargetName(health.target) for health in healths if self.is_eligible(health.target)]

    def snapshot(self) -> Snapshot:
        """A frozen reading of every breaker and route."""
        providers, targets = list(self._roster.providers.values()), list(self._roster.targets.values())
        return Snapshot(
            at=self.clock.now(),
            providers={provider.name: read_breaker(provider.breaker) for provider in providers},
            targets={health.target.name: self._read_target(health) for health in targets},
            routes={
                name: RouteSnapshot(name=name, targets=names, eligible=tuple(map(str, self.rotation(name))))
                for name, names in self._routes.items()
            },
            sink_errors=self.hub.sink_errors,
            storage_trouble=self.storage_trouble,
        )

    def subscribe(self, sink: Sink) -> Callable[[], None]:
        """Let ``sink(event)`` hear every event. A sink that raises is counted, never felt.

        Returns:
            A function that ends the subscription.
        """
        return self.hub.subscribe(sink)

    def publish(self, event: Event) -> None:
        """Tell every sink, and remember how the fleet's store is: whoever looks later has not heard it."""
        if isinstance(event, StorageDegraded):
            self.storage_trouble = event.reason
        elif isinstance(event, StorageRestored):
            self.storage_trouble = None
        self.hub.publish(event)

    # -- the parts ------------------------------------------------------------------------------------------

    def _health(self, target: Target) -> TargetHealth:
        # A dynamic target may have been forgotten while its request waited: then it is new.
        return self._roster.find(target) or self._roster.add(target)

    def _read_target(self, health: TargetHealth) -> BreakerSnapshot:
        return read_breaker(health.breaker, health.in_flight, elsewhere=self.is_eligible(health.target))

    def _told(self, error: RejectedError) -> RejectedError:
        if self.hub.sinks:
            self.hub.publish(PermitRefused(error.breaker or "", error.provider, str(error), error.retry_after))
        return error

    def _look_for_hang(self, health: TargetHealth, now: float) -> None:
        if health.in_flight.is_quiet(now):
            return
        if health.breaker.current_state != CircuitState.CLOSED:
            return  # its breaker speaks for it
        policy = self.settings.target_breaker
        found = health.in_flight.notice(now, policy.overdue_factor, policy.minimum_calls)
        if found is not None:
            target, hang = health.target, len(health.in_flight)
            self.hub.publish(TargetOverdue(target.name, target.provider, hang, *found, policy.shadow))

    def _overdue_error(self, health: TargetHealth, now: float) -> RejectedError:
        wait = max(0.0, health.in_flight.next_let() - now)
        message = (
            f"{health.target.name} is overdue: {len(health.in_flight)} calls hang; "
            f"it gets one call a second until something succeeds, the next in {wait:.1f} s"
        )
        return RejectedError(message, health.target.name, health.target.provider, wait, Kind.TIMEOUT)

    def renew_after_fork(self) -> None:
        """In a forked child: fresh locks, and none of the parent's calls in flight."""
        self.hub.renew_lock()
        self._roster.renew_after_fork()


def _too_many(health: TargetHealth) -> ConcurrencyLimitError:
    provider = health.provider
    return ConcurrencyLimitError(
        f"{provider.name} has {provider.in_flight} calls in flight, max_concurrency is {provider.max_concurrency}",
        provider.name,
        provider.name,
    )


def _permit(breaker: CircuitBreaker, source: str | None, timeout_seconds: float | None, force: Force) -> Permit | None:
    if is_held(breaker):
        return None  # a guard around this call holds it already
    if force is not Force.NO and not breaker.is_eligible(source):
        state = breaker.rules.state if breaker.rules is not None else None
        opened = state.opened if isinstance(state, HalfOpen) else state
        if isinstance(opened, Open) and (opened.by_rate or (force is Force.OUTAGE and opened.is_outage)):
            return breaker.stray_permit()
        raise breaker.rejection(source)  # one that waits asks twenty times a second: those are no refused attempts
    return breaker.acquire(source=source, timeout_seconds=timeout_seconds)
