"""Edges of a breaker: exact ends, late comers, and what is told back to whoever records."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import Any

import pybreaker
import pytest

from resilience.breaker import trip
from resilience.breaker.circuit import CircuitBreaker
from resilience.breaker.permit import NO_ERA, ProbePermit
from resilience.breaker.shared import SharedState, adopt_locked, describe_locked, merge_locked
from resilience.breaker.states import CircuitState, HalfOpen, Open
from resilience.breaker.stock import PROBE_LEASE_SECONDS
from resilience.breaker.trip import Reason
from resilience.errors import CircuitOpenError, ConfigurationError, ResilienceError
from resilience.events import CircuitClosed, CircuitOpened
from resilience.outcome import VERDICTS, Effect, Kind, Outcome
from resilience.settings import BreakerSettings
from resilience.testing.clock import ManualClock

EAGER = 1.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def make(clock: ManualClock, *, given: dict[str, Any] | None = None, **policy: Any) -> CircuitBreaker:
    settings = BreakerSettings(**{"jitter": 0.0, **policy})
    return CircuitBreaker(name="openai", policy=settings, clock=clock, rng=random.Random(7), **(given or {}))


def settle(breaker: CircuitBreaker, *kinds: Kind, **fields: Any) -> None:
    for kind in kinds:
        breaker.acquire().settle(Outcome(kind, **fields), VERDICTS[kind].target)


def rules(breaker: CircuitBreaker) -> Any:
    assert breaker.rules is not None
    return breaker.rules


# -- lengths ----------------------------------------------------------------------------------------------------------


def test_no_length_is_rounded_up_to_a_second() -> None:
    brief = BreakerSettings(account_open_seconds=0.5, open_seconds=0.5, open_max_seconds=20, jitter=0.0)
    assert trip.account_seconds(brief, 0, None) == 0.5
    assert trip.hold_seconds(brief, 0, 0.5) == 0.5
    assert trip.hold_seconds(brief, 6, None) == 20
    breaker = CircuitBreaker(policy=brief, clock=ManualClock(start=0.0))
    breaker.open()
    assert breaker.rejection().retry_after == 0.5


def test_what_the_provider_asks_for_lengthens_an_account_opening(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.acquire().failure(kind=Kind.AUTH, retry_after_seconds=100)
    assert breaker.rejection().retry_after == 100
    breaker.reset()
    breaker.acquire().failure(kind=Kind.QUOTA_EXHAUSTED, reset_seconds=30)
    assert breaker.rejection().retry_after == 30


# -- what recording tells back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.SUCCESS, Kind.BAD_REQUEST, Kind.CANCELLED])
def test_what_opens_nothing_says_so(clock: ManualClock, kind: Kind) -> None:
    breaker, effect = make(clock), VERDICTS[kind].target
    assert breaker.record(breaker.acquire(), effect, Outcome(kind)) is False
    stale = breaker.acquire()
    breaker.half_open()
    assert breaker.record(stale, Effect.FAILURE, Outcome(Kind.SERVER_ERROR)) is False
    assert breaker.record(breaker.acquire(), effect, Outcome(kind)) is False
    breaker.open()
    clock.advance(EAGER)
    eager = breaker.acquire_eager()
    assert eager is not None
    assert breaker.record(eager, effect, Outcome(kind)) is False


def test_a_permit_that_is_no_probe_decides_nothing_in_half_open(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.half_open()
    permit = breaker.acquire()
    plain = type(permit).__base__(breaker, breaker.window)  # as a caller may hold who came before the first era ended
    assert breaker.record(plain, Effect.FAILURE, Outcome(Kind.SERVER_ERROR)) is False
    assert breaker.current_state == "half-open"


@pytest.mark.parametrize(("kind", "effect"), [(Kind.AUTH, Effect.ACCOUNT), (Kind.SERVER_ERROR, Effect.FAILURE)])
def test_what_opens_says_so(clock: ManualClock, kind: Kind, effect: Effect) -> None:
    breaker = make(clock, consecutive_failures=1)
    assert breaker.record(breaker.acquire(), effect, Outcome(kind)) is True


# -- probes -----------------------------------------------------------------------------------------------------------


def test_a_probe_that_was_too_slow_is_told_as_a_timeout(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.half_open()
    breaker.acquire(timeout_seconds=20).success(latency_seconds=11)
    assert breaker.rejection().kind is Kind.TIMEOUT


def test_a_rates_opening_stays_one_when_its_probe_fails(clock: ManualClock) -> None:
    breaker = make(clock)
    settle(breaker, *[Kind.SUCCESS, Kind.SUCCESS, Kind.SUCCESS, Kind.SERVER_ERROR] * 5)
    clock.advance(10)
    settle(breaker, Kind.SERVER_ERROR)
    assert rules(breaker).state.reason is Reason.FAILURE_RATE


def test_half_open_begins_when_its_first_probe_is_asked_for(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.open()
    clock.advance(12)
    breaker.acquire().ignore()
    assert rules(breaker).state.since == clock.monotonic()
    breaker.open()
    clock.advance(EAGER)
    eager = breaker.acquire_eager()
    assert eager is not None
    before = rules(breaker).state
    eager.success(latency_seconds=0.1)
    assert rules(breaker).state == HalfOpen(clock.monotonic(), before, successes=1, earned=1)


def test_half_open_by_hand_keeps_what_had_opened_the_circuit(clock: ManualClock) -> None:
    heard: list[Any] = []
    breaker = make(clock, given={"sink": heard.append})
    settle(breaker, Kind.SUCCESS, *[Kind.TIMEOUT] * 3)
    opened = rules(breaker).state
    clock.advance(3)
    breaker.half_open()
    assert rules(breaker).state == HalfOpen(clock.monotonic(), opened)
    breaker.half_open()
    assert rules(breaker).state.opened is opened
    breaker.close()
    assert heard[-1] == CircuitClosed("openai", None, "closed by hand", 3.0, breaker.generation)
    breaker.half_open()
    now = clock.monotonic()
    assert rules(breaker).state == HalfOpen(now, Open("openai", now, now, now, Reason.FORCED))
    assert describe_locked(rules(breaker)).reason == "forced"


def test_a_probe_whose_lease_is_over_neither_earns_nor_lives_on(clock: ManualClock) -> None:
    breaker = make(clock, probe_lease_seconds=5)
    breaker.half_open()
    late = breaker.acquire(timeout_seconds=4)
    clock.advance(5)
    breaker.acquire().ignore()  # the slot is somebody else's by now
    late.touch()
    assert late.first_content(1.0) is False
    assert late.first_content(9.0) is False
    assert (rules(breaker).state.probes, rules(breaker).state.earned) == ({}, 0)
    del late
    assert breaker.is_eligible()


def test_an_eager_probes_stream_says_nothing_before_its_end(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.open()
    clock.advance(EAGER)
    eager = breaker.acquire_eager(timeout_seconds=4)
    assert eager is not None
    eager.touch()
    assert eager.first_content(1.0) is False
    assert isinstance(rules(breaker).state, Open)


def test_each_first_content_earns_a_place(clock: ManualClock) -> None:
    breaker = make(clock, probe_successes=9)
    breaker.half_open()
    streams = [breaker.acquire()]
    for earned in (1, 2, 3):
        streams[-1].first_content(0.1)
        assert rules(breaker).state.earned == earned
        streams.append(breaker.acquire())


def test_a_probe_that_is_dropped_after_the_circuit_closed_is_no_trouble(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.half_open()
    probe = breaker.acquire()
    breaker.close()
    del probe
    assert breaker.call(int) == 0
    breaker.add_listener(pybreaker.CircuitBreakerListener())  # from here on each call asks
    breaker.half_open()
    probe = breaker.acquire()
    breaker.close()
    del probe
    assert breaker.call(int) == 0


def test_a_probe_that_was_never_finished_in_the_making_can_be_dropped() -> None:
    probe = ProbePermit.__new__(ProbePermit)
    del probe


def test_a_stray_permit_is_open_until_it_is_settled_and_decides_nothing(clock: ManualClock) -> None:
    breaker = make(clock, consecutive_failures=1)
    stray = breaker.stray_permit()
    assert (stray.is_settled, stray.era) == (False, NO_ERA)
    stray.failure(ConnectionError())
    assert (stray.is_settled, breaker.current_state) == (True, "closed")


def test_slow_calls_told_by_their_permits_open_the_circuit_as_successes(clock: ManualClock) -> None:
    heard: list[Any] = []
    breaker = make(clock, given={"sink": heard.append}, slow_call_seconds=1.0)
    for _ in range(20):
        breaker.acquire().success(latency_seconds=2.0)
    assert heard == [CircuitOpened("openai", None, "slow_call_rate", Kind.SUCCESS, 20, 20, 1.0, 10.0, 2)]


# -- pybreaker's rules ------------------------------------------------------------------------------------------------


def test_a_trial_calls_lease_lasts_sixty_seconds_and_is_renewed(clock: ManualClock) -> None:
    assert PROBE_LEASE_SECONDS == 60
    breaker = CircuitBreaker(name="db", clock=clock)
    breaker.half_open()
    trial = breaker.acquire(source="a", timeout_seconds=5)
    assert isinstance(trial, ProbePermit)
    assert (trial.source, trial.timeout_seconds, trial.started) == ("a", 5, clock.monotonic())
    clock.advance(10)
    trial.touch()
    clock.advance(59)
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    assert breaker.next_chance() == clock.monotonic() + 1
    clock.advance(1)
    second = breaker.acquire()
    trial.ignore()  # it lost its turn: the other one's is untouched
    del trial
    assert breaker.next_chance() == clock.monotonic() + 60
    second.success()
    assert breaker.current_state == "closed"
    permit = breaker.acquire(source="a")
    assert (permit.source, permit.is_probe) == ("a", False)


def test_a_dropped_trial_call_frees_its_own_slot_only(clock: ManualClock) -> None:
    breaker = CircuitBreaker(clock=clock)
    breaker.half_open()
    lost = breaker.acquire()
    clock.advance(60)
    kept = breaker.acquire()
    del lost
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    kept.ignore()
    assert breaker.is_eligible()


def test_a_failure_without_an_exception_is_told_with_one(clock: ManualClock) -> None:
    class Failures(pybreaker.CircuitBreakerListener):
        heard: list[BaseException] = []  # noqa: RUF012 (one test's own)

        def failure(self, cb: Any, exc: BaseException) -> None:
            self.heard.append(exc)

    breaker = CircuitBreaker(fail_max=9, clock=clock, listeners=[Failures()])
    breaker.acquire().failure()
    (error,) = Failures.heard
    assert (type(error), str(error)) == (ResilienceError, "a failure was reported without its exception")


def test_a_due_trial_call_is_worth_asking_for_now(clock: ManualClock) -> None:
    breaker = CircuitBreaker(name="db", reset_timeout=30, clock=clock)
    breaker.open()
    clock.advance(31)
    assert breaker.rejection().retry_after == 0


# -- words ------------------------------------------------------------------------------------------------------------


def test_numbers_beside_a_policy_are_all_named() -> None:
    with pytest.raises(ConfigurationError) as refused:
        CircuitBreaker(fail_max=3, reset_timeout=5, policy=BreakerSettings())
    assert str(refused.value) == (
        "CircuitBreaker: fail_max, reset_timeout and policy exclude each other; "
        "policy has consecutive_failures, open_seconds and probe_successes instead"
    )
    with pytest.raises(ConfigurationError, match=r"^the circuit breaker: fail_max cannot be set"):
        CircuitBreaker(policy=BreakerSettings()).fail_max = 3


# -- guards -----------------------------------------------------------------------------------------------------------


def told(*given: Any, **named: Any) -> Any:
    return given, named


def test_a_guard_inside_a_guard_of_the_same_breaker_asks_once_and_hands_everything_on(clock: ManualClock) -> None:
    breaker = make(clock, given={"marks_context": True})

    def outer() -> Any:
        with breaker.calling():
            return breaker.call(told, 1, two=2)

    assert breaker.call(outer) == ((1,), {"two": 2})
    assert breaker.reading().calls == 1


def test_a_plain_function_that_returns_a_generator_is_counted_at_its_end(clock: ManualClock) -> None:
    breaker = make(clock)

    @breaker
    def begin() -> Any:
        return iter_three()

    items = begin()
    assert (next(items), breaker.reading().calls) == (0, 0)
    assert (list(items), breaker.reading().calls) == ([1, 2], 1)


def iter_three() -> Any:
    yield from range(3)


async def test_closing_a_guarded_async_generator_closes_the_one_inside(clock: ManualClock) -> None:
    closed: list[bool] = []

    async def numbers() -> Any:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    inner = numbers()
    stream = make(clock).call(lambda: inner)
    assert await anext(stream) == 1
    await stream.aclose()
    assert closed == [True]


def test_rejections_of_a_decorated_coroutine_are_counted(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.open()

    @breaker
    async def guarded() -> None:
        raise AssertionError

    for number in (1, 2, 3):
        with pytest.raises(CircuitOpenError):
            asyncio.run(guarded())
        assert breaker.rejected == number


def test_pybreakers_own_word_for_coroutines_hands_everything_on(clock: ManualClock) -> None:
    async def later(*given: Any, **named: Any) -> Any:
        return given, named

    guarded = make(clock)(__pybreaker_call_async=True)(later)
    assert asyncio.run(guarded(1, two=2)) == ((1,), {"two": 2})


# -- shared -----------------------------------------------------------------------------------------------------------


def test_whoever_asks_first_looks_at_the_shared_storage_first(clock: ManualClock) -> None:
    for ask in ("acquire", "next_chance"):
        shared = pybreaker.CircuitMemoryStorage("closed")
        mover, follower = (make(clock, given={"state_storage": shared}) for _ in range(2))
        mover.open()
        if ask == "acquire":
            with pytest.raises(CircuitOpenError):
                follower.acquire()
        else:
            assert follower.next_chance() == clock.monotonic() + 10


def test_what_is_heard_of_a_shared_storage_is_told_at_once(clock: ManualClock) -> None:
    heard: list[Any] = []
    shared = pybreaker.CircuitMemoryStorage("closed")
    mover = make(clock, given={"state_storage": shared})
    follower = make(clock, given={"state_storage": shared, "sink": heard.append})
    mover.open()
    assert follower.current_state == "open"
    assert [type(event) for event in heard] == [CircuitOpened]


def test_a_fleets_news_that_enough_probes_worked_closes_and_tells_it(clock: ManualClock) -> None:
    heard: list[Any] = []
    breaker = make(clock, given={"sink": heard.append})
    told_state = SharedState(CircuitState.HALF_OPEN, 990.0, "forced", until=995.0, first_since=990.0, successes=3)
    adopt_locked(rules(breaker), told_state, clock.monotonic())
    breaker.drain()
    assert heard[-1] == CircuitClosed("openai", None, "probes succeeded", 10.0, 3)
    breaker.half_open()
    clock.advance(2)
    merge_locked(rules(breaker), SharedState(CircuitState.HALF_OPEN, 1000.0, successes=3), clock.monotonic())
    breaker.drain()
    assert heard[-1] == CircuitClosed("openai", None, "probes succeeded", 2.0, 5)


def test_a_closed_circuit_tells_the_fleet_both_memories(clock: ManualClock) -> None:
    breaker = make(clock)
    for seconds in (0, 60):
        clock.advance(seconds)
        settle(breaker, Kind.AUTH)
    breaker.close()
    told_state = describe_locked(rules(breaker))
    assert (told_state.rounds, told_state.account_rounds) == (0, 1)
    assert told_state.remembers_until == clock.monotonic() + 240


def test_news_knows_nothing_but_what_it_was_told() -> None:
    assert SharedState(CircuitState.OPEN, 1.0) == SharedState(
        CircuitState.OPEN, 1.0, None, None,
        until=0.0, first_since=0.0, failures=0, calls=0, rounds=0, account_rounds=0,
        remembers_until=0.0, successes=0, earned=0, doubters={},
    )  # fmt: skip


def test_a_breaker_without_a_policy_has_no_seat_and_one_with_a_policy_keeps_its_own(clock: ManualClock) -> None:
    breaker, seat = make(clock), object()
    assert (breaker.seat, CircuitBreaker().seat) == (None, None)
    breaker.seat = seat  # type: ignore[assignment]
    assert breaker.seat is seat
    breaker.seat = None  # type: ignore[assignment]


@pytest.mark.parametrize(("kind", "opens", "holds"), [(Kind.AUTH, 3, 0), (Kind.RATE_LIMITED, 0, 3)])
def test_account_openings_are_trips_and_holds_are_none(clock: ManualClock, kind: Kind, opens: int, holds: int) -> None:
    breaker = make(clock)
    for _ in range(3):
        settle(breaker, kind)
        breaker.close()
    assert (rules(breaker).opens, rules(breaker).holds) == (opens, holds)


def test_a_success_between_two_rate_limits_starts_the_holds_anew(clock: ManualClock) -> None:
    breaker = make(clock, slow_call_seconds=60)
    settle(breaker, Kind.RATE_LIMITED)
    breaker.close()
    settle(breaker, Kind.SUCCESS, Kind.RATE_LIMITED)
    assert breaker.rejection().retry_after == 1


def test_a_reset_circuit_is_closed_since_the_reset(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.open()
    clock.advance(3)
    breaker.reset()
    assert describe_locked(rules(breaker)) == SharedState(CircuitState.CLOSED, clock.monotonic())


def test_a_probe_that_comes_after_its_lease_opens_nothing_and_says_so(clock: ManualClock) -> None:
    breaker = make(clock, probe_lease_seconds=5)
    breaker.half_open()
    late = breaker.acquire()
    clock.advance(5)
    breaker.acquire().ignore()
    assert breaker.record(late, Effect.FAILURE, Outcome(Kind.SERVER_ERROR)) is False


def test_listeners_hear_nothing_of_what_decides_nothing(clock: ManualClock) -> None:
    class Failures(pybreaker.CircuitBreakerListener):
        def __init__(self) -> None:
            self.heard: list[Any] = []

        def failure(self, cb: Any, exc: BaseException) -> None:
            self.heard.append(exc)

    breaker = make(clock, given={"listeners": [failures := Failures()]})
    stale = breaker.acquire()
    breaker.open()
    stale.failure(ConnectionError())
    breaker.stray_permit().failure(ConnectionError())
    assert failures.heard == []


def test_a_hot_permit_has_no_time_of_its_own(clock: ManualClock) -> None:
    assert make(clock).acquire().started == 0.0


def test_closing_a_guarded_generator_closes_the_one_inside(clock: ManualClock) -> None:
    inner = iter_three()
    items = make(clock).call(lambda: inner)
    assert next(items) == 0
    items.close()
    assert inner.gi_frame is None


def test_another_processs_naive_opening_is_utc(clock: ManualClock) -> None:
    breaker = CircuitBreaker(name="db", reset_timeout=30, clock=clock)
    breaker.open()
    breaker.storage.opened_at = (clock.now() - timedelta(seconds=10)).replace(tzinfo=None)
    assert breaker.rejection().retry_after == 20
    breaker.storage.opened_at = clock.now() - timedelta(seconds=12)
    assert breaker.rejection().retry_after == 18
