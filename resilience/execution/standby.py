"""Standing by: what a request does when no target can be started. Back off, force, wait in line, or give up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilience.execution.deadline import SLACK_SECONDS
from resilience.execution.steps import Sleep, Wait
from resilience.execution.waiting import PACE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Generator

    from resilience.execution.steps import Step
    from resilience.execution.walk import Walk


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
    ends_at = min(joined + walk.route.settings.max_wait_seconds - walk.waited, walk.ends_at - SLACK_SECONDS)
    ticket = walk.line_up()
    try:
        while True:
            now = walk.now = monotonic()
            released, over, first = ticket.released, now >= ends_at, queue.is_first(ticket, now)
            looks = first and not queue.pause_seconds(now)
            if (released or over or looks) and (walk.start() or walk.force()):
                queue.go(ticket, now)
                return
            if released:
                queue.rejoin(ticket)
            if (first or released) and not (over and walk.has_probed) and walk.probe_eagerly():
                return
            if looks:
                _look_for_others(walk)
            yield Wait(ticket, _look_again(walk, ends_at, awake=queue.is_awake(ticket)))
    finally:
        walk.waited += monotonic() - joined
        queue.leave(ticket)


def _look_for_others(walk: Walk) -> None:
    """Find what this request cannot use, having refused it or been told to wait, and let another have it."""
    health, now = walk.lane.health, walk.now
    for place in walk.route.targets:
        if not walk.can_use(place, now):
            targets = (place.target,)
            due = [at for at in (health.next_chance(targets), health.next_eager(targets)) if at is not None]
            if due and min(due) <= now and walk.lane.queue.pass_on(now, place):
                return


def _look_again(walk: Walk, ends_at: float, *, awake: bool) -> float:
    """In how many seconds to look again; gives up if nothing comes back in time.

    Args:
        walk: Who waits.
        ends_at: Until when it may wait.
        awake: Whether it looks before it is woken.
    """
    health, now = walk.lane.health, walk.now
    if now >= ends_at:
        most = walk.route.settings.max_wait_seconds
        walk.give_up(f"nothing came back within the {most:.3g} s that it may wait")
    targets = [place.target for place in walk.candidates]
    chance, eager = health.next_chance(targets), health.next_eager(targets)
    # An eager probe may come back at any moment, also one of somebody else's that is in flight.
    if eager is None and (chance is None or chance > ends_at):
        walk.give_up("nothing comes back while it may wait")
    if not awake:
        return ends_at - now
    pace = walk.lane.queue.pause_seconds(now) or PACE_SECONDS
    dues = [at - now for at in (chance, eager) if at is not None and at > now]
    return min(ends_at - now, pace, *dues)
