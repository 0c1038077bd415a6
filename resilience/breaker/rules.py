"""The policy's rules: admits, records and moves between states. Every method runs under the breaker's lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilience.breaker import chance, trip
from resilience.breaker.permit import Permit, ProbePermit
from resilience.breaker.refusal import refusal
from resilience.breaker.states import Closed, HalfOpen, Isolated, Open, opening
from resilience.breaker.telling import opened_event
from resilience.breaker.trip import Reason
from resilience.events import CircuitClosed, CircuitHalfOpened, CircuitIsolated
from resilience.outcome import Effect, Kind, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from resilience.breaker.circuit import CircuitBreaker
    from resilience.breaker.shared import FleetSeat
    from resilience.breaker.states import State
    from resilience.breaker.window import Reading
    from resilience.errors import RejectedError
    from resilience.events import Event
    from resilience.settings import BreakerSettings

_AGAINST: Final = frozenset({Effect.FAILURE, Effect.HOLD, Effect.ACCOUNT})
_AT_ONCE: Final = {Effect.HOLD: Reason.RATE_LIMITED, Effect.ACCOUNT: Reason.ACCOUNT}
_TOO_SLOW: Final = Outcome(Kind.TIMEOUT)
_BY_HAND: Final = Outcome(Kind.UNKNOWN)


class PolicyRules:
    """When a breaker with a policy opens, for how long, and what lets it close.

    Attributes:
        state: Where the circuit stands, with that state's own data.
        seat: Its place in a fleet, None where it shares nothing.
        opens: Trips so far; holds are not counted.
        holds: Rate limits that held it so far.
        last_kind: The kind of the last failure.
    """

    __slots__ = ("_holds_in_row", "_rng", "breaker", "holds", "last_kind", "opens", "policy", "seat", "state")

    def __init__(self, breaker: CircuitBreaker, policy: BreakerSettings, rng: Random, now: float) -> None:
        self.breaker = breaker
        self.policy = policy
        self.state: State = Closed(since=now)
        self.seat: FleetSeat | None = None
        self.opens = 0
        self.holds = 0
        self.last_kind: Kind | None = None
        self._rng = rng
        self._holds_in_row = 0

    # -- may I go? ------------------------------------------------------------------------------------------

    def admit_locked(self, now: float, source: str | None, timeout_seconds: float | None) -> Permit:
        """Give a permit.

        Raises:
            CircuitOpenError: The circuit is open, or half-open with all its probes in flight.
        """
        state = self.state
        if isinstance(state, Open) and now >= state.until and chance.of_lease(self, now) is None:
            state = self.half_open_locked(state, now)
        if isinstance(state, Closed):
            return Permit(self.breaker, self.breaker.window, now, source)
        if isinstance(state, HalfOpen):
            self._expire_locked(state, now)
            if self.is_eligible(now, source):
                return self._probe_locked(state, now, source, timeout_seconds)
        raise self.rejection(now, source)

    def admit_eager_locked(self, now: float, source: str | None, timeout_seconds: float | None) -> ProbePermit | None:
        """Give the once-a-second permit past an outage's open time or a doubt of ``source``, None when none is due."""
        opened, due = opening(self.state), self.next_eager(now, source)
        if opened is None or due is None or due > now:
            return None
        permit = ProbePermit(self.breaker, self.breaker.window, now, source, timeout_seconds, eager=True)
        opened.eager, opened.eager_at = permit.ticket, now
        return self._leased_locked(permit, now)

    def next_eager(self, now: float, source: str | None = None) -> float | None:
        """Monotonic time of the next eager probe; None where no outage and no doubt of ``source`` is in its way."""
        return chance.next_eager(self, now, source)

    def is_eligible(self, now: float, source: str | None = None) -> bool:
        """Whether ``source`` would get a permit now. Changes nothing."""
        chance = self.next_chance(now, source)
        return chance is not None and chance <= now

    def next_chance(self, now: float, source: str | None = None) -> float | None:
        """Monotonic time at which ``source`` may ask again; None where it does not come back by itself soon."""
        return chance.next_chance(self, now, source)

    def rejection(self, now: float, source: str | None = None) -> RejectedError:
        """The error that tells why no permit is given now."""
        return refusal(self.state, self.policy, self.breaker.label, self.breaker.provider, now, source)

    # -- what came of it? -----------------------------------------------------------------------------------

    def record_locked(self, permit: Permit, effect: Effect, outcome: Outcome, now: float) -> bool:
        """Take one outcome into account.

        Returns:
            Whether it opened the circuit.
        """
        # Late results are common: a 60 s completion outlives a 10 s open time. They decide nothing.
        if permit.era is not self.breaker.window:
            return False
        if effect in _AGAINST:
            self.last_kind = outcome.kind
        if isinstance(state := self.state, Closed):
            return self._record_closed_locked(permit, effect, outcome, now)
        if not isinstance(permit, ProbePermit):
            return False
        if (opened := opening(state)) is not None and opened.eager == permit.ticket:
            self._eager_over_locked(permit, effect, outcome, opened, now)
        elif isinstance(state, HalfOpen):
            if state.probes.pop(permit.ticket, None) is None:
                return False  # its lease has ended
            successes, doubters = state.successes, len(state.doubters)
            again = self._record_probe_locked(state, permit, effect, outcome, now)
            doubted = permit.source if len(state.doubters) > doubters else None
            self._probed_locked(permit.ticket, worked=state.successes > successes, doubted=doubted)
            return again
        return False

    def _eager_over_locked(
        self, permit: ProbePermit, effect: Effect, outcome: Outcome, opened: Open, now: float
    ) -> None:
        opened.eager, half = None, self.state if isinstance(self.state, HalfOpen) else None
        worked = effect in {Effect.SUCCESS, Effect.ANSWERED} and not self._too_slow(permit, outcome.latency_seconds)
        past_doubt = worked and half is not None
        self._probed_locked(permit.ticket, worked=past_doubt, doubted=permit.source if past_doubt else None)
        if worked:  # one that failed was sent before its time: it changes neither end nor streak nor doubt
            half = half or self.half_open_locked(opened, now)
            half.doubters.pop(permit.source or "", None)
            self._probe_succeeded_locked(half, permit, now)

    def _record_closed_locked(self, permit: Permit, effect: Effect, outcome: Outcome, now: float) -> bool:
        window, policy = self.breaker.window, self.policy
        if effect is Effect.SUCCESS:
            self._holds_in_row = 0
            if policy.slow_call_seconds is None or outcome.latency_seconds <= policy.slow_call_seconds:
                window.calls += 1
                return False
            window.record_slow(now, permit.source)
        elif effect is Effect.FAILURE:
            weight = trip.streak_weight(outcome.kind, policy)
            window.record_failure(now, weight, permit.source, policy.window_seconds)
        elif effect in _AT_ONCE:
            self._open_locked(_AT_ONCE[effect], outcome, now)
            return True
        else:
            return False
        reading = window.read(now, policy.window_calls, policy.window_seconds)
        reason = trip.tripped_by(reading, policy)
        if reason is None:
            if self.seat is not None and effect is Effect.FAILURE:
                self.seat.failed_locked()
            return False
        self._tripped_locked(reason, outcome, now, reading)
        return True

    def _tripped_locked(self, reason: Reason, outcome: Outcome, now: float, reading: Reading) -> None:
        counted = {Reason.SLOW_CALL_RATE: reading.slow, Reason.CONSECUTIVE_FAILURES: reading.streak_failures}
        self._open_locked(reason, outcome, now, counted.get(reason, reading.failures), reading.calls)

    def _record_probe_locked(
        self, state: HalfOpen, permit: ProbePermit, effect: Effect, outcome: Outcome, now: float
    ) -> bool:
        if effect is Effect.IGNORED:
            return False
        if effect in _AT_ONCE:
            self._open_locked(_AT_ONCE[effect], outcome, now)
            return True
        if effect is Effect.FAILURE:
            return self._probe_failed_locked(state, permit, outcome, now)
        if self._too_slow(permit, outcome.latency_seconds):
            return self._probe_failed_locked(state, permit, _TOO_SLOW, now)
        self._probe_succeeded_locked(state, permit, now)
        return False

    def _too_slow(self, permit: ProbePermit, latency_seconds: float) -> bool:
        limit = trip.slow_probe_seconds(self.policy, permit.timeout_seconds)
        # An earned place means that the first content came in time; a long answer behind it is no fault.
        return limit is not None and not permit.earned and latency_seconds > limit

    def _probe_succeeded_locked(self, state: HalfOpen, permit: ProbePermit, now: float) -> None:
        self._holds_in_row = 0
        state.successes += 1
        if not permit.earned:
            state.earned += 1
        if state.successes >= self.policy.probe_successes:
            self.close_locked(now, "probes succeeded")

    def _probe_failed_locked(self, state: HalfOpen, permit: ProbePermit, outcome: Outcome, now: float) -> bool:
        opened = state.opened
        if permit.source is not None:
            state.doubters[permit.source] = now + self.policy.open_seconds
            opened.eager_at = now
            if len(state.doubters) == 1:
                return False  # else a model that stays broken would keep its siblings out for ever
        # What opened it for a reason of its own (a rate limit, a key) and now fails otherwise has a new reason.
        reason = opened.reason if opened.reason in trip.BY_OUTAGE else Reason.CONSECUTIVE_FAILURES
        self._open_locked(reason, outcome, now, max(opened.failures, 1), max(opened.calls, 1))
        return True

    def probe_content_locked(self, permit: ProbePermit, latency_seconds: float, now: float) -> bool:
        """A streaming probe's first content: earn the place in the ramp, or fail if it came too late.

        Returns:
            Whether that opened the circuit again.
        """
        state = self.state
        if permit.era is not self.breaker.window or permit.earned:
            return False
        if isinstance(state, HalfOpen) and permit.ticket in state.probes:
            if self._too_slow(permit, latency_seconds):
                del state.probes[permit.ticket]
                permit.detach()
                return self._probe_failed_locked(state, permit, _TOO_SLOW, now)
            permit.earned = True
            state.earned += 1
            state.probes[permit.ticket] = now + self.policy.probe_lease_seconds
            if self.seat is not None:
                self.seat.earned_locked(permit.ticket)
        return False

    def renew_probe_locked(self, permit: ProbePermit, now: float) -> None:
        """Renew the lease of a probe that shows life."""
        state = self.state
        if isinstance(state, HalfOpen) and permit.ticket in state.probes:
            state.probes[permit.ticket] = now + self.policy.probe_lease_seconds
            if self.seat is not None:
                self.seat.renewed_locked(permit.ticket)

    def give_back_locked(self, ticket: int) -> None:
        """Free the slot of a probe that was dropped without a word."""
        opened = opening(self.state)
        if isinstance(self.state, HalfOpen):
            self.state.probes.pop(ticket, None)
        if opened is not None and opened.eager == ticket:
            opened.eager = None
        self._probed_locked(ticket)

    def _probed_locked(self, ticket: int, *, worked: bool = False, doubted: str | None = None) -> None:
        if self.seat is not None:
            self.seat.probed_locked(ticket, worked=worked, doubted=doubted)

    # -- transitions ----------------------------------------------------------------------------------------

    def close_locked(self, now: float, reason: str) -> None:
        """Close the circuit, remembering how it went until it has stayed closed as long as it was open."""
        state = self.state
        opened = opening(state)
        out_seconds = now - (opened.first_since if opened else state.since)
        closed = Closed(since=now)
        if opened is not None:
            closed.rounds, closed.account_rounds = opened.rounds, opened.account_rounds
            closed.remembers_until = now + (opened.until - opened.since)
        self._enter_locked(closed)
        if not isinstance(state, Closed):
            self._tell(lambda b: CircuitClosed(b.label, b.provider, reason, max(0.0, out_seconds), b.generation))

    def reset_locked(self, now: float) -> None:
        """Close the circuit and forget everything."""
        self._holds_in_row = 0
        self.close_locked(now, "reset")
        self.state = Closed(since=now)
        self._moved(by_hand=True)

    def isolate_locked(self, reason: str, now: float) -> None:
        """Open the circuit until somebody resets it."""
        self._enter_locked(Isolated(now, reason))
        self._tell(lambda b: CircuitIsolated(b.label, b.provider, reason, b.generation))
        self._moved(by_hand=True)

    def force_open_locked(self, now: float) -> None:
        """Open the circuit for the open time, whatever its window says."""
        self._open_locked(Reason.FORCED, _BY_HAND, now)

    def force_half_open_locked(self, now: float) -> None:
        """Let probes pass now."""
        opened = opening(self.state) or Open(self.breaker.label, now, now, now, Reason.FORCED)
        self.half_open_locked(opened, now)

    def extend_locked(self, until: float) -> None:
        """Move the end of the present opening to later; never to earlier."""
        if isinstance(self.state, Open) and until > self.state.until:
            self.state.until = until
            self._moved()

    def forked_locked(self) -> None:
        """Forget the probes of the parent process: nobody here will ever settle them."""
        if isinstance(self.state, HalfOpen):
            self.state.probes.clear()
        if (opened := opening(self.state)) is not None:
            opened.eager = None

    def _open_locked(self, reason: Reason, outcome: Outcome, now: float, failures: int = 1, calls: int = 1) -> None:
        state = self.state
        opened = opening(state)
        rounds, account_rounds = self._rounds_locked(reason, now)
        if reason is Reason.RATE_LIMITED:
            seconds = trip.hold_seconds(self.policy, self._holds_in_row, outcome.retry_after_seconds)
            self._holds_in_row += 1
            self.holds += 1
        elif reason is Reason.ACCOUNT:
            seconds = trip.account_seconds(
                self.policy, account_rounds, outcome.reset_seconds, outcome.retry_after_seconds
            )
            self.opens += 1
        else:
            seconds = trip.open_seconds(self.policy, rounds, outcome.retry_after_seconds, self._rng)
            self.opens += 1
        kind = None if outcome is _BY_HAND else outcome.kind
        new = Open(
            label=self.breaker.label,
            since=now,
            # A later end is never shortened, not by hand either.
            until=max(now + seconds, state.until if isinstance(state, Open) else 0.0),
            first_since=opened.first_since if opened else now,
            reason=reason,
            kind=kind,
            failures=failures,
            calls=calls,
            rounds=rounds,
            account_rounds=account_rounds,
        )
        self.enter_open_locked(new)

    def enter_open_locked(self, new: Open) -> None:
        """Open the circuit and tell it."""
        self._enter_locked(new)
        shadow = self.policy.shadow
        self._tell(lambda b: opened_event(b, new, shadow=shadow))

    def trip_by_fleet_locked(self, reading: Reading, now: float) -> bool:
        """Open a closed circuit if the sum of the fleet's windows says so. Returns whether it did."""
        reason = trip.tripped_by(reading, self.policy)
        if reason is None or not isinstance(self.state, Closed):
            return False
        self._tripped_locked(reason, Outcome(self.last_kind or Kind.UNKNOWN), now, reading)
        return True

    def _rounds_locked(self, reason: Reason, now: float) -> tuple[int, int]:
        """The failed probe rounds of outages and of account errors, with this one where it is one more."""
        state = self.state
        if isinstance(state, Closed):
            return (state.rounds, state.account_rounds) if now < state.remembers_until else (0, 0)
        opened = opening(state)
        if opened is None:
            return 0, 0
        failed = isinstance(state, HalfOpen)
        # A hold or a hand in between is no failed round, and a new kind of trouble begins its own count.
        again = failed and reason in trip.BY_OUTAGE and opened.is_outage
        account_again = failed and reason is Reason.ACCOUNT and opened.reason is Reason.ACCOUNT
        return opened.rounds + again, opened.account_rounds + account_again

    def half_open_locked(self, opened: Open, now: float) -> HalfOpen:
        """Let probes pass after ``opened``."""
        opened.eager = None  # of the open era: it decides nothing any more
        state = HalfOpen(since=now, opened=opened)
        self._enter_locked(state)
        self._tell(lambda b: CircuitHalfOpened(b.label, b.provider, b.generation))
        return state

    def _probe_locked(
        self, state: HalfOpen, now: float, source: str | None, timeout_seconds: float | None
    ) -> ProbePermit:
        permit = ProbePermit(self.breaker, self.breaker.window, now, source, timeout_seconds)
        state.probes[permit.ticket] = now + self.policy.probe_lease_seconds
        return self._leased_locked(permit, now)

    def _leased_locked(self, permit: ProbePermit, now: float) -> ProbePermit:
        if self.seat is not None:
            self.seat.take_probe_locked(permit, now)
        return permit

    @staticmethod
    def _expire_locked(state: HalfOpen, now: float) -> None:
        if any(end <= now for end in state.probes.values()):
            state.probes = {ticket: end for ticket, end in state.probes.items() if end > now}

    def _enter_locked(self, state: State) -> None:
        self.state = state
        self.breaker.enter_locked(state.name)
        self._moved()

    def _moved(self, *, by_hand: bool = False) -> None:
        if self.seat is not None:
            self.seat.moved_locked(by_hand=by_hand)

    def _tell(self, make: Callable[[CircuitBreaker], Event]) -> None:
        self.breaker.tell_locked(make)
