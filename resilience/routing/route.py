"""Routes: a named list of targets and how a request may walk it. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from resilience.errors import ConfigurationError
from resilience.upstream import CallTimeouts, Target

if TYPE_CHECKING:
    from resilience.settings import RouteSettings, TimeoutSettings


@dataclass(frozen=True, slots=True, eq=False)
class RoutedTarget:
    """A target's place in one route.

    Attributes:
        target: What is asked.
        order: Equal orders share the load, the next order is the fallback.
        weight: Its share among targets of equal order. 0: only after those that have a weight.
        timeouts: Its own limits, already merged over the route's.
        prefill: May a broken answer be continued here? None: nobody said.
        limits: The same limits in the form that an attempt takes. Made once, because most attempts need no
            shorter ones.
    """

    target: Target
    order: int
    weight: float
    timeouts: TimeoutSettings
    prefill: bool | None = None
    limits: CallTimeouts = field(init=False, repr=False)

    def __post_init__(self) -> None:
        times = self.timeouts
        limits = CallTimeouts(times.attempt_seconds, times.first_token_seconds, times.stall_seconds)
        object.__setattr__(self, "limits", limits)

    @property
    def name(self) -> str:
        """What people and logs call it."""
        return self.target.name


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Route:
    """A named list of targets.

    Args:
        name: What callers say. None for a single model string.
        targets: At least one. A target that is listed twice is one target: the later place is dropped.
        settings: How a request walks them.
        single: A model string instead of a route: one round, no waiting, the provider's own errors.

    Attributes:
        groups: The targets by order; within a group the load is shared by weight.
        fixed: The walk's order where chance has no part in it, else None.

    Raises:
        ConfigurationError: The route has no target.
    """

    name: str | None
    targets: tuple[RoutedTarget, ...]
    settings: RouteSettings
    single: bool = False
    groups: tuple[tuple[RoutedTarget, ...], ...] = field(init=False, repr=False)
    fixed: tuple[RoutedTarget, ...] | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.targets:
            raise ConfigurationError(f"{self.label} has no targets; allowed: at least one")
        first: dict[object, RoutedTarget] = {}
        for place in self.targets:
            first.setdefault(place.target.identity or id(place.target), place)
        targets = tuple(first.values())
        by_order = sorted(targets, key=lambda place: place.order)  # stable: equal orders keep their positions
        groups = tuple(tuple(group) for _, group in groupby(by_order, key=lambda place: place.order))
        object.__setattr__(self, "targets", targets)
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "fixed", tuple(by_order) if all(len(group) == 1 for group in groups) else None)

    @property
    def label(self) -> str:
        """How sentences name it: ``route 'chat'``, or the model of a single one."""
        if self.name is not None:
            return f"route {self.name!r}"
        return f"target {self.targets[0].name!r}" if self.targets else "a route"
