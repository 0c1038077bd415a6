"""When a breaker trips and for how long: the formulas, one by one."""

from __future__ import annotations

import random
from typing import Any

import pytest

from resilience.breaker import trip
from resilience.breaker.trip import Reason
from resilience.breaker.window import Reading
from resilience.outcome import Kind
from resilience.settings import BreakerSettings

DEFAULT = BreakerSettings()
EXACT = BreakerSettings(jitter=0.0)


def reading(calls: int = 0, failures: int = 0, slow: int = 0, streak: float = 0.0, **more: Any) -> Reading:
    return Reading(calls, failures, slow, streak, **more)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (reading(), None),
        (reading(streak=4), None),
        (reading(streak=5), Reason.CONSECUTIVE_FAILURES),
        (reading(streak=50, streak_corroborated=False), None),
        (reading(calls=19, failures=19), None),
        (reading(calls=20, failures=4), None),
        (reading(calls=20, failures=5), Reason.FAILURE_RATE),
        (reading(calls=20, failures=5, corroborated=False), None),
        (reading(calls=50, failures=12), None),
        (reading(calls=50, failures=13), Reason.FAILURE_RATE),
        (reading(calls=50, slow=50), None),
    ],
)
def test_the_default_policy_trips_on_five_in_a_row_or_a_quarter(seen: Reading, reason: Reason | None) -> None:
    assert trip.tripped_by(seen, DEFAULT) is reason


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (reading(calls=20, slow=9), None),
        (reading(calls=20, slow=10), Reason.SLOW_CALL_RATE),
        (reading(calls=20, slow=10, slow_corroborated=False), None),
        (reading(calls=19, slow=19), None),
    ],
)
def test_slow_calls_trip_where_a_limit_is_set(seen: Reading, reason: Reason | None) -> None:
    assert trip.tripped_by(seen, BreakerSettings(slow_call_seconds=1.0)) is reason


def test_rules_that_are_off_never_trip() -> None:
    off = BreakerSettings(consecutive_failures=None, failure_rate=None)
    assert trip.tripped_by(reading(calls=50, failures=50, streak=50), off) is None


def test_a_timeout_counts_twice() -> None:
    assert trip.streak_weight(Kind.TIMEOUT, DEFAULT) == 2
    assert {trip.streak_weight(kind, DEFAULT) for kind in Kind if kind is not Kind.TIMEOUT} == {1}


@pytest.mark.parametrize(("rounds", "seconds"), [(0, 10), (1, 20), (2, 40), (5, 300), (10_000, 300)])
def test_the_open_time_doubles_with_each_failed_round_up_to_its_limit(rounds: int, seconds: float) -> None:
    assert trip.open_seconds(EXACT, rounds, None, random.Random(1)) == seconds


@pytest.mark.parametrize(("asked", "seconds"), [(None, 10), (5.0, 10), (30.0, 30), (86_400.0, 300)])
def test_retry_after_is_a_minimum_and_clamped(asked: float | None, seconds: float) -> None:
    assert trip.open_seconds(EXACT, 0, asked, random.Random(1)) == seconds


def test_jitter_shortens_only() -> None:
    rng = random.Random(5)
    drawn = [trip.open_seconds(DEFAULT, 0, None, rng) for _ in range(500)]
    assert min(drawn) >= 9
    assert max(drawn) <= 10
    assert max(drawn) - min(drawn) > 0.9


@pytest.mark.parametrize(("rounds", "seconds"), [(0, 60), (1, 240), (2, 960), (3, 3600), (10_000, 3600)])
def test_account_openings_grow_fourfold_up_to_an_hour(rounds: int, seconds: float) -> None:
    assert trip.account_seconds(DEFAULT, rounds, None) == seconds


@pytest.mark.parametrize(
    ("reset", "asked", "seconds"),
    [(7200.0, None, 7200), (0.0, None, 1), (1e9, None, 31 * 86_400), (None, 120.0, 120), (None, 9000.0, 300)],
)
def test_a_quotas_own_reset_is_believed_and_retry_after_is_a_minimum(
    reset: float | None, asked: float | None, seconds: float
) -> None:
    assert trip.account_seconds(DEFAULT, 0, reset, asked) == seconds


@pytest.mark.parametrize(
    ("holds", "asked", "seconds"),
    [(0, None, 1), (1, None, 2), (6, None, 60), (10_000, None, 60), (3, 7.5, 7.5), (0, 9000.0, 300), (0, 0.0, 1)],
)
def test_a_hold_lasts_as_long_as_the_provider_asks_else_it_doubles(
    holds: int, asked: float | None, seconds: float
) -> None:
    assert trip.hold_seconds(DEFAULT, holds, asked) == seconds


def test_a_probe_is_slow_from_the_limit_or_half_its_timeout() -> None:
    assert trip.slow_probe_seconds(BreakerSettings(slow_call_seconds=3.0), 60.0) == 3.0
    assert trip.slow_probe_seconds(DEFAULT, 60.0) == 30.0
    assert trip.slow_probe_seconds(DEFAULT, None) is None


def test_the_ramp_doubles_until_enough_successes_would_have_closed_and_never_overflows() -> None:
    assert [trip.ramp(DEFAULT, earned) for earned in range(4)] == [1, 2, 4, 8]
    assert trip.ramp(BreakerSettings(probe_permits=3), 2) == 12
    assert trip.ramp(DEFAULT, 10_000) == 8
    assert trip.ramp(BreakerSettings(probe_successes=10_000), 10_000) == 2**64
