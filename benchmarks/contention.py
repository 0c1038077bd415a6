"""Do callers wait for each other in a breaker, and how many of them reach a dead backend?"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.peers import PEERS
from benchmarks.report import Report, Table, arguments, deliver
from benchmarks.rounds import measure
from benchmarks.upstream import ImmediateUpstream
from resilience import BreakerSettings, CircuitBreaker, MultiProviderFallback
from resilience.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable

QUESTION = "Do callers wait for each other in a breaker, and how many of them reach a dead backend?"
METHOD = (
    "Threads start together at a barrier; cases take turns in a shuffled order. Counts are what the backend saw, "
    "not what the breaker says."
)
THREADS, CALL_SECONDS = 16, 0.010
TASKS, WAITING_THREADS = 200, 50
OPEN_SECONDS, PROBE_SECONDS = 0.2, 0.05


def together(count: int, work: Callable[[], Any]) -> float:
    """Let ``count`` threads do ``work`` at the same time; returns the seconds until the last one is done."""
    barrier = threading.Barrier(count + 1)

    def run() -> None:
        barrier.wait()
        work()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    barrier.wait()
    started = perf_counter()
    for thread in threads:
        thread.join()
    return perf_counter() - started


def threads(rounds: int, calls: int) -> Table:
    """Many threads, one breaker, calls that take a while."""

    def call() -> None:
        time.sleep(CALL_SECONDS)

    def case(func: Callable[[], Any]) -> Callable[[], float]:
        def work() -> None:
            for _ in range(calls):
                func()

        return lambda: together(THREADS, work)

    cases = {"bare": case(call), "resilience": case(CircuitBreaker(name="b", policy=BreakerSettings())(call))}
    for peer in PEERS:
        if peer.is_installed and peer.sync is not None:
            cases[peer.name] = case(peer.sync(5, 60)(call))
    found = measure(cases, rounds)
    ideal = calls * CALL_SECONDS
    table = Table(
        f"Threads: {THREADS} x {calls} calls of {CALL_SECONDS * 1e3:.0f} ms through one breaker",
        ("case", "ms", "±", "x bare", "x ideal", "goal, x ideal"),
        note=f"Ideal is {ideal * 1e3:.0f} ms: what one thread's calls take by themselves.",
    )
    for name, sample in found.items():
        ms, dev = sample.median * 1e3, sample.deviation * 1e3
        goal = 1.05 if name == "resilience" else None
        table.add(name, ms, dev, sample.ratio(found["bare"]), sample.median / ideal, goal)
    return table


class DeadBackend:
    """Answers nobody, and counts who came."""

    def __init__(self, seconds: float = PROBE_SECONDS) -> None:
        self.seconds = seconds
        self.arrivals = 0
        self.active = 0
        self.most_at_once = 0
        self._lock = threading.Lock()

    def _enter(self) -> None:
        with self._lock:
            self.arrivals += 1
            self.active += 1
            self.most_at_once = max(self.most_at_once, self.active)

    def _leave(self) -> None:
        with self._lock:
            self.active -= 1

    def call(self) -> None:
        """Take a while, then fail."""
        self._enter()
        try:
            if self.seconds:
                time.sleep(self.seconds)
        finally:
            self._leave()
        raise ConnectionError("refused")

    async def acall(self) -> None:
        """The same for asyncio."""
        self._enter()
        try:
            await SYSTEM_CLOCK.asleep(self.seconds)
        finally:
            self._leave()
        raise ConnectionError("refused")


def probes(openings: int) -> Table:
    """A breaker opens; when its open time is over, everybody asks at once."""
    table = Table(
        f"Probes: {TASKS} tasks or {WAITING_THREADS} threads ask at the moment the open time is over",
        ("case", "reached the dead backend per open time", "goal"),
        note="Each asks once. Asked for: one probe at a time, as every library here promises in half-open.",
    )

    def ours(failures: int, seconds: float) -> Callable[..., Any]:
        rules = BreakerSettings(consecutive_failures=failures, open_seconds=seconds, open_multiplier=1, jitter=0)
        return CircuitBreaker(name="bench", policy=rules)

    table.add(f"resilience, {TASKS} tasks", asyncio.run(_stampede(ours, openings)), 1)
    table.add(f"resilience, {WAITING_THREADS} threads", _thread_stampede(ours, openings), 1)
    for peer in PEERS:
        if peer.coroutine is not None:
            reached = asyncio.run(_stampede(peer.coroutine, openings)) if peer.is_installed else "not installed"
            table.add(f"{peer.name}, {TASKS} tasks", reached, None)
        if peer.sync is not None:
            reached = _thread_stampede(peer.sync, openings) if peer.is_installed else "not installed"
            table.add(f"{peer.name}, {WAITING_THREADS} threads", reached, None)
    return table


async def _stampede(make: Callable[[int, float], Callable[..., Any]], openings: int) -> float:
    backend = DeadBackend()

    async def call() -> None:
        await backend.acall()

    guarded = make(1, OPEN_SECONDS)(call)
    await _try(guarded)
    backend.arrivals = 0
    for _ in range(openings):
        await SYSTEM_CLOCK.asleep(OPEN_SECONDS * 1.2)
        await asyncio.gather(*(_try(guarded) for _ in range(TASKS)))
    return backend.arrivals / openings


def _thread_stampede(make: Callable[[int, float], Callable[..., Any]], openings: int) -> float:
    backend = DeadBackend()

    def call() -> None:
        backend.call()

    guarded = make(1, OPEN_SECONDS)(call)

    def attempt() -> None:
        with contextlib.suppress(Exception):
            guarded()

    attempt()
    backend.arrivals = 0
    for _ in range(openings):
        time.sleep(OPEN_SECONDS * 1.2)
        together(WAITING_THREADS, attempt)
    return backend.arrivals / openings


async def _try(guarded: Callable[..., Any]) -> None:
    with contextlib.suppress(Exception):
        await guarded()


def waiting(seconds: float) -> Table:
    """Requests that wait on a route whose only provider is dead."""
    table = Table(
        f"Waiting: {TASKS} tasks or {WAITING_THREADS} threads wait {seconds:g} s on a route that has nothing eligible",
        ("case", "attempts after the trip, per second", "most at once", "goal per second"),
        note="`on_exhausted: wait`. While a route has nothing else, an open breaker is probed once a second.",
    )
    for name, run in (
        (f"{TASKS} tasks", lambda runtime: asyncio.run(_ask_all(runtime))),
        (f"{WAITING_THREADS} threads", lambda runtime: together(WAITING_THREADS, lambda: _ask(runtime))),
    ):
        backend = DeadBackend(0.0)
        rules = {"open_seconds": 30, "jitter": 0}
        route = {"targets": ["openai/gpt-4o-mini"], "on_exhausted": "wait", "max_wait_seconds": seconds}
        settings = {"breaker": rules, "routes": {"chat": route | {"num_retries": 0}}}
        runtime = MultiProviderFallback(settings, upstream=_DeadUpstream(backend), sinks=())
        for _ in range(10):
            breaker = runtime.registry.targets["openai/gpt-4o-mini"]
            if breaker.current_state == "closed":
                breaker.acquire().failure(ConnectionError("refused"))
        run(runtime)
        table.add(name, backend.arrivals / seconds, backend.most_at_once, 1)
    return table


async def _ask_all(runtime: MultiProviderFallback) -> None:
    async def one() -> None:
        with contextlib.suppress(Exception):
            await runtime.acompletion(model="chat", messages=[])

    await asyncio.gather(*(one() for _ in range(TASKS)))


def _ask(runtime: MultiProviderFallback) -> None:
    with contextlib.suppress(Exception):
        runtime.completion(model="chat", messages=[])


class _DeadUpstream(ImmediateUpstream):
    """An upstream whose every call fails."""

    def __init__(self, backend: DeadBackend) -> None:
        super().__init__()
        self.backend = backend

    def call(self, *_: Any) -> None:
        """Fail."""
        self.backend.call()

    async def acall(self, *_: Any) -> None:
        """Fail."""
        await self.backend.acall()


def main() -> None:
    parser = arguments(QUESTION)
    options = parser.parse_args()
    rounds, calls, openings, seconds = (1, 2, 1, 1.0) if options.quick else (5, 20, 5, 5.0)
    logging.disable(logging.WARNING)
    tables = [threads(rounds, calls), probes(openings), waiting(seconds)]
    deliver(Report("contention", QUESTION, METHOD, tables), options)


if __name__ == "__main__":
    main()
