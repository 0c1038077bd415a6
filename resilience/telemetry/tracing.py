"""Traces for OpenTelemetry: a span per request and per attempt, circuits as span events and as metrics."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from functools import partial
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
    from resilience.upstream import CallTimeouts, Operation, Target, Upstream

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
        # The global provider may come later, once.
        self._waits = tracer_provider is None and not _is_there()
        self._records = not self._waits and not isinstance(self._tracer, trace.NoOpTracer)
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
        """Follow one request, where there is an SDK.

        Without one there is nothing to record, and nothing to hand on: what was current stays current.
        """
        del params
        if not self._records:
            if not self._waits or not _is_there():
                return None
            self._waits, self._records = False, True
        name = route.name or model_of(route.targets[0].target)
        span = self._tracer.start_span(f"resilience {name}", kind=SpanKind.INTERNAL)
        if not span.is_recording():
            # Sampled out: what lies below must not start traces of its own.
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
        for name in dir(upstream):
            if not name.startswith("_"):
                setattr(self, name, getattr(upstream, name))
        self.call = partial(_sent, upstream.call, stream=False)
        self.open = partial(_sent, upstream.open, stream=True)
        self.acall = partial(_asent, upstream.acall, stream=False)
        self.aopen = partial(_asent, upstream.aopen, stream=True)


def _sent(
    send: Callable[..., Any],
    target: Target,
    operation: Operation,
    params: Mapping[str, Any],
    timeouts: CallTimeouts,
    *,
    stream: bool,
) -> Any:
    """Make one attempt, under a span where its request has one."""
    request = _CURRENT.get()
    if request is None:
        return send(target, operation, params, timeouts)
    with _Under(request.attempt(target, operation, params, stream=stream)) as span:
        answer = send(target, operation, params, timeouts)
    if not stream:
        span.set_attributes(told(answer))
    return answer


def _asent(
    send: Callable[..., Coroutine[Any, Any, Any]],
    target: Target,
    operation: Operation,
    params: Mapping[str, Any],
    timeouts: CallTimeouts,
    *,
    stream: bool,
) -> Coroutine[Any, Any, Any]:
    """The same for asyncio."""
    request = _CURRENT.get()
    sending = send(target, operation, params, timeouts)
    return sending if request is None else _traced(request, sending, target, operation, params, stream=stream)


async def _traced(
    request: _Request,
    sending: Coroutine[Any, Any, Any],
    target: Target,
    operation: Operation,
    params: Mapping[str, Any],
    *,
    stream: bool,
) -> Any:
    with _Under(request.attempt(target, operation, params, stream=stream)) as span:
        answer = await sending
    if not stream:
        span.set_attributes(told(answer))
    return answer


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


def _is_there() -> bool:
    """Whether there is a global tracer provider."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def _attempt_ended(event: AttemptSucceeded | AttemptFailed | AttemptIgnored) -> None:
    request = _CURRENT.get()
    if request is not None:
        request.attempt_ended(event)


def _note(name: str, **attributes: Any) -> None:
    """A span event on whatever span is the current one, ours or the user's."""
    span = trace.get_current_span()
    if span.is_recording():
        span.add_event(f"resilience.{name}", attributes)
