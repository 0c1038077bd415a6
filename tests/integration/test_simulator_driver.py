"""The simulator's driver does what the engine's own does: one world on a heap, and the same on an event loop."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from resilience.errors import RouteExhaustedError
from resilience.execution.engine import Engine
from resilience.execution.steps import CallOptions
from resilience.health.registry import HealthRegistry
from resilience.outcome import Kind, Outcome
from resilience.routing.table import RouteTable
from resilience.simulator import Scenario, simulate
from resilience.simulator.policies import make_target
from resilience.simulator.providers import SimulatedError
from resilience.simulator.world import World
from resilience.testing import VirtualTimeLoop
from resilience.testing.upstream import ScriptedUpstream
from resilience.upstream import Operation

if TYPE_CHECKING:
    from resilience.upstream import CallTimeouts, Target

FIRST, SECOND = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"


class Answer:
    def __init__(self) -> None:
        self.text = "ok"
        self._hidden_params: dict[str, Any] = {}


class Provider(ScriptedUpstream):
    """The world's targets, as coroutines that really wait."""

    def __init__(self, world: World, loop: VirtualTimeLoop) -> None:
        super().__init__(clock=loop.clock)
        self.world, self.loop = world, loop
        self.asked: dict[int, list[str]] = {}
        self.attempts_made = 0

    async def acall(self, target: Target, operation: Operation, params: Any, timeouts: CallTimeouts) -> Any:
        asked = self.asked.setdefault(params["number"], [])
        nth = asked.count(target.name)
        asked.append(target.name)
        self.attempts_made += 1
        fate = self.world.targets[target.name].fate(params["number"], nth, self.loop.time(), stream=False)
        await self.loop.clock.asleep(min(fate.after_seconds, 1e6))
        if fate.error is not None:
            raise fate.error
        return Answer()

    def classify(self, error: BaseException) -> Outcome:
        return error.outcome if isinstance(error, SimulatedError) else Outcome(Kind.UNKNOWN, error)


async def on_a_loop(scenario: Scenario) -> tuple[int, int, list[float]]:
    """The scenario's first process, as tasks. Outages are set by the world's own clockwork, moved along."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    world = World(scenario, scenario.seed)
    for incident in world.incidents:
        world._set(incident)
    provider = Provider(world, loop)
    registry = HealthRegistry(scenario.settings, clock=loop.clock, rng=random.Random(f"{scenario.seed}:breakers:0"))
    route, _ = RouteTable(scenario.settings, registry, make_target).find("chat", {})
    engine = Engine(provider, registry, clock=loop.clock, rng=random.Random(f"{scenario.seed}:engine:0"))
    latencies: list[float] = []
    failed = 0

    async def ask(number: int) -> None:
        nonlocal failed
        started = loop.time()
        try:
            await engine.arun(route, Operation.COMPLETION, {"number": number}, CallOptions())
        except (RouteExhaustedError, SimulatedError):
            failed += 1
        else:
            latencies.append(loop.time() - started)

    async def outages() -> None:
        while (at := world.clock.next_at()) is not None:
            await asyncio.sleep(at - loop.time())
            world.clock.run(at)

    tasks = [asyncio.ensure_future(outages())]
    for number, at in enumerate(world._arrivals):
        if at > loop.time():
            await asyncio.sleep(at - loop.time())
        tasks.append(asyncio.ensure_future(ask(number)))
    await asyncio.gather(*tasks)
    return provider.attempts_made, failed, sorted(latencies)


@pytest.mark.parametrize(
    "outage",
    [
        {"at_seconds": 30, "lasts_seconds": 30},
        {"at_seconds": 30, "lasts_seconds": 40, "share": 0.25},
        {"at_seconds": 30, "lasts_seconds": 20, "fails": "hang"},
        {"at_seconds": 30, "lasts_seconds": 30, "fails": "rate_limited", "retry_after_seconds": 4.0},
    ],
    ids=["hard", "grey", "hang", "rate limited"],
)
@pytest.mark.parametrize("backup_too", [False, True], ids=["one down", "both down"])
def test_the_heap_and_the_event_loop_tell_the_same_story(outage: dict[str, Any], *, backup_too: bool) -> None:
    backup = [{"at_seconds": 40, "lasts_seconds": 4}] if backup_too else []
    scenario = Scenario.load(
        {
            "seed": 11,
            "lasts_seconds": 90,
            "settings": {"routes": {"chat": {"targets": [FIRST, SECOND], "timeouts": {"attempt_seconds": 6}}}},
            "traffic": {"per_second": 15.0},
            "providers": {"openai": {"outages": [outage]}, "anthropic": {"outages": backup}},
        }
    )
    found = simulate(scenario).findings[0]
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(0.0)) as runner:
        attempts, failed, latencies = runner.run(on_a_loop(scenario))
    if not backup_too:
        assert (found.attempts, found.requests - found.answered) == (attempts, failed)
        assert found.latency_seconds["p99"] == pytest.approx(latencies[int(0.99 * len(latencies))], abs=1e-6)
        return
    # Those who wait are woken at the same moment, and a loop lets them run in another order than a heap does.
    assert found.attempts == pytest.approx(attempts, rel=0.01)
    assert found.requests - found.answered == pytest.approx(failed, abs=0.005 * found.requests)
