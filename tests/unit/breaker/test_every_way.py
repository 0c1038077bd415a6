"""Every way to make a guarded call hands on the same arguments, counts the same, and is refused in the same words."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pybreaker
import pytest

from resilience.breaker.circuit import CircuitBreaker
from resilience.breaker.guard import judge
from resilience.breaker.permit import NO_ERA, Permit, ProbePermit
from resilience.errors import CircuitIsolatedError, CircuitOpenError, ConcurrencyLimitError
from resilience.events import CircuitOpened, Event, PermitRefused
from resilience.outcome import Effect, Kind, Outcome
from resilience.settings import BreakerSettings
from resilience.testing.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = "openai is open after 5 failures in a row (connection); next probe in 9.0 s"
BOOM = ConnectionError("boom")


def told(*given: Any, **named: Any) -> tuple[Any, ...]:
    if named.pop("fail", False):
        raise BOOM
    return given, named


async def atold(*given: Any, **named: Any) -> tuple[Any, ...]:
    return told(*given, **named)


def items(*given: Any, **named: Any) -> Any:
    yield told(*given, **named)


async def aitems(*given: Any, **named: Any) -> Any:
    yield told(*given, **named)


async def whole(chunks: Any) -> Any:
    (only,) = [chunk async for chunk in chunks]
    return only


def in_a_block(breaker: CircuitBreaker, *given: Any, **named: Any) -> Any:
    with breaker.calling():
        return told(*given, **named)


def with_a_permit(breaker: CircuitBreaker, *given: Any, **named: Any) -> Any:
    with breaker.acquire() as permit:
        try:
            result = told(*given, **named)
        except ConnectionError as error:
            permit.failure(error)
            raise
        permit.success()
        return result


WAYS: dict[str, Callable[..., Any]] = {
    "call": lambda breaker, *a, **k: breaker.call(told, *a, **k),
    "call of a coroutine": lambda breaker, *a, **k: asyncio.run(breaker.call(atold, *a, **k)),
    "call of a generator": lambda breaker, *a, **k: next(iter(list(breaker.call(items, *a, **k)))),
    "acall": lambda breaker, *a, **k: asyncio.run(breaker.acall(atold, *a, **k)),
    "call_async": lambda breaker, *a, **k: asyncio.run(breaker.call_async(atold, *a, **k)),
    "call_async of a function": lambda breaker, *a, **k: asyncio.run(breaker.call_async(told, *a, **k)),
    "decorated": lambda breaker, *a, **k: breaker(told)(*a, **k),
    "decorated coroutine": lambda breaker, *a, **k: asyncio.run(breaker(atold)(*a, **k)),
    "decorated generator": lambda breaker, *a, **k: next(iter(list(breaker(items)(*a, **k)))),
    "decorated async generator": lambda breaker, *a, **k: asyncio.run(whole(breaker(aitems)(*a, **k))),
    "decorated with options": lambda breaker, *a, **k: breaker()(told)(*a, **k),
    "calling": in_a_block,
    "permit": with_a_permit,
}
way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
marks = pytest.mark.parametrize("marks", [False, True], ids=["plain", "marking"])


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def make(clock: ManualClock, *, sink: Any = None, marks: bool = False, **policy: Any) -> CircuitBreaker:
    return CircuitBreaker(
        name="openai", provider="open-ai", policy=BreakerSettings(**{"jitter": 0.0, **policy}), clock=clock,
        rng=random.Random(7), sink=sink, marks_context=marks,
    )  # fmt: skip


@way
@marks
def test_arguments_and_results_are_handed_on_and_each_call_counts_once(
    clock: ManualClock, way: Any, marks: bool
) -> None:
    breaker = make(clock, marks=marks)
    assert way(breaker, 1, two=2) == ((1,), {"two": 2})
    assert (breaker.reading().calls, breaker.reading().failures) == (1, 0)
    with pytest.raises(ConnectionError) as raised:
        way(breaker, fail=True)
    assert raised.value is BOOM
    assert (breaker.reading().calls, breaker.reading().failures, breaker.fail_counter) == (2, 1, 1)
    way(breaker)
    assert (breaker.reading().calls, breaker.reading().failures, breaker.fail_counter) == (3, 1, 0)


@way
@marks
@pytest.mark.parametrize("is_heard", [False, True], ids=["unheard", "heard"])
def test_an_open_circuit_refuses_in_the_same_words_and_counts_it(
    clock: ManualClock, way: Any, marks: bool, is_heard: bool
) -> None:
    heard: list[Event] = []
    breaker = make(clock, sink=heard.append if is_heard else None, marks=marks)
    for _ in range(5):
        with pytest.raises(ConnectionError):
            way(breaker, fail=True)
    clock.advance(1)
    with pytest.raises(CircuitOpenError) as refused:
        way(breaker)
    error = refused.value
    assert (str(error), error.breaker, error.provider, error.retry_after, error.kind) == (
        TEXT, "openai", "open-ai", 9.0, Kind.CONNECTION,
    )  # fmt: skip
    assert breaker.rejected == 1
    events = [
        CircuitOpened("openai", "open-ai", "consecutive_failures", Kind.CONNECTION, 5, 5, None, 10.0, 2),
        PermitRefused("openai", "open-ai", TEXT, 9.0),
    ]
    assert heard == (events if is_heard else [])
    clock.advance(9)
    assert way(breaker, 3) == ((3,), {})
    assert breaker.success_counter == 1
    breaker.isolate("bad deploy")
    with pytest.raises(CircuitIsolatedError, match="bad deploy"):
        way(breaker)
    assert breaker.rejected == 2


@way
def test_a_shadow_breaker_says_that_it_would_have_refused_and_lets_go(clock: ManualClock, way: Any) -> None:
    heard: list[Event] = []
    breaker = make(clock, sink=heard.append, shadow=True)
    for _ in range(5):
        with pytest.raises(ConnectionError):
            way(breaker, fail=True)
    clock.advance(1)
    assert way(breaker) == ((), {})
    assert heard[1:] == [PermitRefused("openai", "open-ai", TEXT, 9.0, shadow=True)]
    assert (breaker.rejected, breaker.next_chance(), breaker.is_eligible()) == (1, clock.monotonic(), True)
    breaker.isolate("bad deploy")
    with pytest.raises(CircuitIsolatedError):
        way(breaker)
    assert heard[-1] == PermitRefused(
        "openai", "open-ai", "openai is isolated: bad deploy; it stays so until somebody resets it", None, shadow=False
    )
    assert breaker.next_chance() is None


@pytest.mark.parametrize("func", [told, atold, items, aitems])
def test_a_decorated_function_keeps_its_name_and_kind(clock: ManualClock, func: Any) -> None:
    guarded = make(clock)(func)
    assert (guarded.__name__, guarded.__wrapped__) == (func.__name__, func)
    assert asyncio.iscoroutinefunction(guarded) == asyncio.iscoroutinefunction(func)


class Listener(pybreaker.CircuitBreakerListener):
    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        self.heard.append(("before", cb.name, func.__name__, args, kwargs))

    def success(self, cb: Any) -> None:
        self.heard.append(("success", cb.name))

    def failure(self, cb: Any, exc: BaseException) -> None:
        self.heard.append(("failure", cb.name, exc))

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        self.heard.append(("state", cb.name, old_state.name, new_state.name))


@pytest.mark.parametrize("policy", [None, BreakerSettings(consecutive_failures=2, jitter=0.0)])
@pytest.mark.parametrize("name", ["call", "acall", "call_async", "decorated", "decorated coroutine"])
def test_listeners_hear_of_each_call_with_its_arguments(
    clock: ManualClock, policy: BreakerSettings | None, name: str
) -> None:
    stock: Any = {"fail_max": 2, "throw_new_error_on_trip": False} if policy is None else {}
    breaker = CircuitBreaker(name="openai", policy=policy, clock=clock, listeners=[listener := Listener()], **stock)
    WAYS[name](breaker, 1, two=2)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            WAYS[name](breaker, fail=True)
    func = "told" if name in {"call", "decorated"} else "atold"
    failed = [("before", "openai", func, (), {"fail": True}), ("failure", "openai", BOOM)]
    assert listener.heard == [
        ("before", "openai", func, (1,), {"two": 2}), ("success", "openai"), *failed, *failed,
        ("state", "openai", "closed", "open"),
    ]  # fmt: skip


def test_a_block_has_a_name_for_listeners(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.add_listener(listener := Listener())
    in_a_block(breaker)
    assert listener.heard == [("before", "openai", "_block", (), {}), ("success", "openai")]


def test_without_listeners_or_after_the_last_has_gone_nobody_is_told(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.add_listener(listener := Listener())
    breaker.remove_listener(listener)
    breaker.call(told)
    assert listener.heard == []
    assert breaker.reading().calls == 1


# -- what an exception means ------------------------------------------------------------------------------------------


LEFT = [asyncio.CancelledError(), GeneratorExit(), KeyboardInterrupt(), SystemExit()]


@pytest.mark.parametrize("error", LEFT, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("policy", [None, BreakerSettings()])
def test_a_caller_who_leaves_says_nothing(policy: BreakerSettings | None, error: BaseException) -> None:
    breaker = CircuitBreaker(policy=policy)
    assert judge(breaker, error) == (Effect.IGNORED, Outcome(Kind.CANCELLED, error))


@pytest.mark.parametrize(
    ("error", "effect", "kind"),
    [
        (TimeoutError(), Effect.FAILURE, Kind.TIMEOUT),
        (ConnectionResetError(), Effect.FAILURE, Kind.CONNECTION),
        (ValueError(), Effect.FAILURE, Kind.UNKNOWN),
        (KeyError(), Effect.ANSWERED, Kind.BAD_REQUEST),  # excluded: somebody was there and answered
        (ConcurrencyLimitError("full"), Effect.IGNORED, Kind.LOCAL),
    ],
)
def test_an_exceptions_own_type_says_what_it_means(error: Exception, effect: Effect, kind: Kind) -> None:
    breaker = CircuitBreaker(policy=BreakerSettings(), exclude=[KeyError])
    assert judge(breaker, error) == (effect, Outcome(kind, error))


@pytest.mark.parametrize(
    ("role", "kind", "effect"),
    [
        ("breaker", Kind.RATE_LIMITED, Effect.HOLD),
        ("target", Kind.EMPTY, Effect.FAILURE),
        ("provider", Kind.EMPTY, Effect.FAILURE),
        ("provider", Kind.RATE_LIMITED, Effect.ANSWERED),
        ("provider", Kind.SERVER_ERROR, Effect.FAILURE),
        ("provider", Kind.BAD_REQUEST, Effect.ANSWERED),
    ],
)
def test_what_a_classifier_says_counts_by_what_the_breaker_watches(role: Any, kind: Kind, effect: Effect) -> None:
    breaker = CircuitBreaker(
        policy=BreakerSettings(), role=role, classify=lambda error: Outcome(kind, error, status=418)
    )
    assert judge(breaker, BOOM) == (effect, Outcome(kind, BOOM, status=418))


def test_a_failure_that_is_told_by_hand_keeps_what_it_was_told_with(clock: ManualClock) -> None:
    breaker = make(clock)
    breaker.acquire().failure(kind=Kind.QUOTA_EXHAUSTED, reset_seconds=7200)
    assert breaker.rejection().retry_after == 7200
    breaker.reset()
    breaker.acquire().failure(TimeoutError(), kind=Kind.RATE_LIMITED, retry_after_seconds=7)
    assert (breaker.rejection().retry_after, breaker.rejection().kind) == (7, Kind.RATE_LIMITED)
    breaker.reset()
    breaker.acquire().failure()
    assert breaker.fail_counter == 1


def test_a_permit_measures_its_own_time_unless_it_is_told(clock: ManualClock) -> None:
    for seconds, slow in ((None, 1), (5.0, 1), (0.5, 0)):
        breaker = make(clock, slow_call_seconds=2.0)
        permit = breaker.acquire(source="a")
        clock.advance(3)
        permit.success(latency_seconds=seconds)
        assert breaker.reading().slow == slow
        assert breaker.reading().slow_corroborated is False


def test_a_permit_knows_who_asked_and_when(clock: ManualClock) -> None:
    breaker = make(clock, slow_call_seconds=2.0)
    permit = breaker.acquire(source="a", timeout_seconds=5)
    assert (permit.source, permit.started, permit.is_probe, type(permit)) == ("a", clock.monotonic(), False, Permit)
    assert (permit.first_content(99.0), permit.is_settled) == (False, False)
    permit.touch()
    breaker.open()
    clock.advance(10)
    probe = breaker.acquire(source="b", timeout_seconds=5)
    assert isinstance(probe, ProbePermit)
    assert (probe.source, probe.started, probe.is_probe, probe.timeout_seconds, probe.eager, probe.earned) == (
        "b", clock.monotonic(), True, 5, False, False,
    )  # fmt: skip
    probe.ignore()
    breaker.open()
    clock.advance(1)
    eager = breaker.acquire_eager(source="c", timeout_seconds=7)
    assert eager is not None
    assert (eager.source, eager.started, eager.eager, eager.timeout_seconds) == ("c", clock.monotonic(), True, 7)
    stray = breaker.stray_permit()
    assert (stray.era, stray.is_stray, stray.started, stray.source) == (NO_ERA, True, 0.0, None)
    assert CircuitBreaker().acquire_eager() is None
