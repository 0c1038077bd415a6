"""The plan of one request: a generator of steps. It decides, holds the permit, and performs nothing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
        Attempt (reply: outcome and answer), Sleep and Wait (no reply), Deliver (reply: outcome and the text that
        was delivered). Closing the generator cancels the request; every permit it holds is then given back.

    Returns:
        The answer; of a stream nothing, since it has been delivered.

    Raises:
        ResilienceError: As the contract says.
        Exception: The provider's own, for a request error and for a single model string.
    """
    walk = Walk(route, lane, call)
    try:
        while True:
            if not walk.start():
                yield from stand_by(walk)
            step = walk.attempt()
            outcome, answer = yield step
            if outcome.kind is Kind.SUCCESS:
                if not call.stream:
                    lane.upstream.attach(answer, walk.succeeded(outcome))
                    return answer
                records = walk.opened(outcome)
                outcome, delivered = yield Deliver(step, answer, records)
                if outcome.kind is Kind.SUCCESS:
                    walk.succeeded(outcome)
                    return None
                # The place for other policies: `continue` would go on from here with what was delivered.
                walk.interrupted(outcome, delivered)
            move, delay = walk.failed(outcome)
            if move is Move.SAME:
                if delay > 0:
                    yield Sleep(delay)
                walk.again()
            elif move is Move.STOP:
                raise walk.history.own_error()
            elif move is Move.EXHAUSTED:
                walk.give_up()
    finally:
        walk.leave()
