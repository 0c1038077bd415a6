"""Policies: who decides in a simulation. The engine with its real breakers, and the baselines it is compared with."""

from __future__ import annotations

import json
from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING, Any, Final, Protocol

from resilience.events import (
    CircuitClosed,
    CircuitHalfOpened,
    CircuitIsolated,
    CircuitOpened,
    EventHub,
    TargetOnTime,
    TargetOverdue,
)
from resilience.execution.attempt import Job
from resilience.execution.facts import Facts
from resilience.execution.lane import Lane
from resilience.execution.plan import plan
from resilience.health.registry import HealthRegistry
from resilience.routing.table import RouteTable
from resilience.simulator.ledger import CLOSED, HALF_OPEN, OPEN, Standing
from resilience.upstream import Operation, Target

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from resilience.events import Event
    from resilience.execution.steps import CallOptions, Step
    from resilience.routing.route import Route
    from resilience.simulator.clockwork import Clockwork
    from resilience.simulator.ledger import Ledger
    from resilience.simulator.scenario import Scenario
    from resilience.simulator.upstream import SimulatedUpstream

    Steps = Generator[Step, Any, Any]

NO_PARAMS: Final[dict[str, Any]] = {}


class Policy(Protocol):
    """Serves requests: gives a plan for each, whose steps the driver performs."""

    def start(self, process: int, call: CallOptions) -> tuple[Job, Steps]:
        """One request, in one of the processes."""
        ...


class Process:
    """One process of the simulation: its registry, its route and its lane, made of the scenario's settings.

    Args:
        scenario: Whose.
        process: Its number.
        clock: Virtual time.
        upstream: Who answers questions about answers.
        seed: Of its jitter.
    """

    def __init__(
        self, scenario: Scenario, process: int, clock: Clockwork, upstream: SimulatedUpstream, seed: int
    ) -> None:
        settings = scenario.settings
        self.registry = HealthRegistry(settings, clock=clock, rng=Random(f"{seed}:breakers:{process}"))
        self.table: RouteTable | None = None
        self._scenario = scenario
        self._clock = clock
        self._world = (upstream, clock, Random(f"{seed}:engine:{process}"))

    def seated(self) -> tuple[Route, Lane]:
        """Register the targets. After the fleet has been joined, as in a runtime."""
        table = RouteTable(self._scenario.settings, self.registry, make_target)
        route, _ = table.find(self._scenario.route_name, {})
        upstream, clock, rng = self._world
        lane = Lane(route, upstream, self.registry, clock, rng)
        # The circuits' events are written down; an event for each attempt would take longer than the attempt.
        lane.facts = Facts(EventHub(), route.name)
        self.table = table
        return route, lane


class EnginePolicy:
    """This package: the engine's own plan on real breakers."""

    def __init__(
        self, scenario: Scenario, clock: Clockwork, upstream: SimulatedUpstream, ledger: Ledger, seed: int
    ) -> None:
        self.processes = [
            Process(scenario, number, clock, upstream, seed) for number in range(scenario.fleet.processes)
        ]
        self._lanes: list[tuple[Route, Lane]] = []
        self._clock = clock
        self._ledger = ledger

    def open(self) -> None:
        """Register the targets of every process."""
        for number, process in enumerate(self.processes):
            route, lane = process.seated()
            self._lanes.append((route, lane))
            providers = {place.target.name: place.target.provider for place in route.targets}
            _Listening(Standing(self._ledger, number, providers), self._clock, process.registry)

    def start(self, process: int, call: CallOptions) -> tuple[Job, Steps]:
        """One request's plan."""
        route, lane = self._lanes[process]
        return Job(route, lane, Operation.COMPLETION, NO_PARAMS, call), plan(route, lane, call)


class _Listening:
    """Writes the circuits' events down."""

    def __init__(self, standing: Standing, clock: Clockwork, registry: HealthRegistry) -> None:
        self._standing = standing
        self._clock = clock
        self._generations: dict[str, int] = {}
        registry.subscribe(self.hear)

    def hear(self, event: Event) -> None:
        now = self._clock.time
        if isinstance(event, CircuitOpened | CircuitIsolated):
            if isinstance(event, CircuitOpened):
                if event.shadow:
                    return
                self._clock.at(now + event.open_seconds, self._due, event)
            self._generations[event.breaker] = event.generation
            self._standing.circuit(event.breaker, event.provider, OPEN, now)
        elif isinstance(event, CircuitHalfOpened):
            self._generations[event.breaker] = event.generation
            self._standing.circuit(event.breaker, event.provider, HALF_OPEN, now)
        elif isinstance(event, CircuitClosed):
            self._generations[event.breaker] = event.generation
            self._standing.circuit(event.breaker, event.provider, CLOSED, now)
        elif isinstance(event, TargetOverdue | TargetOnTime):
            self._standing.overdue(event.target, now, is_so=isinstance(event, TargetOverdue))

    def _due(self, event: CircuitOpened) -> None:
        """Its open time is over: it waits for a probe, also where no request comes by."""
        if self._generations.get(event.breaker) == event.generation:
            self._standing.circuit(event.breaker, event.provider, HALF_OPEN, self._clock.time)


def make_target(
    model: str,
    params: Mapping[str, Any],
    *,
    name: str | None = None,
    provider: str | None = None,
    dynamic: bool = False,
) -> Target:
    """A target as `resilience.middleware.targets.build_target` makes it, but without LiteLLM."""
    said = json.dumps([model, provider, sorted(params.items())], default=repr)
    identity = sha256(said.encode()).hexdigest()
    return Target(name or model, provider or model.split("/", 1)[0], model, params, identity, dynamic)
