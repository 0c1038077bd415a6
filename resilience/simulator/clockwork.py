"""Clockwork: virtual time and the heap of what happens next. Equal times keep the order in which they were set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_BIRTH: Final = datetime(2026, 1, 1, tzinfo=UTC)


class Clockwork:
    """A `resilience.clock.Clock` whose time goes from one event to the next.

    Attributes:
        time: Seconds since the start.
    """

    __slots__ = ("_heap", "_number", "time")

    def __init__(self) -> None:
        self.time = 0.0
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._number = 0

    def monotonic(self) -> float:
        """Seconds since the start."""
        return self.time

    def now(self) -> datetime:
        """The same as a date; it begins with 2026."""
        return _BIRTH + timedelta(seconds=self.time)

    def sleep(self, seconds: float) -> None:
        """Nobody blocks here: the whole world would stand still."""
        raise RuntimeError(f"a simulation cannot block for {seconds:g} s; set an event with `at`")

    async def asleep(self, seconds: float) -> None:
        """Nobody awaits here either."""
        self.sleep(seconds)

    def at(self, when: float, call: Callable[[Any], None], argument: Any) -> None:
        """Call ``call(argument)`` at ``when``; a time that is past is now."""
        self._number += 1
        heappush(self._heap, (when, self._number, call, argument))

    def next_at(self) -> float | None:
        """When something happens next, None if nothing does."""
        return self._heap[0][0] if self._heap else None

    def run(self, until: float | None = None) -> None:
        """Let everything happen, up to ``until`` where it is given."""
        heap = self._heap
        while heap and (until is None or heap[0][0] <= until):
            when, _, call, argument = heappop(heap)
            self.time = max(when, self.time)
            call(argument)
        if until is not None:
            self.time = max(until, self.time)
