"""A lane: what all requests of one route share, made once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilience.clock import SystemClock
from resilience.execution.budget import Budget
from resilience.execution.facts import Facts
from resilience.execution.waiting import WaitQueue

if TYPE_CHECKING:
    from random import Random

    from resilience.clock import Clock
    from resilience.execution.steps import Health
    from resilience.routing.route import Route
    from resilience.upstream import Upstream


class Lane:
    """A route with its budget, its queue and the world around it.

    It holds the route's parts and not the route, so that a route made for one call goes when the call does.
    """

    __slots__ = (
        "budget",
        "clock",
        "deadline_seconds",
        "facts",
        "health",
        "holds",
        "hub",
        "is_virtual",
        "max_chars",
        "monotonic",
        "num_retries",
        "queue",
        "reject_empty",
        "rng",
        "until",
        "upstream",
    )

    def __init__(
        self, route: Route, upstream: Upstream, health: Health, clock: Clock, rng: Random, budget: Budget | None = None
    ) -> None:
        self.upstream = upstream
        self.health = health
        self.hub = health.hub
        self.facts = Facts(health.hub, route.name)
        self.clock = clock
        self.monotonic = clock.monotonic
        self.rng = rng
        # A clock that is not the machine's moves only when somebody sleeps on it: waiters then poll.
        self.is_virtual = not isinstance(clock, SystemClock)
        self.budget = budget or Budget(clock.monotonic())
        settings = route.settings
        self.queue = WaitQueue(settings.max_waiters)
        # What each request reads. A pydantic model is ten times as slow to read as this.
        self.deadline_seconds = settings.timeouts.deadline_seconds
        self.num_retries = settings.num_retries
        self.holds = settings.stream.buffer == "full"
        self.reject_empty = settings.validation.reject_empty
        self.max_chars = settings.validation.max_chars
        self.until: object = None  # what forgets it when its route goes

    def renew(self) -> None:
        """Start afresh in a forked child."""
        self.budget.renew_lock()
        self.queue.renew()
