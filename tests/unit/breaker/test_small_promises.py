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
from resilience.breaker.guard import judge
from resilience.breaker.held import HELD, Holding, is_held
from resilience.breaker.states import HalfOpen, Open
from resilience.breaker.trip import Reason
from resilience.breaker.window import Reading
from resilience.errors import CircuitOpenError, ConfigurationError
from resilience.events import CircuitClosed
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
        for number in (1, 2, 3):
            breaker.call(int)
            assert (breaker.listener_errors, heard) == (number, ["openai"] * number)
            assert [(record.name, record.getMessage()) for record in caplog.records] == [
                ("resilience", "a listener of openai raised; further ones are only counted")
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


@pytest.mark.parametrize(
    ("stock", "instead"),
    [
        ("fail_max", "consecutive_failures"),
        ("reset_timeout", "open_seconds"),
        ("success_threshold", "probe_successes"),
    ],
)
def test_a_number_of_pybreakers_that_a_policy_replaces_is_refused_with_its_name(
    clock: ManualClock, stock: str, instead: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        setattr(make(clock), stock, 3)
    assert str(refused.value) == (
        f"openai: {stock} cannot be set, its policy decides; make the breaker with BreakerSettings({instead}=...)"
    )


def test_only_a_half_open_circuit_counts_trial_calls(clock: ManualClock) -> None:
    breaker = make(clock)
    assert breaker.success_counter == 0
    breaker.open()
    assert breaker.success_counter == 0
    stock = CircuitBreaker(success_threshold=2)
    stock.half_open()
    stock.call(int)
    assert stock.success_counter == 1


@pytest.mark.parametrize("policy", [None, BreakerSettings(jitter=0.0)])
def test_openings_are_counted(clock: ManualClock, policy: BreakerSettings | None) -> None:
    breaker = CircuitBreaker(policy=policy, clock=clock)
    counting = breaker.stock if breaker.rules is None else breaker.rules
    counts = [counting.opens]
    for _ in range(3):
        breaker.open()
        counts.append(counting.opens)
        breaker.close()
    assert counts == [0, 1, 2, 3]


def test_rejections_of_a_decorated_call_are_counted(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.open()
    guarded = breaker(int)
    for number in (1, 2, 3):
        with pytest.raises(CircuitOpenError):
            guarded()
        assert breaker.rejected == number


def test_a_source_that_nobody_doubts_need_not_wait() -> None:
    state = HalfOpen(0.0, Open("x", 0.0, 0.0, 0.0, Reason.FORCED), doubters={"a": 7.0})
    assert [state.doubted_until(source) for source in ("a", "b", None)] == [7.0, 0.0, 0.0]


def test_a_doubt_that_lasts_less_than_a_second_is_one_too(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.half_open()
    breaker.acquire(source="a").failure(kind=Kind.SERVER_ERROR)
    clock.advance(9.5)
    assert breaker.rejection("a").retry_after == 0.5
    assert "waits for the word of another target" in str(breaker.rejection("a"))


def test_a_reset_starts_the_holds_anew(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.acquire().failure(kind=Kind.RATE_LIMITED)
    breaker.reset()
    breaker.acquire().failure(kind=Kind.RATE_LIMITED)
    assert breaker.rejection().retry_after == 1


def test_an_eager_probe_that_was_slow_leaves_the_circuit_open(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.open()
    for latency, state in ((11.0, "open"), (9.0, "half-open")):
        clock.advance(EAGER_SECONDS)
        probe = breaker.acquire_eager(timeout_seconds=20)
        assert probe is not None
        probe.success(latency_seconds=latency)
        assert breaker.current_state == state


def test_an_eager_probe_that_works_closes_the_circuit_where_one_is_enough(clock: ManualClock) -> None:
    heard: list[Any] = []
    breaker = CircuitBreaker(
        name="openai", policy=BreakerSettings(jitter=0.0, probe_successes=1), clock=clock, sink=heard.append
    )
    breaker.open()
    clock.advance(EAGER_SECONDS)
    probe = breaker.acquire_eager()
    assert probe is not None
    probe.success(latency_seconds=0.1)
    assert heard[-1] == CircuitClosed("openai", None, "probes succeeded", EAGER_SECONDS, 4)


def test_a_failed_probe_says_that_it_opened_the_circuit_and_a_doubt_does_not(clock: ManualClock) -> None:
    breaker = make(clock)
    failed = Outcome(Kind.SERVER_ERROR)
    breaker.half_open()
    assert breaker.record(breaker.acquire(source="a"), Effect.FAILURE, failed) is False
    assert breaker.record(breaker.acquire(source="b"), Effect.FAILURE, failed) is True
    for kind, effect in ((Kind.AUTH, Effect.ACCOUNT), (Kind.RATE_LIMITED, Effect.HOLD)):
        breaker.reset()
        breaker.half_open()
        assert breaker.record(breaker.acquire(), effect, Outcome(kind)) is True


def test_a_probe_whose_first_content_came_too_late_is_over(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.half_open()
    probe = breaker.acquire(source="a", timeout_seconds=20)
    assert probe.first_content(11.0) is False  # one of several targets: a doubt, and no opening
    assert breaker.rules is not None
    assert isinstance(breaker.rules.state, HalfOpen)
    assert breaker.rules.state.probes == {}
    assert breaker.is_eligible("b")


def test_a_with_block_left_without_a_word_gives_its_probe_back(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.half_open()
    with breaker.acquire() as probe:
        assert not breaker.is_eligible()
    assert (probe.is_settled, breaker.is_eligible()) == (True, True)


def test_a_mark_is_not_live_before_its_block_begins() -> None:
    breaker = object()
    mark = Holding(breaker)
    assert (mark.is_live, mark.holds(breaker)) == (False, False)
    mark.__exit__()
    assert mark.is_live is False


def test_a_closing_by_hand_is_told_as_one(clock: ManualClock) -> None:
    heard: list[Any] = []
    breaker = make(clock, sink=heard.append)
    breaker.open()
    breaker.state = "closed"
    assert heard[-1] == CircuitClosed("openai", None, "closed by hand", 0.0, 3)


def test_listeners_hear_where_a_circuit_comes_from(clock: ManualClock) -> None:
    class Moves(pybreaker.CircuitBreakerListener):
        def __init__(self) -> None:
            self.heard: list[tuple[str, str]] = []

        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            self.heard.append((old_state.name, new_state.name))

    for policy in (None, BreakerSettings()):
        breaker = CircuitBreaker(policy=policy, clock=clock, listeners=[moves := Moves()])
        breaker.open()
        breaker.isolate()
        breaker.reset()
        assert moves.heard == [("closed", "open"), ("open", "isolated"), ("isolated", "closed")]


def test_after_the_last_listener_has_gone_calls_ask_no_question_again(clock: ManualClock) -> None:
    breaker = make(clock)
    listener = pybreaker.CircuitBreakerListener()
    breaker.add_listener(listener)
    assert breaker.doorway.era is None
    breaker.remove_listener(listener)
    assert breaker.doorway.era is breaker.window


def test_a_failure_without_an_exception_is_no_listeners_failure(clock: ManualClock) -> None:
    class Failures(pybreaker.CircuitBreakerListener):
        def __init__(self) -> None:
            self.heard: list[Any] = []

        def failure(self, cb: Any, exc: BaseException) -> None:
            self.heard.append(exc)

    breaker = make(clock, listeners=[failures := Failures()])
    breaker.acquire().failure(kind=Kind.SERVER_ERROR)
    breaker.record(breaker.acquire(), Effect.IGNORED, Outcome(Kind.CANCELLED, KeyError()))
    breaker.acquire().failure(error := ConnectionError())
    assert failures.heard == [error]


def test_an_excluded_error_of_pybreakers_rules_keeps_its_kind() -> None:
    assert judge(CircuitBreaker(), error := ValueError()) == (Effect.FAILURE, Outcome(Kind.UNKNOWN, error))


def test_an_isolation_by_pybreakers_rules_lasts_as_long_as_the_circuit_was_out(clock: ManualClock) -> None:
    heard: list[Any] = []
    breaker = CircuitBreaker(name="db", clock=clock, sink=heard.append)
    breaker.open()
    clock.advance(2)
    breaker.isolate()
    clock.advance(3)
    breaker.reset()
    assert heard[-1].open_seconds == 5


def test_a_breaker_has_fields_few_enough_for_its_instances_to_share_their_keys() -> None:
    # Thirty, and each breaker is five times as large on CPython 3.11: ten thousand targets would take 73 MB.
    assert len(vars(CircuitBreaker(policy=BreakerSettings()))) < 30
