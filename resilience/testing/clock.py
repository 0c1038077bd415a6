"""A clock that moves when somebody sleeps on it or pushes it: an outage of ten minutes passes in no time."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta

_BIRTH = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """A `resilience.clock.Clock` for tests. Sleeping advances it at once.

    Args:
        start: Its first monotonic reading. Not 0, so that a forgotten default is noticed.

    Attributes:
        sleeps: How long each sleep was, in seconds.
    """

    def __init__(self, start: float = 1000.0) -> None:
        self._start = start
        self._time = start
        self._lock = threading.Lock()
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        """Seconds, as far as the clock has been moved."""
        return self._time

    def now(self) -> datetime:
        """The same as a date; it begins with 2026."""
        return _BIRTH + timedelta(seconds=self._time - self._start)

    def advance(self, seconds: float) -> None:
        """Move on.

        Raises:
            ValueError: ``seconds`` is negative.
        """
        if seconds < 0:
            raise ValueError(f"cannot advance by {seconds!r} s; allowed: 0 or more")
        with self._lock:
            self._time += seconds

    def sleep(self, seconds: float) -> None:
        """Move on, and write it down."""
        self.sleeps.append(seconds)
        self.advance(max(0.0, seconds))

    async def asleep(self, seconds: float) -> None:
        """Move on, write it down, and let other tasks run."""
        self.sleep(seconds)
        await asyncio.sleep(0)  # noqa: TID251 (a clock)
