"""What people see of a circuit and how they steer it: pybreaker's states, listeners and storages, and isolation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import pybreaker

from resilience.breaker.states import CircuitIsolatedState, CircuitState, Open
from resilience.breaker.window import CallWindow, Reading
from resilience.outcome import Effect

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from resilience.breaker.circuit import CircuitBreaker
    from resilience.breaker.rules import PolicyRules
    from resilience.breaker.stock import StockRules
    from resilience.clock import Clock
    from resilience.errors import RejectedError
    from resilience.events import Event, Sink
    from resilience.settings import BreakerSettings

_TOLD_AS_FAILURE: Final = frozenset({Effect.FAILURE, Effect.HOLD, Effect.ACCOUNT})


class SteeredCircuit(pybreaker.CircuitBreaker):
    """The half of `CircuitBreaker` that makes no calls: reading it, moving it by hand, entering a new era.

    Attributes:
        window: The last calls of this era.
        clock: Where time comes from.
        generation: Number of the present era.
        since: Monotonic time of its beginning.
        rejected: Attempts refused so far.
    """

    window: CallWindow
    clock: Clock
    monotonic: Callable[[], float]
    generation: int
    since: float
    rejected: int
    sink: Sink | None
    _policy: BreakerSettings | None
    _rules: PolicyRules | None
    _stock: StockRules
    _plain_opening: Open | None
    _foreign_storage: bool
    _pending: deque[Callable[[CircuitBreaker], Event]]
    _dropped: deque[int]

    # -- pybreaker's states ---------------------------------------------------------------------------------

    @property
    def current_state(self) -> str:
        """``closed``, ``open``, ``half-open`` or ``isolated`` (`resilience.CircuitState`, a str).

        With a policy, a circuit whose open time is over reads half-open: the next call is a probe.
        """
        if self._rules is None:
            return self._stock.state_name
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
                return
            self._state = self._create_new_state(name, prev_state=self._state, notify=True)
            self.generation += 1
            self.since = self.monotonic()
            self._stock.entered_locked(name, self.since)

    @property
    def era(self) -> object:
        """The token of the present era. A permit that carries another one decides nothing."""
        return self._state

    @property
    def storage(self) -> pybreaker.CircuitBreakerStorage:
        """Pybreaker's storage."""
        return self._state_storage

    @property
    def policy(self) -> BreakerSettings | None:
        """The policy, None where pybreaker's own rules apply."""
        return self._policy

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

    def open(self) -> bool:
        """Open the circuit for its open time, as pybreaker's callers do by hand."""
        with self._lock:
            if self._rules is None:
                super().open()
            else:
                self._force_locked(CircuitState.OPEN)
        self.drain()
        return self._throw_new_error_on_trip

    def half_open(self) -> None:
        """Let trial calls pass from now on."""
        with self._lock:
            if self._rules is None:
                super().half_open()
            else:
                self._force_locked(CircuitState.HALF_OPEN)
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
        with self._lock:
            if self._rules is None:
                self.close()
            else:
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
            isolated = CircuitIsolatedState(self, prev_state=prev_state, notify=notify)
            isolated._name = CircuitState.ISOLATED.value  # noqa: SLF001 (pybreaker offers no argument for it)
            return isolated
        return super()._create_new_state(str(new_state), prev_state=prev_state, notify=notify)

    # -- what the policy replaces ---------------------------------------------------------------------------

    @property
    def fail_counter(self) -> int:
        """Failures in a row."""
        return self._state_storage.counter if self._rules is None else int(self.reading().streak)

    def is_eligible(self) -> bool:
        """Whether a permit would be given now; nothing is changed or counted."""
        if self.window.era is not None:
            return True
        with self._lock:
            self._collect_dropped_locked()
            now = self.monotonic()
            return self._stock.is_eligible(now) if self._rules is None else self._rules.is_eligible(now)

    def rejection(self) -> RejectedError:
        """The error that a caller would get now; nothing is counted."""
        with self._lock:
            rules = self._stock if self._rules is None else self._rules
            return rules.rejection(self.monotonic())

    # -- called by the rules, under the lock ----------------------------------------------------------------

    def enter_locked(self, name: CircuitState) -> None:
        """Begin a new era: a fresh state object, an empty window, listeners told."""
        self.window.era = None
        storage, known = self._state_storage, CircuitState.OPEN if name is CircuitState.ISOLATED else name
        if name is CircuitState.OPEN:
            storage.opened_at = self.clock.now()
        storage.state = known.value
        self._state = self._create_new_state(name.value, prev_state=self._state, notify=True)
        self.generation += 1
        self.since = self.monotonic()
        self.window.clear()
        self._refresh_hot_locked()

    def tell_locked(self, make: Callable[[CircuitBreaker], Event]) -> None:
        """Keep an event until the lock is free."""
        if self.sink is not None:
            self._pending.append(make)

    def drain(self) -> None:
        """Tell the sink what has happened. Never under the lock."""
        while self._pending:
            try:
                make = self._pending.popleft()
            except IndexError:
                return  # another thread was quicker
            if self.sink is not None:
                self.sink(make(cast("CircuitBreaker", self)))

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
        self.window.era = self._state if plain else None
        self._plain_opening = None
        if (
            rules is not None
            and isinstance(rules.state, Open)
            and not rules.policy.shadow
            and not self._foreign_storage
        ):
            self._plain_opening = rules.state

    def _force_locked(self, name: str) -> None:
        rules, now = cast("PolicyRules", self._rules), self.monotonic()
        if rules.state.name is CircuitState.ISOLATED and name != CircuitState.CLOSED:
            return  # stays until a person resets it
        if name == CircuitState.OPEN:
            rules.force_open_locked(now)
        elif name == CircuitState.HALF_OPEN:
            rules.force_half_open_locked(now)
        elif name == CircuitState.CLOSED:
            rules.close_locked(now, "closed by hand")
        elif name == CircuitState.ISOLATED:
            rules.isolate_locked("", now)
        else:
            raise ValueError(f"Unknown state {name!r}, valid states: {', '.join(CircuitState)}")

    def _follow_storage_locked(self, now: float) -> None:
        rules = cast("PolicyRules", self._rules)
        shared = self._state_storage.state
        mine = CircuitState.OPEN if rules.state.name is CircuitState.ISOLATED else rules.state.name
        if shared != mine:
            self._force_locked(shared)
            opened_at = self._state_storage.opened_at
            if isinstance(rules.state, Open) and opened_at is not None and opened_at.tzinfo is not None:
                rules.state.until = min(
                    rules.state.until,
                    now + rules.policy.open_seconds - (self.clock.now() - opened_at).total_seconds(),
                )

    def _collect_dropped_locked(self) -> None:
        while self._dropped:
            rules = self._stock if self._rules is None else self._rules
            rules.give_back_locked(self._dropped.popleft())

    def _tell_listeners_locked(self, effect: Effect, error: BaseException | None) -> None:
        for listener in self.listeners:
            if effect is Effect.SUCCESS:
                listener.success(self)
            elif effect in _TOLD_AS_FAILURE and error is not None:
                listener.failure(self, error)

    def reading(self) -> Reading:
        """What the window holds now; without a policy, pybreaker's counter."""
        with self._lock:
            if self._policy is None:
                failures = self._state_storage.counter
                return Reading(calls=failures, failures=failures, slow=0, streak=failures)
            return self.window.read(self.monotonic(), self._policy.window_calls, self._policy.window_seconds)
