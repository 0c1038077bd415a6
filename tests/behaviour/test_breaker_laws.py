"""What goes wrong in other breakers, each as a promise of this one."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import fakeredis
import pybreaker
import pytest

from resilience.breaker.circuit import CircuitBreaker
from resilience.errors import CircuitIsolatedError, CircuitOpenError
from resilience.events import CircuitClosed, CircuitHalfOpened, CircuitOpened, PermitRefused
from resilience.outcome import Kind
from resilience.settings import BreakerSettings
from resilience.testing.clock import ManualClock


class SteppingClock(ManualClock):
    """A manual clock whose wall can be set, as by an administrator or NTP, while monotonic time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.wall_offset = timedelta()

    def now(self) -> datetime:
        return super().now() + self.wall_offset


class ProviderError(Exception):
    """What a dead provider raises."""


def make(clock: Any, *, sink: Any = None, **policy: Any) -> CircuitBreaker:
    settings = BreakerSettings(**{"jitter": 0.0, **policy})
    return CircuitBreaker(name="openai", policy=settings, clock=clock, rng=random.Random(7), sink=sink)


def trip(breaker: CircuitBreaker, failures: int = 5) -> None:
    for _ in range(failures):
        breaker.acquire().failure(ProviderError())


async def others_run() -> None:
    """Let every other task run as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


# -- the lock is not held over a call ---------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [None, BreakerSettings(), BreakerSettings(slow_call_seconds=60)])
def test_threads_never_wait_for_each_others_calls(policy: BreakerSettings | None) -> None:
    breaker = CircuitBreaker(policy=policy)
    everybody_is_inside = threading.Barrier(16)

    def work() -> int:
        # Passes only if all sixteen are in the guarded call at the same time.
        everybody_is_inside.wait(timeout=30)
        return 1

    with ThreadPoolExecutor(16) as pool:
        answers = [future.result() for future in [pool.submit(breaker.call, work) for _ in range(16)]]

    assert answers == [1] * 16


@pytest.mark.parametrize("policy", [None, BreakerSettings()])
async def test_a_thread_inside_does_not_freeze_an_event_loop_that_uses_the_same_breaker(
    policy: BreakerSettings | None,
) -> None:
    breaker = CircuitBreaker(policy=policy)
    entered, leave = threading.Event(), threading.Event()

    def slow() -> str:
        entered.set()
        leave.wait(30)
        return "thread"

    @breaker
    async def quick() -> str:
        return "loop"

    in_thread = asyncio.get_running_loop().run_in_executor(None, breaker.call, slow)
    assert await asyncio.to_thread(entered.wait, 30)
    answers = [await quick() for _ in range(10)]  # would hang here, and the thread for ever, were the lock held
    still_inside = not in_thread.done()
    leave.set()

    assert (answers, still_inside, await in_thread) == (["loop"] * 10, True, "thread")


def test_a_sink_never_hears_events_under_the_lock(clock: SteppingClock) -> None:
    held: list[bool] = []
    for policy in (None, BreakerSettings(jitter=0.0)):
        breaker: CircuitBreaker

        def can_be_taken() -> bool:
            taken = breaker._lock.acquire(blocking=False)  # noqa: B023
            if taken:
                breaker._lock.release()  # noqa: B023
            return taken

        def sink(_: Any) -> None:
            # Another thread gets the lock while the sink runs.
            with ThreadPoolExecutor(1) as pool:
                held.append(not pool.submit(can_be_taken).result())

        breaker = CircuitBreaker(policy=policy, clock=clock, sink=sink)
        trip_by_calls(breaker)
        clock.advance(100)
        breaker.call(lambda: 1)
        breaker.reset()
        breaker.isolate("maintenance")
        breaker.reset()
    assert len(held) >= 10
    assert not any(held)


def trip_by_calls(breaker: CircuitBreaker) -> None:
    def fails() -> None:
        raise ProviderError

    for _ in range(5):
        with pytest.raises((ProviderError, pybreaker.CircuitBreakerError)):
            breaker.call(fails)


# -- a plain decorator counts, whatever the kind of function ----------------------------------------------------


def function() -> None:
    raise ProviderError


async def coroutine() -> None:
    raise ProviderError


def generator() -> Any:
    yield 1
    raise ProviderError


async def async_generator() -> Any:
    yield 1
    raise ProviderError


async def consume(result: Any) -> None:
    if hasattr(result, "__await__"):
        result = await result
    if hasattr(result, "__aiter__"):
        _ = [item async for item in result]
    elif result is not None:
        _ = list(result)


@pytest.mark.parametrize("policy", [None, BreakerSettings()])
@pytest.mark.parametrize("kind", [function, coroutine, generator, async_generator])
async def test_a_plain_decorator_counts_the_failures_of_every_kind_of_function(
    kind: Any, policy: BreakerSettings | None
) -> None:
    breaker = CircuitBreaker(policy=policy)
    guarded, met = breaker(kind), []
    for _ in range(8):
        try:
            await consume(guarded())
        except CircuitOpenError:
            met.append("refused")
        except (ProviderError, pybreaker.CircuitBreakerError):
            met.append("called")
    assert met == ["called"] * 5 + ["refused"] * 3
    assert breaker.current_state == "open"


async def test_a_coroutine_or_generator_that_a_plain_function_returns_is_guarded_to_its_end(
    clock: SteppingClock,
) -> None:
    breaker = make(clock, consecutive_failures=2)

    async def fails() -> None:
        raise ProviderError

    def items() -> Any:
        yield 1
        raise ProviderError

    wrapped = breaker(lambda: fails())  # noqa: PLW0108 (a plain function, that is the point)
    with pytest.raises(ProviderError):
        await wrapped()
    assert breaker.fail_counter == 1
    stream = breaker.call(items)
    assert next(stream) == 1
    assert breaker.fail_counter == 1
    with pytest.raises(ProviderError):
        next(stream)
    assert breaker.current_state == "open"


# -- cancelled, abandoned, dropped ------------------------------------------------------------------------------


async def test_cancelled_probe_returns_its_slot(clock: SteppingClock) -> None:
    breaker = make(clock)
    trip(breaker)
    clock.advance(10)
    calls = 0
    inside = asyncio.Event()

    @breaker
    async def hangs() -> None:
        nonlocal calls
        calls += 1
        inside.set()
        await asyncio.Event().wait()

    for number in (1, 2, 3):
        inside.clear()
        task = asyncio.create_task(hangs())
        await inside.wait()
        assert not breaker.is_eligible()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (breaker.is_eligible(), breaker.current_state, calls) == (True, "half-open", number)


async def test_cancelled_calls_count_nothing_while_closed(clock: SteppingClock) -> None:
    for breaker in (make(clock), CircuitBreaker(clock=clock)):

        @breaker
        async def hangs() -> None:
            await asyncio.Event().wait()

        tasks = [asyncio.create_task(hangs()) for _ in range(20)]
        await others_run()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (breaker.current_state, breaker.fail_counter, breaker.reading().calls) == ("closed", 0, 0)


async def test_a_stream_that_its_reader_closes_early_counts_nothing(clock: SteppingClock) -> None:
    for breaker in (make(clock), CircuitBreaker(clock=clock)):

        @breaker
        def numbers() -> Any:
            yield 1
            yield 2

        @breaker
        async def anumbers() -> Any:
            yield 1
            yield 2

        for _ in range(6):
            stream = numbers()
            assert next(stream) == 1
            stream.close()
            astream = anumbers()
            assert await anext(astream) == 1
            await astream.aclose()
        assert (breaker.current_state, breaker.fail_counter, breaker.reading().calls) == ("closed", 0, 0)


def test_closing_a_stream_early_closes_the_guarded_one_too(clock: SteppingClock) -> None:
    breaker, closed = make(clock), []

    @breaker
    def numbers() -> Any:
        try:
            yield 1
        finally:
            closed.append(True)

    stream = numbers()
    next(stream)
    stream.close()
    assert closed == [True]


@pytest.mark.parametrize("started", [True, False])
def test_an_abandoned_generator_returns_its_slot(clock: SteppingClock, started: bool) -> None:
    for breaker in (make(clock), CircuitBreaker(clock=clock, reset_timeout=10, throw_new_error_on_trip=False)):
        trip(breaker)
        clock.advance(10)

        @breaker
        def numbers() -> Any:
            yield 1

        stream = numbers()
        if started:
            next(stream)
        assert not breaker.is_eligible()
        del stream
        gc.collect()
        assert breaker.is_eligible()
        assert breaker.current_state == "half-open"


async def test_an_abandoned_async_generator_returns_its_slot(clock: SteppingClock) -> None:
    breaker = make(clock)
    trip(breaker)
    clock.advance(10)

    @breaker
    async def numbers() -> Any:
        yield 1
        yield 2

    stream = numbers()
    await anext(stream)
    assert not breaker.is_eligible()
    del stream
    gc.collect()
    await others_run()  # the loop closes what was dropped
    assert breaker.is_eligible()


def test_dropped_permit_returns_its_slot(clock: SteppingClock) -> None:
    breaker = make(clock)
    trip(breaker)
    clock.advance(10)
    permit = breaker.acquire()
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    del permit
    gc.collect()
    breaker.acquire().success()


def test_a_permit_that_is_dropped_while_the_lock_is_held_stops_nobody(clock: SteppingClock) -> None:
    breaker = make(clock)
    trip(breaker)
    clock.advance(10)
    cycle: list[Any] = [breaker.acquire()]
    cycle.append(cycle)
    other = threading.Lock()

    def collect() -> None:
        nonlocal cycle
        # As when the garbage collector runs in another thread, in the middle of a decision.
        del cycle
        gc.collect()
        other.acquire()

    with breaker._lock:
        thread = threading.Thread(target=collect)
        thread.start()
        thread.join(30)
    assert other.locked()
    assert breaker.is_eligible()


def test_leaving_a_permits_block_without_a_word_gives_the_slot_back(clock: SteppingClock) -> None:
    breaker = make(clock)
    trip(breaker)
    clock.advance(10)
    with breaker.acquire():
        assert not breaker.is_eligible()
    assert breaker.is_eligible()
    with pytest.raises(ZeroDivisionError), breaker.acquire():
        _ = 1 / 0
    assert breaker.is_eligible()


def test_a_vanished_probe_loses_its_slot_with_its_lease(clock: SteppingClock) -> None:
    breaker = make(clock, probe_lease_seconds=60)
    trip(breaker)
    clock.advance(10)
    vanished = breaker.acquire()
    clock.advance(59.9)
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    clock.advance(0.1)
    other = breaker.acquire()
    vanished.failure(ProviderError())  # too late: the slot is another's now
    assert breaker.current_state == "half-open"
    other.success()
    assert breaker.reading().failures == 0


def test_a_streaming_probe_that_shows_life_keeps_its_slot(clock: SteppingClock) -> None:
    breaker = make(clock, probe_lease_seconds=60, probe_successes=1)
    trip(breaker)
    clock.advance(10)
    stream = breaker.acquire(timeout_seconds=100)
    stream.first_content(1.0)
    for _ in range(10):
        clock.advance(50)
        stream.touch()
    stream.success()
    assert breaker.current_state == "closed"


# -- stale outcomes ---------------------------------------------------------------------------------------------


def test_a_stale_success_does_not_close_an_open_breaker(clock: SteppingClock) -> None:
    for breaker in (make(clock), CircuitBreaker(clock=clock, reset_timeout=10)):
        late = [breaker.acquire() for _ in range(10)]
        trip(breaker)
        for permit in late:
            permit.success()
        assert breaker.current_state == "open"


def test_stale_failures_do_not_override_a_good_probe(clock: SteppingClock) -> None:
    for breaker in (make(clock, probe_successes=1), CircuitBreaker(clock=clock, reset_timeout=10)):
        late = [breaker.acquire() for _ in range(30)]
        trip(breaker)
        clock.advance(10)
        probe = breaker.acquire()
        for permit in late[:10]:
            permit.failure(LateTimeoutError())
        assert breaker.current_state == "half-open"
        probe.success()
        for permit in late[10:]:
            permit.failure(LateTimeoutError())
        assert (breaker.current_state, breaker.fail_counter) == ("closed", 0)


class LateTimeoutError(TimeoutError):
    """A late one."""


def test_a_stale_probe_of_an_earlier_round_decides_nothing(clock: SteppingClock) -> None:
    breaker = make(clock, probe_permits=2, probe_successes=1)
    trip(breaker)
    clock.advance(10)
    early, failing = breaker.acquire(), breaker.acquire()
    failing.failure(ProviderError())  # the round is over, a longer open time begins
    assert breaker.current_state == "open"
    early.success()
    assert breaker.current_state == "open"
    clock.advance(20)
    now = breaker.acquire()
    early.failure(ProviderError())
    now.success()
    assert breaker.current_state == "closed"


def test_late_outcomes_after_a_reset_or_an_isolation_decide_nothing(clock: SteppingClock) -> None:
    for breaker in (make(clock), CircuitBreaker(clock=clock)):
        late = [breaker.acquire() for _ in range(10)]
        breaker.reset()
        for permit in late[:5]:
            permit.failure(ProviderError())
        assert (breaker.current_state, breaker.fail_counter) == ("closed", 0)
        breaker.isolate("drill")
        for permit in late[5:]:
            permit.success()
        assert breaker.current_state == "isolated"
        with pytest.raises(CircuitIsolatedError, match="drill"):
            breaker.acquire()


# -- stampedes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("permits", [1, 3])
async def test_two_hundred_tasks_send_exactly_the_probes_allowed_and_nobody_queues(
    clock: SteppingClock, permits: int
) -> None:
    breaker = make(clock, probe_permits=permits)
    trip(breaker)
    clock.advance(10)
    calls, gate = 0, asyncio.Event()

    @breaker
    async def dead() -> None:
        nonlocal calls
        calls += 1
        await gate.wait()
        raise ProviderError

    tasks = [asyncio.create_task(dead()) for _ in range(200)]
    await others_run()
    refused_at_once = sum(task.done() for task in tasks)
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert (calls, refused_at_once) == (permits, 200 - permits)
    assert sum(isinstance(result, CircuitOpenError) for result in results) == 200 - permits


@pytest.mark.parametrize("stock", [False, True])
def test_fifty_threads_send_exactly_the_probes_allowed_and_nobody_queues(clock: SteppingClock, stock: bool) -> None:
    breaker = CircuitBreaker(clock=clock, reset_timeout=10) if stock else make(clock)
    trip(breaker)
    clock.advance(10)
    calls = 0
    start, refused, lock = threading.Barrier(50), threading.Semaphore(0), threading.Lock()

    def dead() -> None:
        nonlocal calls
        with lock:
            calls += 1
        # The probe ends only when the 49 others have been refused: nobody waits for it.
        for _ in range(49):
            assert refused.acquire(timeout=30)
        raise ProviderError

    def work() -> str:
        start.wait(30)
        try:
            breaker.call(dead)
        except CircuitOpenError:
            refused.release()
            return "refused"
        except (ProviderError, pybreaker.CircuitBreakerError):
            return "probed"
        return "answered"

    with ThreadPoolExecutor(50) as pool:
        results = [future.result() for future in [pool.submit(work) for _ in range(50)]]

    assert calls == 1
    assert sorted(set(results)) == ["probed", "refused"]
    assert results.count("refused") == 49


def test_the_ramp_doubles_with_each_success(clock: SteppingClock) -> None:
    breaker = make(clock, probe_successes=8)
    trip(breaker)
    clock.advance(10)
    admitted = []
    for _ in range(3):
        probes = []
        while breaker.is_eligible():
            probes.append(breaker.acquire())
        admitted.append(len(probes))
        probes[0].success()
        for probe in probes[1:]:
            probe.ignore()
    assert admitted == [1, 2, 4]


# -- time -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [1, -1])
@pytest.mark.parametrize("stock", [False, True])
def test_a_step_of_the_wall_clock_changes_nothing(clock: SteppingClock, stock: bool, hours: int) -> None:
    breaker = CircuitBreaker(clock=clock, reset_timeout=10) if stock else make(clock)
    trip(breaker)
    clock.wall_offset = timedelta(hours=hours)
    clock.advance(9.99)
    with pytest.raises(CircuitOpenError):
        breaker.call(lambda: 1)
    clock.advance(0.01)
    assert breaker.call(lambda: 1) == 1


def test_a_step_of_the_wall_clock_changes_nothing_with_an_own_opening_in_redis(clock: SteppingClock) -> None:
    storage = pybreaker.CircuitRedisStorage("closed", fakeredis.FakeStrictRedis())
    breaker = CircuitBreaker(clock=clock, reset_timeout=10, state_storage=storage)
    trip(breaker)
    clock.wall_offset = timedelta(hours=1)
    with pytest.raises(CircuitOpenError):
        breaker.call(lambda: 1)
    clock.advance(10)
    assert breaker.call(lambda: 1) == 1


def test_idle_windows_expire(clock: SteppingClock) -> None:
    breaker = make(clock, consecutive_failures=None, minimum_calls=20, window_calls=50, failure_rate=0.25)
    for _ in range(16):
        breaker.acquire().success()
    for _ in range(3):
        breaker.acquire().failure(ProviderError())
    clock.advance(4000)
    assert breaker.reading().failures == 0
    for _ in range(2):
        breaker.acquire().failure(ProviderError())
    assert (breaker.current_state, breaker.reading().failures) == ("closed", 2)


def test_a_streak_with_a_long_pause_in_it_is_no_streak(clock: SteppingClock) -> None:
    breaker = make(clock, failure_rate=None)
    trip(breaker, failures=4)
    assert breaker.fail_counter == 4
    clock.advance(4000)
    assert breaker.fail_counter == 0
    trip(breaker, failures=4)
    assert breaker.current_state == "closed"


def test_every_rejection_is_an_exception_of_its_own(clock: SteppingClock) -> None:
    breaker = make(clock)
    trip(breaker)
    rejections = []
    for _ in range(3):
        with pytest.raises(CircuitOpenError) as caught:
            breaker.call(int)
        rejections.append(caught.value)
    assert len({id(rejection) for rejection in rejections}) == 3
    # A shared one would collect the frames of everybody who was refused.
    lengths = [len(list(walk_frames(rejection))) for rejection in rejections]
    assert len(set(lengths)) == 1


def walk_frames(error: BaseException) -> Any:
    trace = error.__traceback__
    while trace is not None:
        yield trace
        trace = trace.tb_next


def test_jitter_is_drawn_once_per_opening(clock: SteppingClock) -> None:
    draws = 0

    class Counting(random.Random):
        def random(self) -> float:
            nonlocal draws
            draws += 1
            return super().random()

    breaker = CircuitBreaker(policy=BreakerSettings(jitter=0.5), clock=clock, rng=Counting(3))
    trip(breaker)
    ends = set()
    for _ in range(1000):
        with pytest.raises(CircuitOpenError) as refused:
            breaker.acquire()
        ends.add(round((refused.value.retry_after or 0) + clock.monotonic(), 6))
        clock.advance(0.001)
    assert (draws, len(ends)) == (1, 1)


def test_the_first_call_at_exactly_the_end_of_the_open_time_is_a_probe(clock: SteppingClock) -> None:
    breaker = make(clock)
    trip(breaker)
    end = clock.monotonic() + 10
    clock.advance(end - clock.monotonic())
    assert breaker.current_state == "half-open"
    assert breaker.is_eligible()
    assert breaker.acquire().is_probe


# -- exclusions, listeners, storages ----------------------------------------------------------------------------


def test_excluded_errors_open_nothing_and_close_a_half_open_breaker(clock: SteppingClock) -> None:
    breaker = CircuitBreaker(
        policy=BreakerSettings(jitter=0.0, probe_successes=1), clock=clock, exclude=[KeyError, lambda e: "4" in str(e)]
    )
    for error in (KeyError("x"), ValueError("404")) * 10:
        with pytest.raises(type(error)):
            breaker.call(_raiser(error))
    assert (breaker.current_state, breaker.fail_counter) == ("closed", 0)
    trip(breaker)
    clock.advance(10)
    with pytest.raises(KeyError):
        breaker.call(_raiser(KeyError("somebody is there")))
    assert breaker.current_state == "closed"


def _raiser(error: BaseException) -> Any:
    def fails() -> None:
        raise error

    return fails


def test_an_exclusion_that_raises_is_felt_and_returns_the_probes_slot(clock: SteppingClock) -> None:
    def broken(_: Any) -> bool:
        raise ZeroDivisionError

    breaker = CircuitBreaker(policy=BreakerSettings(jitter=0.0), clock=clock)
    trip(breaker)
    clock.advance(10)
    breaker.add_excluded_exception(broken)  # type: ignore[type-var]
    with pytest.raises(ZeroDivisionError):
        breaker.call(_raiser(ProviderError()))
    assert breaker.is_eligible()


class Recorder(pybreaker.CircuitBreakerListener):
    """A listener that writes down what it hears, and whether the lock was held."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.locked: list[bool] = []

    def _hear(self, breaker: Any, what: str) -> None:
        self.heard.append(what)
        self.locked.append(breaker._lock._is_owned())

    def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        self._hear(cb, f"before {func.__name__} {args} {kwargs}")

    def success(self, cb: Any) -> None:
        self._hear(cb, "success")

    def failure(self, cb: Any, exc: BaseException) -> None:
        self._hear(cb, f"failure {type(exc).__name__}")

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        self._hear(cb, f"{old_state.name} to {new_state.name}")


def test_listeners_hear_a_breaker_with_a_policy_as_they_hear_pybreakers(clock: SteppingClock) -> None:
    recorder = Recorder()
    breaker = CircuitBreaker(
        policy=BreakerSettings(jitter=0.0, consecutive_failures=1, probe_successes=1), clock=clock, listeners=[recorder]
    )

    def works(number: int, *, flag: bool) -> int:
        return number

    breaker.call(works, 1, flag=True)
    with pytest.raises(ProviderError):
        breaker.call(_raiser(ProviderError()))
    clock.advance(10)
    breaker.call(works, 2, flag=False)
    assert recorder.heard == [
        "before works (1,) {'flag': True}",
        "success",
        "before fails () {}",
        "failure ProviderError",
        "closed to open",
        "open to half-open",
        "before works (2,) {'flag': False}",
        "success",
        "half-open to closed",
    ]
    assert all(recorder.locked)


def test_a_raising_listener_is_counted_and_does_not_stop_a_transition(clock: SteppingClock) -> None:
    class Broken(Recorder):
        def _hear(self, breaker: Any, what: str) -> None:
            super()._hear(breaker, what)
            if not what.startswith("before"):
                raise RuntimeError

    breaker = CircuitBreaker(
        policy=BreakerSettings(jitter=0.0, consecutive_failures=1, probe_successes=1),
        clock=clock,
        listeners=[Broken(), recorder := Recorder()],
    )
    with pytest.raises(ProviderError):
        breaker.call(_raiser(ProviderError()))
    assert breaker.current_state == "open"
    clock.advance(10)
    assert breaker.call(lambda: 1) == 1
    assert breaker.current_state == "closed"
    assert breaker.listener_errors == 5
    assert "half-open to closed" in recorder.heard


def test_a_raising_sink_is_counted_and_never_felt(clock: SteppingClock) -> None:
    def broken(_: Any) -> None:
        raise RuntimeError

    breaker = make(clock, sink=broken)
    trip(breaker)
    with pytest.raises(CircuitOpenError):
        breaker.call(lambda: 1)
    assert breaker.hub is not None
    assert breaker.hub.sink_errors == 2


def test_events_come_in_the_order_in_which_things_happened(clock: SteppingClock) -> None:
    heard: list[Any] = []
    breaker = make(clock, sink=heard.append, probe_successes=1)
    trip(breaker)
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    clock.advance(10)
    breaker.acquire().success()
    assert [type(event) for event in heard] == [CircuitOpened, PermitRefused, CircuitHalfOpened, CircuitClosed]
    opened, closed = heard[0], heard[-1]
    assert (opened.reason, opened.failures, opened.open_seconds) == ("consecutive_failures", 5, 10)
    assert closed.open_seconds == 10


def test_a_sink_may_steer_the_breaker_that_it_hears(clock: SteppingClock) -> None:
    heard: list[str] = []
    breaker: CircuitBreaker

    def sink(event: Any) -> None:
        heard.append(type(event).__name__)
        if isinstance(event, CircuitOpened):
            breaker.isolate("the sink decided")

    breaker = make(clock, sink=sink)
    trip(breaker)
    assert breaker.current_state == "isolated"
    assert heard == ["CircuitOpened", "CircuitIsolated"]


def test_a_policy_works_on_a_storage_shared_through_redis(clock: SteppingClock) -> None:
    redis = fakeredis.FakeStrictRedis()

    def another_process() -> CircuitBreaker:
        return CircuitBreaker(
            policy=BreakerSettings(jitter=0.0, probe_successes=1),
            clock=clock,
            state_storage=pybreaker.CircuitRedisStorage("closed", redis, namespace="shared"),
        )

    one, two = another_process(), another_process()
    assert two.call(lambda: 1) == 1
    trip(one)
    assert (one.current_state, two.current_state) == ("open", "open")
    clock.advance(6)
    late = another_process()  # starts in the middle, and waits for the same end
    assert late.current_state == "open"
    for breaker in (one, two, late):
        with pytest.raises(CircuitOpenError):
            breaker.call(lambda: 1)
    clock.advance(4)
    assert late.call(lambda: 1) == 1
    assert [breaker.current_state for breaker in (one, two, late)] == ["closed"] * 3


def test_an_isolation_is_not_undone_by_another_process(clock: SteppingClock) -> None:
    redis = fakeredis.FakeStrictRedis()
    one, two = (
        CircuitBreaker(
            policy=BreakerSettings(jitter=0.0),
            clock=clock,
            state_storage=pybreaker.CircuitRedisStorage("closed", redis, namespace="shared"),
        )
        for _ in range(2)
    )
    one.isolate("bad deploy")
    two.open()
    two.close()
    with pytest.raises(CircuitIsolatedError):
        one.call(lambda: 1)
    assert two.call(lambda: 1) == 1


# -- fork -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_fresh_locks_and_none_of_the_parents_probes() -> None:
    script = textwrap.dedent(
        """
        import os, signal, sys, threading
        from resilience.breaker.circuit import CircuitBreaker
        from resilience.settings import BreakerSettings
        from resilience.testing.clock import ManualClock

        clock, told = ManualClock(), []
        breaker = CircuitBreaker(policy=BreakerSettings(jitter=0.0), clock=clock, sink=told.append)
        breaker.open()
        clock.advance(10)
        probe = breaker.acquire()          # the parent's: the child will never settle it
        held, release = threading.Event(), threading.Event()

        def hold():
            with breaker._lock, breaker._telling:
                held.set()
                release.wait(60)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(30)               # a child stuck on the parent's lock dies loudly
            events = len(told)
            mine = breaker.acquire()
            probe.failure(ValueError())    # a copy of the parent's probe decides nothing here
            for _ in range(3):
                mine.success()
                mine = breaker.acquire()
            os._exit(0 if breaker.current_state == "closed" and len(told) == events + 1 else 3)
        release.set()
        thread.join()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.exit(status if status else (0 if breaker.current_state == "half-open" else 4))
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# -- asking twice -----------------------------------------------------------------------------------------------


def marking(clock: ManualClock, **policy: Any) -> CircuitBreaker:
    return CircuitBreaker(policy=BreakerSettings(jitter=0.0, **policy), clock=clock, marks_context=True)


def test_a_guard_inside_a_guard_of_the_same_breaker_asks_and_counts_once(clock: SteppingClock) -> None:
    breaker = marking(clock)

    @breaker
    def inner() -> int:
        return 1

    @breaker
    def outer() -> int:
        return inner() + breaker.call(lambda: 1)

    assert outer() == 2
    assert breaker.reading().calls == 1
    breaker.open()
    clock.advance(10)
    assert outer() == 2  # with one probe permit, a second question would be refused
    with breaker.calling():
        assert inner() == 1


def test_the_mark_of_a_held_breaker_does_not_leak_out_of_a_generator(clock: SteppingClock) -> None:
    breaker = marking(clock)

    @breaker
    def stream() -> Any:
        yield 1
        yield 2

    @breaker
    def other() -> int:
        return 1

    items = stream()
    next(items)
    other()  # between two items: another call, which counts
    assert breaker.reading().calls == 1
    assert next(items) == 2
    items.close()
    assert breaker.reading().calls == 1


async def test_a_task_that_outlives_the_guard_it_was_started_in_is_asked_again(clock: SteppingClock) -> None:
    breaker = marking(clock, consecutive_failures=1)
    go = asyncio.Event()

    @breaker
    async def call() -> int:
        return 1

    async def background() -> int:
        await go.wait()
        return await call()

    @breaker
    async def starts() -> asyncio.Task[int]:
        return asyncio.create_task(background())

    task = await starts()
    breaker.open()
    go.set()
    with pytest.raises(CircuitOpenError):
        await task


# -- two threads at one permit ----------------------------------------------------------------------------------


def test_a_permit_settled_by_two_threads_counts_once(clock: SteppingClock) -> None:
    breaker = make(clock, consecutive_failures=None, failure_rate=None)
    permits = [breaker.acquire() for _ in range(2000)]
    start = threading.Barrier(2)

    def settle() -> None:
        start.wait()
        for permit in permits:
            permit.failure(kind=Kind.SERVER_ERROR)

    threads = [threading.Thread(target=settle) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert breaker.window.calls == 2000


def test_successes_and_failures_of_many_threads_are_all_counted(clock: SteppingClock) -> None:
    breaker = make(clock, consecutive_failures=None, failure_rate=None)

    def work() -> None:
        for number in range(500):
            permit = breaker.acquire()
            if number % 10:
                permit.success()
            else:
                permit.failure(kind=Kind.SERVER_ERROR)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert breaker.window.calls == 4000
