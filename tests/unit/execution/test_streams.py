"""Streams: before the first content, after it, and every way in which a reader goes."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from resilience.clock import SYSTEM_CLOCK
from resilience.errors import AttemptTimeoutError, DeadlineExceededError, RouteExhaustedError, StreamInterruptedError
from resilience.execution import AsyncGuardedStream, GuardedStream
from resilience.outcome import Kind
from resilience.testing.upstream import Fail, Say
from resilience.testing.world import World

MODES = pytest.mark.parametrize("mode", ["sync", "async"])


def read(world: World, mode: str, **call: Any) -> str:
    """The whole text of one streaming request."""
    if mode == "sync":
        return "".join(chunk.text for chunk in world.run(stream=True, **call))

    async def all_of_it() -> str:
        return "".join([chunk.text async for chunk in await world.arun(stream=True, **call)])

    return asyncio.run(all_of_it())


def kinds(world: World) -> list[Kind]:
    return [outcome.kind for admission in world.admissions for outcome in admission.outcomes]


@MODES
def test_a_stream_is_handed_over_chunk_by_chunk_and_settled_at_its_end(mode: str) -> None:
    world = World({"a": Say(chunks=("", "one", "", " two", ""), after_seconds=1, gap_seconds=2)})
    assert read(world, mode) == "one two"
    assert kinds(world) == [Kind.SUCCESS]
    assert world.admissions[0].latencies == [3]
    assert world.admissions[0].outcomes[0].latency_seconds == 3
    assert world.told == ["AttemptSucceeded"]
    assert world.upstream.open_streams == 1  # it ended by itself; nobody hung up


@MODES
@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (Fail(Kind.SERVER_ERROR), Kind.SERVER_ERROR),
        (Say(chunks=(), whole=False), Kind.INTERRUPTED),
        (Say(chunks=("", ""), whole=False), Kind.INTERRUPTED),
        (Say(chunks=("",), then=Kind.OVERLOADED), Kind.OVERLOADED),
        (Say(chunks=()), Kind.EMPTY),
        (Say(chunks=("", "")), Kind.EMPTY),
        (Say("late", after_seconds=21), Kind.TIMEOUT),
        (Say(chunks=("",) * 30 + ("late",), gap_seconds=1), Kind.TIMEOUT),
    ],
)
def test_before_the_first_content_every_failure_means_the_next_target(act: Any, kind: Kind, mode: str) -> None:
    world = World({"a": act, "b": "fine"}, num_retries=0)
    assert read(world, mode) == "fine"
    assert kinds(world) == [kind, Kind.SUCCESS]
    assert world.upstream.open_streams == 1


@MODES
def test_chunks_before_the_first_content_are_kept_in_order(mode: str) -> None:
    world = World({"a": Say(chunks=("", "", "x"))})
    if mode == "sync":
        chunks = [chunk.text for chunk in world.run(stream=True)]
    else:

        async def every() -> list[str]:
            return [chunk.text async for chunk in await world.arun(stream=True)]

        chunks = asyncio.run(every())
    assert chunks == ["", "", "x"]


@MODES
def test_an_empty_stream_is_an_answer_where_the_settings_say_so(mode: str) -> None:
    world = World({"a": Say(chunks=("",))}, validation={"reject_empty": False})
    assert (read(world, mode), world.log, kinds(world)) == ("", "a", [Kind.SUCCESS])


@MODES
@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (Say(chunks=("one", " two"), whole=False), Kind.INTERRUPTED),
        (Say(chunks=("one", " two"), then=Kind.CONNECTION), Kind.CONNECTION),
        (Say(chunks=("one", " two", "never"), then=Kind.OVERLOADED), Kind.OVERLOADED),
    ],
)
def test_after_the_first_content_a_break_tells_exactly_what_was_delivered(act: Say, kind: Kind, mode: str) -> None:
    world = World({"a": act, "b": "unused"})
    delivered: list[str] = []

    async def aread() -> None:
        async for chunk in await world.arun(stream=True):
            delivered.append(chunk.text)  # noqa: PERF401 (it breaks half way)

    with pytest.raises(StreamInterruptedError) as raised:
        if mode == "sync":
            for chunk in world.run(stream=True):
                delivered.append(chunk.text)  # noqa: PERF401 (it breaks half way)
        else:
            asyncio.run(aread())
    error = raised.value
    assert error.partial == "".join(delivered) == "".join(act.pieces())
    assert error.provider == "provider-of-a"
    assert [record.kind for record in error.attempts] == [kind]
    assert (error.__cause__ is None) == (kind is Kind.INTERRUPTED)
    assert "one" not in str(error)
    assert kinds(world) == [kind]
    assert (world.log, world.upstream.open_streams) == ("a", 0)
    assert world.told == ["AttemptFailed", "StreamInterrupted"]
    assert world.events[-1].delivered_chars == len(error.partial)  # type: ignore[attr-defined]


@MODES
def test_a_stall_after_the_first_content_interrupts(mode: str) -> None:
    world = World({"a": Say(chunks=("one", "two"), gap_seconds=25)})
    with pytest.raises(StreamInterruptedError) as raised:
        read(world, mode)
    assert (raised.value.partial, kinds(world)) == ("one", [Kind.TIMEOUT])


@MODES
def test_keep_alives_do_not_feed_the_stall_limit(mode: str) -> None:
    world = World({"a": Say(chunks=("one", *[""] * 9, "two"), gap_seconds=3)}, timeouts={"stall_seconds": 20})
    with pytest.raises(StreamInterruptedError) as raised:
        read(world, mode)
    assert raised.value.attempts[0].kind is Kind.TIMEOUT
    assert world.clock.monotonic() - 1000 == pytest.approx(21)


def test_a_slow_reader_is_no_stall() -> None:
    world = World({"a": Say("a b c")})
    text = ""
    for chunk in world.run(stream=True):
        text += chunk.text
        world.clock.advance(1000)
    assert (text, kinds(world)) == ("a b c", [Kind.SUCCESS])


def test_the_deadline_ends_with_the_first_content() -> None:
    world = World({"a": Say("a b c", after_seconds=2, gap_seconds=4)})
    assert read(world, "sync", deadline_seconds=5) == "a b c"
    assert world.clock.monotonic() - 1000 == 10


def test_the_deadline_before_the_first_content_is_one() -> None:
    with pytest.raises(DeadlineExceededError):
        read(World({"a": Say("a", after_seconds=6)}), "sync", deadline_seconds=5)


def test_a_stream_that_no_target_opens_exhausts_the_route() -> None:
    with pytest.raises(RouteExhaustedError):
        read(World({"a": Kind.TIMEOUT, "b": Say(chunks=())}, max_attempts=2), "sync")


def test_a_probes_lease_is_renewed_about_once_a_second() -> None:
    world = World({"a": Say(chunks=tuple("x" * 31), gap_seconds=0.1)})
    read(world, "sync")
    assert 3 <= world.admissions[0].touches <= 5


def test_attempts_stand_on_the_stream_from_the_start() -> None:
    stream = World({"a": Kind.TIMEOUT, "b": Say("x", after_seconds=3)}).run(stream=True)
    assert isinstance(stream, GuardedStream)
    records = stream._hidden_params["resilience"]
    assert [(record.target, record.kind, record.latency_seconds) for record in records] == [
        ("a", Kind.TIMEOUT, 0),
        ("b", Kind.SUCCESS, 3),
    ]


# ---- readers that go


def test_a_stream_that_is_dropped_hangs_up_and_counts_as_cancelled() -> None:
    world = World({"a": "one two three"})
    stream = world.run(stream=True)
    next(stream)
    del stream
    gc.collect()
    assert (kinds(world), world.upstream.open_streams) == ([Kind.CANCELLED], 0)
    assert world.told == ["AttemptIgnored"]


@pytest.mark.parametrize("how", ["close", "with"])
def test_a_closed_stream_hangs_up_and_gives_no_more(how: str) -> None:
    world = World({"a": "one two three"})
    stream = world.run(stream=True)
    next(stream)
    if how == "close":
        stream.close()
        stream.close()
    else:
        with stream:
            pass
    assert list(stream) == []
    assert (kinds(world), world.upstream.open_streams) == ([Kind.CANCELLED], 0)


def test_a_stream_that_nobody_begins_to_read_is_given_back() -> None:
    world = World()
    world.run(stream=True).close()
    assert kinds(world) == [Kind.CANCELLED]


def test_an_error_of_the_readers_own_closes_a_with_block() -> None:
    world = World({"a": "one two"})
    with pytest.raises(KeyError), world.run(stream=True) as stream:
        next(stream)
        raise KeyError
    assert kinds(world) == [Kind.CANCELLED]


async def test_an_async_stream_that_is_dropped_or_closed_hangs_up() -> None:
    world = World({"a": "one two three"})
    dropped = await world.arun(stream=True)
    assert isinstance(dropped, AsyncGuardedStream)
    await anext(dropped)
    del dropped
    gc.collect()
    async with await world.arun(stream=True) as stream:
        await anext(stream)
    await stream.aclose()
    assert [chunk async for chunk in stream] == []
    assert (kinds(world), world.upstream.open_streams) == ([Kind.CANCELLED] * 2, 0)


def test_an_async_stream_may_be_dropped_after_its_loop() -> None:
    world = World({"a": "one two three"})

    async def leave() -> AsyncGuardedStream:
        stream: AsyncGuardedStream = await world.arun(stream=True)
        await anext(stream)
        return stream

    stream = asyncio.run(leave())
    del stream
    gc.collect()
    assert kinds(world) == [Kind.CANCELLED]


async def test_a_cancelled_reader_hangs_up() -> None:
    world = World({"a": Say("one two", gap_seconds=30)}, clock=SYSTEM_CLOCK)
    stream = await world.arun(stream=True)
    assert (await anext(stream)).text == "one"
    task = asyncio.create_task(anext(stream))
    await SYSTEM_CLOCK.asleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (kinds(world), world.upstream.open_streams) == ([Kind.CANCELLED], 0)


async def test_a_readers_own_timeout_is_not_the_providers() -> None:
    world = World({"a": Say("one two", gap_seconds=30)}, clock=SYSTEM_CLOCK)
    stream = await world.arun(stream=True)
    await anext(stream)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await anext(stream)
    assert kinds(world) == [Kind.CANCELLED]


# ---- the loop's own timers


async def test_a_first_token_that_does_not_come_is_cut_by_the_loop() -> None:
    world = World({"a": Say(after_seconds=30), "b": "fine"}, clock=SYSTEM_CLOCK, timeouts={"first_token_seconds": 0.03})
    assert [chunk.text async for chunk in await world.arun(stream=True)] == ["fine"]
    assert kinds(world) == [Kind.TIMEOUT, Kind.SUCCESS]
    error = world.admissions[0].outcomes[0].error
    assert isinstance(error, AttemptTimeoutError)
    assert (error.target, error.limit, error.seconds) == ("a", "first_token_seconds", 0.03)
    assert world.upstream.open_streams == 1


async def test_a_drip_without_content_is_no_first_token() -> None:
    drip = Say(chunks=("",) * 1000, gap_seconds=0.005)
    world = World({"a": drip, "b": "fine"}, clock=SYSTEM_CLOCK, timeouts={"first_token_seconds": 0.05})
    assert [chunk.text async for chunk in await world.arun(stream=True)] == ["fine"]
    assert kinds(world) == [Kind.TIMEOUT, Kind.SUCCESS]


@pytest.mark.parametrize("chunks", [("one", "two"), ("one", *[""] * 1000)])
async def test_a_stall_is_cut_by_the_loop_drip_or_not(chunks: tuple[str, ...]) -> None:
    gap = 30 if len(chunks) == 2 else 0.005
    world = World({"a": Say(chunks=chunks, gap_seconds=gap)}, clock=SYSTEM_CLOCK, timeouts={"stall_seconds": 0.05})
    delivered = []
    with pytest.raises(StreamInterruptedError) as raised:
        async for chunk in await world.arun(stream=True):
            delivered.append(chunk.text)  # noqa: PERF401 (it breaks half way)
    assert raised.value.partial == "".join(delivered) == "one"
    assert isinstance(raised.value.__cause__, AttemptTimeoutError)
    assert raised.value.__cause__.limit == "stall_seconds"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_slow_async_reader_is_no_stall() -> None:
    world = World({"a": Say("a b c")}, clock=SYSTEM_CLOCK, timeouts={"stall_seconds": 0.03})
    text = ""
    async for chunk in await world.arun(stream=True):
        text += chunk.text
        await SYSTEM_CLOCK.asleep(0.06)
    assert (text, kinds(world)) == ("a b c", [Kind.SUCCESS])


async def test_a_stream_may_be_read_on_in_another_task() -> None:
    world = World({"a": Say("a b c", gap_seconds=0.01)}, clock=SYSTEM_CLOCK, timeouts={"stall_seconds": 5})
    stream = await world.arun(stream=True)
    parts = [(await asyncio.create_task(anext(stream))).text for _ in range(3)]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert "".join(parts) == "a b c"
    assert kinds(world) == [Kind.SUCCESS]
