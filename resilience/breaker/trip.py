"""Has it failed enough, and for how long is it then open: pure functions of a reading and the policy."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from resilience.outcome import Kind

if TYPE_CHECKING:
    from random import Random

    from resilience.breaker.window import Reading
    from resilience.settings import BreakerSettings

ACCOUNT_MULTIPLIER: Final = 4
ACCOUNT_MAX_SECONDS: Final = 3600.0
# Quotas come back at the latest on the first of the next month; a later date is a provider's mistake.
QUOTA_MAX_SECONDS: Final = 31 * 86_400.0
HOLD_FIRST_SECONDS: Final = 1.0
HOLD_MAX_SECONDS: Final = 60.0
# Beyond this the power of the multiplier is past any limit and would only overflow.
_MAX_ROUNDS: Final = 64


class Reason(StrEnum):
    """Why a circuit is open."""

    CONSECUTIVE_FAILURES = "consecutive_failures"
    FAILURE_RATE = "failure_rate"
    SLOW_CALL_RATE = "slow_call_rate"
    ACCOUNT = "account"
    RATE_LIMITED = "rate_limited"
    FORCED = "forced"
    """Opened by ``open()`` or by another process through a shared storage."""


BY_RATE: Final = frozenset({Reason.FAILURE_RATE, Reason.SLOW_CALL_RATE})
NOT_OUTAGE: Final = frozenset({Reason.ACCOUNT, Reason.RATE_LIMITED})
# What a rule of the window found. Opened from outside counts as an outage as well, but is no finding of ours.
BY_OUTAGE: Final = BY_RATE | {Reason.CONSECUTIVE_FAILURES}


def streak_weight(kind: Kind | None, policy: BreakerSettings) -> float:
    """How much a failure counts in the consecutive rule: a timeout costs its caller most."""
    return policy.timeout_weight if kind is Kind.TIMEOUT else 1.0


def tripped_by(reading: Reading, policy: BreakerSettings) -> Reason | None:
    """The rule that trips the breaker now, None if it stays closed."""
    limit = policy.consecutive_failures
    if limit is not None and reading.streak >= limit and reading.streak_corroborated:
        return Reason.CONSECUTIVE_FAILURES
    if reading.calls < policy.minimum_calls:
        return None
    rate = policy.failure_rate
    if rate is not None and reading.failures >= rate * reading.calls and reading.failures and reading.corroborated:
        return Reason.FAILURE_RATE
    if policy.slow_call_seconds is None or not reading.slow:
        return None
    slow = reading.slow >= policy.slow_call_rate * reading.calls and reading.slow_corroborated
    return Reason.SLOW_CALL_RATE if slow else None


def open_seconds(policy: BreakerSettings, rounds: int, retry_after: float | None, rng: Random) -> float:
    """How long the circuit stays open after ``rounds`` failed probe rounds.

    The jitter only shortens, so that the limits hold as they stand in the settings, and it is drawn once per
    opening: drawn anew at every rejected call it would collapse to its minimum under load.

    Args:
        policy: The breaker's settings.
        rounds: Failed probe rounds so far.
        retry_after: Seconds that the provider asked for: a minimum, clamped to ``open_max_seconds``.
        rng: Where chance comes from.
    """
    base = policy.open_seconds * policy.open_multiplier ** min(rounds, _MAX_ROUNDS)
    seconds = min(base, policy.open_max_seconds) * (1.0 - policy.jitter * rng.random())
    return max(seconds, min(retry_after or 0.0, policy.open_max_seconds))


def account_seconds(
    policy: BreakerSettings, rounds: int, reset_seconds: float | None, retry_after: float | None = None
) -> float:
    """How long an account error opens the circuit: the provider's reset time, else four times longer each round.

    Retry-After is a minimum here as well.
    """
    if reset_seconds is not None:
        return min(max(reset_seconds, 1.0), QUOTA_MAX_SECONDS)
    base = policy.account_open_seconds * ACCOUNT_MULTIPLIER ** min(rounds, _MAX_ROUNDS)
    return max(float(min(base, ACCOUNT_MAX_SECONDS)), min(retry_after or 0.0, policy.open_max_seconds))


def hold_seconds(policy: BreakerSettings, holds: int, retry_after: float | None) -> float:
    """How long a rate limit holds: Retry-After, else 1 s, doubling to 60 s with each hold in a row."""
    if retry_after is not None and retry_after > 0:
        return min(retry_after, policy.open_max_seconds)
    return min(HOLD_FIRST_SECONDS * 2.0 ** min(holds, _MAX_ROUNDS), HOLD_MAX_SECONDS, policy.open_max_seconds)


def slow_probe_seconds(policy: BreakerSettings, timeout_seconds: float | None) -> float | None:
    """The time from which on a probe has failed although it was answered: the slow limit, else half its timeout."""
    if policy.slow_call_seconds is not None:
        return policy.slow_call_seconds
    return timeout_seconds / 2 if timeout_seconds else None


def ramp(policy: BreakerSettings, earned: int) -> int:
    """How many probes may be in flight: doubled with every successful one, so that recovery does not stampede.

    It ends where ``probe_successes`` successes would have closed the circuit. Only streams come that far: their
    first contents earn places although nobody knows yet how they end, and a provider that begins every answer and
    finishes none must not be met by a herd.
    """
    return int(policy.probe_permits * 2 ** min(earned, most_doublings(policy)))


def most_doublings(policy: BreakerSettings) -> int:
    """How often the ramp doubles at most."""
    return min(policy.probe_successes, _MAX_ROUNDS)
