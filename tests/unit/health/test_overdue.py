"""Overdue: a hang is noticed before the first timeout strikes, and slow is not mistaken for it."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from resilience.errors import RejectedError
from resilience.events import TargetOnTime, TargetOverdue
from resilience.health.registry import HealthRegistry
from resilience.outcome import Kind, Outcome
from resilience.settings import Settings
from resilience.testing.clock import ManualClock
from resilience.upstream import Target

if TYPE_CHECKING:
    from resilience.health.admission import Admission

CLAUDE = Target("claude", "anthropic", "anthropic/claude", identity="3")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def warmed_up(clock: ManualClock, *, latency: float = 0.2, calls: int = 20, **breaker: Any) -> HealthRegistry:
    health = HealthRegistry(Settings.load({"breaker": {"jitter": 0.0, **breaker}}), clock=clock)
    health.add(CLAUDE)
    for _ in range(calls):
        admission = health.admit(CLAUDE)
        clock.advance(latency)
        admission.settle(Outcome(Kind.SUCCESS, latency_seconds=latency))
    return health


def hang(health: HealthRegistry, calls: int = 5) -> list[Admission]:
    return [health.admit(CLAUDE) for _ in range(calls)]


def test_five_calls_that_hang_take_the_target_out_but_for_one_call_a_second(clock: ManualClock) -> None:
    health = warmed_up(clock)
    heard: list[Any] = []
    health.subscribe(heard.append)
    stuck = hang(health)
    clock.advance(1.0)  # five times the typical 0.2 s
    assert health.is_eligible(CLAUDE)
    clock.advance(0.01)
    assert not health.is_eligible(CLAUDE)
    with pytest.raises(RejectedError, match="claude is overdue: 5 calls hang"):
        health.admit(CLAUDE)
    admitted = 0
    for _ in range(100):
        clock.advance(0.1)
        if health.is_eligible(CLAUDE):
            stuck.append(health.admit(CLAUDE))
            admitted += 1
    assert 9 <= admitted <= 10
    assert health.snapshot().targets["claude"].overdue
    overdue = [event for event in heard if isinstance(event, TargetOverdue)]
    assert [(event.target, event.in_flight, event.typical_seconds) for event in overdue] == [("claude", 5, 0.2)]


def test_one_success_puts_an_overdue_target_back(clock: ManualClock) -> None:
    health = warmed_up(clock)
    heard: list[Any] = []
    health.subscribe(heard.append)
    stuck = hang(health)
    clock.advance(2)
    assert not health.is_eligible(CLAUDE)
    stuck[0].first_content(2.0)
    assert health.is_eligible(CLAUDE)
    assert not health.snapshot().targets["claude"].overdue
    assert [type(event) for event in heard] == [TargetOverdue, TargetOnTime]
    clock.advance(100)
    # Four still hang, and something has succeeded since they started.
    assert health.is_eligible(CLAUDE)


def test_a_trip_ends_overdue_because_the_breaker_speaks_for_the_target_now(clock: ManualClock) -> None:
    health = warmed_up(clock)
    heard: list[Any] = []
    stuck = hang(health, 8)
    clock.advance(60)
    health.is_eligible(CLAUDE)
    health.subscribe(heard.append)
    for admission in stuck[:3]:
        admission.settle(Outcome(Kind.TIMEOUT))  # two each
    assert health.targets["claude"].current_state == "open"
    assert sum(isinstance(event, TargetOnTime) for event in heard) == 1
    heard.clear()
    clock.advance(10)
    assert health.is_eligible(CLAUDE)  # as a probe: the old hanging calls do not say no a second time
    health.admit(CLAUDE).settle(Outcome(Kind.SUCCESS))
    assert not any(isinstance(event, TargetOverdue) for event in heard)


@pytest.mark.parametrize(
    ("calls", "stuck", "factor", "age"),
    [
        (19, 5, 5.0, 100.0),  # nothing is typical yet
        (20, 4, 5.0, 100.0),  # four are an accident
        (20, 5, None, 100.0),  # off
        (20, 5, 5.0, 0.99),  # not five times as long
    ],
)
def test_a_target_is_not_called_overdue_without_reason(
    clock: ManualClock, calls: int, stuck: int, factor: float | None, age: float
) -> None:
    health = warmed_up(clock, calls=calls, overdue_factor=factor)
    waiting = hang(health, stuck)
    clock.advance(age)
    assert health.is_eligible(CLAUDE)
    assert len(waiting) == stuck


def test_below_a_quarter_of_a_second_nobody_is_overdue(clock: ManualClock) -> None:
    health = warmed_up(clock, latency=0.001)
    waiting = hang(health)
    clock.advance(0.25)
    assert health.is_eligible(CLAUDE)
    clock.advance(0.01)
    assert not health.is_eligible(CLAUDE)
    assert len(waiting) == 5


def test_streams_that_have_their_first_content_do_not_hang(clock: ManualClock) -> None:
    health = warmed_up(clock)
    streams = hang(health, 10)
    clock.advance(0.2)
    for stream in streams:
        stream.first_content(0.2)
    clock.advance(100)
    assert health.is_eligible(CLAUDE)


def test_dropped_admissions_do_not_hang(clock: ManualClock) -> None:
    health = warmed_up(clock)
    dropped = hang(health, 10)
    del dropped
    gc.collect()
    clock.advance(100)
    assert health.is_eligible(CLAUDE)
    assert health.snapshot().targets["claude"].in_flight == 0


def test_typical_follows_a_target_that_became_slower(clock: ManualClock) -> None:
    health = warmed_up(clock, latency=0.1, calls=64)
    for _ in range(64):
        health.admit(CLAUDE).settle(Outcome(Kind.SUCCESS, latency_seconds=3.0))
    assert health.snapshot().targets["claude"].typical_seconds == 3.0


def test_fifty_threads_get_one_call_of_an_overdue_second(clock: ManualClock) -> None:
    health = warmed_up(clock)
    stuck = hang(health)
    clock.advance(2)
    assert not health.is_eligible(CLAUDE)
    clock.advance(1)
    start, got, refused = threading.Barrier(50), [], []

    def work() -> None:
        start.wait()
        try:
            got.append(health.admit(CLAUDE))
        except RejectedError:
            refused.append(1)

    with ThreadPoolExecutor(50) as pool:
        for future in [pool.submit(work) for _ in range(50)]:
            future.result()
    assert (len(got), len(refused), len(stuck)) == (1, 49, 5)


class Seen(dict[int, float]):
    """Counts how many of its values anybody looked at."""

    looked = 0

    def values(self) -> Any:
        for value in super().values():
            self.looked += 1
            yield value


def test_a_hang_is_looked_for_without_looking_at_every_call_in_flight(clock: ManualClock) -> None:
    health = warmed_up(clock)
    stuck = hang(health, 1000)
    in_flight = health._roster.find(CLAUDE).in_flight
    in_flight._started = seen = Seen(in_flight._started)
    clock.advance(0.3)  # long enough to ask, too short to be overdue
    for _ in range(10):
        assert health.is_eligible(CLAUDE)
        stuck.append(health.admit(CLAUDE))
    assert 0 < seen.looked <= 5 * 20
    clock.advance(1.0)
    assert not health.is_eligible(CLAUDE)


def test_calls_that_come_and_go_while_a_hang_is_looked_for_disturb_nobody(clock: ManualClock) -> None:
    health = warmed_up(clock)
    stuck = hang(health)
    in_flight = health._roster.find(CLAUDE).in_flight

    class Changing(dict[int, float]):
        asked = 0

        def values(self) -> Any:
            self.asked += 1
            if self.asked == 1:
                raise RuntimeError("dictionary changed size during iteration")
            return super().values()

    in_flight._started = changing = Changing(in_flight._started)
    clock.advance(1.01)
    assert not health.is_eligible(CLAUDE)
    assert changing.asked == 2
    assert len(stuck) == 5
