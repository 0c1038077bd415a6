"""Waiting: the queue of those who found nothing eligible. Priority first, then age; recovery is paced, not a herd."""

from __future__ import annotations

import asyncio
import threading
from bisect import bisect_left, insort
from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resilience.routing.route import RoutedTarget

PACE_SECONDS: Final = 0.05
"""The queue never stands still for longer while something is eligible: so often the first in it looks."""
GO_ON: Final = 2
"""How many each success lets go."""
DEAF_SECONDS: Final = 1.5 * PACE_SECONDS
"""Who was to look and has not for so long is passed over: its event loop is busy with something else."""


class Ticket:
    """A place in the queue. Woken from any thread; waits in a thread or on an event loop.

    Args:
        key: Priority and number; lower goes first.
        can_use: Whether the request may be sent to a target at a monotonic time. Default: to each.

    Attributes:
        released: It may go: something answered, or was found, that it can use.
        home: The event loop that it waits on, None in a thread. Those of one loop are deaf together.
        seen_at: When it last showed that it is awake.
    """

    __slots__ = ("_event", "_sleeper", "_told", "_woken", "can_use", "home", "key", "released", "seen_at")

    def __init__(self, key: tuple[int, int], can_use: Callable[[RoutedTarget, float], bool] | None = None) -> None:
        self.key = key
        self.can_use = can_use
        self.released = False
        self.home = _running_loop()
        self.seen_at = -inf
        self._woken = False
        self._event: threading.Event | None = None
        self._sleeper: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        self._told: Callable[[], None] | None = None

    def __lt__(self, other: Ticket) -> bool:
        return self.key < other.key

    def wake(self) -> bool:
        """Let it look again. False if nobody can: its event loop is closed."""
        # The flag first, then the sleeper; those who sleep do it the other way round, so no wake is lost.
        self._woken = True
        event, sleeper, told = self._event, self._sleeper, self._told
        if event is not None:
            event.set()
        if told is not None:
            self._told, self._woken = None, False
            told()
        if sleeper is not None:
            try:
                sleeper[0].call_soon_threadsafe(_finish, sleeper[1])
            except RuntimeError:
                return False
        return True

    def wait(self, seconds: float) -> None:
        """Block this thread until woken, at most ``seconds``."""
        if self.home is not None:  # it blocks the loop that it was called on: look again, as a thread
            self.home = None
            return
        event = self._event
        if event is None:
            event = self._event = threading.Event()
        if not self._woken:
            event.wait(seconds)
        event.clear()
        self._woken = False

    def tell(self, woken: Callable[[], None]) -> None:
        """Call ``woken`` once when woken: for a driver that has neither a thread nor an event loop to suspend.

        It is called under the queue's lock, so it may only note down that the request goes on.
        """
        if self._woken:
            self._woken = False
            woken()
        else:
            self._told = woken

    async def await_(self, seconds: float) -> None:
        """Suspend this task until woken, at most ``seconds``."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._sleeper = (loop, future)
        timer = loop.call_later(seconds, _finish, future)
        try:
            if not self._woken:
                await future
        finally:
            self._sleeper = None
            self._woken = False
            timer.cancel()

    def is_dead(self) -> bool:
        """Whether its event loop was closed while it slept."""
        sleeper = self._sleeper
        return sleeper is not None and sleeper[0].is_closed()


class WaitQueue:
    """Those who wait for one route, in order. Knows no health and no clock: it is told the time.

    The first looks, for itself and for those behind it who can use what it cannot. The first of each other event loop,
    and of the threads, stays awake beside it, to look in its place should its loop be busy.

    Args:
        most: How many may wait at the same time.
    """

    __slots__ = ("_last_release", "_lock", "_most", "_number", "_waiting")

    def __init__(self, most: int) -> None:
        self._most = most
        # Re-entrant: the collector may close a forgotten request, and make it leave, while this thread is in here.
        self._lock = threading.RLock()
        self._waiting: list[Ticket] = []
        self._number = 0
        self._last_release = -inf

    def __len__(self) -> int:
        return len(self._waiting)

    def join(
        self,
        priority: int,
        place: tuple[int, int] | None = None,
        can_use: Callable[[RoutedTarget, float], bool] | None = None,
    ) -> Ticket | None:
        """Line up.

        Args:
            priority: Lower goes first.
            place: The key of an earlier ticket: one whose eager probe failed goes back to its place, also when
                the queue has filled up meanwhile.
            can_use: See `Ticket`. Called under the queue's lock.

        Returns:
            None if as many wait as may.
        """
        with self._lock:
            self._bury_locked()
            if place is None:
                if len(self._waiting) >= self._most:
                    return None
                self._number += 1
                place = (priority, self._number)
            ticket = Ticket(place, can_use)
            insort(self._waiting, ticket)
        return ticket

    def rejoin(self, ticket: Ticket) -> None:
        """Back to its place: it was let go and found nothing."""
        with self._lock:
            ticket.released = False
            if self._index_locked(ticket) is None:
                insort(self._waiting, ticket)

    def leave(self, ticket: Ticket) -> None:
        """Go, or give up. May be called more than once."""
        with self._lock:
            index = self._index_locked(ticket)
            if index is None:
                return
            was_awake = self._is_awake_locked(ticket)
            del self._waiting[index]
            if was_awake:
                self._wake_locked(ticket.home)

    def go(self, ticket: Ticket, now: float) -> None:
        """Leave because something was eligible: the next one may look after `PACE_SECONDS`."""
        with self._lock:
            self._last_release = max(self._last_release, now)
        self.leave(ticket)

    def is_first(self, ticket: Ticket, now: float) -> bool:
        """Whether it is the one that looks: the first, or the first that is not deaf."""
        ticket.seen_at = now
        with self._lock:
            for other in self._awake_locked():
                if other is ticket:
                    return True
                if now - other.seen_at <= DEAF_SECONDS:
                    return False
            return False

    def is_awake(self, ticket: Ticket) -> bool:
        """Whether it is the first of its event loop or of the threads, and looks whether it has to look."""
        with self._lock:
            return self._is_awake_locked(ticket)

    def pause_seconds(self, now: float) -> float:
        """Seconds until the first may look by itself; 0 if it may now."""
        return max(0.0, self._last_release + PACE_SECONDS - now)

    def succeeded(self, now: float, place: RoutedTarget | None = None) -> None:
        """A target answered: let the next two go that can use it."""
        self._release(now, place, GO_ON)

    def pass_on(self, now: float, place: RoutedTarget) -> bool:
        """Who looks found a target that it cannot use itself: let the next one go that can. False: there is none."""
        return self._release(now, place, 1)

    def _release(self, now: float, place: RoutedTarget | None, most: int) -> bool:
        gone, index, homes = 0, 0, set()
        with self._lock:
            waiting = self._waiting
            while gone < most and index < len(waiting):
                ticket = waiting[index]
                if place is not None and ticket.can_use is not None and not ticket.can_use(place, now):
                    index += 1
                    continue
                del waiting[index]
                ticket.released = True
                gone += ticket.wake()
                homes.add(ticket.home)
            if gone:
                self._last_release = max(self._last_release, now)
            for home in homes:
                self._wake_locked(home)
        return gone > 0

    def renew(self) -> None:
        """Start empty, in a forked child: those who waited live in the parent."""
        self._lock = threading.RLock()
        self._waiting = []
        self._last_release = -inf

    def _index_locked(self, ticket: Ticket) -> int | None:
        index = bisect_left(self._waiting, ticket)
        return index if index < len(self._waiting) and self._waiting[index] is ticket else None

    def _awake_locked(self) -> Iterator[Ticket]:
        homes = set()
        for ticket in self._waiting:
            if ticket.home not in homes:
                homes.add(ticket.home)
                yield ticket

    def _is_awake_locked(self, ticket: Ticket) -> bool:
        return self._first_of_locked(ticket.home) is ticket

    def _first_of_locked(self, home: asyncio.AbstractEventLoop | None) -> Ticket | None:
        return next((ticket for ticket in self._waiting if ticket.home is home), None)

    def _wake_locked(self, home: asyncio.AbstractEventLoop | None) -> None:
        """Wake the first of an event loop, or of the threads: it is its turn to stay awake."""
        while (first := self._first_of_locked(home)) is not None and not first.wake():
            self._waiting.remove(first)

    def _bury_locked(self) -> None:
        if self._waiting and self._waiting[0].is_dead():
            self._wake_locked(self._waiting[0].home)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
