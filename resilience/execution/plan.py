"""The plan of one request: a generator of steps. It decides, holds the permit, and performs nothing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilience.execution.decision import Move
from resilience.execution.steps import Deliver, Sleep, Wait
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


def stand_by(walk: Walk) -> Generator[Step, Any, None]:
    """Nothing could be started. Come back with a permit, or raise what the caller gets."""
    while walk.admission is None:
        walk.check()
        if walk.route.single:
            yield from _last_resort(walk)
            continue
        usable = walk.usable_again()
        if not usable and walk.force():
            return
        usable = usable or walk.forced_again()
        if usable:
            yield Sleep(walk.round_pause(usable))
            walk.next_round()
            walk.start()
        elif walk.waits:
            yield from _queue_up(walk)
        elif not walk.probe_eagerly():
            yield from _last_resort(walk)


def _last_resort(walk: Walk) -> Generator[Step, Any, None]:
    """A rate limit ends soon, and nothing else is eligible: ask that target again."""
    place, delay = walk.last_resort()
    if delay > 0:
        yield Sleep(delay)
    walk.waited += delay
    walk.admit_again(place)


def _queue_up(walk: Walk) -> Generator[Step, Any, None]:
    """Wait in line until something is eligible, at most as long as the settings and the deadline allow."""
    queue, monotonic = walk.lane.queue, walk.lane.monotonic
    joined = monotonic()
    ends_at = walk.waits_until(joined)
    ticket = walk.line_up()
    try:
        while True:
            now = walk.now = monotonic()
            over = now >= ends_at
            first = queue.is_first(ticket)
            if (ticket.released or over or (first and not queue.pause_seconds(now))) and walk.start_anything():
                queue.go(ticket, now)
                return
            if ticket.released:
                queue.rejoin(ticket)
                first = queue.is_first(ticket)
            if first and not (over and walk.has_probed) and walk.probe_eagerly():
                return
            seconds = walk.look_again(ends_at, first=first)
            yield Wait(ticket, seconds)
    finally:
        walk.waited += monotonic() - joined
        queue.leave(ticket)
