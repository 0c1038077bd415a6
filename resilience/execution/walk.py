"""The walk of one request: where it stands on its route and the permit it holds. It decides; no time passes here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NoReturn

from resilience.errors import RejectedError
from resilience.execution.continuation import able_to_continue, why_not_continued
from resilience.execution.deadline import SLACK_SECONDS, is_over, is_shortened, limits
from resilience.execution.decision import (
    Move,
    Next,
    holds_back,
    longest_pause,
    may_be_last_resort,
    next_step,
    soonest,
    still_able,
)
from resilience.execution.history import History, not_tried
from resilience.execution.steps import Attempt
from resilience.outcome import Kind, Onward, Outcome
from resilience.routing.selection import rank
from resilience.upstream import Force, record_of

if TYPE_CHECKING:
    from resilience.execution.lane import Lane
    from resilience.execution.steps import Admission, CallOptions
    from resilience.execution.waiting import Ticket
    from resilience.routing.route import Route, RoutedTarget
    from resilience.upstream import AttemptRecord, CallTimeouts, Delivered


class Walk:
    """One request on its way along a route.

    Attributes:
        admission: The permits it holds now, None between attempts.
        ends_at: Monotonic time of the deadline.
        now: Monotonic time of the last thing that happened.
        waited: Seconds spent waiting for something to become eligible.
        holds: Whether streams are held back until they are whole.
        continues: What the reader has been given of a stream that broke, None until one breaks.
    """

    admission: Admission | None
    continues: Delivered | None
    _history: History | None
    _pauses: dict[RoutedTarget, float] | None
    _previous: RoutedTarget | None
    # What stands on the class is what is so until a first attempt has failed: most requests never touch it.
    waited = 0.0
    _cut = False
    _eagers: set[RoutedTarget] | None = None
    _forced: list[RoutedTarget] | None = None
    _limited: list[RoutedTarget] | None = None
    _queue_key: tuple[int, int] | None = None
    _refusals: dict[RoutedTarget, RejectedError] | None = None
    _round = 1

    def __init__(self, route: Route, lane: Lane, call: CallOptions) -> None:
        self.route = route
        self.lane = lane
        self.call = call
        monotonic = lane.monotonic  # called by a name of its own, as in all that every request does: half the cost
        self.now = now = monotonic()
        self._seconds = lane.deadline_seconds if call.deadline_seconds is None else call.deadline_seconds
        self.ends_at = now + self._seconds
        # Those that could still answer: a request that is too long for one leaves out all that are no larger.
        self.candidates = self._ranked = route.fixed or rank(route, lane.rng)
        self.holds = call.stream and lane.holds
        self._retries = lane.num_retries if call.num_retries is None else call.num_retries
        self._number = 0
        self._counted = 0
        self._tries: dict[RoutedTarget, int] = {}
        self.admission = self.continues = self._history = self._pauses = self._previous = None
        lane.budget.requests += 1

    # ---- starting an attempt

    def start(self) -> bool:
        """Take the permits of the first target in order that is eligible and has not been asked in this round."""
        if self.admission is not None:
            return True
        if self.now >= self.ends_at - SLACK_SECONDS:
            return False
        tries, pauses = self._tries, self._pauses
        for place in self.candidates:
            if place in tries or (pauses is not None and not self.can_use(place, self.now)):
                continue
            limit, seconds = self._limits_of(place)
            try:
                admission = self.lane.health.admit_eligible(place.target, timeout_seconds=seconds)
            except RejectedError as refused:
                self._refused(place, refused)
            else:
                if admission is not None:
                    return self._took(admission, place, limit)
        return False

    def force(self) -> bool:
        """Take one that is out of rotation but usable: opened by a rate, or by an outage under ``panic``."""
        force = Force.OUTAGE if self.route.settings.on_exhausted == "panic" else Force.RATE
        for place in self.candidates:
            if place not in self._tries and self.can_use(place, self.now) and self._admit(place, force):
                self._forced = [*(self._forced or ()), place]
                return True
        return False

    def again(self) -> None:
        """Take the same target's permits once more. Where they are refused, the walk goes on."""
        self.now = self.lane.monotonic()
        place = self._place
        force = Force.NO
        if self._forced is not None and place in self._forced:
            force = Force.OUTAGE if self.route.settings.on_exhausted == "panic" else Force.RATE
        elif not self.lane.health.is_eligible(place.target):
            return
        self._admit(place, force)

    def probe_eagerly(self) -> bool:
        """Be the once-a-second probe of a target that is still open, if one is due.

        A request that waits may be one again and again; one that does not wait is one once per target.
        """
        probed = self._eagers or set()
        for place in self.candidates:
            if place in probed and not self.waits:
                continue
            limit, seconds = self._limits_of(place)
            admission = self.lane.health.admit_eager(place.target, timeout_seconds=seconds)
            if admission is not None:
                self.admission, self._place, self._limits = admission, place, limit
                self._eagers = {*probed, place}
                return True
        return False

    def attempt(self) -> Attempt:
        """The attempt that the permits are for."""
        admission, place = self.admission, self._place
        assert admission is not None  # noqa: S101 (the plan asks only after a start)
        self._number += 1
        if not admission.is_eager:
            self._counted += 1
        left = self._previous or self._ranked[0]
        if left is not place:
            outcomes = self.history.outcomes
            self.lane.facts.moved(left, place, outcomes[-1].kind if outcomes else None)
        self._previous = place
        return Attempt(place, admission, self._limits, self.continues)

    # ---- after an attempt

    def succeeded(self, outcome: Outcome) -> tuple[AttemptRecord, ...]:
        """The answer is whole."""
        admission, self.admission = self.admission, None
        if admission is not None:
            admission.settle(outcome)
        lane = self.lane
        if lane.queue and (self.holds or not self.call.stream):
            lane.queue.succeeded(lane.monotonic(), self._place)
        if lane.hub.sinks:
            lane.facts.ended(self._place, outcome, self._number, stream=self.call.stream)
        return self._with(outcome)

    def opened(self, outcome: Outcome) -> tuple[AttemptRecord, ...]:
        """A stream's first content is here: it earns its place in a ramp, and those who wait may hope."""
        if self.admission is not None:
            self.admission.first_content(outcome.latency_seconds)
        if self.lane.queue:
            self.lane.queue.succeeded(self.lane.monotonic(), self._place)
        return self._with(outcome)

    def failed(self, outcome: Outcome) -> Next:
        """Write a failure down and decide what follows."""
        eager = self._settle(outcome)
        if self.continues is not None and outcome.verdict.next_target is not Onward.YES:
            # It will not take up what another has begun: that says nothing about the caller's request.
            self.candidates = tuple(other for other in self.candidates if other is not self._place)
            return Next(Move.NEXT if self._counted < self.route.settings.max_attempts else Move.EXHAUSTED)
        return self._decide(outcome, eager=eager)

    def interrupted(self, outcome: Outcome, delivered: Delivered) -> Next:
        """A stream broke after its first content. Decide who goes on, or raise."""
        eager = self._settle(outcome)
        self.lane.facts.interrupted(self._place, outcome, len(delivered.text))
        self.history.broke(delivered.text, why_not_continued(self.route, delivered))
        self.continues = delivered
        self.candidates = able_to_continue(self._ranked, delivered, self.lane.upstream)
        self.ends_at = self.now + self._seconds  # it ended with the first content; for those who wait, it is new
        step = self._decide(outcome, eager=eager)
        return step if self._place in self.candidates or step.move is not Move.SAME else Next(Move.NEXT)

    def _decide(self, outcome: Outcome, *, eager: bool) -> Next:
        place, settings = self._place, self.route.settings
        seconds_left = self.ends_at - SLACK_SECONDS - self.now
        if outcome.kind is Kind.TIMEOUT and seconds_left <= 0:
            self._cut = True  # also where the attempt's own limit ended at the same moment
        self.candidates = still_able(self.candidates, place, outcome, self.lane.upstream.context_window)
        pause = holds_back(outcome, settings, seconds_left)
        if pause:
            self._pauses = {**(self._pauses or {}), place: self.now + pause}
        if may_be_last_resort(outcome):
            self._limited = [*(self._limited or ()), place]
        tries = self._tries.get(place, 0)
        step = self._next(outcome, seconds_left, self._retries + 1 - tries if not eager else 0)
        if step.move is Move.SAME and not self.lane.budget.draw(self.now):
            self.lane.facts.budget_spent(place)
            step = self._next(outcome, seconds_left, 0)
        return step

    def leave(self) -> None:
        """Give back what is still held: the caller has gone."""
        admission, self.admission = self.admission, None
        if admission is not None:
            outcome = Outcome(Kind.CANCELLED, latency_seconds=max(0.0, self.lane.monotonic() - self.now))
            admission.settle(outcome)
            self.lane.facts.ended(self._place, outcome, self._number, stream=self.call.stream)

    # ---- when a round is over, and when nothing is eligible

    @property
    def history(self) -> History:
        """The attempts that are over."""
        history = self._history
        if history is None:
            history = self._history = History()
        return history

    @property
    def waits(self) -> bool:
        """Whether the route waits when nothing is eligible."""
        return self.route.settings.on_exhausted == "wait"

    @property
    def has_probed(self) -> bool:
        """Whether it has been an eager probe."""
        return self._eagers is not None

    def check(self) -> None:
        """Give up if nothing could help any more."""
        if not self.candidates:
            raise self.history.own_error()
        if self._counted >= self.route.settings.max_attempts or is_over(self.now, self.ends_at):
            self.give_up()

    def usable_again(self) -> list[RoutedTarget]:
        """Those that this round has asked or left alone and that are eligible: another round makes sense."""
        asked = [place for place in self.candidates if place in self._tries or not self.can_use(place, self.now)]
        return [place for place in asked if self.lane.health.is_eligible(place.target)]

    def forced_again(self) -> list[RoutedTarget]:
        """The same for those that were used although they are out of rotation."""
        return [place for place in self._forced or () if place in self.candidates]

    def round_pause(self, usable: list[RoutedTarget]) -> float:
        """Seconds to back off before the next round, which is for the ``usable`` ones."""
        left = self.ends_at - self.now
        delay = min(longest_pause(self.route.settings, self._round), left / 2) * self.lane.rng.random()
        if self._pauses:
            delay = max(delay, min(self._pauses.get(place, 0.0) for place in usable) - self.now)
        if is_over(self.now + delay, self.ends_at):
            self.give_up("no time is left for another round")
        return delay

    def next_round(self) -> None:
        """Walk again: every candidate may be asked again."""
        self.now = self.lane.monotonic()
        self._round += 1
        self._tries = {}
        self._forced = self._limited = None

    def last_resort(self) -> tuple[RoutedTarget, float]:
        """The rate-limited target that may be asked again first, and in how many seconds; else give up."""
        soonest: tuple[float, int, RoutedTarget] | None = None
        for at, place in enumerate(self._limited or ()):
            chance = self.lane.health.next_chance((place.target,))
            if chance is not None and place in self.candidates and self._tries.get(place, 0) <= self._retries:
                chance = max(chance, (self._pauses or {}).get(place, 0.0))
                soonest = min(soonest or (chance, at, place), (chance, at, place))
        if soonest is None:
            self.give_up()
        delay, place = max(0.0, soonest[0] - self.now), soonest[2]
        if self.waited + delay > self.route.settings.max_wait_seconds or is_over(self.now + delay, self.ends_at):
            self.give_up("the rate limit lasts longer than it may wait")
        if not self.lane.budget.draw(self.now):
            self.lane.facts.budget_spent(place)
            self.give_up("its budget of retries is spent")
        return place, delay

    def admit_again(self, place: RoutedTarget) -> None:
        """Ask a rate-limited target again. A refusal counts as a try, so that this comes to an end."""
        self.now = self.lane.monotonic()
        if not self._admit(place, Force.NO):
            self._tries[place] = self._tries.get(place, 0) + 1

    def line_up(self) -> Ticket:
        """Take a place in the route's queue, or give up."""
        ticket = self.lane.queue.join(self.call.priority, self._queue_key, self.can_use)
        if ticket is None:
            self.give_up(f"{self.route.settings.max_waiters} requests wait already (max_waiters)")
        self._queue_key = ticket.key
        self.next_round()
        return ticket

    def give_up(self, why: str = "") -> NoReturn:
        """Raise what the caller gets when no target has answered."""
        route, history = self.route, self.history
        if self._cut:
            self.lane.facts.out_of_time(self._seconds, self._number)
            history.deadline_exceeded(route, self._seconds)
        if history.places and (route.single or history.outcomes[-1].verdict.next_target is Onward.LARGER_WINDOW):
            # A target with a smaller window, or one that is out, must not hide that the request is too long.
            raise history.own_error()
        if is_over(self.now, self.ends_at):
            why = f"no time is left of its {self._seconds:.3g} s"
            self.lane.facts.out_of_time(self._seconds, self._number)
        elif self._counted >= route.settings.max_attempts:
            why = f"max_attempts ({route.settings.max_attempts}) is reached"
        rejections = [self._why_not(place, why) for place in self._ranked if place not in history.places]
        if route.single:
            raise rejections[0]
        chance = soonest(self._ranked, self._pauses, self.lane.health.next_chance)
        raise history.exhausted(route, rejections, why, None if chance is None else max(0.0, chance - self.now))

    # ---- parts

    def _limits_of(self, place: RoutedTarget) -> tuple[CallTimeouts, float]:
        """An attempt's limits, and the one of them that is for its first sign of life."""
        call, stream, left, own = self.call, self.call.stream, self.ends_at - self.now, place.limits
        if not stream and own.attempt <= left:
            return own, own.attempt
        limit = limits(place, left, call.deadline_seconds, stream=stream, held=self.holds)
        return limit, limit.first_token if stream else limit.attempt

    def _admit(self, place: RoutedTarget, force: Force) -> bool:
        limit, seconds = self._limits_of(place)
        try:
            admission = self.lane.health.admit(place.target, timeout_seconds=seconds, force=force)
        except RejectedError as refused:
            return self._refused(place, refused)
        return self._took(admission, place, limit)

    def _took(self, admission: Admission, place: RoutedTarget, limit: CallTimeouts) -> Literal[True]:
        self.admission = admission
        self._place = place
        self._limits = limit
        self._tries[place] = self._tries.get(place, 0) + 1
        return True

    def _refused(self, place: RoutedTarget, refused: RejectedError) -> Literal[False]:
        self._refusals = {**(self._refusals or {}), place: refused.with_traceback(None)}  # which leads back: a circle
        return False

    def _settle(self, outcome: Outcome) -> bool:
        """Tell health and sinks, and write it down. Returns whether it was an eager probe."""
        self.now = self.lane.monotonic()
        admission, self.admission = self.admission, None
        assert admission is not None  # noqa: S101 (only a started attempt can end)
        if outcome.kind is Kind.TIMEOUT and self._is_shortened(outcome):
            admission.settle(outcome, shortened=True)
        else:
            admission.settle(outcome)
        self.history.add(self._place, outcome)
        self.lane.facts.ended(self._place, outcome, self._number, stream=self.call.stream)
        return admission.is_eager

    def _is_shortened(self, outcome: Outcome) -> bool:
        return is_shortened(self._limits, self._place.limits, limit=getattr(outcome.error, "limit", None))

    def _next(self, outcome: Outcome, seconds_left: float, retries_left: int) -> Next:
        settings, place = self.route.settings, self._place
        is_eligible = self.lane.health.is_eligible
        return next_step(
            outcome,
            settings,
            retries_left=retries_left,
            attempts_left=settings.max_attempts - self._counted,
            seconds_left=seconds_left,
            chance=self.lane.rng.random(),
            others_eligible=any(
                other is not place and other not in self._tries and is_eligible(other.target)
                for other in self.candidates
            ),
            tries=self._tries.get(place, 1),
        )

    def can_use(self, place: RoutedTarget, now: float) -> bool:
        """Whether it may still be sent there, and has not been asked to wait until later."""
        return place in self.candidates and (self._pauses is None or self._pauses.get(place, 0.0) <= now)

    def _why_not(self, place: RoutedTarget, why: str) -> RejectedError:
        if place not in self.candidates:
            return not_tried(place, "its context window is not known to be larger")
        refused = self.lane.health.rejection(place.target) or (self._refusals or {}).get(place)
        return refused or not_tried(place, why or "the request ended before its turn")

    def _with(self, outcome: Outcome) -> tuple[AttemptRecord, ...]:
        record, history = record_of(self._place.target, outcome), self._history
        return (record,) if history is None else (*history.records, record)
