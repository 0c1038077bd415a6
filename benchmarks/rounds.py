"""Rounds: how every timing here is taken. Cases take turns in a shuffled order, and medians are compared."""

from __future__ import annotations

import gc
import random
import statistics
import time
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from resilience.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Sample:
    """What one case took, one value per round.

    Attributes:
        values: In the order of the rounds, so that two cases of one run can be compared round by round.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def deviation(self) -> float:
        """The median absolute deviation from the median."""
        middle = self.median
        return statistics.median(abs(value - middle) for value in self.values)

    def over(self, base: Sample) -> Sample:
        """By how much it was slower than ``base``, round by round: what slows both down cancels out."""
        return Sample(tuple(mine - other for mine, other in zip(self.values, base.values, strict=True)))

    def ratio(self, base: Sample) -> float:
        """Its median divided by that of ``base``."""
        return self.median / base.median if base.median else float("nan")


def measure(cases: Mapping[str, Callable[[], float]], rounds: int, seed: int = 7) -> dict[str, Sample]:
    """Run every case once per round, in a new order each time, without the garbage collector.

    Args:
        cases: By name: does one round and returns what it took.
        rounds: How many; one more is run first and thrown away.
        seed: For the orders.
    """
    rng = random.Random(seed)
    names = list(cases)
    values: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.freeze()  # what has been imported is not looked through again and again
    try:
        for number in range(rounds + 1):
            gc.collect()
            rng.shuffle(names)
            for name in names:
                gc.disable()
                try:
                    value = cases[name]()
                finally:
                    gc.enable()
                if number:
                    values[name].append(value)
    finally:
        gc.unfreeze()
    return {name: Sample(tuple(values[name])) for name in cases}


def calling(func: Callable[..., Any], calls: int, *, pause_seconds: float = 0.0, **kwargs: Any) -> Callable[[], float]:
    """A round of ``calls`` calls of ``func``.

    Args:
        func: What to call.
        calls: How often.
        pause_seconds: Time for what a call leaves to other threads, before the next case starts.
        **kwargs: Its arguments.
    """
    turns = range(calls)

    def one_round() -> float:
        started = perf_counter_ns()
        for _ in turns:
            func(**kwargs)
        took = (perf_counter_ns() - started) / calls
        if pause_seconds:
            time.sleep(pause_seconds)
        return took

    def one_plain_round() -> float:
        started = perf_counter_ns()
        for _ in turns:
            func()
        return (perf_counter_ns() - started) / calls

    return one_round if kwargs else one_plain_round


def awaiting(
    runner: asyncio.Runner,
    func: Callable[..., Awaitable[Any]],
    calls: int,
    *,
    pause_seconds: float = 0.0,
    **kwargs: Any,
) -> Callable[[], float]:
    """The same for coroutine functions, on ``runner``'s event loop."""
    turns = range(calls)

    async def one_round() -> float:
        started = perf_counter_ns()
        for _ in turns:
            await func(**kwargs)
        took = (perf_counter_ns() - started) / calls
        if pause_seconds:
            await SYSTEM_CLOCK.asleep(pause_seconds)
        return took

    async def one_plain_round() -> float:
        started = perf_counter_ns()
        for _ in turns:
            await func()
        return (perf_counter_ns() - started) / calls

    chosen = one_round if kwargs else one_plain_round
    return lambda: runner.run(chosen())


def refused(func: Callable[[], Any], calls: int) -> Callable[[], float]:
    """A round of calls that are expected to raise."""
    turns = range(calls)

    def one_round() -> float:
        started = perf_counter_ns()
        for _ in turns:
            try:  # noqa: SIM105 (contextlib.suppress would cost more than what is measured)
                func()
            except Exception:  # noqa: S110 (the rejection is what is measured)
                pass
        return (perf_counter_ns() - started) / calls

    return one_round


def arefused(runner: asyncio.Runner, func: Callable[[], Awaitable[Any]], calls: int) -> Callable[[], float]:
    """The same for coroutine functions."""
    turns = range(calls)

    async def one_round() -> float:
        started = perf_counter_ns()
        for _ in turns:
            try:  # noqa: SIM105 (as above)
                await func()
            except Exception:  # noqa: S110 (as above)
                pass
        return (perf_counter_ns() - started) / calls

    return lambda: runner.run(one_round())


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of ``values`` lie; nan for none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
