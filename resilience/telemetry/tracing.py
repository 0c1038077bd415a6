"""Traces for OpenTelemetry: a span per request and per attempt, circuits as span events and as metrics."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from resilience.errors import ConfigurationError
from resilience.events import (
    AttemptFailed,
    AttemptIgnored,
    AttemptSucceeded,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitIsolated,
    CircuitOpened,
    FallbackTaken,
    StreamInterrupted,
    TargetOverdue,
)
from resilience.telemetry.genai import OPERATIONS, SCHEMA, asked, model_of, told
from resilience.upstream import attempts

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode
except ImportError as error:
    raise ConfigurationError("tracing needs the extra: pip install 'litellm-resilience[otel]'") from error

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from resilience.events import Event
    from resilience.upstream import AsyncStream, CallTimeouts, Operation, SyncStream, Target, Upstream

_STATES: Final = ("closed", "open", "half-open", "isolated")
_ENDS: Final = (AttemptSucceeded, AttemptFailed, AttemptIgnored)
# The request that is recorded in this task or thread.
_CURRENT: ContextVar[_Request | None] = ContextVar("resilience_traced", default=None)


class Tracing:
    """Follows requests as spans: ``runtime.observe(Tracing())``.

    A span ``resilience ROUTE`` per request, under it one per attempt as the GenAI conventions name it
    (``chat gpt-4o-mini``). Attempts of a request that is not recorded cost next to nothing.

    Args:
        tracer_provider: Default: the global one.
        meter_provider: Default: the global one.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer = trace.get_tracer("resilience", tracer_provider=tracer_provider, schema_url=SCHEMA)
        meter = metrics.get_meter("resilience", meter_provider=meter_provider, schema_url=SCHEMA)
        self._opens = meter.create_counter("resilience.circuit.opens", description="Openings by failure kind")
        self._state = meter.create_gauge("resilience.circuit.state", description="1 where the circuit stands")
        self._fallbacks = meter.create_counter("resilience.fallbacks", description="Requests that moved on")
        self._steps: dict[type[Event], Callable[[Any], None]] = {
            **dict.fromkeys(_ENDS, _attempt_ended),
            CircuitOpened: self._opened,
            CircuitHalfOpened: lambda event: self._stands(event, "half-open", "circuit.half_opened"),
            CircuitClosed: lambda event: self._stands(event, "closed", "circuit.closed"),
            CircuitIsolated: lambda event: self._stands(event, "isolated", "circuit.isolated"),
            FallbackTaken: self._moved,
            TargetOverdue: lambda event: _note("target.overdue", target=event.target, in_flight=event.in_flight),
            StreamInterrupted: lambda event: _note("stream.interrupted", target=event.target, kind=event.kind.value),
        }

    def hear(self, event: Event) -> None:
        """The sink."""
        step = self._steps.get(type(event))
        if step is not None:
            step(event)

    def began(
        self, route: Any, operation: Operation, params: Mapping[str, Any], call: Any
    ) -> _Request | _Unrecorded | None:
        """Follow one request."""
        del params
        name = route.name or model_of(route.targets[0].target)
        span = self._tracer.start_span(f"resilience {name}", kind=SpanKind.INTERNAL)
        if not span.is_recording():
            # Sampled out: what lies below must not start traces of its own. No SDK: there is nothing to tell.
            return _Unrecorded(span) if span.get_span_context().is_valid else None
        span.set_attribute("resilience.route", name)
        span.set_attribute("gen_ai.operation.name", OPERATIONS[operation])
        return _Request(span, self._tracer, stream=bool(call.stream))

    def upstream(self, upstream: Upstream) -> Upstream:
        """Attempts get spans of their own."""
        return _TracedUpstream(upstream)  # type: ignore[return-value]  # the rest is the upstream's own

    # -- events ---------------------------------------------------------------------------------------------

    def _opened(self, event: CircuitOpened) -> None:
        kind = event.kind.value if event.kind is not None else event.reason
        self._opens.add(1, {"breaker": event.breaker, "kind": kind})
        self._stands(event, "open", "circuit.opened", kind=kind, reason=event.reason, open_seconds=event.open_seconds)

    def _stands(self, event: Any, state: str, name: str, **more: Any) -> None:
        for other in _STATES:
            self._state.set(int(other == state), {"breaker": event.breaker, "state": other})
        _note(name, breaker=event.breaker, provider=event.provider or "", **more)

    def _moved(self, event: FallbackTaken) -> None:
        to = {"route": event.route or "none", "from": event.from_target, "to": event.to_target}
        self._fallbacks.add(1, to)
        _note("fallback.taken", **to, kind=event.kind.value if event.kind is not None else "")


class _Request:
    """One recorded request and its attempts."""

    __slots__ = ("_attempts", "_last", "_span", "_stream", "_tracer")

    def __init__(self, span: Span, tracer: trace.Tracer, *, stream: bool) -> None:
        self._span = span
        self._tracer = tracer
        self._stream = stream
        self._attempts: dict[str, Span] = {}
        self._last: Span | None = None

    def enter(self) -> Any:
        now = next(iter(self._attempts.values()), self._span)
        return context.attach(trace.set_span_in_context(now)), _CURRENT.set(self)

    def leave(self, token: Any) -> None:
        _CURRENT.reset(token[1])
        context.detach(token[0])

    def chunk(self, chunk: Any) -> None:
        if self._last is not None and self._last.is_recording():
            self._last.set_attributes(told(chunk))

    def attempt(self, target: Target, operation: Operation, params: Mapping[str, Any], *, stream: bool) -> Span:
        """An attempt starts."""
        name = f"{OPERATIONS[operation]} {model_of(target)}"
        span = self._tracer.start_span(
            name,
            context=trace.set_span_in_context(self._span),
            kind=SpanKind.CLIENT,
            attributes=asked(target, operation, params, stream=stream),
        )
        self._attempts[target.name] = self._last = span
        return span

    def attempt_ended(self, event: AttemptSucceeded | AttemptFailed | AttemptIgnored) -> None:
        """The engine says what came of it."""
        span = self._attempts.pop(event.target, None)
        if span is None:
            return
        span.set_attribute("resilience.attempt.number", event.number)
        if event.stream:
            span.set_attribute("gen_ai.response.time_to_first_chunk", event.latency_seconds)
        if isinstance(event, AttemptSucceeded):
            span.set_attribute("resilience.attempt.kind", "success")
        else:
            span.set_attribute("resilience.attempt.kind", event.kind.value)
            if event.status is not None:
                span.set_attribute("http.response.status_code", event.status)
            if event.kind.value != "cancelled":
                span.set_attribute("error.type", event.error_type or event.kind.value)
                span.set_status(Status(StatusCode.ERROR, event.kind.value))
        span.end()

    def ended(self, answer: Any, error: BaseException | None) -> None:
        for left in self._attempts.values():
            left.end()
        self._attempts.clear()
        span = self._span
        behind = attempts(answer if error is None else error)
        span.set_attribute("resilience.attempts", len(behind))
        if error is None:
            if behind:
                span.set_attribute("resilience.target", behind[-1].target)
                if behind[-1].cost_usd is not None:
                    span.set_attribute("resilience.cost_usd", behind[-1].cost_usd)
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            span.set_attribute("resilience.cancelled", True)  # noqa: FBT003 (its signature)
        else:
            # The type alone: a message may hold what was asked.
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        span.end()


class _Unrecorded:
    """A request that was sampled out."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    def enter(self) -> Any:
        return context.attach(trace.set_span_in_context(self._span))

    def leave(self, token: Any) -> None:
        context.detach(token)

    def chunk(self, chunk: Any) -> None:
        """Nobody listens."""

    def ended(self, answer: Any, error: BaseException | None) -> None:
        """Nobody listens."""


class _TracedUpstream:
    """An upstream whose attempts are spans. The span ends when the engine says what came of the attempt."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        for name in dir(upstream):
            if not name.startswith("_") and name not in {"call", "acall", "open", "aopen"}:
                setattr(self, name, getattr(upstream, name))

    def call(self, target: Target, operation: Operation, params: Mapping[str, Any], timeouts: CallTimeouts) -> Any:
        request = _CURRENT.get()
        if request is None:
            return self._upstream.call(target, operation, params, timeouts)
        with _Under(request.attempt(target, operation, params, stream=False)) as span:
            answer = self._upstream.call(target, operation, params, timeouts)
        span.set_attributes(told(answer))
        return answer

    def acall(
        self, target: Target, operation: Operation, params: Mapping[str, Any], timeouts: CallTimeouts
    ) -> Coroutine[Any, Any, Any]:
        request = _CURRENT.get()
        if request is None:
            return self._upstream.acall(target, operation, params, timeouts)
        return self._acall(request, target, operation, params, timeouts)

    async def _acall(
        self, request: _Request, target: Target, operation: Operation, params: Mapping[str, Any], timeouts: CallTimeouts
    ) -> Any:
        with _Under(request.attempt(target, operation, params, stream=False)) as span:
            answer = await self._upstream.acall(target, operation, params, timeouts)
        span.set_attributes(told(answer))
        return answer

    def open(
        self, target: Target, operation: Operation, params: Mapping[str, Any], timeouts: CallTimeouts
    ) -> SyncStream:
        request = _CURRENT.get()
        if request is None:
            return self._upstream.open(target, operation, params, timeouts)
        with _Under(request.attempt(target, operation, params, stream=True)):
            return self._upstream.open(target, operation, params, timeouts)

    def aopen(
        self, target: Target, operation: Operation, params: Mapping[str, Any], timeouts: CallTimeouts
    ) -> Coroutine[Any, Any, AsyncStream]:
        request = _CURRENT.get()
        if request is None:
            return self._upstream.aopen(target, operation, params, timeouts)
        return self._aopen(request, target, operation, params, timeouts)

    async def _aopen(
        self, request: _Request, target: Target, operation: Operation, params: Mapping[str, Any], timeouts: CallTimeouts
    ) -> AsyncStream:
        with _Under(request.attempt(target, operation, params, stream=True)):
            return await self._upstream.aopen(target, operation, params, timeouts)


class _Under:
    """Makes a span the current one. Unlike OpenTelemetry's own it records no exception: its text may hold a prompt."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> Span:
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self._span

    def __exit__(self, *_: object) -> None:
        context.detach(self._token)


def _attempt_ended(event: AttemptSucceeded | AttemptFailed | AttemptIgnored) -> None:
    request = _CURRENT.get()
    if request is not None:
        request.attempt_ended(event)


def _note(name: str, **attributes: Any) -> None:
    """A span event on whatever span is the current one, ours or the user's."""
    span = trace.get_current_span()
    if span.is_recording():
        span.add_event(f"resilience.{name}", attributes)
