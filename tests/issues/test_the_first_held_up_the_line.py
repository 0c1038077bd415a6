"""Of those who wait only the first looked: what it could not use itself, or did not see, stood there unused.

It had refused a target's answer, was told to come back later, or its event loop was busy: all behind it waited on.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import resilience
from resilience.clock import SYSTEM_CLOCK
from resilience.events import AttemptFailed
from resilience.outcome import Kind
from resilience.testing import Fail, ScriptedUpstream, run_virtual
from resilience.testing.world import World

ASKED = [{"role": "user", "content": "hi"}]


class Line:
    """A route of two targets on virtual time, b held for nine seconds and a for one, and who asks it."""

    def __init__(self, refused: Fail) -> None:
        self.clock: Any = asyncio.get_running_loop().clock  # type: ignore[attr-defined]
        targets = [{"model": "openai/a", "name": "a"}, {"model": "anthropic/b", "name": "b"}]
        chat = {"targets": targets, "num_retries": 0, "validation": {"fallback_on_content_policy": True}}
        self.upstream = ScriptedUpstream({"b": Fail(Kind.RATE_LIMITED, retry_after_seconds=9)}, clock=self.clock)
        self.upstream.tell("a", [refused, Fail(Kind.RATE_LIMITED, retry_after_seconds=1), "ok"])
        self.fb = resilience.MultiProviderFallback(
            {"warm": False, "routes": {"chat": chat}}, clock=self.clock, upstream=self.upstream, sinks=()
        )
        self.started = self.clock.monotonic()

    async def held(self, model: str) -> None:
        with pytest.raises(Exception, match="rate_limited"):
            await self.fb.acompletion(model, ASKED, num_retries=0)

    async def ask(self, **call: Any) -> tuple[str, float]:
        answer = await self.fb.acompletion("chat", ASKED, **call)
        return resilience.attempts(answer)[-1].target, round(self.clock.monotonic() - self.started, 2)

    async def first_and_others(self, others: int) -> list[tuple[str, float]]:
        """One that cannot use a is first in line, then a is held for a second, and the others come."""
        await self.held("anthropic/b")
        self.upstream.tell("b", "ok")
        first = asyncio.create_task(self.ask())
        await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        await self.held("openai/a")
        return await asyncio.gather(first, *(self.ask() for _ in range(others)))


def test_who_has_refused_a_target_lets_those_behind_use_it() -> None:
    async def run() -> None:
        first, second = await Line(Fail(Kind.CONTENT_POLICY)).first_and_others(1)
        assert first[0] == "b"
        assert first[1] >= 9
        assert second[0] == "a"
        assert second[1] <= 1.2

    run_virtual(run())


def test_who_was_told_to_come_back_later_lets_those_behind_use_the_target_meanwhile() -> None:
    async def run() -> None:
        clock: Any = asyncio.get_running_loop().clock  # type: ignore[attr-defined]
        world = World({"a": [Fail(Kind.OVERLOADED, retry_after_seconds=8), "ok"]}, "a", clock=clock)
        world.health.hub.subscribe(
            lambda event: world.health.eject("a", "outage", 1) if isinstance(event, AttemptFailed) else None
        )
        started = clock.monotonic()

        async def ask() -> float:
            await world.arun()
            return float(clock.monotonic() - started)

        first = asyncio.create_task(ask())
        await asyncio.sleep(0.1)
        assert await ask() <= 1.2
        assert 8 <= await first <= 8.1

    run_virtual(run())


def test_a_success_lets_go_those_who_can_use_its_target_and_two_at_a_time() -> None:
    async def run() -> None:
        line = Line(Fail(Kind.CONTENT_POLICY))
        first, *others = await line.first_and_others(12)
        assert first[0] == "b"
        assert [target for target, _ in others] == ["a"] * 12
        assert max(at for _, at in others) <= 1.8  # one a pace, and each success lets two go

    run_virtual(run())


def test_a_waiter_whose_event_loop_is_busy_is_passed_over() -> None:
    world = World(clock=SYSTEM_CLOCK)
    for target in "ab":
        world.health.eject(target, "outage", 9)
    queue, over, answers = world.engine._lane(world.route).queue, threading.Event(), []

    def busy() -> None:
        async def main() -> Any:
            waiting = asyncio.create_task(world.arun())
            await asyncio.sleep(0.01)
            over.wait(60)  # as a sync call in a coroutine does
            return await waiting

        asyncio.run(main())

    def awake() -> None:
        try:
            answers.append((world.run().target, world.health.rejection(world.route.targets[1].target) is not None))
        finally:
            over.set()

    first, second = threading.Thread(target=busy), threading.Thread(target=awake)
    for number, thread in enumerate((first, second), 1):
        thread.start()
        while thread.is_alive() and len(queue) < number:
            SYSTEM_CLOCK.sleep(0.001)
    world.health.restore("a")
    for thread in (second, first):
        thread.join()
    assert answers == [("a", True)], "while b was still out, not when its own waiting was over"
    assert [admission.target.name for admission in world.admissions] == ["a", "a"]
    assert world.unsettled() == []
