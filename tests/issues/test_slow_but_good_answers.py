"""A model whose good answers took more than half of their timeout stayed out for ever after one trip.

A probe slower than half its timeout has failed. Where answers of 35 s in 60 s are what the model always gives, each
probe failed by its length, the open time grew, and the last of it was five minutes between two good answers.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from resilience import MultiProviderFallback
from resilience.errors import ResilienceError
from resilience.outcome import Kind
from resilience.testing import ScriptedUpstream, run_virtual
from resilience.testing.upstream import Say

MESSAGES = [{"role": "user", "content": "hi"}]


def runtime(clock: Any) -> MultiProviderFallback:
    settings = {
        "warm": False,
        "breaker": {"jitter": 0.0},
        "routes": {
            "chat": {"targets": [{"model": "openai/gpt-4o", "name": "slow"}], "num_retries": 0, "on_exhausted": "fail"}
        },
    }
    upstream = ScriptedUpstream({"slow": Kind.SERVER_ERROR}, clock=clock)
    return MultiProviderFallback(settings, clock=clock, upstream=upstream, sinks=(), rng=random.Random(1))


async def ask(made: MultiProviderFallback) -> bool:
    try:
        await made.acompletion(model="chat", messages=MESSAGES)
    except ResilienceError:
        return False
    return True


@pytest.mark.parametrize("seconds", [6, 35])
def test_answers_that_always_take_long_bring_a_target_back(seconds: float) -> None:
    async def story() -> str:
        clock = asyncio.get_running_loop().clock
        made = runtime(clock)
        for _ in range(5):
            assert not await ask(made)
        made._upstream.tell("slow", Say("fine", after_seconds=seconds))
        for _ in range(400):
            await ask(made)
            await asyncio.sleep(5)
        return made.snapshot().targets["slow"].state

    assert run_virtual(story()) == "closed"


def test_a_probe_much_slower_than_what_was_typical_has_failed() -> None:
    async def story() -> tuple[str, bool]:
        clock = asyncio.get_running_loop().clock
        made = runtime(clock)
        made._upstream.tell("slow", Say("fine", after_seconds=2))
        for _ in range(20):
            assert await ask(made)
        made._upstream.tell("slow", Kind.SERVER_ERROR)
        for _ in range(5):
            await ask(made)
        made._upstream.tell("slow", Say("late", after_seconds=35))
        await asyncio.sleep(10)
        answered = await ask(made)
        return made.snapshot().targets["slow"].state, answered

    assert run_virtual(story()) == ("open", True)
