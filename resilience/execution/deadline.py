"""The deadline: a request's absolute end, the attempt's limits under it, and what a missed one comes to. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilience.errors import AttemptTimeoutError
from resilience.outcome import Kind, Outcome
from resilience.upstream import CallTimeouts

if TYPE_CHECKING:
    from resilience.routing.route import RoutedTarget

SLACK_SECONDS: Final = 0.001
"""Timers and floats are not exact: less than this before the end counts as the end."""
_MISSED: Final = {
    "attempt_seconds": "{who} did not answer",
    "first_token_seconds": "the first content of {who} did not come",
    "stall_seconds": "the next piece of {who} did not come",
    "deadline_seconds": "the answer of {who}, held back until it is whole, was not whole",
}


def limits(
    place: RoutedTarget, seconds_left: float, caller_seconds: float | None, *, stream: bool, held: bool = False
) -> CallTimeouts:
    """An attempt's limits: the target's own, capped by the deadline and by the caller's ``timeout=``.

    A stream's deadline ends at its first content, so its pauses are capped only by what the caller said. One that
    is held back gives its first content to the reader when it is whole: by then it must be.

    Args:
        place: The target with its own limits.
        seconds_left: Until the deadline.
        caller_seconds: The caller's own ``timeout=``, if one was given.
        stream: Whether a stream is asked for.
        held: Whether it is held back until it is whole.

    Returns:
        ``place.limits`` itself where nothing had to be shortened.
    """
    own = place.limits
    pause = own.stall if caller_seconds is None or not stream else min(own.stall, caller_seconds)
    first = own.first_token if stream else own.attempt
    if held:
        return CallTimeouts(own.attempt, min(own.first_token, seconds_left), pause, seconds_left)
    if first <= seconds_left and pause == own.stall:
        return own
    return CallTimeouts(min(own.attempt, seconds_left), min(own.first_token, seconds_left), pause)


def is_shortened(given: CallTimeouts, own: CallTimeouts, *, limit: str | None) -> bool:
    """Whether the deadline or the caller made the limit shorter that an attempt has missed.

    Args:
        given: The attempt's limits.
        own: The target's.
        limit: Which one was missed, as the settings call it; None where a provider's client kept it.
    """
    if given is own:
        return False
    if limit is None:
        return given.attempt < own.attempt or given.first_token < own.first_token or given.stall < own.stall
    name = limit.removesuffix("_seconds")
    return name == "deadline" or getattr(given, name) < getattr(own, name)


def is_over(now: float, ends_at: float) -> bool:
    """Whether no time is left."""
    return now >= ends_at - SLACK_SECONDS


def timed_out(place: RoutedTarget, limit: str, seconds: float, latency: float) -> Outcome:
    """The outcome of an attempt that our own limit cut off.

    Args:
        place: Who was asked.
        limit: Which limit, as the settings call it.
        seconds: How long it is.
        latency: Seconds that the attempt took, or a stream to its first content.
    """
    message = f"{_MISSED[limit].format(who=place.name)} within {limit}={seconds:.3g}"
    return Outcome(Kind.TIMEOUT, AttemptTimeoutError(message, place.name, limit, seconds), latency_seconds=latency)
