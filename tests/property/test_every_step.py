"""Whatever step is cut short, by a cancellation or by an upstream that raises: nothing stays taken, nobody waits on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resilience.breaker.circuit import CircuitBreaker
from resilience.errors import CircuitOpenError, ResilienceError
from resilience.execution import Engine
from resilience.outcome import Kind, Outcome
from resilience.settings import BreakerSettings
from resilience.testing.clock import ManualClock
from resilience.testing.upstream import Fail, Say, ScriptedError, ScriptedUpstream
from resilience.testing.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

PATIENT = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Cut:
    """Awaits something, but throws an exception into it where it would suspend for the k-th time.

    The first suspension is number 0. Where it never comes, the awaited thing ends by itself.
    """

    def __init__(self, inner: Coroutine[Any, Any, Any], at: int, error: type[BaseException]) -> None:
        self._inner = inner
        self._at = at
        self._error = error
        self.was_cut = False

    def __await__(self) -> Generator[Any, Any, Any]:
        throw: BaseException | None = None
        try:
            for step in itertools.count():
                waited_for = self._inner.throw(throw) if throw is not None else self._inner.send(None)
                throw = None
                if step == self._at:
                    self.was_cut = True
                    throw = self._error()
                    if waited_for is not None:  # a future: it is no longer waited for
                        waited_for._asyncio_future_blocking = False
                    continue
                try:
                    yield waited_for
                except BaseException as error:
                    throw = error
        except StopIteration as end:
            return end.value
        finally:
            throw = None  # else its traceback and this frame hold each other


def left_behind(world: World) -> list[str]:
    """What a request must not leave. A stream that ended by itself need not be closed, and then it was a success."""
    lane = world.engine._lane(world.route)
    found = [f"unsettled: {len(world.unsettled())}"] if world.unsettled() else []
    ended = sum(outcome.kind is Kind.SUCCESS for admission in world.admissions for outcome in admission.outcomes)
    left = world.upstream.open_streams
    found += [f"open streams: {left}"] if left > ended else []
    found += [f"in the queue: {len(lane.queue)}"] if len(lane.queue) else []
    return found


ACTS: dict[str, dict[str, Any]] = {
    "it works": {"a": Say("well done", after_seconds=0.1)},
    "the next target": {"a": Kind.SERVER_ERROR, "b": Say("well done", gap_seconds=0.1)},
    "back-off and again": {"a": [Kind.CONNECTION, "ok"], "b": Kind.SERVER_ERROR},
    "a stream that breaks": {"a": Say("one two", then=Kind.INTERRUPTED)},
    "all of them fail": {"a": Fail(Kind.TIMEOUT, 1), "b": Kind.MALFORMED},
}


def scenes() -> list[Any]:
    found = []
    for name, script in ACTS.items():
        for stream in (False, True):
            for waits in (False, True):
                said = f"{name}, {'stream' if stream else 'whole'}{', waits first' if waits else ''}"
                found.append(pytest.param(script, stream, waits, id=said))
    return found


async def request(world: World, *, stream: bool) -> None:
    answer = await world.arun(stream=stream)
    if stream:
        async with answer:
            async for _ in answer:
                await asyncio.sleep(0)


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt])
@pytest.mark.parametrize(("script", "stream", "waits"), scenes())
async def test_a_request_cancelled_at_any_await_gives_everything_back(
    script: dict[str, Any], stream: bool, waits: bool, error: type[BaseException]
) -> None:
    at = 0
    while True:
        world = World(script)
        if waits:
            for target in "ab":
                world.health.eject(target, "outage", 2)
        cut = Cut(request(world, stream=stream), at, error)
        try:
            await cut
        except error:
            assert cut.was_cut
        except (ResilienceError, ScriptedError):
            pass
        assert left_behind(world) == [], f"cut at await {at}"
        assert all(len(admission.outcomes) == 1 for admission in world.admissions)
        if not cut.was_cut:
            break
        at += 1
    assert at > 0 or not waits


class Faulty(ScriptedUpstream):
    """Raises at the k-th thing that the engine asks of it."""

    def __init__(self, script: Any, clock: Any, at: int, error: BaseException) -> None:
        super().__init__(script, clock=clock)
        self.asked: list[str] = []
        self.at = at
        self.error = error

    def step(self, what: str) -> None:
        self.asked.append(what)
        if len(self.asked) == self.at + 1:
            raise self.error

    @property
    def was_struck(self) -> bool:
        return len(self.asked) > self.at

    def call(self, *args: Any) -> Any:
        self.step("call")
        return super().call(*args)

    async def acall(self, *args: Any) -> Any:
        self.step("acall")
        return await super().acall(*args)

    def open(self, *args: Any) -> Any:
        self.step("open")
        return self.faulty(super().open(*args))

    async def aopen(self, *args: Any) -> Any:
        self.step("aopen")
        return self.faulty(await super().aopen(*args))

    def faulty(self, stream: Any) -> Any:
        """The stream, each step of which counts too."""
        inner = stream._steps
        ended, price = stream.ended_whole, stream.cost_usd

        def told() -> Any:
            for step in inner:
                self.step("piece")
                yield step

        stream._steps = told()
        stream.ended_whole = lambda: (self.step("ended_whole"), ended())[1]
        stream.cost_usd = lambda: (self.step("cost_usd"), price())[1]
        return stream

    def judge(self, *args: Any) -> Kind:
        self.step("judge")
        return super().judge(*args)

    def attach(self, *args: Any) -> None:
        self.step("attach")
        super().attach(*args)

    def text_of(self, answer: Any) -> str:
        self.step("text_of")
        return super().text_of(answer)


async def asked(world: World, *, stream: bool) -> None:
    await request(world, stream=stream)


async def asked_sync(world: World, *, stream: bool) -> None:
    answer = world.run(stream=stream)
    if stream:
        list(answer)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ScriptedError, asyncio.CancelledError()], ids=str)
@pytest.mark.parametrize("ask", [asked, asked_sync], ids=["async", "sync"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("script", [pytest.param(script, id=name) for name, script in ACTS.items()])
async def test_an_upstream_that_raises_at_any_step_loses_no_permit(
    script: dict[str, Any], stream: bool, ask: Callable[..., Coroutine[Any, Any, None]], error: Any
) -> None:
    at = 0
    while True:
        world = World({}, validation={"max_chars": 1000})
        raised = ScriptedError("a", Outcome(Kind.SERVER_ERROR)) if error is ScriptedError else error
        upstream = Faulty(script, world.clock, at, raised)
        world.upstream = upstream
        world.engine = Engine(upstream, world.health, clock=world.clock, rng=random.Random(7))
        with contextlib.suppress(ResilienceError, ScriptedError, type(raised)):
            await ask(world, stream=stream)
        assert left_behind(world) == [], f"raised at {upstream.asked[-1]}, number {at}"
        if not upstream.was_struck:
            break
        at += 1
    assert at >= 2


EVENTS = st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["step", "step", "step", "cancel"])), max_size=120)
OUTCOMES = st.lists(
    st.sampled_from(["ok", Kind.SERVER_ERROR, Kind.TIMEOUT, Kind.RATE_LIMITED, Kind.EMPTY]), min_size=1, max_size=12
)


@given(order=EVENTS, first=OUTCOMES, second=OUTCOMES, ejected=st.booleans(), stream=st.booleans())
@PATIENT
def test_tasks_in_any_order_and_cancelled_anywhere_leave_nothing_behind(
    order: list[tuple[int, str]], first: list[Any], second: list[Any], ejected: bool, stream: bool
) -> None:
    async def run() -> None:
        world = World({"a": first, "b": second})
        if ejected:
            for target in "ab":
                world.health.eject(target, "outage", 5, eager=True)
        tasks = [asyncio.create_task(request(world, stream=stream)) for _ in range(8)]
        for number, what in order:
            if what == "cancel":
                tasks[number].cancel()
            await asyncio.sleep(0)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(
            result is None or isinstance(result, (ResilienceError, ScriptedError, asyncio.CancelledError))
            for result in results
        ), results
        assert left_behind(world) == []

    asyncio.run(run())


def use(breaker: CircuitBreaker, clock: ManualClock, chance: random.Random) -> None:
    """Do with a permit what callers do, also wrongly."""
    try:
        permit = breaker.acquire()
    except CircuitOpenError:
        clock.advance(chance.choice([0.0, 0.05, 0.5]))
        return
    for word in chance.choice([("success",), ("failure",), ("failure",), ("ignore",), (), ("success", "failure")]):
        getattr(permit, word)(*([ConnectionError()] if word == "failure" else []))


@given(seed=st.integers(0, 10_000), permits=st.integers(1, 3))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_threads_in_any_order_leave_nothing_behind(seed: int, permits: int) -> None:
    clock = ManualClock()
    policy = BreakerSettings(open_seconds=1, jitter=0, probe_permits=permits, probe_successes=3)
    breaker = CircuitBreaker(name="x", policy=policy, clock=clock, rng=random.Random(seed))
    errors: list[BaseException] = []

    def run(number: int) -> None:
        chance = random.Random(seed * 31 + number)
        try:
            for _ in range(60):
                use(breaker, clock, chance)
        except BaseException as error:
            errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert errors == []
    # Nothing is held: whatever state it is in, so many trial calls are admitted again, and it closes.
    breaker.reset()
    for _ in range(5):
        breaker.acquire().failure(ConnectionError())
    assert breaker.current_state == "open"
    clock.advance(400)
    taken = [breaker.acquire() for _ in range(permits)]
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    for permit in taken:
        permit.success()
    for _ in range(3):
        breaker.acquire().success()
    assert breaker.current_state == "closed"
