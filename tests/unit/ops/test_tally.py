"""The tally: each number of the demo is a count of what happened."""

from __future__ import annotations

import pytest

from resilience.events import (
    AttemptFailed,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    TargetOnTime,
    TargetOverdue,
)
from resilience.ops.tally import Asked, End, Tally, count, quantile
from resilience.outcome import Kind
from resilience.upstream import AttemptRecord


def record(kind: Kind, provider: str = "openai") -> AttemptRecord:
    return AttemptRecord("model", provider, kind, 0.1)


def asked(end: End, started: float = 0.0, ended: float = 1.0, provider: str | None = "openai", **more) -> Asked:
    return Asked(started, ended, end, provider, **more)


def opened(breaker: str, provider: str = "openai") -> CircuitOpened:
    return CircuitOpened(breaker, provider, "consecutive_failures", Kind.CONNECTION, 5, 5, 1.0, 1.0, 2)


def closed(breaker: str, provider: str = "openai") -> CircuitClosed:
    return CircuitClosed(breaker, provider, "probes", 1.0, 3)


def failed(latency: float, provider: str = "openai") -> AttemptFailed:
    return AttemptFailed("chat", "model", provider, Kind.TIMEOUT, None, "Timeout", None, latency, 1, stream=False)


@pytest.fixture
def tally() -> Tally:
    return Tally(["openai", "anthropic"])


def test_a_failure_while_a_provider_was_up_is_lost(tally: Tally) -> None:
    tally.broke("openai", "down", 0.0)
    tally.ended(asked(End.FAILED, 1.0, 2.0))
    assert len(tally.lost) == 1


def test_a_failure_while_nobody_was_up_is_not_lost(tally: Tally) -> None:
    tally.broke("openai", "down", 0.0)
    tally.broke("anthropic", "down", 1.5)
    tally.mended("openai", 1.8)
    tally.ended(asked(End.FAILED, 1.0, 2.0))
    assert tally.lost == []
    assert tally.numbers().failed == 1


def test_an_interrupted_stream_is_neither_answered_nor_lost(tally: Tally) -> None:
    tally.ended(asked(End.INTERRUPTED, attempts=(record(Kind.INTERRUPTED),)))
    numbers = tally.numbers()
    assert (numbers.answered, numbers.interrupted, numbers.failed, len(tally.lost)) == (0, 1, 0, 0)
    assert numbers.wasted == 1


def test_attempts_that_came_to_nothing_are_wasted() -> None:
    numbers = count(
        [
            asked(
                End.ANSWERED, provider="anthropic", attempts=(record(Kind.TIMEOUT), record(Kind.SUCCESS, "anthropic"))
            ),
            asked(End.ANSWERED, attempts=(record(Kind.SUCCESS),)),
        ]
    )
    assert (numbers.attempts, numbers.wasted) == (3, 1)
    assert numbers.served_by == {"anthropic": 1, "openai": 1}


def test_a_provider_is_ejected_at_the_first_breaker_that_opens(tally: Tally) -> None:
    tally.broke("openai", "down", 10.0)
    tally.hear(opened("gpt"), 10.4)
    tally.hear(opened("openai"), 10.5)
    assert tally.outages[0].eject_seconds == pytest.approx(0.4)


def test_an_overdue_target_is_ejected_too(tally: Tally) -> None:
    tally.broke("openai", "hangs", 10.0)
    tally.hear(TargetOverdue("gpt", "openai", 6, 0.9, 0.1), 10.9)
    tally.hear(opened("gpt"), 11.5)
    assert tally.outages[0].eject_seconds == pytest.approx(0.9)


def test_somebody_elses_breaker_ejects_nobody(tally: Tally) -> None:
    tally.broke("openai", "down", 10.0)
    tally.hear(opened("claude", "anthropic"), 10.4)
    assert tally.outages[0].eject_seconds is None


def test_a_provider_is_back_when_its_last_breaker_closes(tally: Tally) -> None:
    tally.broke("openai", "hangs", 0.0)
    for event in (TargetOverdue("gpt", "openai", 6, 0.9, 0.1), TargetOnTime("gpt", "openai", 0.1)):
        tally.hear(event, 0.5)
    tally.hear(opened("gpt"), 0.6)
    tally.hear(opened("openai"), 0.6)
    tally.mended("openai", 5.0)
    tally.hear(CircuitHalfOpened("gpt", "openai", 3), 5.5)
    tally.hear(closed("gpt"), 6.0)
    assert tally.outages[0].recover_seconds is None
    tally.hear(closed("openai"), 6.5)
    assert tally.outages[0].recover_seconds == pytest.approx(1.5)


def test_a_probe_that_gets_through_before_the_repair_is_no_recovery(tally: Tally) -> None:
    tally.broke("openai", "down", 0.0)
    tally.hear(opened("gpt"), 0.1)
    tally.hear(closed("gpt"), 0.2)
    tally.mended("openai", 5.0)
    assert tally.outages[0].recover_seconds is None


def test_stuck_is_the_most_attempts_at_one_time(tally: Tally) -> None:
    tally.broke("openai", "hangs", 0.0)
    for end in (1.0, 1.2, 1.4, 9.0):
        tally.hear(failed(1.0), end)
    tally.hear(failed(1.0, "anthropic"), 1.2)
    assert tally.outages[0].stuck == 3


def test_requests_belong_to_the_phase_in_which_they_were_asked(tally: Tally) -> None:
    tally.ended(asked(End.ANSWERED, 0.9, 5.0))
    tally.ended(asked(End.ANSWERED, 1.0, 1.1))
    assert [tally.numbers(0.0, 1.0).requests, tally.numbers(1.0, 2.0).requests] == [1, 1]


@pytest.mark.parametrize(
    ("values", "share", "expected"), [([], 0.5, None), ([3, 1, 2], 0.5, 2), (range(1, 101), 0.95, 95)]
)
def test_quantile_is_a_value_that_occurred(values, share: float, expected: float | None) -> None:
    assert quantile(values, share) == expected


def test_requests_asked_while_a_provider_was_broken_are_counted_once(tally: Tally) -> None:
    tally.broke("openai", "down", 1.0)
    tally.mended("openai", 2.0)
    tally.broke("openai", "hangs", 2.0)
    tally.mended("openai", 3.0)
    for started in (0.5, 1.5, 2.0, 3.5):
        tally.ended(asked(End.ANSWERED, started, started + 0.1))
    assert tally.asked_while_broken("openai") == 2
