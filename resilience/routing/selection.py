"""The order of a walk: by `order`, and by a weighted shuffle among equals. Pure; chance comes in from outside."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

    from resilience.routing.route import Route, RoutedTarget


def rank(route: Route, rng: Random) -> tuple[RoutedTarget, ...]:
    """All targets of a route in the order in which one request walks them.

    Strategies differ only in the default `order` (the position under ``ordered``, 1 for all under ``weighted``):
    equal orders are balanced under both, and the next order is the fallback.
    """
    if route.fixed is not None:
        return route.fixed
    ranked: list[RoutedTarget] = []
    for group in route.groups:
        ranked += group if len(group) == 1 else shuffled(group, rng)
    return tuple(ranked)


def shuffled(group: tuple[RoutedTarget, ...], rng: Random) -> list[RoutedTarget]:
    """A group in random order: each next place goes to one of the rest with odds as their weights."""
    # Efraimidis and Spirakis, Weighted random sampling (2006): the first of exponential arrivals with rate `weight`
    # is a fair weighted draw, so sorting the arrivals draws without replacement.
    arrivals = [(rng.expovariate(place.weight) if place.weight > 0 else inf, at) for at, place in enumerate(group)]
    arrivals.sort()
    return [group[at] for _, at in arrivals]
