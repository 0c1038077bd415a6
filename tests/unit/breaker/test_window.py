"""The edges of the call window: what still counts, and what just does not."""

from __future__ import annotations

from resilience.breaker.window import STREAK_PAUSE_WINDOWS, CallWindow, Reading

SECONDS = 10.0
PAUSE = STREAK_PAUSE_WINDOWS * SECONDS


def failed(*times: float, source: str | None = None) -> CallWindow:
    window = CallWindow()
    for at in times:
        window.record_failure(at, 2.0, source, SECONDS)
    return window


def test_an_empty_window_holds_nothing_and_proves_nothing() -> None:
    assert CallWindow().read(1000.0, 5, SECONDS) == Reading(
        0, 0, 0, 0.0, corroborated=False, streak_corroborated=False, slow_corroborated=False
    )
    assert CallWindow().calls == 0


def test_a_streak_survives_a_pause_of_exactly_ten_windows_and_no_longer_one() -> None:
    assert STREAK_PAUSE_WINDOWS == 10
    read = failed(1000.0, 1000.0 + PAUSE).read(1000.0 + PAUSE, 5, SECONDS)
    assert (read.streak, read.streak_failures) == (4.0, 2)
    read = failed(1000.0, 1000.5 + PAUSE).read(1000.5 + PAUSE, 5, SECONDS)
    assert (read.streak, read.streak_failures) == (2.0, 1)
    assert failed(1000.0).read(1000.0 + PAUSE, 5, SECONDS).streak == 2.0
    assert failed(1000.0).read(1000.5 + PAUSE, 5, SECONDS).streak == 0.0


def test_a_failure_counts_until_it_is_as_old_as_the_window() -> None:
    assert failed(1000.0).read(1010.0, 5, SECONDS).failures == 1
    assert failed(1000.0).read(1010.5, 5, SECONDS).failures == 0


def test_one_source_alone_is_never_corroborated_however_often_it_fails() -> None:
    window = failed(1000.0, 1001.0, source="a")
    read = window.read(1001.0, 5, SECONDS)
    assert (read.corroborated, read.streak_corroborated) == (False, False)
    window.record_failure(1002.0, 1.0, "b", SECONDS)
    read = window.read(1002.0, 5, SECONDS)
    assert (read.corroborated, read.streak_corroborated) == (True, True)
    window.calls += 1
    window.record_failure(1003.0, 1.0, "b", SECONDS)  # a new streak has its own witnesses
    read = window.read(1003.0, 5, SECONDS)
    assert (read.corroborated, read.streak_corroborated, read.streak) == (True, False, 1.0)


def test_slow_calls_end_a_streak_and_stand_in_a_list_of_their_own() -> None:
    window = failed(1000.0)
    window.record_slow(1001.0, "a")
    assert window.read(1001.0, 5, SECONDS) == Reading(
        2, 1, 1, 0.0, corroborated=True, streak_corroborated=False, slow_corroborated=False
    )
    window.record_slow(1002.0, "b")
    assert window.read(1002.0, 5, SECONDS).slow_corroborated
