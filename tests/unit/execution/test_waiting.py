"""The queue of those who wait: order, pace, and every way of leaving it."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from resilience.clock import SYSTEM_CLOCK
from resilience.errors import RouteExhaustedError
from resilience.execution.waiting import DEAF_SECONDS, PACE_SECONDS, Ticket, WaitQueue
from resilience.outcome import Kind
from resilience.testing.upstream import Say
from resilience.testing.world import World

if TYPE_CHECKING:
    from collections.abc import Callable


def joined(queue: WaitQueue, priority: int = 5) -> Ticket:
    ticket = queue.join(priority)
    assert ticket is not None
    return ticket


def first(queue: WaitQueue, *tickets: Ticket) -> list[bool]:
    return [queue.is_first(ticket, 1.0) for ticket in tickets]


def test_lower_priority_goes_first_then_age() -> None:
    queue = WaitQueue(9)
    old, young, urgent = joined(queue), joined(queue), joined(queue, 1)
    order = []
    while len(queue):
        ticket = next(one for one in (old, young, urgent) if queue.is_first(one, 1.0))
        order.append(ticket)
        queue.leave(ticket)
    assert order == [urgent, old, young]


def test_no_more_than_the_most_wait_but_a_failed_probe_goes_back_to_its_place() -> None:
    queue = WaitQueue(2)
    a, b = joined(queue), joined(queue)
    assert queue.join(1) is None
    queue.leave(a)
    c = joined(queue)
    back = queue.join(5, a.key)
    assert back is not None
    assert first(queue, back, b, c) == [True, False, False]
    assert len(queue) == 3


def test_a_success_lets_two_go_and_they_may_come_back() -> None:
    queue = WaitQueue(9)
    tickets = [joined(queue) for _ in range(4)]
    queue.succeeded(10.0)
    assert [ticket.released for ticket in tickets] == [True, True, False, False]
    assert queue.is_first(tickets[2], 1.0)
    queue.rejoin(tickets[0])
    assert not tickets[0].released
    assert queue.is_first(tickets[0], 1.0)


def test_the_first_looks_again_after_the_pace() -> None:
    queue = WaitQueue(9)
    a, b = joined(queue), joined(queue)
    assert queue.pause_seconds(10.0) == 0
    queue.go(a, 10.0)
    assert queue.is_first(b, 1.0)
    assert queue.pause_seconds(10.01) == pytest.approx(PACE_SECONDS - 0.01)
    assert queue.pause_seconds(10.06) == 0


def test_leaving_twice_and_leaving_after_release_do_nothing() -> None:
    queue = WaitQueue(9)
    a, b = joined(queue), joined(queue)
    queue.succeeded(1.0)
    queue.leave(a)
    queue.leave(a)
    queue.leave(b)
    assert len(queue) == 0


def test_a_wake_before_the_wait_is_not_lost() -> None:
    ticket = Ticket((5, 1))
    ticket.wake()
    started = time.perf_counter()
    ticket.wait(30)
    asyncio.run(woken_then_awaited())
    assert time.perf_counter() - started < 20


async def woken_then_awaited() -> None:
    ticket = Ticket((5, 1))
    ticket.wake()
    await ticket.await_(30)


def test_whoever_leaves_from_the_front_wakes_the_next() -> None:
    queue = WaitQueue(9)
    a, b = joined(queue), joined(queue)
    woken = threading.Event()

    def wait() -> None:
        b.wait(30)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    queue.leave(a)
    assert woken.wait(10)
    thread.join()


def test_a_waiter_of_a_closed_loop_is_passed_over() -> None:
    queue = WaitQueue(9)
    dead = joined(queue)
    loop = asyncio.new_event_loop()
    task = loop.create_task(dead.await_(30))
    loop.run_until_complete(SYSTEM_CLOCK.asleep(0))
    # A loop that is closed with a task in it: what asyncio.run prevents, and others do.
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    alive = joined(queue)
    assert queue.is_first(alive, 1.0)
    assert len(queue) == 1
    del task
    gc.collect()


# ---- several event loops, and those who cannot use everything


def of(queue: WaitQueue, home: object, can_use: Callable[[Any, float], bool] | None = None) -> Ticket:
    ticket = queue.join(5, None, can_use)
    assert ticket is not None
    ticket.home = home  # type: ignore[assignment]
    return ticket


def test_the_first_of_each_loop_stays_awake_and_the_first_of_all_looks() -> None:
    queue = WaitQueue(9)
    tickets = a, b, c, d = of(queue, "loop"), of(queue, "loop"), of(queue, None), of(queue, None)
    assert first(queue, *tickets) == [True, False, False, False]
    assert [queue.is_awake(ticket) for ticket in tickets] == [True, False, True, False]
    queue.leave(a)
    assert [queue.is_awake(ticket) for ticket in tickets] == [False, True, True, False]
    assert [b._woken, c._woken, d._woken] == [True, False, False]
    queue.leave(d)
    assert not c._woken  # who leaves from behind wakes nobody


def test_one_that_does_not_look_in_time_is_passed_over_until_it_does() -> None:
    queue = WaitQueue(9)
    deaf, behind, awake = of(queue, "loop"), of(queue, "loop"), of(queue, None)
    assert queue.is_first(deaf, 10.0)
    assert not queue.is_first(awake, 10.0 + DEAF_SECONDS)
    assert queue.is_first(awake, 10.01 + DEAF_SECONDS)
    assert not queue.is_first(behind, 10.01 + DEAF_SECONDS)
    assert queue.is_first(deaf, 10.5)
    assert not queue.is_first(awake, 10.5)
    queue.leave(awake)
    assert not queue.is_first(awake, 20.0)


def test_a_success_lets_two_go_of_those_who_can_use_its_target() -> None:
    queue, a, b = WaitQueue(9), object(), object()
    refused = of(queue, None, lambda place, _: place is not a)
    tickets = [refused, *(of(queue, None) for _ in range(3))]
    queue.succeeded(1.0, a)  # type: ignore[arg-type]
    assert [ticket.released for ticket in tickets] == [False, True, True, False]
    assert queue.pause_seconds(1.0) == pytest.approx(PACE_SECONDS)
    queue.succeeded(1.0, b)  # type: ignore[arg-type]
    assert [ticket.released for ticket in tickets] == [True] * 4


def test_what_the_first_cannot_use_goes_to_the_next_who_can_and_to_one_at_a_time() -> None:
    queue, a = WaitQueue(9), object()
    tickets = [of(queue, None, lambda place, now: place is not a or now > 5.0) for _ in range(2)]
    assert not queue.pass_on(1.0, a)  # type: ignore[arg-type]
    assert queue.pause_seconds(1.0) == 0
    tickets += [of(queue, None) for _ in range(2)]
    assert queue.pass_on(1.0, a)  # type: ignore[arg-type]
    assert [ticket.released for ticket in tickets] == [False, False, True, False]
    assert queue.pause_seconds(1.0) == pytest.approx(PACE_SECONDS)
    assert queue.pass_on(6.0, a)  # type: ignore[arg-type]
    assert [ticket.released for ticket in tickets] == [True, False, True, False]


def test_a_thread_that_blocks_its_own_loop_waits_as_a_thread() -> None:
    async def blocking() -> Ticket:
        ticket = joined(WaitQueue(9))
        assert ticket.home is asyncio.get_running_loop()
        ticket.wait(60)  # at once: it has to look again whose turn it is
        return ticket

    assert asyncio.run(blocking()).home is None


def test_a_forked_child_starts_with_an_empty_queue_and_new_locks() -> None:
    queue = WaitQueue(9)
    joined(queue)
    queue._lock.acquire()  # as another thread of the parent may have it
    queue.renew()
    assert len(queue) == 0
    assert joined(queue) is not None


# ---- through the engine, on the machine's clock


def waiting_world(**settings: object) -> World:
    world = World(clock=SYSTEM_CLOCK, **settings)  # type: ignore[arg-type]
    for target in "ab":
        world.health.eject(target, "outage", 5)
    return world


async def queue_of(world: World, waiters: int) -> WaitQueue:
    queue = world.engine._lane(world.route).queue
    await until(lambda: len(queue) >= waiters)
    return queue


async def until(happened: Callable[[], bool]) -> None:
    while not happened():
        await SYSTEM_CLOCK.asleep(0.001)


async def test_everybody_who_waits_is_served_and_in_order() -> None:
    world = waiting_world()
    served: list[int] = []

    async def one(number: int, priority: int) -> None:
        await world.arun(priority=priority)
        served.append(number)

    tasks = [asyncio.create_task(one(number, priority)) for number, priority in enumerate((5, 5, 9, 1, 5))]
    queue = await queue_of(world, 5)
    world.health.restore("a")
    await asyncio.gather(*tasks)
    assert served == [3, 0, 1, 4, 2]
    assert len(queue) == 0
    assert world.unsettled() == []


async def test_recovery_is_paced_by_successes() -> None:
    world = waiting_world()
    world.upstream.tell("a", Say(after_seconds=0.01))
    tasks = [asyncio.create_task(world.arun()) for _ in range(7)]
    await queue_of(world, 7)
    in_flight: list[int] = []
    admit = world.health.admit

    def counted(*given: object, **named: object) -> object:
        admission = admit(*given, **named)  # type: ignore[arg-type]
        in_flight.append(len(world.unsettled()))
        return admission

    world.health.admit = counted  # type: ignore[method-assign,assignment]
    world.health.restore("a")
    await asyncio.gather(*tasks)
    assert in_flight[0] == 1
    assert max(in_flight) <= 4


async def test_the_queue_moves_on_while_a_slow_call_is_out() -> None:
    world = waiting_world()
    world.upstream.tell("a", [Say(after_seconds=30), "quick"])
    slow = asyncio.create_task(world.arun())
    await queue_of(world, 1)
    quick = asyncio.create_task(world.arun())
    await queue_of(world, 2)
    world.health.restore("a")
    assert (await asyncio.wait_for(quick, 10)).text == "quick"
    assert not slow.done()
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    assert world.unsettled() == []


async def test_a_cancelled_waiter_leaves_and_the_next_takes_over() -> None:
    world = waiting_world()
    head = asyncio.create_task(world.arun())
    await queue_of(world, 1)
    other = asyncio.create_task(world.arun())
    queue = await queue_of(world, 2)
    head.cancel()
    with pytest.raises(asyncio.CancelledError):
        await head
    assert len(queue) == 1
    world.health.restore("b")
    assert (await asyncio.wait_for(other, 10)).target == "b"


async def test_a_waiter_that_is_let_go_and_finds_nothing_goes_back() -> None:
    world = waiting_world()
    task = asyncio.create_task(world.arun())
    queue = await queue_of(world, 1)
    queue.succeeded(world.clock.monotonic())
    assert len(queue) == 0
    await queue_of(world, 1)
    world.health.restore("a")
    assert (await asyncio.wait_for(task, 10)).target == "a"


def test_threads_and_several_loops_wait_in_one_queue() -> None:
    world = waiting_world()
    answers: list[str] = []

    def in_a_thread() -> None:
        answers.append(world.run().target)

    def in_a_loop() -> None:
        async def both() -> None:
            found = await asyncio.gather(world.arun(), world.arun())
            answers.extend(answer.target for answer in found)

        asyncio.run(both())

    threads = [threading.Thread(target=work) for work in (in_a_thread, in_a_loop, in_a_loop, in_a_thread)]
    for thread in threads:
        thread.start()
    asyncio.run(queue_of(world, 6))
    world.health.restore("a")
    for thread in threads:
        thread.join(20)
    assert answers == ["a"] * 6
    assert world.unsettled() == []


async def test_a_failed_eager_probe_keeps_its_place() -> None:
    world = World({"a": [Kind.TIMEOUT, Say("second"), Say("third")]}, "a", clock=SYSTEM_CLOCK)
    world.health.eject("a", "outage", 0.2, eager=True)
    old = asyncio.create_task(world.arun())
    await until(lambda: bool(world.log))
    await queue_of(world, 1)
    young = asyncio.create_task(world.arun())
    await queue_of(world, 2)
    assert (await asyncio.wait_for(old, 10)).text == "second"
    assert (await asyncio.wait_for(young, 10)).text == "third"
    assert [admission.is_eager for admission in world.admissions] == [True, False, False]


async def test_more_waiters_than_may_wait_fail_at_once_and_the_others_are_served() -> None:
    world = waiting_world(max_waiters=1)
    task = asyncio.create_task(world.arun())
    await queue_of(world, 1)
    with pytest.raises(RouteExhaustedError, match="1 requests wait already"):
        await world.arun()
    world.health.restore("a")
    await asyncio.wait_for(task, 10)


def test_a_driver_without_thread_or_loop_is_told_once_of_each_wake() -> None:
    ticket, heard = Ticket((5, 1)), []
    ticket.tell(lambda: heard.append("after"))
    assert heard == []
    ticket.wake()
    ticket.wake()  # nobody is told of it yet: the next one hears it at once
    assert heard == ["after"]
    ticket.tell(lambda: heard.append("before"))
    assert heard == ["after", "before"]
    ticket.tell(lambda: heard.append("never"))
    assert heard == ["after", "before"]
