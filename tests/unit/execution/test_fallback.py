"""One request walks its route: retries, fallback, rounds, and what the caller gets."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest

from resilience.errors import (
    AnswerRejectedError,
    DeadlineExceededError,
    RejectedError,
    ResilienceError,
    RouteExhaustedError,
)
from resilience.execution import CallOptions
from resilience.execution.decision import longest_pause
from resilience.outcome import Kind
from resilience.testing.upstream import Fail, Say, ScriptedError
from resilience.testing.world import World
from resilience.upstream import Operation

HERE = [Kind.LOCAL, Kind.BAD_REQUEST, Kind.CONTENT_POLICY]
ONWARD = sorted(set(Kind) - {*HERE, Kind.SUCCESS, Kind.CANCELLED, Kind.EMPTY, Kind.REJECTED, Kind.CONTEXT_WINDOW})


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("kind", ONWARD)
def test_a_failed_target_is_followed_by_the_next(kind: Kind, mode: str) -> None:
    world = World({"a": kind}, num_retries=0)
    answer = world.run() if mode == "sync" else asyncio.run(world.arun())
    assert (answer.text, answer.target, world.log) == ("ok", "b", "ab")
    assert world.unsettled() == []


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("kind", HERE)
def test_a_request_error_is_the_providers_own_exception_at_once(kind: Kind, mode: str) -> None:
    world = World({"a": kind})
    with pytest.raises(ScriptedError) as raised:
        _ = world.run() if mode == "sync" else asyncio.run(world.arun())
    assert raised.value.outcome.kind is kind
    assert raised.value.__cause__ is None
    assert [record.kind for record in raised.value.attempts] == [kind]  # type: ignore[attr-defined]
    assert (world.log, world.unsettled()) == ("a", [])


def test_the_answer_carries_every_attempt() -> None:
    answer = World({"a": [Fail(Kind.SERVER_ERROR, status=503)], "b": Say("hi", after_seconds=2)}, num_retries=1).run()
    records = answer._hidden_params["resilience"]
    assert [(record.target, record.kind, record.status) for record in records] == [
        ("a", Kind.SERVER_ERROR, 503),
        ("a", Kind.SERVER_ERROR, 503),
        ("b", Kind.SUCCESS, None),
    ]
    assert records[0].error_type == "ScriptedError"
    assert records[2].latency_seconds == 2
    assert records[2].provider == "provider-of-b"


@pytest.mark.parametrize(("retries", "log"), [(0, "ab"), (1, "aab"), (3, "aaaab")])
def test_a_target_is_tried_once_plus_num_retries_in_a_round(retries: int, log: str) -> None:
    world = World({"a": Kind.CONNECTION}, num_retries=retries)
    world.run()
    assert world.log == log


def test_the_callers_num_retries_wins() -> None:
    world = World({"a": Kind.CONNECTION}, num_retries=3)
    world.run(num_retries=0)
    assert world.log == "ab"


def test_a_retry_that_works_is_the_answer() -> None:
    world = World({"a": [Kind.SERVER_ERROR, "there"]})
    assert world.run().text == "there"
    assert world.log == "aa"


def test_a_retry_needs_a_new_permit() -> None:
    world = World({"a": Kind.SERVER_ERROR}, num_retries=3)
    world.upstream.tell("a", [Kind.SERVER_ERROR, Kind.SERVER_ERROR])
    world.health.hub.subscribe(lambda event: world.health.eject("a"))
    world.run()
    assert world.log == "ab"


def test_a_target_that_is_out_is_passed_over_and_that_is_told() -> None:
    world = World()
    world.health.eject("a", seconds=5)
    assert world.run().target == "b"
    assert world.told == ["FallbackTaken", "AttemptSucceeded"]
    assert world.events[0].kind is None  # type: ignore[attr-defined]


def test_eligibility_is_asked_anew_when_moving_on() -> None:
    world = World({"a": Kind.TIMEOUT, "b": "b", "c": "c"}, "abc")
    world.health.hub.subscribe(lambda event: world.health.eject("b"))
    assert world.run().target == "c"
    assert world.log == "ac"


def test_a_target_that_came_back_meanwhile_is_used() -> None:
    world = World({"b": Kind.TIMEOUT, "c": Kind.TIMEOUT}, "abc")
    world.health.eject("a")
    world.upstream.tell("b", Fail(Kind.TIMEOUT, after_seconds=1))
    world.health.hub.subscribe(lambda event: world.health.restore("a"))
    assert world.run().target == "a"
    assert world.log == "ba"


def test_a_lost_race_for_a_permit_means_the_next_target() -> None:
    world = World()
    world.health.refused.add("a")
    assert world.run().target == "b"
    assert world.log == "b"


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_rounds_go_on_with_growing_pauses_until_max_attempts(mode: str) -> None:
    world = World({"a": Kind.TIMEOUT, "b": Kind.OVERLOADED}, max_attempts=5)
    with pytest.raises(RouteExhaustedError, match=r"max_attempts \(5\) is reached") as raised:
        _ = world.run() if mode == "sync" else asyncio.run(world.arun())
    assert world.log == "ababa"
    assert [error.outcome.kind for error in raised.value.exceptions] == [  # type: ignore[attr-defined]
        Kind.TIMEOUT, Kind.OVERLOADED, Kind.TIMEOUT, Kind.OVERLOADED, Kind.TIMEOUT,
    ]  # fmt: skip
    assert len(raised.value.attempts) == 5
    pauses = world.clock.sleeps
    assert len(pauses) == 2
    assert all(0 <= pause <= longest_pause(world.settings, at) for at, pause in enumerate(pauses, 1))


def test_a_round_that_would_begin_after_the_deadline_does_not() -> None:
    world = World(
        {"a": Fail(Kind.TIMEOUT, after_seconds=1)}, "a", timeouts={"deadline_seconds": 2.5, "attempt_seconds": 1}
    )
    with pytest.raises(DeadlineExceededError):
        world.run()
    assert world.clock.monotonic() - 1000 <= 2.5 + 1e-6
    assert world.told[-1] == "DeadlineExceeded"


def test_the_deadline_that_cut_an_attempt_is_told_with_the_causes() -> None:
    world = World({"a": Kind.OVERLOADED, "b": Say(after_seconds=9)}, timeouts={"deadline_seconds": 5})
    with pytest.raises(DeadlineExceededError, match=r"route 'chat' got no answer within the request's 5 s") as raised:
        world.run()
    error = raised.value
    assert isinstance(error, TimeoutError)
    assert isinstance(error.__cause__, ExceptionGroup)
    assert [one.outcome.kind for one in error.__cause__.exceptions] == [Kind.OVERLOADED, Kind.TIMEOUT]  # type: ignore[union-attr]
    assert [record.target for record in error.attempts] == ["a", "b"]
    assert error.deadline_seconds == 5
    assert [admission.shortened for admission in world.admissions] == [False, True]
    assert world.clock.monotonic() == pytest.approx(1005)


def test_a_timeout_of_the_targets_own_is_not_the_deadlines() -> None:
    world = World({"a": Say(after_seconds=70)}, timeouts={"deadline_seconds": 180, "attempt_seconds": 60})
    assert world.run().target == "b"
    assert [admission.shortened for admission in world.admissions] == [False, False]


def test_a_callers_timeout_caps_the_attempts_and_is_the_deadline() -> None:
    world = World({"a": Say(after_seconds=4)})
    with pytest.raises(DeadlineExceededError):
        world.run(deadline_seconds=3)
    assert world.log == "a"
    assert world.admissions[0].shortened
    assert world.admissions[0].timeout_seconds == 3


def test_a_callers_timeout_may_be_longer_than_the_routes_deadline() -> None:
    world = World({"a": Say(after_seconds=50)}, timeouts={"deadline_seconds": 10, "attempt_seconds": 60})
    assert world.run(deadline_seconds=100).target == "a"


def test_no_time_at_all_sends_nothing() -> None:
    world = World()
    with pytest.raises(RouteExhaustedError, match="no time is left of its 0 s"):
        world.run(deadline_seconds=0)
    assert world.log == ""


def test_an_empty_answer_goes_to_the_next_target_and_has_an_error_of_its_own() -> None:
    world = World({"a": "", "b": ""}, max_attempts=2)
    with pytest.raises(RouteExhaustedError) as raised:
        world.run()
    assert [type(cause) for cause in raised.value.exceptions] == [AnswerRejectedError] * 2
    assert str(raised.value.exceptions[0]) == "a gave an empty answer"
    assert isinstance(raised.value.exceptions[0], ResilienceError)


def test_an_empty_answer_is_one_where_the_settings_say_so() -> None:
    world = World({"a": ""}, validation={"reject_empty": False})
    assert (world.run().text, world.log) == ("", "a")


def test_a_validator_and_a_length_limit_send_on_to_the_next_target() -> None:
    world = World({"a": "no", "b": "yes"})
    assert world.run(validate=lambda text: text == "yes").target == "b"
    assert world.admissions[0].outcomes[0].kind is Kind.REJECTED
    world = World({"a": "far too long", "b": "short"}, validation={"max_chars": 5})
    assert world.run().target == "b"


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_validator_that_raises_is_heard_and_the_permit_is_back(mode: str) -> None:
    def validate(text: str) -> bool:
        raise KeyError("mine")

    world = World()
    with pytest.raises(KeyError, match="mine"):
        _ = world.run(validate=validate) if mode == "sync" else asyncio.run(world.arun(validate=validate))
    assert [outcome.kind for admission in world.admissions for outcome in admission.outcomes] == [Kind.CANCELLED]


# ---- context windows and content policy


def test_a_request_that_is_too_long_goes_only_to_a_larger_window() -> None:
    windows = {"a": 8, "b": 4, "c": 8, "e": 128}  # nobody knows d's
    world = World({"a": Kind.CONTEXT_WINDOW}, "abcde", windows=windows)
    assert world.run().target == "e"
    assert world.log == "ae"


@pytest.mark.parametrize("windows", [{"a": 8, "b": 4}, {"a": 8}, {"b": 4}, {}])
def test_a_smaller_or_unknown_window_does_not_mask_the_context_error(windows: dict[str, int]) -> None:
    world = World({"a": Kind.CONTEXT_WINDOW}, windows=windows)
    with pytest.raises(ScriptedError) as raised:
        world.run()
    assert raised.value.outcome.kind is Kind.CONTEXT_WINDOW
    assert world.log == "a"


def test_a_larger_window_that_is_out_does_not_mask_the_context_error_either() -> None:
    world = World({"a": Kind.CONTEXT_WINDOW}, windows={"a": 8, "b": 128}, on_exhausted="fail")
    world.health.eject("b", "outage", 60)
    with pytest.raises(ScriptedError) as raised:
        world.run()
    assert raised.value.outcome.kind is Kind.CONTEXT_WINDOW


def test_later_rounds_keep_to_the_larger_windows() -> None:
    world = World({"a": Kind.CONTEXT_WINDOW, "b": [Kind.TIMEOUT, "whole"]}, windows={"a": 8, "b": 128})
    assert world.run().text == "whole"
    assert world.log == "abb"


def test_what_was_left_out_stands_in_the_group_as_not_tried() -> None:
    world = World({"a": Kind.CONTEXT_WINDOW, "b": Kind.AUTH}, "abc", windows={"a": 8, "b": 9, "c": 4}, max_attempts=2)
    with pytest.raises(RouteExhaustedError) as raised:
        world.run()
    assert isinstance(raised.value.exceptions[-1], RejectedError)
    assert str(raised.value.exceptions[-1]) == "c was not tried: its context window is not known to be larger"


def test_a_refused_content_goes_on_where_asked_and_never_back() -> None:
    asked = {"fallback_on_content_policy": True}
    world = World({"a": Kind.CONTENT_POLICY}, validation=asked)
    assert world.run().target == "b"
    world = World({"a": Kind.CONTENT_POLICY, "b": Kind.CONTENT_POLICY}, validation=asked)
    with pytest.raises(ScriptedError) as raised:
        world.run()
    assert (raised.value.outcome.kind, world.log) == (Kind.CONTENT_POLICY, "ab")


# ---- one target


def test_a_route_of_one_target_still_raises_the_group() -> None:
    with pytest.raises(RouteExhaustedError):
        World({"a": Kind.AUTH}, "a", max_attempts=1).run()


@pytest.mark.parametrize(("kind", "log"), [(Kind.TIMEOUT, "a"), (Kind.SERVER_ERROR, "aa"), (Kind.AUTH, "a")])
def test_a_single_model_string_re_raises_the_providers_own_error_after_one_round(kind: Kind, log: str) -> None:
    world = World({"a": kind}, "a", single=True)
    with pytest.raises(ScriptedError) as raised:
        world.run()
    assert (raised.value.outcome.kind, world.log) == (kind, log)


def test_a_single_model_string_whose_breaker_is_open_is_rejected_at_once() -> None:
    for reason in ("rate", "outage", "account"):
        world = World(targets="a", single=True)
        world.health.eject("a", reason, 3, eager=True)  # type: ignore[arg-type]
        with pytest.raises(RejectedError, match="a is open") as raised:
            world.run()
        assert raised.value.retry_after == 3
        assert (world.log, world.clock.sleeps) == ("", [])


def test_a_single_model_string_without_a_permit_raises_the_refusal() -> None:
    world = World(targets="a", single=True)
    world.health.refused.add("a")
    with pytest.raises(RejectedError, match="a is refused"):
        world.run()


def test_a_single_model_strings_deadline_is_told_as_one() -> None:
    with pytest.raises(DeadlineExceededError, match="target 'a' got no answer"):
        World({"a": Say(after_seconds=9)}, "a", single=True).run(deadline_seconds=2)


# ---- Retry-After


def test_a_retry_after_keeps_the_next_round_off_that_target() -> None:
    world = World({"a": [Fail(Kind.OVERLOADED, retry_after_seconds=4), "late"], "b": Kind.TIMEOUT}, max_attempts=20)
    assert world.run().text == "late"
    assert world.clock.monotonic() >= 1004
    assert world.log.count("a") == 2


def test_the_next_round_waits_for_the_retry_after_of_the_only_target() -> None:
    world = World({"a": [Fail(Kind.OVERLOADED, retry_after_seconds=4), "late"]}, "a")
    assert world.run().text == "late"
    assert world.clock.sleeps == [4]


def test_a_retry_after_that_does_not_fit_is_not_waited_for() -> None:
    world = World({"a": [Fail(Kind.OVERLOADED, retry_after_seconds=40), "sooner"]}, "a")
    assert world.run().text == "sooner"
    assert sum(world.clock.sleeps) <= 0.25


# ---- the budget


def test_an_empty_budget_means_the_next_target_and_is_told() -> None:
    world = World({"a": Kind.SERVER_ERROR}, backoff_seconds=0)
    for _ in range(100):
        world.run()
    # 10 that are always there and a fifth of 100 requests
    assert world.upstream.attempts["a"] == 100 + 10 + 20
    assert "BudgetExhausted" in world.told
    assert world.upstream.attempts["b"] == 100


def test_an_empty_budget_gives_a_single_callers_the_providers_error() -> None:
    world = World({"a": Kind.SERVER_ERROR}, "a", single=True, backoff_seconds=0)
    for _ in range(30):
        with pytest.raises(ScriptedError):
            world.run()
    assert len(world.log) == 30 + 10 + 6


def test_what_is_made_of_a_route_for_one_caller_draws_from_the_routes_budget() -> None:
    world = World({"a": Kind.SERVER_ERROR}, backoff_seconds=0)
    for _ in range(100):
        own = replace(world.route)
        world.engine.run(own, Operation.COMPLETION, {}, CallOptions())
    world.run()
    assert world.upstream.attempts["a"] == 101 + 10 + 20


# ---- errors


def test_the_message_answers_the_next_question() -> None:
    world = World({"a": Fail(Kind.SERVER_ERROR, status=503)}, "abc", num_retries=1, on_exhausted="fail", max_attempts=2)
    world.health.eject("b", "outage", 12)
    with pytest.raises(RouteExhaustedError) as raised:
        world.run()
    text = str(raised.value)
    assert "route 'chat' is exhausted: a failed with 2 x server_error (503); b is open (outage)" in text
    assert "c was not tried: max_attempts (2) is reached" in text
    assert raised.value.retry_after == 0
    assert raised.value.status_code == 503


def test_all_rate_limits_are_a_429_with_the_first_chance_as_retry_after() -> None:
    world = World({"a": Kind.RATE_LIMITED}, on_exhausted="fail", num_retries=0)
    world.health.eject("b", "rate_limited", 30)
    world.health.hub.subscribe(lambda event: world.health.eject("a", "rate_limited", 20))
    with pytest.raises(RouteExhaustedError) as raised:
        world.run()
    assert (raised.value.status_code, raised.value.retry_after) == (429, 20)
    assert [type(cause).__name__ for cause in raised.value.exceptions] == ["ScriptedError", "CircuitOpenError"]


def test_no_prompt_and_no_answer_is_in_errors_or_events() -> None:
    secret = "sk-planted-7"
    world = World({"a": ValueError(secret), "b": secret}, max_attempts=3, num_retries=0)
    with pytest.raises(RouteExhaustedError) as raised:
        world.run({"messages": [secret], "api_key": secret}, validate=lambda text: False)
    assert secret not in str(raised.value)
    assert secret not in repr(world.events)
    assert secret not in repr(raised.value.attempts)


def test_two_drivers_make_the_same_of_the_same_script() -> None:
    rng = random.Random(11)
    for seed in range(60):
        script: dict[str, Any] = {
            name: [Fail(rng.choice(ONWARD), rng.random()) if rng.random() < 0.7 else "ok" for _ in range(3)]
            for name in "abc"
        }
        ends = []
        for mode in ("sync", "async"):
            world = World({name: list(acts) for name, acts in script.items()}, "abc", seed=seed, max_attempts=6)
            try:
                end: object = (world.run() if mode == "sync" else asyncio.run(world.arun())).target
            except RouteExhaustedError as error:
                end = str(error)
            ends.append((end, world.log, world.clock.sleeps, world.told))
        assert ends[0] == ends[1]
