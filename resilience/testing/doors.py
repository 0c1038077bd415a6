"""Doors: where an outage stands in the way of calls. Put in by the first outage, taken out by the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilience.breaker.circuit import CircuitBreaker
from resilience.execution.functions import FunctionUpstream
from resilience.middleware.blows import Blow, await_, error_of, wait
from resilience.middleware.striking import Strikes
from resilience.testing.outages import draw, spare, struck

if TYPE_CHECKING:
    from collections.abc import Callable


def _decide(provider: str, model: str) -> Blow | None:
    outage = struck(provider, model)
    return None if outage is None else outage.blow(provider)


_STRIKES: Final = Strikes(_decide)
_BEFORE: Final[list[tuple[type, str, Any, Any]]] = []


def put_in() -> None:
    """Stand in the way: of LiteLLM, of guarded functions, of functions that fail over."""
    _STRIKES.put_in()
    for place, name, ours in (
        (CircuitBreaker, "call", _calling(CircuitBreaker.call)),
        (CircuitBreaker, "acall", _acalling(CircuitBreaker.acall)),
        (FunctionUpstream, "_start", staticmethod(_starting(FunctionUpstream._start))),  # noqa: SLF001 (one package)
    ):
        _BEFORE.append((place, name, vars(place)[name], ours))
        setattr(place, name, ours)


def take_out() -> None:
    """Leave nothing behind."""
    _STRIKES.take_out()
    for place, name, before, ours in reversed(_BEFORE):
        if vars(place)[name] is ours:
            setattr(place, name, before)
    _BEFORE.clear()


class _Fate:
    """What becomes of one call of a function."""

    def __init__(self, provider: str, model: str) -> None:
        outage, self._spared = draw(provider, model)
        blow = outage.blow(provider) if outage is not None else None
        # A stream that begins well is told by LiteLLM; of a function's own result nothing is known to break.
        self.blow = None if blow is None or blow.chunks is not None or blow.empty else blow
        self._provider = provider
        self._model = model

    def fail(self, blow: Blow) -> Any:
        """Fail for a thread."""
        blow.told()
        if blow.waits:
            wait(blow, None)
        raise error_of(self._provider.partition("/")[0], self._model, blow)

    async def afail(self, blow: Blow) -> Any:
        """Fail for a task."""
        blow.told()
        if blow.waits:
            await await_(blow, None)
        raise error_of(self._provider.partition("/")[0], self._model, blow)

    def run(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call it, or fail."""
        if self.blow is not None:
            return self.fail(self.blow)
        token = spare.set(self._spared)
        try:
            return func(*args, **kwargs)
        finally:
            spare.reset(token)

    async def arun(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Await it, or fail."""
        if self.blow is not None:
            return await self.afail(self.blow)
        token = spare.set(self._spared)
        try:
            return await func(*args, **kwargs)
        finally:
            spare.reset(token)


def _calling(call: Any) -> Any:
    def called(breaker: CircuitBreaker, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if breaker.role == "target":
            return call(breaker, func, *args, **kwargs)
        fate = _Fate(str(breaker.name), "")
        return call(breaker, fate.run, func, *args, **kwargs)

    return called


def _acalling(acall: Any) -> Any:
    async def called(breaker: CircuitBreaker, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if breaker.role == "target":
            return await acall(breaker, func, *args, **kwargs)
        fate = _Fate(str(breaker.name), "")
        return await acall(breaker, fate.arun, func, *args, **kwargs)

    return called


def _starting(start: Any) -> Any:
    def started(target: Any, params: Any) -> Any:
        fate = _Fate(target.provider, target.model)
        if params["called"].is_async:
            return fate.arun(start, target, params)
        return fate.run(start, target, params)

    return started
