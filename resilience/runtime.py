"""The runtime: puts settings, registry, engine and LiteLLM together, and is what people hold in their hands."""

from __future__ import annotations

import asyncio
import threading
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

from resilience.clock import SYSTEM_CLOCK
from resilience.errors import ConfigurationError
from resilience.events import StorageDegraded
from resilience.execution.engine import Engine
from resilience.execution.functions import FunctionUpstream
from resilience.execution.images import ImageCalls
from resilience.execution.options import OPTIONS, chat_params, input_params, take_options
from resilience.execution.steps import CallOptions
from resilience.fork import renew_in_children
from resilience.health.registry import HealthRegistry
from resilience.requests import AIRequest, AIResponse, serve, serve_sync
from resilience.routing.homes import Homes
from resilience.routing.table import CREDENTIALS, RouteTable
from resilience.settings import Settings
from resilience.telemetry.log import log_event
from resilience.telemetry.observing import Observed
from resilience.upstream import Operation

if TYPE_CHECKING:
    import os
    import random
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from resilience.clock import Clock
    from resilience.events import Sink
    from resilience.execution.functions import CalledFunction
    from resilience.outcome import Outcome
    from resilience.routing.route import Route
    from resilience.snapshots import Snapshot
    from resilience.storage.share import Share
    from resilience.telemetry.observing import Observer
    from resilience.upstream import Target, Upstream

# A call without any of them asks for nothing but an answer of a route.
_SPECIAL: Final = OPTIONS | CREDENTIALS | {"fallbacks", "mock_testing_fallbacks"}
_COMPLETION, _EMBEDDING, _RESPONSES = Operation.COMPLETION, Operation.EMBEDDING, Operation.RESPONSES


class MultiProviderFallback(ImageCalls):
    """LLM calls that work as long as one provider of the route works.

    Thread-safe, usable from several event loops at once. A context manager, sync and async; or close it by hand.

    Args:
        config: `Settings`, a mapping, a YAML or JSON file, or None for the file that ``RESILIENCE_CONFIG`` names.
        clock: Where time comes from.
        rng: Where chance comes from.
        upstream: Who sends requests. Default: LiteLLM.
        sinks: Who hears events. Default: structlog.
        validate: Takes an answer's text and says whether it will do; False means the next target.

    Attributes:
        settings: What was configured.
        registry: The breakers, to inspect and steer.

    Raises:
        ConfigurationError: The settings are wrong; the message names what, where, and what is allowed.
    """

    def __init__(
        self,
        config: Settings | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
        upstream: Upstream | None = None,
        sinks: Iterable[Sink] = (log_event,),
        validate: Callable[[str], bool] | None = None,
    ) -> None:
        self.settings = Settings.load(config)
        self.registry = HealthRegistry(self.settings, clock=clock, rng=rng, classify=_classify)
        for sink in sinks:
            self.registry.subscribe(sink)
        self._validate = validate
        self._plain, self._streamed = CallOptions(validate=validate), CallOptions(stream=True, validate=validate)
        self._calls = upstream
        self._made_engine: Engine | None = None
        self._observed = Observed()
        self._clock, self._rng = clock, rng
        self._lock = threading.Lock()
        self._closed = False
        self._functions = Engine(self._observed.relay(FunctionUpstream(_classify)), self.registry, clock=clock, rng=rng)
        self._homes = Homes()
        self._share = self._joined_fleet(rng)
        self._table = RouteTable(self.settings, self.registry, _make_target)
        if self._share is not None:
            self._share.start()
        renew_in_children(self)
        if self.settings.warm and upstream is None and self._table.targets:
            _warm(self._table.targets)

    @classmethod
    def from_router(cls, router: Any, **options: Any) -> Self:
        """A runtime that serves what a LiteLLM Router serves. What has no counterpart is named in one warning.

        Args:
            router: A ``litellm.Router``. It is read once and not changed.
            **options: Those of `MultiProviderFallback` itself, but for ``config``.
        """
        from resilience.settings.adoption.router import arguments_of  # noqa: PLC0415 (only who adopts needs it)

        model_list, fallbacks, said = arguments_of(router)
        return cls(Settings.from_model_list(model_list, fallbacks, **said), **options)

    # -- calls ----------------------------------------------------------------------------------------------

    async def acompletion(
        self, model: str | None = None, messages: list[Any] | None = None, *, stream: bool = False, **params: Any
    ) -> Any:
        """Ask for a chat completion.

        Args:
            model: A route's name, or a model string that LiteLLM knows; None for the default route.
            messages: As LiteLLM takes them.
            stream: Whether the answer comes in chunks.
            **params: LiteLLM's parameters; they win over a target's. ``timeout`` (seconds) caps the attempts and is
                the deadline, ``num_retries`` replaces the route's, ``priority`` (lower is served first) orders
                those who wait, ``validate`` takes a text and says whether it will do. ``fallbacks`` are asked after
                the route, ``mock_testing_fallbacks=True`` takes the route's first targets (with ``fallbacks``: all
                of them) as failed; both as a LiteLLM Router's user writes them.

        Returns:
            ``litellm.ModelResponse``, or an async iterator of its chunks. `resilience.attempts` reads what is
            behind either.

        Raises:
            RouteExhaustedError: No target of the route answered.
            DeadlineExceededError: The time ran out during an attempt.
            RejectedError: A single model string whose breaker is open.
            ConfigurationError: ``model`` is neither a route nor a model, an argument is of the wrong kind, or the
                runtime is closed.
            Exception: The provider's own error, unchanged, where another target could not do better.
        """
        route, rest, call = self._prepare(model, chat_params(messages, params), stream=stream)
        return await self._engine.arun(route, _COMPLETION, rest, call)

    def completion(
        self, model: str | None = None, messages: list[Any] | None = None, *, stream: bool = False, **params: Any
    ) -> Any:
        """The same as `acompletion` in a thread."""
        route, rest, call = self._prepare(model, chat_params(messages, params), stream=stream)
        return self._engine.run(route, _COMPLETION, rest, call)

    async def aembedding(self, model: str | None = None, input: Any = None, **params: Any) -> Any:  # noqa: A002 (LiteLLM's name)
        """Ask for embeddings. Only targets of the first one's model and dimensions are used: vectors do not mix.

        Args:
            model: A route's name or a model string.
            input: A text or a list of texts.
            **params: As in `acompletion`.

        Returns:
            ``litellm.EmbeddingResponse``.
        """
        route, rest, call = self._prepare_embedding(model, input, params)
        return await self._engine.arun(route, _EMBEDDING, rest, call)

    def embedding(self, model: str | None = None, input: Any = None, **params: Any) -> Any:  # noqa: A002 (LiteLLM's name)
        """The same as `aembedding` in a thread."""
        route, rest, call = self._prepare_embedding(model, input, params)
        return self._engine.run(route, _EMBEDDING, rest, call)

    async def aresponses(
        self,
        model: str | None = None,
        input: Any = None,  # noqa: A002 (LiteLLM's name)
        *,
        stream: bool = False,
        **params: Any,
    ) -> Any:
        """Ask the Responses API. A call with ``previous_response_id`` stays on the target that gave that answer.

        Args:
            model: A route's name or a model string.
            input: A text or a list of items.
            stream: Whether the answer comes as events.
            **params: As in `acompletion`.

        Returns:
            ``litellm``'s ResponsesAPIResponse, or an async iterator of its events.
        """
        route, rest, call = self._prepare(model, input_params(input, params), stream=stream)
        answer = await self._engine.arun(self._home(route, rest), _RESPONSES, rest, call)
        self._homes.remember(answer)
        return answer

    def responses(self, model: str | None = None, input: Any = None, *, stream: bool = False, **params: Any) -> Any:  # noqa: A002
        """The same as `aresponses` in a thread."""
        route, rest, call = self._prepare(model, input_params(input, params), stream=stream)
        answer = self._engine.run(self._home(route, rest), _RESPONSES, rest, call)
        self._homes.remember(answer)
        return answer

    async def arun_function(
        self, called: CalledFunction, route: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Serve one call of a function that `resilience.failover` decorated."""
        found, params, call = self._prepare_function(called, route, args, kwargs)
        return await self._observed.engine(self._functions).arun(found, _COMPLETION, params, call)

    def run_function(self, called: CalledFunction, route: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The same in a thread."""
        found, params, call = self._prepare_function(called, route, args, kwargs)
        return self._observed.engine(self._functions).run(found, _COMPLETION, params, call)

    async def process(self, request: AIRequest, **params: Any) -> AIResponse:
        """Serve one `AIRequest`. Never raises for a provider's failure: the response's status tells.

        Args:
            request: What to ask.
            **params: LiteLLM's parameters.
        """
        return await serve(self, request, params)

    def process_sync(self, request: AIRequest, **params: Any) -> AIResponse:
        """The same as `process` in a thread."""
        return serve_sync(self, request, params)

    def text_of(self, answer: Any) -> str:
        """The text of an answer of LiteLLM's."""
        return self._upstream.text_of(answer)

    def snapshot(self) -> Snapshot:
        """A frozen reading of every breaker and route."""
        return self.registry.snapshot()

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Let an observer hear every event and follow every request: metrics, tracing, the ops app.

        Args:
            observer: Such as `resilience.telemetry.metrics.Metrics` or `resilience.telemetry.tracing.Tracing`.

        Returns:
            A function that ends it; calling it again does nothing. Of an observer that follows already, it is
            whoever came first that ends it.
        """
        if not self._observed.add(observer):
            return lambda: None
        unsubscribe = self.registry.subscribe(observer.hear)
        if self.registry.storage_trouble is not None:  # told before this one came
            observer.hear(StorageDegraded(self.registry.storage_trouble))

        def end() -> None:
            unsubscribe()
            self._observed.remove(observer)

        return end

    # -- life -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more calls. Calls in flight end as they would have. Closing twice is no harm."""
        self._closed = True
        if self._share is not None:
            self._share.close()

    async def aclose(self) -> None:
        """The same as `close`, for ``async with``."""
        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def renew_after_fork(self) -> None:
        """In a forked child: fresh locks. The engines and the registry see to their own."""
        self._lock = threading.Lock()
        self._table.renew_after_fork()
        self._homes.renew_after_fork()

    # -- the parts ------------------------------------------------------------------------------------------

    @property
    def _upstream(self) -> Upstream:
        # Made at the first call: a runtime that only guards functions never loads LiteLLM.
        with self._lock:
            if self._calls is None:
                self._calls = _litellm()
            return self._calls

    @property
    def _engine(self) -> Engine:
        engine = self._made_engine
        if engine is None:
            upstream = self._observed.relay(self._upstream)
            engine = Engine(upstream, self.registry, clock=self._clock, rng=self._rng)
            with self._lock:
                self._made_engine = engine = self._made_engine or engine
        return self._observed.engine(engine) if self._observed.observers else engine

    def _prepare(
        self, model: str | None, params: dict[str, Any], *, stream: bool = False
    ) -> tuple[Route, dict[str, Any], CallOptions]:
        self._check_open()
        if _SPECIAL.isdisjoint(params) and isinstance(model, str):
            route = self._table.routes.get(model)
            if route is not None:
                return route, params, self._streamed if stream else self._plain
        call = take_options(params, stream=stream, validate=self._validate)
        fallbacks, is_mock = params.pop("fallbacks", None), params.pop("mock_testing_fallbacks", None)
        route, rest = self._table.find(model, params)
        if fallbacks or is_mock is True:
            left = self._table.following(route, model, fallbacks, is_mock=is_mock is True)
            if left is None:
                from resilience.middleware.translation import mock_failure  # noqa: PLC0415 (loads LiteLLM)

                raise mock_failure(model)
            route = left
        return route, rest, call

    def _prepare_embedding(
        self, model: str | None, asked: Any, params: dict[str, Any]
    ) -> tuple[Route, dict[str, Any], CallOptions]:
        route, rest, call = self._prepare(model, input_params(asked, params))
        return self._table.embedding(route), rest, replace(call, validate=None)  # it judges texts

    def _prepare_function(
        self, called: CalledFunction, route: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Route, dict[str, Any], CallOptions]:
        self._check_open()
        found, _ = self._table.find(called.chosen_model(args, kwargs) or route, {})
        # Arguments that do not fit are the caller's TypeError, and no target's failure.
        called.arguments(found.targets[0].target, args, kwargs)
        return found, {"called": called, "args": args, "kwargs": kwargs}, CallOptions(stream=called.is_stream)

    def _joined_fleet(self, rng: random.Random | None) -> Share | None:
        if self.settings.storage is None:
            return None
        from resilience.storage.share import Share  # noqa: PLC0415 (only a fleet loads it)

        share = Share(self.settings.storage, self.registry.publish, rng=rng)
        self.registry.share(share.join)
        # Whoever drops a runtime unclosed leaves no thread behind. The collector must not wait for it.
        weakref.finalize(self, share.close, wait=False)
        return share

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigurationError("this MultiProviderFallback is closed; make a new one to go on")

    def _home(self, route: Route, params: Mapping[str, Any]) -> Route:
        home = self._homes.find(route, params)
        return route if home is None else self._table.pinned(route, home)


def _classify(error: BaseException) -> Outcome:
    from resilience.middleware.classify import classify  # noqa: PLC0415 (nothing fails: nothing is loaded)

    return classify(error)


def _make_target(model: str, params: Mapping[str, Any], **options: Any) -> Target:
    from resilience.middleware.targets import build_target  # noqa: PLC0415 (loads LiteLLM)

    return build_target(model, params, **options)


def _litellm() -> Upstream:
    from resilience.middleware.marked import MarkedUpstream  # noqa: PLC0415 (loads LiteLLM)

    return MarkedUpstream()


def _warm(targets: Iterable[Target]) -> None:
    from resilience.middleware.warm import warm  # noqa: PLC0415 (loads LiteLLM)

    warm(targets)
