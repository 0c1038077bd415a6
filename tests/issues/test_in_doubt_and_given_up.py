"""A route's only target failed one half-open probe, its provider doubted it, and for an open time every call failed.

Nobody waited and no eager probe was sent, as neither knew of the doubt or of a half-open breaker's probe in flight.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import resilience
from resilience.outcome import Kind
from resilience.testing import Say, ScriptedUpstream, run_virtual

ASKED = [{"role": "user", "content": "hi"}]


class World:
    """Two routes of one target each, of the same provider, on virtual time."""

    def __init__(self, **script: Any) -> None:
        self.clock: Any = asyncio.get_running_loop().clock  # type: ignore[attr-defined]
        routes = {
            name: {"targets": [{"model": f"openai/{name}", "name": name}], "num_retries": 0} for name in ("a", "b")
        }
        self.upstream = ScriptedUpstream(script, clock=self.clock)
        self.fb = resilience.MultiProviderFallback(
            {"warm": False, "routes": routes, "breaker": {"jitter": 0}},
            clock=self.clock, upstream=self.upstream, sinks=(),
        )  # fmt: skip

    async def ask(self, model: str, after: float = 0) -> str:
        await asyncio.sleep(after)
        started = self.clock.monotonic()
        try:
            await self.fb.acompletion(model, ASKED)
        except resilience.ResilienceError as error:
            return f"{type(error).__name__} after {self.clock.monotonic() - started:.2f}"
        return f"after {self.clock.monotonic() - started:.2f}"

    async def fail(self, target: str, times: int) -> None:
        for _ in range(times):
            with pytest.raises(Exception):  # noqa: B017 (the script's own, or a refusal)
                await self.fb.acompletion(f"openai/{target}", ASKED, num_retries=0)

    def states(self) -> list[str]:
        registry = self.fb.registry
        return [str(breaker.current_state) for breaker in (registry.targets["a"], registry.providers["openai"])]


async def doubted() -> World:
    """A provider that is half-open and doubts target a, which is open again: it failed its probe."""
    world = World(a=Kind.CONNECTION)
    await world.fail("a", 5)
    await asyncio.sleep(10)
    world.upstream.tell("a", Kind.SERVER_ERROR)
    await world.fail("a", 1)
    assert world.states() == ["open", "half-open"]
    world.upstream.log.clear()
    return world


def test_an_eager_probe_a_second_goes_past_a_doubt() -> None:
    async def run() -> None:
        world = await doubted()
        ask = asyncio.create_task(world.ask("a"))
        await asyncio.sleep(3.5)
        assert world.upstream.log == ["a", "a", "a"]
        world.upstream.tell("a", "ok")
        assert await ask in {"after 3.95", "after 4.00", "after 4.05"}
        assert world.states()[1] == "half-open"

    run_virtual(run())


def test_one_that_works_lifts_the_doubt_and_all_go_on() -> None:
    async def run() -> None:
        world = await doubted()
        world.upstream.tell("a", "ok")
        answers = await asyncio.gather(*(world.ask("a", index / 2) for index in range(20)))
        assert [answer for answer in answers if "Error" in answer] == []
        assert max(float(answer.split()[1]) for answer in answers) <= 1.2
        assert world.states() == ["closed", "closed"]

    run_virtual(run())


def test_one_that_fails_makes_the_doubt_no_longer() -> None:
    async def run() -> None:
        world = await doubted()
        provider = world.fb.registry.providers["openai"]
        end = provider.next_chance("a")
        ask = asyncio.create_task(world.ask("a"))
        await asyncio.sleep(5.5)
        assert len(world.upstream.log) == 5
        assert provider.next_chance("a") == end
        assert await ask == "RouteExhaustedError after 10.00"

    run_virtual(run())


@pytest.mark.parametrize("half_open_alone", [False, True])
def test_who_finds_an_eager_probe_in_flight_waits_for_it(half_open_alone: bool) -> None:
    async def run() -> None:
        world = World(a=Kind.SERVER_ERROR, b=Kind.SERVER_ERROR)
        if half_open_alone:  # the target is due in half-open, and its provider opens just then
            await world.fail("a", 5)
            await asyncio.sleep(10.5)
            await world.fail("b", 1)
        else:
            await world.fail("a", 3)
            await world.fail("b", 2)
        assert world.states() == ["half-open" if half_open_alone else "closed", "open"]
        world.upstream.tell("a", Say(after_seconds=2))
        await asyncio.sleep(1)
        answers = await asyncio.gather(*(world.ask("a", index / 2) for index in range(4)))
        assert [answer for answer in answers if "Error" in answer] == []

    run_virtual(run())
