"""Permits: the right to make one attempt. Only here does a forgotten outcome become 'ignored'."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, Self

from resilience.outcome import Effect, Kind, Outcome

if TYPE_CHECKING:
    from types import TracebackType

    from resilience.breaker.circuit import CircuitBreaker

NO_ERA: Final = object()
_NOTHING: Final = Outcome(Kind.CANCELLED)
_TICKETS = itertools.count(1)


class Permit:
    """The single-use right to one attempt.

    Say what came of it with exactly one of `success`, `failure`, `ignore` or `settle`; everything after the
    first is a no-op. Leaving the ``with`` block, or dropping the permit, without a word gives the slot back.

    Attributes:
        era: The breaker's era that gave it. An outcome of an older era decides nothing.
        started: Monotonic time, 0.0 where nobody needs it.
    """

    __slots__ = ("_breaker", "era", "source", "started")

    def __init__(self, breaker: CircuitBreaker, era: object, started: float = 0.0, source: str | None = None) -> None:
        self._breaker: CircuitBreaker | None = breaker
        self.era = era
        self.started = started
        self.source = source

    @property
    def is_probe(self) -> bool:
        """Whether a half-open circuit waits for this one's outcome."""
        return False

    @property
    def is_stray(self) -> bool:
        """Whether it belongs to no era: given although the circuit is open, it decides nothing."""
        return self.era is NO_ERA

    @property
    def is_settled(self) -> bool:
        """Whether the outcome has been told."""
        return self._breaker is None

    def success(self, latency_seconds: float | None = None) -> None:
        """The attempt worked.

        Args:
            latency_seconds: Time to the first content or the whole answer, for the slow-call rule. None: measured
                from when the permit was given.
        """
        breaker, self._breaker = self._breaker, None
        if breaker is None:
            return
        era = breaker.doorway.era
        if era is not None and era is self.era:
            era.calls += 1
            return
        latency = breaker.monotonic() - self.started if latency_seconds is None else latency_seconds
        breaker.record(self, Effect.SUCCESS, Outcome(Kind.SUCCESS, latency_seconds=latency))

    def failure(
        self,
        error: BaseException | None = None,
        *,
        kind: Kind | None = None,
        retry_after_seconds: float | None = None,
        reset_seconds: float | None = None,
    ) -> None:
        """The attempt failed.

        Args:
            error: The exception, for its kind and for listeners. It is not kept and not raised.
            kind: What went wrong; derived from ``error`` where left out. Kinds that the design's table gives a
                hold or an account opening have that effect here as well.
            retry_after_seconds: What the other side asked for, a minimum of the open time.
            reset_seconds: When a quota comes back.
        """
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker.record_failure(self, error, kind, retry_after_seconds, reset_seconds)

    def ignore(self) -> None:
        """The attempt says nothing about health: the slot is given back, nothing is counted."""
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker.record(self, Effect.IGNORED, _NOTHING)

    def detach(self) -> None:
        """Mark it as settled: the breaker has taken the outcome by another way."""
        self._breaker = None

    def settle(self, outcome: Outcome, effect: Effect) -> None:
        """Tell the outcome with the effect that it has on this breaker; see `resilience.outcome.VERDICTS`."""
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker.record(self, effect, outcome)

    def first_content(self, latency_seconds: float) -> bool:  # noqa: ARG002 (a probe's asks for it)
        """A stream's first content has come. Matters for probes only.

        Returns:
            Whether it came so late that it opened the circuit again; the events are told by `drain`.
        """
        return False

    def touch(self) -> None:
        """The stream is alive. Matters for probes only."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._breaker is not None:
            self.ignore()


class ProbePermit(Permit):
    """The right to one trial attempt in half-open, leased: a probe whose owner vanished loses it.

    Attributes:
        ticket: Its number in the state's table of leases.
        timeout_seconds: The attempt's limit; a probe slower than half of it has failed.
        eager: Sent before the open time was over, because the route had nothing else.
        earned: Whether its first content has earned the place in the ramp.
    """

    __slots__ = ("eager", "earned", "ticket", "timeout_seconds")

    def __init__(
        self,
        breaker: CircuitBreaker,
        era: object,
        started: float,
        source: str | None = None,
        timeout_seconds: float | None = None,
        *,
        eager: bool = False,
    ) -> None:
        super().__init__(breaker, era, started, source)
        self.ticket = next(_TICKETS)
        self.timeout_seconds = timeout_seconds
        self.eager = eager
        self.earned = False

    @property
    def is_probe(self) -> bool:
        """Whether a half-open circuit waits for this one's outcome."""
        return True

    def first_content(self, latency_seconds: float) -> bool:
        """Earn the place in the ramp; a late first content fails the probe at once."""
        return self._breaker is not None and self._breaker.probe_content(self, latency_seconds)

    def touch(self) -> None:
        """Renew the lease."""
        if self._breaker is not None:
            self._breaker.renew_probe(self)

    def __del__(self) -> None:
        # The garbage collector runs anywhere, also inside our own locked section: leave a note, take no lock.
        breaker = getattr(self, "_breaker", None)
        if breaker is not None:
            breaker.give_back(self)
