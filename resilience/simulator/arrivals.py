"""Arrivals: when requests come. The same for every policy of a seed."""

from __future__ import annotations

from heapq import merge
from math import pi, sin
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from resilience.simulator.scenario import TrafficSettings

Span = tuple[float, float]
"""From when to when, in seconds."""


def arrivals(traffic: TrafficSettings, seed: int, spans: Sequence[Span]) -> Iterator[float]:
    """The times of all requests, in order.

    Args:
        traffic: Which process.
        seed: The scenario's.
        spans: When requests come at all, in order and apart from each other. Each has chance of its own.
    """
    for start, end in spans:
        rng = Random(f"{seed}:arrivals:{start!r}")
        if traffic.arrivals == "constant":
            yield from _constant(traffic.per_second, start, end)
        elif traffic.arrivals == "poisson":
            yield from _poisson(traffic.per_second, start, end, rng)
        elif traffic.arrivals == "diurnal":
            yield from _diurnal(traffic, start, end, rng)
        else:
            yield from merge(_poisson(traffic.per_second, start, end, rng), _bursts(traffic, start, end))


def _constant(per_second: float, start: float, end: float) -> Iterator[float]:
    for number in range(int((end - start) * per_second)):
        yield start + number / per_second


def _poisson(per_second: float, start: float, end: float, rng: Random) -> Iterator[float]:
    gap = rng.expovariate
    at = start + gap(per_second)
    while at < end:
        yield at
        at += gap(per_second)


def _diurnal(traffic: TrafficSettings, start: float, end: float, rng: Random) -> Iterator[float]:
    """Thinning (Lewis and Shedler, 1979): candidates at the busiest rate, kept with odds as the rate of the hour."""
    swing = (traffic.peak_factor - 1) / (traffic.peak_factor + 1)
    most = 1 + swing
    for at in _poisson(traffic.per_second * most, start, end, rng):
        # The day starts at its quietest hour.
        if rng.random() * most < 1 + swing * sin(2 * pi * at / traffic.day_seconds - pi / 2):
            yield at


def _bursts(traffic: TrafficSettings, start: float, end: float) -> Iterator[float]:
    every = traffic.burst_every_seconds
    number = int(start // every) + 1
    while number * every < end:
        for _ in range(traffic.burst_requests):
            yield number * every
        number += 1
