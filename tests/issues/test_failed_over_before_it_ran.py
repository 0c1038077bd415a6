"""A plain function that returns a generator or a coroutine has done nothing yet, and counted as a success all the same.

So `failover` over `protect` on a generator, or over a plain function that hands back somebody's coroutine, never took
the next target: what failed was what the caller did with the result.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
from typing import TYPE_CHECKING, Any, Self

import pytest

import resilience
from resilience.outcome import Kind
from resilience.testing.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from resilience.events import Event

OPENAI, CLAUDE = "openai/gpt-4o", "anthropic/claude-haiku-4-5"


class Provider:
    """Answers for one model and fails for the other. Remembers who was asked for work, and who began it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.begun: list[str] = []
        self.breaks_at = 0

    def work(self, model: str, at: int = 0) -> None:
        if at == 0:
            self.begun.append(model)
        if model == OPENAI and at == self.breaks_at:
            raise ConnectionError("down")

    async def coroutine(self, model: str) -> list[str]:
        self.work(model)
        return [model]

    def generator(self, model: str) -> Iterator[str]:
        for at in range(2):
            self.work(model, at)
            yield model

    async def agenerator(self, model: str) -> AsyncIterator[str]:
        for at in range(2):
            self.work(model, at)
            yield model


def made(provider: Provider, kind: str, protect: Callable[[Any], Any]) -> Callable[[str], Any]:
    if kind in {"generator", "async generator"}:  # itself, under `protect`
        return protect(provider.generator if kind == "generator" else provider.agenerator)
    gives = {
        "returns a coroutine": provider.coroutine,
        "returns a future": lambda model: asyncio.ensure_future(provider.coroutine(model)),
        "returns a generator": provider.generator,
        "returns an async generator": provider.agenerator,
    }[kind]

    def plain(model: str) -> Any:
        provider.asked.append(model)
        return gives(model)

    return protect(plain)


STREAMS = ["generator", "async generator", "returns a generator", "returns an async generator"]
KINDS = pytest.mark.parametrize("kind", [*STREAMS, "returns a coroutine", "returns a future"])
INSIDE = pytest.mark.parametrize("inside", [False, True], ids=["alone", "over protect"])


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def fb(told: list[Event]) -> resilience.MultiProviderFallback:
    route = {"targets": [{"model": OPENAI, "name": "a"}, {"model": CLAUDE, "name": "b"}], "num_retries": 0}
    settings = {"routes": {"chat": route}, "warm": False}
    return resilience.MultiProviderFallback(settings, clock=ManualClock(), sinks=(told.append,))


@pytest.fixture
def provider() -> Provider:
    return Provider()


async def taken(result: Any) -> list[str]:
    if inspect.isgenerator(result):
        return list(result)
    if inspect.isasyncgen(result):
        return [item async for item in result]
    answer: list[str] = await result
    return answer


def in_flight(fb: resilience.MultiProviderFallback) -> list[int]:
    return [one.in_flight for one in fb.snapshot().targets.values()]


def names(told: list[Event]) -> list[str]:
    return [type(event).__name__ for event in told]


@KINDS
@INSIDE
async def test_the_next_target_takes_over_from_work_that_fails(
    fb: resilience.MultiProviderFallback, told: list[Event], provider: Provider, kind: str, inside: bool
) -> None:
    protect = resilience.protect("own", runtime=fb) if inside else lambda func: func
    ask: Any = resilience.failover("chat", runtime=fb)(made(provider, kind, protect))
    assert set(await taken(ask())) == {CLAUDE}
    assert provider.begun == [OPENAI, CLAUDE]
    assert provider.asked in ([], [OPENAI, CLAUDE])  # nobody is called twice for one attempt
    assert names(told) == ["AttemptFailed", "FallbackTaken", "AttemptSucceeded"]
    assert [one.failures for one in fb.snapshot().targets.values()] == [1, 0]
    assert in_flight(fb) == [0, 0]


@KINDS
async def test_it_also_takes_over_where_the_first_function_fails_at_the_call(
    fb: resilience.MultiProviderFallback, told: list[Event], provider: Provider, kind: str
) -> None:
    inner = made(provider, kind, lambda func: func)
    provider.breaks_at = -1

    @resilience.failover("chat", runtime=fb)
    def ask(model: str) -> Any:
        if model == OPENAI:
            raise ConnectionError("down")
        return inner(model)

    assert set(await taken(ask())) == {CLAUDE}  # type: ignore[call-arg]  # the route gives the model
    assert names(told) == ["AttemptFailed", "FallbackTaken", "AttemptSucceeded"]
    assert in_flight(fb) == [0, 0]


@pytest.mark.parametrize("kind", STREAMS)
async def test_after_the_first_item_nobody_takes_over(
    fb: resilience.MultiProviderFallback, provider: Provider, kind: str
) -> None:
    provider.breaks_at = 1
    protect = resilience.protect("own", runtime=fb)
    ask: Any = resilience.failover("chat", runtime=fb)(made(provider, kind, protect))
    with pytest.raises(resilience.StreamInterruptedError) as raised:
        await taken(ask())
    assert (raised.value.partial, provider.begun) == (OPENAI, [OPENAI])
    assert in_flight(fb) == [0, 0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python tells of such a coroutine
@KINDS
async def test_work_that_nobody_takes_up_gives_its_place_back(
    fb: resilience.MultiProviderFallback, provider: Provider, kind: str
) -> None:
    provider.breaks_at = -1
    result = resilience.failover("chat", runtime=fb)(made(provider, kind, lambda func: func))()  # type: ignore[call-arg]
    if inspect.iscoroutine(result):
        result.close()
    await asyncio.sleep(0)
    del result
    gc.collect()
    assert in_flight(fb) == [0, 0]
    assert [one.failures for one in fb.snapshot().targets.values()] == [0, 0]


async def test_a_caller_who_leaves_cancels_the_work_and_nobody_takes_over(
    fb: resilience.MultiProviderFallback, told: list[Event]
) -> None:
    reached = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.Event().wait()

    @resilience.failover("chat", runtime=fb)
    def ask(model: str) -> Any:
        return hang()

    task = asyncio.ensure_future(ask())  # type: ignore[call-arg]  # likewise
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names(told) == ["AttemptIgnored"]
    assert in_flight(fb) == [0, 0]


async def test_work_that_is_held_back_fails_over_also_after_its_first_item(
    told: list[Event], provider: Provider
) -> None:
    route = {"targets": [OPENAI, CLAUDE], "num_retries": 0, "stream": {"buffer": "full"}}
    settings = {"routes": {"chat": route}, "warm": False}
    fb = resilience.MultiProviderFallback(settings, clock=ManualClock(), sinks=(told.append,))
    provider.breaks_at = 1
    for kind in ("returns a generator", "returns an async generator"):
        ask: Any = resilience.failover("chat", runtime=fb)(made(provider, kind, lambda func: func))
        assert await taken(ask()) == [CLAUDE, CLAUDE]
    assert names(told) == ["AttemptFailed", "FallbackTaken", "AttemptSucceeded"] * 2


class Follower:
    """An observer that writes down when a request ends, and with what."""

    def __init__(self) -> None:
        self.ends: list[Any] = []

    def hear(self, event: Event) -> None: ...
    def began(self, *_: Any) -> Follower:
        return self

    def upstream(self, upstream: Any) -> Any:
        return upstream

    def enter(self) -> None: ...
    def leave(self, token: Any) -> None: ...
    def chunk(self, chunk: Any) -> None: ...
    def ended(self, answer: Any, error: BaseException | None) -> None:
        self.ends.append(error if error is not None else answer)


@KINDS
async def test_who_observes_hears_the_end_of_the_work_and_not_of_the_call(
    fb: resilience.MultiProviderFallback, provider: Provider, kind: str
) -> None:
    follower = Follower()
    fb.observe(follower)
    result: Any = resilience.failover("chat", runtime=fb)(made(provider, kind, lambda func: func))()  # type: ignore[call-arg]
    assert follower.ends == []
    assert set(await followed(result)) == {CLAUDE}
    assert len(follower.ends) == 1
    assert not isinstance(follower.ends[0], BaseException)


@pytest.mark.parametrize("kind", STREAMS)
async def test_who_observes_hears_of_work_that_breaks(
    fb: resilience.MultiProviderFallback, provider: Provider, kind: str
) -> None:
    follower = Follower()
    fb.observe(follower)
    provider.breaks_at = 1
    ask: Any = resilience.failover("chat", runtime=fb)(made(provider, kind, lambda func: func))
    with pytest.raises(resilience.StreamInterruptedError) as raised:
        await followed(ask())
    assert follower.ends == [raised.value]


async def followed(result: Any) -> list[str]:
    """The same as `taken` of what passes through observers."""
    if hasattr(result, "__anext__"):
        return [item async for item in result]
    return list(result) if hasattr(result, "__next__") else await taken(result)


def test_a_plain_result_stays_what_it_is(fb: resilience.MultiProviderFallback, told: list[Event]) -> None:
    for result in ("text", None, iter([1]), {"a": 1}):
        ask: Any = resilience.failover("chat", runtime=fb)(lambda model, result=result: result)
        assert ask() is result
    assert {event.kind for event in told if hasattr(event, "kind")} <= {Kind.SUCCESS}


def test_an_object_that_is_more_than_awaitable_stays_what_it_is(fb: resilience.MultiProviderFallback) -> None:
    class Request:
        def __await__(self) -> Any:
            yield

        async def __aenter__(self) -> Self:
            return self

    made = Request()
    assert resilience.failover("chat", runtime=fb)(lambda model: made)() is made
