"""Simulated providers: how long each attempt takes and what it comes to, by the models, the faults and the load."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from resilience.outcome import Kind, Outcome
from resilience.simulator.chance import Chance, quantile_of
from resilience.simulator.scenario import WHOLE_KINDS

if TYPE_CHECKING:
    from resilience.simulator.scenario import CapacitySettings, OutageSettings, TargetModel

ERROR_SECONDS: Final = {"connection": 0.002, "rate_limited": 0.02, "server_error": 0.05, "overloaded": 0.05}
"""How long an error takes to come; others take `OTHER_ERROR_SECONDS`."""
OTHER_ERROR_SECONDS: Final = 0.05


class SimulatedError(Exception):
    """A provider's error; the outcome that `classify` would read out of it goes with it."""

    def __init__(self, kind: Kind, status: int | None, retry_after_seconds: float | None) -> None:
        super().__init__(f"simulated {kind}")
        self.outcome = Outcome(kind, self, status, retry_after_seconds)


class Fate(NamedTuple):
    """What becomes of one attempt.

    Attributes:
        after_seconds: Until its answer, its error or a stream's first content; inf for one that hangs.
        usual_seconds: What the answer would have taken on a good day.
        error: What it raises; None for an answer.
        is_empty: The answer holds nothing.
        rest_seconds: From a stream's first content to its end, or to its break.
        breaks: How a stream breaks.
    """

    after_seconds: float
    usual_seconds: float
    error: SimulatedError | None = None
    is_empty: bool = False
    rest_seconds: float = 0.0
    breaks: Kind | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Strike:
    """A fault while it lasts: an outage's `OutageSettings`, and when its second half begins."""

    outage: OutageSettings
    half_at: float


class _Bucket:
    """Tokens, one a request, that come back at a steady rate."""

    __slots__ = ("_at", "_left", "_most", "error", "rate")

    def __init__(self, capacity: CapacitySettings) -> None:
        self.rate = capacity.per_second
        self._most = self._left = float(capacity.burst or max(1, round(capacity.per_second)))
        self._at = 0.0
        kind, status = (Kind.RATE_LIMITED, 429) if capacity.answers == "rate_limited" else (Kind.OVERLOADED, 429)
        self.error = (kind, status, capacity.retry_after_seconds)

    def take(self, now: float) -> bool:
        self._left = min(self._most, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class SimulatedTarget:
    """One target of the world: it has no memory but its bucket, and its luck is each request's own.

    Args:
        name: The target's.
        provider: Its provider's.
        model: What it is like.
        seed: The scenario's.

    Attributes:
        strikes: The faults that last now.
    """

    __slots__ = ("_bucket", "_first", "_latency", "_luck", "_second", "name", "price_usd", "provider", "strikes")

    def __init__(self, name: str, provider: str, model: TargetModel, seed: int) -> None:
        self.name = name
        self.provider = provider
        self.price_usd = model.price_usd
        self.strikes: tuple[Strike, ...] = ()
        self._latency = quantile_of(model.latency)
        self._first = None if model.first_token is None else quantile_of(model.first_token)
        self._luck = Chance(seed, f"latency:{name}")
        self._second = Chance(seed, f"faults:{name}")
        self._bucket = None if model.capacity is None else _Bucket(model.capacity)

    def fate(self, number: int, nth: int, now: float, *, stream: bool) -> Fate:
        """What becomes of an attempt that starts now.

        Args:
            number: The request's.
            nth: Which attempt of it at this target, from 0.
            now: Seconds since the start.
            stream: Whether it asks for a stream.
        """
        long, short = self._luck.pair(number, nth)
        usual = self._latency(long)
        if stream:
            first = 0.25 * usual if self._first is None else self._first(short)
            usual, rest = first, max(0.0, usual - first)
        else:
            rest = 0.0
        if self._bucket is not None and not self._bucket.take(now):
            return Fate(ERROR_SECONDS["rate_limited"], usual, SimulatedError(*self._bucket.error))
        if self.strikes:
            struck, chosen = self._second.pair(number, nth)
            for strike in self.strikes:
                if struck < strike.outage.share:
                    return _struck(strike, usual, rest, now, chosen, stream=stream)
                struck = (struck - strike.outage.share) / (1 - strike.outage.share)  # what is left is luck anew
        return Fate(usual, usual, rest_seconds=rest)


def bad_request(usual_seconds: float = OTHER_ERROR_SECONDS) -> Fate:
    """What any target says to a request that is wrong."""
    return Fate(OTHER_ERROR_SECONDS, usual_seconds, SimulatedError(Kind.BAD_REQUEST, 400, None))


def _struck(strike: Strike, usual: float, rest: float, now: float, chosen: float, *, stream: bool) -> Fate:
    outage = strike.outage
    fails = outage.fails
    if fails == "hang" or (fails == "slow" and now >= strike.half_at and chosen < outage.hang_share):
        return Fate(inf, usual)
    if fails == "slow":
        return Fate(usual * outage.slowdown, usual, rest_seconds=rest * outage.slowdown)
    if fails == "empty":
        return Fate(usual, usual, is_empty=True)
    if fails in {"cut", "stall"}:
        if not stream:  # a whole answer that is cut is lost, one that stalls does not come
            return Fate(inf, usual) if fails == "stall" else Fate(usual, usual, _error(Kind.CONNECTION, None, None))
        kind = Kind.INTERRUPTED if fails == "cut" else Kind.TIMEOUT
        return Fate(usual, usual, rest_seconds=rest * chosen, breaks=kind)
    kind, status = WHOLE_KINDS[fails]
    return Fate(ERROR_SECONDS.get(fails, OTHER_ERROR_SECONDS), usual, _error(kind, status, outage.retry_after_seconds))


def _error(kind: Kind, status: int | None, retry_after_seconds: float | None) -> SimulatedError:
    return SimulatedError(kind, status, retry_after_seconds)
