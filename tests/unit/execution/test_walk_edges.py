"""Edges of a walk: forced targets, permits asked for again, the queue, and limits that belong to somebody."""

from __future__ import annotations

import random
from typing import Any

import pytest

from resilience.clock import SYSTEM_CLOCK
from resilience.errors import DeadlineExceededError, RejectedError, RouteExhaustedError, StreamInterruptedError
from resilience.events import FallbackTaken
from resilience.outcome import Kind
from resilience.testing.upstream import Fail, Say
from resilience.testing.world import World


class Chance(random.Random):
    """Always draws the same."""

    def __init__(self, drawn: float) -> None:
        super().__init__()
        self.drawn = drawn

    def random(self) -> float:
        return self.drawn


def lane_of(world: World) -> Any:
    return world.engine._lane(world.route)


def limits_asked(world: World) -> list[tuple[str, float | None]]:
    return [(one.target.name, one.timeout_seconds) for one in world.admissions]


LIMITS = {"attempt_seconds": 60, "first_token_seconds": 20, "deadline_seconds": 100}


@pytest.mark.parametrize(("stream", "seconds"), [(False, 60), (True, 20)])
def test_a_forced_permit_and_one_asked_for_again_know_the_limit_too(stream: bool, seconds: float) -> None:
    world = World({"a": [Kind.SERVER_ERROR, "again"]}, "a", timeouts=LIMITS)
    world.health.eject("a", "rate", 60)
    answer = world.run(stream=stream)
    assert "".join(chunk.text for chunk in answer) == "again" if stream else answer.text == "again"
    assert limits_asked(world) == [("a", seconds), ("a", seconds)]


@pytest.mark.parametrize(("on_exhausted", "reason"), [("panic", "outage"), ("wait", "rate")])
def test_a_forced_target_is_retried_by_the_force_that_let_it_in(on_exhausted: str, reason: Any) -> None:
    world = World({"a": [Kind.SERVER_ERROR, "again"]}, "a", on_exhausted=on_exhausted)
    world.health.eject("a", reason, 60)
    assert world.run().text == "again"
    assert [one.is_forced for one in world.admissions] == [True, True]


def test_what_a_rate_let_in_is_not_forced_after_an_outage_without_panic() -> None:
    world = World({"a": Kind.SERVER_ERROR}, "a", on_exhausted="fail", num_retries=3)
    world.health.eject("a", "rate", 60)
    world.health.hub.subscribe(lambda event: world.health.eject("a", "outage", 60))
    with pytest.raises(RouteExhaustedError):
        world.run()
    assert world.log == "a"


def test_a_refusal_in_the_race_for_a_forced_target_keeps_its_words() -> None:
    world = World({"b": Kind.TIMEOUT}, max_attempts=1)
    world.health.eject("a", "rate", 60)
    world.health.eject("b", "rate", 60)
    world.health.refused.add("a")
    world.health.rejection = lambda target: None  # type: ignore[method-assign]  # it has come back meanwhile
    with pytest.raises(RouteExhaustedError) as raised:
        world.run()
    assert world.log == "b"
    assert [str(one) for one in raised.value.exceptions if isinstance(one, RejectedError)] == ["a is refused"]


def test_a_retry_without_a_pause_does_not_sleep() -> None:
    for drawn, sleeps in ((0.0, []), (0.5, [0.125])):
        world = World({"a": [Kind.CONNECTION, "again"]}, "a")
        lane_of(world).rng = Chance(drawn)
        assert world.run().text == "again"
        assert world.clock.sleeps == sleeps


def test_a_round_backs_off_by_at_most_half_of_what_is_left() -> None:
    world = World({"a": [Kind.TIMEOUT, "a"]}, "a", backoff_seconds=8, timeouts={"deadline_seconds": 2})
    lane_of(world).rng = Chance(1.0)
    assert world.run().target == "a"
    assert world.clock.sleeps == [1.0]


def test_rounds_back_off_longer_and_longer() -> None:
    world = World({"a": Kind.TIMEOUT}, "a", max_attempts=5)
    lane_of(world).rng = Chance(1.0)
    with pytest.raises(RouteExhaustedError):
        world.run()
    assert world.clock.sleeps == [0.25, 0.5, 1.0, 2.0]


@pytest.mark.parametrize("answer", ["whole", "held", "stream"])
def test_each_success_lets_those_go_who_wait(answer: str) -> None:
    world = World(stream={"buffer": "full" if answer == "held" else "none"})
    queue = lane_of(world).queue
    tickets = [queue.join(5) for _ in range(6)]
    served = world.run(stream=answer != "whole")
    if answer != "whole":
        list(served)
    assert [ticket.released for ticket in tickets] == [True, True, False, False, False, False]


def test_a_streams_end_lets_nobody_go_a_second_time() -> None:
    world = World({"a": "one two"})
    queue = lane_of(world).queue
    tickets = [queue.join(5) for _ in range(6)]
    stream = world.run(stream=True)
    next(stream)
    assert [ticket.released for ticket in tickets] == [True, True, False, False, False, False]
    list(stream)
    assert [ticket.released for ticket in tickets] == [True, True, False, False, False, False]


def test_a_waiter_takes_its_own_priority_and_its_old_place() -> None:
    world = World({"a": [Kind.TIMEOUT, "back"]}, "a")
    world.health.eject("a", "outage", 2, eager=True)
    queue, joins = lane_of(world).queue, []
    join = queue.join

    def noted(*given: Any) -> Any:
        ticket = join(*given)
        joins.append((*given, ticket.key))
        return ticket

    type(queue).join, kept = lambda self, *given: noted(*given), type(queue).join
    join = kept.__get__(queue)
    try:
        assert world.run(priority=3).text == "back"
    finally:
        type(queue).join = kept
    (first, none, _, key), (second, again, _, same) = joins
    assert (first, none, second, again, same) == (3, None, 3, key, key)
    assert key[0] == 3


def test_a_deadline_that_is_exactly_over_cut_the_attempt() -> None:
    world = World({"a": Say(after_seconds=9)}, "a", timeouts={"deadline_seconds": 5, "attempt_seconds": 60})
    with pytest.raises(DeadlineExceededError):
        world.run()
    world = World({"a": Fail(Kind.TIMEOUT, after_seconds=4.5)}, "a", timeouts={"deadline_seconds": 5}, max_attempts=1)
    with pytest.raises(RouteExhaustedError, match=r"max_attempts \(1\) is reached"):
        world.run()


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("seconds", [4, 5])
def test_a_deadline_is_one_also_where_the_attempts_own_limit_ends_with_it(seconds: float, single: bool) -> None:
    world = World(
        {"a": Say(after_seconds=9)}, "a", single=single, timeouts={"deadline_seconds": seconds, "attempt_seconds": 5}
    )
    before = world.clock.monotonic()
    with pytest.raises(DeadlineExceededError):
        world.run()
    assert world.clock.monotonic() - before == seconds


def test_the_deadlines_error_lists_what_the_attempts_met() -> None:
    world = World({"a": Kind.OVERLOADED, "b": Say(after_seconds=9)}, timeouts={"deadline_seconds": 5})
    with pytest.raises(DeadlineExceededError) as raised:
        world.run()
    assert str(raised.value) == (
        "route 'chat' got no answer within the request's 5 s: a failed with overloaded; b failed with timeout"
    )
    group = raised.value.__cause__
    assert isinstance(group, ExceptionGroup)
    assert group.message == "what the attempts met"


def test_an_empty_answer_of_a_single_target_says_whose_it_was() -> None:
    world = World({"a": ""}, "a", single=True, num_retries=0, max_attempts=1)
    with pytest.raises(Exception, match=r"^a gave an empty answer$"):
        world.run()


def test_targets_of_one_order_are_drawn_anew_by_each_request() -> None:
    world = World(orders=(1, 1))
    assert {world.run().target for _ in range(40)} == {"a", "b"}


def test_each_move_is_told_from_the_target_before() -> None:
    world = World({"a": Kind.TIMEOUT, "b": Kind.OVERLOADED}, "abc")
    world.run()
    assert [event for event in world.events if isinstance(event, FallbackTaken)] == [
        FallbackTaken("chat", "a", "b", Kind.TIMEOUT),
        FallbackTaken("chat", "b", "c", Kind.OVERLOADED),
    ]


@pytest.mark.parametrize(
    ("given", "seconds", "why"),
    [
        ({"max_wait_seconds": 5}, 6, "the rate limit lasts longer than it may wait"),
        ({}, 2, "its budget of retries is spent"),
    ],
)
def test_why_a_rate_limit_is_not_waited_for_is_the_last_thing_said(
    given: dict[str, Any], seconds: float, why: str
) -> None:
    world = World({"a": Fail(Kind.RATE_LIMITED, retry_after_seconds=seconds)}, "a", on_exhausted="fail", **given)
    world.health.hub.subscribe(lambda event: world.health.eject("a", "rate_limited", seconds))
    if not given:
        while lane_of(world).budget.draw(world.clock.monotonic()):
            pass
    with pytest.raises(RouteExhaustedError) as raised:
        world.run()
    assert raised.value.message == f"route 'chat' is exhausted: a failed with rate_limited; {why}"


async def test_a_limit_of_the_targets_own_is_not_the_callers_although_another_was_shortened() -> None:
    world = World({"a": Say("one two", gap_seconds=30)}, "a", clock=SYSTEM_CLOCK, timeouts={"stall_seconds": 0.03})
    with pytest.raises(StreamInterruptedError):
        _ = [chunk async for chunk in await world.arun(stream=True, deadline_seconds=15)]
    assert [one.shortened for one in world.admissions] == [False]


def test_a_target_that_cannot_write_on_is_not_asked_again_after_its_own_break() -> None:
    world = World(
        {"a": [Say("one two", then=Kind.CONNECTION), "again"], "b": " three"}, stream={"on_interruption": "continue"}
    )
    takes = world.upstream.takes_prefill
    world.upstream.takes_prefill = lambda target: target.name != "a" and takes(target)  # type: ignore[method-assign]
    text = "".join(chunk.text for chunk in world.run(stream=True))
    assert (world.log, text) == ("ab", "one two three")


def test_an_exhausted_route_is_worth_another_call_when_the_first_retry_after_is_over() -> None:
    script = {
        "a": Fail(Kind.OVERLOADED, retry_after_seconds=7),
        "b": Fail(Kind.SERVER_ERROR, retry_after_seconds=5),
    }
    world = World(script, num_retries=0, max_attempts=2)
    with pytest.raises(RouteExhaustedError) as caught:
        world.run()
    assert caught.value.retry_after == pytest.approx(5, abs=0.01)
