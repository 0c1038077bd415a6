"""A world in a box: one route of scripted targets, with a scripted registry, a manual clock and seeded chance."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from resilience.execution import CallOptions, Engine
from resilience.routing import Route, RoutedTarget
from resilience.settings import RouteSettings
from resilience.testing.clock import ManualClock
from resilience.testing.health import ScriptedHealth
from resilience.testing.upstream import ScriptedUpstream
from resilience.upstream import Operation, Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from resilience.clock import Clock
    from resilience.events import Event
    from resilience.testing.health import ScriptedAdmission
    from resilience.testing.upstream import Act


class World:
    """Everything that one engine needs.

    Args:
        script: What each target does; see `ScriptedUpstream`.
        targets: Their names, one letter each or a list, in order.
        single: A model string instead of a named route.
        clock: A `ManualClock` where left out.
        orders: The targets' orders; their positions where left out.
        weights: The targets' weights; 1 where left out.
        windows: Context windows by target.
        seed: Of chance.
        settings: The route's settings.

    Attributes:
        events: What sinks were told, in order.
    """

    def __init__(
        self,
        script: Mapping[str, Act | Iterable[Act]] | None = None,
        targets: Sequence[str] = "ab",
        *,
        single: bool = False,
        clock: Clock | None = None,
        orders: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
        windows: Mapping[str, int] | None = None,
        seed: int = 7,
        **settings: Any,
    ) -> None:
        self.clock: Any = clock or ManualClock()
        self.health = ScriptedHealth(self.clock)
        self.upstream = ScriptedUpstream(script, clock=self.clock, windows=windows)
        self.settings = RouteSettings(**settings)
        places = [
            RoutedTarget(
                Target(name, f"provider-of-{name}", f"model-{name}", identity=name),
                orders[at] if orders else at + 1,
                weights[at] if weights else 1.0,
                self.settings.timeouts,
            )
            for at, name in enumerate(targets)
        ]
        self.route = Route(None if single else "chat", tuple(places), self.settings, single)
        self.engine = Engine(self.upstream, self.health, clock=self.clock, rng=random.Random(seed))
        self.events: list[Event] = []
        self.health.hub.subscribe(self.events.append)

    def run(self, params: Mapping[str, Any] | None = None, **call: Any) -> Any:
        """Serve one request in this thread."""
        return self.engine.run(self.route, Operation.COMPLETION, params or {}, CallOptions(**call))

    async def arun(self, params: Mapping[str, Any] | None = None, **call: Any) -> Any:
        """Serve one request in this task."""
        return await self.engine.arun(self.route, Operation.COMPLETION, params or {}, CallOptions(**call))

    @property
    def log(self) -> str:
        """Whom the attempts went to, in order."""
        return "".join(self.upstream.log)

    @property
    def admissions(self) -> list[ScriptedAdmission]:
        """All that were given."""
        return self.health.admissions

    @property
    def told(self) -> list[str]:
        """The names of the events."""
        return [type(event).__name__ for event in self.events]

    def unsettled(self) -> list[ScriptedAdmission]:
        """Admissions that were not settled exactly once."""
        return [admission for admission in self.admissions if len(admission.outcomes) != 1]
