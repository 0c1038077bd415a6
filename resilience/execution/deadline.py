"""The deadline: a request's absolute end, and the attempt's limits under it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilience.upstream import CallTimeouts

if TYPE_CHECKING:
    from resilience.routing.route import RoutedTarget

SLACK_SECONDS: Final = 0.001
"""Timers and floats are not exact: less than this before the end counts as the end."""


def limits(place: RoutedTarget, seconds_left: float, caller_seconds: float | None, *, stream: bool) -> CallTimeouts:
    """An attempt's limits: the target's own, capped by the deadline and by the caller's ``timeout=``.

    A stream's deadline ends at its first content, so its pauses are capped only by what the caller said.

    Args:
        place: The target with its own limits.
        seconds_left: Until the deadline.
        caller_seconds: The caller's own ``timeout=``, if one was given.
        stream: Whether a stream is asked for.

    Returns:
        ``place.limits`` itself where nothing had to be shortened.
    """
    own = place.limits
    pause = own.stall if caller_seconds is None or not stream else min(own.stall, caller_seconds)
    first = own.first_token if stream else own.attempt
    if first <= seconds_left and pause == own.stall:
        return own
    return CallTimeouts(min(own.attempt, seconds_left), min(own.first_token, seconds_left), pause)


def is_over(now: float, ends_at: float) -> bool:
    """Whether no time is left."""
    return now >= ends_at - SLACK_SECONDS
