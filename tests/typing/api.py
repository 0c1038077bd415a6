"""The public API as users write it. Only mypy reads this: it fails when a decorated signature is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator  # noqa: TC003 (as users write it)
from typing import assert_type

import resilience
from resilience.events import CircuitOpened
from resilience.outcome import Kind
from resilience.testing import flapping, outage, record_events

breaker = resilience.CircuitBreaker(name="x", policy=resilience.BreakerSettings(consecutive_failures=3))


@breaker
def plain(text: str, *, times: int = 1) -> list[str]:
    return [text] * times


@breaker
async def coroutine(text: str) -> int:
    return len(text)


@resilience.protect("openai")
def guarded(text: str, times: int = 1) -> str:
    return text * times


@resilience.protect("openai")
async def aguarded(text: str) -> bytes:
    return text.encode()


@resilience.protect("openai")
def generated(count: int) -> Iterator[int]:
    yield from range(count)


@resilience.protect("openai")
async def agenerated(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


@resilience.failover("chat")
def asked(prompt: str, model: str = "") -> str:
    return prompt + model


async def use() -> None:
    assert_type(plain("a", times=2), list[str])
    assert_type(await coroutine("a"), int)
    assert_type(guarded("a", 2), str)
    assert_type(await aguarded("a"), bytes)
    assert_type(next(generated(3)), int)
    async for number in agenerated(3):
        assert_type(number, int)
    assert_type(asked("a"), str)
    assert_type(breaker.call(len, "abc"), int)
    assert_type(await breaker.acall(coroutine, "abc"), int)
    guarded(1)  # type: ignore[arg-type]
    await coroutine(text=b"")  # type: ignore[arg-type]

    with breaker.acquire() as permit:
        permit.success()
    async with resilience.MultiProviderFallback({"routes": {}}) as fb:
        assert_type(await fb.process(resilience.AIRequest(input="hi")), resilience.AIResponse)
        assert_type(fb.process_sync(resilience.AIRequest(input="hi")), resilience.AIResponse)
        assert_type(fb.snapshot(), resilience.Snapshot)
        assert_type(fb.registry.providers["openai"].current_state, str)
        fb.registry.providers["openai"].isolate("bad deploy")
        unsubscribe = fb.registry.subscribe(print)
        unsubscribe()
        with outage("openai", "hang", share=0.5, models="gpt-4o*") as down, record_events(fb) as events:
            assert_type(down.calls, int)
            assert_type(events.of(CircuitOpened, provider="openai"), list[CircuitOpened])
            assert_type(events.one(CircuitOpened).open_seconds, float)
        outage("openai", flapping("auth", down_seconds=1, up_seconds=2))
        outage("openai", Kind.TIMEOUT)
        outage("openai", "sunspots")  # type: ignore[arg-type]
