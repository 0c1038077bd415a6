"""The plan, whatever happens: it ends, keeps its limits, respects refusals, loses no cause and no permit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resilience.errors import DeadlineExceededError, RejectedError, RouteExhaustedError
from resilience.execution import CallOptions
from resilience.execution.plan import plan
from resilience.execution.steps import Attempt, Deliver, Sleep, Wait
from resilience.execution.waiting import PACE_SECONDS
from resilience.outcome import Kind, Outcome
from resilience.testing.upstream import ScriptedError
from resilience.testing.world import World

KINDS = [kind for kind in Kind if kind is not Kind.CANCELLED]
MOST_STEPS = 3000


@st.composite
def outcomes(draw: Any) -> tuple[Outcome, float]:
    """What an attempt comes to, and the share of its limit that it takes; a timeout takes all."""
    kind = draw(st.sampled_from(KINDS))
    took = 1.0 if kind is Kind.TIMEOUT else draw(st.floats(0, 0.5))
    retry_after = draw(st.none() | st.floats(0, 40))
    outcome = Outcome(
        kind, retry_after_seconds=retry_after, should_retry=draw(st.sampled_from([None, None, True, False]))
    )
    return outcome, took


CHANGES = st.sampled_from(["", "", "", "outage", "rate", "rate_limited", "account", "eager", "refuse", "restore"])

WORLDS = st.fixed_dictionaries(
    {
        "targets": st.sampled_from(["a", "ab", "abc"]),
        "single": st.booleans(),
        "on_exhausted": st.sampled_from(["wait", "fail", "panic"]),
        "num_retries": st.integers(0, 3),
        "max_attempts": st.integers(1, 8),
        "max_wait_seconds": st.sampled_from([0, 1, 10]),
        "max_waiters": st.sampled_from([0, 1000]),
        "backoff_seconds": st.sampled_from([0, 0.25, 2]),
        "seed": st.integers(0, 1000),
        "windows": st.dictionaries(st.sampled_from("abc"), st.integers(1, 4)),
        "validation": st.fixed_dictionaries({"fallback_on_content_policy": st.booleans()}),
        "timeouts": st.fixed_dictionaries(
            {"attempt_seconds": st.sampled_from([1, 30]), "deadline_seconds": st.sampled_from([5, 60])}
        ),
    }
)
SCRIPT = st.lists(st.tuples(outcomes(), st.sampled_from("abc"), CHANGES), min_size=1, max_size=40)


class Run:
    """One plan driven by hand through a script, so that nothing but the plan is under test."""

    def __init__(self, options: dict[str, Any], script: list[Any], call: CallOptions, before: list[Any]) -> None:
        options = dict(options)
        options["targets"] = options["targets"][0] if options["single"] else options["targets"]
        self.world = World(**options)
        self.call = call
        self.script = script
        self.at = 0
        self.outcomes: list[Outcome] = []
        self.targets: list[str] = []
        self.refused_attempts: list[str] = []
        self.steps = 0
        self.began = self.world.clock.monotonic()
        for target, change in before:
            self.change(target, change)
        self.error: BaseException | None = None
        self.answer: object = None
        lane = self.world.engine._lane(self.world.route)
        self.plan = plan(self.world.route, lane, call)

    def change(self, target: str, change: str) -> None:
        health = self.world.health
        if change == "refuse":
            health.refused.add(target)
        elif change == "restore":
            health.refused.discard(target)
            health.restore(target)
        elif change == "eager":
            health.eject(target, "outage", 300, eager=True)
        elif change == "account":
            health.eject(target, "account")
        elif change:
            health.eject(target, change, 3)  # type: ignore[arg-type]

    def perform(self, step: object) -> Any:
        clock = self.world.clock
        if isinstance(step, Attempt):
            (outcome, took), target, change = self.script[self.at % len(self.script)]
            self.at += 1
            if step.place.name in self.world.health.refused and not step.admission.is_eager:
                self.refused_attempts.append(step.place.name)
            limit = step.limits.first_token if self.call.stream else step.limits.attempt
            assert limit > 0
            clock.advance(limit * took)
            # A failure as upstreams report it: with an exception, but for answers that were refused.
            if outcome.kind not in {Kind.SUCCESS, Kind.EMPTY, Kind.REJECTED}:
                scripted = ScriptedError(step.place.name, outcome)
                outcome = Outcome(outcome.kind, scripted, None, outcome.retry_after_seconds, None, outcome.should_retry)
            self.outcomes.append(outcome)
            self.targets.append(step.place.name)
            self.change(target, change)
            return outcome, "answer"
        if isinstance(step, Deliver):
            return Outcome(Kind.SUCCESS), "text"
        assert isinstance(step, (Sleep, Wait))
        assert step.seconds >= 0
        clock.advance(min(step.seconds, PACE_SECONDS) if isinstance(step, Wait) else step.seconds)
        return None

    def go(self, most: int = MOST_STEPS) -> Run:
        reply: Any = None
        self.world.upstream.attach = lambda *_: None  # type: ignore[method-assign]  # the answer here is a word
        try:
            while self.steps < most:
                self.steps += 1
                reply = self.perform(self.plan.send(reply))
        except StopIteration as end:
            self.answer = end.value
        except Exception as error:
            self.error = error
        return self

    @property
    def counted(self) -> int:
        return sum(not admission.is_eager for admission in self.world.admissions)


CALLS = st.builds(
    CallOptions,
    stream=st.booleans(),
    deadline_seconds=st.none() | st.sampled_from([0.0, 0.5, 4.0, 90.0]),
    num_retries=st.none(),
)
BEFORE = st.lists(st.tuples(st.sampled_from("abc"), CHANGES), max_size=4)


@given(options=WORLDS, script=SCRIPT, call=CALLS, before=BEFORE)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_request_ends_within_its_limits_with_every_cause(
    options: dict[str, Any], script: list[Any], call: CallOptions, before: list[Any]
) -> None:
    run = Run(options, script, call, before).go()
    # it ends
    assert run.steps < MOST_STEPS
    # in time
    given_seconds = call.deadline_seconds
    deadline = options["timeouts"]["deadline_seconds"] if given_seconds is None else given_seconds
    assert run.world.clock.monotonic() - run.began <= deadline + 1e-6
    # within max_attempts
    assert run.counted <= options["max_attempts"]
    # nobody was asked who had refused
    assert run.refused_attempts == []
    # every admission was settled once, with what its attempt came to
    assert run.world.unsettled() == []
    settled = [admission.outcomes[0].kind for admission in run.world.admissions]
    assert settled == [outcome.kind for outcome in run.outcomes]
    # nobody is left in the queue
    assert len(run.world.engine._lane(run.world.route).queue) == 0
    # and the end is what the attempts make of it
    if run.outcomes and run.outcomes[-1].kind is Kind.SUCCESS:
        assert run.error is None
    else:
        check_error(run, options)


def check_error(run: Run, options: dict[str, Any]) -> None:
    error = run.error
    assert error is not None
    if isinstance(error, RouteExhaustedError):
        assert not options["single"]
        attempts = len(run.outcomes)
        for outcome, cause in zip(run.outcomes, error.exceptions, strict=False):
            assert outcome.error is None or cause is outcome.error
        rest = error.exceptions[attempts:]
        assert all(isinstance(cause, RejectedError) for cause in rest)
        assert len(rest) == len(set(options["targets"]) - set(run.targets))
        assert [record.kind for record in error.attempts] == [outcome.kind for outcome in run.outcomes]
        assert error.retry_after is None or error.retry_after >= 0
    elif isinstance(error, DeadlineExceededError):
        assert run.outcomes[-1].kind is Kind.TIMEOUT
        assert isinstance(error.__cause__, ExceptionGroup)
        assert len(error.__cause__.exceptions) == len(run.outcomes)
    elif isinstance(error, RejectedError):
        assert options["single"]
        assert run.outcomes == []
    else:
        # the provider's own, unchanged, of the last attempt
        last = run.outcomes[-1]
        assert last.error is None or error is last.error


@given(options=WORLDS, script=SCRIPT, call=CALLS, before=BEFORE, after=st.integers(1, 12))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_request_closed_at_any_step_gives_everything_back(
    options: dict[str, Any], script: list[Any], call: CallOptions, before: list[Any], after: int
) -> None:
    run = Run(options, script, call, before)
    run.go(after)
    run.plan.close()
    assert run.world.unsettled() == []
    assert len(run.world.engine._lane(run.world.route).queue) == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_closed_attempt_is_cancelled(stream: bool) -> None:
    run = Run({"single": False, "targets": "ab"}, [], CallOptions(stream=stream), [])
    run.plan.send(None)
    run.plan.close()
    assert [outcome.kind for admission in run.world.admissions for outcome in admission.outcomes] == [Kind.CANCELLED]


@given(options=WORLDS, script=SCRIPT, before=BEFORE)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_request_error_is_never_sent_anywhere_else(
    options: dict[str, Any], script: list[Any], before: list[Any]
) -> None:
    run = Run(options, script, CallOptions(), before).go()
    final = {Kind.LOCAL, Kind.BAD_REQUEST}
    assert all(outcome.kind not in final for outcome in run.outcomes[:-1])
    if run.outcomes and run.outcomes[-1].kind in final:
        assert run.error is run.outcomes[-1].error
