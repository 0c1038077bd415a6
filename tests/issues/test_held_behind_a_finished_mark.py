"""A task that began inside a finished attempt, within a guarded call that still ran, asked the outer breaker twice."""

from __future__ import annotations

import asyncio

from resilience.breaker.held import Holding, is_held


async def test_what_is_held_around_a_finished_block_is_still_held_inside_a_new_one() -> None:
    outer, attempt, later = object(), object(), object()
    may_go_on = asyncio.Event()

    async def background() -> tuple[bool, bool, bool]:
        await may_go_on.wait()
        with Holding(later):
            return is_held(outer), is_held(attempt), is_held(later)

    with Holding(outer):
        with Holding(attempt):
            task = asyncio.create_task(background())
        may_go_on.set()
        assert await task == (True, False, True)


async def test_nothing_is_held_once_every_block_around_is_over() -> None:
    outer, may_go_on = object(), asyncio.Event()

    async def background() -> bool:
        await may_go_on.wait()
        with Holding(object()):
            return is_held(outer)

    with Holding(outer), Holding(object()):
        task = asyncio.create_task(background())
    may_go_on.set()
    assert await task is False
