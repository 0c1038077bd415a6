"""What passes between the plan and its drivers, and what both need of health. Values and protocols only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from resilience.upstream import Force

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from resilience.errors import RejectedError
    from resilience.events import EventHub
    from resilience.execution.waiting import Ticket
    from resilience.outcome import Outcome
    from resilience.routing.route import RoutedTarget
    from resilience.upstream import AttemptRecord, CallTimeouts, Delivered, Target


@dataclass(slots=True)
class CallOptions:
    """What one caller asked for beside the parameters.

    Attributes:
        stream: Whether the answer comes in chunks.
        deadline_seconds: The caller's ``timeout=``: caps each attempt, and is the request's deadline instead of
            the route's.
        num_retries: Instead of the route's.
        priority: Lower is served first among those who wait.
        validate: Takes an answer's text and says whether it will do; False means the next target. Of streams only
            those are asked about that are held back: of others the text has been handed over before it is whole.
    """

    stream: bool = False
    deadline_seconds: float | None = None
    num_retries: int | None = None
    priority: int = 5
    validate: Callable[[str], bool] | None = None


@dataclass(slots=True)
class Attempt:
    """Step: ask this target once. The driver replies with what came of it and the answer, or the open stream.

    Attributes:
        place: Whom.
        admission: With these permits.
        limits: Within these limits.
        continues: To write on after this, which the reader has been given.
    """

    place: RoutedTarget
    admission: Admission
    limits: CallTimeouts
    continues: Delivered | None = None


@dataclass(slots=True)
class Sleep:
    """Step: let time pass."""

    seconds: float


@dataclass(slots=True)
class Wait:
    """Step: let time pass, or less of it if the ticket is woken."""

    ticket: Ticket
    seconds: float


@dataclass(slots=True)
class Deliver:
    """Step: hand this stream to the caller. The reply is what became of it and what was `Delivered`."""

    attempt: Attempt
    opened: Any
    records: tuple[AttemptRecord, ...]


Step = Attempt | Sleep | Wait | Deliver
Reply = tuple["Outcome", Any]


class Admission(Protocol):
    """Both permits of one attempt."""

    @property
    def is_eager(self) -> bool:
        """Whether it is the once-a-second probe of a target that is still open."""
        ...

    def held(self) -> AbstractContextManager[object]:
        """Mark the breakers as held while the attempt runs, so that guards below do not ask twice."""
        ...

    def first_content(self, latency_seconds: float) -> None:
        """A stream's first content is here."""
        ...

    def touch(self) -> None:
        """The stream goes on: renews a probe's lease."""
        ...

    def settle(self, outcome: Outcome, *, shortened: bool = False) -> None:
        """Say what came of it, once. ``shortened``: the caller's or the deadline's limit was shorter than its own."""
        ...


class Health(Protocol):
    """The registry as the engine sees it."""

    @property
    def hub(self) -> EventHub:
        """Who hears events."""
        ...

    def is_eligible(self, target: Target) -> bool:
        """Whether a target is in rotation now. No side effect."""
        ...

    def admit(self, target: Target, *, timeout_seconds: float | None = None, force: Force = Force.NO) -> Admission:
        """Permits for one attempt, or a RejectedError."""
        ...

    def admit_eligible(self, target: Target, *, timeout_seconds: float | None = None) -> Admission | None:
        """The same for a target that is in rotation, and None, told to nobody, for one that is not."""
        ...

    def admit_eager(self, target: Target, *, timeout_seconds: float | None = None) -> Admission | None:
        """The once-a-second probe of an outage-opened target, or None: not now."""
        ...

    def rejection(self, target: Target) -> RejectedError | None:
        """Why a target is not eligible now."""
        ...

    def next_chance(self, targets: Sequence[Target], *, accounts: bool = False) -> float | None:
        """When the first of them may be asked again by its own open time. None: none comes back by itself.

        ``accounts``: those that wait for an account count as well.
        """
        ...

    def next_eager(self, targets: Sequence[Target]) -> float | None:
        """When the next eager probe is due. None: none applies."""
        ...
