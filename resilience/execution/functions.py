"""Functions as upstreams: a user's own function is called once per attempt, with that attempt's target."""

from __future__ import annotations

import asyncio
import functools
import inspect
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any

from resilience.errors import ConfigurationError
from resilience.outcome import Kind
from resilience.upstream import Piece

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping

    from resilience.execution.steps import Attempt
    from resilience.outcome import Outcome
    from resilience.upstream import AttemptRecord, CallTimeouts, Delivered, Graft, Operation, Target

_NAMED = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}


class CalledFunction:
    """A function, what kind it is, and which parameters of a target it takes.

    Raises:
        ConfigurationError: It is no function, or it takes no ``model``.
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func
        try:
            signature = inspect.signature(func)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"failover: {func!r} has no signature to call it by; use it as @failover('chat') on a function"
            ) from error
        # What runs: of an object that can be called, its own method.
        runs = func if inspect.isroutine(func) or isinstance(func, functools.partial) else type(func).__call__
        self.is_async = inspect.iscoroutinefunction(runs)
        self.is_async_generator = inspect.isasyncgenfunction(runs)
        self.is_generator = inspect.isgeneratorfunction(runs)
        self.is_stream = self.is_generator or self.is_async_generator
        self._signature = signature
        self._names = {name for name, parameter in signature.parameters.items() if parameter.kind in _NAMED}
        self._takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
        if "model" not in self._names and not self._takes_all:
            name = getattr(func, "__qualname__", repr(func))
            raise ConfigurationError(
                f"failover: {name}{signature} takes no model, so it cannot be called with the next target; "
                "give it a parameter `model: str` or `**params`"
            )

    def chosen_model(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
        """The model that the caller passed himself, None where the route decides."""
        chosen = kwargs["model"] if "model" in kwargs else self._signature.bind_partial(*args).arguments.get("model")
        return chosen if isinstance(chosen, str) else None

    def arguments(self, target: Target, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        """The caller's arguments with the target's put in; the caller's own win, but for the model."""
        given = {name: value for name, value in target.params.items() if self._takes_all or name in self._names}
        bound = self._signature.bind_partial(*args)
        given = {name: value for name, value in given.items() if name not in bound.arguments}
        if "model" in bound.arguments:
            bound.arguments["model"] = target.model
            return self._signature.bind(*bound.args, **{**given, **kwargs})
        return self._signature.bind(*args, **{**given, **kwargs, "model": target.model})


# Not whatever can be awaited: an object may be more than that, an async context manager say.
_UNFINISHED = (CoroutineType, asyncio.Future, GeneratorType, AsyncGeneratorType)


class Begun:
    """What a plain function returned instead of a result, a coroutine, a future or a generator: work not done yet.

    Attributes:
        work: What it returned.
        step: The attempt, filled in by whoever made it.
    """

    __slots__ = ("step", "work")

    def __init__(self, work: Any) -> None:
        self.work = work
        self.step: Attempt | None = None


class FunctionUpstream:
    """`resilience.upstream.Upstream` on users' functions. ``params`` carries the function and its arguments.

    Where it carries ``begun`` as well, that is what the function returned: it is not called a second time for it.

    Args:
        classify: Says what their exceptions mean.
    """

    def __init__(self, classify: Callable[[BaseException], Outcome]) -> None:
        self.classify = classify

    @staticmethod
    def _start(target: Target, params: Mapping[str, Any]) -> Any:
        called: CalledFunction = params["called"]
        bound = called.arguments(target, params["args"], params["kwargs"])
        return called.func(*bound.args, **bound.kwargs)

    def _work(self, target: Target, params: Mapping[str, Any]) -> Any:
        return params["begun"] if "begun" in params else self._start(target, params)

    def call(self, target: Target, operation: Operation, params: Mapping[str, Any], timeouts: CallTimeouts) -> Any:  # noqa: ARG002 (the function sets its own limits)
        """Call it. What it returns unfinished comes back as `Begun`."""
        result = self._start(target, params)
        return Begun(result) if isinstance(result, _UNFINISHED) else result

    async def acall(
        self,
        target: Target,
        operation: Operation,  # noqa: ARG002 (likewise)
        params: Mapping[str, Any],
        timeouts: CallTimeouts,  # noqa: ARG002 (likewise)
    ) -> Any:
        """Await it."""
        result = self._work(target, params)
        return await result if inspect.isawaitable(result) else result

    def open(
        self,
        target: Target,
        operation: Operation,  # noqa: ARG002 (likewise)
        params: Mapping[str, Any],
        timeouts: CallTimeouts,  # noqa: ARG002 (likewise)
    ) -> FunctionStream:
        """Start the generator."""
        return FunctionStream(self._work(target, params))

    async def aopen(
        self,
        target: Target,
        operation: Operation,  # noqa: ARG002 (likewise)
        params: Mapping[str, Any],
        timeouts: CallTimeouts,  # noqa: ARG002 (likewise)
    ) -> AsyncFunctionStream:
        """Start the async generator."""
        return AsyncFunctionStream(self._work(target, params))

    def judge(self, answer: Any, operation: Operation, params: Mapping[str, Any]) -> Kind:  # noqa: ARG002 (likewise)
        """Whatever a function returns is an answer."""
        return Kind.SUCCESS

    def cost_usd(self, answer: Any) -> float | None:  # noqa: ARG002 (a function's result has no price)
        """None: a function's result has no price."""
        return None

    def text_of(self, answer: Any) -> str:
        """The result, if it is a text."""
        return answer if isinstance(answer, str) else ""

    def context_window(self, target: Target) -> int | None:  # noqa: ARG002 (the function knows, we do not)
        """None: nobody knows."""
        return None

    def takes_prefill(self, target: Target) -> bool:  # noqa: ARG002 (what a function writes is its own)
        """No: what a function yields is its own affair."""
        return False

    def asks_plain_text(self, operation: Operation, params: Mapping[str, Any]) -> bool:  # noqa: ARG002 (likewise)
        """No: so a break is an interruption, under any policy."""
        return False

    def continued(
        self,
        target: Target,  # noqa: ARG002 (likewise)
        operation: Operation,  # noqa: ARG002 (likewise)
        params: Mapping[str, Any],
        text: str,  # noqa: ARG002 (likewise)
    ) -> Mapping[str, Any]:
        """Never asked for."""
        return params

    def graft(self, operation: Operation, params: Mapping[str, Any], delivered: Delivered) -> Graft:  # noqa: ARG002
        """Never asked for."""
        return AsItIs()

    def attach(self, answer: Any, attempts: tuple[AttemptRecord, ...]) -> None:
        """Write the attempts where the result has LiteLLM's place for them."""
        hidden = getattr(answer, "_hidden_params", None)
        if isinstance(hidden, dict):
            hidden["resilience"] = attempts


class AsItIs:
    """A `Graft` that changes nothing."""

    def grown(self, piece: Piece, text: str, repeated: int) -> Piece | None:  # noqa: ARG002 (the protocol's)
        """The piece with what is left of its text."""
        return piece._replace(text=text)


def _piece(item: Any) -> Piece:
    return Piece(item, item if isinstance(item, str) else "", has_content=True)


class FunctionStream:
    """A generator as an open answer: each item is content, and its end is whole."""

    def __init__(self, generator: Generator[Any, Any, Any]) -> None:
        self._generator = generator

    def __iter__(self) -> Iterator[Piece]:
        return map(_piece, self._generator)

    def ended_whole(self) -> bool:
        """A generator that ends has ended."""
        return True

    def cost_usd(self) -> float | None:
        """None: items have no price."""
        return None

    def close(self) -> None:
        """Close it."""
        self._generator.close()


class AsyncFunctionStream:
    """The same for an async generator."""

    def __init__(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generator = generator

    async def __aiter__(self) -> AsyncIterator[Piece]:
        async for item in self._generator:
            yield _piece(item)

    def ended_whole(self) -> bool:
        """A generator that ends has ended."""
        return True

    def cost_usd(self) -> float | None:
        """None: items have no price."""
        return None

    async def aclose(self) -> None:
        """Close it."""
        await self._generator.aclose()

    def abandon(self) -> None:
        """Leave it to the event loop's own hook, which closes forgotten generators."""
