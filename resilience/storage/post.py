"""The post: carries what the seats have noted to the store, and what it answers back to them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from resilience.breaker import trip
from resilience.breaker.window import Reading
from resilience.clock import SYSTEM_CLOCK
from resilience.storage.row import write_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilience.clock import Clock
    from resilience.storage.redis import Reply, Store
    from resilience.storage.seat import Pending, Seat

ANSWERED_SECONDS: Final = 0.05
"""A fleet's streak is judged so long after everybody was asked for what they had not told; see ``count.lua``."""
TOLD_SECONDS: Final = 0.3
"""The same where nobody was asked: the ordinary pace has brought it by then."""


class Post:
    """Deliveries of one agent, on its loop. Whatever goes wrong is raised: the agent then counts the store as gone.

    Args:
        store: Where to.
        seats: Whose notes; asked anew each time.
        member: This process's name, which makes its leases and transitions known as its own.
        clock: Where time comes from.

    Attributes:
        flushed_at: Monotonic time at which window counts were told last.
        is_asked: Whether somebody waits for what this process has counted.
    """

    def __init__(self, store: Store, seats: Callable[[], list[Seat]], member: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store = store
        self._seats = seats
        self._member = member
        self._number = 0
        self._monotonic = clock.monotonic
        self.flushed_at = 0.0
        self.is_asked = False

    async def push(self) -> None:
        """Tell the transitions."""
        for seat in self._seats():
            while seat.is_dirty:
                with seat.breaker.lock:
                    pending = seat.push_locked(self._ticket())
                    now = self._monotonic()
                if pending is None:
                    break
                payload = _payload(seat, pending, now)
                try:
                    reply = await self._store.move(
                        seat.identity, pending.mode, pending.generation, pending.expected, payload
                    )
                except BaseException:
                    with seat.breaker.lock:
                        seat.failed_push_locked(pending)
                    raise
                with seat.breaker.lock:
                    seat.pushed_locked(pending, reply.word, reply.row, self._monotonic())
                seat.breaker.drain()

    async def settle(self) -> None:
        """Tell what became of leases."""
        for seat in self._seats():
            if not seat.notes:
                continue
            with seat.breaker.lock:
                generation, notes = seat.generation, seat.notes_taken()
            seconds = seat.rules.policy.probe_lease_seconds
            self._heard(seat, await self._store.settle(seat.identity, generation, seconds, notes))

    async def ask(self) -> None:
        """Ask for leases that somebody wants."""
        # Targets first: a provider's lease is of use only to a process that may also ask one of its targets.
        for seat in sorted(self._seats(), key=lambda seat: seat.breaker.role == "provider"):
            if not seat.office.online:
                seat.asking.clear()  # it has left, or is about to
            while seat.asking and not seat.is_dirty:
                with seat.breaker.lock:
                    kind = max(seat.asking)  # a probe before an eager one
                    seat.asking.discard(kind)
                    generation = seat.generation
                    if not self._is_of_use(seat):
                        seat.refused(kind, self._monotonic(), 0.0)
                        continue
                ticket, policy = self._ticket(), seat.rules.policy
                terms = policy.probe_permits, policy.probe_lease_seconds, trip.most_doublings(policy)
                reply = await self._store.lease(seat.identity, kind, generation, ticket, *terms)
                now = self._monotonic()
                if reply.word == "granted" and reply.row is not None:
                    with seat.breaker.lock:
                        seat.granted_locked(kind, ticket, reply.row, reply.at, now)
                    seat.breaker.drain()
                else:
                    with seat.breaker.lock:
                        seat.refused(kind, now, reply.at)
                    if reply.word != "wait":
                        self._heard(seat, reply)

    def _is_of_use(self, seat: Seat) -> bool:
        if seat.breaker.role != "provider":
            return True
        mine = [
            other
            for other in self._seats()
            if other.office is seat.office
            and other.breaker.role == "target"
            and other.breaker.provider == seat.breaker.provider
        ]
        return not mine or any(other.is_ready_locked for other in mine)

    def _heard(self, seat: Seat, reply: Reply) -> None:
        with seat.breaker.lock:
            if reply.word == "newer":
                seat.alone = True
            elif reply.word == "unknown":
                seat.forgotten_locked()
            elif reply.row is not None:
                seat.news_locked(reply.row, self._monotonic())
        seat.breaker.drain()

    async def flush(self, *, whole: bool = False) -> None:
        """Tell window counts, and trip where the sum of the fleet says so.

        Args:
            whole: Whether to look at all sums, also where this process has nothing to add.
        """
        now = self.flushed_at = self._monotonic()
        self.is_asked = False
        told: list[tuple[Seat, dict[str, Any], object]] = []
        for seat in self._seats():
            if seat.alone:
                continue
            with seat.breaker.lock:
                batch = seat.batch_locked(now, whole=whole)
            if batch is not None:
                told.append((seat, batch, seat.breaker.window))
        if not told:
            return
        found = await self._store.count([seat.identity for seat, _, _ in told], json.dumps([b for _, b, _ in told]))
        for (seat, batch, era), sums in zip(told, found, strict=True):
            reading, ripe = _reading(sums)
            if not reading.failures and not reading.slow and not reading.streak_failures:
                continue
            with seat.breaker.lock:
                here = self._monotonic()
                now_reading = reading if ripe else replace(reading, streak=0.0)
                tripped = seat.breaker.window is era and seat.rules.trip_by_fleet_locked(now_reading, here)
                if not tripped and trip.tripped_by(reading, seat.rules.policy):
                    seat.recheck_at = here + (ANSWERED_SECONDS if batch["f"] else TOLD_SECONDS)
            seat.breaker.drain()
        if any(seat.is_dirty for seat, _, _ in told):
            await self.push()

    def _ticket(self) -> str:
        self._number += 1
        return f"{self._member}:{self._number}"


def _payload(seat: Seat, pending: Pending, now: float) -> str:
    breaker = seat.breaker
    return write_state(seat.identity, breaker.label, breaker.role, pending.nonce, pending.state, now)


def _reading(sums: list[int]) -> tuple[Reading, bool]:
    """The fleet's sum, and whether its streak can be believed yet."""
    calls, failures, slow, corroborated, tenths, streak, streak_corroborated, ripe = sums
    found = Reading(
        calls=calls,
        failures=failures,
        slow=slow,
        streak=tenths / 10,
        streak_failures=streak,
        corroborated=bool(corroborated),
        streak_corroborated=bool(streak_corroborated),
        slow_corroborated=True,
    )
    return found, bool(ripe)
