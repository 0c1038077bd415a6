"""In shadow, which never refuses, a target whose calls hang was taken out of rotation: the overdue rule did not know.

Whoever tried the library out with `shadow: true` lost calls to the rule that is on by default.
"""

from __future__ import annotations

import asyncio
from typing import Any

import resilience
from resilience.events import TargetOnTime, TargetOverdue
from resilience.testing import Say, ScriptedUpstream, run_virtual

ASKED = [{"role": "user", "content": "hi"}]


async def hang(**breaker: Any) -> tuple[list[str], list[str], list[Any]]:
    """Eight calls hang. Who is in rotation, what six more come to, and what was told."""
    events: list[Any] = []
    upstream = ScriptedUpstream({"openai/a": Say(after_seconds=0.05)}, clock=asyncio.get_running_loop().clock)  # type: ignore[attr-defined]
    settings = {
        "warm": False,
        "routes": {"chat": {"targets": ["openai/a"], "on_exhausted": "fail"}},
        "breaker": breaker,
    }
    fb = resilience.MultiProviderFallback(
        settings,
        clock=asyncio.get_running_loop().clock,
        upstream=upstream,
        sinks=(events.append,),  # type: ignore[attr-defined]
    )
    for _ in range(25):
        await fb.acompletion("chat", ASKED)
    upstream.tell("openai/a", Say(after_seconds=50))
    hanging = [asyncio.create_task(fb.acompletion("chat", ASKED)) for _ in range(8)]
    await asyncio.sleep(2)
    fb.registry.rotation("chat")  # somebody looks
    rotation = [str(name) for name in fb.registry.rotation("chat")]
    upstream.tell("openai/a", Say(after_seconds=0.05))
    more = await asyncio.gather(*(fb.acompletion("chat", ASKED) for _ in range(6)), return_exceptions=True)
    for task in hanging:
        task.cancel()
    told = [event for event in events if isinstance(event, TargetOverdue | TargetOnTime)]
    return rotation, [type(answer).__name__ for answer in more], told


def test_in_shadow_an_overdue_target_is_told_and_stays_in_rotation() -> None:
    rotation, answers, told = run_virtual(hang(shadow=True))
    assert rotation == ["openai/a"]
    assert len(set(answers)) == 1
    assert "RouteExhaustedError" not in answers
    assert [type(event) for event in told] == [TargetOverdue, TargetOnTime]
    assert told[0].shadow


def test_otherwise_it_is_out_but_for_one_call_a_second() -> None:
    rotation, answers, told = run_virtual(hang())
    assert rotation == []
    assert answers.count("RouteExhaustedError") >= 5
    assert isinstance(told[0], TargetOverdue)
    assert not told[0].shadow
