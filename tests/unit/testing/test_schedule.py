"""Schedules say what is wrong when, for every part of the kit."""

from __future__ import annotations

import math

import pytest

from resilience.outcome import Kind
from resilience.testing import Fault, LoopbackProvider, ManualClock, Schedule, ScriptedUpstream, flapping, outage
from resilience.testing.upstream import ScriptedError
from resilience.testing.world import World
from resilience.upstream import CallTimeouts, Operation, Target


def test_phases_follow_each_other_and_then_nothing_is_wrong() -> None:
    schedule = Schedule(((10, "a"), (5, None), (1, "b")))
    assert [schedule.at(seconds) for seconds in (0, 9.9, 10, 14.9, 15, 16, 1e9)] == [
        "a",
        "a",
        None,
        None,
        "b",
        None,
        None,
    ]


def test_flapping_repeats_and_begins_with_down() -> None:
    schedule = flapping("down", down_seconds=2, up_seconds=3)
    assert [schedule.at(seconds) for seconds in range(7)] == ["down", "down", None, None, None, "down", "down"]


@pytest.mark.parametrize(
    ("phases", "repeats", "said"),
    [
        ((), False, "without phases"),
        (((0, "a"),), False, "phase 0 of the schedule lasts 0 s"),
        (((1, "a"), (math.nan, "b")), False, "phase 1 of the schedule lasts nan s"),
        (((math.inf, "a"),), True, "cannot repeat"),
    ],
)
def test_a_schedule_without_time_is_refused(phases: tuple[tuple[float, str], ...], repeats: bool, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Schedule(phases, repeats=repeats)


def test_an_endless_phase_may_stand_last() -> None:
    assert Schedule(((1, None), (math.inf, "down"))).at(1e12) == "down"


def test_a_scripted_target_follows_a_schedule() -> None:
    clock = ManualClock()
    upstream = ScriptedUpstream({"a": Schedule(((5, Kind.SERVER_ERROR), (5, None)))}, clock=clock)
    ask = Target("a", "p", "m"), Operation.COMPLETION, {}, CallTimeouts(60, 20, 20)
    for _ in range(2):
        with pytest.raises(ScriptedError):
            upstream.call(*ask)
        clock.advance(2.5)
    assert upstream.call(*ask).text == "ok"
    clock.advance(100)
    assert upstream.call(*ask).text == "ok"
    upstream.tell("a", "plain again")
    assert upstream.call(*ask).text == "plain again"


def test_a_scripted_target_meets_an_outage() -> None:
    world = World({}, "ab", num_retries=0)
    with outage("provider-of-a", "rate_limited", retry_after=3) as down:
        assert world.run().target == "b"
    assert (down.calls, world.log) == (1, "ab")
    assert world.admissions[0].outcomes[0].retry_after_seconds == 3


def test_a_hang_of_a_scripted_target_takes_as_long_as_its_limit() -> None:
    world = World({}, "ab", num_retries=0, timeouts={"attempt_seconds": 7})
    with outage("provider-of-a", "hang"):
        world.run()
    assert world.admissions[0].outcomes[0].kind is Kind.TIMEOUT
    assert world.clock.monotonic() == 1007


def test_a_stream_of_a_scripted_target_breaks_after_it_began() -> None:
    world = World({}, "ab", num_retries=0)
    with outage("provider-of-a", "interrupted"):
        stream = world.run(stream=True)
        text = []
        with pytest.raises(Exception, match="broke") as caught:
            text.extend(chunk.text for chunk in stream)
    assert "".join(text) == caught.value.partial == "This breaks "


def test_a_closed_listener_has_no_schedule() -> None:
    provider = LoopbackProvider()
    with pytest.raises(ValueError, match="cannot be part of a schedule"):
        provider.set(Schedule(((1, Fault.refuse()),)))
