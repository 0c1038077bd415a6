"""The fleet of a simulation: real agents on a virtual-time loop, and a store that is some milliseconds away."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import TYPE_CHECKING, Any, Final

from resilience.simulator.store import StoreServer
from resilience.storage.agent import Agent
from resilience.storage.redis import Reply
from resilience.storage.row import read_row
from resilience.storage.server_clock import ServerClock
from resilience.testing.loop import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resilience.simulator.clockwork import Clockwork
    from resilience.simulator.policies import Process
    from resilience.simulator.scenario import FleetSettings
    from resilience.simulator.store import Document, Told
    from resilience.storage.names import Name
    from resilience.storage.row import Row

_EPOCH_SECONDS: Final = 1_767_225_600.0  # the store's wall clock begins with 2026
_SIGMA: Final = 0.5


class FleetLoop(VirtualTimeLoop):
    """An event loop that takes turns with the heap of a clockwork: one time for both.

    Attributes:
        finished: Set when the heap is empty: every request has ended.
    """

    def __init__(self, clockwork: Clockwork) -> None:
        self._clockwork = clockwork
        super().__init__(clockwork.time)
        self.finished = asyncio.Event()

    def time(self) -> float:
        """The clockwork's time."""
        return self._clockwork.time

    def pass_time(self, until: float | None) -> None:
        """The heap's next event, or the loop's next timer, whichever comes first."""
        next_at = self._clockwork.next_at()
        if next_at is None:
            self.finished.set()
        elif until is None or next_at <= until:
            self._clockwork.run(next_at)
        else:
            super().pass_time(until)
            self._clockwork.run(self._virtual)


class Wire:
    """The network between the processes and the store: what every line and the store's news go through.

    Args:
        fleet: Delays, losses, and when the store is away.
        clockwork: Virtual time.
        seed: Of delays and losses.
    """

    def __init__(self, fleet: FleetSettings, clockwork: Clockwork, seed: int) -> None:
        self._fleet = fleet
        self._clockwork = clockwork
        self._rng = Random(f"{seed}:wire")
        self._lines: list[StoreLine] = []
        self.server = StoreServer(self.now_ms, self._publish)

    def now_ms(self) -> int:
        """The server's wall clock."""
        return int((_EPOCH_SECONDS + self._clockwork.time) * 1000)

    def line(self) -> StoreLine:
        """A connection for one more process."""
        self._lines.append(StoreLine(self, self._clockwork))
        return self._lines[-1]

    def delay_seconds(self) -> float:
        """One way, this time."""
        return self._rng.lognormvariate(0.0, _SIGMA) * self._fleet.delay_seconds

    def is_away(self) -> bool:
        """Whether the store cannot be reached now."""
        now = self._clockwork.time
        return any(one.at_seconds <= now < one.at_seconds + one.lasts_seconds for one in self._fleet.away)

    def _publish(self, message: str) -> None:
        for line in self._lines:
            lost, delay = self._rng.random() < self._fleet.lost_share, self.delay_seconds()
            if not lost:
                # One connection keeps its order.
                line.hears_at = max(line.hears_at, self._clockwork.time + delay)
                self._clockwork.at(line.hears_at, line.hear, message)


class StoreLine:
    """One process's connection: `resilience.storage.redis.Store` over the wire.

    Args:
        wire: Between it and the store.
        clockwork: Virtual time.

    Attributes:
        clock: The server's time in ours.
        hears_at: When the last message on its way will be here.
    """

    def __init__(self, wire: Wire, clockwork: Clockwork) -> None:
        self._wire = wire
        self._clockwork = clockwork
        self._news: asyncio.Queue[bytes] | None = None
        self.clock = ServerClock()
        self.hears_at = 0.0

    def hear(self, message: str) -> None:
        """A message is here."""
        if self._news is not None and not self._wire.is_away():
            self._news.put_nowait(message.encode())

    async def connect(self) -> None:
        """Connect, and read the server's clock."""
        await self.time()
        self._news = asyncio.Queue()

    async def close(self) -> None:
        """Hang up."""
        self._news = None

    async def time(self) -> float:
        """Ask the server for its time."""
        sent = self._clockwork.time
        await self._there()
        now_ms = self._wire.now_ms()
        await self._back(sent, now_ms)
        return self._clockwork.time - sent

    async def revision(self) -> int:
        """A number that grows with every change."""
        await self._there()
        found = self._wire.server.revision
        await self._pause()
        return found

    async def changed(self, since: int) -> list[str]:
        """The ids of the breakers that changed after a revision."""
        await self._there()
        found = self._wire.server.changed(since)
        await self._pause()
        return found

    async def rows(self, ids: Sequence[str]) -> dict[str, Row | None]:
        """Rows by id."""
        await self._there()
        found = {identity: self._wire.server.row(identity) for identity in ids}
        await self._pause()
        return {identity: read_row(raw, self.clock) for identity, raw in found.items()}

    async def news(self, seconds: float) -> bytes | None:
        """The next message, None if none comes in time."""
        if self._news is None:
            raise ConnectionError("not connected")
        try:
            async with asyncio.timeout(seconds):
                return await self._news.get()
        except TimeoutError:
            return None

    async def show(self, member: str) -> None:  # noqa: ARG002 (nobody looks who is there)
        """Show that this process lives."""
        await self._there()
        await self._pause()

    async def leave(self, member: str) -> None:
        """Say that this process goes."""
        await self.show(member)

    async def introduce(self, names: Sequence[Name]) -> None:
        """Say which breakers this process has: nobody looks from outside, so nothing is sent."""

    async def move(self, identity: str, mode: str, generation: int, state: str, payload: str) -> Reply:
        """Compare and set one transition."""
        return await self._asked("move", identity, mode, generation, state, payload)

    async def lease(
        self, identity: str, kind: str, generation: int, ticket: str, permits: int, seconds: float, doublings: int
    ) -> Reply:
        """Ask for the right to one probe."""
        lease_ms = round(seconds * 1000)
        return await self._asked("lease", identity, kind, generation, ticket, permits, lease_ms, doublings)

    async def settle(self, identity: str, generation: int, seconds: float, entries: str) -> Reply:
        """Tell what became of leases."""
        return await self._asked("settle", identity, generation, round(seconds * 1000), entries)

    async def count(self, ids: Sequence[str], batches: str) -> list[list[int]]:
        """Add window counts of several breakers."""
        sent = self._clockwork.time
        await self._there()
        found, now_ms = self._wire.server.count(ids, batches), self._wire.now_ms()
        await self._back(sent, now_ms)
        return found

    # ---- parts

    async def _asked(self, script: str, *arguments: Any) -> Reply:
        sent = self._clockwork.time
        await self._there()
        told: Told = getattr(self._wire.server, script)(*arguments)
        word, row, at_ms = told
        raw, now_ms = _raw(row), self._wire.now_ms()
        await self._back(sent, now_ms)
        return Reply(word, read_row(raw, self.clock), self.clock.local(at_ms) if at_ms else 0.0)

    async def _there(self) -> None:
        await self._pause()
        if self._wire.is_away():
            raise ConnectionError("the store is away")

    async def _back(self, sent: float, now_ms: int) -> None:
        await self._pause()
        self.clock.sample(sent, self._clockwork.time, now_ms)

    async def _pause(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, FleetLoop)  # noqa: S101 (nobody else runs it)
        await loop.clock.asleep(self._wire.delay_seconds())


def _raw(row: Document | None) -> str | None:
    return None if row is None else json.dumps(row)


class Fleet:
    """The agents of all processes.

    Args:
        fleet: How they share.
        processes: Whose registries.
        clockwork: Virtual time.
        seed: Of everything that is chance here.
    """

    def __init__(self, fleet: FleetSettings, processes: Sequence[Process], clockwork: Clockwork, seed: int) -> None:
        self._clockwork = clockwork
        wire = Wire(fleet, clockwork, seed)
        self._agents = [
            Agent(
                "simulated",
                one.registry.publish,
                rng=Random(f"{seed}:agent:{number}"),
                clock=clockwork,
                make_store=wire.line,
                member=f"process-{number}",
            )
            for number, one in enumerate(processes)
        ]
        for one, agent in zip(processes, self._agents, strict=True):
            one.registry.share(agent.join)

    def run(self) -> None:
        """Let everything happen, until every request has ended."""
        with asyncio.Runner(loop_factory=lambda: FleetLoop(self._clockwork)) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, FleetLoop)  # noqa: S101 (`run` made it)
        tasks = [asyncio.ensure_future(agent.live()) for agent in self._agents]
        await loop.finished.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
