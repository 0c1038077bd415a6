"""pybreaker's own rules on its own storages, for breakers without a policy. Runs under the breaker's lock."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pybreaker import STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN, CircuitBreakerState

from resilience.breaker.permit import Permit, ProbePermit
from resilience.breaker.refusal import isolated
from resilience.breaker.states import CircuitState
from resilience.errors import CircuitOpenError, RejectedError, ResilienceError
from resilience.events import CircuitClosed, CircuitHalfOpened, CircuitIsolated, CircuitOpened
from resilience.outcome import Effect

if TYPE_CHECKING:
    from datetime import datetime

    from resilience.breaker.circuit import CircuitBreaker

# pybreaker admits one trial at a time, by its lock; without the lock it is a lease.
PROBE_LEASE_SECONDS: Final = 60.0


class StockRules:
    """What `pybreaker.CircuitBreaker` decides, without holding its lock over the call.

    The storage is the truth, as pybreaker's users expect: it may be shared with other processes, and tests reach
    into it. The verdicts are those of pybreaker's own state objects.

    Attributes:
        isolated: The reason of an isolation; kept here, since a storage shared with plain pybreaker processes
            must not hold a state that they do not know.
    """

    __slots__ = ("_out_since", "_own_opening", "_probe", "breaker", "isolated", "opens")

    def __init__(self, breaker: CircuitBreaker) -> None:
        self.breaker = breaker
        self.isolated: str | None = None
        self.opens = 0
        self._probe: tuple[int, float] | None = None
        self._own_opening: tuple[datetime | None, float] | None = None
        self._out_since: float | None = None

    def admit_locked(self, now: float, source: str | None, timeout_seconds: float | None) -> Permit:
        """Give a permit, or raise CircuitOpenError."""
        state = self.breaker.state
        if self.isolated is not None:
            raise self.rejection(now)
        if state.name == STATE_OPEN:
            if self.seconds_left(now) > 0:
                raise self.rejection(now)
            self.breaker.half_open()
            state = self.breaker.state
        if state.name != STATE_HALF_OPEN:
            return Permit(self.breaker, state, now, source)
        if self._probe is not None and now < self._probe[1]:
            raise self.rejection(now)
        permit = ProbePermit(self.breaker, state, now, source, timeout_seconds)
        self._probe = (permit.ticket, now + PROBE_LEASE_SECONDS)
        return permit

    def seconds_left(self, now: float) -> float:
        """Seconds until the reset timeout is over: monotonic for an opening of our own, wall time for others."""
        breaker = self.breaker
        opened_at = breaker.storage.opened_at
        if self._own_opening is not None and self._own_opening[0] == opened_at:
            return self._own_opening[1] + breaker.reset_timeout - now
        if opened_at is None:
            return 0.0
        if opened_at.tzinfo is None:
            opened_at = opened_at.replace(tzinfo=breaker.clock.now().tzinfo)
        return (opened_at + timedelta(seconds=breaker.reset_timeout) - breaker.clock.now()).total_seconds()

    def next_chance(self, now: float) -> float | None:
        """Monotonic time from which a permit may be asked for; None: a person isolated it."""
        if self.isolated is not None:
            return None
        name = self.breaker.storage.state
        if name == STATE_OPEN:
            return now + max(0.0, self.seconds_left(now))
        return now if name != STATE_HALF_OPEN or self._probe is None else max(now, self._probe[1])

    def rejection(self, now: float) -> RejectedError:
        """The error that tells why no permit is given now."""
        name = self.breaker.label
        if self.isolated is not None:
            return isolated(name, None, self.isolated)
        if self.breaker.storage.state == STATE_OPEN:
            left = max(0.0, self.seconds_left(now))
            message = f"Timeout not elapsed yet, circuit breaker still open: {name}; next trial call in {left:.1f} s"
            return CircuitOpenError(message, name, None, left)
        return CircuitOpenError(f"{name} is half-open and its trial call is in flight", name)

    def record_locked(self, permit: Permit, effect: Effect, error: BaseException | None) -> None:
        """Take one outcome into account.

        Raises:
            pybreaker.CircuitBreakerError: The failure opened the circuit and ``throw_new_error_on_trip`` is set.
            BaseException: ``error`` itself, where it opened the circuit and the flag is not set.
        """
        if self._probe is not None and isinstance(permit, ProbePermit):
            if self._probe[0] != permit.ticket:
                return
            self._probe = None
        state: CircuitBreakerState = self.breaker.state
        if permit.era is not state or effect is Effect.IGNORED:
            return
        if effect is Effect.FAILURE:
            error = error or ResilienceError("a failure was reported without its exception")
            state._handle_error(error, reraise=False)  # noqa: SLF001 (pybreaker's rules stand there)
        else:
            state._handle_success()  # noqa: SLF001 (likewise)

    def give_back_locked(self, ticket: int) -> None:
        """Free the slot of a trial call that was dropped without a word."""
        if self._probe is not None and self._probe[0] == ticket:
            self._probe = None

    def renew_probe_locked(self, permit: ProbePermit, now: float) -> None:
        """Renew the lease of a trial call that shows life."""
        if self._probe is not None and self._probe[0] == permit.ticket:
            self._probe = (permit.ticket, now + PROBE_LEASE_SECONDS)

    def entered_locked(self, name: str, now: float, *, here: bool) -> None:
        """Pybreaker moved to another state: remember when, and tell it.

        Args:
            name: The state.
            now: Monotonic time.
            here: Whether this breaker opened it, as opposed to finding it open in a shared storage.
        """
        self._probe = None
        out_since, self._out_since = self._out_since, None
        if name != STATE_CLOSED:
            self._out_since = now if out_since is None else out_since
        if name == STATE_OPEN:
            self.opens += 1
            self._own_opening = (self.breaker.storage.opened_at, now) if here else None
            failures, timeout = self.breaker.storage.counter, float(self.breaker.reset_timeout)
            self.breaker.tell_locked(
                lambda b: CircuitOpened(
                    b.label,
                    None,
                    "consecutive_failures",
                    None,
                    failures,
                    failures,
                    None,
                    timeout,
                    b.generation,
                )
            )
        elif name == STATE_HALF_OPEN:
            self.breaker.tell_locked(lambda b: CircuitHalfOpened(b.label, None, b.generation))
        elif out_since is not None:
            self.breaker.tell_locked(lambda b: CircuitClosed(b.label, None, "", now - out_since, b.generation))

    def isolate_locked(self, reason: str) -> None:
        """Refuse everything until a reset."""
        self.isolated = reason
        self._out_since = self.breaker.monotonic() if self._out_since is None else self._out_since
        self.breaker.tell_locked(lambda b: CircuitIsolated(b.label, None, reason, b.generation))

    def forked_locked(self) -> None:
        """Forget the parent's trial call: nobody here will ever settle it."""
        self._probe = None

    @property
    def state_name(self) -> CircuitState:
        """The state as the storage has it, or isolated."""
        return CircuitState.ISOLATED if self.isolated is not None else CircuitState(self.breaker.storage.state)
