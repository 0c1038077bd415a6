"""Traffic: what users felt in the last minute, by route, and what each target did. An observer of the runtime."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Final

from resilience.clock import SYSTEM_CLOCK
from resilience.events import AttemptFailed, AttemptSucceeded, CircuitOpened
from resilience.fork import renew_in_children

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilience.clock import Clock
    from resilience.events import Event
    from resilience.upstream import Operation, Upstream

SECONDS: Final = 60
# Enough for a p95; more would only cost.
_LATENCIES: Final = 400
# Callers choose models: the quietest are forgotten.
_NAMES: Final = 500


class Minute:
    """Counts and latencies of the last sixty seconds."""

    __slots__ = ("_buckets", "_latencies", "active")

    def __init__(self) -> None:
        self.active = 0
        self._buckets: deque[list[int]] = deque(maxlen=SECONDS)
        self._latencies: deque[tuple[float, float]] = deque(maxlen=_LATENCIES)

    def add(self, now: float, *, failed: bool, latency: float | None) -> None:
        """Count one."""
        second = int(now)
        if not self._buckets or self._buckets[-1][0] != second:
            self._buckets.append([second, 0, 0])
        self._buckets[-1][2 if failed else 1] += 1
        if latency is not None:
            self._latencies.append((now, latency))

    def read(self, now: float) -> dict[str, Any]:
        """The numbers of the minute that ends now."""
        oldest = int(now) - SECONDS + 1
        fresh = [bucket for bucket in self._buckets if bucket[0] >= oldest]
        latencies = sorted(latency for at, latency in self._latencies if at >= now - SECONDS)
        completed, failed = sum(bucket[1] for bucket in fresh), sum(bucket[2] for bucket in fresh)
        recent = sum(bucket[1] + bucket[2] for bucket in fresh if bucket[0] >= int(now) - 5 and bucket[0] != int(now))
        return {
            "completed": completed,
            "failed": failed,
            "active": self.active,
            "per_second": round(recent / 5, 1),
            "p50_ms": _quantile(latencies, 0.5),
            "p95_ms": _quantile(latencies, 0.95),
        }


class Traffic:
    """The last minute of a runtime.

    Args:
        clock: Where time comes from.
        names: The routes of the settings; whatever else is asked for is counted as ``other``.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK, names: tuple[str, ...] = ()) -> None:
        self._monotonic = clock.monotonic
        self._names = frozenset(names)
        self._lock = threading.Lock()
        self._routes: dict[str, Minute] = {}
        self._targets: OrderedDict[str, Minute] = OrderedDict()
        self._openings: OrderedDict[str, CircuitOpened] = OrderedDict()
        renew_in_children(self)

    def hear(self, event: Event) -> None:
        """The sink."""
        if isinstance(event, AttemptSucceeded):
            self._attempt(event.target, event.latency_seconds, failed=False)
        elif isinstance(event, AttemptFailed):
            self._attempt(event.target, None, failed=True)
        elif isinstance(event, CircuitOpened):
            with self._lock:
                _remember(self._openings, event.breaker, lambda: event)
                self._openings[event.breaker] = event

    def began(self, route: Any, operation: Operation, params: Mapping[str, Any], call: Any) -> _Request:
        """Follow one request."""
        del operation, params, call
        return _Request(self, route.name if route.name in self._names else "other", self._monotonic())

    def upstream(self, upstream: Upstream) -> Upstream:
        """Nothing comes between."""
        return upstream

    def routes(self) -> dict[str, dict[str, Any]]:
        """What users felt, by route."""
        return self._read(self._routes)

    def targets(self) -> dict[str, dict[str, Any]]:
        """What targets did."""
        return self._read(self._targets)

    def opening(self, breaker: str) -> CircuitOpened | None:
        """The last opening of a breaker."""
        return self._openings.get(breaker)

    def renew_after_fork(self) -> None:
        """In a forked child: a fresh lock."""
        self._lock = threading.Lock()

    def _read(self, minutes: Mapping[str, Minute]) -> dict[str, dict[str, Any]]:
        with self._lock:
            now = self._monotonic()
            return {name: minute.read(now) for name, minute in minutes.items()}

    def _attempt(self, target: str, latency: float | None, *, failed: bool) -> None:
        with self._lock:
            _remember(self._targets, target, Minute).add(self._monotonic(), failed=failed, latency=latency)

    def started(self, name: str) -> None:
        """A request of a route is on its way."""
        with self._lock:
            minute = self._routes.get(name)
            if minute is None:
                minute = self._routes[name] = Minute()
            minute.active += 1

    def ended(self, name: str, seconds: float, error: BaseException | None) -> None:
        """It is over; a caller who left says nothing."""
        with self._lock:
            minute = self._routes[name]
            minute.active -= 1
            if not isinstance(error, asyncio.CancelledError | GeneratorExit):
                failed = error is not None
                minute.add(self._monotonic(), failed=failed, latency=None if failed else seconds)


class _Request:
    """One request on its way."""

    __slots__ = ("_name", "_started", "_traffic")

    def __init__(self, traffic: Traffic, name: str, started: float) -> None:
        self._traffic = traffic
        self._name = name
        self._started = started
        traffic.started(name)

    def enter(self) -> None:
        """Nothing to prepare."""

    def leave(self, token: None) -> None:
        """Nothing to undo."""

    def chunk(self, chunk: Any) -> None:
        """A stream goes on."""

    def ended(self, answer: Any, error: BaseException | None) -> None:
        """It is over."""
        del answer
        traffic = self._traffic
        traffic.ended(self._name, traffic._monotonic() - self._started, error)  # noqa: SLF001 (its other half)


def _remember(kept: OrderedDict[str, Any], name: str, make: Callable[[], Any]) -> Any:
    value = kept.get(name)
    if value is None:
        value = kept[name] = make()
        if len(kept) > _NAMES:
            kept.popitem(last=False)
    else:
        kept.move_to_end(name)
    return value


def _quantile(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 1)
