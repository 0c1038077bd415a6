"""How a function runs under a breaker: the four kinds of callables, and what their exceptions mean."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Final, cast

from resilience.breaker.held import Holding, is_held
from resilience.breaker.permit import Permit
from resilience.errors import CircuitOpenError, RejectedError, new_error
from resilience.outcome import Effect, Kind, Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator

    from resilience.breaker.circuit import CircuitBreaker
    from resilience.breaker.window import CallWindow

# The caller went away: that says nothing about what was called.
_LEFT: Final = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)
# What a plain function may return instead of a result: the work has not been done yet.
_UNFINISHED: Final = frozenset({GeneratorType, CoroutineType, AsyncGeneratorType})


def guard(breaker: CircuitBreaker, func: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``func`` so that each call needs a permit and tells its outcome."""
    if inspect.iscoroutinefunction(func) or asyncio.iscoroutinefunction(func):
        return _guard_coroutine(breaker, func)
    if inspect.isasyncgenfunction(func) or inspect.isgeneratorfunction(func):
        return _guard_generator(breaker, func)
    return _guard_function(breaker, func)


def _guard_coroutine(breaker: CircuitBreaker, func: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    hot, monotonic, hub, provider = breaker.hot, breaker.monotonic, breaker.hub, breaker.provider

    # The order of the statements is the measured one: see benchmarks/overhead.py.
    @functools.wraps(func)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        era = hot.era
        if era is None:
            opening = hot.opening
            if opening is not None and (left := opening.until - monotonic()) > 0.0:
                if hub is not None and hub.sinks:
                    raise breaker.refused(opening, left)
                breaker.rejected += 1
                raise new_error(CircuitOpenError, opening, opening.label, provider, left, opening.kind)
            return await acall(breaker, func, args, kwargs)
        try:
            result = await func(*args, **kwargs)
        except BaseException as error:
            breaker.raised(Permit(breaker, era), error)
            raise
        era.calls += 1
        return result

    return guarded


def _guard_function(breaker: CircuitBreaker, func: Callable[..., Any]) -> Callable[..., Any]:
    hot, monotonic, hub, provider = breaker.hot, breaker.monotonic, breaker.hub, breaker.provider
    finished: type | None = None  # what it returned last and what is no unfinished work: mostly the same type again

    @functools.wraps(func)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        nonlocal finished
        era = hot.era
        if era is None:
            opening = hot.opening
            if opening is not None and (left := opening.until - monotonic()) > 0.0:
                if hub is not None and hub.sinks:
                    raise breaker.refused(opening, left)
                breaker.rejected += 1
                raise new_error(CircuitOpenError, opening, opening.label, provider, left, opening.kind)
            return call(breaker, func, args, kwargs)
        try:
            result = func(*args, **kwargs)
        except BaseException as error:
            breaker.raised(Permit(breaker, era), error)
            raise
        if type(result) is not finished:
            if type(result) in _UNFINISHED:
                return _finish(breaker, Permit(breaker, era), result)
            finished = type(result)
        era.calls += 1
        return result

    return guarded


def _guard_generator(breaker: CircuitBreaker, func: Callable[..., Any]) -> Callable[..., Any]:
    # Admission is at the call, as in pybreaker, not at the first item.
    @functools.wraps(func)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        return call(breaker, func, args, kwargs)

    return guarded


def call(breaker: CircuitBreaker, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call ``func`` under a permit. What it returns unfinished carries the permit to its end.

    Raises:
        CircuitOpenError: The breaker refused; ``func`` was not called.
        BaseException: Whatever ``func`` raised.
    """
    if breaker.marks_context and is_held(breaker):
        return func(*args, **kwargs)
    permit = breaker.begin(func, args, kwargs)
    try:
        with _marked(breaker):
            result = func(*args, **kwargs)
    except BaseException as error:
        breaker.raised(permit, error)
        raise
    if type(result) in _UNFINISHED:
        return _finish(breaker, permit, result)
    permit.success()
    return result


async def acall(
    breaker: CircuitBreaker,
    func: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """The same for an awaitable."""
    start = functools.partial(func, *args, **kwargs)
    if breaker.marks_context and is_held(breaker):
        return await start()
    permit = breaker.begin(func, args, kwargs)
    return await _await(breaker, permit, start)


def _marked(breaker: CircuitBreaker) -> contextlib.AbstractContextManager[object]:
    return Holding(breaker) if breaker.marks_context else _UNMARKED


_UNMARKED: Final[contextlib.AbstractContextManager[None]] = contextlib.nullcontext()


def _finish(breaker: CircuitBreaker, permit: Permit, result: Any) -> Any:
    """Hand on what a call returned unfinished, so that the permit lives to its end."""
    if type(result) is GeneratorType:
        return _drive(breaker, permit, result)
    if type(result) is AsyncGeneratorType:
        return _adrive(breaker, permit, result)
    return _await(breaker, permit, lambda: result)


async def _await(breaker: CircuitBreaker, permit: Permit, start: Callable[[], Awaitable[Any]]) -> Any:
    try:
        with _marked(breaker):
            pending = start()
            result = await pending if hasattr(pending, "__await__") else pending
    except BaseException as error:
        breaker.raised(permit, error)
        raise
    if type(result) in _UNFINISHED:
        return _finish(breaker, permit, result)
    permit.success()
    return result


def _drive(breaker: CircuitBreaker, permit: Permit, inner: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    # By hand rather than with `yield from`: the mark must not leak to the caller between two items.
    step: Callable[[], Any] = functools.partial(inner.send, None)
    while True:
        try:
            with _marked(breaker):
                item = step()
        except StopIteration as stop:
            permit.success()
            return stop.value
        except BaseException as error:
            breaker.raised(permit, error)
            raise
        try:
            sent = yield item
        except GeneratorExit:
            permit.ignore()  # the reader left: that says nothing about the provider
            inner.close()
            raise
        except BaseException as error:  # noqa: BLE001 (handed on unchanged to the generator that it was meant for)
            step = functools.partial(inner.throw, error)
        else:
            step = functools.partial(inner.send, sent)


async def _adrive(breaker: CircuitBreaker, permit: Permit, inner: AsyncGenerator[Any, Any]) -> AsyncGenerator[Any, Any]:
    step: Callable[[], Coroutine[Any, Any, Any]] = functools.partial(inner.asend, None)
    while True:
        try:
            with _marked(breaker):
                item = await step()
        except StopAsyncIteration:
            permit.success()
            return
        except BaseException as error:
            breaker.raised(permit, error)
            raise
        try:
            sent = yield item
        except GeneratorExit:
            permit.ignore()
            await inner.aclose()
            raise
        except BaseException as error:  # noqa: BLE001 (handed on unchanged to the generator that it was meant for)
            step = functools.partial(inner.athrow, error)
        else:
            step = functools.partial(inner.asend, sent)


def call_closed(
    breaker: CircuitBreaker,
    era: CallWindow,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """`call` while the circuit is closed and only counting is asked for: no lock, no permit."""
    try:
        result = func(*args, **kwargs)
    except BaseException as error:
        breaker.raised(Permit(breaker, era), error)
        raise
    if type(result) in _UNFINISHED:
        return _finish(breaker, Permit(breaker, era), result)
    era.calls += 1
    return result


def guard_awaitable(breaker: CircuitBreaker, func: Callable[..., Any]) -> Callable[..., Any]:
    """Pybreaker's ``__pybreaker_call_async``: ``func`` is a coroutine of tornado's or of asyncio's."""

    @functools.wraps(func)
    def guarded(*args: Any, **kwargs: Any) -> Awaitable[Any]:
        return breaker.call_async(func, *args, **kwargs)

    return guarded


@contextlib.contextmanager
def calling(breaker: CircuitBreaker) -> Generator[None, None, None]:
    """Run a ``with`` block as the protected call."""
    if breaker.marks_context and is_held(breaker):
        yield
        return
    permit = breaker.begin(_block, (), {})
    try:
        with _marked(breaker):
            yield
    except BaseException as error:
        breaker.raised(permit, error)
        raise
    permit.success()


def _block() -> None:
    """What listeners are told is being called where a ``with`` block is."""


def judge(breaker: CircuitBreaker, error: BaseException) -> tuple[Effect, Outcome]:
    """What an exception out of a guarded call means to this breaker."""
    if isinstance(error, _LEFT):
        return Effect.IGNORED, Outcome(Kind.CANCELLED, error)
    if breaker.policy is None:
        return Effect.FAILURE, Outcome(Kind.UNKNOWN, error)  # exclusions are judged by pybreaker's own rules
    if not breaker.is_system_error(cast("Any", error)):
        return Effect.ANSWERED, Outcome(Kind.BAD_REQUEST, error)
    if isinstance(error, RejectedError):
        return Effect.IGNORED, Outcome(Kind.LOCAL, error)
    if breaker.classify is None:
        return Effect.FAILURE, Outcome(_kind_by_type(error), error)
    outcome = breaker.classify(error)
    verdict = outcome.verdict
    if breaker.role != "provider":
        return verdict.target, outcome
    # One breaker stands for both here: a failure in either column counts, a hold or a key does not.
    return (Effect.FAILURE if verdict.target is Effect.FAILURE else verdict.provider), outcome


def _kind_by_type(error: BaseException) -> Kind:
    if isinstance(error, TimeoutError):
        return Kind.TIMEOUT
    return Kind.CONNECTION if isinstance(error, ConnectionError) else Kind.UNKNOWN
