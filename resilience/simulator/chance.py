"""Chance: numbers that depend on the seed and on what they are for, never on the order in which they are drawn."""

from __future__ import annotations

from hashlib import blake2b
from math import exp
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilience.simulator.scenario import LatencySettings

_MASK: Final = (1 << 64) - 1
_UNIT: Final = 2.0**-32
_STEP: Final = 0x9E3779B97F4A7C15
_STANDARD: Final = NormalDist()


class Chance:
    """Pairs of numbers from 0 to 1 for one purpose. The same request has the same luck under every policy.

    The mixing function is SplitMix64's (Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014).

    Args:
        seed: The scenario's.
        purpose: What the numbers are for: another purpose, other numbers.
    """

    __slots__ = ("_base",)

    def __init__(self, seed: int, purpose: str) -> None:
        self._base = int.from_bytes(blake2b(f"{seed}:{purpose}".encode(), digest_size=8).digest(), "big")

    def pair(self, number: int, nth: int = 0) -> tuple[float, float]:
        """Two independent numbers above 0 and below 1.

        Args:
            number: Of the request.
            nth: Of its attempt.
        """
        mixed = (self._base + number * _STEP + nth * 0xD1B54A32D192ED03) & _MASK
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        mixed ^= mixed >> 31
        return ((mixed >> 32) + 0.5) * _UNIT, ((mixed & 0xFFFFFFFF) + 0.5) * _UNIT


def quantile_of(latency: LatencySettings) -> Callable[[float], float]:
    """The function from a number between 0 and 1 to seconds."""
    median, sigma = latency.median_seconds, latency.sigma
    if latency.kind == "constant" or sigma == 0:
        return lambda _: median
    normal = _STANDARD.inv_cdf
    return lambda share: median * exp(sigma * normal(share))
