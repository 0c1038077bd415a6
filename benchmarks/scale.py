"""Does a request cost more where there are many targets, or many requests in flight?"""

from __future__ import annotations

import asyncio
import gc
import statistics
import tracemalloc
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.report import Report, Table, arguments, deliver
from benchmarks.rounds import Sample, awaiting, calling, measure
from benchmarks.upstream import ImmediateUpstream
from resilience import MultiProviderFallback

if TYPE_CHECKING:
    from collections.abc import Sequence

QUESTION = "Does a request cost more where there are many targets, or many requests in flight?"
METHOD = (
    "Whole requests through the engine with an upstream that answers at once, so that nothing but the engine is left. "
    "Times are medians over rounds in which the sizes take turns in a shuffled order. Memory is Python's own count of "
    "allocated bytes (tracemalloc), the garbage collected first."
)
ASK = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}


class HeldUpstream(ImmediateUpstream):
    """Answers when it is told to: until then all requests are in flight."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.held = 0
        self.full: asyncio.Future[None] | None = None
        self.expected = 0

    async def acall(self, *_: Any) -> Any:
        """Wait, then answer."""
        self.held += 1
        if self.held == self.expected and self.full is not None:
            self.full.set_result(None)
        await self.gate.wait()
        return self.answer


def routes(size: int, shape: str) -> MultiProviderFallback:
    """A runtime with so many targets, on one route or on a route each."""
    targets = [f"provider{number % 50}/model{number}" for number in range(size)]
    entries: list[dict[str, Any]] = [
        {"model": f"openai/model{number}", "name": name, "provider": name.partition("/")[0]}
        for number, name in enumerate(targets)
    ]
    if shape == "one route":
        table: dict[str, Any] = {"chat": {"targets": entries}}
    else:
        table = {"chat" if number == 0 else f"route{number}": {"targets": [one]} for number, one in enumerate(entries)}
    return MultiProviderFallback({"warm": False, "routes": table}, upstream=ImmediateUpstream(), sinks=())


def targets(runner: asyncio.Runner, sizes: Sequence[int], rounds: int, calls: int) -> Table:
    """One request beside many targets."""
    cases: dict[str, Any] = {}
    for size in sizes:
        for shape in ("one route", "a route each"):
            runtime = routes(size, shape)
            cases[f"sync, {size:,} targets, {shape}"] = calling(runtime.completion, calls, **ASK)
            cases[f"async, {size:,} targets, {shape}"] = awaiting(runner, runtime.acompletion, calls, **ASK)
    found = measure(cases, rounds)
    table = Table(
        "Targets: a request while all work",
        ("case", "µs a request", "±", "x one target"),
        note="On one route all of them stand in one order; with a route each, only the registry is large.",
    )
    for name in cases:
        mode, _, shape = name.split(", ")
        first: Sample = found[f"{mode}, {sizes[0]:,} targets, {shape}"]
        table.add(name, found[name].median / 1e3, found[name].deviation / 1e3, found[name].median / first.median)
    return table


async def in_flight(size: int, *, guarded: bool) -> tuple[float, float]:
    """Microseconds and bytes for each of so many requests that are in flight at once."""
    upstream = HeldUpstream()
    upstream.expected, upstream.full = size, asyncio.get_running_loop().create_future()
    settings = {"warm": False, "routes": {"chat": {"targets": ["openai/a", "groq/b"]}}}
    runtime = MultiProviderFallback(settings, upstream=upstream, sinks=())
    ask = runtime.acompletion if guarded else upstream.acall
    gc.collect()
    gc.disable()
    began = perf_counter()
    tasks = [asyncio.create_task(ask(**ASK) if guarded else ask()) for _ in range(size)]
    await upstream.full
    upstream.gate.set()
    await asyncio.gather(*tasks)
    took = perf_counter() - began
    gc.enable()
    del tasks
    upstream.held, upstream.full = 0, asyncio.get_running_loop().create_future()
    upstream.gate.clear()
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tasks = [asyncio.create_task(ask(**ASK) if guarded else ask()) for _ in range(size)]
    await upstream.full
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    upstream.gate.set()
    await asyncio.gather(*tasks)
    return took / size, (held - before) / size


def flights(runner: asyncio.Runner, sizes: Sequence[int], rounds: int) -> Table:
    """Many requests at once."""
    table = Table(
        "In flight: so many requests at once",
        ("case", "µs a request", "KB a request", "of which not the bare task's, KB"),
        note="Bare is a task that awaits the same answer without the engine. All are in flight before the first comes.",
    )
    for size in sizes:
        taken: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for _ in range(rounds):
            for guarded, found in taken.items():
                found.append(runner.run(in_flight(size, guarded=guarded)))
        (took, held), (bare_took, bare_held) = (
            [statistics.median(column) for column in zip(*found, strict=True)] for found in taken.values()
        )
        table.add(f"bare, {size:,} at once", 1e6 * bare_took, bare_held / 1e3, None)
        own = (held - bare_held) / 1e3
        table.add(f"resilience, {size:,} at once", 1e6 * took, held / 1e3, own)
    return table


def main() -> None:
    options = arguments(QUESTION).parse_args()
    sizes = (1, 10) if options.quick else (1, 10, 100, 1_000, 10_000)
    rounds, calls = (2, 5) if options.quick else (15, 20)
    with asyncio.Runner() as runner:
        tables = [targets(runner, sizes, rounds, calls), flights(runner, sizes, 2 if options.quick else 5)]
    deliver(Report("scale", QUESTION, METHOD, tables), options)


if __name__ == "__main__":
    main()
