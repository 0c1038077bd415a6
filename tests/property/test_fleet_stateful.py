"""Real agents on a virtual-time loop and a network that delays, doubles, swaps and loses: the laws of a fleet hold."""

from __future__ import annotations

import asyncio
import json
import random
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilience.errors import RejectedError
from resilience.health.registry import HealthRegistry
from resilience.outcome import Kind
from resilience.settings import Settings
from resilience.simulator.store import StoreServer
from resilience.storage.agent import Agent
from resilience.storage.redis import Reply
from resilience.storage.row import read_row
from resilience.storage.server_clock import ServerClock
from resilience.testing.loop import VirtualClock, VirtualTimeLoop
from resilience.upstream import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from resilience.breaker.permit import Permit
    from resilience.storage.row import Row

NAME = "provider:openai"
LEASE_SECONDS = 10.0
SUCCESSES = 3
POLICY = {
    "consecutive_failures": 3, "failure_rate": None, "open_seconds": 2, "open_max_seconds": 8, "jitter": 0.0,
    "probe_permits": 1, "probe_successes": SUCCESSES, "probe_lease_seconds": LEASE_SECONDS,
}  # fmt: skip
MEMBERS = st.integers(0, 2)


class Network:
    """One store, and what lies between it and its members. Keeps what every change left in the store."""

    def __init__(self, loop: VirtualTimeLoop, seed: int) -> None:
        self.loop, self.rng = loop, random.Random(seed)
        self.server = StoreServer(lambda: int(loop.time() * 1000), self.publish)
        self.lines: list[Line] = []
        self.history: list[dict[str, Any]] = []

    def publish(self, message: str) -> None:
        told = json.loads(message)
        if "row" in told:
            self.history.append(json.loads(told["row"]))
        for line in self.lines:
            for _ in range(self.rng.choice([0, 1, 1, 1, 1, 2])):  # lost, doubled, and each with a delay of its own
                self.loop.call_later(self.rng.uniform(0.001, 0.2), line.hear, message.encode())

    def row(self) -> dict[str, Any]:
        """What the store says of the breaker."""
        return json.loads(self.server.row(NAME) or '{"state": "closed", "gen": 0}')


class Line:
    """One member's connection: `resilience.storage.redis.Store` over the network."""

    def __init__(self, network: Network) -> None:
        self.network, self.clock = network, ServerClock()
        self.is_cut = False
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        network.lines.append(self)

    def hear(self, message: bytes) -> None:
        if not self.is_cut:
            self.queue.put_nowait(message)

    async def ask(self, question: Callable[[], Any]) -> Any:
        """There and back; a question may arrive although its answer is lost."""
        loop, rng = self.network.loop, self.network.rng
        sent = loop.time()
        await asyncio.sleep(rng.uniform(0.0005, 0.02))
        if self.is_cut:
            raise ConnectionError("cut")
        answer, now_ms = question(), int(loop.time() * 1000)
        await asyncio.sleep(rng.uniform(0.0005, 0.02))
        if self.is_cut:
            raise ConnectionError("cut on the way back")
        self.clock.sample(sent, loop.time(), now_ms)
        return answer

    async def connect(self) -> None:
        await self.ask(lambda: None)

    async def close(self) -> None:
        self.queue = asyncio.Queue()

    async def time(self) -> float:
        await self.ask(lambda: None)
        return 0.0

    async def revision(self) -> int:
        return await self.ask(lambda: self.network.server.revision)

    async def changed(self, since: int) -> list[str]:
        return await self.ask(lambda: self.network.server.changed(since))

    async def rows(self, ids: Sequence[str]) -> dict[str, Row | None]:
        found = await self.ask(lambda: {one: self.network.server.row(one) for one in ids})
        return {one: read_row(raw, self.clock) for one, raw in found.items()}

    async def news(self, seconds: float) -> bytes | None:
        try:
            async with asyncio.timeout(seconds):
                return await self.queue.get()
        except TimeoutError:
            return None

    async def show(self, member: str) -> None:
        await self.ask(lambda: None)

    leave = introduce = show

    async def script(self, name: str, *arguments: Any) -> Reply:
        word, row, at = await self.ask(lambda: _copied(getattr(self.network.server, name)(*arguments)))
        return Reply(word, read_row(row, self.clock), self.clock.local(at) if at else 0.0)

    async def move(self, *arguments: Any) -> Reply:
        return await self.script("move", *arguments)

    async def lease(self, *arguments: Any) -> Reply:
        *who, seconds, doublings = arguments
        return await self.script("lease", *who, round(seconds * 1000), doublings)

    async def settle(self, identity: str, generation: int, seconds: float, entries: str) -> Reply:
        return await self.script("settle", identity, generation, round(seconds * 1000), entries)

    async def count(self, ids: Sequence[str], batches: str) -> list[list[int]]:
        return await self.ask(lambda: self.network.server.count(ids, batches))


def _copied(told: Any) -> Any:
    word, row, at = told
    return word, None if row is None else json.dumps(row), at


class Member:
    """One process: a registry, and the agent that shares its breakers."""

    def __init__(self, network: Network, number: int) -> None:
        clock = VirtualClock(network.loop)
        self.registry = HealthRegistry(Settings.model_validate({"breaker": POLICY}), clock=clock)
        self.line = Line(network)
        self.agent = Agent(
            "no address", self.registry.publish, rng=random.Random(number), clock=clock,
            make_store=lambda: self.line, member=f"member-{number}",
        )  # fmt: skip
        self.registry.share(self.agent.join)
        self.registry.add(Target("t", "openai", "openai/m", identity="t"))
        self.breaker = self.registry.providers["openai"]
        self.task = network.loop.create_task(self.agent.live())

    @property
    def state(self) -> str:
        return str(self.breaker.rules.state.name)

    def acquire(self) -> Permit | None:
        try:
            return self.breaker.acquire()
        except RejectedError:
            return None


class Fleet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.members: list[Member] = []
        self.probes: list[tuple[float, Member, int, Permit]] = []
        self.lasting_word: str | None = None

    @initialize(seed=st.integers(0, 1 << 30))
    def begin(self, seed: int) -> None:
        self.network = Network(self.loop, seed)
        self.members = [Member(self.network, number) for number in range(3)]
        self.wait(1.0)

    def member(self, number: int) -> Member:
        return self.members[number % len(self.members)]

    # -- what happens ---------------------------------------------------------------------------------------

    @rule(number=MEMBERS, failures=st.integers(1, 3))
    def fail(self, number: int, failures: int) -> None:
        for _ in range(failures):
            permit = self.member(number).acquire()
            if permit is not None:
                permit.failure(kind=Kind.CONNECTION)

    @rule(number=MEMBERS)
    def probe(self, number: int) -> None:
        member = self.member(number)
        permit = member.acquire()
        if permit is not None and permit.is_probe:
            # Who is on its own, the store being out of reach, asks nobody: of no era that the fleet could count in.
            era = member.breaker.seat.generation if member.agent.online else -1
            self.probes.append((self.loop.time(), member, era, permit))
        elif permit is not None:
            permit.success()

    @rule(number=MEMBERS, seconds=st.sampled_from([0.0, 2.1, 4.1]))
    def crowd(self, number: int, seconds: float) -> None:
        """An outage, and when its open time is over all of them want to probe at once, and go on asking."""
        self.fail(number, 3)
        self.wait(seconds)
        for _ in range(8):
            for one in range(len(self.members)):
                self.probe(one)
            self.no_more_probes_are_leased_than_allowed()
            self.wait(0.05)

    @precondition(lambda self: self.probes)
    @rule(which=st.integers(0, 5))
    def begin_to_answer(self, which: int) -> None:
        """A stream's first content: it earns the place in the ramp, once."""
        self.probes[which % len(self.probes)][3].first_content(0.01)

    @rule(number=MEMBERS)
    def begin_all(self, number: int) -> None:
        """Everybody asks, and every stream begins, and none goes on."""
        for _ in range(6):
            for one in range(len(self.members)):
                self.probe(number + one)
            for *_, permit in self.probes:
                permit.first_content(0.01)
            self.no_more_probes_are_leased_than_allowed()
            self.wait(0.05)

    @precondition(lambda self: self.probes)
    @rule(which=st.integers(0, 5), how=st.sampled_from(["worked", "worked", "failed", "ignored"]))
    def end_probe(self, which: int, how: str) -> None:
        _, _, _, permit = self.probes.pop(which % len(self.probes))
        if how == "worked":
            permit.success(0.01)
        elif how == "failed":
            permit.failure(kind=Kind.CONNECTION)
        else:
            permit.ignore()

    @rule(number=MEMBERS, answers=st.lists(st.booleans(), min_size=1, max_size=4))
    def doubt(self, number: int, answers: list[bool]) -> None:
        """A target fails its probe, and everybody sends eager probes past the open time, and past the doubt."""
        self.fail(number, 3)
        for step in range(60):
            try:
                permit = self.member(number).breaker.acquire(source="a")
            except RejectedError:
                pass
            else:
                permit.failure(kind=Kind.SERVER_ERROR)
            sent = [permit for one in self.members if (permit := one.breaker.acquire_eager(source="a")) is not None]
            row = self.network.row()
            if all(one.agent.online and one.breaker.seat.generation == row["gen"] for one in self.members):
                assert len(sent) <= 1
            for permit in sent:
                works = answers[step % len(answers)]
                permit.success(0.01) if works else permit.failure(kind=Kind.SERVER_ERROR)
            self.no_more_probes_are_leased_than_allowed()
            self.wait(0.1)

    @rule(number=MEMBERS, word=st.sampled_from(["isolate", "reset"]))
    def steer(self, number: int, word: str) -> None:
        member = self.member(number)
        member.breaker.isolate("by hand") if word == "isolate" else member.breaker.reset()
        self.lasting_word = None

    @rule(isolating=MEMBERS, resetting=MEMBERS)
    def race(self, isolating: int, resetting: int) -> None:
        """A reset, and an isolation that comes when everybody knows of it: the isolation stays."""
        self.heal()
        self.member(resetting).breaker.reset()
        self.wait(8.0)
        self.member(isolating).breaker.isolate("the last word")
        self.lasting_word = "isolated"

    @rule(number=MEMBERS)
    def cut(self, number: int) -> None:
        self.member(number).line.is_cut = True

    @rule()
    def heal(self) -> None:
        for member in self.members:
            member.line.is_cut = False

    @precondition(lambda self: len(self.members) > 1)
    @rule(number=MEMBERS)
    def vanish(self, number: int) -> None:
        """As by SIGKILL: what it holds stays leased."""
        member = self.members.pop(number % len(self.members))
        member.line.is_cut = True
        member.task.cancel()
        self.network.lines.remove(member.line)
        for _, owner, _, permit in self.probes:
            if owner is member:
                permit.detach()
        self.probes = [probe for probe in self.probes if probe[1] is not member]
        if self.lasting_word is not None and self.network.row()["state"] != "isolated":
            self.lasting_word = None  # it may have been the only one who knew

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.5, 2.1, 5.0]))
    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    # -- the laws -------------------------------------------------------------------------------------------

    @invariant()
    def an_era_has_one_state_and_eras_only_grow(self) -> None:
        if not self.members:
            return
        eras: dict[int, tuple[str, str]] = {}
        before = 0
        for row in (row for row in self.network.history if row["id"] == NAME):
            assert row["gen"] >= before
            before = row["gen"]
            assert eras.setdefault(row["gen"], (row["state"], row["nonce"])) == (row["state"], row["nonce"])

    @invariant()
    def no_more_probes_are_leased_than_allowed(self) -> None:
        if not self.members:
            return
        now, row = self.loop.time(), self.network.row()
        allowed = 2 ** min(row.get("earned", 0), SUCCESSES)
        living = sum(ends > now * 1000 for ends in (row.get("leases") or {}).values())
        assert living <= allowed
        sent = [
            permit
            for at, member, era, permit in self.probes
            if era == row["gen"] and member.agent.online and not permit.is_settled and now - at < LEASE_SECONDS - 1.0
        ]
        assert len(sent) <= allowed

    def teardown(self) -> None:
        try:
            if self.members:
                self.all_agree()
                self.all_recover()
        finally:
            for member in self.members:
                member.task.cancel()
            self.loop.run_until_complete(asyncio.sleep(1.0))
            self.loop.close()

    def all_agree(self) -> None:
        self.heal()
        self.wait(12.0)
        row = self.network.row()
        assert all(member.agent.online for member in self.members)
        assert {member.state for member in self.members} == {row["state"]}
        if self.lasting_word is not None:
            assert row["state"] == self.lasting_word

    def all_recover(self) -> None:
        if self.network.row()["state"] == "isolated":
            self.members[0].breaker.reset()
        for _ in range(120):  # also where somebody vanished with the only lease
            for member in self.members:
                permit = member.acquire()
                if permit is not None:
                    permit.success(0.01)
            self.wait(0.5)
            if {member.state for member in self.members} == {"closed"}:
                return
        raise AssertionError(f"never closed again: {self.network.row()}, {[member.state for member in self.members]}")


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=20, stateful_step_count=16, deadline=None)


@pytest.mark.parametrize(("hears", "is_deaf"), [([True, False, True], False), ([False], True)])
def test_who_hears_some_of_the_news_is_not_taken_for_deaf(hears: list[bool], is_deaf: bool) -> None:
    fleet = Fleet()
    fleet.begin(7)
    told: list[Any] = []
    listener, pattern = fleet.members[1], cycle(hears)
    listener.registry.subscribe(told.append)
    hear = listener.line.hear
    listener.line.hear = lambda message: hear(message) if next(pattern) else None
    fleet.network.rng.choice = lambda _: 1  # nothing else is lost, doubled or swapped
    fleet.network.rng.uniform = lambda least, _: least
    for number in range(24):
        fleet.steer(0, "reset" if number % 2 else "isolate")
        fleet.wait(0.3)  # three a poll, of which the first is lost
    assert any(type(event).__name__ == "StorageDegraded" for event in told) is is_deaf
    fleet.teardown()
