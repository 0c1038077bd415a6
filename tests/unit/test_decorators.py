"""Door 1: `protect` guards any callable, `failover` calls it again with the next target, signatures stay."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any

import pytest

import resilience
from resilience import decorators
from resilience.testing.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

ROUTES = {
    "chat": {
        "targets": [
            {"model": "openai/gpt-4o", "name": "first", "api_key": "sk-planted-1", "temperature": 0.5},
            {"model": "anthropic/claude-haiku-4-5", "name": "second", "api_key": "sk-planted-2"},
        ],
        "num_retries": 0,
        "on_exhausted": "fail",
        "max_attempts": 2,
    }
}


class ProviderError(Exception):
    """As LiteLLM's are: a status, and headers."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status_code = status


@pytest.fixture
def fb() -> resilience.MultiProviderFallback:
    breaker = {"consecutive_failures": 3, "jitter": 0}
    return resilience.MultiProviderFallback({"routes": ROUTES, "breaker": breaker, "warm": False}, clock=ManualClock())


@pytest.fixture
def process() -> Iterator[None]:
    """Leaves no process-wide runtime behind."""
    before, decorators._PROCESS.runtime = decorators._PROCESS.runtime, None
    yield
    decorators._PROCESS.runtime = before


def readings(fb: resilience.MultiProviderFallback, name: str = "openai") -> tuple[str, int, int]:
    one = fb.snapshot().providers[name]
    return one.state, one.calls, one.failures


# ---- protect


async def drive(kind: str, guard: Callable[[Any], Any], effect: Callable[[], Any]) -> Any:
    """Run ``effect`` as each kind of callable."""
    if kind == "def":
        return guard(effect)()
    if kind == "async def":

        async def coroutine() -> Any:
            await asyncio.sleep(0)
            return effect()

        return await guard(coroutine)()
    if kind == "generator":

        def generator() -> Iterator[Any]:
            yield "item"
            yield effect()

        return list(guard(generator)())[-1]
    if kind == "async generator":

        async def agenerator() -> AsyncIterator[Any]:
            yield "item"
            yield effect()

        return [item async for item in guard(agenerator)()][-1]

    class Called:
        async def __call__(self) -> Any:
            return effect()

    return await guard(Called())()


KINDS = ["def", "async def", "generator", "async generator", "object"]


def failing(error: BaseException) -> Callable[[], Any]:
    def effect() -> Any:
        raise error

    return effect


@pytest.mark.parametrize("kind", KINDS)
async def test_protect_counts_a_success_of_every_kind_of_callable(
    kind: str, fb: resilience.MultiProviderFallback
) -> None:
    assert await drive(kind, resilience.protect("openai", runtime=fb), lambda: "ok") == "ok"
    assert readings(fb) == ("closed", 1, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_protect_trips_and_then_sends_nothing(kind: str, fb: resilience.MultiProviderFallback) -> None:
    guard, asked = resilience.protect("openai", runtime=fb), []

    def effect() -> Any:
        asked.append(1)
        raise ProviderError(503)

    for _ in range(3):
        with pytest.raises(ProviderError):
            await drive(kind, guard, effect)
    with pytest.raises(resilience.CircuitOpenError) as raised:
        await drive(kind, guard, effect)
    assert len(asked) == 3
    assert (raised.value.breaker, raised.value.provider) == ("openai", "openai")
    assert raised.value.retry_after == pytest.approx(10)


@pytest.mark.parametrize("kind", KINDS)
async def test_protect_raises_the_very_exception_of_the_function(
    kind: str, fb: resilience.MultiProviderFallback
) -> None:
    error = ProviderError(503)
    with pytest.raises(ProviderError) as raised:
        await drive(kind, resilience.protect("openai", runtime=fb), failing(error))
    assert raised.value is error


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 422, 429])
def test_protect_does_not_trip_on_what_says_nothing_about_health(
    status: int, fb: resilience.MultiProviderFallback
) -> None:
    ask = resilience.protect("openai", runtime=fb)(failing(ProviderError(status)))
    for _ in range(30):
        with pytest.raises(ProviderError):
            ask()
    assert (readings(fb)[0], readings(fb)[2]) == ("closed", 0)


@pytest.mark.parametrize(
    "error",
    [
        ProviderError(500),
        ProviderError(503),
        ProviderError(529),
        ConnectionRefusedError(),
        TimeoutError(),
        KeyError("x"),
    ],
    ids=repr,
)
def test_protect_counts_a_failure_in_either_column_of_the_table(
    error: Exception, fb: resilience.MultiProviderFallback
) -> None:
    with pytest.raises(type(error)):
        resilience.protect("openai", runtime=fb)(failing(error))()
    assert readings(fb) == ("closed", 1, 1)


async def test_a_cancelled_call_says_nothing(fb: resilience.MultiProviderFallback) -> None:
    @resilience.protect("openai", runtime=fb)
    async def hang() -> None:
        await asyncio.Event().wait()

    for _ in range(5):
        task = asyncio.ensure_future(hang())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert readings(fb) == ("closed", 0, 0)


def test_a_generator_left_early_says_nothing(fb: resilience.MultiProviderFallback) -> None:
    @resilience.protect("openai", runtime=fb)
    def count() -> Iterator[int]:
        yield from range(9)

    for _ in range(5):
        items = count()
        next(items)
        items.close()  # type: ignore[attr-defined]  # a generator, seen as the iterator that it is
    assert readings(fb) == ("closed", 0, 0)


def test_functions_of_one_name_share_one_breaker_with_the_registry(fb: resilience.MultiProviderFallback) -> None:
    one = resilience.protect("openai", runtime=fb)(failing(ProviderError(503)))
    other = resilience.protect("openai", runtime=fb)(lambda: "ok")
    for _ in range(3):
        with pytest.raises(ProviderError):
            one()
    with pytest.raises(resilience.CircuitOpenError):
        other()
    fb.registry.providers["openai"].reset()
    assert other() == "ok"
    fb.registry.providers["openai"].isolate("bad deploy")
    with pytest.raises(resilience.CircuitIsolatedError, match="bad deploy"):
        other()


def test_methods_and_partials_can_be_protected(fb: resilience.MultiProviderFallback) -> None:
    guard = resilience.protect("openai", runtime=fb)

    class Client:
        @guard
        def ask(self, text: str) -> str:
            return text.upper()

    assert Client().ask("hi") == "HI"
    assert guard(functools.partial(max, 3))(4) == 4
    assert readings(fb) == ("closed", 2, 0)


# ---- the decorated function is still itself


def plain(prompt: str, /, *more: int, model: str = "m", **rest: Any) -> list[str]:
    """What it does."""
    return [prompt]


async def coroutine(prompt: str, model: str = "m") -> bytes:
    """What it does."""
    return prompt.encode()


def generator(count: int, model: str = "m") -> Iterator[int]:
    """What it does."""
    yield count


async def agenerator(count: int, model: str = "m") -> AsyncIterator[int]:
    """What it does."""
    yield count


@pytest.mark.parametrize("func", [plain, coroutine, generator, agenerator], ids=lambda func: func.__name__)
@pytest.mark.parametrize("door", [resilience.protect, resilience.failover], ids=lambda door: door.__name__)
def test_name_signature_and_docstring_survive(door: Any, func: Any) -> None:
    decorated = door("chat")(func)
    assert inspect.signature(decorated) == inspect.signature(func)
    assert (decorated.__name__, decorated.__doc__, decorated.__module__) == (func.__name__, func.__doc__, __name__)
    assert decorated.__wrapped__ is func
    assert inspect.iscoroutinefunction(decorated) == inspect.iscoroutinefunction(func)


@pytest.mark.parametrize("door", [resilience.protect, resilience.failover], ids=lambda door: door.__name__)
@pytest.mark.parametrize("name", [plain, None, 7, "", "  "], ids=str)
def test_a_door_without_a_name_is_told_at_once(door: Any, name: Any) -> None:
    with pytest.raises(resilience.ConfigurationError, match=f"use it as @{door.__name__}"):
        door(name)


# ---- failover


def test_failover_calls_again_with_the_next_targets_model_and_parameters(fb: resilience.MultiProviderFallback) -> None:
    seen = []

    @resilience.failover("chat", runtime=fb)
    def ask(prompt: str, model: str = "", api_key: str = "", **rest: Any) -> str:
        seen.append((prompt, model, api_key, rest))
        if len(seen) == 1:
            raise ProviderError(503)
        return f"{prompt} by {model}"

    assert ask("hi") == "hi by anthropic/claude-haiku-4-5"
    assert seen == [
        ("hi", "openai/gpt-4o", "sk-planted-1", {"temperature": 0.5}),
        ("hi", "anthropic/claude-haiku-4-5", "sk-planted-2", {}),
    ]


def test_a_function_gets_only_what_its_signature_takes_and_the_callers_own_wins(
    fb: resilience.MultiProviderFallback,
) -> None:
    @resilience.failover("chat", runtime=fb)
    def ask(model: str, prompt: str, temperature: float = 0.0) -> tuple[str, str, float]:
        return model, prompt, temperature

    assert ask(prompt="hi") == ("openai/gpt-4o", "hi", 0.5)  # type: ignore[call-arg]  # the route gives the model
    assert ask(prompt="hi", temperature=0.9) == ("openai/gpt-4o", "hi", 0.9)  # type: ignore[call-arg]  # likewise


def test_a_caller_who_names_a_model_chooses_for_himself(fb: resilience.MultiProviderFallback) -> None:
    @resilience.failover("chat", runtime=fb)
    def ask(prompt: str, model: str | None = None) -> str | None:
        return model

    assert ask("hi", "second") == "anthropic/claude-haiku-4-5"
    assert ask("hi", model="openai/gpt-4o-mini") == "openai/gpt-4o-mini"
    assert ask("hi", model="chat") == "openai/gpt-4o"
    assert ask("hi", model=None) == "openai/gpt-4o"
    with pytest.raises(resilience.ConfigurationError, match="routes: chat"):
        ask("hi", model="nonsense")


async def test_failover_works_for_coroutines(fb: resilience.MultiProviderFallback) -> None:
    seen = []

    @resilience.failover("chat", runtime=fb)
    async def ask(prompt: str, model: str = "") -> str:
        seen.append(model)
        if model.startswith("openai"):
            raise ProviderError(503)
        return model

    for _ in range(5):
        assert await ask("hi") == "anthropic/claude-haiku-4-5"
    # Tripped after three: then nobody asks it.
    assert seen.count("openai/gpt-4o") == 3
    assert fb.registry.rotation("chat") == ["second"]


async def test_an_object_with_an_async_call_is_awaited(fb: resilience.MultiProviderFallback) -> None:
    class Asks:
        async def __call__(self, prompt: str, model: str = "") -> str:
            if model.startswith("openai"):
                raise ProviderError(503)
            return model

    assert await resilience.failover("chat", runtime=fb)(Asks())("hi") == "anthropic/claude-haiku-4-5"


def test_when_every_target_fails_every_cause_is_told(fb: resilience.MultiProviderFallback) -> None:
    @resilience.failover("chat", runtime=fb)
    def ask(model: str) -> str:
        raise ProviderError(503 if model.startswith("openai") else 500)

    with pytest.raises(resilience.RouteExhaustedError) as raised:
        ask()  # type: ignore[call-arg]  # the route gives the model
    assert [error.status_code for error in raised.value.exceptions] == [503, 500]  # type: ignore[attr-defined]
    assert [attempt.target for attempt in resilience.attempts(raised.value)] == ["first", "second"]


def test_a_request_error_is_the_functions_own_and_nobody_else_is_asked(fb: resilience.MultiProviderFallback) -> None:
    seen, error = [], ProviderError(400)

    @resilience.failover("chat", runtime=fb)
    def ask(model: str) -> str:
        seen.append(model)
        raise error

    with pytest.raises(ProviderError) as raised:
        ask()  # type: ignore[call-arg]  # the route gives the model
    assert (raised.value, seen) == (error, ["openai/gpt-4o"])


def test_arguments_that_do_not_fit_are_the_callers_error_and_no_targets(fb: resilience.MultiProviderFallback) -> None:
    @resilience.failover("chat", runtime=fb)
    def ask(prompt: str, model: str = "") -> str:
        return prompt

    wrong: list[tuple[tuple[Any, ...], dict[str, Any]]] = [((), {}), (("a", "b", "c"), {}), (("a",), {"nonsense": 1})]
    for args, kwargs in wrong:
        with pytest.raises(TypeError):
            ask(*args, **kwargs)
    assert [one.calls for one in fb.snapshot().targets.values()] == [0, 0]


def test_a_function_without_model_fails_at_decoration() -> None:
    def ask(prompt: str) -> str:
        return prompt

    with pytest.raises(resilience.ConfigurationError, match=r"ask\(prompt: .*\) .* takes no model"):
        resilience.failover("chat")(ask)
    for wrong in (7, dict.fromkeys):
        with pytest.raises(resilience.ConfigurationError, match="failover"):
            resilience.failover("chat")(wrong)  # type: ignore[arg-type]


def test_an_unknown_route_is_told_at_the_call(fb: resilience.MultiProviderFallback) -> None:
    @resilience.failover("nonsense", runtime=fb)
    def ask(model: str) -> str:
        return model

    with pytest.raises(resilience.ConfigurationError, match="routes: chat"):
        ask()  # type: ignore[call-arg]  # the route gives the model


def test_a_generator_fails_over_before_its_first_item_and_not_after(fb: resilience.MultiProviderFallback) -> None:
    breaks_at = 0
    seen = []

    @resilience.failover("chat", runtime=fb)
    def ask(model: str = "") -> Iterator[str]:
        seen.append(model)
        for number, word in enumerate(("a ", "b ", "c")):
            if model.startswith("openai") and number == breaks_at:
                raise ProviderError(503)
            yield word

    assert list(ask()) == ["a ", "b ", "c"]
    assert seen == ["openai/gpt-4o", "anthropic/claude-haiku-4-5"]
    breaks_at = 2
    told = []
    with pytest.raises(resilience.StreamInterruptedError) as raised:
        told.extend(ask())
    assert (raised.value.partial, raised.value.provider) == ("a b ", "openai")


async def test_an_async_generator_fails_over_and_gives_back_what_it_holds(
    fb: resilience.MultiProviderFallback,
) -> None:
    closed = []

    @resilience.failover("chat", runtime=fb)
    async def ask(model: str = "") -> AsyncIterator[str]:
        if model.startswith("openai"):
            raise ProviderError(503)
        try:
            yield "a"
            yield "b"
        finally:
            closed.append(model)

    assert [item async for item in ask()] == ["a", "b"]
    left = ask()
    assert await anext(left) == "a"
    await left.aclose()  # type: ignore[attr-defined]  # a generator, seen as the iterator that it is
    assert closed == ["anthropic/claude-haiku-4-5"] * 2
    assert [one.in_flight for one in fb.snapshot().targets.values()] == [0, 0]


def test_functions_of_one_route_share_its_budget_and_are_not_kept(fb: resilience.MultiProviderFallback) -> None:
    import gc
    import weakref

    def make() -> weakref.ref[Any]:
        def ask(model: str = "") -> str:
            return model

        assert resilience.failover("chat", runtime=fb)(ask)() == "openai/gpt-4o"
        return weakref.ref(ask)

    kept = [make() for _ in range(20)]
    gc.collect()
    assert [ref for ref in kept if ref() is not None] == []
    assert len(fb._functions._lanes) == 1


# ---- the process-wide runtime


@pytest.mark.usefixtures("process")
def test_decorators_follow_the_process_wide_runtime() -> None:
    @resilience.protect("openai")
    def ask() -> str:
        return "ok"

    first = resilience.configure({"warm": False})
    assert resilience.default() is first
    ask()
    assert readings(first) == ("closed", 1, 0)
    second = resilience.configure({"warm": False, "breaker": {"consecutive_failures": 1}})
    assert resilience.default() is second
    ask()
    assert readings(first)[1] == 1
    assert readings(second) == ("closed", 1, 0)


@pytest.mark.usefixtures("process")
def test_the_runtime_before_is_closed_and_wrong_settings_leave_it_alone() -> None:
    first = resilience.configure({"warm": False})
    with pytest.raises(resilience.ConfigurationError, match="nonsense"):
        resilience.configure({"nonsense": 1})
    assert resilience.default() is first
    resilience.configure({"warm": False})
    with pytest.raises(resilience.ConfigurationError, match="closed"):
        first.completion("openai/gpt-4o", [])


@pytest.mark.usefixtures("process")
def test_without_configure_the_default_is_empty_and_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESILIENCE_CONFIG", raising=False)
    assert resilience.default() is resilience.default()
    assert resilience.default().settings.routes == {}


@pytest.mark.usefixtures("process")
def test_a_given_runtime_wins_over_the_process_wide_one(fb: resilience.MultiProviderFallback) -> None:
    other = resilience.configure({"warm": False})

    @resilience.protect("openai", runtime=fb)
    def ask() -> str:
        return "ok"

    ask()
    assert readings(fb) == ("closed", 1, 0)
    assert "openai" not in other.registry.providers
