"""Whatever a provider writes into Retry-After, the answer is None or a time between now and a year."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resilience.breaker.circuit import CircuitBreaker
from resilience.middleware.headers import (
    LONGEST_SECONDS,
    delay_in_body,
    delay_in_text,
    parse_duration,
    regained_in,
    retry_after,
    should_retry,
    until_next_month,
)
from resilience.outcome import Kind, Outcome
from resilience.settings import BreakerSettings
from resilience.testing.clock import ManualClock

# A noisy machine is no failure.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NOW = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)
NAMES = st.sampled_from(
    [
        "retry-after",
        "retry-after-ms",
        "x-ratelimit-reset-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset",
        "x-ratelimit-remaining",
        "anthropic-ratelimit-tokens-reset",
        "anthropic-ratelimit-tokens-remaining",
        "x-should-retry",
    ]
)
ODD = st.sampled_from(
    ["", " ", "-1", "nan", "inf", "-inf", "1e999", "1e9", "0x10", "٣", "9" * 300, "1h2m", "0", "Fri, 99 Foo", "12:00"]
)
VALUES = st.one_of(st.text(max_size=30), ODD, st.floats().map(str), st.integers().map(str))


def _is_sound(seconds):
    return seconds is None or (math.isfinite(seconds) and 0.0 <= seconds <= LONGEST_SECONDS)


@PATIENT
@given(st.dictionaries(NAMES, VALUES))
def test_headers_never_ask_for_nonsense(headers):
    assert _is_sound(retry_after(headers, NOW))
    assert should_retry(headers) in {True, False, None}


@PATIENT
@given(st.text(max_size=200))
def test_text_never_asks_for_nonsense(text):
    assert _is_sound(delay_in_text(text))
    assert _is_sound(delay_in_text(f"please try again in {text}"))
    assert _is_sound(regained_in(f"access on {text} UTC", NOW))


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["error", "details", "retryDelay", "x"]), inner)
    ),
    max_leaves=10,
)


@PATIENT
@given(json_values)
def test_bodies_never_ask_for_nonsense(body):
    assert _is_sound(delay_in_body(body))


@PATIENT
@given(st.integers(0, 23), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_a_duration_is_the_sum_of_its_parts(hours, minutes, seconds, milliseconds):
    text = f"{hours}h{minutes}m{seconds}s{milliseconds}ms"
    assert parse_duration(text) == pytest.approx(hours * 3600 + minutes * 60 + seconds + milliseconds / 1000)


@PATIENT
@given(st.integers(-86400, 86400 * 30))
def test_a_date_is_as_far_away_as_it_is(seconds):
    moment = NOW + timedelta(seconds=seconds)
    for text in (format_datetime(moment, usegmt=True), moment.isoformat(), str(moment.timestamp())):
        assert retry_after({"retry-after": text}, NOW) == pytest.approx(max(0, seconds))


@PATIENT
@given(st.floats(0, LONGEST_SECONDS, allow_nan=False).map(lambda number: round(number, 3)))
def test_seconds_are_seconds(seconds):
    text = f"{seconds:.3f}"
    assert retry_after({"retry-after": text}, NOW) == pytest.approx(seconds)
    assert retry_after({"retry-after-ms": text, "retry-after": "5"}, NOW) == pytest.approx(seconds / 1000)


@PATIENT
@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 (it adds the zone)
def test_the_next_month_begins_within_31_days(now):
    seconds = until_next_month(now)
    assert 0 < seconds <= 31 * 86400
    assert (now + timedelta(seconds=seconds)).day == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": " 20 "}, 20.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "86400"}, 86400.0),
        ({"retry-after": "99999999999999999999"}, LONGEST_SECONDS),
        ({"retry-after": "1h2m3.5s"}, 3723.5),
        ({"retry-after": "120ms"}, 0.12),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "nan", "retry-after": "2"}, 2.0),
        ({"retry-after": "soon", "x-ratelimit-reset-tokens": "7.66s", "x-ratelimit-remaining-tokens": "0"}, 7.66),
        ({"x-ratelimit-reset-tokens": "7.66s", "x-ratelimit-remaining-tokens": "12"}, None),
        ({"x-ratelimit-reset-tokens": "7.66s"}, None),
        (
            {
                "x-ratelimit-reset-tokens": "1s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-requests": "6m0s",
                "x-ratelimit-remaining-requests": "0",
            },
            360.0,
        ),
        (
            {
                "anthropic-ratelimit-input-tokens-reset": "2026-03-14T15:10:26Z",
                "anthropic-ratelimit-input-tokens-remaining": "0",
            },
            60.0,
        ),
        ({"x-ratelimit-reset": str((NOW.timestamp() + 9) * 1000), "x-ratelimit-remaining": "0"}, 9.0),
    ],
)
def test_the_forms_that_providers_use(headers, seconds):
    assert retry_after(headers, NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Rate limit reached. Please try again in 41.724s. Visit", 41.724),
        ("try again in 6m0s", 360.0),
        ("Try again in 120ms.", 0.12),
        ("please retry after 20 seconds", 20.0),
        ("Please retry in 3 minutes", 180.0),
        ("Please retry in 250 milliseconds", 0.25),
        ("retry after 5", 5.0),
        ("try again later", None),
        ("", None),
    ],
)
def test_sentences_that_providers_use(text, seconds):
    assert delay_in_text(text) == pytest.approx(seconds)


def test_access_is_regained_at_the_time_that_is_said():
    said = "You have reached your specified API usage limits. You will regain access on 2026-04-01 at 00:00 UTC."
    assert regained_in(said, NOW) == pytest.approx((datetime(2026, 4, 1, tzinfo=UTC) - NOW).total_seconds())


@PATIENT
@given(st.dictionaries(NAMES, VALUES), st.sampled_from([Kind.SERVER_ERROR, Kind.RATE_LIMITED, Kind.OVERLOADED]))
def test_no_retry_after_opens_a_breaker_for_longer_than_allowed(headers, kind):
    clock = ManualClock()
    policy = BreakerSettings(consecutive_failures=1, open_max_seconds=300, jitter=0)
    breaker = CircuitBreaker(name="x", role="target", policy=policy, clock=clock)
    outcome = Outcome(kind, ConnectionError(), retry_after_seconds=retry_after(headers, NOW))
    breaker.acquire().settle(outcome, outcome.verdict.target)
    assert breaker.current_state == "open"
    clock.advance(300)
    breaker.acquire().success()
