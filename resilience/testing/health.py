"""A scripted registry: who is out, and why, as a test says. Remembers every admission and what became of it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from resilience.clock import SYSTEM_CLOCK
from resilience.errors import CircuitOpenError, RejectedError
from resilience.events import EventHub
from resilience.outcome import Kind
from resilience.upstream import Force

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resilience.clock import Clock
    from resilience.outcome import Outcome
    from resilience.upstream import Target

Reason = Literal["outage", "rate", "rate_limited", "account"]
_KINDS: dict[str, Kind] = {"rate_limited": Kind.RATE_LIMITED, "account": Kind.AUTH}
_EAGER_SECONDS = 1.0


@dataclass
class Out:
    """Why a target is out of rotation.

    Attributes:
        reason: What opened it.
        until: Monotonic time at which it comes back; None: not by itself.
        next_eager: Monotonic time of the next eager probe; None: none.
    """

    reason: Reason
    until: float | None
    next_eager: float | None = None


@dataclass(eq=False)
class ScriptedAdmission:
    """An admission that remembers.

    Attributes:
        outcomes: What it was settled with: exactly one, if all is well.
        shortened: Whether it was settled as shortened.
        latencies: First contents that it was told of.
        touches: How often it was touched.
    """

    target: Target
    is_eager: bool = False
    is_forced: bool = False
    is_probe: bool = False
    timeout_seconds: float | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    shortened: bool = False
    latencies: list[float] = field(default_factory=list)
    touches: int = 0

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Nothing is held here."""
        return contextlib.nullcontext()

    def first_content(self, latency_seconds: float) -> None:
        """Remember it."""
        self.latencies.append(latency_seconds)

    def touch(self) -> None:
        """Count it."""
        self.touches += 1

    def settle(self, outcome: Outcome, *, shortened: bool = False) -> None:
        """Remember it."""
        self.outcomes.append(outcome)
        self.shortened = shortened


class ScriptedHealth:
    """What the engine needs of a registry, with nothing decided by itself.

    Args:
        clock: Where time comes from.

    Attributes:
        admissions: All that were given, in order.
        refused: Targets that look eligible and are refused all the same, as after a lost race.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self.hub = EventHub()
        self.admissions: list[ScriptedAdmission] = []
        self.refused: set[str] = set()
        self._clock = clock
        self._out: dict[str, Out] = {}

    def eject(
        self, target: str, reason: Reason = "outage", seconds: float | None = None, *, eager: bool = False
    ) -> None:
        """Take a target out of rotation.

        Args:
            target: Its name.
            reason: What opened it.
            seconds: Until it comes back; None: not by itself.
            eager: Whether it is probed once a second meanwhile.
        """
        now = self._clock.monotonic()
        before = self._out.get(target)
        due = now if before is None or before.next_eager is None else before.next_eager
        self._out[target] = Out(reason, None if seconds is None else now + seconds, due if eager else None)

    def restore(self, target: str) -> None:
        """Put it back."""
        self._out.pop(target, None)

    def is_eligible(self, target: Target) -> bool:
        """Whether it is in."""
        return self._reading(target) is None

    def admit(
        self, target: Target, *, timeout_seconds: float | None = None, force: Force = Force.NO
    ) -> ScriptedAdmission:
        """Admit, or refuse with a RejectedError."""
        out = self._reading(target)
        if target.name in self.refused:
            raise RejectedError(f"{target.name} is refused", target.name, target.provider)
        allowed = {Force.NO: (), Force.RATE: ("rate",), Force.OUTAGE: ("rate", "outage")}[force]
        if out is not None and out.reason not in allowed:
            raise self._rejection(target, out)
        return self._admitted(ScriptedAdmission(target, is_forced=out is not None, timeout_seconds=timeout_seconds))

    def admit_eligible(self, target: Target, *, timeout_seconds: float | None = None) -> ScriptedAdmission | None:
        """Admit, None if it is out, or refuse with a RejectedError."""
        return self.admit(target, timeout_seconds=timeout_seconds) if self.is_eligible(target) else None

    def admit_eager(self, target: Target, *, timeout_seconds: float | None = None) -> ScriptedAdmission | None:
        """Admit the once-a-second probe."""
        out = self._reading(target)
        now = self._clock.monotonic()
        if out is None or out.next_eager is None or out.next_eager > now:
            return None
        out.next_eager = now + _EAGER_SECONDS
        return self._admitted(ScriptedAdmission(target, is_eager=True, timeout_seconds=timeout_seconds))

    def rejection(self, target: Target) -> RejectedError | None:
        """Why it is out."""
        out = self._reading(target)
        return None if out is None else self._rejection(target, out)

    def next_chance(self, targets: Sequence[Target], *, accounts: bool = False) -> float | None:  # noqa: ARG002
        """When the first comes back, whatever it waits for."""
        readings = [self._reading(target) for target in targets]
        times = [self._clock.monotonic() if out is None else out.until for out in readings]
        return min((time for time in times if time is not None), default=None)

    def next_eager(self, targets: Sequence[Target]) -> float | None:
        """When the next eager probe is due."""
        readings = [self._reading(target) for target in targets]
        return min((out.next_eager for out in readings if out and out.next_eager is not None), default=None)

    def _reading(self, target: Target) -> Out | None:
        out = self._out.get(target.name)
        return None if out is None or (out.until is not None and out.until <= self._clock.monotonic()) else out

    def _admitted(self, admission: ScriptedAdmission) -> ScriptedAdmission:
        self.admissions.append(admission)
        return admission

    def _rejection(self, target: Target, out: Out) -> RejectedError:
        left = None if out.until is None else max(0.0, out.until - self._clock.monotonic())
        reason = f"{target.name} is open ({out.reason})"
        return CircuitOpenError(reason, target.name, target.provider, left, _KINDS.get(out.reason, Kind.SERVER_ERROR))
