"""Metrics for Prometheus: what users felt, what each target did, and where each circuit stands."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Final

from resilience.clock import SYSTEM_CLOCK
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
    StorageDegraded,
    StorageRestored,
)
from resilience.telemetry.counting import COUNTED, OTHER, UNNAMED, Labels, RequestCount
from resilience.telemetry.usage import Usage, usage_of
from resilience.upstream import attempts

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector
except ImportError as error:
    raise ConfigurationError("metrics need the extra: pip install 'litellm-resilience[prometheus]'") from error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilience.clock import Clock
    from resilience.events import Event
    from resilience.snapshots import Snapshot
    from resilience.upstream import Operation, Upstream

# An LLM's answer takes a quarter of a second to five minutes; below that only refusals are found.
DURATION_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
FIRST_TOKEN_BUCKETS: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 60)
STATES: Final = ("closed", "open", "half-open", "isolated")
# Distinct values that one label may have; the rest is `other`. Callers choose models and keys, not we.
MAX_VALUES: Final = 200

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of one or more runtimes.

    ``runtime.observe(metrics)`` fills everything; as a plain sink, ``registry.subscribe(metrics.hear)``, it fills
    what events tell: circuits, attempts, fallbacks, first tokens.

    Args:
        registry: Where to register. Default: the client's own, which every exporter shows.
        clock: Where time comes from.
        max_values: Distinct values of one label; the rest is counted as ``other``.
    """

    def __init__(
        self, registry: CollectorRegistry | None = None, *, clock: Clock = SYSTEM_CLOCK, max_values: int = MAX_VALUES
    ) -> None:
        self.registry = place = registry if registry is not None else REGISTRY
        self.monotonic = clock.monotonic
        self._cost_usd: Callable[[Any], float | None] = lambda _: None
        self._models = Labels(max_values)
        self._breakers = Labels(max_values)
        self._targets = Labels(max_values)
        self._routes = Labels(max_values)
        self.requests = Counter(
            "ai_requests_total",
            "Requests by what was asked and how they ended",
            ["model", "status"],
            registry=place,
        )
        self.duration = Histogram(
            "ai_request_duration_seconds", "Whole requests, retries included", buckets=DURATION_BUCKETS, registry=place
        )
        self.active = Gauge("ai_active_requests", "Requests now", multiprocess_mode="livesum", registry=place)
        # livesum: over several processes it says in how many of them the circuit stands there.
        self.state = Gauge(
            "resilience_circuit_state",
            "1 where the circuit stands, 0 elsewhere",
            ["breaker", "state"],
            multiprocess_mode="livesum",
            registry=place,
        )
        self.opens = Counter(
            "resilience_circuit_opens_total", "Openings by failure kind", ["breaker", "kind"], registry=place
        )
        self.attempts = Counter(
            "resilience_attempts_total", "Attempts by what came of them", ["target", "kind"], registry=place
        )
        self.fallbacks = Counter(
            "resilience_fallbacks_total", "Requests that moved on", ["route", "from", "to"], registry=place
        )
        self.first_token = Histogram(
            "resilience_first_token_seconds",
            "Time to a stream's first content",
            ["target"],
            buckets=FIRST_TOKEN_BUCKETS,
            registry=place,
        )
        self.tokens = Counter("resilience_tokens_total", "Tokens of answers", ["target", "type"], registry=place)
        self.cost = Counter("resilience_cost_usd_total", "Cost by LiteLLM's price map", ["target"], registry=place)
        self.fleet_degraded = Gauge(
            "resilience_fleet_degraded",
            "1 while the fleet's store is out of reach",
            multiprocess_mode="livemax",
            registry=place,
        )
        # Finding a child by its labels costs a microsecond; a dict costs a tenth of it.
        self._attempt_children: dict[tuple[str, str], Any] = {}
        self._first_children: dict[str, Any] = {}
        self._request_children: dict[tuple[str, str], Any] = {}
        self._meters: dict[str, tuple[Any, Any, Any]] = {}
        self._steps: dict[type[Event], Callable[[Any], None]] = {
            AttemptSucceeded: self._succeeded,
            AttemptFailed: self._attempt,
            AttemptIgnored: self._attempt,
            FallbackTaken: self._moved,
            CircuitOpened: self._opened,
            CircuitHalfOpened: lambda event: self._stands(event.breaker, "half-open"),
            CircuitClosed: lambda event: self._stands(event.breaker, "closed"),
            CircuitIsolated: lambda event: self._stands(event.breaker, "isolated"),
            StorageDegraded: lambda _: self.fleet_degraded.set(1),
            StorageRestored: lambda _: self.fleet_degraded.set(0),
        }

    # -- the observer ---------------------------------------------------------------------------------------

    def hear(self, event: Event) -> None:
        """The sink."""
        step = self._steps.get(type(event))
        if step is not None:
            step(event)

    def began(self, route: Any, operation: Operation, params: Mapping[str, Any], call: Any) -> _Watch:
        """Follow one request: what its user felt, its tokens, and what it cost."""
        del operation, params, call
        asked = route.name or (route.targets[0].target.model if route.targets else UNNAMED)
        return _Watch(self, None if COUNTED.get() else self.count(asked))

    def upstream(self, upstream: Upstream) -> Upstream:
        """Attempts are told by events: nothing comes between. Who knows prices is remembered, for streams."""
        self._cost_usd = upstream.cost_usd
        return upstream

    # -- what others feed -----------------------------------------------------------------------------------

    def count(self, model: str) -> RequestCount:
        """A request begins; its ``ended(status)`` counts it, once."""
        return RequestCount(self, self._models.of(model))

    def used(self, target: str, usage: Usage, cost_usd: float | None) -> None:
        """Tokens and cost of one answer."""
        name = self._targets.of(target)
        meters = self._meters.get(name)
        if meters is None:
            meters = self._meters[name] = (
                self.tokens.labels(name, "input"),
                self.tokens.labels(name, "output"),
                self.cost.labels(name),
            )
        taken, given, cost = meters
        taken.inc(usage.input_tokens)
        given.inc(usage.output_tokens)
        if cost_usd:
            cost.inc(cost_usd)

    def finished(self, model: str, status: str, seconds: float) -> None:
        """One request is over; ``model`` is a label that `count` chose."""
        child = self._request_children.get((model, status))
        if child is None:
            child = self._request_children[model, status] = self.requests.labels(model, status)
        child.inc()
        self.duration.observe(seconds)
        self.active.dec()

    def price(self, chunk: Any) -> float | None:
        """What a stream's last chunk says that it cost, None where nobody knows."""
        return self._cost_usd(chunk)

    def refresh(self, snapshot: Snapshot) -> None:
        """Set the states as they are: an open time that is over tells nobody until somebody asks."""
        for breakers in (snapshot.targets, snapshot.providers):
            for breaker in breakers.values():
                self._stands(breaker.name, breaker.state)

    def text(self) -> bytes:
        """Everything in the text format; with ``PROMETHEUS_MULTIPROC_DIR`` over all processes."""
        registry = self.registry
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the client's own gap
        return generate_latest(registry)

    # -- events ---------------------------------------------------------------------------------------------

    def _succeeded(self, event: AttemptSucceeded) -> None:
        self._attempt_child(event.target, "success").inc()
        if event.stream:
            child = self._first_children.get(event.target)
            if child is None:
                name = self._targets.of(event.target)
                child = self.first_token.labels(name)
                if name != OTHER:
                    self._first_children[event.target] = child
            child.observe(event.latency_seconds)

    def _attempt(self, event: AttemptFailed | AttemptIgnored) -> None:
        self._attempt_child(event.target, event.kind.value).inc()

    def _attempt_child(self, target: str, kind: str) -> Any:
        child = self._attempt_children.get((target, kind))
        if child is None:
            name = self._targets.of(target)
            child = self.attempts.labels(name, kind)
            if name != OTHER:
                self._attempt_children[target, kind] = child
        return child

    def _moved(self, event: FallbackTaken) -> None:
        route = UNNAMED if event.route is None else event.route
        names = self._targets.of(event.from_target), self._targets.of(event.to_target)
        self.fallbacks.labels(self._routes.of(route), *names).inc()

    def _opened(self, event: CircuitOpened) -> None:
        kind = event.kind.value if event.kind is not None else event.reason
        self.opens.labels(self._breakers.of(event.breaker), kind).inc()
        self._stands(event.breaker, "open")

    def _stands(self, breaker: str, state: str) -> None:
        name = self._breakers.of(breaker)
        if name != OTHER:  # many breakers in one line stand nowhere
            for other in STATES:
                self.state.labels(name, other).set(other == state)


class _Watch:
    """One request of a runtime."""

    __slots__ = ("_count", "_metrics", "_usage")

    def __init__(self, metrics: Metrics, count: RequestCount | None) -> None:
        self._metrics = metrics
        self._count = count
        self._usage: tuple[Any, Usage] | None = None

    def enter(self) -> Any:
        return COUNTED.set(True)

    def leave(self, token: Any) -> None:
        COUNTED.reset(token)

    def chunk(self, chunk: Any) -> None:
        usage = usage_of(chunk)
        if usage is not None:
            self._usage = chunk, usage

    def ended(self, answer: Any, error: BaseException | None) -> None:
        if self._count is not None:
            self._count.ended(error)
        if error is not None:
            return
        behind = attempts(answer)
        if not behind:
            return
        target, cost = behind[-1].target, behind[-1].cost_usd
        if self._usage is None:
            usage = usage_of(answer)
        else:  # a stream tells its tokens in its last chunk, and what it cost follows from them
            chunk, usage = self._usage
            cost = self._metrics.price(chunk) if cost is None else cost
        if usage is not None:
            self._metrics.used(target, usage, cost)


_DEFAULT: Final[list[Metrics]] = []
_LOCK: Final = threading.Lock()


def default_metrics() -> Metrics:
    """The metrics in the client's own registry, made at the first use. A name can be registered only once there."""
    with _LOCK:
        if not _DEFAULT:
            _DEFAULT.append(Metrics())
        return _DEFAULT[0]
