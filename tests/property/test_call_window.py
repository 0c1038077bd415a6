"""The call window counts what a naive recount of the whole history counts."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from resilience.breaker.window import STREAK_PAUSE_WINDOWS, CallWindow

WINDOW_CALLS, WINDOW_SECONDS = 5, 10.0


@dataclass(frozen=True)
class Call:
    """One entry of the naive history."""

    what: str
    at: float
    source: str | None
    weight: float


calls = st.lists(
    st.tuples(
        st.sampled_from(["success", "failure", "slow"]),
        st.sampled_from([0.0, 0.5, 3.0, 10.0, 101.0]),
        st.sampled_from([None, "a", "b"]),
        st.sampled_from([1.0, 2.0]),
    ),
    max_size=40,
)


def two_witnesses(sources: list[str | None]) -> bool:
    return None in sources or len(set(sources)) > 1


@given(calls, st.sampled_from([0.0, 5.0, 200.0]))
def test_the_window_reads_as_a_recount_of_the_whole_history(steps: list, pause: float) -> None:
    window, history, now = CallWindow(), list[Call](), 1000.0
    for what, later, source, weight in steps:
        now += later
        history.append(Call(what, now, source, weight))
        if what == "success":
            window.calls += 1
        elif what == "slow":
            window.record_slow(now, source)
        else:
            window.record_failure(now, weight, source, WINDOW_SECONDS)
    now += pause

    reading = window.read(now, WINDOW_CALLS, WINDOW_SECONDS)

    last = history[-WINDOW_CALLS:]
    young = [call for call in last if call.at >= now - WINDOW_SECONDS]
    failures = [call.source for call in young if call.what == "failure"]
    slow = [call.source for call in young if call.what == "slow"]
    assert (reading.calls, reading.failures, reading.slow) == (len(last), len(failures), len(slow))
    assert reading.failure_rate == (len(failures) / len(last) if last else None)
    assert reading.corroborated == two_witnesses(failures)
    assert reading.slow_corroborated == two_witnesses(slow)
    streak = list[Call]()
    end = now
    for call in reversed(history):
        if call.what != "failure" or end - call.at > STREAK_PAUSE_WINDOWS * WINDOW_SECONDS:
            break
        streak.append(call)
        end = call.at
    assert (reading.streak, reading.streak_failures) == (sum(call.weight for call in streak), len(streak))
    assert reading.streak_corroborated == two_witnesses([call.source for call in streak])


@given(calls)
def test_reading_changes_nothing_that_a_later_reading_sees(steps: list) -> None:
    once, often, now = CallWindow(), CallWindow(), 1000.0
    for what, later, source, weight in steps:
        now += later
        for window in (once, often):
            if what == "success":
                window.calls += 1
            elif what == "slow":
                window.record_slow(now, source)
            else:
                window.record_failure(now, weight, source, WINDOW_SECONDS)
        often.read(now, WINDOW_CALLS, WINDOW_SECONDS)
    assert once.read(now, WINDOW_CALLS, WINDOW_SECONDS) == often.read(now, WINDOW_CALLS, WINDOW_SECONDS)


def test_the_window_remembers_no_more_than_it_needs() -> None:
    window = CallWindow()
    for number in range(1000):
        window.record_failure(float(number), 1.0, None, 1e9)
        window.read(float(number), WINDOW_CALLS, 1e9)
    assert window.failures is not None
    assert len(window.failures) == WINDOW_CALLS
