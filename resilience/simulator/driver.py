"""The third driver: performs the engine's steps on a heap of events. Like its two sisters it decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilience.execution.attempt import failed, judged, too_late
from resilience.execution.deadline import timed_out
from resilience.execution.steps import Attempt, Deliver, Sleep, Wait
from resilience.outcome import Kind, Outcome
from resilience.simulator.providers import SimulatedError, bad_request
from resilience.upstream import Delivered, Piece

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from resilience.execution.attempt import Job
    from resilience.execution.steps import Reply, Step
    from resilience.simulator.clockwork import Clockwork
    from resilience.simulator.ledger import Ledger
    from resilience.simulator.providers import Fate, SimulatedTarget

    Steps = Generator[Step, Any, Any]

TOUCH_SECONDS: Final = 10.0
"""So often a long stream shows that it lives; the engine's own drivers do it at most once a second."""
_FLOAT_DUST: Final = 1e-6  # what is left of subtracting large times
_SUCCESS: Final = Kind.SUCCESS


class Journey:
    """One request on its way.

    Attributes:
        number: Its number; its luck hangs on it.
        arrived: When it came.
        is_wrong: It is a bad request, and a 400 is the right answer to it.
        is_struck: It came while an incident lasted.
        is_quiet: It came in the quiet before one.
        asked: Whom it has asked, in order.
        first_at: When a stream's first content reached the caller.
    """

    __slots__ = (
        "arrived", "asked", "fate", "first_at", "is_quiet", "is_struck", "is_wrong", "job", "number", "parts",
        "started", "step", "steps", "turn", "usual",
    )  # fmt: skip

    def __init__(self, number: int, arrived: float, job: Job, steps: Steps) -> None:
        self.number = number
        self.arrived = arrived
        self.job = job
        self.steps = steps
        self.is_wrong = self.is_struck = self.is_quiet = False
        self.asked: list[str] = []
        self.first_at: float | None = None
        self.parts: tuple[str, ...] = ()
        self.turn = 0
        self.step: Attempt
        self.fate: Fate
        self.started = 0.0
        self.usual = 0.0


class Driver:
    """Performs the steps of every request of one world.

    Args:
        clock: Virtual time.
        targets: The simulated targets by name.
        ledger: Where it is written down.
    """

    def __init__(self, clock: Clockwork, targets: Mapping[str, SimulatedTarget], ledger: Ledger) -> None:
        self._clock = clock
        self._targets = targets
        self._ledger = ledger

    def advance(self, journey: Journey, reply: Reply | None = None) -> None:
        """Go on until something takes time."""
        try:
            step = journey.steps.send(reply)
        except StopIteration:
            self._answered(journey)
            return
        except Exception as error:  # noqa: BLE001 (what the caller gets, whatever it is)
            self._given_up(journey, error)
            return
        if type(step) is Attempt:
            self._attempt(journey, step)
        elif type(step) is Sleep:
            self._clock.at(self._clock.time + step.seconds, self.advance, journey)
        elif type(step) is Deliver:
            self._deliver(journey)
        elif isinstance(step, Wait):
            journey.turn += 1
            turn = (journey, journey.turn)
            step.ticket.tell(lambda: self._clock.at(self._clock.time, self._look, turn))
            self._clock.at(self._clock.time + step.seconds, self._look, turn)

    def _look(self, turn: tuple[Journey, int]) -> None:
        journey, number = turn
        if journey.turn == number:  # else it has been woken already
            journey.turn += 1
            self.advance(journey)

    # ---- one attempt

    def _attempt(self, journey: Journey, step: Attempt) -> None:
        clock, call = self._clock, journey.job.call
        now, name, asked = clock.time, step.place.target.name, journey.asked
        nth = asked.count(name) if asked else 0
        asked.append(name)
        if journey.is_wrong:
            fate = bad_request()
        else:
            fate = self._targets[name].fate(journey.number, nth, now, stream=call.stream)
        limit = step.limits.first_token if call.stream else step.limits.attempt
        journey.step, journey.fate, journey.started = step, fate, now
        self._ledger.attempts += 1
        admission = step.admission
        if admission.is_eager or admission.is_probe:  # type: ignore[attr-defined]  # the registry's own has it
            self._ledger.probes += 1
        if fate.after_seconds <= limit:
            clock.at(now + fate.after_seconds, self._came, journey)
        else:
            clock.at(now + limit, self._cut_off, journey)

    def _came(self, journey: Journey) -> None:
        """An answer, an error, or a stream's first content."""
        job, fate, started = journey.job, journey.fate, journey.started
        if fate.error is not None:
            self._failed(journey, failed(job.lane, fate.error, started))
            return
        now = self._clock.time
        if job.call.stream and not fate.is_empty:
            if job.holds:
                journey.step.admission.first_content(now - started)
                self._read_on(journey)
            else:
                self.advance(journey, (Outcome.success(now - started), fate))
            return
        reply = judged(job, fate, now - started)
        self._ledger.attempted(journey.asked[-1], now, worked=reply[0].kind is _SUCCESS)
        self.advance(journey, reply)

    def _cut_off(self, journey: Journey) -> None:
        self._failed(journey, too_late(journey.job, journey.step, journey.started))

    def _failed(self, journey: Journey, outcome: Outcome) -> None:
        self._ledger.attempted(journey.asked[-1], self._clock.time, worked=False)
        self.advance(journey, (outcome, None))

    # ---- streams

    def _deliver(self, journey: Journey) -> None:
        if journey.job.holds:  # it is whole already
            self.advance(journey)
            return
        if journey.first_at is None:
            journey.first_at = self._clock.time
        self._read_on(journey)

    def _read_on(self, journey: Journey) -> None:
        """To the end of a stream, or to its break. A stall is noticed when its limit is over."""
        now, fate, limits = self._clock.time, journey.fate, journey.step.limits
        ends_at = now + fate.rest_seconds
        if fate.breaks is Kind.TIMEOUT:
            ends_at += limits.stall
        if journey.job.holds and ends_at > journey.started + limits.whole:
            self._clock.at(journey.started + limits.whole, self._too_long, journey)
            return
        touch_at = now + TOUCH_SECONDS
        while touch_at < ends_at:
            self._clock.at(touch_at, _touch, journey.step)
            touch_at += TOUCH_SECONDS
        self._clock.at(ends_at, self._ended, journey)

    def _ended(self, journey: Journey) -> None:
        job, fate, step = journey.job, journey.fate, journey.step
        latency = fate.after_seconds
        if fate.breaks is None:
            outcome = Outcome.success(latency)
        elif fate.breaks is Kind.TIMEOUT:
            outcome = timed_out(step.place, "stall_seconds", step.limits.stall, latency)
        else:
            outcome = Outcome(fate.breaks, latency_seconds=latency)
        worked = outcome.kind is _SUCCESS
        self._ledger.attempted(journey.asked[-1], self._clock.time, worked=worked)
        if worked or job.holds:
            self.advance(journey, (outcome, fate if job.holds and worked else None))
            return
        journey.parts += ("what was said before it broke",)
        last = Piece(None, journey.parts[-1], has_content=True)
        self.advance(journey, (outcome, Delivered(journey.parts, last=last, models=(step.place.target.model,))))

    def _too_long(self, journey: Journey) -> None:
        step = journey.step
        latency = journey.fate.after_seconds
        self._failed(journey, timed_out(step.place, "deadline_seconds", step.limits.whole, latency))

    # ---- the end

    def _answered(self, journey: Journey) -> None:
        ledger, now = self._ledger, self._clock.time
        came_at = now if journey.first_at is None else journey.first_at
        latency = came_at - journey.arrived
        ledger.answered += 1
        ledger.struck_answered += journey.is_struck
        ledger.quiet_answered += journey.is_quiet
        ledger.cost_usd += self._targets[journey.asked[-1]].price_usd
        ledger.latencies.append(latency)
        usual = journey.fate.usual_seconds
        if journey.job.holds and journey.job.call.stream:
            usual += journey.fate.rest_seconds
        added = latency - usual
        ledger.added.append(added if added > _FLOAT_DUST else 0.0)

    def _given_up(self, journey: Journey, error: Exception) -> None:
        ledger = self._ledger
        if journey.is_wrong and isinstance(error, SimulatedError) and error.outcome.kind is Kind.BAD_REQUEST:
            ledger.refused += 1
            return
        name = error.outcome.kind.value if isinstance(error, SimulatedError) else type(error).__name__
        ledger.errors[name] = ledger.errors.get(name, 0) + 1
        if journey.first_at is not None:  # the part that was delivered is on the bill
            ledger.cost_usd += self._targets[journey.asked[-1]].price_usd


def _touch(step: Attempt) -> None:
    step.admission.touch()
