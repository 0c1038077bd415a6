"""The circuit breaker: pybreaker's API whole, plus permits, asyncio, a policy, and no lock held over a call."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypeVar, cast, overload

import pybreaker

from resilience.breaker import guard
from resilience.breaker.permit import NO_ERA, Permit, ProbePermit
from resilience.breaker.rules import PolicyRules
from resilience.breaker.states import CircuitState
from resilience.breaker.steering import SteeredCircuit
from resilience.breaker.stock import StockRules
from resilience.breaker.tuning import refuse_both
from resilience.breaker.window import CallWindow, Doorway
from resilience.clock import SYSTEM_CLOCK
from resilience.errors import CircuitOpenError, RejectedError, new_error
from resilience.events import EventHub, PermitRefused
from resilience.fork import renew_in_children
from resilience.outcome import VERDICTS, Effect, Kind, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from contextlib import _GeneratorContextManager

    from resilience.breaker.states import Open
    from resilience.clock import Clock
    from resilience.events import Event, Sink
    from resilience.settings import BreakerSettings

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., Any]")

# Never closed, so that guards that read it take the path with all the questions.
_COLD: Final = Doorway()


class CircuitBreaker(SteeredCircuit):
    """A circuit breaker for calls of any kind: functions, coroutines and both sorts of generator.

    Use it as a decorator, through `call` and `acall`, through pybreaker's ``calling``, or by taking a permit
    with `acquire`. It is thread-safe, bound to no event loop, and holds its lock only while deciding and
    recording, never during a call and never while a sink hears an event.

    Without ``policy`` the rules are pybreaker's own, and code written for pybreaker runs on it unchanged.

    Args:
        fail_max: pybreaker's: failures in a row that open the circuit. Default 5.
        reset_timeout: pybreaker's: seconds that it stays open. Default 60.
        success_threshold: pybreaker's: successful trial calls that close it. Default 1.
        exclude: pybreaker's: exception types, or predicates, that are not failures.
        listeners: pybreaker's: told under the lock of calls, outcomes and changes of state.
        state_storage: pybreaker's: where state and counters live.
        name: What people call it.
        throw_new_error_on_trip: Whether the call that trips raises CircuitBreakerError instead of its own
            exception. Default: True without a policy, as in pybreaker, else False.
        policy: The rules of this package. Excludes ``fail_max``, ``reset_timeout`` and ``success_threshold``.
        clock: Where time comes from.
        rng: Where chance comes from.
        sink: Hears the events of this breaker; a hub publishes them to its sinks.
        provider: The provider it watches, for errors and events.
        role: What it watches, for snapshots.
        classify: Says what an exception means; without it the exception's own type decides.
        marks_context: Whether a guard of this breaker around another guard of it asks only once.

    Raises:
        ConfigurationError: ``policy`` came together with arguments that it replaces.
    """

    def __init__(
        self,
        fail_max: int | None = None,
        reset_timeout: float | None = None,
        success_threshold: int | None = None,
        exclude: Iterable[type[BaseException] | Callable[[Any], bool]] | None = None,
        listeners: Sequence[pybreaker.CircuitBreakerListener] | None = None,
        state_storage: pybreaker.CircuitBreakerStorage | None = None,
        name: str | None = None,
        throw_new_error_on_trip: bool | None = None,
        *,
        policy: BreakerSettings | None = None,
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
        sink: Sink | EventHub | None = None,
        provider: str | None = None,
        role: Literal["provider", "target", "breaker"] = "breaker",
        classify: Callable[[BaseException], Outcome] | None = None,
        marks_context: bool = False,
    ) -> None:
        refuse_both(policy, fail_max=fail_max, reset_timeout=reset_timeout, success_threshold=success_threshold)
        # Before pybreaker's own constructor, which creates the first state and asks these fields.
        self.window = CallWindow()
        self.doorway = Doorway()
        # Fewer than thirty fields: instances with more share no keys on CPython 3.11, and are five times as large.
        self.hot = _COLD if marks_context else self.doorway
        self.clock = clock
        self.monotonic = clock.monotonic
        self.provider = provider
        self.role = role
        self.generation = 1
        self.rejected = 0
        self.hub = sink if sink is None or isinstance(sink, EventHub) else _hub_of(sink)
        self.classify = classify
        # Lists, although they are queues: an empty deque is ten times as large, and there are many breakers.
        self._pending: list[Callable[[CircuitBreaker], Event]] = []
        self._telling = threading.Lock()
        self._dropped: list[int] = []
        if state_storage is not None:
            self._foreign_storage = True
        self._policy = policy
        self._rules: PolicyRules | None = None
        self._stock = StockRules(self)
        super().__init__(
            fail_max=5 if fail_max is None else fail_max,
            reset_timeout=60 if reset_timeout is None else reset_timeout,
            success_threshold=1 if success_threshold is None else success_threshold,
            exclude=exclude,
            listeners=listeners,
            state_storage=state_storage,
            name=name,
            throw_new_error_on_trip=policy is None if throw_new_error_on_trip is None else throw_new_error_on_trip,
        )
        self.since = self.monotonic()
        if policy is not None:
            self._rules = PolicyRules(self, policy, rng or random.Random(), self.since)
            self._refresh_hot_locked()
        renew_in_children(self)

    @property
    def marks_context(self) -> bool:
        """Whether a guard of this breaker around another guard of it asks only once."""
        return self.hot is _COLD

    # -- the calls ------------------------------------------------------------------------------------------

    def acquire(self, *, source: str | None = None, timeout_seconds: float | None = None) -> Permit:
        """Take a permit for one attempt; it never waits.

        Args:
            source: Who makes the attempt, where evidence of one source alone must not move the breaker.
            timeout_seconds: The attempt's limit: a probe slower than half of it has failed, where the policy sets
                no limit of its own.

        Raises:
            CircuitOpenError: The circuit is open, or half-open with all its probes in flight.
            CircuitIsolatedError: A person opened it.
        """
        era = self.doorway.era
        if era is not None:
            return Permit(self, era, 0.0, source)
        opening, rules, now = self.doorway.opening, self._rules, self.monotonic()
        if opening is not None and (left := opening.until - now) > 0.0:
            raise self.refused(opening, left)
        try:
            with self._lock:
                self._collect_dropped_locked()
                if rules is None:
                    return self._stock.admit_locked(now, source, timeout_seconds)
                if self._foreign_storage:
                    self._follow_storage_locked(now)
                return rules.admit_locked(now, source, timeout_seconds)
        except RejectedError as refused:
            return self._refuse(refused)
        finally:
            if self._pending:
                self.drain()

    def refused(self, opening: Open, seconds_left: float) -> RejectedError:
        """The error for a caller of a circuit that is plainly open, counted and told.

        Takes no lock: a dead provider must cost its callers nothing.
        """
        self.rejected += 1
        error = new_error(CircuitOpenError, opening, opening.label, self.provider, seconds_left, opening.kind)
        hub = self.hub
        if hub is not None and hub.sinks:
            hub.publish(PermitRefused(opening.label, self.provider, str(error), seconds_left))
        return error

    def call(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``func`` under a permit. A coroutine or generator that it returns is guarded to its end.

        Raises:
            CircuitOpenError: The breaker refused; ``func`` was not called.
        """
        hot = self.hot
        era = hot.era
        if era is None:
            opening = hot.opening
            if opening is not None and (left := opening.until - self.monotonic()) > 0.0:
                raise self.refused(opening, left)
            return cast("T", guard.call(self, func, args, kwargs))
        return cast("T", guard.call_closed(self, era, func, args, kwargs))

    async def acall(self, func: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Await ``func(*args, **kwargs)`` under a permit. Cancellation is ignored and gives the slot back.

        Raises:
            CircuitOpenError: The breaker refused; ``func`` was not called.
        """
        hot = self.hot
        era = hot.era
        if era is None:
            opening = hot.opening
            if opening is not None and (left := opening.until - self.monotonic()) > 0.0:
                raise self.refused(opening, left)
            return cast("T", await guard.acall(self, func, args, kwargs))
        try:
            result = await func(*args, **kwargs)
        except BaseException as error:
            self.raised(Permit(self, era), error)
            raise
        era.calls += 1
        return result

    def call_async(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Pybreaker's name for `acall`; it takes tornado's coroutines and needs no tornado."""
        return guard.acall(self, func, args, kwargs)

    @overload  # type: ignore[override]  # pybreaker's annotation loses the decorated function's own signature
    def __call__(self, func: F, /) -> F: ...
    @overload
    def __call__(self, **options: bool) -> Callable[[F], F]: ...
    def __call__(self, *functions: Callable[..., Any], **options: bool) -> Any:
        """Decorate a function, a coroutine function or either kind of generator function."""
        as_coroutine = options.pop("__pybreaker_call_async", False)
        if as_coroutine and not pybreaker.HAS_TORNADO_SUPPORT:
            raise ImportError("No module named tornado")  # as pybreaker says it; `@breaker` takes asyncio's without

        def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
            if as_coroutine:
                return guard.guard_awaitable(self, func)
            return guard.guard(self, func)

        return decorate(functions[0]) if functions else decorate

    def calling(self) -> _GeneratorContextManager[None]:
        """pybreaker's: run the ``with`` block as the protected call."""
        return guard.calling(self)

    # -- recording ------------------------------------------------------------------------------------------

    def begin(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Permit:
        """Take a permit for a call of ``func`` and tell pybreaker's listeners of it."""
        permit = self.acquire()
        if self._listeners:
            try:
                with self._lock:
                    for listener in self.listeners:
                        listener.before_call(self, func, *args, **kwargs)
            except BaseException:
                permit.ignore()  # nothing was called; pybreaker's users may veto a call in this way
                raise
        return permit

    def raised(self, permit: Permit, error: BaseException) -> None:
        """A guarded call raised: work out what that means, and record it.

        Raises:
            pybreaker.CircuitBreakerError: The failure opened the circuit and ``throw_new_error_on_trip`` is set.
        """
        try:
            effect, outcome = guard.judge(self, error)
        except BaseException:
            permit.ignore()  # an exclusion that raises is the caller's own fault and says nothing
            raise
        permit.detach()
        opened = self.record(permit, effect, outcome, raising=True)
        if opened and self._throw_new_error_on_trip and not (self._policy is not None and self._policy.shadow):
            rejection = self.rejection()
            raise rejection from error

    def record_failure(
        self,
        permit: Permit,
        error: BaseException | None,
        kind: Kind | None,
        retry_after: float | None,
        reset_seconds: float | None,
    ) -> None:
        """A permit's holder says that the attempt failed."""
        effect, outcome = Effect.FAILURE, Outcome(Kind.UNKNOWN, error)
        if error is not None:
            effect, outcome = guard.judge(self, error)
        if kind is not None:
            effect, outcome = VERDICTS[kind].target, replace(outcome, kind=kind)
        if retry_after is not None:
            outcome = replace(outcome, retry_after_seconds=retry_after)
        if reset_seconds is not None:
            outcome = replace(outcome, reset_seconds=reset_seconds)
        self.record(permit, effect, outcome)

    def record(
        self,
        permit: Permit,
        effect: Effect,
        outcome: Outcome,
        *,
        raising: bool = False,
        draining: bool = True,
    ) -> bool:
        """Take one outcome into account.

        Args:
            permit: The attempt's permit; of an older era it decides nothing.
            effect: What the outcome does to this breaker.
            outcome: What happened.
            raising: Whether a trip may raise, as pybreaker's callers expect of guarded calls.
            draining: Whether to tell the events now.

        Returns:
            Whether it opened the circuit.
        """
        opened = False
        try:
            with self._lock:
                self._collect_dropped_locked()
                if self._rules is None:
                    self._stock.record_locked(permit, effect, outcome.error)
                else:
                    if self._listeners and permit.era is self.window:
                        self._tell_outcome_locked(effect, outcome.error)
                    opened = self._rules.record_locked(permit, effect, outcome, self.monotonic())
        except Exception as trip:
            if raising or not (isinstance(trip, pybreaker.CircuitBreakerError) or trip is outcome.error):
                raise
        finally:
            if draining and self._pending:
                self.drain()
        return opened

    def probe_content(self, permit: ProbePermit, latency_seconds: float) -> bool:
        """The first content of a streaming probe has come. Returns whether its lateness opened the circuit again."""
        with self._lock:
            rules = self._rules
            return rules is not None and rules.probe_content_locked(permit, latency_seconds, self.monotonic())

    def renew_probe(self, permit: ProbePermit) -> None:
        """A streaming probe shows life."""
        with self._lock:
            rules = self._stock if self._rules is None else self._rules
            rules.renew_probe_locked(permit, self.monotonic())

    def give_back(self, permit: ProbePermit) -> None:
        """A probe was dropped without a word. Takes no lock: the garbage collector calls it, anywhere."""
        self._dropped.append(permit.ticket)

    def acquire_eager(self, *, source: str | None = None, timeout_seconds: float | None = None) -> ProbePermit | None:
        """The once-a-second permit of a circuit opened by an outage, whatever its open time; None: not now."""
        if self._rules is None:
            return None
        with self._lock:
            self._collect_dropped_locked()
            return self._rules.admit_eager_locked(self.monotonic(), source, timeout_seconds)

    def extend(self, until: float) -> None:
        """Move the end of the present opening to the monotonic time ``until``, if that is later."""
        with self._lock:
            if self._rules is not None:
                self._rules.extend_locked(until)

    def stray_permit(self) -> Permit:
        """A permit that decides nothing, for shadow mode and for targets used although they are open."""
        return Permit(self, NO_ERA)

    def _refuse(self, rejection: RejectedError) -> Permit:
        self.rejected += 1
        shadow = self._policy is not None and self._policy.shadow and self.current_state != CircuitState.ISOLATED
        if self.hub is not None and self.hub.sinks:
            self.hub.publish(PermitRefused(self.label, self.provider, str(rejection), rejection.retry_after, shadow))
        if shadow:
            return self.stray_permit()
        raise rejection

    def renew_after_fork(self) -> None:
        """In a forked child: fresh locks, and neither probes nor untold events of the parent."""
        # Another thread of the parent may have held a lock at the moment of the fork, for ever.
        self._lock, self._telling = type(self._lock)(), threading.Lock()
        self._dropped.clear()
        self._pending.clear()
        (self._stock if self._rules is None else self._rules).forked_locked()
        # That thread may also have been half way into another state.
        self._refresh_hot_locked()
        if self.hub is not None:
            self.hub.renew_lock()


def _hub_of(sink: Sink) -> EventHub:
    hub = EventHub()
    hub.subscribe(sink)
    return hub
