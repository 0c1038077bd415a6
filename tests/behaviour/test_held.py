"""A guard inside a guard: a breaker that this context holds already is asked once and recorded once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import resilience
from resilience.breaker.held import is_held
from resilience.outcome import Kind
from resilience.testing.clock import ManualClock
from resilience.testing.upstream import Act, Say, ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ASKED = [{"role": "user", "content": "hi"}]
TARGETS = [
    {"model": "openai/gpt-4o", "name": "first", "api_key": "k1"},
    {"model": "openai/gpt-4o-mini", "name": "sibling", "api_key": "k1"},
]


def world(attempts: int = 2, /, **script: Act | list[Act]) -> tuple[resilience.MultiProviderFallback, ScriptedUpstream]:
    clock = ManualClock()
    upstream = ScriptedUpstream(script, clock=clock)
    route = {"targets": TARGETS, "num_retries": 0, "max_attempts": attempts, "on_exhausted": "fail"}
    config = {"routes": {"chat": route}, "breaker": {"consecutive_failures": 3, "jitter": 0}}
    return resilience.MultiProviderFallback(config, clock=clock, upstream=upstream), upstream


def provider(fb: resilience.MultiProviderFallback) -> tuple[str, int, int]:
    """State, calls and failures of the provider's breaker."""
    one = fb.snapshot().providers["openai"]
    return one.state, one.calls, one.failures


def target(fb: resilience.MultiProviderFallback, name: str = "first") -> tuple[str, int, int]:
    one = fb.snapshot().targets[name]
    return one.state, one.calls, one.failures


def breaker(fb: resilience.MultiProviderFallback) -> resilience.CircuitBreaker:
    return fb.registry.provider_breaker("openai")


# ---- a decorator around a guarded call


async def test_a_protected_guarded_call_is_recorded_once_by_each_breaker() -> None:
    fb, upstream = world()

    @resilience.protect("openai", runtime=fb)
    async def ask() -> Any:
        return await fb.acompletion("chat", ASKED)

    @resilience.protect("openai", runtime=fb)
    def ask_in_a_thread() -> Any:
        return fb.completion("chat", ASKED)

    await ask()
    assert (provider(fb), target(fb)) == (("closed", 1, 0), ("closed", 1, 0))
    ask_in_a_thread()
    assert (provider(fb), target(fb)) == (("closed", 2, 0), ("closed", 2, 0))
    assert upstream.log == ["first"] * 2


async def test_a_failure_below_a_decorator_counts_once() -> None:
    fb, upstream = world(1, first=Kind.SERVER_ERROR)

    @resilience.protect("openai", runtime=fb)
    async def ask() -> Any:
        return await fb.acompletion("chat", ASKED)

    for _ in range(2):
        with pytest.raises(resilience.RouteExhaustedError):
            await ask()
    assert (target(fb), provider(fb)) == (("closed", 2, 2), ("closed", 2, 2))
    assert upstream.log == ["first"] * 2


async def test_a_route_that_was_refused_whole_says_nothing_to_the_decorator_around_it() -> None:
    fb, upstream = world()
    for name in ("first", "sibling"):
        fb.registry.targets[name].isolate("bad deploy")

    @resilience.protect("openai", runtime=fb)
    async def ask() -> Any:
        return await fb.acompletion("chat", ASKED)

    for _ in range(5):
        with pytest.raises(resilience.RouteExhaustedError, match="bad deploy"):
            await ask()
    assert (provider(fb), upstream.log) == (("closed", 0, 0), [])


async def test_a_probe_of_the_decorator_is_enough_for_the_call_below() -> None:
    fb, upstream = world()
    clock: Any = fb.registry.clock

    @resilience.protect("openai", runtime=fb)
    async def ask() -> Any:
        return await fb.acompletion("chat", ASKED)

    for _ in range(3):
        with breaker(fb).acquire() as permit:
            permit.failure(ConnectionError())
    with pytest.raises(resilience.CircuitOpenError):
        await ask()
    clock.advance(11)
    # One probe is allowed, and the decorator has it: the call inside must not be refused by its own permit.
    assert (await ask()).text == "ok"
    assert upstream.log == ["first"]
    for _ in range(2):
        await ask()
    assert provider(fb)[0] == "closed"


async def test_nested_decorators_of_one_name_ask_once() -> None:
    fb, _ = world()
    guard = resilience.protect("openai", runtime=fb)

    @guard
    async def inner() -> str:
        return "ok"

    @guard
    async def outer() -> str:
        return await inner()

    @guard
    def sync_outer() -> str:
        return guard(lambda: "ok")()

    assert (await outer(), sync_outer()) == ("ok", "ok")
    assert provider(fb) == ("closed", 2, 0)


async def test_another_name_is_another_breaker() -> None:
    fb, _ = world()

    @resilience.protect("gateway", runtime=fb)
    async def ask() -> Any:
        return await fb.acompletion("chat", ASKED)

    await ask()
    assert fb.snapshot().providers["gateway"].calls == 1
    assert provider(fb) == ("closed", 1, 0)


async def test_the_breakers_of_another_runtime_are_its_own() -> None:
    fb, _ = world()
    other, _ = world()

    @resilience.protect("openai", runtime=other)
    async def ask() -> Any:
        return await fb.acompletion("chat", ASKED)

    await ask()
    assert (provider(fb), provider(other)) == (("closed", 1, 0), ("closed", 1, 0))


# ---- the mark ends with the call


async def test_the_mark_is_gone_after_every_way_out() -> None:
    fb, _ = world(1, first=[Kind.SERVER_ERROR, "ok"])
    guard = resilience.protect("openai", runtime=fb)

    @guard
    async def hang() -> None:
        await asyncio.Event().wait()

    @guard
    def fail() -> None:
        assert is_held(breaker(fb))
        raise ConnectionError

    with pytest.raises(ConnectionError):
        fail()
    assert not is_held(breaker(fb))
    with pytest.raises(resilience.RouteExhaustedError):
        await fb.acompletion("chat", ASKED)
    assert not is_held(breaker(fb))
    task = asyncio.ensure_future(hang())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_held(breaker(fb))


def test_a_generator_does_not_leak_its_mark_between_items() -> None:
    fb, _ = world()

    @resilience.protect("openai", runtime=fb)
    def items() -> Iterator[bool]:
        for _ in range(3):
            yield is_held(breaker(fb))

    inside, outside = [], []
    for held in items():
        inside.append(held)
        outside.append(is_held(breaker(fb)))
    assert (inside, outside) == ([True] * 3, [False] * 3)
    left = items()
    next(left)
    assert not is_held(breaker(fb))
    left.close()  # type: ignore[attr-defined]  # a generator, seen as the iterator that it is
    assert not is_held(breaker(fb))


async def test_an_async_generator_does_not_leak_its_mark_between_items() -> None:
    fb, _ = world()

    @resilience.protect("openai", runtime=fb)
    async def items() -> AsyncIterator[bool]:
        for _ in range(3):
            await asyncio.sleep(0)
            yield is_held(breaker(fb))

    seen = [(held, is_held(breaker(fb))) async for held in items()]
    assert seen == [(True, False)] * 3


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_between_the_chunks_of_a_stream_another_call_asks_for_itself(*, is_async: bool) -> None:
    fb, upstream = world(first=Say("a b c"))
    stream = await fb.acompletion("chat", ASKED, stream=True) if is_async else fb.completion("chat", ASKED, stream=True)
    chunks = [(await anext(stream)) if is_async else next(stream)]
    assert not is_held(breaker(fb))
    await fb.acompletion("sibling", ASKED)
    assert provider(fb)[1] == 1
    chunks += [chunk async for chunk in stream] if is_async else list(stream)
    assert [chunk.text for chunk in chunks] == ["a", " b", " c"]
    assert provider(fb)[1] == 2
    assert upstream.log == ["first", "sibling"]


async def test_a_task_that_outlives_the_call_that_started_it_asks_for_itself() -> None:
    fb, upstream = world()
    go, started = asyncio.Event(), []

    async def later() -> Any:
        await go.wait()
        return await fb.acompletion("chat", ASKED)

    @resilience.protect("openai", runtime=fb)
    async def start() -> None:
        started.append(asyncio.ensure_future(later()))

    await start()
    assert provider(fb) == ("closed", 1, 0)
    breaker(fb).isolate("bad deploy")
    go.set()
    with pytest.raises(resilience.RouteExhaustedError, match="bad deploy"):
        await started[0]
    assert upstream.log == []


# ---- failover around guarded calls


async def test_a_failover_function_that_calls_the_runtime_asks_once_per_attempt() -> None:
    fb, upstream = world(first=ConnectionRefusedError(), sibling="ok")
    names = {"openai/gpt-4o": "first", "openai/gpt-4o-mini": "sibling"}

    @resilience.failover("chat", runtime=fb)
    async def ask(model: str = "") -> Any:
        return await fb.acompletion(names[model], ASKED, num_retries=0)

    assert (await ask()).text == "ok"
    assert upstream.log == ["first", "sibling"]
    assert (target(fb, "first")[1], target(fb, "sibling")[1], provider(fb)[1]) == (1, 1, 2)
