"""What a breaker asks of its seat in a fleet, what it tells it, and how it takes over what the fleet knows."""

from __future__ import annotations

import random
from typing import Any

import pytest

from resilience.breaker.chance import EAGER_SECONDS
from resilience.breaker.circuit import CircuitBreaker
from resilience.breaker.shared import SharedState, adopt_locked, describe_locked, merge_locked
from resilience.breaker.states import CircuitState, Closed, HalfOpen, Isolated, Open
from resilience.breaker.trip import Reason
from resilience.breaker.window import Reading
from resilience.errors import CircuitOpenError
from resilience.events import CircuitClosed, CircuitOpened
from resilience.outcome import VERDICTS, Kind, Outcome
from resilience.settings import BreakerSettings
from resilience.testing.clock import ManualClock


class Seat:
    """A seat that writes everything down. Its leases are what the test says they are."""

    def __init__(self) -> None:
        self.notes: list[Any] = []
        self.probe_at: float | None = None
        self.eager_at: float | None = None

    def moved_locked(self, *, by_hand: bool = False) -> None:
        self.notes.append(("moved by hand" if by_hand else "moved",))

    def failed_locked(self) -> None:
        self.notes.append(("failed",))

    def wait_locked(self, now: float, until: float) -> None:
        self.notes.append(("wait", now, until))

    def probe_chance_locked(self, now: float) -> float | None:
        assert isinstance(now, float)
        return self.probe_at

    def eager_chance_locked(self, now: float) -> float | None:
        assert isinstance(now, float)
        return self.eager_at

    def take_probe_locked(self, permit: Any, now: float) -> None:
        self.notes.append(("take", permit.ticket, now))

    def probed_locked(self, ticket: int, *, worked: bool, doubted: str | None = None) -> None:
        self.notes.append(("probed", ticket, worked, doubted))

    def earned_locked(self, ticket: int) -> None:
        self.notes.append(("earned", ticket))

    def renewed_locked(self, ticket: int) -> None:
        self.notes.append(("renewed", ticket))

    def told(self) -> list[Any]:
        notes, self.notes = self.notes, []
        return notes


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def seated(clock: ManualClock, *, sink: Any = None, **policy: Any) -> tuple[CircuitBreaker, Seat, Any]:
    settings = BreakerSettings(**{"jitter": 0.0, **policy})
    breaker = CircuitBreaker(name="openai", policy=settings, clock=clock, rng=random.Random(7), sink=sink)
    breaker.seat = seat = Seat()
    return breaker, seat, breaker.rules


def settle(breaker: CircuitBreaker, *kinds: Kind, source: str | None = None, **fields: Any) -> None:
    for kind in kinds:
        breaker.acquire(source=source).settle(Outcome(kind, **fields), VERDICTS[kind].target)


def open_until_probes(breaker: CircuitBreaker, seat: Seat, clock: ManualClock) -> None:
    breaker.open()
    clock.advance(10)
    seat.told()


# -- what it tells ----------------------------------------------------------------------------------------------------


def test_failures_that_trip_nothing_are_told_for_the_fleets_sum(clock: ManualClock) -> None:
    breaker, seat, _ = seated(clock, slow_call_seconds=1.0)
    settle(breaker, Kind.SERVER_ERROR)
    settle(breaker, Kind.SUCCESS, latency_seconds=5.0)
    settle(breaker, Kind.SUCCESS, Kind.BAD_REQUEST, Kind.CANCELLED)
    assert seat.told() == [("failed",)]
    settle(breaker, *[Kind.SERVER_ERROR] * 5)
    assert seat.told() == [("failed",)] * 4 + [("moved",)]


def test_every_move_is_told_and_a_hands_is_told_as_such(clock: ManualClock) -> None:
    breaker, seat, _ = seated(clock)
    breaker.open()
    breaker.half_open()
    breaker.close()
    assert seat.told() == [("moved",)] * 3
    breaker.isolate("bad deploy")
    assert seat.told() == [("moved",), ("moved by hand",)]
    breaker.reset()
    assert seat.told() == [("moved",), ("moved by hand",)]


def test_a_later_end_is_told_and_an_earlier_one_is_none(clock: ManualClock) -> None:
    breaker, seat, _ = seated(clock)
    breaker.open()
    seat.told()
    breaker.extend(clock.monotonic() + 10)
    breaker.extend(clock.monotonic() + 5)
    assert seat.told() == []
    breaker.extend(clock.monotonic() + 15)
    assert seat.told() == [("moved",)]


def test_a_caller_who_is_refused_is_a_process_that_will_want_to_probe(clock: ManualClock) -> None:
    breaker, seat, _ = seated(clock)
    breaker.open()
    seat.told()
    now = clock.monotonic()
    assert breaker.next_chance() == now + 10
    assert seat.told() == [("wait", now, now + 10)]


def test_a_probe_is_told_when_it_goes_and_what_came_of_it(clock: ManualClock) -> None:
    breaker, seat, _ = seated(clock)
    open_until_probes(breaker, seat, clock)
    now = clock.monotonic()
    probe: Any = breaker.acquire()
    assert seat.told() == [("moved",), ("take", probe.ticket, now)]
    probe.success()
    assert seat.told() == [("probed", probe.ticket, True, None)]
    probe = breaker.acquire()
    seat.told()
    probe.ignore()
    assert seat.told() == [("probed", probe.ticket, False, None)]
    probe = breaker.acquire()
    seat.told()
    del probe
    assert breaker.is_eligible()
    assert [(what, worked, doubted) for what, _, worked, doubted in seat.told()] == [("probed", False, None)]
    probe = breaker.acquire()
    seat.told()
    probe.failure(kind=Kind.SERVER_ERROR)
    assert seat.told() == [("moved",), ("probed", probe.ticket, False, None)]


def test_a_doubted_source_is_told_with_its_probe(clock: ManualClock) -> None:
    breaker, seat, _ = seated(clock)
    open_until_probes(breaker, seat, clock)
    probe: Any = breaker.acquire(source="a")
    seat.told()
    probe.failure(kind=Kind.SERVER_ERROR)
    assert seat.told() == [("probed", probe.ticket, False, "a")]
    probe = breaker.acquire(source="b")
    seat.told()
    probe.failure(kind=Kind.SERVER_ERROR)
    assert seat.told() == [("moved",), ("probed", probe.ticket, False, "b")]
    assert breaker.current_state == "open"


def test_an_eager_probe_past_a_doubt_is_told_with_the_source_that_it_clears(clock: ManualClock) -> None:
    breaker, seat, rules = seated(clock)
    open_until_probes(breaker, seat, clock)
    settle(breaker, Kind.SERVER_ERROR, source="a")
    end = rules.state.doubters["a"]
    assert breaker.acquire_eager(source="a") is None  # it has been asked just now
    clock.advance(EAGER_SECONDS)
    assert breaker.acquire_eager(source="b") is None  # nobody doubts it
    probe: Any = breaker.acquire_eager(source="a")
    assert breaker.acquire_eager(source="a") is None
    seat.told()
    probe.failure(kind=Kind.SERVER_ERROR)
    assert seat.told() == [("probed", probe.ticket, False, None)]
    assert rules.state.doubters == {"a": end}
    clock.advance(EAGER_SECONDS)
    probe = breaker.acquire_eager(source="a")
    probe.success()
    assert seat.told()[-1] == ("probed", probe.ticket, True, "a")
    assert (rules.state.doubters, rules.state.successes, rules.state.earned) == ({}, 1, 1)
    assert breaker.is_eligible("a")


def test_a_dropped_eager_probe_past_a_doubt_is_followed_by_the_next(clock: ManualClock) -> None:
    breaker, seat, _ = seated(clock)
    open_until_probes(breaker, seat, clock)
    settle(breaker, Kind.SERVER_ERROR, source="a")
    clock.advance(EAGER_SECONDS)
    assert breaker.acquire_eager(source="a") is not None  # dropped at once
    assert breaker.acquire_eager(source="a") is None
    clock.advance(EAGER_SECONDS)
    assert breaker.acquire_eager(source="a") is not None


def test_an_eager_probe_of_the_open_era_does_not_keep_the_next_from_going_past_a_doubt(clock: ManualClock) -> None:
    breaker, seat, _ = seated(clock)
    breaker.open()
    clock.advance(EAGER_SECONDS)
    late: Any = breaker.acquire_eager(source="a")
    clock.advance(10)
    settle(breaker, Kind.SERVER_ERROR, source="a")
    late.success()
    clock.advance(EAGER_SECONDS)
    assert breaker.acquire_eager(source="a") is not None
    assert seat is not None


def test_a_doubt_that_the_fleet_tells_of_begins_with_the_news(clock: ManualClock) -> None:
    breaker, seat, rules = seated(clock)
    open_until_probes(breaker, seat, clock)
    breaker.acquire(source="b").ignore()
    clock.advance(5)
    now = clock.monotonic()
    merge_locked(rules, SharedState(CircuitState.HALF_OPEN, now, doubters={"a": now + 10}), now)
    assert rules.next_eager(now, "a") == now + EAGER_SECONDS
    clock.advance(EAGER_SECONDS)
    merge_locked(rules, SharedState(CircuitState.HALF_OPEN, now, doubters={"a": now + 10}), clock.monotonic())
    assert rules.next_eager(clock.monotonic(), "a") == clock.monotonic()


def test_a_streaming_probes_signs_of_life_are_told(clock: ManualClock) -> None:
    breaker, seat, rules = seated(clock, probe_lease_seconds=60)
    open_until_probes(breaker, seat, clock)
    probe: Any = breaker.acquire(timeout_seconds=20)
    seat.told()
    clock.advance(5)
    assert not probe.first_content(5.0)
    assert seat.told() == [("earned", probe.ticket)]
    assert rules.state.probes == {probe.ticket: clock.monotonic() + 60}
    clock.advance(7)
    probe.touch()
    assert seat.told() == [("renewed", probe.ticket)]
    assert rules.state.probes == {probe.ticket: clock.monotonic() + 60}
    assert not probe.first_content(30.0)  # a second first content is none
    assert (seat.told(), rules.state.earned) == ([], 1)


def test_an_eager_probe_is_told_like_any_other(clock: ManualClock) -> None:
    breaker, seat, _ = seated(clock, probe_successes=2)
    breaker.open()
    clock.advance(EAGER_SECONDS)
    seat.told()
    probe: Any = breaker.acquire_eager()
    assert seat.told() == [("take", probe.ticket, clock.monotonic())]
    probe.failure(kind=Kind.SERVER_ERROR)
    assert seat.told() == [("probed", probe.ticket, False, None)]
    clock.advance(EAGER_SECONDS)
    probe = breaker.acquire_eager()
    seat.told()
    probe.success()
    assert seat.told() == [("probed", probe.ticket, False, None), ("moved",)]
    assert (breaker.current_state, breaker.success_counter) == ("half-open", 1)


# -- what it asks -----------------------------------------------------------------------------------------------------


def test_without_a_lease_nobody_probes_and_the_chance_is_the_fleets(clock: ManualClock) -> None:
    breaker, seat, _ = seated(clock)
    open_until_probes(breaker, seat, clock)
    seat.probe_at = clock.monotonic() + 3
    assert breaker.next_chance() == seat.probe_at
    assert not breaker.is_eligible()
    with pytest.raises(CircuitOpenError, match="a probe is due"):
        breaker.acquire()
    assert breaker.rules is not None
    assert isinstance(breaker.rules.state, Open)  # whose era it is, the fleet decides
    seat.probe_at = None
    assert breaker.next_chance() == clock.monotonic()
    breaker.acquire().ignore()
    assert isinstance(breaker.rules.state, HalfOpen)


def test_in_half_open_a_lease_in_hand_is_a_probe_whatever_others_are_out(clock: ManualClock) -> None:
    breaker, seat, _ = seated(clock)
    open_until_probes(breaker, seat, clock)
    first = breaker.acquire()
    assert not breaker.is_eligible()
    seat.probe_at = clock.monotonic()
    assert breaker.is_eligible()
    second = breaker.acquire()
    seat.probe_at = clock.monotonic() + 2
    assert breaker.next_chance() == clock.monotonic() + 2
    assert (first.is_probe, second.is_probe) == (True, True)


def test_eager_probes_wait_for_the_fleets_lease(clock: ManualClock) -> None:
    breaker, seat, rules = seated(clock)
    breaker.open()
    clock.advance(EAGER_SECONDS)
    seat.eager_at = clock.monotonic() + 0.5
    assert rules.next_eager(clock.monotonic()) == seat.eager_at
    assert breaker.acquire_eager() is None
    clock.advance(0.5)
    assert breaker.acquire_eager() is not None


# -- what the fleet knows ---------------------------------------------------------------------------------------------


def test_a_sum_of_the_fleet_trips_a_closed_circuit_once(clock: ManualClock) -> None:
    heard: list[Any] = []
    breaker, _, rules = seated(clock, sink=heard.append, slow_call_seconds=1.0)
    assert not rules.trip_by_fleet_locked(Reading(19, 10, 0, 0.0), clock.monotonic())
    assert rules.trip_by_fleet_locked(Reading(20, 10, 0, 0.0), clock.monotonic())
    assert not rules.trip_by_fleet_locked(Reading(20, 10, 0, 0.0), clock.monotonic())
    breaker.reset()
    settle(breaker, Kind.OVERLOADED)
    assert rules.trip_by_fleet_locked(Reading(20, 2, 11, 0.0), clock.monotonic())
    breaker.reset()
    assert rules.trip_by_fleet_locked(Reading(20, 7, 0, 6.0, 5), clock.monotonic())
    breaker.drain()
    assert [
        (event.reason, event.kind, event.failures, event.calls) for event in heard if isinstance(event, CircuitOpened)
    ] == [
        ("failure_rate", Kind.UNKNOWN, 10, 20),
        ("slow_call_rate", Kind.OVERLOADED, 11, 20),
        ("consecutive_failures", Kind.OVERLOADED, 5, 20),
    ]


def test_a_circuit_is_described_in_all_its_states(clock: ManualClock) -> None:
    breaker, _, rules = seated(clock)
    start = clock.monotonic()
    assert describe_locked(rules) == SharedState(CircuitState.CLOSED, start)
    settle(breaker, Kind.SUCCESS, *[Kind.SERVER_ERROR] * 5)
    assert describe_locked(rules) == SharedState(
        CircuitState.OPEN, start, "consecutive_failures", "server_error",
        until=start + 10, first_since=start, failures=5, calls=6,
    )  # fmt: skip
    clock.advance(10)
    settle(breaker, Kind.SERVER_ERROR)
    clock.advance(20)
    settle(breaker, Kind.SERVER_ERROR, source="a")
    settle(breaker, Kind.SUCCESS, source="b")
    now = clock.monotonic()
    assert describe_locked(rules) == SharedState(
        CircuitState.HALF_OPEN, start + 10, "consecutive_failures", "server_error",
        until=start + 30, first_since=start, failures=5, calls=6, rounds=1, account_rounds=0,
        successes=1, earned=1, doubters={"a": now + 10},
    )  # fmt: skip
    breaker.close()
    assert describe_locked(rules) == SharedState(CircuitState.CLOSED, now, rounds=1, remembers_until=now + 20)
    breaker.isolate("bad deploy")
    assert describe_locked(rules) == SharedState(CircuitState.ISOLATED, now, "bad deploy")
    breaker.reset()
    breaker.open()
    assert describe_locked(rules).kind is None


def test_what_was_told_of_a_circuit_can_be_taken_over_whole(clock: ManualClock) -> None:
    told = SharedState(
        CircuitState.HALF_OPEN, 900.0, "failure_rate", "timeout", until=990.0, first_since=800.0, failures=7, calls=20,
        rounds=2, account_rounds=1, successes=1, earned=2, doubters={"a": 1020.0},
    )  # fmt: skip
    _, _, rules = seated(clock)
    adopt_locked(rules, told, clock.monotonic())
    assert rules.state == HalfOpen(
        1000.0,
        Open("openai", 900.0, 990.0, 800.0, Reason.FAILURE_RATE, Kind.TIMEOUT, 7, 20, 2, 1, eager_at=1000.0),
        successes=1, earned=2, doubters={"a": 1020.0},
    )  # fmt: skip
    assert describe_locked(rules) == told


def test_an_opening_of_another_process_is_an_opening_here(clock: ManualClock) -> None:
    heard: list[Any] = []
    breaker, _, rules = seated(clock, sink=heard.append)
    adopt_locked(rules, SharedState(CircuitState.OPEN, 995.0, "a newer word", "a newer kind", until=1020.0), 1000.0)
    breaker.drain()
    assert rules.state == Open("openai", 995.0, 1020.0, 995.0, Reason.FORCED)
    assert [(event.reason, event.open_seconds) for event in heard] == [("forced", 25.0)]
    adopt_locked(rules, SharedState(CircuitState.ISOLATED, 1000.0, "bad deploy"), 1000.0)
    assert rules.state == Isolated(1000.0, "bad deploy")
    adopt_locked(rules, SharedState(CircuitState.ISOLATED, 1000.0), 1001.0)
    assert rules.state == Isolated(1001.0, "")


@pytest.mark.parametrize(("reason", "said"), [(None, "closed by another process of the fleet"), ("reset", "reset")])
def test_a_closing_of_another_process_is_told_once(clock: ManualClock, reason: str | None, said: str) -> None:
    heard: list[Any] = []
    breaker, _, rules = seated(clock, sink=heard.append)
    breaker.open()
    clock.advance(2)
    closed = SharedState(CircuitState.CLOSED, 1001.0, reason, rounds=2, account_rounds=1, remembers_until=1050.0)
    for _ in range(2):
        adopt_locked(rules, closed, clock.monotonic())
        assert rules.state == Closed(1002.0, 2, 1, 1050.0)
    breaker.drain()
    assert [(event.reason, event.open_seconds) for event in heard if isinstance(event, CircuitClosed)] == [(said, 2.0)]


def test_news_of_the_same_era_only_ever_adds(clock: ManualClock) -> None:
    breaker, _, rules = seated(clock, probe_successes=3)
    breaker.open()
    merge_locked(rules, SharedState(CircuitState.OPEN, 1000.0, until=1030.0), 1000.0)
    assert rules.state.until == 1030.0
    merge_locked(rules, SharedState(CircuitState.OPEN, 1000.0, until=1005.0), 1000.0)
    assert rules.state.until == 1030.0
    merge_locked(rules, SharedState(CircuitState.HALF_OPEN, 1000.0, successes=2), 1000.0)
    assert isinstance(rules.state, Open)  # another era's news
    breaker.half_open()
    merge_locked(rules, SharedState(CircuitState.HALF_OPEN, 1000.0, successes=2, earned=2, doubters={"a": 1.0}), 1000.0)
    assert (rules.state.successes, rules.state.earned, rules.state.doubters) == (2, 2, {"a": 1.0})
    merge_locked(rules, SharedState(CircuitState.HALF_OPEN, 1000.0, successes=1, earned=1), 1000.0)
    assert (rules.state.successes, rules.state.earned) == (2, 2)
    merge_locked(rules, SharedState(CircuitState.OPEN, 1000.0, until=2000.0, successes=3), 1000.0)
    assert isinstance(rules.state, HalfOpen)
    merge_locked(rules, SharedState(CircuitState.HALF_OPEN, 1000.0, successes=3), 1000.0)
    assert breaker.current_state == "closed"


def test_a_probe_that_worked_is_told_without_a_doubt(clock: ManualClock) -> None:
    breaker, seat, _ = seated(clock)
    open_until_probes(breaker, seat, clock)
    probe: Any = breaker.acquire(source="a")
    seat.told()
    probe.success()
    assert seat.told() == [("probed", probe.ticket, True, None)]


def test_a_dropped_probe_is_told_by_its_number(clock: ManualClock) -> None:
    breaker, seat, _ = seated(clock)
    open_until_probes(breaker, seat, clock)
    probe: Any = breaker.acquire()
    ticket = probe.ticket
    seat.told()
    del probe
    assert breaker.is_eligible()
    assert seat.told() == [("probed", ticket, False, None)]


def test_a_guarded_probe_that_failed_is_told_once(clock: ManualClock) -> None:
    breaker, seat, _ = seated(clock)
    open_until_probes(breaker, seat, clock)
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 / 0)
    assert breaker.current_state == "open"
    breaker.is_eligible()
    assert [note[0] for note in seat.told() if note[0] == "probed"] == ["probed"]
