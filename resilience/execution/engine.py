"""The engine: one plan, two drivers. Here steps are performed; nothing is decided."""

from __future__ import annotations

import random
import threading
import weakref
from dataclasses import replace
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any

from resilience.clock import SYSTEM_CLOCK
from resilience.execution.attempt import Job, aperform, perform
from resilience.execution.deadline import limits
from resilience.execution.functions import Begun
from resilience.execution.lane import Lane
from resilience.execution.plan import going_on, served
from resilience.execution.steps import Attempt, Deliver, Sleep, Wait
from resilience.execution.stream import AsyncGuardedStream, GuardedStream
from resilience.execution.waiting import PACE_SECONDS
from resilience.execution.walk import Walk
from resilience.fork import renew_in_children

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

    from resilience.clock import Clock
    from resilience.execution.budget import Budget
    from resilience.execution.steps import CallOptions, Health, Reply, Step
    from resilience.routing.route import Route
    from resilience.upstream import Operation, Upstream

    Plan = Generator[Step, Any, Any]


class Engine:
    """Serves requests on routes. Used from any thread and any number of event loops.

    Args:
        upstream: Who makes the calls.
        health: Who is eligible, and who hears what came of it.
        clock: Where time comes from.
        rng: Chance, for the order among equals and for jitter.
    """

    def __init__(
        self, upstream: Upstream, health: Health, *, clock: Clock = SYSTEM_CLOCK, rng: random.Random | None = None
    ) -> None:
        self._world = (upstream, health, clock, rng or random.Random())
        # By the route's id, and forgotten with it: a route that was made for one call goes with the call.
        self._lanes: dict[int, Lane] = {}
        # By the route's name: what is made of a route for a caller's own key, or for one call, draws from its budget.
        self._budgets: weakref.WeakValueDictionary[str, Budget] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()
        renew_in_children(self)

    async def arun(self, route: Route, operation: Operation, params: Mapping[str, Any], call: CallOptions) -> Any:
        """Serve one request in this task.

        Returns:
            The provider's answer, or an `AsyncGuardedStream`.

        Raises:
            RouteExhaustedError: No target answered.
            DeadlineExceededError: The request's time ran out during an attempt.
            RejectedError: A single model string, and its breaker is open.
            Exception: The provider's own, for a request error or a single model string.
        """
        lane = self._lanes.get(id(route)) or self._lane(route)
        job, walk, begun = Job(route, lane, operation, params, call), Walk(route, lane, call), None
        if call.stream:
            steps = going_on(walk)
            answer = await _adrive(job, steps, None)
            return AsyncGuardedStream(job, steps, answer, _adrive) if type(answer) is Deliver else answer
        try:
            if started := walk.start():
                step = walk.attempt()
                outcome, answer = reply = await aperform(job, step)
                if served(walk, outcome, answer):
                    return answer
                begun = (step, reply)
        except BaseException:
            walk.leave()
            raise
        return await _adrive(job, going_on(walk, begun, looked=not started), None)

    def run(self, route: Route, operation: Operation, params: Mapping[str, Any], call: CallOptions) -> Any:
        """Serve one request in this thread. See `arun`; a stream is a `GuardedStream`.

        Where a function returns a coroutine, a future or a generator, so does this: the request is served in there.
        """
        lane = self._lanes.get(id(route)) or self._lane(route)
        job, walk, begun = Job(route, lane, operation, params, call), Walk(route, lane, call), None
        if call.stream:
            steps = going_on(walk)
            answer = _drive(job, steps, None)
            return GuardedStream(job, steps, answer, _drive) if type(answer) is Deliver else answer
        try:
            if started := walk.start():
                step = walk.attempt()
                outcome, answer = reply = perform(job, step)
                if type(answer) is Begun:
                    answer.step = step
                    return _unfinished(job, walk, answer, None)
                if served(walk, outcome, answer):
                    return answer
                begun = (step, reply)
        except BaseException:
            walk.leave()
            raise
        steps = going_on(walk, begun, looked=not started)
        answer = _drive(job, steps, None)
        return _unfinished(job, walk, answer, steps) if type(answer) is Begun else answer

    def renew_after_fork(self) -> None:
        """Renew locks and forget waiters, in a forked child."""
        self._lock = threading.Lock()
        for lane in list(self._lanes.values()):
            lane.renew()

    def _lane(self, route: Route) -> Lane:
        with self._lock:
            key, lanes = id(route), self._lanes
            lane = lanes.get(key)
            if lane is None:
                lane = Lane(route, *self._world, self._budgets.get(route.name or ""))
                if route.name is not None:
                    self._budgets[route.name] = lane.budget
                lane.until = weakref.ref(route, lambda _: lanes.pop(key, None))
                lanes[key] = lane
            return lane


def _drive(job: Job, steps: Plan, reply: Reply | None) -> Any:
    """Perform steps until there is an answer, a stream to deliver, or a function's work that has only begun."""
    try:
        while True:
            step = steps.send(reply)
            if type(step) is Attempt:
                reply = perform(job, step)
                if type(begun := reply[1]) is Begun:
                    begun.step = step
                    return begun
                continue
            reply = None
            if type(step) is Deliver:
                return step
            if type(step) is Sleep:
                job.lane.clock.sleep(step.seconds)
            elif type(step) is Wait:
                if job.lane.is_virtual:
                    job.lane.clock.sleep(min(step.seconds, PACE_SECONDS))
                else:
                    step.ticket.wait(step.seconds)
    except StopIteration as end:
        return end.value
    except BaseException:
        steps.close()
        raise


async def _adrive(job: Job, steps: Plan, reply: Reply | None) -> Any:
    """The same in a task."""
    try:
        while True:
            step = steps.send(reply)
            if type(step) is Attempt:
                reply = await aperform(job, step)
                continue
            reply = None
            if type(step) is Deliver:
                return step
            if type(step) is Sleep:
                await job.lane.clock.asleep(step.seconds)
            elif type(step) is Wait:
                if job.lane.is_virtual:
                    await job.lane.clock.asleep(min(step.seconds, PACE_SECONDS))
                else:
                    await step.ticket.await_(step.seconds)
    except StopIteration as end:
        return end.value
    except BaseException:
        steps.close()
        raise


def _unfinished(job: Job, walk: Walk, begun: Begun, steps: Plan | None) -> Any:
    """What the caller gets for a function's unfinished work: the same kind of thing, in which the request goes on.

    Args:
        job: The request.
        walk: Where it stands.
        begun: The work, and the attempt that it is.
        steps: The plan that waits for that attempt's reply; None where there is no plan yet.
    """
    work, step = begun.work, begun.step
    assert step is not None  # noqa: S101 (filled in where the attempt is made)
    first = replace(job, params={**job.params, "begun": work})
    is_generator = isinstance(work, GeneratorType)
    if not is_generator and not isinstance(work, AsyncGeneratorType):
        return _awaited(job, first, walk, step, steps)
    # From here on it is a stream: its first item ends the wait, and after that nobody else may take over.
    walk.call.stream, walk.holds = True, job.holds
    step.limits = limits(step.place, walk.ends_at - walk.now, walk.call.deadline_seconds, stream=True, held=walk.holds)
    return (_generated if is_generator else _agenerated)(job, first, walk, step, steps)


async def _awaited(job: Job, first: Job, walk: Walk, step: Attempt, steps: Plan | None) -> Any:
    try:
        reply = await aperform(first, step)
    except BaseException:
        walk.leave()
        raise
    return await _adrive(job, *_resumed(walk, step, steps, reply))


def _generated(job: Job, first: Job, walk: Walk, step: Attempt, steps: Plan | None) -> Generator[Any, None, None]:
    try:
        steps, reply = _resumed(walk, step, steps, perform(first, step))
    except BaseException:
        walk.leave()
        raise
    with GuardedStream(job, steps, _drive(job, steps, reply), _drive) as stream:
        yield from stream


async def _agenerated(job: Job, first: Job, walk: Walk, step: Attempt, steps: Plan | None) -> AsyncGenerator[Any, None]:
    try:
        steps, reply = _resumed(walk, step, steps, await aperform(first, step))
    except BaseException:
        walk.leave()
        raise
    async with AsyncGuardedStream(job, steps, await _adrive(job, steps, reply), _adrive) as stream:
        async for item in stream:
            yield item


def _resumed(walk: Walk, step: Attempt, steps: Plan | None, reply: Reply) -> tuple[Plan, Reply | None]:
    """The plan, and what it is waiting for: an attempt that is over by now."""
    return (going_on(walk, (step, reply)), None) if steps is None else (steps, reply)
