"""What a request tells on its way: every event with every field, and what its permits were asked for."""

from __future__ import annotations

from typing import Any

import pytest

from resilience.errors import DeadlineExceededError, RejectedError, RouteExhaustedError, StreamInterruptedError
from resilience.events import (
    AttemptFailed,
    AttemptIgnored,
    AttemptSucceeded,
    BudgetExhausted,
    DeadlineExceeded,
    FallbackTaken,
    StreamInterrupted,
)
from resilience.outcome import Kind
from resilience.testing.upstream import Fail, Say, ScriptedError
from resilience.testing.world import World


def rejected(error: RouteExhaustedError) -> list[tuple[Any, ...]]:
    return [
        (str(one), one.breaker, one.provider, one.retry_after)
        for one in error.exceptions
        if isinstance(one, RejectedError)
    ]


def spend_the_budget(world: World) -> None:
    lane = world.engine._lane(world.route)
    while lane.budget.draw(world.clock.monotonic()):
        pass


# -- events -----------------------------------------------------------------------------------------------------------


def test_a_request_that_walks_tells_each_attempt_and_each_move() -> None:
    world = World(
        {"a": Fail(Kind.SERVER_ERROR, after_seconds=1, status=503, retry_after_seconds=0.5), "c": Say(after_seconds=2)},
        "abc", num_retries=1,
    )  # fmt: skip
    world.health.eject("b")
    world.run()
    failed = {"retry_after_seconds": 0.5, "latency_seconds": 1.0, "stream": False}
    who = ("chat", "a", "provider-of-a", Kind.SERVER_ERROR, 503, "ScriptedError")
    assert world.events == [
        AttemptFailed(*who, number=1, **failed),
        FallbackTaken("chat", "a", "c", Kind.SERVER_ERROR),
        AttemptSucceeded("chat", "c", "provider-of-c", 2.0, 2, stream=False),
    ]


def test_a_stream_tells_that_it_is_one() -> None:
    world = World({"a": Kind.TIMEOUT})
    assert [chunk.text for chunk in world.run(stream=True)] == ["ok"]
    assert world.events == [
        AttemptFailed("chat", "a", "provider-of-a", Kind.TIMEOUT, None, "ScriptedError", None, 0.0, 1, stream=True),
        FallbackTaken("chat", "a", "b", Kind.TIMEOUT),
        AttemptSucceeded("chat", "b", "provider-of-b", 0.0, 2, stream=True),
    ]


def test_a_broken_stream_tells_how_far_it_came() -> None:
    world = World({"a": Say("one two", then=Kind.CONNECTION)})
    with pytest.raises(StreamInterruptedError):
        list(world.run(stream=True))
    assert StreamInterrupted("chat", "a", "provider-of-a", Kind.CONNECTION, 7) in world.events


def test_a_reader_who_leaves_is_told_as_ignored_with_the_time_it_took() -> None:
    world = World({"a": "one two three"})
    stream = world.run(stream=True)
    next(stream)
    world.clock.advance(3)
    stream.close()
    assert world.events == [
        AttemptIgnored("chat", "a", "provider-of-a", Kind.CANCELLED, None, None, 3.0, 1, stream=True)
    ]


@pytest.mark.parametrize(("given", "seconds"), [({}, 5.0), ({"deadline_seconds": 4}, 4.0)])
def test_a_deadline_that_cut_an_attempt_is_told_once(given: dict[str, Any], seconds: float) -> None:
    world = World({"a": Say(after_seconds=9)}, timeouts={"deadline_seconds": 5})
    with pytest.raises(DeadlineExceededError) as raised:
        world.run(**given)
    assert [event for event in world.events if isinstance(event, DeadlineExceeded)] == [
        DeadlineExceeded("chat", seconds, 1)
    ]
    assert raised.value.deadline_seconds == seconds


@pytest.mark.parametrize(("given", "seconds"), [({}, 5.0), ({"deadline_seconds": 4}, 4.0)])
def test_a_deadline_between_attempts_is_told_as_well(given: dict[str, Any], seconds: float) -> None:
    world = World({"a": Fail(Kind.OVERLOADED, after_seconds=seconds)}, timeouts={"deadline_seconds": 5})
    with pytest.raises(RouteExhaustedError) as raised:
        world.run(**given)
    assert world.events[-1] == DeadlineExceeded("chat", seconds, 1)
    text = f"no time is left of its {seconds:.3g} s"
    assert rejected(raised.value) == [(f"b was not tried: {text}", None, "provider-of-b", None)]
    assert str(raised.value).startswith(f"route 'chat' is exhausted: a failed with overloaded; b was not tried: {text}")


def test_a_budget_that_is_spent_sends_the_request_on_and_is_told() -> None:
    world = World({"a": Kind.SERVER_ERROR})
    spend_the_budget(world)
    assert world.run().target == "b"
    assert world.log == "ab"
    assert BudgetExhausted("chat", "a") in world.events


def test_a_budget_that_is_spent_leaves_a_rate_limit_alone() -> None:
    world = World({"a": Fail(Kind.RATE_LIMITED, retry_after_seconds=2)}, "a", on_exhausted="fail")
    world.health.hub.subscribe(lambda event: world.health.eject("a", "rate_limited", 2))
    spend_the_budget(world)
    with pytest.raises(RouteExhaustedError, match="its budget of retries is spent"):
        world.run()
    assert (world.log, world.events[-1]) == ("a", BudgetExhausted("chat", "a"))


# -- permits ----------------------------------------------------------------------------------------------------------


LIMITS = {"attempt_seconds": 60, "first_token_seconds": 20, "deadline_seconds": 100}


@pytest.mark.parametrize(("stream", "seconds"), [(False, 60), (True, 20)])
def test_a_permit_knows_the_limit_that_matters_for_its_attempt(stream: bool, seconds: float) -> None:
    for eager in (False, True):
        world = World({"a": Kind.BAD_REQUEST}, "a", timeouts=LIMITS)
        if eager:
            world.health.eject("a", "outage", 300, eager=True)
        with pytest.raises(ScriptedError):
            world.run(stream=stream)
        assert [(one.timeout_seconds, one.is_eager) for one in world.admissions] == [(seconds, eager)]


@pytest.mark.parametrize(("held", "seconds"), [("none", 12), ("full", 12)])
def test_a_callers_timeout_is_the_permits_as_well(held: str, seconds: float) -> None:
    world = World({"a": Kind.BAD_REQUEST}, "a", timeouts=LIMITS, stream={"buffer": held})
    with pytest.raises(ScriptedError):
        world.run(stream=True, deadline_seconds=12)
    assert world.admissions[0].timeout_seconds == seconds


def test_an_attempt_that_was_not_cut_is_not_settled_as_shortened() -> None:
    world = World({"a": Fail(Kind.SERVER_ERROR, after_seconds=1), "b": Say(after_seconds=1)})
    world.run(deadline_seconds=30)
    assert [one.shortened for one in world.admissions] == [False, False, False]


# -- how it ends ------------------------------------------------------------------------------------------------------


def test_a_target_that_refused_in_the_race_is_told_with_its_own_words() -> None:
    world = World({"a": Kind.TIMEOUT}, "ab", max_attempts=1)
    world.health.refused.add("a")
    world.upstream.tell("b", Kind.TIMEOUT)
    with pytest.raises(RouteExhaustedError, match=r"max_attempts \(1\) is reached") as raised:
        world.run()
    assert world.log == "b"
    assert rejected(raised.value) == [("a is refused", "a", "provider-of-a", None)]


def test_targets_without_a_larger_window_say_so() -> None:
    world = World({"b": Kind.TIMEOUT}, "abc", windows={"a": 8, "b": 16, "c": 4}, max_attempts=2)
    world.upstream.tell("a", Kind.CONTEXT_WINDOW)
    with pytest.raises(RouteExhaustedError) as raised:
        world.run()
    assert world.log == "ab"
    assert rejected(raised.value) == [
        ("c was not tried: its context window is not known to be larger", None, "provider-of-c", None)
    ]


def test_a_route_says_when_its_first_target_is_worth_another_try() -> None:
    world = World(on_exhausted="fail")
    world.health.eject("a", "outage", 9)
    world.health.eject("b", "outage", 4)
    with pytest.raises(RouteExhaustedError) as raised:
        world.run()
    assert raised.value.retry_after == 4
    assert [one[3] for one in rejected(raised.value)] == [9, 4]


def test_a_single_target_that_is_out_gives_its_own_refusal() -> None:
    world = World(targets="a", single=True)
    world.health.eject("a", "outage", 9)
    with pytest.raises(RejectedError, match=r"a is open \(outage\)") as raised:
        world.run()
    assert (world.log, raised.value.retry_after) == ("", 9)


@pytest.mark.parametrize(("seconds", "asked"), [(2.0, "aa"), (5.0, "aa"), (5.5, "a")])
def test_a_rate_limit_is_waited_for_as_long_as_it_may_be(seconds: float, asked: str) -> None:
    world = World(
        {"a": [Fail(Kind.RATE_LIMITED, retry_after_seconds=seconds), "after"]}, "a",
        on_exhausted="fail", max_wait_seconds=5,
    )  # fmt: skip
    world.health.hub.subscribe(lambda event: world.health.eject("a", "rate_limited", seconds))
    if asked == "aa":
        assert (world.run().text, world.clock.sleeps) == ("after", [seconds])
    else:
        with pytest.raises(RouteExhaustedError, match="the rate limit lasts longer than it may wait"):
            world.run()
    assert world.log == asked


def test_waits_for_rate_limits_add_up() -> None:
    world = World(
        {"a": Fail(Kind.RATE_LIMITED, retry_after_seconds=2)}, "a",
        on_exhausted="fail", max_wait_seconds=5, num_retries=9,
    )  # fmt: skip
    world.health.hub.subscribe(lambda event: world.health.eject("a", "rate_limited", 2))
    with pytest.raises(RouteExhaustedError, match="the rate limit lasts longer than it may wait"):
        world.run()
    assert (world.log, world.clock.sleeps) == ("aaa", [2, 2])


def test_of_two_rate_limits_the_one_that_ends_first_is_waited_for() -> None:
    ends = {"a": 3, "b": 1, "c": 1}
    world = World({name: [Fail(Kind.RATE_LIMITED), f"{name} again"] for name in "abc"}, "abc", on_exhausted="fail")
    world.health.hub.subscribe(
        lambda event: (
            isinstance(event, AttemptFailed) and world.health.eject(event.target, "rate_limited", ends[event.target])
        )  # type: ignore[func-returns-value]
    )
    assert world.run().text == "b again"
    assert (world.log, world.clock.sleeps) == ("abcb", [1])


# -- rounds -----------------------------------------------------------------------------------------------------------


def test_the_next_round_waits_for_the_shortest_retry_after_of_those_it_is_for() -> None:
    world = World(
        {
            "a": [Fail(Kind.OVERLOADED, retry_after_seconds=7), "a"],
            "b": [Fail(Kind.OVERLOADED, retry_after_seconds=3), "b"],
        },
    )
    assert world.run().target == "b"
    assert (world.log, world.clock.sleeps) == ("abb", [3])


def test_a_pause_never_takes_more_than_half_of_what_is_left() -> None:
    for seed in range(20):
        world = World({"a": [Kind.TIMEOUT, "a"]}, "a", seed=seed, backoff_seconds=8, timeouts={"deadline_seconds": 2})
        assert world.run().target == "a"
        assert 0 <= world.clock.sleeps[0] <= 1


def test_a_paused_target_is_passed_over_until_its_time_has_come() -> None:
    world = World({"a": [Fail(Kind.OVERLOADED, retry_after_seconds=2), "a"], "b": [Kind.TIMEOUT, Kind.TIMEOUT, "b"]})
    world.upstream.tell("b", [Kind.TIMEOUT, "b"])
    world.run()
    assert world.log[:2] == "ab"
    assert world.clock.sleeps[0] <= 2
