"""Small promises of a breaker, each of which something stands on."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from typing import Any

import pybreaker
import pytest

from resilience.breaker.chance import EAGER_SECONDS
from resilience.breaker.circuit import CircuitBreaker
from resilience.breaker.held import HELD, Holding, is_held
from resilience.breaker.window import Reading
from resilience.outcome import Effect, Kind, Outcome
from resilience.settings import BreakerSettings
from resilience.testing.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def make(clock: ManualClock, **given: Any) -> CircuitBreaker:
    return CircuitBreaker(
        name="openai", policy=BreakerSettings(jitter=0.0), clock=clock, rng=random.Random(7), **given
    )  # fmt: skip


def test_a_success_of_an_older_era_is_counted_nowhere(clock: ManualClock) -> None:
    breaker = make(clock)
    late = breaker.acquire()
    breaker.open()
    breaker.close()
    late.success()
    assert breaker.reading().calls == 0


def test_only_a_plainly_closed_circuit_is_entered_without_a_question(clock: ManualClock) -> None:
    breaker = make(clock)
    assert (breaker.doorway.era, breaker.doorway.opening) == (breaker.window, None)
    breaker.open()
    assert breaker.rules is not None
    assert (breaker.doorway.era, breaker.doorway.opening) == (None, breaker.rules.state)
    breaker.half_open()
    assert (breaker.doorway.era, breaker.doorway.opening) == (None, None)
    breaker.isolate()
    assert (breaker.doorway.era, breaker.doorway.opening) == (None, None)
    for asking in (
        CircuitBreaker(policy=BreakerSettings(slow_call_seconds=1.0)),
        CircuitBreaker(policy=BreakerSettings(), listeners=[pybreaker.CircuitBreakerListener()]),
        CircuitBreaker(policy=BreakerSettings(), state_storage=pybreaker.CircuitMemoryStorage("closed")),
        CircuitBreaker(),
    ):
        assert (asking.doorway.era, asking.doorway.opening) == (None, None)
        asking.open()
    shadow = CircuitBreaker(policy=BreakerSettings(shadow=True))
    shadow.open()
    assert (shadow.doorway.era, shadow.doorway.opening) == (None, None)


def test_a_dropped_eager_probe_is_followed_by_the_next_a_second_later(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.open()
    clock.advance(EAGER_SECONDS)
    probe = breaker.acquire_eager()
    assert probe is not None
    del probe
    clock.advance(EAGER_SECONDS)
    assert breaker.acquire_eager() is not None


def test_a_failure_without_a_word_is_of_an_unknown_kind(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.acquire().failure()
    assert breaker.rules is not None
    assert breaker.rules.last_kind is Kind.UNKNOWN


def test_recording_says_whether_it_opened_the_circuit(clock: ManualClock) -> None:
    failed = Outcome(Kind.SERVER_ERROR)
    breaker = make(clock)
    assert [breaker.record(breaker.acquire(), Effect.FAILURE, failed) for _ in range(5)] == [False] * 4 + [True]
    stock = CircuitBreaker()
    assert stock.record(stock.acquire(), Effect.IGNORED, Outcome(Kind.CANCELLED)) is False


def test_a_mark_is_what_its_block_is_given_and_leaves_nothing_behind() -> None:
    breaker = object()
    with Holding(breaker) as mark:
        assert mark.is_live
        assert HELD.get() is mark
        assert mark.holds(breaker)
        assert not mark.holds(object())
    assert not mark.is_live
    assert not is_held(breaker)
    assert HELD.get() is None


def test_a_function_that_says_it_is_a_coroutine_function_is_one(clock: ManualClock) -> None:
    def later() -> Any:
        return asyncio.sleep(0, "done")

    later._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]  # as unittest's mocks do
    assert inspect.iscoroutinefunction(make(clock)(later))


def test_pybreakers_rules_read_as_a_window_of_failures_in_a_row() -> None:
    breaker = CircuitBreaker(fail_max=5)
    for _ in range(3):
        breaker.acquire().failure(ConnectionError())
    assert breaker.reading() == Reading(calls=3, failures=3, slow=0, streak=3)
    assert breaker.fail_counter == 3


def test_a_listener_that_raises_is_logged_once_and_counted(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(pybreaker.CircuitBreakerListener):
        def success(self, cb: Any) -> None:
            raise ValueError

    heard: list[str] = []

    class Whole(pybreaker.CircuitBreakerListener):
        def success(self, cb: Any) -> None:
            heard.append(cb.name)

    breaker = make(clock, listeners=[Broken(), Whole()])
    with caplog.at_level(logging.ERROR, "resilience"):
        for _ in range(3):
            breaker.call(int)
    assert (breaker.listener_errors, heard) == (3, ["openai"] * 3)
    assert [record.getMessage() for record in caplog.records] == [
        "a listener of openai raised; further ones are only counted"
    ]


def test_following_another_process_writes_nothing_into_the_shared_storage(clock: ManualClock) -> None:
    shared = pybreaker.CircuitMemoryStorage("closed")
    mover, follower = make(clock, state_storage=shared), make(clock, state_storage=shared)
    mover.open()
    opened_at = shared.opened_at
    clock.advance(4)
    assert follower.current_state == "open"
    assert (shared.state, shared.opened_at) == ("open", opened_at)
    assert follower.rejection().retry_after == 6
    clock.advance(6)
    mover.half_open()
    mover.close()
    assert follower.current_state == "closed"
    follower.isolate("bad deploy")  # its own, and nobody else's
    assert (shared.state, follower.current_state, mover.current_state) == ("closed", "isolated", "closed")


def test_without_a_name_a_breaker_is_called_a_breaker() -> None:
    assert CircuitBreaker().label == "the circuit breaker"
    assert CircuitBreaker(name="openai").label == "openai"
    breaker = CircuitBreaker(policy=BreakerSettings())
    breaker.open()
    assert str(breaker.rejection()).startswith("the circuit breaker is open")


def test_what_a_breaker_is_made_with_is_what_it_says(clock: ManualClock) -> None:
    plain = CircuitBreaker(clock=clock)
    assert (plain.fail_max, plain.reset_timeout, plain.success_threshold) == (5, 60, 1)
    assert (plain.policy, plain.rules, plain.provider, plain.role, plain.classify) == (
        None,
        None,
        None,
        "breaker",
        None,
    )
    assert (plain.generation, plain.rejected, plain.since, plain.marks_context) == (1, 0, clock.monotonic(), False)
    assert (plain.hub, plain.seat, plain.listener_errors) == (None, None, 0)
    made = CircuitBreaker(fail_max=2, reset_timeout=7, success_threshold=3, clock=clock, role="target", provider="p")
    assert (made.fail_max, made.reset_timeout, made.success_threshold) == (2, 7, 3)
    assert (made.role, made.provider) == ("target", "p")
    made.fail_max, made.reset_timeout, made.success_threshold = 4, 8, 5
    assert (made.fail_max, made.reset_timeout, made.success_threshold) == (4, 8, 5)


@pytest.mark.parametrize("policy", [None, BreakerSettings()])
def test_each_move_is_a_new_generation_that_knows_its_beginning(
    clock: ManualClock, policy: BreakerSettings | None
) -> None:
    breaker = CircuitBreaker(policy=policy, clock=clock)
    moves = (breaker.open, breaker.half_open, breaker.close, breaker.isolate, breaker.reset)
    for number, move in enumerate(moves, 2):
        clock.advance(1)
        move()
        assert (breaker.generation, breaker.since) == (number, clock.monotonic())
