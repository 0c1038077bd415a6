"""Without a policy the breaker is pybreaker's: each promise is kept by pybreaker's own class and by ours alike."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import fakeredis
import pybreaker
import pytest
from tornado import gen

from resilience.breaker.circuit import CircuitBreaker
from resilience.errors import CircuitOpenError

BOTH = [pytest.param(pybreaker.CircuitBreaker, id="pybreaker"), pytest.param(CircuitBreaker, id="ours")]


@pytest.fixture(params=BOTH)
def breaker_class(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["memory", "redis"])
def storage(request: pytest.FixtureRequest) -> Any:
    if request.param == "memory":
        return pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
    return pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, fakeredis.FakeStrictRedis())


class SystemDownError(Exception):
    """What counts."""


class BusinessError(Exception):
    """What does not."""


def works(value: int = 1) -> int:
    return value


def fails(error: type[Exception] = SystemDownError) -> None:
    raise error


def fail(breaker: Any, times: int = 1) -> list[str]:
    met = []
    for _ in range(times):
        with pytest.raises((SystemDownError, pybreaker.CircuitBreakerError)) as caught:
            breaker.call(fails)
        met.append("tripped" if isinstance(caught.value, pybreaker.CircuitBreakerError) else "failed")
    return met


class Diary(pybreaker.CircuitBreakerListener):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        self.entries.append(f"before {func.__name__}{args}{kwargs}")

    def failure(self, cb: Any, exc: BaseException) -> None:
        self.entries.append(f"failure {type(exc).__name__} counter={cb.fail_counter}")

    def success(self, cb: Any) -> None:
        self.entries.append("success")

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        self.entries.append(f"{old_state.name}->{new_state.name}")


# -- construction ---------------------------------------------------------------------------------------------------


def test_the_defaults_are_pybreakers(breaker_class: Any) -> None:
    breaker = breaker_class()
    assert (breaker.fail_max, breaker.reset_timeout, breaker.success_threshold) == (5, 60, 1)
    assert (breaker.name, breaker.listeners, breaker.excluded_exceptions) == (None, (), ())
    assert (breaker.fail_counter, breaker.success_counter, breaker.current_state) == (0, 0, pybreaker.STATE_CLOSED)
    assert breaker.state.name == "closed"


def test_every_argument_is_taken_by_position_too(breaker_class: Any, storage: Any) -> None:
    diary = Diary()
    breaker = breaker_class(2, 30, 3, [KeyError], [diary], storage, "database", False)
    assert (breaker.fail_max, breaker.reset_timeout, breaker.success_threshold) == (2, 30, 3)
    assert (breaker.name, breaker.listeners, breaker.excluded_exceptions) == ("database", (diary,), (KeyError,))
    assert fail(breaker, 2) == ["failed", "failed"]
    assert breaker.current_state == "open"


def test_numbers_and_name_can_be_changed_on_a_living_breaker(breaker_class: Any) -> None:
    breaker = breaker_class()
    breaker.fail_max, breaker.reset_timeout, breaker.success_threshold, breaker.name = 1, 0, 2, "renamed"
    assert fail(breaker) == ["tripped"]
    breaker.call(works)
    assert (breaker.current_state, breaker.success_counter) == ("half-open", 1)
    breaker.call(works)
    assert (breaker.current_state, breaker.name) == ("closed", "renamed")


# -- closed, open, half-open ------------------------------------------------------------------------------------------


def test_fail_max_failures_in_a_row_open_it(breaker_class: Any, storage: Any) -> None:
    breaker = breaker_class(fail_max=3, state_storage=storage)
    assert fail(breaker, 2) == ["failed", "failed"]
    assert breaker.call(works, 7) == 7
    assert breaker.fail_counter == 0
    assert fail(breaker, 3) == ["failed", "failed", "tripped"]
    assert (breaker.current_state, breaker.fail_counter) == ("open", 3)
    calls: list[int] = []
    with pytest.raises(pybreaker.CircuitBreakerError, match="Timeout not elapsed yet, circuit breaker still open"):
        breaker.call(calls.append, 1)
    assert calls == []


def test_the_tripping_call_raises_as_asked(breaker_class: Any) -> None:
    loud, quiet = breaker_class(fail_max=1), breaker_class(fail_max=1, throw_new_error_on_trip=False)
    with pytest.raises(
        pybreaker.CircuitBreakerError, match="Failures threshold reached, circuit breaker opened"
    ) as err:
        loud.call(fails)
    assert isinstance(err.value.__context__, SystemDownError)
    with pytest.raises(SystemDownError):
        quiet.call(fails)
    assert (loud.current_state, quiet.current_state) == ("open", "open")
    for breaker in (loud, quiet):
        with pytest.raises(pybreaker.CircuitBreakerError):
            breaker.call(works)


def test_a_trial_call_closes_it_or_opens_it_again(breaker_class: Any, storage: Any) -> None:
    breaker = breaker_class(fail_max=1, reset_timeout=0, state_storage=storage)
    fail(breaker)
    with pytest.raises(pybreaker.CircuitBreakerError, match="Trial call failed, circuit breaker opened"):
        breaker.call(fails)
    assert breaker.current_state == "open"
    assert breaker.call(works) == 1
    assert (breaker.current_state, breaker.fail_counter) == ("closed", 0)


def test_success_threshold_successes_in_a_row_close_it(breaker_class: Any, storage: Any) -> None:
    breaker = breaker_class(fail_max=1, reset_timeout=0, success_threshold=3, state_storage=storage)
    fail(breaker)
    for seen in (1, 2):
        breaker.call(works)
        assert (breaker.current_state, breaker.success_counter) == ("half-open", seen)
    fail(breaker)
    assert (breaker.current_state, breaker.success_counter) == ("open", 0)
    for _ in range(3):
        breaker.call(works)
    assert breaker.current_state == "closed"


def test_it_is_moved_by_hand(breaker_class: Any, storage: Any) -> None:
    diary = Diary()
    breaker = breaker_class(listeners=[diary], state_storage=storage)
    breaker.open()
    assert breaker.current_state == "open"
    breaker.open()
    breaker.half_open()
    assert breaker.current_state == "half-open"
    breaker.close()
    breaker.close()
    assert breaker.current_state == "closed"
    changes = ["closed->open", "open->open", "open->half-open", "half-open->closed", "closed->closed"]
    assert diary.entries == changes


def test_an_opening_found_in_the_storage_counts_from_its_own_time(breaker_class: Any) -> None:
    storage = pybreaker.CircuitMemoryStorage("open")
    storage.opened_at = datetime.now(UTC) - timedelta(seconds=59)
    breaker = breaker_class(state_storage=storage)
    with pytest.raises(pybreaker.CircuitBreakerError):
        breaker.call(works)
    storage.opened_at = datetime.now(UTC) - timedelta(seconds=61)
    assert breaker.call(works) == 1


def test_an_opening_by_another_process_counts_from_when_it_was_made(breaker_class: Any) -> None:
    storage = pybreaker.CircuitMemoryStorage("closed")
    breaker = breaker_class(state_storage=storage)
    breaker.call(works)
    storage.state = "open"
    storage.opened_at = datetime.now(UTC) - timedelta(seconds=61)
    assert breaker.call(works) == 1


# -- exclusions -------------------------------------------------------------------------------------------------------


def test_excluded_errors_reset_the_counter_and_count_as_successes(breaker_class: Any) -> None:
    breaker = breaker_class(fail_max=2, exclude=[BusinessError, lambda error: "client" in str(error)])

    def client_error() -> None:
        raise SystemDownError("client")

    for error, call in ((BusinessError, lambda: fails(BusinessError)), (SystemDownError, client_error)):
        fail(breaker)
        assert breaker.fail_counter == 1
        with pytest.raises(error):
            breaker.call(call)
        assert (breaker.fail_counter, breaker.current_state) == (0, "closed")


def test_subclasses_of_an_excluded_type_are_excluded(breaker_class: Any) -> None:
    breaker = breaker_class(fail_max=1, exclude=[LookupError])
    with pytest.raises(KeyError):
        breaker.call({}.__getitem__, 1)
    assert breaker.current_state == "closed"


def test_exclusions_come_and_go(breaker_class: Any) -> None:
    breaker = breaker_class(fail_max=1)
    breaker.add_excluded_exception(BusinessError)
    breaker.add_excluded_exceptions(KeyError, IndexError)
    assert breaker.excluded_exceptions == (BusinessError, KeyError, IndexError)
    breaker.remove_excluded_exception(BusinessError)
    assert breaker.is_system_error(BusinessError())
    assert not breaker.is_system_error(KeyError())
    with pytest.raises(pybreaker.CircuitBreakerError):
        breaker.call(fails, BusinessError)


# -- listeners --------------------------------------------------------------------------------------------------------


def test_listeners_hear_everything_in_order(breaker_class: Any) -> None:
    diary = Diary()
    breaker = breaker_class(fail_max=2, reset_timeout=0, listeners=[diary])
    breaker.call(works, 3)
    fail(breaker, 2)
    breaker.call(works, value=4)
    assert diary.entries == [
        "before works(3,){}",
        "success",
        "before fails(){}",
        "failure SystemDownError counter=1",
        "before fails(){}",
        "failure SystemDownError counter=2",
        "closed->open",
        "open->half-open",
        "before works(){'value': 4}",
        "half-open->closed",
        "success",
    ]


def test_listeners_are_told_under_the_lock_and_may_be_changed(breaker_class: Any) -> None:
    held: list[bool] = []

    class Watch(pybreaker.CircuitBreakerListener):
        def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
            held.append(cb._lock._is_owned())

        def success(self, cb: Any) -> None:
            held.append(cb._lock._is_owned())

    breaker, watch, diary = breaker_class(), Watch(), Diary()
    breaker.add_listener(watch)
    breaker.add_listeners(diary)
    breaker.call(works)
    breaker.remove_listener(watch)
    breaker.call(works)
    assert held == [True, True]
    assert breaker.listeners == (diary,)
    assert len(diary.entries) == 4


def test_a_listener_that_raises_before_the_call_stops_it(breaker_class: Any) -> None:
    class Veto(pybreaker.CircuitBreakerListener):
        def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
            raise PermissionError

    calls: list[int] = []
    breaker = breaker_class(listeners=[Veto()])
    with pytest.raises(PermissionError):
        breaker.call(calls.append, 1)
    assert (calls, breaker.fail_counter) == ([], 0)


# -- ways to call -----------------------------------------------------------------------------------------------------


def test_it_decorates_with_and_without_parentheses_and_keeps_the_name(breaker_class: Any) -> None:
    breaker = breaker_class(fail_max=1)

    @breaker
    def plain() -> int:
        """Doc."""
        return 1

    @breaker()
    def called() -> int:
        raise SystemDownError

    assert (plain(), plain.__name__, plain.__doc__, called.__name__) == (1, "plain", "Doc.", "called")
    with pytest.raises(pybreaker.CircuitBreakerError):
        called()
    with pytest.raises(pybreaker.CircuitBreakerError):
        plain()


def test_it_decorates_methods(breaker_class: Any) -> None:
    breaker = breaker_class()

    class Client:
        @breaker
        def ask(self, what: str) -> tuple[Any, str]:
            return self, what

    client = Client()
    assert client.ask("x") == (client, "x")


def test_calling_guards_a_with_block(breaker_class: Any) -> None:
    breaker = breaker_class(fail_max=2)
    with breaker.calling():
        pass
    with pytest.raises(SystemDownError), breaker.calling():
        raise SystemDownError
    assert breaker.fail_counter == 1
    with breaker.calling():
        pass
    assert breaker.fail_counter == 0
    for _ in range(2):
        with pytest.raises((SystemDownError, pybreaker.CircuitBreakerError)), breaker.calling():
            raise SystemDownError
    ran = []
    with pytest.raises(pybreaker.CircuitBreakerError), breaker.calling():
        ran.append(1)
    assert (breaker.current_state, ran) == ("open", [])


def test_generators_take_what_is_sent_and_count_at_their_end(breaker_class: Any) -> None:
    breaker = breaker_class(fail_max=2)

    @breaker
    def echo() -> Any:
        got = yield "ready"
        while got != "stop":
            if got == "fail":
                raise SystemDownError
            got = yield got

    fail(breaker)
    talk = echo()
    assert [next(talk), talk.send("a"), talk.send("b")] == ["ready", "a", "b"]
    assert breaker.fail_counter == 1
    with pytest.raises(StopIteration):
        talk.send("stop")
    assert breaker.fail_counter == 0
    talk = echo()
    next(talk)
    with pytest.raises(SystemDownError):
        talk.send("fail")
    assert breaker.fail_counter == 1


def test_an_error_thrown_into_a_generator_reaches_it_and_counts(breaker_class: Any) -> None:
    breaker, reached = breaker_class(), []

    @breaker
    def stream() -> Any:
        try:
            yield 1
        except SystemDownError:
            reached.append(True)
            raise

    items = stream()
    next(items)
    with pytest.raises(SystemDownError):
        items.throw(SystemDownError())
    assert (reached, breaker.fail_counter) == ([True], 1)


def test_a_generator_is_admitted_when_it_is_made(breaker_class: Any) -> None:
    breaker = breaker_class()

    @breaker
    def stream() -> Any:
        yield 1

    breaker.open()
    with pytest.raises(pybreaker.CircuitBreakerError):
        stream()


async def test_tornado_coroutines_work_through_call_async_and_the_decorator(breaker_class: Any) -> None:
    diary = Diary()
    breaker = breaker_class(fail_max=2, listeners=[diary])

    @gen.coroutine
    def ask(value: int) -> Any:
        yield gen.moment
        if value < 0:
            raise SystemDownError
        return value

    @breaker(__pybreaker_call_async=True)
    @gen.coroutine
    def decorated(value: int) -> Any:
        return (yield ask(value))

    assert await breaker.call_async(ask, 5) == 5
    assert await decorated(6) == 6
    assert diary.entries == ["before ask(5,){}", "success", "before decorated(6,){}", "success"]
    with pytest.raises(SystemDownError):
        await breaker.call_async(ask, -1)
    with pytest.raises(pybreaker.CircuitBreakerError):
        await decorated(-1)
    assert breaker.current_state == "open"
    with pytest.raises(pybreaker.CircuitBreakerError):
        await decorated(1)


# -- storages ---------------------------------------------------------------------------------------------------------


def test_breakers_of_one_storage_share_state_and_counter(breaker_class: Any, storage: Any) -> None:
    one, two = (breaker_class(fail_max=3, state_storage=storage) for _ in range(2))
    fail(one, 2)
    assert two.fail_counter == 2
    fail(two)
    assert (one.current_state, one.state.name) == ("open", "open")
    with pytest.raises(pybreaker.CircuitBreakerError):
        one.call(works)
    two.close()
    assert one.call(works) == 1


def test_namespaces_in_one_redis_are_apart(breaker_class: Any) -> None:
    redis = fakeredis.FakeStrictRedis()
    one, two = (
        breaker_class(state_storage=pybreaker.CircuitRedisStorage("closed", redis, namespace=name)) for name in "ab"
    )
    one.open()
    assert (one.current_state, two.current_state) == ("open", "closed")


def test_a_new_breaker_on_a_full_counter_does_not_lose_it(breaker_class: Any, storage: Any) -> None:
    fail(breaker_class(state_storage=storage), 3)
    assert breaker_class(state_storage=storage).fail_counter == 3


def test_ones_own_storage_class_is_used(breaker_class: Any) -> None:
    written: list[str] = []

    class Written(pybreaker.CircuitMemoryStorage):
        @property
        def state(self) -> str:
            return super().state

        @state.setter
        def state(self, state: str) -> None:
            written.append(state)
            pybreaker.CircuitMemoryStorage.state.fset(self, state)  # type: ignore[attr-defined]

    breaker = breaker_class(fail_max=1, reset_timeout=0, state_storage=Written("closed"))
    fail(breaker)
    breaker.call(works)
    assert written == ["open", "half-open", "closed"]


# -- threads ----------------------------------------------------------------------------------------------------------


def test_no_failure_of_many_threads_is_lost(breaker_class: Any) -> None:
    breaker = breaker_class(fail_max=100_000)
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(fail, breaker, 200) for _ in range(8)]:
            future.result()
    assert breaker.fail_counter == 1600


def test_fail_max_is_not_passed_by_many_threads(breaker_class: Any) -> None:
    breaker, start, calls = breaker_class(fail_max=10), threading.Barrier(20), []

    def work() -> None:
        start.wait(30)
        for _ in range(50):
            try:
                breaker.call(fails)
            except SystemDownError:
                calls.append(1)
            except pybreaker.CircuitBreakerError:
                pass

    with ThreadPoolExecutor(20) as pool:
        for future in [pool.submit(work) for _ in range(20)]:
            future.result()
    assert (breaker.current_state, breaker.fail_counter) == ("open", 10)


# -- what ours adds, where pybreaker's users notice it ----------------------------------------------------------------


def test_ours_is_a_pybreaker_breaker_and_raises_its_error() -> None:
    breaker = CircuitBreaker(name="database")
    assert isinstance(breaker, pybreaker.CircuitBreaker)
    breaker.open()
    with pytest.raises(CircuitOpenError) as refused:
        breaker.call(works)
    assert isinstance(refused.value, pybreaker.CircuitBreakerError)
    assert refused.value.breaker == "database"
    assert 59 < (refused.value.retry_after or 0) <= 60


def test_permits_and_isolation_work_on_pybreakers_own_rules() -> None:
    breaker = CircuitBreaker(fail_max=2)
    for _ in range(2):
        breaker.acquire().failure(SystemDownError())
    assert breaker.current_state == "open"
    breaker.reset()
    breaker.isolate("drill")
    breaker.open()
    breaker.half_open()
    assert breaker.current_state == "isolated"
    with pytest.raises(CircuitOpenError, match="isolated: drill"):
        breaker.call(works)
    breaker.reset()
    assert breaker.call(works) == 1


def test_an_isolation_is_not_written_to_a_storage_that_plain_pybreaker_reads() -> None:
    storage = pybreaker.CircuitMemoryStorage("closed")
    ours, plain = CircuitBreaker(state_storage=storage), pybreaker.CircuitBreaker(state_storage=storage)
    ours.isolate()
    assert plain.call(works) == 1
    assert ours.current_state == "isolated"
