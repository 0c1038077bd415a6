"""The next step after a failed attempt: one pure function of what happened, the retries and the time left."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from resilience.outcome import Again, Onward

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilience.outcome import Outcome
    from resilience.routing.route import RoutedTarget
    from resilience.settings import RouteSettings
    from resilience.upstream import Target

_MOST_DOUBLINGS = 60  # 2 ** 1024 would be no float any more


class Move(Enum):
    """Where a request goes after a failed attempt."""

    SAME = auto()
    """The same target again, after a pause. Draws from the budget."""
    NEXT = auto()
    """The next target of the round; at its end another round, or waiting. Free."""
    STOP = auto()
    """The caller gets this error: no target would answer otherwise."""
    EXHAUSTED = auto()
    """Attempts or time are used up."""


class Next(NamedTuple):
    """A move, and how many seconds to pause before it."""

    move: Move
    delay_seconds: float = 0.0


_NEXT, _STOP, _EXHAUSTED = Next(Move.NEXT), Next(Move.STOP), Next(Move.EXHAUSTED)


def next_step(
    outcome: Outcome,
    settings: RouteSettings,
    *,
    retries_left: int,
    attempts_left: int,
    seconds_left: float,
    chance: float,
    budget_left: bool = True,
    others_eligible: bool = True,
    tries: int = 1,
) -> Next:
    """Decide what follows a failed attempt.

    Args:
        outcome: What came of it.
        settings: The route's.
        retries_left: On this target in this round.
        attempts_left: Of the whole request.
        seconds_left: Until the deadline.
        chance: A random number from 0 to 1, for the pause's full jitter.
        budget_left: Whether the route may afford an extra attempt.
        others_eligible: Whether another target of this round could be asked at once.
        tries: Attempts at this target in this round so far.
    """
    verdict = outcome.verdict
    onward = Onward.YES if outcome.elsewhere else verdict.next_target
    if onward is Onward.NO or (onward is Onward.IF_ASKED and not settings.validation.fallback_on_content_policy):
        return _STOP
    if attempts_left <= 0 or seconds_left <= 0:
        return _EXHAUSTED
    again = verdict.same_target
    if again not in (Again.YES, Again.QUICKLY) or outcome.should_retry is False:
        return _NEXT
    if retries_left <= 0 or not budget_left:
        return _NEXT
    step = settings.backoff_seconds if again is Again.QUICKLY else longest_pause(settings, tries)
    asked = outcome.retry_after_seconds or 0.0
    if asked > step and (others_eligible or asked > settings.max_wait_seconds):
        return _NEXT
    delay = max(chance * step, asked)
    return Next(Move.SAME, delay) if delay < seconds_left else _NEXT


def longest_pause(settings: RouteSettings, number: int) -> float:
    """Seconds of the back-off step with this number (from 1), before jitter: exponential, capped."""
    grown: float = settings.backoff_seconds * 2.0 ** min(number - 1, _MOST_DOUBLINGS)
    return min(grown, settings.backoff_max_seconds)


def holds_back(outcome: Outcome, settings: RouteSettings, seconds_left: float) -> float:
    """For how many seconds this request leaves the target alone: its Retry-After, if that much waiting fits."""
    asked = outcome.retry_after_seconds
    return asked if asked and asked <= settings.max_wait_seconds and asked < seconds_left else 0.0


def soonest(
    places: tuple[RoutedTarget, ...],
    pauses: Mapping[RoutedTarget, float] | None,
    next_chance: Callable[..., float | None],
) -> float | None:
    """Monotonic time from which a new request makes sense: the first target that is back and has nobody's Retry-After.

    Args:
        places: The route's.
        pauses: Until when providers have asked to be left alone.
        next_chance: The registry's.
    """
    chances = [(place, next_chance((place.target,), accounts=True)) for place in places]
    kept = pauses or {}
    return min((max(at, kept.get(place, at)) for place, at in chances if at is not None), default=None)


def may_be_last_resort(outcome: Outcome) -> bool:
    """Whether the target may be asked again when nothing else is eligible and the wait fits."""
    return outcome.verdict.same_target is Again.LAST_RESORT and outcome.should_retry is not False


def still_able(
    candidates: tuple[RoutedTarget, ...],
    failed: RoutedTarget,
    outcome: Outcome,
    window_of: Callable[[Target], int | None],
) -> tuple[RoutedTarget, ...]:
    """Those that this request may still be sent to.

    Args:
        candidates: Those before this failure.
        failed: Who failed.
        outcome: With what.
        window_of: A target's context window in tokens, None where nobody knows.
    """
    onward = outcome.verdict.next_target
    if onward is Onward.IF_ASKED or outcome.elsewhere:
        return tuple(other for other in candidates if other is not failed)
    if onward is not Onward.LARGER_WINDOW:
        return candidates
    least = window_of(failed.target)
    if least is None:
        return ()
    # A window that nobody knows is not known to be larger, and a smaller one would only mask the error.
    return tuple(other for other in candidates if (window_of(other.target) or 0) > least)
