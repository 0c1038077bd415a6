"""The ways to make a guarded call, and what each of them counts."""

from __future__ import annotations

import asyncio
import random
import sys
from typing import Any

import pytest

from resilience.breaker.circuit import CircuitBreaker
from resilience.breaker.held import Holding, is_held
from resilience.errors import CircuitOpenError
from resilience.settings import BreakerSettings
from resilience.testing.clock import ManualClock


class ProviderError(Exception):
    """A failure."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["hot", "slow rule", "marking", "stock"])
def breaker(request: pytest.FixtureRequest, clock: ManualClock) -> CircuitBreaker:
    """One breaker for each path through the guards."""
    if request.param == "stock":
        return CircuitBreaker(fail_max=3, reset_timeout=10, clock=clock, throw_new_error_on_trip=False)
    slow = {"slow_call_seconds": 60.0} if request.param == "slow rule" else {}
    policy = BreakerSettings(consecutive_failures=3, jitter=0.0, probe_successes=1, **slow)
    return CircuitBreaker(policy=policy, clock=clock, rng=random.Random(1), marks_context=request.param == "marking")


async def works(value: int = 1) -> int:
    return value


async def fails() -> None:
    raise ProviderError


def raises() -> None:
    raise ProviderError


async def test_acall_counts_refuses_and_recovers(breaker: CircuitBreaker, clock: ManualClock) -> None:
    assert await breaker.acall(works, 7) == 7
    for _ in range(3):
        with pytest.raises(ProviderError):
            await breaker.acall(fails)
    with pytest.raises(CircuitOpenError):
        await breaker.acall(works)
    clock.advance(10)
    assert await breaker.acall(works, value=8) == 8
    assert breaker.current_state == "closed"


async def test_a_decorated_coroutine_counts_refuses_and_recovers(breaker: CircuitBreaker, clock: ManualClock) -> None:
    good, bad = breaker(works), breaker(fails)
    assert await good(7) == 7
    for _ in range(3):
        with pytest.raises(ProviderError):
            await bad()
    with pytest.raises(CircuitOpenError):
        await good()
    clock.advance(10)
    with pytest.raises(ProviderError):
        await bad()
    assert breaker.current_state == "open"
    assert asyncio.iscoroutinefunction(good)


async def test_call_async_needs_no_tornado(monkeypatch: pytest.MonkeyPatch, breaker: CircuitBreaker) -> None:
    monkeypatch.setitem(sys.modules, "tornado", None)  # importing it raises from here on
    assert await breaker.call_async(works) == 1
    for _ in range(3):
        with pytest.raises(ProviderError):
            await breaker.call_async(fails)
    with pytest.raises(CircuitOpenError):
        await breaker.call_async(works)


def test_call_and_a_decorated_function_count_refuse_and_recover(breaker: CircuitBreaker, clock: ManualClock) -> None:
    bad = breaker(raises)
    for _ in range(2):
        with pytest.raises(ProviderError):
            bad()
    with pytest.raises(ProviderError):
        breaker.call(raises)
    for refused in (bad, lambda: breaker.call(raises)):
        with pytest.raises(CircuitOpenError):
            refused()
    assert breaker.rejected == (2 if breaker.policy is not None else breaker.rejected)
    clock.advance(10)
    assert breaker.call(len, "abc") == 3
    assert breaker.current_state == "closed"


async def test_an_awaited_generator_is_guarded_to_its_end_as_pybreaker_does() -> None:
    breaker = CircuitBreaker(fail_max=3, throw_new_error_on_trip=False)

    async def stream() -> Any:
        async def items() -> Any:
            yield 1
            raise ProviderError

        return items()

    for _ in range(3):
        chunks = await breaker.acall(stream)
        with pytest.raises(ProviderError):
            _ = [chunk async for chunk in chunks]
    assert breaker.current_state == "open"


async def test_async_generators_take_what_is_sent_and_thrown(breaker: CircuitBreaker) -> None:
    @breaker
    async def echo() -> Any:
        got = yield "ready"
        while True:
            try:
                got = yield got
            except KeyError:
                got = "caught"

    talk = echo()
    assert [await anext(talk), await talk.asend("a"), await talk.athrow(KeyError())] == ["ready", "a", "caught"]
    with pytest.raises(ProviderError):
        await talk.athrow(ProviderError())
    assert breaker.fail_counter == 1


def test_an_error_that_a_generator_handles_is_no_failure(breaker: CircuitBreaker) -> None:
    @breaker
    def patient() -> Any:
        try:
            yield 1
        except KeyError:
            yield 2

    items = patient()
    next(items)
    assert items.throw(KeyError()) == 2
    assert list(items) == []
    assert breaker.fail_counter == 0


def test_a_generators_return_value_is_handed_on(breaker: CircuitBreaker) -> None:
    @breaker
    def total() -> Any:
        yield 1
        return 42

    def outer() -> Any:
        return (yield from total())

    run = outer()
    next(run)
    with pytest.raises(StopIteration) as stop:
        next(run)
    assert stop.value.value == 42


@pytest.mark.parametrize("leaving", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_a_caller_that_leaves_counts_nothing(breaker: CircuitBreaker, leaving: type[BaseException]) -> None:
    def left() -> None:
        raise leaving

    for _ in range(5):
        with pytest.raises(leaving):
            breaker.call(left)
    assert (breaker.current_state, breaker.fail_counter) == ("closed", 0)


def test_a_refusal_of_another_breaker_says_nothing_about_this_one() -> None:
    outer, inner = CircuitBreaker(policy=BreakerSettings()), CircuitBreaker(policy=BreakerSettings())
    inner.open()
    for _ in range(10):
        with pytest.raises(CircuitOpenError):
            outer.call(inner.call, raises)
    assert outer.current_state == "closed"


def test_a_mark_is_over_with_its_block_also_in_another_context() -> None:
    one, two = object(), object()
    with Holding(one):
        with Holding(two):
            assert is_held(one)
            assert is_held(two)
        assert is_held(one)
        assert not is_held(two)
    assert not is_held(one)

    import contextvars

    mark = Holding(one)
    elsewhere = contextvars.copy_context()
    elsewhere.run(mark.__enter__)
    assert elsewhere.run(is_held, one)
    mark.__exit__(None, None, None)  # as when a generator is closed by somebody else
    assert not elsewhere.run(is_held, one)
