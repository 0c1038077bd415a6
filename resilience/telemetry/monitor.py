"""The decorator `monitor`: counts, times and follows the requests of any function, stream or not."""

from __future__ import annotations

import functools
import inspect
import io
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from resilience.errors import ConfigurationError
from resilience.telemetry.counting import COUNTED, FAILED, RequestCount
from resilience.telemetry.observing import AsyncObservedStream, ObservedStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from resilience.telemetry.metrics import Metrics

P = ParamSpec("P")
R = TypeVar("R")


@overload
def monitor(model: Callable[P, R], *, metrics: Metrics | None = None) -> Callable[P, R]: ...
@overload
def monitor(
    model: str | None = None, *, metrics: Metrics | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def monitor(model: Any = None, *, metrics: Metrics | None = None) -> Any:
    """Feed ``ai_requests_total``, ``ai_request_duration_seconds`` and ``ai_active_requests`` from a function.

    Takes ``def``, ``async def``, generators and async generators; the signature stays. A stream, also one that the
    function returns, is followed to its end. A request that an observed runtime serves inside is counted once.

    Args:
        model: The label. Default: the call's own ``model`` argument, else the function's name. Used bare,
            ``@monitor``, it is the function itself.
        metrics: Where to count. Default: the client's own registry.

    Raises:
        ConfigurationError: ``model`` is neither a text nor a function, or the extra is missing.
    """
    if model is not None and not isinstance(model, str):
        if not callable(model):
            raise ConfigurationError(f"monitor: {model!r} is not allowed; use @monitor or @monitor('gpt-4o-mini')")
        return _decorate(model, None, metrics)
    return functools.partial(_decorate, label=model, metrics=metrics)


def _decorate(  # noqa: C901 (four kinds of function, side by side)
    func: Callable[P, R], label: str | None, metrics: Metrics | None
) -> Callable[P, R]:
    begin = _Begin(func, label, metrics)
    if inspect.iscoroutinefunction(func):

        @functools.wraps(func)
        async def counted(*args: Any, **kwargs: Any) -> Any:
            watch = begin(args, kwargs)
            token = watch.enter()
            try:
                answer = await func(*args, **kwargs)
            except BaseException as error:
                watch.ended(None, error)
                raise
            finally:
                watch.leave(token)
            return watch.answered(answer)

    elif inspect.isasyncgenfunction(func):

        @functools.wraps(func)
        async def counted(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            stream = AsyncObservedStream(func(*args, **kwargs), begin(args, kwargs))
            try:
                async for item in stream:
                    yield item
            finally:
                await stream.aclose()

    elif inspect.isgeneratorfunction(func):

        @functools.wraps(func)
        def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
            stream = ObservedStream(func(*args, **kwargs), begin(args, kwargs))
            try:
                yield from stream
            finally:
                stream.close()

    else:

        @functools.wraps(func)
        def counted(*args: Any, **kwargs: Any) -> Any:
            watch = begin(args, kwargs)
            token = watch.enter()
            try:
                answer = func(*args, **kwargs)
            except BaseException as error:
                watch.ended(None, error)
                raise
            finally:
                watch.leave(token)
            return watch.answered(answer)

    return cast("Callable[P, R]", counted)


class _Begin:
    """Starts the count of one call, under the label that the call or the decorator gives."""

    def __init__(self, func: Callable[..., Any], label: str | None, metrics: Metrics | None) -> None:
        self._label = label
        self._name = getattr(func, "__name__", type(func).__name__)
        self._metrics = metrics if metrics is not None else _default_metrics()
        names = list(inspect.signature(func).parameters)
        self._position = names.index("model") if "model" in names else None

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
        if COUNTED.get():
            return _Call(None)
        return _Call(self._metrics.count(self._label or self._asked(args, kwargs)))

    def _asked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        asked = kwargs.get("model")
        if asked is None and self._position is not None and self._position < len(args):
            asked = args[self._position]
        return asked if isinstance(asked, str) and asked else self._name


class _Call:
    """One call of a monitored function."""

    __slots__ = ("_count",)

    def __init__(self, count: RequestCount | None) -> None:
        self._count = count

    def enter(self) -> Any:
        return COUNTED.set(True)

    def leave(self, token: Any) -> None:
        COUNTED.reset(token)

    def chunk(self, chunk: Any) -> None:
        """A stream goes on: nothing to count."""

    def ended(self, answer: Any, error: BaseException | None) -> None:
        if self._count is not None:
            # A function may tell its failure in its answer, as `process` does.
            told = FAILED if error is None and getattr(answer, "status", None) == FAILED else None
            self._count.ended(error, status=told)

    def answered(self, answer: Any) -> Any:
        """The call is over, unless its answer is a stream: then that is followed."""
        if hasattr(answer, "__anext__"):
            return AsyncObservedStream(answer, self)
        if hasattr(answer, "__next__") and not isinstance(answer, io.IOBase):
            return ObservedStream(answer, self)
        self.ended(answer, None)
        return answer


def _default_metrics() -> Metrics:
    # Here and not above: the decorator can be named where the extra is missing, and says so when it is used.
    from resilience.telemetry.metrics import default_metrics  # noqa: PLC0415

    return default_metrics()
