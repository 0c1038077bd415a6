"""Schedules: what is wrong when. A fault for some seconds, then another, then none; once, or over and over."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Schedule(Generic[T]):
    """Phases, one after the other. After the last one nothing is wrong any more, unless they repeat.

    `LoopbackProvider.set` takes one of faults, `ScriptedUpstream` one of acts, `outage` one of kinds.

    Args:
        phases: (seconds, what is wrong or None) in order.
        repeats: Whether it begins anew after the last phase.

    Raises:
        ValueError: No phase, or one without a length.
    """

    phases: tuple[tuple[float, T | None], ...]
    repeats: bool = False

    def __post_init__(self) -> None:
        """Refuse what has no time."""
        if not self.phases:
            raise ValueError("a schedule without phases; allowed: at least one (seconds, what)")
        for at, (seconds, _) in enumerate(self.phases):
            if not seconds > 0:
                raise ValueError(f"phase {at} of the schedule lasts {seconds!r} s; allowed: more than 0")
        if self.repeats and not math.isfinite(self.seconds):
            raise ValueError("a schedule with an endless phase cannot repeat")

    @property
    def seconds(self) -> float:
        """How long all phases take together."""
        return sum(seconds for seconds, _ in self.phases)

    def at(self, seconds: float) -> T | None:
        """What is wrong so many seconds after its beginning; None: nothing."""
        left = seconds % self.seconds if self.repeats else seconds
        for length, what in self.phases:
            if left < length:
                return what
            left -= length
        return None


def flapping(what: T, *, down_seconds: float, up_seconds: float) -> Schedule[T]:
    """Down, up, down, up: begins with down.

    Args:
        what: What is wrong while it is down.
        down_seconds: How long it is down each time.
        up_seconds: How long it is up each time.
    """
    return Schedule(((down_seconds, what), (up_seconds, None)), repeats=True)
