"""Waiting: the queue of those who found nothing eligible. Priority first, then age; recovery is paced, not a herd."""

from __future__ import annotations

import asyncio
import threading
from bisect import bisect_left, insort
from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PACE_SECONDS: Final = 0.05
"""The queue never stands still for longer while something is eligible: so often the first in it looks."""
GO_ON: Final = 2
"""How many each success lets go."""


class Ticket:
    """A place in the queue. Woken from any thread; waits in a thread or on an event loop.

    Attributes:
        key: Priority and number; lower goes first.
        released: A success lets it go.
    """

    __slots__ = ("_event", "_sleeper", "_told", "_woken", "key", "released")

    def __init__(self, key: tuple[int, int]) -> None:
        self.key = key
        self.released = False
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

    def join(self, priority: int, place: tuple[int, int] | None = None) -> Ticket | None:
        """Line up.

        Args:
            priority: Lower goes first.
            place: The key of an earlier ticket: one whose eager probe failed goes back to its place, also when
                the queue has filled up meanwhile.

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
            ticket = Ticket(place)
            before = self._waiting[0] if self._waiting else None
            insort(self._waiting, ticket)
        if before is not None and self._waiting and self._waiting[0] is ticket:
            before.wake()  # it is not the first any more, and need not look so often
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
            del self._waiting[index]
            if index == 0:
                self._wake_first_locked()

    def go(self, ticket: Ticket, now: float) -> None:
        """Leave because something was eligible: the next one may look after `PACE_SECONDS`."""
        with self._lock:
            self._last_release = max(self._last_release, now)
        self.leave(ticket)

    def is_first(self, ticket: Ticket) -> bool:
        """Whether it is the one that looks."""
        waiting = self._waiting
        return bool(waiting) and waiting[0] is ticket

    def pause_seconds(self, now: float) -> float:
        """Seconds until the first may look by itself; 0 if it may now."""
        return max(0.0, self._last_release + PACE_SECONDS - now)

    def succeeded(self, now: float) -> None:
        """Something answered: let the next two go."""
        with self._lock:
            gone = 0
            while gone < GO_ON and self._waiting:
                ticket = self._waiting.pop(0)
                ticket.released = True
                gone += ticket.wake()
            if gone:
                self._last_release = max(self._last_release, now)
            self._wake_first_locked()

    def renew(self) -> None:
        """Start empty, in a forked child: those who waited live in the parent."""
        self._lock = threading.RLock()
        self._waiting = []
        self._last_release = -inf

    def _index_locked(self, ticket: Ticket) -> int | None:
        index = bisect_left(self._waiting, ticket)
        return index if index < len(self._waiting) and self._waiting[index] is ticket else None

    def _wake_first_locked(self) -> None:
        while self._waiting and not self._waiting[0].wake():
            del self._waiting[0]

    def _bury_locked(self) -> None:
        if self._waiting and self._waiting[0].is_dead():
            del self._waiting[0]
            self._wake_first_locked()


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
