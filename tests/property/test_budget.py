"""The budget, whatever comes: never more than its promise, and never less."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from resilience.execution.budget import MEMORY_SECONDS, PER_SECOND, SHARE, Budget

STEPS = st.lists(
    st.tuples(st.integers(0, 200), st.integers(0, 60), st.floats(0, 30, allow_nan=False)), min_size=1, max_size=60
)


@given(steps=STEPS)
def test_never_more_than_a_fifth_of_the_requests_plus_ten_a_second(steps: list[tuple[int, int, float]]) -> None:
    now = 1000.0
    budget = Budget(now)
    drawn = 0
    for requests, draws, pause in steps:
        budget.requests += requests
        drawn += sum(budget.draw(now) for _ in range(draws))
        assert drawn <= SHARE * budget.requests + PER_SECOND * (now - 1000.0) + PER_SECOND + 1e-6
        now += pause


@given(pause=st.floats(1, 1e6), requests=st.integers(0, 10_000))
def test_a_quiet_route_has_ten_and_a_share_of_its_last_seconds(pause: float, requests: int) -> None:
    budget = Budget(0.0)
    budget.requests += requests
    drawn = 0
    while budget.draw(pause):
        drawn += 1
    recent = requests * min(1.0, MEMORY_SECONDS / pause)
    assert PER_SECOND + int(SHARE * recent) - 1 <= drawn <= PER_SECOND + SHARE * recent + 1


@given(rate=st.integers(50, 400), seconds=st.integers(2, 40))
def test_a_steady_fifth_is_always_granted(rate: int, seconds: int) -> None:
    budget = Budget(0.0)
    for second in range(seconds):
        for request in range(rate):
            budget.requests += 1
            if request % 5 == 4:
                assert budget.draw(second + request / rate)


def test_a_clock_that_seems_to_step_back_takes_nothing_away() -> None:
    budget = Budget(100.0)
    assert budget.draw(100.0)
    assert budget.draw(50.0)


def test_threads_cannot_draw_one_allowance_twice() -> None:
    budget = Budget(0.0)
    budget.requests = 1000
    drawn: list[bool] = []

    def draw() -> None:
        for _ in range(200):
            drawn.append(budget.draw(0.0))  # noqa: PERF401 (threads take turns in between)

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(drawn) == PER_SECOND + SHARE * 1000


def test_a_forked_child_can_draw_although_the_lock_was_held() -> None:
    budget = Budget(0.0)
    budget._lock.acquire()
    budget.renew_lock()
    assert budget.draw(0.0)
