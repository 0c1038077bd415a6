"""The plan of one request: a generator of steps. It decides, holds the permit, and performs nothing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilience.errors import StreamInterruptedError
from resilience.execution.decision import Move
from resilience.execution.standby import stand_by
from resilience.execution.steps import Deliver, Sleep
from resilience.execution.walk import Walk
from resilience.outcome import Kind

if TYPE_CHECKING:
    from collections.abc import Generator

    from resilience.execution.lane import Lane
    from resilience.execution.steps import CallOptions, Step
    from resilience.routing.route import Route


def plan(route: Route, lane: Lane, call: CallOptions) -> Generator[Step, Any, Any]:
    """One request, from its first permit to its answer.

    Yields:
        Attempt (reply: outcome and answer), Sleep and Wait (no reply), Deliver (reply: outcome and what was
        `Delivered`). Closing the generator cancels the request; every permit it holds is then given back.

    Returns:
        The answer; of a stream, since it has been delivered, the attempts behind it.

    Raises:
        ResilienceError: As the contract says.
        Exception: The provider's own, for a request error and for a single model string.
    """
    walk = Walk(route, lane, call)
    try:
        return (yield from _served(walk))
    except StreamInterruptedError:
        raise
    except Exception:
        # Whatever kept others from going on after a break, the break is what the reader has to know.
        walk.history.tell_interruption()
        raise
    finally:
        walk.leave()


def _served(walk: Walk) -> Generator[Step, Any, Any]:  # noqa: C901 (one ladder, read from top to bottom)
    """One attempt after the other, until one serves."""
    lane, stream = walk.lane, walk.call.stream
    while True:
        if not walk.start():
            yield from stand_by(walk)
        step = walk.attempt()
        outcome, answer = yield step
        if outcome.kind is not Kind.SUCCESS:
            move, delay = walk.failed(outcome)
        elif not stream:
            lane.upstream.attach(answer, walk.succeeded(outcome))
            return answer
        elif walk.holds:  # it is whole already: the provider has done its part, whatever the reader does
            records = walk.succeeded(outcome)
            yield Deliver(step, answer, records)
            return records
        else:
            outcome, delivered = yield Deliver(step, answer, walk.opened(outcome))
            if outcome.kind is Kind.SUCCESS:
                return walk.succeeded(outcome)
            move, delay = walk.interrupted(outcome, delivered)
        if move is Move.SAME:
            if delay > 0:
                yield Sleep(delay)
            walk.again()
        elif move is Move.STOP:
            raise walk.history.own_error()
        elif move is Move.EXHAUSTED:
            walk.give_up()
