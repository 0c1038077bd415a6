"""What the engine tells sinks about attempts and requests. Without a sink no event is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilience.events import (
    AttemptFailed,
    AttemptIgnored,
    AttemptSucceeded,
    BudgetExhausted,
    DeadlineExceeded,
    FallbackTaken,
    StreamInterrupted,
)
from resilience.outcome import Effect, Kind

if TYPE_CHECKING:
    from resilience.events import EventHub
    from resilience.outcome import Outcome
    from resilience.routing.route import RoutedTarget

_QUIET = frozenset({Effect.IGNORED, Effect.ANSWERED})


class Facts:
    """The facts of one route.

    Args:
        hub: Who hears them.
        route: Its name.
    """

    __slots__ = ("_hub", "_route")

    def __init__(self, hub: EventHub, route: str | None) -> None:
        self._hub = hub
        self._route = route

    def ended(self, place: RoutedTarget, outcome: Outcome, number: int, *, stream: bool) -> None:
        """An attempt is over."""
        if not self._hub.sinks:
            return
        target, latency, kind = place.target, outcome.latency_seconds, outcome.kind
        if kind is Kind.SUCCESS:
            made = AttemptSucceeded.of(self._route, target.name, target.provider, latency, number, stream=stream)
            self._hub.publish(made)
            return
        who = (self._route, target.name, target.provider)
        error, status = outcome.error, outcome.status
        what = (kind, status, None if error is None else type(error).__name__)
        if outcome.verdict.target in _QUIET:
            self._hub.publish(AttemptIgnored(*who, *what, latency, number, stream))
        else:
            self._hub.publish(AttemptFailed(*who, *what, outcome.retry_after_seconds, latency, number, stream))

    def moved(self, left: RoutedTarget, place: RoutedTarget, kind: Kind | None) -> None:
        """A request went on to another target, or passed over its first choice (then without a kind)."""
        if left is not place and self._hub.sinks:
            self._hub.publish(FallbackTaken(self._route, left.target.name, place.target.name, kind))

    def interrupted(self, place: RoutedTarget, outcome: Outcome, delivered_chars: int) -> None:
        """A stream broke after its first content."""
        if self._hub.sinks:
            target = place.target
            self._hub.publish(
                StreamInterrupted(self._route, target.name, target.provider, outcome.kind, delivered_chars)
            )

    def budget_spent(self, place: RoutedTarget) -> None:
        """A retry on the same target was not to be had."""
        if self._hub.sinks:
            self._hub.publish(BudgetExhausted(self._route, place.target.name))

    def out_of_time(self, seconds: float, attempts: int) -> None:
        """A request's deadline is over."""
        if self._hub.sinks:
            self._hub.publish(DeadlineExceeded(self._route, seconds, attempts))
