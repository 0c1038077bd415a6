"""What people see of a circuit and how they steer it: pybreaker's states, listeners and storages, and isolation."""

from __future__ import annotations

import logging
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final, cast

from resilience.breaker.states import TRANSITIONS, CircuitIsolatedState, CircuitState, Isolated, Open
from resilience.breaker.tuning import TunedCircuit
from resilience.breaker.window import CallWindow, Doorway, Reading
from resilience.outcome import Effect

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    import pybreaker

    from resilience.breaker.circuit import CircuitBreaker
    from resilience.breaker.rules import PolicyRules
    from resilience.breaker.shared import FleetSeat
    from resilience.breaker.stock import StockRules
    from resilience.clock import Clock
    from resilience.errors import RejectedError
    from resilience.events import Event, EventHub

_LOG: Final = logging.getLogger("resilience")
_TOLD_AS_FAILURE: Final = frozenset({Effect.FAILURE, Effect.HOLD, Effect.ACCOUNT})


class SteeredCircuit(TunedCircuit):
    """The half of `CircuitBreaker` that makes no calls: reading it, moving it by hand, entering a new era.

    Attributes:
        doorway: What calls read on their way in.
        window: The last calls of this era, and its token: a permit that carries another one decides nothing.
        clock: Where time comes from.
        generation: Number of the present era.
        since: Monotonic time of its beginning.
        rejected: Attempts refused so far.
        hub: Where its events are published, None where nobody can hear them.
        listener_errors: How often a listener raised while a policy decided.
    """

    doorway: Doorway
    window: CallWindow
    clock: Clock
    monotonic: Callable[[], float]
    generation: int
    since: float
    rejected: int
    hub: EventHub | None
    listener_errors: int = 0
    _stock: StockRules
    _foreign_storage: bool = False
    _following: bool = False
    _opening_here: bool = False
    _telling: threading.Lock
    _pending: list[Callable[[CircuitBreaker], Event]]
    _dropped: list[int]

    @property
    def lock(self) -> threading.RLock:
        """What guards the rules and the state; for those who take over a fleet's state."""
        return self._lock

    # -- pybreaker's states ---------------------------------------------------------------------------------

    @property
    def current_state(self) -> str:
        """``closed``, ``open``, ``half-open`` or ``isolated`` (`resilience.CircuitState`, a str).

        With a policy, a circuit whose open time is over reads half-open: the next call is a probe.
        """
        if self._rules is None:
            return self._stock.state_name
        self._look_at_storage()
        state = self._rules.state
        if isinstance(state, Open) and self.monotonic() >= state.until:
            return CircuitState.HALF_OPEN
        return state.name

    @property
    def state(self) -> Any:
        """Pybreaker's state object; a fresh one for each era."""
        if self._rules is None and self._stock.isolated is None:
            name = self._state_storage.state
            if name != self._state.name:
                self.state = name  # another process moved the shared storage
        return self._state

    @state.setter
    def state(self, name: str) -> None:
        with self._lock:
            if self._rules is not None:
                self._force_locked(name)
            else:
                self._state = self._create_new_state(name, prev_state=self._state, notify=True)
                self.generation += 1
                self.since = self.monotonic()
                self._stock.entered_locked(name, self.since, here=self._opening_here)
        self.drain()

    @property
    def storage(self) -> pybreaker.CircuitBreakerStorage:
        """Pybreaker's storage."""
        return self._state_storage

    @property
    def label(self) -> str:
        """The name, or a word for a breaker that was given none."""
        return self._name or "the circuit breaker"

    @property
    def stock(self) -> StockRules:
        """Pybreaker's rules, which apply where there is no policy."""
        return self._stock

    @property
    def rules(self) -> PolicyRules | None:
        """The policy's rules and their state; the registry and the snapshot read them."""
        return self._rules

    @property
    def seat(self) -> FleetSeat | None:
        """Its place in a fleet, None where it shares nothing."""
        # Not the breaker's own attribute: one that comes later gives it a shape unlike the others', and slows both.
        return self._rules.seat if self._rules is not None else None

    @seat.setter
    def seat(self, seat: FleetSeat) -> None:
        cast("PolicyRules", self._rules).seat = seat

    def open(self) -> bool:
        """Open the circuit for its open time, as pybreaker's callers do by hand."""
        with self._lock:
            if self._rules is not None:
                self._force_locked(CircuitState.OPEN)
            elif self._stock.isolated is None:
                self._opening_here = True
                try:
                    super().open()
                finally:
                    self._opening_here = False
        self.drain()
        return self._throw_new_error_on_trip

    def half_open(self) -> None:
        """Let trial calls pass from now on."""
        with self._lock:
            if self._rules is not None:
                self._force_locked(CircuitState.HALF_OPEN)
            elif self._stock.isolated is None:
                super().half_open()
        self.drain()

    def close(self) -> None:
        """Close the circuit."""
        with self._lock:
            if self._rules is None:
                self._stock.isolated = None
                super().close()
            else:
                self._rules.close_locked(self.monotonic(), "closed by hand")
        self.drain()

    def reset(self) -> None:
        """Close the circuit and forget its history, also where a person had isolated it."""
        if self._rules is None:
            self.close()
            return
        with self._lock:
            self._rules.reset_locked(self.monotonic())
        self.drain()

    def isolate(self, reason: str = "") -> None:
        """Open the circuit until somebody calls `reset`.

        Args:
            reason: Why, for the people who read the snapshot and the errors.
        """
        with self._lock:
            if self._rules is None:
                self._stock.isolate_locked(reason)
                self._state = self._create_new_state(CircuitState.ISOLATED, prev_state=self._state, notify=True)
                self.generation += 1
                self.since = self.monotonic()
            else:
                self._rules.isolate_locked(reason, self.monotonic())
        self.drain()

    def _create_new_state(self, new_state: str, prev_state: Any = None, notify: bool = False) -> Any:
        if new_state == CircuitState.ISOLATED:
            return CircuitIsolatedState(self, prev_state=prev_state, notify=notify)
        return super()._create_new_state(str(new_state), prev_state=prev_state, notify=notify)

    # -- what the policy replaces ---------------------------------------------------------------------------

    @property
    def fail_counter(self) -> int:
        """Failures in a row."""
        return int(self.reading().streak)

    def is_eligible(self, source: str | None = None) -> bool:
        """Whether ``source`` would get a permit now; nothing is changed or counted."""
        if self.doorway.era is not None:
            return True
        return (chance := self.next_chance(source)) is not None and chance <= self.monotonic()

    def next_chance(self, source: str | None = None) -> float | None:
        """Monotonic time from which ``source`` may ask for a permit; None: not by itself soon (account, isolated)."""
        self._look_at_storage()
        with self._lock:
            self._collect_dropped_locked()
            now, rules = self.monotonic(), self._rules
            if rules is None:
                return self._stock.next_chance(now)
            if rules.policy.shadow and not isinstance(rules.state, Isolated):
                return now  # observed and reported, never refused
            return rules.next_chance(now, source)

    def rejection(self, source: str | None = None) -> RejectedError:
        """The error that ``source`` would get now; nothing is counted."""
        with self._lock:
            now = self.monotonic()
            return self._stock.rejection(now) if self._rules is None else self._rules.rejection(now, source)

    # -- called by the rules, under the lock ----------------------------------------------------------------

    def enter_locked(self, name: CircuitState) -> None:
        """Begin a new era: a fresh state object, an empty window, listeners told when all of it is done."""
        self.doorway.era = self.doorway.opening = None
        # An isolation is this process's own: a shared storage must not hold a state that pybreaker does not know.
        if not self._following and name is not CircuitState.ISOLATED:
            if name is CircuitState.OPEN:
                self._state_storage.opened_at = self.clock.now()
            self._state_storage.state = name.value
        before, self._state = self._state, self._create_new_state(name.value)
        self.generation += 1
        self.since = self.monotonic()
        self.window = CallWindow()
        self._refresh_hot_locked()
        self.tell_listeners_locked(lambda listener: listener.state_change(self, before, self._state))

    def tell_locked(self, make: Callable[[CircuitBreaker], Event]) -> None:
        """Keep an event until the lock is free."""
        if self.hub is not None and self.hub.sinks:
            self._pending.append(make)

    def drain(self) -> None:
        """Tell the sinks what has happened, in the order in which it did. Never under the lock."""
        # pybreaker's own methods call each other under the lock; whoever took it first tells it afterwards.
        if not self._pending or self._lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001 (as Condition does)
            return
        # One thread tells, so that nobody hears the closing before the opening. What comes meanwhile it tells too.
        while self._pending and self._telling.acquire(blocking=False):
            try:
                while self._pending and self.hub is not None:
                    self.hub.publish(self._pending.pop(0)(cast("CircuitBreaker", self)))
            finally:
                self._telling.release()

    def add_listener(self, listener: pybreaker.CircuitBreakerListener) -> None:
        """pybreaker's: tell ``listener`` of calls, outcomes and changes of state, under the lock."""
        with self._lock:
            super().add_listener(listener)
            self._refresh_hot_locked()

    def remove_listener(self, listener: pybreaker.CircuitBreakerListener) -> None:
        """pybreaker's: end that."""
        with self._lock:
            super().remove_listener(listener)
            self._refresh_hot_locked()

    def _refresh_hot_locked(self) -> None:
        rules = self._rules
        plain = (
            rules is not None
            and rules.state.name is CircuitState.CLOSED
            and rules.policy.slow_call_seconds is None
            and not self._listeners
            and not self._foreign_storage
        )
        self.doorway.era = self.window if plain else None
        self.doorway.opening = None
        if rules is None or rules.policy.shadow or self._foreign_storage:
            return
        if isinstance(rules.state, Open):
            self.doorway.opening = rules.state

    def _force_locked(self, name: str) -> None:
        rules, now = cast("PolicyRules", self._rules), self.monotonic()
        if name not in list(CircuitState):
            raise ValueError(f"Unknown state {name!r}, valid states: {', '.join(CircuitState)}")
        if name not in TRANSITIONS[rules.state.name]:
            return  # isolated stays until a person resets it
        if name == CircuitState.OPEN:
            rules.force_open_locked(now)
        elif name == CircuitState.HALF_OPEN:
            rules.force_half_open_locked(now)
        elif name == CircuitState.CLOSED:
            rules.close_locked(now, "closed by hand")
        else:
            rules.isolate_locked("", now)

    def _look_at_storage(self) -> None:
        if self._foreign_storage and self._rules is not None:
            with self._lock:
                self._follow_storage_locked(self.monotonic())
            self.drain()

    def _follow_storage_locked(self, now: float) -> None:
        """Go where another process has moved the shared storage, without writing to it."""
        rules, shared = cast("PolicyRules", self._rules), self._state_storage.state
        if isinstance(rules.state, Isolated) or shared == rules.state.name:
            return
        opened_at = self._state_storage.opened_at
        self._following = True
        try:
            self._force_locked(shared)
        finally:
            self._following = False
        if isinstance(rules.state, Open) and opened_at is not None:
            # The other process's clock is all that the storage has; pybreaker's storages keep naive UTC as well.
            age = (self.clock.now() - opened_at.replace(tzinfo=opened_at.tzinfo or UTC)).total_seconds()
            rules.state.until = min(rules.state.until, now + rules.policy.open_seconds - age)

    def _collect_dropped_locked(self) -> None:
        while self._dropped:
            rules = self._stock if self._rules is None else self._rules
            rules.give_back_locked(self._dropped.pop())

    def tell_listeners_locked(self, tell: Callable[[pybreaker.CircuitBreakerListener], None]) -> None:
        """With a policy: tell each of pybreaker's listeners. One that raises is counted, never felt."""
        for listener in self.listeners:
            try:
                tell(listener)
            except Exception:  # noqa: BLE001 (somebody else's code; the next one shall hear it all the same)
                self.listener_errors += 1
                if self.listener_errors == 1:
                    _LOG.exception("a listener of %s raised; further ones are only counted", self.label)

    def _tell_outcome_locked(self, effect: Effect, error: BaseException | None) -> None:
        if effect is Effect.SUCCESS:
            self.tell_listeners_locked(lambda listener: listener.success(self))
        elif effect in _TOLD_AS_FAILURE and error is not None:
            self.tell_listeners_locked(lambda listener: listener.failure(self, error))

    def reading(self) -> Reading:
        """What the window holds now; without a policy, pybreaker's counter."""
        with self._lock:
            if self._policy is None:
                failures = self._state_storage.counter
                return Reading(calls=failures, failures=failures, slow=0, streak=failures)
            return self.window.read(self.monotonic(), self._policy.window_calls, self._policy.window_seconds)
