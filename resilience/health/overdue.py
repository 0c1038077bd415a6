"""Overdue: finds a hang before the first timeout strikes, from the calls in flight and what is typical."""

from __future__ import annotations

import itertools
import statistics
import threading
from array import array
from typing import Final

# Five in flight without an answer are no accident; below a quarter of a second nobody waits for us.
WITNESSES: Final = 5
FLOOR_SECONDS: Final = 0.25
# An overdue target gets one call in this time, to notice that it answers again.
LET_SECONDS: Final = 1.0
# Enough for a steady median, small enough to follow a model that got slower.
_REMEMBERED: Final = 64


class InFlight:
    """The calls in flight on one target, and how long it typically takes to the first token or answer.

    Args:
        ejects: Whether being overdue takes the target out of rotation; in shadow it is only told.

    Attributes:
        last_success: Monotonic time of the last success or first content.
        overdue_since: When it was found overdue, None while it is on time.
    """

    __slots__ = (
        "_cursor",
        "_ejects",
        "_latencies",
        "_let_at",
        "_lock",
        "_started",
        "_tickets",
        "last_success",
        "overdue_since",
    )

    def __init__(self, *, ejects: bool = True) -> None:
        self._lock = threading.Lock()
        self._ejects = ejects
        self._tickets = itertools.count(1)
        self._started: dict[int, float] = {}  # in order of insertion: the oldest stand first
        self._latencies: array[float] | None = None
        self._cursor = 0
        self._let_at = 0.0
        self.last_success = float("-inf")
        self.overdue_since: float | None = None

    def __len__(self) -> int:
        return len(self._started)

    def is_quiet(self, now: float) -> bool:
        """Whether there is plainly nothing to see: on time, and too few calls or too fresh a success for a hang."""
        if self.overdue_since is not None:
            return False
        return len(self._started) < WITNESSES or now - self.last_success <= FLOOR_SECONDS

    def enter(self, now: float) -> int:
        """A call starts; returns the ticket to leave with."""
        # No lock: each of the two statements is one step, and nobody needs them to be one together.
        ticket = next(self._tickets)
        self._started[ticket] = now
        return ticket

    def leave(self, ticket: int) -> None:
        """A call ended, or has got its first content. More than once is no harm; the garbage collector may call it."""
        self._started.pop(ticket, None)

    def succeeded(self, now: float, latency_seconds: float | None) -> float | None:
        """Something worked: remember how long it took, where that is not known already.

        Returns:
            For how many seconds the target had been overdue, None if it was not.
        """
        # No lock while on time: `notice` looks at the time of the last success once more when it has found a hang,
        # and each step here is one under the GIL. A latency that two threads write at once is one of sixty-four.
        self.last_success = now
        if latency_seconds is not None:
            latencies = self._latencies
            if latencies is None:
                latencies = self._latencies = array("d")
            if len(latencies) < _REMEMBERED:
                latencies.append(latency_seconds)
            else:
                cursor = self._cursor
                latencies[cursor] = latency_seconds
                self._cursor = (cursor + 1) % _REMEMBERED
        if self.overdue_since is None:
            return None
        with self._lock:
            return self._on_time_locked(now)

    def forgive(self, now: float) -> float | None:
        """The target tripped: its breaker speaks for it now. Returns like `succeeded`."""
        with self._lock:
            return self._on_time_locked(now)

    def typical_seconds(self) -> float | None:
        """The median of the last successes, None before the first."""
        with self._lock:
            return statistics.median(self._latencies) if self._latencies else None

    def notice(self, now: float, factor: float | None, minimum_calls: int) -> tuple[float, float] | None:
        """Look whether the target has become overdue just now.

        Args:
            now: Monotonic time.
            factor: How many times the typical latency is too long; None turns the rule off.
            minimum_calls: Successes needed before anything is typical.

        Returns:
            Age of the fifth-oldest call and the typical latency in seconds, the first time only.
        """
        if factor is None or len(self._started) < WITNESSES or self.overdue_since is not None:
            return None
        with self._lock:
            started = self._fifth_oldest()
            if started is None or now - started <= FLOOR_SECONDS or self.last_success > started:
                return None
            if self._latencies is None or len(self._latencies) < min(minimum_calls, _REMEMBERED):
                return None
            typical = statistics.median(self._latencies)
            if now - started <= factor * typical or self.overdue_since is not None:
                return None
            self._let_at = self.overdue_since = now
            if self.last_success > started:  # it came just now, and has not seen that it was waited for
                self.overdue_since = None
                return None
            return now - started, typical

    def _fifth_oldest(self) -> float | None:
        """When it started. It stands in front: with ten thousand in flight nobody may copy them for each request."""
        try:
            return next(itertools.islice(self._started.values(), WITNESSES - 1, None), None)
        except RuntimeError:  # another thread's call came or went between the two steps
            in_flight = list(self._started.values())  # one step
            return in_flight[WITNESSES - 1] if len(in_flight) >= WITNESSES else None

    def refuses(self, now: float) -> bool:
        """Whether an overdue target has had its one call of this second."""
        return self._ejects and self.overdue_since is not None and now < self._let_at + LET_SECONDS

    def take_let(self, now: float) -> bool:
        """Take an overdue target's one call of this second; False: it is gone. Always True while on time."""
        if self.overdue_since is None:
            return True
        with self._lock:
            if self.refuses(now):
                return False
            self._let_at = now
            return True

    def next_let(self) -> float:
        """Monotonic time from which an overdue target gets its next call."""
        return self._let_at + LET_SECONDS

    def renew_after_fork(self) -> None:
        """In a forked child: the parent's calls are not ours, and its lock may be held for ever."""
        self._lock = threading.Lock()
        self._started.clear()

    def _on_time_locked(self, now: float) -> float | None:
        since, self.overdue_since = self.overdue_since, None
        return None if since is None else now - since
