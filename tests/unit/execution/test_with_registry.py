"""The engine on the real registry: outages, recovery, and what callers see of them."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest

from resilience.clock import SYSTEM_CLOCK, Clock
from resilience.errors import RouteExhaustedError
from resilience.execution import CallOptions, Engine
from resilience.health.registry import HealthRegistry
from resilience.outcome import Kind
from resilience.routing import Route, RoutedTarget
from resilience.settings import RouteSettings, Settings
from resilience.testing.clock import ManualClock
from resilience.testing.upstream import Fail, Say, ScriptedUpstream
from resilience.upstream import Operation, Target


class Place:
    """An engine on a real registry."""

    def __init__(
        self, script: dict[str, Any], targets: str, clock: Clock, breaker: dict[str, Any], **route: Any
    ) -> None:
        self.registry = HealthRegistry(Settings.load({"breaker": breaker}), clock=clock, rng=random.Random(1))
        self.upstream = ScriptedUpstream(script, clock=clock)
        settings = RouteSettings(**route)
        places = tuple(
            RoutedTarget(self.registry.add(Target(name, f"of-{name}", name, identity=name)), at, 1.0, settings.timeouts)
            for at, name in enumerate(targets)
        )
        self.route = Route("chat", places, settings)
        self.engine = Engine(self.upstream, self.registry, clock=clock, rng=random.Random(2))

    def run(self, **call: Any) -> Any:
        return self.engine.run(self.route, Operation.COMPLETION, {}, CallOptions(**call))

    async def arun(self, **call: Any) -> Any:
        return await self.engine.arun(self.route, Operation.COMPLETION, {}, CallOptions(**call))


def test_after_the_trip_a_dead_target_sees_only_probes() -> None:
    clock = ManualClock()
    place = Place({"a": Kind.OVERLOADED}, "ab", clock, {"open_seconds": 10, "jitter": 0})
    for _ in range(200):
        assert place.run().target == "b"
        clock.advance(0.1)
    # five to trip, and one probe at 10 s; the next open time is 20 s
    assert place.upstream.attempts == {"a": 6, "b": 200}


def test_a_recovered_target_comes_back_into_rotation() -> None:
    clock = ManualClock()
    place = Place({"a": [Kind.OVERLOADED] * 5 + ["back"]}, "ab", clock, {"open_seconds": 10, "jitter": 0})
    for _ in range(5):
        place.run()
    assert place.run().target == "b"
    clock.advance(10)
    assert [place.run().target for _ in range(4)] == ["a"] * 4
    assert place.registry.targets["a"].current_state == "closed"


async def test_waiters_outlast_a_slow_probe_of_the_only_target() -> None:
    script = {"a": [Kind.OVERLOADED] * 5 + [Say("probe", after_seconds=0.1), "after"]}
    place = Place(script, "a", SYSTEM_CLOCK, {"open_seconds": 0.05, "jitter": 0}, max_wait_seconds=5)
    answers = await asyncio.gather(*(place.arun() for _ in range(5)))
    assert [answer.text for answer in answers].count("probe") == 1
    assert len(place.upstream.log) == 10


async def test_all_down_for_a_while_fails_nobody_who_waits_and_floods_nobody() -> None:
    place = Place({"a": Kind.CONNECTION, "b": Kind.CONNECTION}, "ab", SYSTEM_CLOCK, {"open_seconds": 0.1, "jitter": 0})
    tasks = [asyncio.create_task(place.arun()) for _ in range(40)]
    await SYSTEM_CLOCK.asleep(0.25)
    during = len(place.upstream.log)
    for target in "ab":
        place.upstream.tell(target, Say("up", after_seconds=0.002))
    answers = await asyncio.gather(*tasks)
    assert [answer.text for answer in answers] == ["up"] * 40
    # 40 came at once, before anything had tripped: at worst each tried both targets twice.
    assert during <= 40 * 4 + 10


def test_all_down_is_told_at_once_where_nobody_may_wait() -> None:
    clock = ManualClock()
    place = Place(
        {"a": Kind.TIMEOUT, "b": Kind.AUTH}, "ab", clock, {"jitter": 0}, on_exhausted="fail", backoff_seconds=0
    )
    for _ in range(6):
        with pytest.raises(RouteExhaustedError):
            place.run()
    before = len(place.upstream.log)
    with pytest.raises(RouteExhaustedError) as raised:
        place.run()
    assert len(place.upstream.log) == before
    assert 0 < (raised.value.retry_after or 0) <= 10
    assert "a is open" in str(raised.value)
    assert "b is open" in str(raised.value)


def test_a_rate_limited_target_rests_and_is_asked_again_when_its_hold_ends() -> None:
    clock = ManualClock()
    script = {"a": [Fail(Kind.RATE_LIMITED, retry_after_seconds=7), "again"]}
    place = Place(script, "ab", clock, {"jitter": 0})
    assert [place.run().target for _ in range(3)] == ["b", "b", "b"]
    clock.advance(7.1)
    assert place.run().text == "again"


def test_a_single_targets_rate_limit_is_waited_out_in_every_mode() -> None:
    for on_exhausted in ("wait", "fail", "panic"):
        clock = ManualClock()
        script = {"a": [Fail(Kind.RATE_LIMITED, retry_after_seconds=2), "again"]}
        place = Place(script, "a", clock, {"jitter": 0}, on_exhausted=on_exhausted)
        assert place.run().text == "again"
        assert 2 <= clock.monotonic() - 1000 < 2.2


def test_threads_share_one_probe() -> None:
    place = Place({"a": Kind.OVERLOADED}, "ab", SYSTEM_CLOCK, {"open_seconds": 0.1, "jitter": 0}, num_retries=0)
    for _ in range(5):
        place.run()
    place.upstream.tell("a", Say("probe", after_seconds=0.1))
    SYSTEM_CLOCK.sleep(0.12)
    threads = [threading.Thread(target=place.run) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert place.upstream.attempts["a"] == 6
    assert place.upstream.attempts["b"] == 5 + 19


async def test_a_cancelled_probe_returns_its_slot() -> None:
    script = {"a": [Kind.OVERLOADED] * 5 + [Say(after_seconds=30), "well"]}
    place = Place(script, "ab", SYSTEM_CLOCK, {"open_seconds": 0.05, "jitter": 0})
    for _ in range(5):
        await place.arun()
    await SYSTEM_CLOCK.asleep(0.06)
    probe = asyncio.create_task(place.arun())
    await SYSTEM_CLOCK.asleep(0.01)
    assert (await place.arun()).target == "b"
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert (await place.arun()).text == "well"


def test_an_abandoned_streaming_probe_returns_its_slot() -> None:
    clock = ManualClock()
    place = Place({"a": [Kind.OVERLOADED] * 5 + ["one two", "well"]}, "ab", clock, {"open_seconds": 10, "jitter": 0})
    for _ in range(5):
        place.run()
    clock.advance(11)
    place.run(stream=True).close()
    assert place.registry.targets["a"].current_state == "half-open"
    assert place.run().text == "well"
