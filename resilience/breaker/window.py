"""How often did it fail: the exact window of the last calls, in which a success costs one increment."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from resilience.breaker.states import Open

# A streak with a pause of this many windows in it is no streak: what failed before says nothing about now.
# Ten, so that one caller who meets a 60 s timeout each time is still seen with a window of 30 s.
STREAK_PAUSE_WINDOWS: Final = 10


@dataclass(frozen=True, slots=True)
class Reading:
    """What the window holds at one moment.

    Attributes:
        calls: Calls in the window, at most its length.
        failures: Failures among them that are young enough.
        slow: Slow calls among them that are young enough.
        slow_corroborated: Whether the slow calls come from two sources or more.
        streak: Weight of the failures since the last success.
        streak_failures: Their number.
        corroborated: Whether the window's failures come from two sources or more.
        streak_corroborated: The same for the streak.
    """

    calls: int
    failures: int
    slow: int
    streak: float
    streak_failures: int = 0
    corroborated: bool = True
    streak_corroborated: bool = True
    slow_corroborated: bool = True

    @property
    def failure_rate(self) -> float | None:
        """Failures over calls, None before the first call."""
        return self.failures / self.calls if self.calls else None


class Doorway:
    """What a call reads on its way in, without a lock. One for each breaker.

    Attributes:
        era: The window of the present era while the circuit is closed and nothing but counting is asked for, None
            otherwise. Whoever finds it may go, and says of a success ``era.calls += 1``.
        opening: The opening of a circuit that is plainly open, None otherwise: whoever finds it may not.
    """

    __slots__ = ("era", "opening")

    def __init__(self) -> None:
        self.era: CallWindow | None = None
        self.opening: Open | None = None


class CallWindow:
    """A call counter, and the positions and times of the failures and slow calls in it.

    Each era of a breaker has one of its own, and it is the token of that era: an outcome that comes late is counted
    where nobody looks any more. So a success needs no question, and costs one ``calls += 1``. Under the GIL that
    statement is not interrupted; where it were, the window would be one position short.
    """

    __slots__ = (
        "_last_failed_at",
        "_last_position",
        "_streak_sources",
        "calls",
        "failures",
        "slow",
        "streak",
        "streak_failures",
    )

    def __init__(self) -> None:
        self.calls = 0
        # Made with the first failure: most breakers of ten thousand never see one.
        self.failures: deque[tuple[int, float, str | None]] | None = None
        self.slow: deque[tuple[int, float, str | None]] | None = None
        self.streak = 0.0
        self.streak_failures = 0
        self._last_position = -1
        self._last_failed_at = 0.0
        self._streak_sources: set[str | None] | None = None

    def record_failure(self, now: float, weight: float, source: str | None, window_seconds: float) -> None:
        """Count one failed call.

        Args:
            now: Monotonic time in seconds.
            weight: How much it counts in the streak.
            source: Who failed, where evidence of one source alone must not trip; None is enough by itself.
            window_seconds: Age at which failures stop counting.
        """
        self.calls = position = self.calls + 1
        unbroken = self._last_position == position - 1
        if not unbroken or now - self._last_failed_at > STREAK_PAUSE_WINDOWS * window_seconds:
            self.streak = 0.0
            self._streak_sources = None
            self.streak_failures = 0
        self.streak += weight
        self.streak_failures += 1
        if self._streak_sources is None:
            self._streak_sources = {source}
        else:
            self._streak_sources.add(source)
        self._last_position, self._last_failed_at = position, now
        if self.failures is None:
            self.failures = deque()
        self.failures.append((position, now, source))

    def record_slow(self, now: float, source: str | None) -> None:
        """Count one call that worked, but slowly. It ends a streak like any success."""
        self.calls = position = self.calls + 1
        if self.slow is None:
            self.slow = deque()
        self.slow.append((position, now, source))

    def read(self, now: float, window_calls: int, window_seconds: float) -> Reading:
        """Look at the last ``window_calls`` calls, leaving out failures older than ``window_seconds``."""
        oldest_position, oldest_time = self.calls - window_calls, now - window_seconds
        failures = _prune(self.failures, oldest_position, oldest_time)
        slow = _prune(self.slow, oldest_position, oldest_time)
        paused = now - self._last_failed_at > STREAK_PAUSE_WINDOWS * window_seconds
        in_streak = self._last_position == self.calls and not paused
        return Reading(
            calls=min(self.calls, window_calls),
            failures=failures,
            slow=slow,
            streak=self.streak if in_streak else 0.0,
            streak_failures=self.streak_failures if in_streak else 0,
            corroborated=_corroborated({entry[2] for entry in self.failures or ()}),
            streak_corroborated=in_streak and _corroborated(self._streak_sources or set()),
            slow_corroborated=_corroborated({entry[2] for entry in self.slow or ()}),
        )


def _corroborated(sources: set[str | None]) -> bool:
    return None in sources or len(sources) > 1


def _prune(entries: deque[tuple[int, float, str | None]] | None, position: int, at: float) -> int:
    if not entries:
        return 0
    # Both grow from left to right, so everything that is out stands at the left end.
    while entries and (entries[0][0] <= position or entries[0][1] < at):
        entries.popleft()
    return len(entries)
