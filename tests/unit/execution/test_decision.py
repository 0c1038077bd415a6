"""The next step, as a table."""

from __future__ import annotations

import pytest

from resilience.execution.decision import (
    Move,
    Next,
    holds_back,
    longest_pause,
    may_be_last_resort,
    next_step,
    still_able,
)
from resilience.outcome import Kind, Outcome
from resilience.routing import RoutedTarget
from resilience.settings import RouteSettings
from resilience.upstream import Target

SETTINGS = RouteSettings(backoff_seconds=0.25, backoff_max_seconds=8, max_wait_seconds=10)
ASKED = RouteSettings(validation={"fallback_on_content_policy": True})


def decide(outcome: Outcome | Kind, settings: RouteSettings = SETTINGS, **given: object) -> Next:
    facts: dict[str, object] = {"retries_left": 1, "attempts_left": 5, "seconds_left": 100.0, "chance": 1.0}
    return next_step(Outcome(outcome) if isinstance(outcome, Kind) else outcome, settings, **(facts | given))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "with_retries", "without"),
    [
        (Kind.LOCAL, Move.STOP, Move.STOP),
        (Kind.CANCELLED, Move.STOP, Move.STOP),
        (Kind.CONNECTION, Move.SAME, Move.NEXT),
        (Kind.TIMEOUT, Move.NEXT, Move.NEXT),
        (Kind.SERVER_ERROR, Move.SAME, Move.NEXT),
        (Kind.OVERLOADED, Move.NEXT, Move.NEXT),
        (Kind.MALFORMED, Move.SAME, Move.NEXT),
        (Kind.INTERRUPTED, Move.NEXT, Move.NEXT),
        (Kind.RATE_LIMITED, Move.NEXT, Move.NEXT),
        (Kind.QUOTA_EXHAUSTED, Move.NEXT, Move.NEXT),
        (Kind.AUTH, Move.NEXT, Move.NEXT),
        (Kind.MODEL_UNAVAILABLE, Move.NEXT, Move.NEXT),
        (Kind.EMPTY, Move.NEXT, Move.NEXT),
        (Kind.REJECTED, Move.NEXT, Move.NEXT),
        (Kind.CONTEXT_WINDOW, Move.NEXT, Move.NEXT),
        (Kind.CONTENT_POLICY, Move.STOP, Move.STOP),
        (Kind.BAD_REQUEST, Move.STOP, Move.STOP),
        (Kind.UNKNOWN, Move.SAME, Move.NEXT),
    ],
)
def test_each_kind_goes_where_the_table_says(kind: Kind, with_retries: Move, without: Move) -> None:
    assert decide(kind).move is with_retries
    assert decide(kind, retries_left=0).move is without
    assert decide(kind, budget_left=False).move is without


def test_every_failure_kind_is_in_the_table_above() -> None:
    tested = test_each_kind_goes_where_the_table_says.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {row[0] for row in tested} == set(Kind) - {Kind.SUCCESS}


def test_a_content_refusal_goes_on_only_where_that_is_asked_for() -> None:
    assert decide(Kind.CONTENT_POLICY, ASKED).move is Move.NEXT


@pytest.mark.parametrize("used_up", [{"attempts_left": 0}, {"seconds_left": 0.0}, {"seconds_left": -1.0}])
def test_without_attempts_or_time_it_is_over_but_a_request_error_stays_one(used_up: dict[str, object]) -> None:
    assert decide(Kind.SERVER_ERROR, **used_up).move is Move.EXHAUSTED
    assert decide(Kind.BAD_REQUEST, **used_up).move is Move.STOP


def test_x_should_retry_false_forbids_the_same_target() -> None:
    assert decide(Outcome(Kind.SERVER_ERROR, should_retry=False)).move is Move.NEXT
    assert decide(Outcome(Kind.SERVER_ERROR, should_retry=True)).move is Move.SAME


@pytest.mark.parametrize(
    ("kind", "tries", "chance", "delay"),
    [
        (Kind.CONNECTION, 1, 1.0, 0.25),
        (Kind.CONNECTION, 4, 1.0, 0.25),  # quickly: the first step only
        (Kind.CONNECTION, 1, 0.5, 0.125),
        (Kind.UNKNOWN, 1, 1.0, 0.25),
        (Kind.UNKNOWN, 3, 1.0, 1.0),
        (Kind.UNKNOWN, 3, 0.0, 0.0),
        (Kind.UNKNOWN, 99, 1.0, 8.0),
    ],
)
def test_the_pause_before_a_retry_is_full_jitter(kind: Kind, tries: int, chance: float, delay: float) -> None:
    assert decide(kind, tries=tries, chance=chance) == Next(Move.SAME, delay)


@pytest.mark.parametrize(
    ("retry_after", "others", "seconds_left", "expected"),
    [
        (0.2, True, 100.0, Next(Move.SAME, 0.2)),  # short: a minimum of the pause
        (3.0, True, 100.0, Next(Move.NEXT)),  # why wait, with somebody else there?
        (3.0, False, 100.0, Next(Move.SAME, 3.0)),
        (3.0, False, 2.0, Next(Move.NEXT)),  # does not fit the deadline
        (11.0, False, 100.0, Next(Move.NEXT)),  # does not fit max_wait_seconds
    ],
)
def test_retry_after_is_a_minimum_where_it_fits(
    retry_after: float, others: bool, seconds_left: float, expected: Next
) -> None:
    outcome = Outcome(Kind.SERVER_ERROR, retry_after_seconds=retry_after)
    assert decide(outcome, chance=0.0, others_eligible=others, seconds_left=seconds_left) == expected


def test_a_pause_that_reaches_the_deadline_is_not_begun() -> None:
    assert decide(Kind.UNKNOWN, tries=5, chance=1.0, seconds_left=1.0).move is Move.NEXT


def test_back_off_doubles_is_capped_and_survives_large_numbers() -> None:
    assert [longest_pause(SETTINGS, number) for number in (1, 2, 3, 6, 7, 10_000)] == [0.25, 0.5, 1, 8, 8, 8]


@pytest.mark.parametrize(("asked", "left", "pause"), [(None, 9, 0), (4.0, 9, 4), (4.0, 3, 0), (10.5, 99, 0)])
def test_a_target_is_left_alone_for_a_retry_after_that_fits(asked: float | None, left: float, pause: float) -> None:
    assert holds_back(Outcome(Kind.OVERLOADED, retry_after_seconds=asked), SETTINGS, left) == pause


def test_only_a_rate_limit_that_may_be_retried_is_a_last_resort() -> None:
    resorts = [kind for kind in Kind if may_be_last_resort(Outcome(kind))]
    assert resorts == [Kind.RATE_LIMITED]
    assert not may_be_last_resort(Outcome(Kind.RATE_LIMITED, should_retry=False))


@pytest.mark.parametrize("left", [{"attempts_left": 1}, {"seconds_left": 0.5}, {"retries_left": 1}])
def test_the_last_of_anything_is_still_used(left: dict[str, object]) -> None:
    assert decide(Kind.SERVER_ERROR, **left).move is Move.SAME


@pytest.mark.parametrize(
    ("retry_after", "given", "expected"),
    [
        (0.25, {"others_eligible": True}, Next(Move.SAME, 0.25)),  # no longer than the pause would be anyway
        (10.0, {"others_eligible": False}, Next(Move.SAME, 10.0)),  # exactly what it may wait
        (10.0, {"others_eligible": False, "seconds_left": 10.0}, Next(Move.NEXT)),  # and then nothing is left
    ],
)
def test_limits_belong_to_what_they_limit(retry_after: float, given: dict[str, object], expected: Next) -> None:
    assert decide(Outcome(Kind.SERVER_ERROR, retry_after_seconds=retry_after), chance=0.0, **given) == expected


def test_unless_told_otherwise_it_is_the_first_try_with_a_budget_and_others_to_ask() -> None:
    assert decide(Kind.UNKNOWN) == decide(Kind.UNKNOWN, tries=1, budget_left=True, others_eligible=True)
    asked = Outcome(Kind.SERVER_ERROR, retry_after_seconds=3.0)
    assert decide(asked) == decide(asked, tries=1, budget_left=True, others_eligible=True) == Next(Move.NEXT)


@pytest.mark.parametrize(("asked", "left", "pause"), [(4.0, 4.0, 0), (10.0, 99, 10), (0.0, 9, 0), (0.5, 9, 0.5)])
def test_what_just_fits_and_what_just_does_not(asked: float, left: float, pause: float) -> None:
    assert holds_back(Outcome(Kind.OVERLOADED, retry_after_seconds=asked), SETTINGS, left) == pause


WINDOWS = {"small": 8, "middle": 16, "twin": 16, "large": 32, "tiny": 1, "unknown": None}


def able(
    failed: str, kind: Kind, candidates: str = "small middle twin large tiny unknown", *, elsewhere: bool = False
) -> str:
    places = {
        name: RoutedTarget(Target(name, "p", "m", identity=name), 1, 1.0, SETTINGS.timeouts)
        for name in candidates.split()
    }
    left = still_able(
        tuple(places.values()), places[failed], Outcome(kind, elsewhere=elsewhere), lambda target: WINDOWS[target.name]
    )
    return " ".join(place.target.name for place in left)


def test_after_most_failures_everybody_may_still_be_asked() -> None:
    assert able("middle", Kind.TIMEOUT) == "small middle twin large tiny unknown"


def test_who_refused_the_content_is_not_asked_again() -> None:
    assert able("middle", Kind.CONTENT_POLICY) == "small twin large tiny unknown"


def test_who_cannot_be_asked_such_a_thing_is_not_asked_again_but_others_are() -> None:
    assert able("middle", Kind.LOCAL, elsewhere=True) == "small twin large tiny unknown"
    assert able("middle", Kind.LOCAL) == "small middle twin large tiny unknown"
    assert decide(Outcome(Kind.LOCAL, elsewhere=True)).move is Move.NEXT
    assert decide(Outcome(Kind.LOCAL, elsewhere=True), attempts_left=0).move is Move.EXHAUSTED
    assert decide(Outcome(Kind.LOCAL)).move is Move.STOP


def test_only_a_window_known_to_be_larger_takes_a_request_that_was_too_long() -> None:
    assert able("middle", Kind.CONTEXT_WINDOW) == "large"
    assert able("tiny", Kind.CONTEXT_WINDOW) == "small middle twin large"
    assert able("unknown", Kind.CONTEXT_WINDOW) == ""
