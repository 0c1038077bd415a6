"""The plan of one request: a generator of steps. It decides, holds the permit, and performs nothing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilience.errors import StreamInterruptedError
from resilience.execution.decision import Move
from resilience.execution.standby import stand_by
from resilience.execution.steps import Deliver, Sleep
from resilience.execution.walk import Walk
from resilience.outcome import Kind

if TYPE_CHECKING:
    from collections.abc import Generator

    from resilience.execution.lane import Lane
    from resilience.execution.steps import Attempt, CallOptions, Reply, Step
    from resilience.outcome import Outcome
    from resilience.routing.route import Route

_SUCCESS: Final = Kind.SUCCESS  # a member of an enumeration costs ten times a module's own name


def plan(route: Route, lane: Lane, call: CallOptions) -> Generator[Step, Any, Any]:
    """One request, from its first permit to its answer. See `going_on`."""
    return going_on(Walk(route, lane, call))


def served(walk: Walk, outcome: Outcome, answer: Any) -> bool:
    """Take a whole answer as the request's, with the attempts behind it. False: it is none."""
    if outcome.kind is not _SUCCESS:
        return False
    walk.lane.upstream.attach(answer, walk.succeeded(outcome))
    return True


def going_on(
    walk: Walk, begun: tuple[Attempt, Reply] | None = None, *, looked: bool = False
) -> Generator[Step, Any, Any]:
    """The rest of one request, to its answer. Most need a first attempt and nothing else, and so no generator.

    Args:
        walk: The request.
        begun: A first attempt that has been made already, and what came of it.
        looked: Whether somebody has looked for a first target already, in vain.

    Yields:
        Attempt (reply: outcome and answer), Sleep and Wait (no reply), Deliver (reply: outcome and what was
        `Delivered`). Closing the generator cancels the request; every permit it holds is then given back.

    Returns:
        The answer; of a stream, since it has been delivered, the attempts behind it.

    Raises:
        ResilienceError: As the contract says.
        Exception: The provider's own, for a request error and for a single model string.
    """
    try:
        return (yield from _steps(walk, begun, looked=looked))
    except StreamInterruptedError:
        raise
    except Exception:
        # Whatever kept others from going on after a break, the break is what the reader has to know.
        walk.history.tell_interruption()
        raise
    finally:
        walk.leave()


def _steps(walk: Walk, begun: tuple[Attempt, Reply] | None, *, looked: bool) -> Generator[Step, Any, Any]:
    """One attempt after the other, until one serves."""
    while True:
        step, (outcome, answer) = begun or (yield from _attempted(walk, looked=looked))
        begun, looked = None, False
        if not walk.call.stream and served(walk, outcome, answer):
            return answer
        if outcome.kind is not _SUCCESS:
            move, delay = walk.failed(outcome)
        elif walk.holds:  # it is whole already: the provider has done its part, whatever the reader does
            records = walk.succeeded(outcome)
            yield Deliver(step, answer, records)
            return records
        else:
            outcome, delivered = yield Deliver(step, answer, walk.opened(outcome))
            if outcome.kind is _SUCCESS:
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


def _attempted(walk: Walk, *, looked: bool) -> Generator[Step, Any, tuple[Attempt, Reply]]:
    """The next attempt and what came of it."""
    if looked or not walk.start():
        yield from stand_by(walk)
    step = walk.attempt()
    return step, (yield step)
