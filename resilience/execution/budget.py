"""The budget: how many retries on the same target a route may add to its requests."""

from __future__ import annotations

import threading
from typing import Final

SHARE: Final = 0.2
"""Extra attempts per request."""
PER_SECOND: Final = 10.0
"""Extra attempts a second that are always there, so that a quiet route may retry too."""
MEMORY_SECONDS: Final = 10.0
"""How long an unused share is kept. Finagle's RetryBudget, which this follows, uses the same."""


class Budget:
    """A route's allowance of extra attempts: 20 % of its requests plus 10 a second.

    Moving on to the next target is free and is not asked about here. A request costs one increment; the sums are
    done by those who draw.
    """

    __slots__ = (
        "__weakref__",
        "_floor",
        "_lock",
        "_mark",
        "_mark_time",
        "_previous",
        "_seen",
        "_share",
        "_updated",
        "requests",
    )

    def __init__(self, now: float) -> None:
        self.requests = 0
        """Counted up by the engine without a lock: a lost count costs a fifth of a retry."""
        self._lock = threading.Lock()
        self._floor = PER_SECOND
        self._updated = now
        self._share = 0.0
        self._seen = 0
        # Requests in this and in the last span of MEMORY_SECONDS: an unused share is worth no more than theirs.
        self._mark = 0
        self._mark_time = now
        self._previous = 0.0

    def draw(self, now: float) -> bool:
        """Take one extra attempt, if there is one left.

        Args:
            now: Monotonic seconds.
        """
        with self._lock:
            self._refill_locked(now)
            if self._floor >= 1.0:
                self._floor -= 1.0
                return True
            # A share of 0.2 is added five times for one retry: without the slack a rounding error would eat it.
            if self._share >= 1.0 - 1e-9:
                self._share -= 1.0
                return True
            return False

    def renew_lock(self) -> None:
        """Replace the lock, in a child that was forked while another thread may have held it."""
        self._lock = threading.Lock()

    def _refill_locked(self, now: float) -> None:
        self._floor = min(PER_SECOND, self._floor + PER_SECOND * max(0.0, now - self._updated))
        self._updated = now
        requests = self.requests
        elapsed = now - self._mark_time
        if elapsed >= MEMORY_SECONDS:
            self._previous = (requests - self._mark) * MEMORY_SECONDS / elapsed
            self._mark, self._mark_time = requests, now
        most = SHARE * (self._previous + requests - self._mark)
        self._share = min(most, self._share + SHARE * (requests - self._seen))
        self._seen = requests
