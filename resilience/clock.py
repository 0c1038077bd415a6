"""Time, the only place that reads it: monotonic for decisions, UTC for people."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where time comes from. Tests pass a manual one and let an outage of ten minutes pass in no time."""

    def monotonic(self) -> float:
        """Seconds on a clock that never steps back. Only differences have a meaning."""
        ...

    def now(self) -> datetime:
        """The wall clock, aware and in UTC. Shown to people, never used to decide."""
        ...

    def sleep(self, seconds: float) -> None:
        """Block this thread for ``seconds``."""
        ...

    async def asleep(self, seconds: float) -> None:
        """Suspend this task for ``seconds``."""
        ...


class SystemClock:
    """The machine's own clocks."""

    # Bound once: the breaker calls this in its hot path, and an extra frame would cost 40 ns.
    monotonic = staticmethod(time.monotonic)  # noqa: TID251 (this module is where the rest of the code gets it)

    def now(self) -> datetime:
        """The wall clock in UTC."""
        return datetime.now(UTC)  # noqa: TID251 (likewise)

    def sleep(self, seconds: float) -> None:
        """Block this thread for ``seconds``."""
        time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        """Suspend this task for ``seconds``."""
        await asyncio.sleep(seconds)  # noqa: TID251 (likewise)


SYSTEM_CLOCK = SystemClock()
