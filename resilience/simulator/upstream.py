"""The upstream of a simulation: answers the engine's questions about answers and errors. Calls nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilience.outcome import Kind, Outcome
from resilience.simulator.providers import SimulatedError
from resilience.testing.upstream import ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilience.simulator.clockwork import Clockwork
    from resilience.upstream import AttemptRecord, Operation


class SimulatedUpstream(ScriptedUpstream):
    """What the driver needs of `resilience.upstream.Upstream`: it makes the calls itself, as events.

    Args:
        clock: Virtual time.
    """

    def __init__(self, clock: Clockwork) -> None:
        super().__init__(clock=clock)

    def classify(self, error: BaseException) -> Outcome:
        """What the simulated provider meant."""
        return error.outcome if isinstance(error, SimulatedError) else Outcome(Kind.UNKNOWN, error)

    def judge(self, answer: Any, operation: Operation, params: Mapping[str, Any]) -> Kind:  # noqa: ARG002 (a fate)
        """EMPTY where the fault says so."""
        return Kind.EMPTY if answer.is_empty else Kind.SUCCESS

    def text_of(self, answer: Any) -> str:
        """Nothing reads it."""
        return "" if answer.is_empty else "ok"

    def attach(self, answer: Any, attempts: tuple[AttemptRecord, ...]) -> None:
        """Nobody will ask for them."""
