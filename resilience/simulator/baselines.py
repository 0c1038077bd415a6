"""Baselines: what people do without this package, in the same world with the same luck."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

from resilience.execution.attempt import Job
from resilience.execution.deadline import SLACK_SECONDS, limits
from resilience.execution.steps import Attempt, Deliver, Sleep
from resilience.outcome import Kind, Outcome
from resilience.routing.selection import rank
from resilience.simulator.ledger import CLOSED, HALF_OPEN, OPEN
from resilience.simulator.policies import NO_PARAMS, Process
from resilience.simulator.providers import SimulatedError
from resilience.upstream import Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from contextlib import AbstractContextManager

    from resilience.execution.lane import Lane
    from resilience.execution.steps import CallOptions, Step
    from resilience.routing.route import Route, RoutedTarget
    from resilience.simulator.clockwork import Clockwork
    from resilience.simulator.ledger import Ledger
    from resilience.simulator.scenario import Scenario
    from resilience.simulator.upstream import SimulatedUpstream

    Steps = Generator[Step, Any, Any]
    Asked = Generator[Step, Any, Outcome]
    Ask = Callable[[RoutedTarget], Asked]

RETRIES: Final = 2
"""The default of the OpenAI SDK and of LiteLLM's Router."""
_RETRIABLE: Final = frozenset(
    {
        Kind.CONNECTION,
        Kind.TIMEOUT,
        Kind.SERVER_ERROR,
        Kind.OVERLOADED,
        Kind.RATE_LIMITED,
        Kind.QUOTA_EXHAUSTED,  # an SDK sees a 429
        Kind.MALFORMED,
        Kind.UNKNOWN,
    }
)
_LIMITED: Final = frozenset({Kind.RATE_LIMITED, Kind.QUOTA_EXHAUSTED})


class Unguarded:
    """A permit that nobody gave."""

    is_eager = is_probe = False

    def held(self) -> AbstractContextManager[object]:
        """Nothing is held."""
        return nullcontext()

    def first_content(self, latency_seconds: float) -> None:
        """Nobody listens."""

    def touch(self) -> None:
        """Nobody listens."""

    def settle(self, outcome: Outcome, *, shortened: bool = False) -> None:
        """Nobody listens."""


UNGUARDED: Final = Unguarded()


class BrokenStreamError(Exception):
    """A stream broke after its first content: no baseline goes on from there."""


class NobodyLeftError(Exception):
    """Nothing may be asked."""


class OutOfTimeError(Exception):
    """The deadline is over."""


class WrongAnswerError(Exception):
    """The caller was given something that is no answer."""


class Baseline(ABC):
    """What the baselines share: one lane a process, as the engine has it, and the steps of one attempt.

    Args:
        scenario: Whose settings.
        clock: Virtual time.
        upstream: Who answers questions about answers.
        ledger: Where ejections are written down.
        seed: Of back-off's jitter.
    """

    name: ClassVar[str]
    about: ClassVar[str]

    def __init__(
        self, scenario: Scenario, clock: Clockwork, upstream: SimulatedUpstream, ledger: Ledger, seed: int
    ) -> None:
        processes = range(scenario.fleet.processes)
        self._lanes = [Process(scenario, number, clock, upstream, seed).seated() for number in processes]
        self._clock = clock
        self._ledger = ledger
        self._rng = Random(f"{seed}:{self.name}")

    def start(self, process: int, call: CallOptions) -> tuple[Job, Steps]:
        """One request's plan."""
        route, lane = self._lanes[process]
        seconds = call.deadline_seconds or route.settings.timeouts.deadline_seconds
        ask = partial(self._ask, call=call, ends_at=self._clock.time + seconds)
        return Job(route, lane, Operation.COMPLETION, NO_PARAMS, call), self._plan(process, route, lane, ask)

    @abstractmethod
    def _plan(self, process: int, route: Route, lane: Lane, ask: Ask) -> Steps:
        """Which targets one request asks, and when it gives up."""

    def _ask(self, place: RoutedTarget, call: CallOptions, ends_at: float) -> Asked:
        """One attempt, a stream to its end, with the limits that the engine's attempts have."""
        left = ends_at - self._clock.time
        if left < SLACK_SECONDS:
            raise OutOfTimeError
        step = Attempt(place, UNGUARDED, limits(place, left, call.deadline_seconds, stream=call.stream))
        outcome, answer = yield step
        if outcome.kind is Kind.EMPTY:  # LiteLLM and the SDKs take it for an answer
            raise WrongAnswerError
        if call.stream and outcome.kind is Kind.SUCCESS:
            outcome, _ = yield Deliver(step, answer, ())
            if outcome.kind is not Kind.SUCCESS:
                raise BrokenStreamError
        return outcome  # type: ignore[no-any-return]  # a driver's reply

    def _backoff(self, number: int, outcome: Outcome) -> float:
        """Seconds, as the OpenAI SDK and LiteLLM wait: Retry-After up to a minute, else 0.5 s doubling to 8 s.

        Up to 0.75 s of jitter, as LiteLLM's `calculate_retry_after` adds.
        """
        asked = outcome.retry_after_seconds
        jitter = 0.75 * self._rng.random()
        return asked + jitter if asked is not None and 0 < asked <= 60 else min(0.5 * 2**number, 8.0) + jitter


class NoProtection(Baseline):
    """The first target, once."""

    name = "none"
    about = "the first target only, one attempt"

    def _plan(self, process: int, route: Route, lane: Lane, ask: Ask) -> Steps:  # noqa: ARG002 (one for all)
        place = rank(route, lane.rng)[0]
        outcome = yield from ask(place)
        _raise_unless_right(outcome)


class RetryThenFallback(Baseline):
    """Retries with back-off on each target, then the next one. No memory: every request learns by itself."""

    name = "retries"
    about = f"{RETRIES} retries with back-off on each target, then the next target"

    def _plan(self, process: int, route: Route, lane: Lane, ask: Ask) -> Steps:  # noqa: ARG002 (one for all)
        outcome: Outcome | None = None
        for place in rank(route, lane.rng):
            for number in range(RETRIES + 1):
                outcome = yield from ask(place)
                if outcome.kind is Kind.SUCCESS:
                    return
                if outcome.kind not in _RETRIABLE or number == RETRIES:
                    break
                yield Sleep(self._backoff(number, outcome))
            if outcome is not None and outcome.kind is Kind.BAD_REQUEST:
                break
        _raise_unless_right(outcome)


class _Circuit:
    """Opens after so many failures in a row, lets one call through after a time: what most breakers do."""

    __slots__ = ("failures", "open_until", "probing")

    def __init__(self) -> None:
        self.failures = 0
        self.open_until: float | None = None
        self.probing = False

    def allows(self, now: float) -> bool:
        return self.open_until is None or (now >= self.open_until and not self.probing)


class ConsecutiveBreaker(Baseline):
    """A breaker for each target that counts failures in a row, as pybreaker and most others do by default.

    Whatever is raised counts, 400 and 429 too. Half-open admits one call; its success closes the circuit.
    """

    name = "consecutive"
    about = "a breaker on each target: 5 failures in a row, open 30 s, one trial call; then the next target"
    fail_max: ClassVar[int] = 5
    open_seconds: ClassVar[float] = 30.0

    def __init__(
        self, scenario: Scenario, clock: Clockwork, upstream: SimulatedUpstream, ledger: Ledger, seed: int
    ) -> None:
        super().__init__(scenario, clock, upstream, ledger, seed)
        self._circuits = [{place.target.name: _Circuit() for place in route.targets} for route, _ in self._lanes]

    def _plan(self, process: int, route: Route, lane: Lane, ask: Ask) -> Steps:
        outcome = None
        for place in rank(route, lane.rng):
            circuit = self._circuits[process][place.target.name]
            if not circuit.allows(self._clock.time):
                continue
            trial = circuit.probing = circuit.open_until is not None
            if trial:
                self._ledger.probes += 1
                self._ledger.mark(process, place.target.name, self._clock.time, HALF_OPEN)
            try:
                outcome = yield from ask(place)
            except BrokenStreamError:
                self._heard(process, place, circuit, trial=trial, worked=False)
                raise
            self._heard(process, place, circuit, trial=trial, worked=outcome.kind is Kind.SUCCESS)
            if outcome.kind in {Kind.SUCCESS, Kind.BAD_REQUEST}:
                break
        _raise_unless_right(outcome)

    def _heard(self, process: int, place: RoutedTarget, circuit: _Circuit, *, trial: bool, worked: bool) -> None:
        now, name = self._clock.time, place.target.name
        if trial:
            circuit.probing = False
        elif circuit.open_until is not None:
            return  # it was under way when the circuit opened
        if worked:
            circuit.failures, circuit.open_until = 0, None
            self._ledger.mark(process, name, now, CLOSED)
            return
        circuit.failures += 1
        if trial or circuit.failures >= self.fail_max:
            circuit.open_until = now + self.open_seconds
            self._ledger.mark(process, name, now, OPEN)


class _Minute:
    """One deployment's calls in the calendar minute, and until when it is cooled down."""

    __slots__ = ("cooled_until", "failures", "minute", "successes")

    def __init__(self) -> None:
        self.minute = -1
        self.successes = self.failures = 0
        self.cooled_until = 0.0

    def count(self, now: float, *, worked: bool) -> None:
        minute = int(now // 60)
        if minute != self.minute:
            self.minute, self.successes, self.failures = minute, 0, 0
        if worked:
            self.successes += 1
        else:
            self.failures += 1


class LiteLLMRouter(Baseline):
    """LiteLLM's Router with its defaults, as its sources of 1.106 have them: one model group with ``order``.

    A deployment is cooled down on any 429, 401 or 404, when over 50 % of at least 5 calls of the calendar minute
    failed, or when 1,000 of 1,000 did; for 5 s or its Retry-After. Errors whose text says APIConnectionError never
    count. Two retries, at once while any deployment of the group is not cooled down; then the next order, with
    retries of its own. In a group of one each failure is followed by a pause of 0.5, 1 and 2 s with jitter, the last
    one too, before the fallback is asked.
    """

    name = "litellm"
    about = "LiteLLM's Router with its defaults: one model group, the targets by `order`"
    cooldown_seconds: ClassVar[float] = 5.0
    alone: ClassVar[bool] = False

    def __init__(
        self, scenario: Scenario, clock: Clockwork, upstream: SimulatedUpstream, ledger: Ledger, seed: int
    ) -> None:
        super().__init__(scenario, clock, upstream, ledger, seed)
        self._minutes = [{place.target.name: _Minute() for place in route.targets} for route, _ in self._lanes]

    def _plan(self, process: int, route: Route, lane: Lane, ask: Ask) -> Steps:
        outcome: Outcome | None = None
        for level in range(len(route.groups)):
            for number in range(RETRIES + 1):
                place = self._pick(process, route, level, lane)
                if place is None:
                    break
                outcome = yield from ask(place)
                self._heard(process, place, outcome, group=len(route.targets))
                if outcome.kind is Kind.SUCCESS:
                    return
                if outcome.kind not in _RETRIABLE:
                    break
                if self.alone:
                    yield Sleep(self._backoff(number, outcome))  # after the last one too
                elif not any(self._is_free(process, other) for other in route.targets):
                    break  # nothing is left in the group: the error goes on to the next order
        _raise_unless_right(outcome)

    def _pick(self, process: int, route: Route, level: int, lane: Lane) -> RoutedTarget | None:
        """The lowest order that is not cooled down; on the way down the orders, that order only."""
        groups: Sequence[Sequence[RoutedTarget]] = (
            route.groups if level == 0 and not self.alone else [route.groups[level]]
        )
        for group in groups:
            free = [place for place in group if self._is_free(process, place)]
            if free:
                return free[0] if len(free) == 1 else lane.rng.choices(free, [place.weight for place in free])[0]
        return None

    def _is_free(self, process: int, place: RoutedTarget) -> bool:
        return self._minutes[process][place.target.name].cooled_until <= self._clock.time

    def _heard(self, process: int, place: RoutedTarget, outcome: Outcome, *, group: int) -> None:
        now, name = self._clock.time, place.target.name
        minute = self._minutes[process][name]
        minute.count(now, worked=outcome.kind is Kind.SUCCESS)
        if outcome.kind is Kind.SUCCESS or not self._cools(minute, outcome, alone=self.alone or group == 1):
            return
        asked = outcome.retry_after_seconds
        minute.cooled_until = now + (self.cooldown_seconds if asked is None else asked)
        self._ledger.mark(process, name, now, OPEN)
        self._clock.at(minute.cooled_until, self._back, (process, name))

    @staticmethod
    def _cools(minute: _Minute, outcome: Outcome, *, alone: bool) -> bool:
        if outcome.kind in {Kind.BAD_REQUEST, Kind.CONTEXT_WINDOW, Kind.CONTENT_POLICY, Kind.EMPTY}:
            return False
        if outcome.kind in _LIMITED and not alone:
            return True
        calls = minute.successes + minute.failures
        if minute.failures == calls and calls >= 1000:
            return True
        if minute.failures > 0.5 * calls and calls >= 5 and not alone:
            return True
        return outcome.kind in {Kind.AUTH, Kind.MODEL_UNAVAILABLE}

    def _back(self, who: tuple[int, str]) -> None:
        process, name = who
        if self._minutes[process][name].cooled_until <= self._clock.time:
            self._ledger.mark(process, name, self._clock.time, CLOSED)


class LiteLLMGroups(LiteLLMRouter):
    """The same as its documentation shows it: each target a model group of its own, and ``fallbacks``.

    A group of one is practically never cooled down, so every request tries the dead one first, with back-off.
    """

    name = "litellm-groups"
    about = "LiteLLM's Router with its defaults: each target a group of its own, and fallbacks"
    alone = True


def _raise_unless_right(outcome: Outcome | None) -> None:
    if outcome is None:
        raise NobodyLeftError
    if outcome.kind is Kind.SUCCESS:
        return
    raise outcome.error if isinstance(outcome.error, Exception) else SimulatedError(outcome.kind, None, None)


ALL: Final[tuple[type[Baseline], ...]] = (
    NoProtection,
    RetryThenFallback,
    ConsecutiveBreaker,
    LiteLLMRouter,
    LiteLLMGroups,
)
