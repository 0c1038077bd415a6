"""Virtual time: timers fire in order and at their time, threads stop the clock, and a deadlock is told."""

from __future__ import annotations

import asyncio
import time

import pytest

from resilience.outcome import Kind
from resilience.testing import DeadlockError, VirtualTimeLoop, run_virtual
from resilience.testing.upstream import Fail, Say
from resilience.testing.world import World

DAY = 86400.0


def loop() -> VirtualTimeLoop:
    running = asyncio.get_running_loop()
    assert isinstance(running, VirtualTimeLoop)
    return running


def test_a_year_passes_at_once_and_timers_fire_at_their_time() -> None:
    async def main() -> list[float]:
        started, seen = loop().time(), []

        async def sleeper(seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append(loop().time() - started)

        await asyncio.gather(*(sleeper(days * DAY) for days in (365, 1, 30)))
        return seen

    before = time.monotonic()
    assert run_virtual(main()) == [DAY, 30 * DAY, 365 * DAY]
    assert time.monotonic() - before < 3600  # it did not sleep


def test_time_stands_still_while_anything_can_run() -> None:
    async def main() -> float:
        started = loop().time()
        for _ in range(1000):
            await asyncio.sleep(0)
        return loop().time() - started

    assert run_virtual(main()) == 0.0


def test_timeouts_strike_and_cancellation_works_as_ever() -> None:
    async def main() -> tuple[float, bool]:
        started, cancelled = loop().time(), False
        try:
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        except TimeoutError:
            pass
        try:
            await asyncio.wait_for(asyncio.sleep(1e6), 40)
        except TimeoutError:
            cancelled = True
        return loop().time() - started, cancelled

    assert run_virtual(main()) == (100.0, True)


def test_a_thread_stops_the_clock_until_it_is_done() -> None:
    async def main() -> tuple[float, str]:
        started = loop().time()
        timer = asyncio.ensure_future(asyncio.sleep(1e6))
        said = await asyncio.to_thread(lambda: time.sleep(0.01) or "done")
        timer.cancel()
        return loop().time() - started, said

    assert run_virtual(main()) == (0.0, "done")


def test_a_deadlock_is_told_with_who_waits() -> None:
    async def forgotten() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        await asyncio.gather(forgotten(), *(forgotten() for _ in range(9)))

    with pytest.raises(DeadlockError, match=r"at 1000 s: no timer is set, and Task-.*forgotten.* and 6 more wait"):
        run_virtual(main())


def test_an_exception_and_a_result_come_out_as_from_asyncio_run() -> None:
    async def broken() -> None:
        await asyncio.sleep(5)
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_virtual(broken())


def test_there_are_no_sockets() -> None:
    async def main() -> None:
        await asyncio.open_connection("127.0.0.1", 1)

    with pytest.raises(NotImplementedError, match="virtual-time loop has no sockets"):
        run_virtual(main())


def test_its_clock_is_the_loops_and_blocks_it() -> None:
    async def main() -> tuple[float, float, float]:
        clock, started = loop().clock, loop().time()
        day = clock.now()
        await clock.asleep(30)
        clock.sleep(12)
        with pytest.raises(ValueError, match="cannot block for -1 s"):
            clock.sleep(-1)
        return clock.monotonic() - started, loop().time() - started, (clock.now() - day).total_seconds()

    assert run_virtual(main()) == (42.0, 42.0, 42.0)


def test_the_engine_keeps_its_limits_and_waits_in_virtual_time() -> None:
    async def main() -> tuple[str, float, list[str]]:
        started = loop().time()
        script = {"a": [Say(after_seconds=1e9)], "b": [Fail(Kind.SERVER_ERROR), Say("at last", after_seconds=3.0)]}
        world = World(script, clock=loop().clock, timeouts={"attempt_seconds": 20.0}, num_retries=1)
        answer = await world.arun()
        return answer.text, loop().time() - started, list(world.log)

    text, seconds, log = run_virtual(main())
    assert (text, log) == ("at last", ["a", "b", "b"])
    assert 23.0 <= seconds < 24.0
