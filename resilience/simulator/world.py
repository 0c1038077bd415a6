"""One world: a scenario under one policy, from the first arrival to the last answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from resilience.execution.steps import CallOptions
from resilience.simulator.arrivals import arrivals
from resilience.simulator.chance import Chance
from resilience.simulator.clockwork import Clockwork
from resilience.simulator.driver import Driver, Journey
from resilience.simulator.fleet import Fleet
from resilience.simulator.ledger import Ledger
from resilience.simulator.policies import EnginePolicy
from resilience.simulator.providers import SimulatedTarget, Strike
from resilience.simulator.scenario import TargetModel, provider_of
from resilience.simulator.traces import draw_trace
from resilience.simulator.upstream import SimulatedUpstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resilience.simulator.arrivals import Span
    from resilience.simulator.policies import Policy
    from resilience.simulator.scenario import OutageSettings, Scenario

    MakePolicy = Callable[[Scenario, Clockwork, SimulatedUpstream, Ledger, int], Policy]

BUCKETS: Final = 240
"""How finely the picture shows traffic: as many columns as fit a page."""


_DEFAULT: Final = TargetModel()


@dataclass(frozen=True, slots=True)
class Incident:
    """One outage of the world.

    Attributes:
        provider: Whose.
        targets: Which of its targets.
        starts_at: When.
        ends_at: When, also if traffic has ended by then.
        outage: How.
    """

    provider: str
    targets: tuple[str, ...]
    starts_at: float
    ends_at: float
    outage: OutageSettings


def incidents_of(scenario: Scenario, seed: int) -> tuple[Incident, ...]:
    """Every incident, told and drawn, in order."""
    mine: dict[str, list[str]] = {}
    for place in scenario.places:
        names = mine.setdefault(provider_of(place), [])
        names.append(place.name or place.model)
    found = []
    for provider, model in scenario.providers.items():
        targets = list(dict.fromkeys(mine[provider]))
        outages = list(model.outages)
        if model.trace is not None:
            outages += draw_trace(model.trace, provider, targets, seed, scenario.lasts_seconds)
        for outage in outages:
            struck = outage.targets or tuple(targets)
            end = outage.at_seconds + outage.lasts_seconds
            found.append(Incident(provider, struck, outage.at_seconds, end, outage))
    return tuple(sorted(found, key=lambda one: (one.starts_at, one.provider, one.targets)))


def spans_of(scenario: Scenario, incidents: tuple[Incident, ...]) -> tuple[Span, ...]:
    """When requests are simulated: always, or around incidents only."""
    watch, end = scenario.watch, scenario.lasts_seconds
    if watch is None:
        return ((0.0, end),)
    spans: list[list[float]] = []
    for one in incidents:
        start = max(0.0, one.starts_at - watch.before_seconds)
        stop = min(end, one.ends_at + watch.after_seconds)
        if spans and start <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], stop)
        else:
            spans.append([start, stop])
    return tuple((start, stop) for start, stop in spans) or ((0.0, end),)


class World:
    """A scenario under one policy.

    Args:
        scenario: What happens.
        seed: Of all chance.
        make_policy: Who decides.

    Attributes:
        ledger: What happened.
        incidents: The outages.
        spans: When requests came.
    """

    def __init__(self, scenario: Scenario, seed: int, make_policy: MakePolicy = EnginePolicy) -> None:
        self.scenario = scenario
        self._seed = seed
        self.incidents = incidents_of(scenario, seed)
        self.spans = spans_of(scenario, self.incidents)
        self.watched_seconds = sum(stop - start for start, stop in self.spans)
        self.clock = Clockwork()
        self.targets = {
            name: SimulatedTarget(name, provider, scenario.providers[provider].model_of(name), seed)
            if provider in scenario.providers
            else SimulatedTarget(name, provider, _DEFAULT, seed)
            for name, provider in ((place.name or place.model, provider_of(place)) for place in scenario.places)
        }
        self.ledger = Ledger(list(self.targets), scenario.fleet.processes, self.watched_seconds / BUCKETS)
        self._driver = Driver(self.clock, self.targets, self.ledger)
        upstream = SimulatedUpstream(self.clock)
        self.policy = make_policy(scenario, self.clock, upstream, self.ledger, seed)
        self._wrong = Chance(seed, "wrong requests")
        self._kinds = Chance(seed, "kinds of requests")
        self._wrongs: list[Strike] = []
        self._lasting = 0
        self._arrivals = arrivals(scenario.traffic, seed, self.spans)
        self._quiet_until = iter(self._quiet_spans())
        self._quiet = next(self._quiet_until, None)
        deadline = scenario.traffic.deadline_seconds
        self._call = CallOptions(deadline_seconds=deadline)
        self._stream_call = CallOptions(stream=True, deadline_seconds=deadline)

    def run(self) -> Ledger:
        """Let it happen."""
        fleet = None
        if isinstance(self.policy, EnginePolicy):
            if self.scenario.fleet.shared:
                fleet = Fleet(self.scenario.fleet, self.policy.processes, self.clock, self._seed)
            self.policy.open()
        for incident in self.incidents:
            self._set(incident)
        self._next_arrival(None)
        if fleet is None:
            self.clock.run()
        else:
            fleet.run()
        return self.ledger

    # ---- requests

    def _next_arrival(self, _: object) -> None:
        when = next(self._arrivals, None)
        if when is not None:
            self.clock.at(when, self._arrive, None)

    def _arrive(self, _: object) -> None:
        ledger, scenario, now = self.ledger, self.scenario, self.clock.time
        number = ledger.requests
        ledger.requests += 1
        share = scenario.traffic.stream_share
        call = self._stream_call if share and self._kinds.pair(number)[0] < share else self._call
        processes = scenario.fleet.processes
        job, steps = self.policy.start(number % processes if processes > 1 else 0, call)
        journey = Journey(number, now, job, steps)
        if self._lasting:
            journey.is_struck = True
            ledger.struck += 1
        elif self._is_quiet(now):
            journey.is_quiet = True
            ledger.quiet += 1
        if self._wrongs and any(
            self._wrong.pair(number, nth)[0] < one.outage.share for nth, one in enumerate(self._wrongs)
        ):
            journey.is_wrong = True
            ledger.wrong += 1
        self._driver.advance(journey)
        self._next_arrival(None)

    def _quiet_spans(self) -> Iterator[Span]:
        """From the beginning of each watched span to its first incident."""
        for start, stop in self.spans:
            first = min((one.starts_at for one in self.incidents if start <= one.starts_at < stop), default=stop)
            yield start, first

    def _is_quiet(self, now: float) -> bool:
        while self._quiet is not None and now >= self._quiet[1]:
            self._quiet = next(self._quiet_until, None)
        return self._quiet is not None and now >= self._quiet[0]

    # ---- incidents

    def _set(self, incident: Incident) -> None:
        outage, at = incident.outage, incident.starts_at
        strike = Strike(outage, at + outage.lasts_seconds / 2)
        flap = outage.flaps_seconds
        while at < incident.ends_at:
            stop = incident.ends_at if flap is None else min(incident.ends_at, at + flap)
            self.clock.at(at, self._begin, (incident, strike))
            self.clock.at(stop, self._end, (incident, strike))
            at = incident.ends_at if flap is None else stop + flap
        self.clock.at(incident.starts_at, self._last, 1)
        self.clock.at(incident.ends_at, self._last, -1)

    def _last(self, change: int) -> None:
        self._lasting += change

    def _begin(self, entry: tuple[Incident, Strike]) -> None:
        incident, strike = entry
        if incident.outage.fails == "bad_request":
            self._wrongs.append(strike)
            return
        for name in incident.targets:
            target = self.targets[name]
            target.strikes = (*target.strikes, strike)

    def _end(self, entry: tuple[Incident, Strike]) -> None:
        incident, strike = entry
        if incident.outage.fails == "bad_request":
            self._wrongs.remove(strike)
            return
        for name in incident.targets:
            target = self.targets[name]
            target.strikes = tuple(one for one in target.strikes if one is not strike)
