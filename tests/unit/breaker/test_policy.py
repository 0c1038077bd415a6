"""A breaker with a policy: openings, holds, probes, isolation, and what is said about them."""

from __future__ import annotations

import pickle
import random
from typing import Any

import pybreaker
import pytest

from resilience.breaker.circuit import CircuitBreaker
from resilience.errors import CircuitIsolatedError, CircuitOpenError, ConfigurationError
from resilience.events import CircuitClosed, CircuitOpened
from resilience.outcome import VERDICTS, Kind, Outcome
from resilience.settings import BreakerSettings
from resilience.testing.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def make(clock: ManualClock, *, sink: Any = None, **policy: Any) -> CircuitBreaker:
    settings = BreakerSettings(**{"jitter": 0.0, **policy})
    return CircuitBreaker(name="openai", policy=settings, clock=clock, rng=random.Random(7), sink=sink)


def settle(breaker: CircuitBreaker, *kinds: Kind, **fields: Any) -> None:
    for kind in kinds:
        breaker.acquire().settle(Outcome(kind, **fields), VERDICTS[kind].target)


def seconds_left(breaker: CircuitBreaker) -> float | None:
    return breaker.rejection().retry_after


def opened(breaker: CircuitBreaker) -> Any:
    assert breaker.rules is not None
    return breaker.rules


# -- openings -------------------------------------------------------------------------------------------------------


def test_three_timeouts_trip_where_five_errors_are_needed(clock: ManualClock) -> None:
    breaker = make(clock)
    settle(breaker, Kind.TIMEOUT, Kind.TIMEOUT)
    assert breaker.current_state == "closed"
    settle(breaker, Kind.TIMEOUT)
    assert breaker.current_state == "open"


def test_a_success_ends_a_streak_and_an_answered_error_does_not(clock: ManualClock) -> None:
    breaker = make(clock, failure_rate=None)
    settle(breaker, *[Kind.SERVER_ERROR] * 4, Kind.SUCCESS, *[Kind.SERVER_ERROR] * 4)
    assert breaker.current_state == "closed"
    settle(breaker, Kind.BAD_REQUEST, Kind.CANCELLED)
    assert breaker.fail_counter == 4
    settle(breaker, Kind.SERVER_ERROR)
    assert breaker.current_state == "open"


def test_a_quarter_of_twenty_trips(clock: ManualClock) -> None:
    breaker = make(clock)
    settle(breaker, *([Kind.SUCCESS] * 3 + [Kind.SERVER_ERROR]) * 4, *[Kind.SUCCESS] * 3)
    assert breaker.current_state == "closed"
    settle(breaker, Kind.SERVER_ERROR)
    assert breaker.current_state == "open"
    assert str(breaker.rejection()) == "openai is open after 5 of 20 calls failed (server_error); next probe in 10.0 s"


def test_slow_answers_trip_where_a_limit_is_set(clock: ManualClock) -> None:
    breaker = make(clock, slow_call_seconds=2.0)
    settle(breaker, *[Kind.SUCCESS] * 10, latency_seconds=1.0)
    settle(breaker, *[Kind.SUCCESS] * 10, latency_seconds=3.0)
    assert "10 of 20 calls were slow" in str(breaker.rejection())


def test_a_guarded_calls_own_time_is_measured_for_the_slow_rule(clock: ManualClock) -> None:
    breaker = make(clock, slow_call_seconds=2.0)
    for _ in range(20):
        breaker.call(clock.advance, 3)
    assert breaker.current_state == "open"


def test_retry_after_lengthens_an_opening(clock: ManualClock) -> None:
    breaker = make(clock)
    settle(breaker, *[Kind.SERVER_ERROR] * 4)
    breaker.acquire().failure(kind=Kind.OVERLOADED, retry_after_seconds=42)
    assert seconds_left(breaker) == 42


def test_the_open_time_escalates_per_failed_round_and_is_remembered_as_long_as_it_was_open(clock: ManualClock) -> None:
    breaker = make(clock, probe_successes=1)
    lengths = []
    settle(breaker, *[Kind.SERVER_ERROR] * 5)
    for _ in range(3):
        lengths.append(seconds_left(breaker))
        clock.advance(lengths[-1] or 0)
        settle(breaker, Kind.SERVER_ERROR)
    assert lengths == [10, 20, 40]
    assert seconds_left(breaker) == 80
    clock.advance(80)
    settle(breaker, Kind.SUCCESS)
    clock.advance(79)
    settle(breaker, *[Kind.SERVER_ERROR] * 5)
    assert seconds_left(breaker) == 80  # it stayed closed for less than it was open
    clock.advance(80)
    settle(breaker, Kind.SUCCESS)
    clock.advance(80)
    settle(breaker, *[Kind.SERVER_ERROR] * 5)
    assert seconds_left(breaker) == 10


def test_account_openings_escalate_fourfold_to_an_hour(clock: ManualClock) -> None:
    breaker = make(clock)
    lengths = []
    for _ in range(5):
        settle(breaker, Kind.AUTH)
        lengths.append(seconds_left(breaker))
        clock.advance(lengths[-1] or 0)
    assert lengths == [60, 240, 960, 3600, 3600]


def test_an_account_error_after_a_long_outage_is_a_first_account_error(clock: ManualClock) -> None:
    breaker = make(clock)
    settle(breaker, *[Kind.SERVER_ERROR] * 5)
    for _ in range(4):
        clock.advance(seconds_left(breaker) or 0)
        settle(breaker, Kind.SERVER_ERROR)
    clock.advance(seconds_left(breaker) or 0)
    settle(breaker, Kind.AUTH)
    assert seconds_left(breaker) == 60
    clock.advance(60)
    settle(breaker, Kind.SERVER_ERROR)
    assert seconds_left(breaker) == 160  # the outage goes on where it stood


def test_holds_end_in_half_open_never_escalate_and_are_no_trips(clock: ManualClock) -> None:
    heard: list[Any] = []
    breaker = make(clock, probe_successes=1, sink=heard.append)
    lengths = []
    for _ in range(4):
        settle(breaker, Kind.RATE_LIMITED)
        lengths.append(seconds_left(breaker))
        clock.advance(lengths[-1] or 0)
        assert breaker.current_state == "half-open"
    assert lengths == [1, 2, 4, 8]
    assert (opened(breaker).opens, opened(breaker).holds) == (0, 4)
    settle(breaker, Kind.SUCCESS)
    settle(breaker, Kind.RATE_LIMITED)
    assert seconds_left(breaker) == 1
    settle_late = [event.reason for event in heard if isinstance(event, CircuitOpened)]
    assert settle_late == ["rate_limited"] * 5
    clock.advance(1)
    settle(breaker, Kind.SERVER_ERROR)
    assert seconds_left(breaker) == 10  # the hold was no failed round


def test_a_later_end_is_never_shortened(clock: ManualClock) -> None:
    breaker = make(clock)
    settle(breaker, Kind.AUTH)
    end = clock.monotonic() + 60
    breaker.open()
    breaker.extend(end - 30)
    assert (seconds_left(breaker) or 0) + clock.monotonic() == end
    breaker.extend(end + 5)
    assert seconds_left(breaker) == 65


# -- probes -----------------------------------------------------------------------------------------------------------


def test_a_probe_slower_than_half_its_timeout_has_failed(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.open()
    clock.advance(10)
    breaker.acquire(timeout_seconds=20).success(latency_seconds=10.1)
    assert breaker.current_state == "open"
    clock.advance(20)
    breaker.acquire(timeout_seconds=20).success(latency_seconds=10.0)
    assert breaker.current_state == "half-open"


def test_a_streams_late_first_content_fails_the_probe_at_once(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.open()
    clock.advance(10)
    probe = breaker.acquire(timeout_seconds=20)
    assert probe.first_content(11.0)
    assert (breaker.current_state, probe.is_settled) == ("open", True)
    probe.success()
    assert breaker.current_state == "open"


def test_a_streams_first_content_earns_its_place_and_its_end_the_verdict(clock: ManualClock) -> None:
    breaker = make(clock, probe_successes=2)
    breaker.open()
    clock.advance(10)
    first = breaker.acquire(timeout_seconds=20)
    assert not breaker.is_eligible()
    first.first_content(1.0)
    second = breaker.acquire(timeout_seconds=20)
    assert not breaker.is_eligible()
    clock.advance(50)
    first.success(latency_seconds=51.0)  # the whole answer took long, its first token did not
    assert (breaker.current_state, breaker.success_counter) == ("half-open", 1)
    second.failure(kind=Kind.INTERRUPTED)
    assert breaker.current_state == "open"


def test_isolation_and_reset_with_probes_in_flight(clock: ManualClock) -> None:
    breaker = make(clock, probe_permits=2)
    breaker.open()
    clock.advance(10)
    first, second = breaker.acquire(), breaker.acquire()
    breaker.isolate("bad deploy")
    first.failure(kind=Kind.SERVER_ERROR)
    assert breaker.current_state == "isolated"
    clock.advance(10_000)
    with pytest.raises(CircuitIsolatedError, match="bad deploy"):
        breaker.acquire()
    breaker.open()
    breaker.half_open()
    assert breaker.current_state == "isolated"
    breaker.reset()
    second.failure(kind=Kind.SERVER_ERROR)
    assert (breaker.current_state, breaker.fail_counter) == ("closed", 0)


def test_a_reset_forgets_the_escalation(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.open()
    clock.advance(10)
    settle(breaker, Kind.SERVER_ERROR)
    assert seconds_left(breaker) == 20
    breaker.reset()
    settle(breaker, *[Kind.SERVER_ERROR] * 5)
    assert seconds_left(breaker) == 10


def test_resetting_a_closed_breaker_tells_nobody_that_it_was_out(clock: ManualClock) -> None:
    heard: list[Any] = []
    breaker = make(clock, sink=heard.append)
    clock.advance(1000)
    breaker.reset()
    assert heard == []
    breaker.open()
    clock.advance(3)
    breaker.close()
    assert [event.open_seconds for event in heard if isinstance(event, CircuitClosed)] == [3]


def test_a_breaker_is_steered_by_pybreakers_own_names(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.open()
    assert breaker.current_state == "open"
    breaker.half_open()
    assert breaker.current_state == "half-open"
    breaker.close()
    assert breaker.current_state == "closed"
    breaker.state = "open"
    assert breaker.state.name == "open"
    with pytest.raises(ValueError, match="Unknown state 'ajar', valid states: closed, open, half-open, isolated"):
        breaker.state = "ajar"


# -- words ----------------------------------------------------------------------------------------------------------


def test_pybreakers_numbers_and_a_policy_exclude_each_other(clock: ManualClock) -> None:
    for name, value in {"fail_max": 3, "reset_timeout": 5, "success_threshold": 2}.items():
        with pytest.raises(ConfigurationError, match=f"{name} and policy exclude each other"):
            CircuitBreaker(policy=BreakerSettings(), **{name: value})
        breaker = make(clock)
        with pytest.raises(ConfigurationError, match=f"openai: {name} cannot be set, its policy decides"):
            setattr(breaker, name, value)


def test_pybreakers_numbers_read_as_the_policys(clock: ManualClock) -> None:
    breaker = make(clock, consecutive_failures=7, open_seconds=11, probe_successes=4)
    assert (breaker.fail_max, breaker.reset_timeout, breaker.success_threshold) == (7, 11, 4)


def test_an_error_can_be_pickled_and_reads_the_same(clock: ManualClock) -> None:
    breaker = make(clock)
    settle(breaker, *[Kind.TIMEOUT] * 3)
    with pytest.raises(CircuitOpenError) as refused:
        breaker.call(lambda: 1)
    error = pickle.loads(pickle.dumps(refused.value))  # noqa: S301 (our own)
    assert str(error) == "openai is open after 3 failures in a row (timeout); next probe in 10.0 s"
    assert (error.breaker, error.retry_after, error.kind) == ("openai", 10.0, Kind.TIMEOUT)
    assert isinstance(error, pybreaker.CircuitBreakerError)


def test_the_tripping_call_shows_the_real_error_unless_asked_otherwise(clock: ManualClock) -> None:
    def fails() -> None:
        raise ConnectionError

    breaker = make(clock, consecutive_failures=1)
    with pytest.raises(ConnectionError):
        breaker.call(fails)
    loud = CircuitBreaker(policy=BreakerSettings(consecutive_failures=1), throw_new_error_on_trip=True)
    with pytest.raises(CircuitOpenError) as tripped:
        loud.call(fails)
    assert isinstance(tripped.value.__cause__, ConnectionError)


def test_a_shadow_breaker_never_throws_its_own_error(clock: ManualClock) -> None:
    breaker = CircuitBreaker(
        policy=BreakerSettings(consecutive_failures=1, shadow=True), clock=clock, throw_new_error_on_trip=True
    )

    def fails() -> None:
        raise ConnectionError

    for _ in range(5):
        with pytest.raises(ConnectionError):
            breaker.call(fails)
    assert breaker.current_state == "open"
    assert breaker.is_eligible()
    assert breaker.call(lambda: 1) == 1


def test_a_listener_may_veto_a_call_and_the_probe_is_given_back(clock: ManualClock) -> None:
    class Veto(pybreaker.CircuitBreakerListener):
        def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
            raise PermissionError

    breaker = make(clock)
    breaker.open()
    clock.advance(10)
    breaker.add_listener(veto := Veto())
    for _ in range(2):
        with pytest.raises(PermissionError) as vetoed:
            breaker.call(lambda: 1)
        assert vetoed.value is not None
        assert breaker.is_eligible()
    breaker.remove_listener(veto)
    assert breaker.call(lambda: 1) == 1


def test_a_permit_says_what_it_is(clock: ManualClock) -> None:
    breaker = make(clock)
    permit = breaker.acquire()
    assert (permit.is_probe, permit.is_settled, permit.is_stray) == (False, False, False)
    permit.success()
    permit.failure(kind=Kind.SERVER_ERROR)
    assert (permit.is_settled, breaker.reading().calls, breaker.reading().failures) == (True, 1, 0)
    assert breaker.stray_permit().is_stray


@pytest.mark.parametrize(
    ("error", "kind"),
    [(TimeoutError(), "timeout"), (ConnectionResetError(), "connection"), (ValueError(), "unknown")],
)
def test_without_a_classifier_the_exceptions_own_type_decides(clock: ManualClock, error: Exception, kind: str) -> None:
    breaker = make(clock)
    breaker.acquire().failure(error)
    assert opened(breaker).last_kind == kind


def test_a_classifier_decides_what_an_exception_of_a_guarded_call_means(clock: ManualClock) -> None:
    breaker = CircuitBreaker(
        policy=BreakerSettings(), clock=clock, classify=lambda error: Outcome(Kind.RATE_LIMITED, error)
    )

    def fails() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        breaker.call(fails)
    assert "a rate limit (rate_limited)" in str(breaker.rejection())
