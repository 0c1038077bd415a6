"""What a breaker tells: every field of every event, and every word of its refusals."""

from __future__ import annotations

import random
from typing import Any

import pytest

from resilience.breaker.circuit import CircuitBreaker
from resilience.breaker.states import Closed, HalfOpen, Open
from resilience.breaker.trip import Reason
from resilience.breaker.window import Reading
from resilience.errors import CircuitIsolatedError, CircuitOpenError, RejectedError
from resilience.events import CircuitClosed, CircuitHalfOpened, CircuitIsolated, CircuitOpened, Event
from resilience.outcome import VERDICTS, Kind, Outcome
from resilience.settings import BreakerSettings
from resilience.testing.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def heard() -> list[Event]:
    return []


@pytest.fixture
def made(clock: ManualClock, heard: list[Event]) -> Any:
    def make(**policy: Any) -> CircuitBreaker:
        return CircuitBreaker(
            name="openai/gpt", provider="openai", policy=BreakerSettings(**{"jitter": 0.0, **policy}),
            clock=clock, rng=random.Random(7), sink=heard.append,
        )  # fmt: skip

    return make


def settle(breaker: CircuitBreaker, *kinds: Kind, source: str | None = None, **fields: Any) -> None:
    for kind in kinds:
        breaker.acquire(source=source).settle(Outcome(kind, **fields), VERDICTS[kind].target)


def probe_and_fail(breaker: CircuitBreaker, clock: ManualClock, rounds: int = 1) -> None:
    for _ in range(rounds):
        clock.advance(breaker.rejection().retry_after or 0.0)
        settle(breaker, Kind.SERVER_ERROR)


# -- events -----------------------------------------------------------------------------------------------------------


def test_a_whole_outage_is_told_with_every_field(made: Any, clock: ManualClock, heard: list[Event]) -> None:
    breaker = made(probe_successes=1)
    settle(breaker, Kind.SUCCESS, *[Kind.SERVER_ERROR] * 5)
    clock.advance(10)
    settle(breaker, Kind.SUCCESS)
    assert heard == [
        CircuitOpened(
            "openai/gpt", "openai", "consecutive_failures", Kind.SERVER_ERROR, 5, 6, None, 10.0, 2, shadow=False
        ),
        CircuitHalfOpened("openai/gpt", "openai", 3),
        CircuitClosed("openai/gpt", "openai", "probes succeeded", 10.0, 4),
    ]


def test_a_failed_probe_is_told_as_an_opening_of_the_same_finding(
    made: Any, clock: ManualClock, heard: list[Any]
) -> None:
    breaker = made()
    settle(breaker, Kind.SUCCESS, *[Kind.SERVER_ERROR] * 5)
    clock.advance(10)
    settle(breaker, Kind.CONNECTION)
    assert heard[-1] == CircuitOpened(
        "openai/gpt", "openai", "consecutive_failures", Kind.CONNECTION, 5, 6, None, 20.0, 4
    )


def test_an_opening_by_a_rate_tells_the_rate(made: Any, heard: list[Event]) -> None:
    settle(made(), *[Kind.SUCCESS, Kind.SUCCESS, Kind.SUCCESS, Kind.SERVER_ERROR] * 5)
    assert heard == [CircuitOpened("openai/gpt", "openai", "failure_rate", Kind.SERVER_ERROR, 5, 20, 0.25, 10.0, 2)]


def test_an_opening_by_slow_calls_tells_their_number_and_rate(made: Any, heard: list[Event]) -> None:
    breaker = made(slow_call_seconds=1.0)
    settle(breaker, Kind.SERVER_ERROR, *[Kind.SUCCESS] * 9, latency_seconds=1.0)
    settle(breaker, *[Kind.SUCCESS] * 10, latency_seconds=1.5)
    assert heard == [CircuitOpened("openai/gpt", "openai", "slow_call_rate", Kind.SUCCESS, 10, 20, 0.5, 10.0, 2)]


@pytest.mark.parametrize(
    ("kind", "reason", "seconds"),
    [(Kind.AUTH, "account", 60.0), (Kind.RATE_LIMITED, "rate_limited", 1.0)],
)
def test_an_opening_at_once_is_one_failure_of_one_call(
    made: Any, heard: list[Event], kind: Kind, reason: str, seconds: float
) -> None:
    settle(made(), kind)
    assert heard == [CircuitOpened("openai/gpt", "openai", reason, kind, 1, 1, None, seconds, 2)]


def test_what_a_hand_does_is_told_without_a_kind(made: Any, clock: ManualClock, heard: list[Event]) -> None:
    breaker = made(shadow=True)
    breaker.open()
    clock.advance(4)
    breaker.isolate("bad deploy")
    breaker.reset()
    assert heard == [
        CircuitOpened("openai/gpt", "openai", "forced", None, 1, 1, None, 10.0, 2, shadow=True),
        CircuitIsolated("openai/gpt", "openai", "bad deploy", 3),
        CircuitClosed("openai/gpt", "openai", "reset", 0.0, 4),
    ]


def test_letting_probes_through_by_hand_begins_an_outage_of_no_length(
    made: Any, clock: ManualClock, heard: list[Event]
) -> None:
    breaker = made()
    clock.advance(5)
    breaker.half_open()
    clock.advance(3)
    breaker.close()
    assert heard == [
        CircuitHalfOpened("openai/gpt", "openai", 2),
        CircuitClosed("openai/gpt", "openai", "closed by hand", 3.0, 3),
    ]
    breaker.half_open()
    settle(breaker, Kind.SERVER_ERROR)
    # Nothing failed before the probe, and none of the earlier rounds is remembered.
    assert heard[-1] == CircuitOpened(
        "openai/gpt", "openai", "consecutive_failures", Kind.SERVER_ERROR, 1, 1, None, 20.0, 5
    )


def test_the_rules_of_pybreaker_tell_the_same_events(clock: ManualClock, heard: list[Event]) -> None:
    breaker = CircuitBreaker(fail_max=2, reset_timeout=30, name="db", clock=clock, sink=heard.append)
    for _ in range(2):
        with pytest.raises(Exception, match=r"boom|opened"):
            breaker.call(fails)
    clock.advance(30)
    breaker.call(int)
    breaker.isolate("bad deploy")
    assert heard == [
        CircuitOpened("db", None, "consecutive_failures", None, 2, 2, None, 30.0, 2),
        CircuitHalfOpened("db", None, 3),
        CircuitClosed("db", None, "", 30.0, 4),
        CircuitIsolated("db", None, "bad deploy", breaker.generation),
    ]


def fails() -> None:
    raise ConnectionError("boom")


# -- refusals ---------------------------------------------------------------------------------------------------------


def told(refused: RejectedError) -> tuple[Any, ...]:
    return type(refused), str(refused), refused.breaker, refused.provider, refused.retry_after, refused.kind


def test_a_refusal_of_an_open_circuit_says_why_and_until_when(made: Any, clock: ManualClock) -> None:
    breaker = made()
    settle(breaker, *[Kind.TIMEOUT] * 3)
    clock.advance(0.5)
    text = "openai/gpt is open after 3 failures in a row (timeout); next probe in 9.5 s"
    assert told(breaker.rejection()) == (CircuitOpenError, text, "openai/gpt", "openai", 9.5, Kind.TIMEOUT)
    clock.advance(9.5)
    text = "openai/gpt is open after 3 failures in a row (timeout); a probe is due"
    assert told(breaker.rejection()) == (CircuitOpenError, text, "openai/gpt", "openai", 0.0, Kind.TIMEOUT)
    clock.advance(1)
    assert breaker.rejection().retry_after == 0.0


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        (Reason.CONSECUTIVE_FAILURES, "3 failures in a row"),
        (Reason.FAILURE_RATE, "3 of 7 calls failed"),
        (Reason.SLOW_CALL_RATE, "3 of 7 calls were slow"),
        (Reason.ACCOUNT, "an account error"),
        (Reason.RATE_LIMITED, "a rate limit"),
        (Reason.FORCED, "it was opened from outside"),
    ],
)
def test_each_reason_has_its_words(reason: Reason, cause: str) -> None:
    opened = Open("x", since=0.0, until=9.0, first_since=0.0, reason=reason, failures=3, calls=7)
    assert opened(4.0) == f"x is open after {cause}; next probe in 4.0 s"
    assert opened(0.0) == opened(None) == opened(-1.0) == f"x is open after {cause}; a probe is due"


def test_probes_in_vain_are_counted_in_the_refusal(made: Any, clock: ManualClock) -> None:
    breaker = made()
    settle(breaker, *[Kind.SERVER_ERROR] * 5)
    probe_and_fail(breaker, clock)
    assert "in vain" not in str(breaker.rejection())
    probe_and_fail(breaker, clock)
    text = "openai/gpt is open after 5 failures in a row (server_error), probed 2 times in vain; next probe in 40.0 s"
    assert str(breaker.rejection()) == text


def test_an_account_error_counts_its_own_probes(made: Any, clock: ManualClock) -> None:
    breaker = made()
    for seconds in (60, 240, 960):
        settle(breaker, Kind.AUTH)
        clock.advance(seconds - 1)
        assert "next probe in 1.0 s" in str(breaker.rejection())
        clock.advance(1)
    assert str(breaker.rejection()) == (
        "openai/gpt is open after an account error (auth), probed 2 times in vain; a probe is due"
    )


def test_a_half_open_circuit_says_how_many_probes_are_out(made: Any, clock: ManualClock) -> None:
    breaker = made(probe_permits=2)
    settle(breaker, *[Kind.SERVER_ERROR] * 5)
    clock.advance(10)
    probes = [breaker.acquire(), breaker.acquire()]
    text = "openai/gpt is half-open with 2 of 2 probes in flight"
    assert told(breaker.rejection()) == (CircuitOpenError, text, "openai/gpt", "openai", None, Kind.SERVER_ERROR)
    probes[0].ignore()
    text = "openai/gpt is half-open, and its probes are other processes' for the moment"
    assert told(breaker.rejection()) == (CircuitOpenError, text, "openai/gpt", "openai", None, Kind.SERVER_ERROR)


def test_a_doubted_source_is_told_whom_it_waits_for(made: Any, clock: ManualClock) -> None:
    breaker = made()
    settle(breaker, *[Kind.CONNECTION] * 5)
    clock.advance(10)
    settle(breaker, Kind.SERVER_ERROR, source="gpt-4o")
    clock.advance(4)
    text = "openai/gpt is half-open and waits for the word of another target; gpt-4o failed its probe"
    asked = told(breaker.rejection("gpt-4o"))
    assert asked == (CircuitOpenError, text, "openai/gpt", "openai", 6.0, Kind.CONNECTION)
    with pytest.raises(CircuitOpenError, match="waits for the word of another target"):
        breaker.acquire(source="gpt-4o")
    assert not breaker.is_eligible("gpt-4o")
    assert breaker.next_chance("gpt-4o") == clock.monotonic() + 6.0
    clock.advance(6)  # at the very end it may try again
    assert "waits for the word" not in str(breaker.rejection("gpt-4o"))
    assert breaker.next_chance("gpt-4o") == clock.monotonic()


def test_an_isolated_circuit_gives_the_persons_own_reason(made: Any) -> None:
    breaker = made()
    breaker.isolate("bad deploy")
    text = "openai/gpt is isolated: bad deploy; it stays so until somebody resets it"
    assert told(breaker.rejection()) == (CircuitIsolatedError, text, "openai/gpt", "openai", None, None)
    breaker.isolate("")
    assert str(breaker.rejection()) == "openai/gpt is isolated; it stays so until somebody resets it"


def test_a_circuit_that_closes_under_a_callers_feet_asks_for_another_try(made: Any) -> None:
    text = "openai/gpt has just closed again; ask once more"
    assert told(made().rejection()) == (CircuitOpenError, text, "openai/gpt", "openai", 0.0, None)


def test_a_refusal_by_pybreakers_rules_uses_its_words(clock: ManualClock) -> None:
    breaker = CircuitBreaker(reset_timeout=30, name="db", clock=clock)
    breaker.open()
    clock.advance(12)
    text = "Timeout not elapsed yet, circuit breaker still open: db; next trial call in 18.0 s"
    assert told(breaker.rejection()) == (CircuitOpenError, text, "db", None, 18.0, None)
    clock.advance(18)
    trial = breaker.acquire()
    text = "db is half-open and its trial call is in flight"
    assert told(breaker.rejection()) == (CircuitOpenError, text, "db", None, None, None)
    trial.success()
    breaker.isolate("bad deploy")
    text = "db is isolated: bad deploy; it stays so until somebody resets it"
    assert told(breaker.rejection()) == (CircuitIsolatedError, text, "db", None, None, None)
    with pytest.raises(CircuitIsolatedError, match="bad deploy"):
        breaker.acquire()


# -- what nobody has said yet -----------------------------------------------------------------------------------------


def test_a_state_knows_nothing_but_what_it_was_told() -> None:
    opened = Open("x", 1.0, 2.0, 1.0, Reason.FORCED)
    assert opened == Open(
        "x", 1.0, 2.0, 1.0, Reason.FORCED,
        kind=None, failures=0, calls=0, rounds=0, account_rounds=0, eager=None, eager_at=None,
    )  # fmt: skip
    assert Closed(1.0) == Closed(1.0, rounds=0, account_rounds=0, remembers_until=0.0)
    assert HalfOpen(1.0, opened) == HalfOpen(1.0, opened, successes=0, earned=0, probes={}, doubters={})


def test_a_reading_counts_as_corroborated_unless_it_says_otherwise() -> None:
    assert Reading(4, 3, 2, 1.0) == Reading(
        4, 3, 2, 1.0,
        streak_failures=0, corroborated=True, streak_corroborated=True, slow_corroborated=True,
    )  # fmt: skip
    assert (Reading(4, 3, 2, 1.0).failure_rate, Reading(0, 0, 0, 0.0).failure_rate) == (0.75, None)


def test_reasons_are_written_as_events_and_snapshots_show_them() -> None:
    assert [reason.value for reason in Reason] == [
        "consecutive_failures", "failure_rate", "slow_call_rate", "account", "rate_limited", "forced",
    ]  # fmt: skip
