"""Door 1: decorators. `protect` guards any callable, `failover` calls it again with the next target."""

from __future__ import annotations

import functools
import inspect
import threading
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

from resilience.errors import ConfigurationError
from resilience.execution.functions import CalledFunction
from resilience.fork import renew_in_children
from resilience.runtime import MultiProviderFallback

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from resilience.breaker.circuit import CircuitBreaker
    from resilience.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")


class _Process:
    """The process-wide runtime, made at its first use."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.runtime: MultiProviderFallback | None = None
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        self.lock = threading.Lock()


_PROCESS: Final = _Process()


def configure(config: Settings | Mapping[str, Any] | str | os.PathLike[str] | None = None) -> MultiProviderFallback:
    """Set up the process-wide runtime that decorators use unless they were given one.

    Decorated functions follow at their next call. The runtime before it is closed.

    Args:
        config: As for `MultiProviderFallback`.

    Raises:
        ConfigurationError: The settings are wrong; the runtime before stays.
    """
    made = MultiProviderFallback(config)
    with _PROCESS.lock:
        before, _PROCESS.runtime = _PROCESS.runtime, made
    if before is not None:
        before.close()
    return made


def default() -> MultiProviderFallback:
    """The process-wide runtime; made of the file that ``RESILIENCE_CONFIG`` names, or empty, at the first use."""
    if _PROCESS.runtime is None:
        with _PROCESS.lock:
            if _PROCESS.runtime is None:
                _PROCESS.runtime = MultiProviderFallback()
    return _PROCESS.runtime


def protect(name: str, *, runtime: MultiProviderFallback | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Guard a callable with the breaker of a provider.

    Takes ``def``, ``async def``, generators and async generators; the signature stays. An exception counts as a
    failure where the design's table says so in either column; the exception itself is raised unchanged.

    Args:
        name: The provider, such as ``openai`` or ``azure/east.example.com:443``, or any name of your own.
        runtime: Whose breakers. Default: the process-wide runtime, also one configured later.

    Raises:
        ConfigurationError: ``name`` is no text. At a call: CircuitOpenError, and nothing was sent.
    """
    _check_name("protect", name, "openai")

    def decorate(func: Callable[P, R]) -> Callable[P, R]:
        breaker = _BreakerOf(name, runtime)
        if inspect.iscoroutinefunction(func):

            @functools.wraps(func)
            async def guarded(*args: Any, **kwargs: Any) -> Any:
                return await breaker().acall(func, *args, **kwargs)

        else:

            @functools.wraps(func)
            def guarded(*args: Any, **kwargs: Any) -> Any:
                return breaker().call(func, *args, **kwargs)

        return cast("Callable[P, R]", guarded)

    return decorate


def failover(route: str, *, runtime: MultiProviderFallback | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Call a function with one target after the other until one works.

    The function is called with ``model=`` set to the target's model string, and with those of the target's other
    parameters that its signature takes. A caller who passes ``model`` chooses for himself: a route or a model.
    Generators are streams: until the first item the next target may take over, after it a break is a
    StreamInterruptedError. What a plain function returns unfinished, a coroutine, a future or a generator, is served
    to its end the same way.

    Args:
        route: The route's name.
        runtime: Whose routes. Default: the process-wide runtime, also one configured later.

    Raises:
        ConfigurationError: The function takes no ``model``. At a call: there is no such route.
    """
    _check_name("failover", route, "chat")

    def decorate(func: Callable[P, R]) -> Callable[P, R]:
        called = CalledFunction(func)
        if called.is_async:

            @functools.wraps(func)
            async def guarded(*args: Any, **kwargs: Any) -> Any:
                return await (runtime or default()).arun_function(called, route, args, kwargs)

        elif called.is_async_generator:

            @functools.wraps(func)
            async def guarded(*args: Any, **kwargs: Any) -> Any:
                stream = await (runtime or default()).arun_function(called, route, args, kwargs)
                try:
                    async for item in stream:
                        yield item
                finally:
                    await stream.aclose()

        elif called.is_generator:

            @functools.wraps(func)
            def guarded(*args: Any, **kwargs: Any) -> Any:
                stream = (runtime or default()).run_function(called, route, args, kwargs)
                try:
                    yield from stream
                finally:
                    stream.close()

        else:

            @functools.wraps(func)
            def guarded(*args: Any, **kwargs: Any) -> Any:
                return (runtime or default()).run_function(called, route, args, kwargs)

        return cast("Callable[P, R]", guarded)

    return decorate


def _check_name(door: str, name: object, example: str) -> None:
    if not isinstance(name, str) or not name.strip():
        raise ConfigurationError(f"{door}: {name!r} is not allowed as a name; use it as @{door}({example!r})")


class _BreakerOf:
    """Finds a provider's breaker in whatever runtime is the present one, and remembers it."""

    __slots__ = ("_breaker", "_name", "_owner", "_runtime")

    def __init__(self, name: str, runtime: MultiProviderFallback | None) -> None:
        self._name = name
        self._runtime = runtime
        self._owner: MultiProviderFallback | None = None
        self._breaker: CircuitBreaker | None = None

    def __call__(self) -> CircuitBreaker:
        owner = self._runtime or default()
        if self._breaker is None or self._owner is not owner:
            self._breaker, self._owner = owner.registry.provider_breaker(self._name), owner
        return self._breaker
