"""The policy breaker does what a model of a page does, whatever comes in whatever order."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilience.breaker.circuit import CircuitBreaker
from resilience.breaker.states import TRANSITIONS, CircuitState
from resilience.errors import CircuitIsolatedError, CircuitOpenError
from resilience.outcome import VERDICTS, Effect, Kind, Outcome
from resilience.settings import BreakerSettings
from resilience.testing.clock import ManualClock

POLICY = BreakerSettings(
    consecutive_failures=3, failure_rate=None, window_seconds=1e6,
    open_seconds=10, open_multiplier=2, open_max_seconds=60,
    account_open_seconds=20, jitter=0.0, probe_permits=1, probe_successes=3, probe_lease_seconds=7,
)  # fmt: skip


class Model:
    """What the rules say, in the plainest words. States are names, permits are (era, number)."""

    def __init__(self, now: float) -> None:
        self.state, self.era, self.streak, self.until, self.length = "closed", 0, 0.0, 0.0, 0.0
        self.reason, self.rounds, self.account_rounds, self.holds, self.trips = "", 0, 0, 0, 0
        self.held_in_row, self.forget_at, self.successes, self.leases = 0, now, 0, dict[int, float]()
        self.earned = set[int]()

    def enter(self, state: str) -> None:
        self.state, self.streak, self.successes, self.earned, self.leases = state, 0.0, 0, set(), {}
        self.era += 1

    def look(self, now: float) -> str:
        return "half-open" if self.state == "open" and now >= self.until else self.state

    def allows(self, now: float) -> bool:
        if self.state == "half-open":
            return sum(end > now for end in self.leases.values()) < 2 ** min(len(self.earned), 3)
        return self.look(now) in {"closed", "half-open"}

    def open(self, reason: str, now: float, outcome: Outcome) -> None:
        if self.state == "closed" and now >= self.forget_at:
            self.rounds = self.account_rounds = 0
        if self.state == "half-open" and reason == self.reason:
            self.rounds += reason == "outage"
            self.account_rounds += reason == "account"
        wanted = min(outcome.retry_after_seconds or 0.0, 60.0)
        if reason == "hold":
            length = wanted or min(2.0**self.held_in_row, 60.0)
            self.held_in_row, self.holds = self.held_in_row + 1, self.holds + 1
        elif reason == "account":
            length = outcome.reset_seconds or max(min(20.0 * 4**self.account_rounds, 3600.0), wanted)
            self.trips += 1
        else:
            length = max(min(10.0 * 2**self.rounds, 60.0), wanted)
            self.trips += 1
        end = max(now + length, self.until if self.state == "open" else 0.0)
        self.enter("open")
        self.reason, self.until, self.length = reason, end, end - now

    def close(self, now: float) -> None:
        was_out, self.forget_at = self.state in {"open", "half-open"}, now + self.length
        if not was_out:
            self.rounds, self.account_rounds, self.forget_at = 0, 0, now
        self.enter("closed")

    def settle(self, era: int, number: int, effect: Effect, outcome: Outcome, slow: bool, now: float) -> None:
        if era != self.era or (self.state == "half-open" and self.leases.pop(number, None) is None):
            return
        slow = slow and number not in self.earned
        if effect in {Effect.HOLD, Effect.ACCOUNT}:
            self.open("hold" if effect is Effect.HOLD else "account", now, outcome)
        elif self.state == "closed" and effect is Effect.FAILURE:
            self.streak += 2 if outcome.kind is Kind.TIMEOUT else 1
            if self.streak >= 3:
                self.open("outage", now, outcome)
        elif self.state == "closed" and effect is Effect.SUCCESS:
            self.streak, self.held_in_row = 0.0, 0
        elif self.state == "half-open" and (effect is Effect.FAILURE or (slow and effect is not Effect.IGNORED)):
            self.open("outage", now, Outcome(Kind.TIMEOUT) if effect is not Effect.FAILURE else outcome)
        elif self.state == "half-open" and effect is not Effect.IGNORED:
            self.successes, self.held_in_row = self.successes + 1, 0
            self.earned.add(number)
            if self.successes == 3:
                self.close(now)

    def content(self, era: int, number: int, slow: bool, now: float) -> None:
        if era != self.era or self.state != "half-open" or number not in self.leases or number in self.earned:
            return
        if slow:
            self.settle(era, number, Effect.FAILURE, Outcome(Kind.TIMEOUT), slow, now)
        else:
            self.earned.add(number)
            self.leases[number] = now + 7


class BreakerAgainstModel(RuleBasedStateMachine):
    """Every rule is one thing that callers, people or time can do."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.model = Model(self.clock.monotonic())
        self.breaker = CircuitBreaker(name="m", policy=POLICY, clock=self.clock, rng=random.Random(1))
        self.visited = [self.breaker.rules.state.name] if self.breaker.rules else []
        self.numbers = 0
        self.taken: list[tuple[Any, int, int]] = []
        enter = self.breaker.enter_locked

        def watched(name: CircuitState) -> None:
            self.visited.append(name)
            enter(name)

        self.breaker.enter_locked = watched  # type: ignore[method-assign]

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 3.0, 7.0, 10.0, 20.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.model.state == "open")
    @rule()
    def the_open_time_ends(self) -> None:
        self.clock.advance(max(0.0, self.model.until - self.now))

    @rule(times=st.sampled_from([1, 1, 2, 5]))
    def ask(self, times: int) -> None:
        for _ in range(times):
            self.ask_once()

    def ask_once(self) -> None:
        model, now = self.model, self.now
        allowed, state = model.allows(now), model.look(now)
        if not allowed:
            error = CircuitIsolatedError if state == "isolated" else CircuitOpenError
            with pytest.raises(error) as refused:
                self.breaker.acquire(timeout_seconds=8)
            if state == "open":
                assert refused.value.retry_after == pytest.approx(model.until - now)
            return
        if model.state == "open":
            model.enter("half-open")
        permit = self.breaker.acquire(timeout_seconds=8)
        assert permit.is_probe == (model.state == "half-open")
        self.numbers += 1
        if model.state == "half-open":
            model.leases = {number: end for number, end in model.leases.items() if end > now}
            model.leases[self.numbers] = now + 7
        self.taken.append((permit, model.era, self.numbers))

    @precondition(lambda self: self.taken)
    @rule(
        which=st.sampled_from([-1, -1, -2, 0]),
        kind=st.sampled_from(
            [Kind.SUCCESS, Kind.SERVER_ERROR] * 3
            + [Kind.TIMEOUT, Kind.CANCELLED, Kind.BAD_REQUEST]
            + [Kind.RATE_LIMITED, Kind.AUTH] * 2
        ),
        wanted=st.sampled_from([None, None, None, 5.0, 30.0, 500.0]),
        reset=st.sampled_from([None, None, None, 100.0, 5000.0]),
        slow=st.sampled_from([False, False, False, False, True]),
    )
    def settle(self, which: int, kind: Kind, wanted: float | None, reset: float | None, slow: bool) -> None:
        permit, era, number = self.taken.pop(which if -len(self.taken) <= which else 0)
        outcome = Outcome(
            kind, retry_after_seconds=wanted, reset_seconds=reset if kind is Kind.AUTH else None,
            latency_seconds=4.5 if slow else 1.0,
        )  # fmt: skip
        effect = VERDICTS[kind].target
        permit.settle(outcome, effect)
        self.model.settle(era, number, effect, outcome, slow, self.now)
        permit.failure(kind=Kind.TIMEOUT)  # said twice, counted once

    @precondition(lambda self: self.taken)
    @rule(which=st.sampled_from([-1, -2, 0]), slow=st.sampled_from([False, False, False, True]))
    def begin_to_answer(self, which: int, slow: bool) -> None:
        permit, era, number = self.taken[which if -len(self.taken) <= which else 0]
        permit.first_content(4.5 if slow else 1.0)
        self.model.content(era, number, slow, self.now)

    @precondition(lambda self: self.model.look(self.now) == "half-open")
    @rule()
    def every_stream_begins_and_none_goes_on(self) -> None:
        for _ in range(12):
            self.ask_once()
            self.begin_to_answer(-1, slow=False)
            self.both_agree()

    @rule(kind=st.sampled_from([Kind.SERVER_ERROR, Kind.RATE_LIMITED, Kind.AUTH, Kind.SUCCESS]))
    def the_same_happens_round_after_round(self, kind: Kind) -> None:
        for _ in range(4):
            if self.model.state == "open":
                self.the_open_time_ends()
            self.ask_once()
            if self.taken:
                self.settle(-1, kind, None, None, slow=False)
            self.both_agree()

    @precondition(lambda self: self.model.state == "isolated" or self.numbers % 10 == 5)
    @rule()
    def somebody_resets_it(self) -> None:
        self.breaker.reset()
        self.model.enter("closed")
        self.model.rounds = self.model.account_rounds = self.model.held_in_row = 0

    @precondition(lambda self: self.numbers % 10 == 9)
    @rule()
    def somebody_isolates_it(self) -> None:
        self.breaker.isolate("drill")
        self.model.enter("isolated")

    @invariant()
    def both_agree(self) -> None:
        model, breaker = self.model, self.breaker
        assert breaker.current_state == model.look(self.now)
        assert breaker.is_eligible() == model.allows(self.now)
        assert breaker.fail_counter == model.streak
        assert breaker.generation == model.era + 1
        assert breaker.rules is not None
        assert (breaker.rules.opens, breaker.rules.holds) == (model.trips, model.holds)

    @invariant()
    def only_allowed_transitions_were_made(self) -> None:
        for before, after in zip(self.visited, self.visited[1:], strict=False):
            assert after in TRANSITIONS[before]


BreakerAgainstModel.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestBreakerAgainstModel = BreakerAgainstModel.TestCase
