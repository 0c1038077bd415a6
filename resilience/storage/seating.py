"""Seating: which breakers of this process sit in the fleet, who has just come, and who leaves."""

from __future__ import annotations

import threading
import weakref
from math import inf
from typing import TYPE_CHECKING

from resilience.clock import SYSTEM_CLOCK
from resilience.storage.names import Name
from resilience.storage.seat import Seat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from resilience.breaker.circuit import CircuitBreaker
    from resilience.clock import Clock
    from resilience.storage.row import Row
    from resilience.storage.seat import Office


class Seating:
    """The seats by name: several of one name where several runtimes of this process have the same provider.

    Args:
        clock: Where time comes from.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        # Weak: whoever drops a runtime drops its breakers.
        self._seats: dict[str, weakref.WeakSet[Seat]] = {}
        self._monotonic = clock.monotonic
        self.renew()

    def renew(self) -> None:
        """In a forked child: a fresh lock, and nothing of what the parent had leased."""
        self._lock = threading.Lock()
        self._fresh: list[str] = []
        self._parting: list[Seat] = []
        for seat in self.members():
            seat.on_its_own_locked()

    def join(self, breaker: CircuitBreaker, identity: str, office: Office) -> None:
        """Give a breaker its seat."""
        seat = Seat(office, breaker, identity)
        with self._lock:
            self._seats.setdefault(identity, weakref.WeakSet()).add(seat)
            self._fresh.append(identity)
        breaker.seat = seat

    def part(self, office: Office) -> None:
        """Note that everything of one runtime leaves, and give back what it had leased."""
        for seat in self.members():
            if seat.office is office:
                with seat.breaker.lock:
                    seat.asking.clear()
                    seat.give_back_locked(inf)
                self._parting.append(seat)

    def forget(self) -> None:
        """Strike off those who have left and have nothing more to tell."""
        parting, self._parting = self._parting, []
        for seat in parting:
            if seat.notes or seat.is_dirty:
                self._parting.append(seat)
                continue
            with self._lock:
                self._seats[seat.identity].discard(seat)

    def fresh(self) -> list[str]:
        """The names of those who have come since the last time."""
        with self._lock:
            fresh, self._fresh = self._fresh, []
        return fresh

    def members(self, ids: Iterable[str] | None = None) -> list[Seat]:
        """The seats, all of them or those of some names."""
        with self._lock:
            chosen = list(self._seats) if ids is None else [identity for identity in ids if identity in self._seats]
            for identity in chosen:
                if not self._seats[identity]:
                    del self._seats[identity]
            return [seat for identity in chosen for seat in self._seats.get(identity, ())]

    def names(self, ids: Iterable[str] | None = None) -> list[Name]:
        """What people call them, all of them or those of some names."""
        return [Name(seat.identity, seat.breaker.label, seat.breaker.role) for seat in self.members(ids)]

    def take(self, rows: Mapping[str, Row | None], *, whole: bool = False) -> None:
        """Tell the seats what the store says.

        Args:
            rows: Rows by name; None where the store has none.
            whole: Whether they were read just now, as opposed to a message that may be late.
        """
        for seat in self.members(rows):
            row = rows[seat.identity]
            with seat.breaker.lock:
                if row is not None:
                    seat.news_locked(row, self._monotonic(), whole=whole)
                elif whole:
                    seat.forgotten_locked()
            seat.breaker.drain()

    def on_their_own(self) -> None:
        """The store is gone: what it gave is worth nothing now."""
        for seat in self.members():
            with seat.breaker.lock:
                seat.on_its_own_locked()

    def give_back(self, now: float) -> None:
        """Note to give back leases that have waited here for nothing until ``now``."""
        for seat in self.members():
            with seat.breaker.lock:
                seat.give_back_locked(now)
