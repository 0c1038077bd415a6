"""What our own limits make of an attempt: the outcomes that no provider tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilience.errors import AttemptTimeoutError
from resilience.outcome import Kind, Outcome

if TYPE_CHECKING:
    from resilience.routing.route import RoutedTarget

_MISSED: Final = {
    "attempt_seconds": "{who} did not answer",
    "first_token_seconds": "the first content of {who} did not come",
    "stall_seconds": "the next piece of {who} did not come",
    "deadline_seconds": "the answer of {who}, held back until it is whole, was not whole",
}


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
