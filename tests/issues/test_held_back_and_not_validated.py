"""Validators and `max_chars` were not asked about streams, not even about those that are held back until they end.

Of a stream that is handed on, the reader has most of the text before anybody could judge it. With `buffer: full`
nobody has seen any of it, and what was promised for whole answers holds: no means the next target.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilience.errors import RouteExhaustedError
from resilience.outcome import Kind
from resilience.testing.upstream import Say
from resilience.testing.world import World
from resilience.upstream import attempts

MODES = pytest.mark.parametrize("mode", ["sync", "async"])
HOLD = {"stream": {"buffer": "full"}}
LONG = Say(chunks=("a long", " answer"))


def read(world: World, mode: str, **call: Any) -> tuple[str, list[tuple[str, Kind]]]:
    async def all_of_it() -> tuple[str, list[tuple[str, Kind]]]:
        stream = await world.arun(stream=True, **call)
        return "".join([chunk.text async for chunk in stream]), kinds(stream)

    if mode == "async":
        return asyncio.run(all_of_it())
    stream = world.run(stream=True, **call)
    return "".join(chunk.text for chunk in stream), kinds(stream)


def kinds(stream: Any) -> list[tuple[str, Kind]]:
    return [(attempt.target, attempt.kind) for attempt in attempts(stream)]


def short(text: str) -> bool:
    return len(text) < 10


@MODES
@pytest.mark.parametrize("asked", ["the caller's validator", "max_chars"])
def test_a_held_back_answer_that_is_rejected_means_the_next_target(mode: str, asked: str) -> None:
    limit, validate = (10, None) if asked == "max_chars" else (None, short)
    world = World({"a": LONG, "b": "short"}, validation={"max_chars": limit}, **HOLD)
    assert read(world, mode, validate=validate) == ("short", [("a", Kind.REJECTED), ("b", Kind.SUCCESS)])
    told = [outcome.kind for admission in world.admissions for outcome in admission.outcomes]
    assert told == [Kind.REJECTED, Kind.SUCCESS]


@MODES
def test_a_validator_hears_the_whole_text_of_a_held_back_answer_once(mode: str) -> None:
    heard: list[str] = []
    world = World({"a": LONG}, **HOLD)
    assert read(world, mode, validate=lambda text: not heard.append(text)) == ("a long answer", [("a", Kind.SUCCESS)])
    assert heard == ["a long answer"]


@MODES
def test_a_validator_hears_of_a_held_back_answer_without_any_text(mode: str) -> None:
    world = World({"a": Say(chunks=("",)), "b": "text"}, validation={"reject_empty": False}, **HOLD)
    assert read(world, mode, validate=bool) == ("text", [("a", Kind.REJECTED), ("b", Kind.SUCCESS)])


@MODES
def test_where_every_held_back_answer_is_rejected_nothing_is_handed_over(mode: str) -> None:
    world = World({"a": LONG, "b": LONG}, max_attempts=2, **HOLD)
    with pytest.raises(RouteExhaustedError):
        read(world, mode, validate=short)


@MODES
def test_a_validator_that_raises_is_the_callers_error_and_no_targets(mode: str) -> None:
    def broken(text: str) -> bool:
        raise ZeroDivisionError(text)

    world = World({"a": LONG, "b": "unused"}, **HOLD)
    with pytest.raises(ZeroDivisionError):
        read(world, mode, validate=broken)
    assert world.log == "a"
    assert [outcome.kind for outcome in world.admissions[0].outcomes] == [Kind.CANCELLED]


@MODES
def test_a_stream_that_is_handed_on_is_still_not_validated(mode: str) -> None:
    world = World({"a": LONG}, validation={"max_chars": 3})
    assert read(world, mode, validate=short) == ("a long answer", [("a", Kind.SUCCESS)])
