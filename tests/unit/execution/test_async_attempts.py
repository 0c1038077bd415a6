"""Async attempts: our own timer, the caller's cancellation, and both at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilience.clock import SYSTEM_CLOCK
from resilience.errors import AttemptTimeoutError, DeadlineExceededError, RouteExhaustedError
from resilience.execution.alarm import Alarm
from resilience.outcome import Kind
from resilience.testing.upstream import Fail, Say
from resilience.testing.world import World


def kinds(world: World) -> list[Kind]:
    return [outcome.kind for admission in world.admissions for outcome in admission.outcomes]


def hanging(**options: Any) -> World:
    return World({"a": Say(after_seconds=30), "b": "b"}, clock=SYSTEM_CLOCK, **options)


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def test_a_hanging_attempt_is_cut_and_the_next_target_answers() -> None:
    world = hanging(timeouts={"attempt_seconds": 0.03})
    assert (await world.arun()).target == "b"
    error = world.admissions[0].outcomes[0].error
    assert isinstance(error, AttemptTimeoutError)
    assert isinstance(error, TimeoutError)
    assert str(error) == "a did not answer within attempt_seconds=0.03"
    assert kinds(world) == [Kind.TIMEOUT, Kind.SUCCESS]
    assert cancelling() == 0


async def test_the_deadline_cuts_to_the_moment() -> None:
    world = hanging()
    with pytest.raises(DeadlineExceededError):
        await world.arun(deadline_seconds=0.05)
    assert world.admissions[0].shortened
    assert cancelling() == 0


async def test_a_cancelled_request_gives_its_permit_back_and_goes_no_further() -> None:
    world = hanging()
    task = asyncio.create_task(world.arun())
    await SYSTEM_CLOCK.asleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (world.log, kinds(world), world.told) == ("a", [Kind.CANCELLED], ["AttemptIgnored"])


async def test_a_callers_own_timeout_passes_through() -> None:
    world = hanging()
    with pytest.raises(TimeoutError) as raised:
        async with asyncio.timeout(0.02):
            await world.arun()
    assert not isinstance(raised.value, AttemptTimeoutError)
    assert kinds(world) == [Kind.CANCELLED]


async def test_cancellation_wins_over_our_timer_at_the_same_moment() -> None:
    world = hanging(timeouts={"attempt_seconds": 0.02})
    task = asyncio.create_task(world.arun())
    asyncio.get_running_loop().call_later(0.02, task.cancel)
    await SYSTEM_CLOCK.asleep(0)
    # Both timers are due when the loop comes to look at them.
    until = SYSTEM_CLOCK.monotonic() + 0.05
    while SYSTEM_CLOCK.monotonic() < until:
        pass
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (world.log, kinds(world)) == ("a", [Kind.CANCELLED])


async def test_a_cancellation_that_becomes_an_error_below_is_still_one() -> None:
    world = hanging()
    acall = world.upstream.acall

    async def swallow(*given: Any) -> Any:
        try:
            return await acall(*given)
        except asyncio.CancelledError as error:
            raise RuntimeError("wrapped") from error

    world.upstream.acall = swallow  # type: ignore[method-assign]
    task = asyncio.create_task(world.arun())
    await SYSTEM_CLOCK.asleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.log == "a"
    # The same with our own timer is a timeout.
    with pytest.raises(DeadlineExceededError):
        await world.arun(deadline_seconds=0.02)
    assert world.admissions[-1].outcomes[0].kind is Kind.TIMEOUT


async def test_an_answer_that_comes_in_spite_of_the_timer_counts() -> None:
    world = hanging(timeouts={"attempt_seconds": 0.02})

    async def stubborn(*given: Any) -> Any:
        try:
            await SYSTEM_CLOCK.asleep(30)
        except asyncio.CancelledError:
            return type("Answer", (), {"text": "here", "_hidden_params": {}})()

    world.upstream.acall = stubborn  # type: ignore[method-assign]
    assert (await world.arun()).text == "here"
    assert cancelling() == 0


async def test_cancelling_between_attempts_holds_nothing() -> None:
    world = World({"a": Fail(Kind.TIMEOUT)}, "a", clock=SYSTEM_CLOCK, backoff_seconds=8, seed=2)
    task = asyncio.create_task(world.arun())
    await SYSTEM_CLOCK.asleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.unsettled() == []


def test_a_keyboard_interrupt_gives_the_permit_back() -> None:
    world = World()

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    world.upstream.call = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        world.run()
    assert kinds(world) == [Kind.CANCELLED]


async def test_many_requests_share_a_loop() -> None:
    world = World({"a": [Fail(Kind.SERVER_ERROR, 0.001)] * 5 + ["ok"]}, clock=SYSTEM_CLOCK)
    answers = await asyncio.gather(*(world.arun() for _ in range(50)))
    assert len(answers) == 50
    assert world.unsettled() == []


async def test_an_alarm_is_moved_and_does_not_ring_early_or_late_for_nobody() -> None:
    alarm = Alarm()
    alarm.arm(0.01)
    alarm.disarm()
    await SYSTEM_CLOCK.asleep(0.03)  # the loop's timer finds nothing to do
    alarm.arm(30)
    alarm.arm(0.02)  # sooner than the timer that runs
    with pytest.raises(asyncio.CancelledError):
        await SYSTEM_CLOCK.asleep(30)
    assert alarm.was_it()
    assert cancelling() == 0
    alarm.arm(0.01)
    alarm.arm(0.04)  # later: the timer fires, looks, and goes on
    started = SYSTEM_CLOCK.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await SYSTEM_CLOCK.asleep(30)
    assert alarm.was_it()
    assert SYSTEM_CLOCK.monotonic() - started >= 0.03
    alarm.close()


async def test_exhaustion_reads_the_same_in_both_drivers() -> None:
    texts = []
    for mode in ("sync", "async"):
        world = World({"a": Kind.TIMEOUT, "b": Kind.AUTH}, max_attempts=2)
        with pytest.raises(RouteExhaustedError) as raised:
            _ = world.run() if mode == "sync" else await world.arun()
        texts.append(str(raised.value))
    assert texts[0] == texts[1]
