"""What does a guarded stream add to LiteLLM's own, per chunk and before the first? What does holding one back take?"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import tracemalloc
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Self

# LiteLLM fetches its price map from the network when it is imported; measuring needs no network.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import httpx
from litellm.types.utils import Delta, ModelResponseStream, StreamingChoices

from benchmarks.report import Report, Table, arguments, deliver
from benchmarks.rounds import Sample, measure
from resilience import MultiProviderFallback
from resilience.middleware.call import LiteLLMUpstream
from resilience.middleware.stream import AsyncLiteLLMStream, LiteLLMStream
from resilience.middleware.wire import Watched, WatchedAsync, WatchedSync

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator

QUESTION = (
    "What does a guarded stream add to LiteLLM's own, per chunk and before the first, and what does holding it take?"
)
METHOD = (
    "Eight of LiteLLM's chunks are made beforehand and given out in turn by a stream that does nothing else (a real "
    "chunk has just been made: it is in the processor's cache, as these are), so that what is measured is what this "
    "package adds to iterating LiteLLM's own stream: the guard, its limit on every pause, what each chunk carries, and "
    "the text that was delivered. The wire's part (a layer around the body's bytes, and one look at each event) is "
    "measured apart and added. The floor is an iterator that awaits the next chunk and hands it on: what Python takes "
    "for any layer at all. Bare, floor and guarded take turns in shuffled rounds; differences are taken within a "
    "round. Memory is Python's own count of allocated bytes."
)
ROUTE = {"warm": False, "routes": {"chat": {"targets": [{"model": "openai/gpt-4o-mini", "api_key": "sk-none"}]}}}
ASKED = [{"role": "user", "content": "hi"}]
EVENT = (
    b'data: {"id":"chatcmpl-9fX","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini",'
    b'"choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]}\n\n'
)


def chunk(text: str, reason: str | None = None) -> ModelResponseStream:
    choice = StreamingChoices(delta=Delta(content=text or None), finish_reason=reason)
    return ModelResponseStream(choices=[choice], model="gpt-4o-mini", id="chatcmpl-9fX")


class Given:
    """A stream of LiteLLM's that gives out chunks, one at each call."""

    received_finish_reason = "stop"

    def __init__(self, chunks: Iterator[ModelResponseStream]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ModelResponseStream:
        return next(self._chunks)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ModelResponseStream:
        try:
            return next(self._chunks)
        except StopIteration:
            raise StopAsyncIteration from None


class HandedOn:
    """The least that any layer around a stream can be."""

    def __init__(self, stream: Given) -> None:
        self._next = stream.__next__
        self._anext = stream.__anext__

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ModelResponseStream:
        return self._next()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ModelResponseStream:
        return await self._anext()


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A response's bytes, one event at a time."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self._count):
            yield EVENT

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self._count):
            yield EVENT


class GivenUpstream(LiteLLMUpstream):
    """LiteLLM's upstream, with streams that are there already."""

    def __init__(self, chunks: Callable[[], Iterator[ModelResponseStream]]) -> None:
        super().__init__()
        self._chunks = chunks

    def open(self, target: Any, operation: Any, params: Any, timeouts: Any) -> LiteLLMStream:  # noqa: ARG002
        """What is there."""
        return LiteLLMStream(Given(self._chunks()), operation, 20.0)

    async def aopen(
        self,
        target: Any,  # noqa: ARG002
        operation: Any,
        params: Any,  # noqa: ARG002
        timeouts: Any,  # noqa: ARG002
    ) -> AsyncLiteLLMStream:
        """The same for asyncio."""
        return AsyncLiteLLMStream(Given(self._chunks()), operation)


def sync_round(open_stream: Callable[[], Any], count: int) -> tuple[float, float]:
    """Nanoseconds until the first chunk, and for each of the rest."""
    started = perf_counter_ns()
    stream = open_stream()
    next(stream)
    first = perf_counter_ns()
    for _ in stream:
        pass
    return first - started, (perf_counter_ns() - first) / count


async def async_round(open_stream: Callable[[], Any], count: int) -> tuple[float, float]:
    started = perf_counter_ns()
    stream = await open_stream()
    await anext(stream)
    first = perf_counter_ns()
    async for _ in stream:
        pass
    return first - started, (perf_counter_ns() - first) / count


def sync_wire(body: Iterable[bytes], count: int) -> float:
    """Nanoseconds for each event of a body."""
    started = perf_counter_ns()
    for _ in body:
        pass
    return (perf_counter_ns() - started) / count


async def async_wire(body: AsyncIterable[bytes], count: int) -> float:
    started = perf_counter_ns()
    async for _ in body:
        pass
    return (perf_counter_ns() - started) / count


def times(count: int, rounds: int) -> dict[str, Sample]:
    """Every case by name: ``<mode> <bare, floor or guarded>``, the first chunks, and the wires."""
    given = itertools.cycle([chunk(" token") for _ in range(8)])
    chunks = [*itertools.islice(given, count), chunk("", "stop")]
    upstream = GivenUpstream(lambda: iter(chunks))
    fb = MultiProviderFallback(ROUTE, upstream=upstream, sinks=())
    firsts: dict[str, list[float]] = {}

    async def bare() -> Given:
        return Given(iter(chunks))

    async def floor() -> HandedOn:
        return HandedOn(Given(iter(chunks)))

    def noted(name: str, found: tuple[float, float]) -> float:
        firsts.setdefault(name, []).append(found[0])
        return found[1]

    def watched() -> WatchedSync:
        return WatchedSync(Body(count), Watched(sifts=True), 20.0, 20.0)

    def awatched() -> WatchedAsync:
        return WatchedAsync(Body(count), Watched(sifts=True))

    with asyncio.Runner() as runner:
        cases = {
            "sync bare": lambda: noted("sync bare", sync_round(lambda: Given(iter(chunks)), count)),
            "sync floor": lambda: sync_round(lambda: HandedOn(Given(iter(chunks))), count)[1],
            "sync guarded": lambda: noted(
                "sync guarded", sync_round(lambda: fb.completion("chat", ASKED, stream=True), count)
            ),
            "async bare": lambda: noted("async bare", runner.run(async_round(bare, count))),
            "async floor": lambda: runner.run(async_round(floor, count))[1],
            "async guarded": lambda: noted(
                "async guarded", runner.run(async_round(lambda: fb.acompletion("chat", ASKED, stream=True), count))
            ),
            "sync wire bare": lambda: sync_wire(Body(count), count),
            "sync wire": lambda: sync_wire(watched(), count),
            "async wire bare": lambda: runner.run(async_wire(Body(count), count)),
            "async wire": lambda: runner.run(async_wire(awatched(), count)),
        }
        found = measure(cases, rounds)
    return found | {f"{name} first": Sample(tuple(values[1:])) for name, values in firsts.items()}


def held_bytes(count: int) -> tuple[int, int]:
    """Bytes that a held-back stream of ``count`` tokens takes, and the characters in it."""
    text = " token"

    def made() -> Iterator[ModelResponseStream]:
        for _ in range(count):
            yield chunk(text)
        yield chunk("", "stop")

    config = {**ROUTE, "routes": {"chat": {**ROUTE["routes"]["chat"], "stream": {"buffer": "full"}}}}
    fb = MultiProviderFallback(config, upstream=GivenUpstream(made), sinks=())
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    stream = fb.completion("chat", ASKED, stream=True)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    length = sum(len(one.choices[0].delta.content or "") for one in stream)
    assert length == count * len(text)
    return after - before, length


def main() -> None:
    options = arguments(QUESTION).parse_args()
    count, rounds = (50, 3) if options.quick else (500, 61)
    found = times(count, rounds)
    columns = (
        "per chunk, µs",
        "± µs",
        "the wire's part, µs",
        "together, µs",
        "goal, µs",
        "first chunk later by, µs",
        "its goal, µs",
        "floor of a chunk, µs",
        "together in floors",
    )
    added = Table(
        f"Added to LiteLLM's own stream, {count} chunks",
        ("case", *columns),
        note="LiteLLM itself takes some hundred µs for each chunk.",
    )
    for mode in ("sync", "async"):
        chunks = found[f"{mode} guarded"].over(found[f"{mode} bare"])
        first = found[f"{mode} guarded first"].over(found[f"{mode} bare first"])
        wire = found[f"{mode} wire"].over(found[f"{mode} wire bare"]).median / 1000
        floor = found[f"{mode} floor"].over(found[f"{mode} bare"]).median / 1000
        each, all_ = chunks.median / 1000, chunks.median / 1000 + wire
        added.add(mode, each, chunks.deviation / 1000, wire, all_, 2.0, first.median / 1000, 100.0, floor, all_ / floor)
    memory = Table(
        "Memory of a held-back stream",
        ("tokens", "characters", "KB", "bytes per character"),
        note="LiteLLM's own chunks, six characters each. LiteLLM keeps the chunks of every stream itself until its "
        "end, so of a real one little is added to that.",
    )
    for tokens in (100, 200) if options.quick else (1000, 2000, 4000, 8000):
        size, length = held_bytes(tokens)
        memory.add(tokens, length, size / 1000, size / length)
    deliver(Report("streams", QUESTION, METHOD, [added, memory]), options)


if __name__ == "__main__":
    main()
