"""Counting requests: each is counted once, and no label grows without bound."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from resilience.fork import renew_in_children

if TYPE_CHECKING:
    from resilience.telemetry.metrics import Metrics

OTHER: Final = "other"
UNNAMED: Final = "none"
LONGEST: Final = 120
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"

# A monitored function around a call of an observed runtime is one request, not two.
COUNTED: ContextVar[bool] = ContextVar("resilience_counted", default=False)


class Labels:
    """The values that a label may have: the first so many that came, then ``other``."""

    __slots__ = ("__weakref__", "_lock", "_most", "_seen")

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: dict[str, str] = {}
        self._lock = threading.Lock()
        renew_in_children(self)

    def of(self, value: str) -> str:
        """The label for a value."""
        known = self._seen.get(value)
        if known is not None:
            return known
        with self._lock:
            if len(self._seen) >= self._most:
                return OTHER
            return self._seen.setdefault(value, value[:LONGEST])

    def renew_after_fork(self) -> None:
        """In a forked child: a fresh lock."""
        self._lock = threading.Lock()


class RequestCount:
    """One request between its start and its end."""

    __slots__ = ("_metrics", "_model", "_over", "_started")

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._over = False
        self._started = metrics.monotonic()
        metrics.active.inc()

    def ended(self, error: BaseException | None = None, *, status: str | None = None) -> None:
        """Count it. Only the first call counts."""
        if self._over:
            return
        self._over = True
        metrics = self._metrics
        metrics.finished(self._model, status or status_of(error), metrics.monotonic() - self._started)


def status_of(error: BaseException | None) -> str:
    """How a request ended."""
    if error is None:
        return COMPLETED
    return CANCELLED if isinstance(error, asyncio.CancelledError | GeneratorExit) else FAILED
