"""When nothing is eligible: forcing, waiting, failing, the last resort, and eager probes."""

from __future__ import annotations

import pytest

from resilience.errors import RouteExhaustedError
from resilience.outcome import Kind
from resilience.testing.upstream import Fail, ScriptedError
from resilience.testing.world import World


def out(world: World, reason: str, seconds: float | None = None, targets: str = "ab", *, eager: bool = False) -> World:
    for target in targets:
        world.health.eject(target, reason, seconds, eager=eager)  # type: ignore[arg-type]
    return world


# ---- forcing


@pytest.mark.parametrize("on_exhausted", ["wait", "fail", "panic"])
def test_targets_opened_by_a_rate_are_used_when_nothing_is_eligible(on_exhausted: str) -> None:
    world = out(World({"a": Kind.OVERLOADED}, on_exhausted=on_exhausted), "rate", 60)
    assert world.run().target == "b"
    assert (world.log, [admission.is_forced for admission in world.admissions]) == ("ab", [True, True])


def test_targets_opened_by_a_rate_rest_while_another_is_eligible() -> None:
    world = World({"b": [Kind.TIMEOUT, Kind.TIMEOUT, "ok"]})
    world.health.eject("a", "rate", 60)
    assert (world.run().target, world.log) == ("b", "bbb")


def test_forced_targets_are_walked_again_in_later_rounds() -> None:
    world = out(World({"a": [Kind.TIMEOUT, "a"], "b": Kind.TIMEOUT}), "rate", 60)
    assert world.run().target == "a"
    assert world.log == "aba"
    assert len(world.clock.sleeps) == 1


def test_a_forced_target_may_be_retried_too() -> None:
    world = out(World({"a": [Kind.SERVER_ERROR, "again"]}), "rate", 60)
    assert world.run().text == "again"
    assert [admission.is_forced for admission in world.admissions] == [True, True]


def test_panic_uses_what_an_outage_opened_and_nothing_else() -> None:
    world = World({"b": "b"}, "abc", on_exhausted="panic")
    out(world, "account", None, "a")
    out(world, "outage", 60, "b")
    out(world, "rate_limited", 60, "c")
    assert (world.run().target, world.log) == ("b", "b")


def test_without_panic_an_outage_is_not_forced() -> None:
    world = out(World(on_exhausted="fail"), "outage", 9)
    with pytest.raises(RouteExhaustedError) as raised:
        world.run()
    assert (world.log, raised.value.retry_after, world.clock.sleeps) == ("", 9, [])
    assert "a is open (outage); b is open (outage)" in str(raised.value)


# ---- waiting


def test_waiting_ends_when_the_first_comes_back() -> None:
    world = out(World(), "outage", 20)
    out(world, "outage", 4, "b")
    assert world.run().target == "b"
    assert 4 <= world.clock.monotonic() - 1000 < 4.1


def test_waiting_lasts_at_most_as_long_as_it_may() -> None:
    world = out(World(max_wait_seconds=3), "outage", 9, eager=True)
    world.upstream.tell("a", Kind.SERVER_ERROR)
    world.upstream.tell("b", Kind.SERVER_ERROR)
    with pytest.raises(RouteExhaustedError, match="nothing came back within the 3 s that it may wait"):
        world.run()
    assert world.clock.monotonic() - 1000 == pytest.approx(3)


def test_waiting_ends_at_the_deadline() -> None:
    world = out(World(max_wait_seconds=8), "outage", 5, eager=True)
    world.upstream.tell("a", Kind.SERVER_ERROR)
    world.upstream.tell("b", Kind.SERVER_ERROR)
    with pytest.raises(RouteExhaustedError, match="no time is left of its 2 s"):
        world.run(deadline_seconds=2)
    assert world.clock.monotonic() - 1000 == pytest.approx(2, abs=0.01)
    assert "DeadlineExceeded" in world.told


@pytest.mark.parametrize(
    ("reason", "seconds"), [("account", None), ("outage", None), ("outage", 11), ("rate_limited", 60)]
)
def test_what_cannot_come_back_in_time_is_not_waited_for(reason: str, seconds: float | None) -> None:
    world = out(World(max_wait_seconds=10), reason, seconds)
    with pytest.raises(RouteExhaustedError, match="nothing comes back while it may wait") as raised:
        world.run()
    assert (world.clock.sleeps, raised.value.retry_after) == ([], seconds)


def test_all_accounts_gone_is_told_as_such() -> None:
    world = out(World(), "account")
    with pytest.raises(RouteExhaustedError) as raised:
        world.run()
    assert raised.value.only_account


def test_more_than_max_waiters_fail_at_once() -> None:
    world = out(World(max_waiters=0), "outage", 1)
    with pytest.raises(RouteExhaustedError, match=r"0 requests wait already \(max_waiters\)"):
        world.run()
    assert world.clock.sleeps == []


def test_time_spent_on_attempts_is_not_time_spent_waiting() -> None:
    world = World({"a": [Fail(Kind.TIMEOUT, after_seconds=20), "back"]}, "a", max_wait_seconds=5)
    world.health.eject("a", "outage", 3)
    world.health.hub.subscribe(lambda event: world.health.eject("a", "outage", 1.5))
    assert world.run().text == "back"
    assert world.clock.monotonic() - 1000 == pytest.approx(24.5, abs=0.1)


def test_a_target_lost_while_waiting_for_it_ends_the_wait() -> None:
    world = out(World(), "outage", 4)
    sleep = world.clock.sleep

    def isolate(seconds: float) -> None:
        sleep(seconds)
        out(world, "outage")

    world.clock.sleep = isolate
    with pytest.raises(RouteExhaustedError, match="nothing comes back"):
        world.run()
    assert len(world.clock.sleeps) == 1


# ---- rate limits as the last resort


@pytest.mark.parametrize("single", [True, False])
def test_a_rate_limit_that_ends_soon_is_waited_for_when_nothing_else_is_eligible(single: bool) -> None:
    script = {"a": [Fail(Kind.RATE_LIMITED, retry_after_seconds=2), "after"]}
    world = World(script, "a", single=single, on_exhausted="fail")
    world.health.hub.subscribe(lambda event: world.health.eject("a", "rate_limited", 2))
    assert world.run().text == "after"
    assert world.clock.sleeps == [2]


@pytest.mark.parametrize(
    ("options", "hold", "should_retry"),
    [({"num_retries": 0}, 2, None), ({}, 11, None), ({"deadline_seconds": 1}, 2, None), ({}, 2, False)],
)
def test_a_rate_limit_is_not_waited_for_without_retries_or_time(
    options: dict[str, float], hold: float, should_retry: bool | None
) -> None:
    script = {"a": [Fail(Kind.RATE_LIMITED, retry_after_seconds=hold, should_retry=should_retry), "after"]}
    world = World(script, "a", single=True)
    world.health.hub.subscribe(lambda event: world.health.eject("a", "rate_limited", hold))
    with pytest.raises(ScriptedError):
        world.run(**options)
    assert (world.log, world.clock.sleeps) == ("a", [])


def test_a_rate_limit_is_no_reason_to_wait_while_another_is_eligible() -> None:
    world = World({"a": Fail(Kind.RATE_LIMITED, retry_after_seconds=1)}, on_exhausted="fail")
    assert (world.run().target, world.clock.sleeps) == ("b", [])


def test_rate_limits_are_asked_again_only_as_often_as_retries_allow() -> None:
    world = World({"a": Fail(Kind.RATE_LIMITED, retry_after_seconds=1)}, "a", on_exhausted="fail", num_retries=2)
    world.health.hub.subscribe(lambda event: world.health.eject("a", "rate_limited", 1))
    with pytest.raises(RouteExhaustedError) as raised:
        world.run()
    assert (world.log, world.clock.sleeps, raised.value.status_code) == ("aaa", [1, 1], 429)


# ---- eager probes


@pytest.mark.parametrize("on_exhausted", ["wait", "fail"])
def test_a_request_without_a_target_is_an_eager_probe(on_exhausted: str) -> None:
    world = out(World(on_exhausted=on_exhausted), "outage", 300, eager=True)
    assert world.run().target == "a"
    assert (world.admissions[0].is_eager, world.clock.sleeps) == (True, [])


def test_a_waiting_request_probes_once_a_second_and_none_of_it_counts_as_an_attempt() -> None:
    world = out(World({"a": [Kind.TIMEOUT] * 5 + ["back"]}, "a", max_attempts=1), "outage", 300, "a", eager=True)
    assert world.run().text == "back"
    assert world.log == "aaaaaa"
    assert all(admission.is_eager for admission in world.admissions)
    assert world.clock.monotonic() - 1000 == pytest.approx(5, abs=0.2)


def test_a_request_that_does_not_wait_probes_each_target_once() -> None:
    world = out(World({"a": Kind.TIMEOUT, "b": Kind.TIMEOUT}, on_exhausted="fail"), "outage", 300, eager=True)
    with pytest.raises(RouteExhaustedError):
        world.run()
    assert world.log == "ab"


def test_without_any_time_to_wait_a_request_is_one_eager_probe_at_most() -> None:
    world = out(World({"a": Kind.TIMEOUT}, "a", max_wait_seconds=0), "outage", 300, "a", eager=True)
    world.health.hub.subscribe(lambda event: setattr(world.health._out["a"], "next_eager", 0.0))
    with pytest.raises(RouteExhaustedError):
        world.run()
    assert world.log == "a"


def test_a_failed_eager_probe_is_not_retried_on_the_spot() -> None:
    world = out(
        World({"a": Kind.SERVER_ERROR}, "a", on_exhausted="fail", num_retries=3), "outage", 300, "a", eager=True
    )
    with pytest.raises(RouteExhaustedError):
        world.run()
    assert world.log == "a"


def test_a_request_error_met_by_an_eager_probe_is_the_callers() -> None:
    world = out(World({"a": Kind.BAD_REQUEST}, "a"), "outage", 300, "a", eager=True)
    with pytest.raises(ScriptedError):
        world.run()
    assert world.unsettled() == []
