"""Facts: past tense, frozen, units in the names. A sink is a function that hears them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resilience.outcome import Kind


@dataclass(frozen=True, slots=True)
class Event:
    """The root of every fact. No prompt, answer or key is ever in one."""


@dataclass(frozen=True, slots=True)
class CircuitOpened(Event):
    """A breaker tripped, or was opened by an account error or a rate limit (a *hold*)."""

    breaker: str
    provider: str | None
    reason: str
    kind: Kind | None
    failures: int
    calls: int
    failure_rate: float | None
    open_seconds: float
    generation: int
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class CircuitHalfOpened(Event):
    """The open time is over: probes may pass."""

    breaker: str
    provider: str | None
    generation: int


@dataclass(frozen=True, slots=True)
class CircuitClosed(Event):
    """Back in rotation. ``open_seconds`` is how long it was out."""

    breaker: str
    provider: str | None
    reason: str
    open_seconds: float
    generation: int


@dataclass(frozen=True, slots=True)
class CircuitIsolated(Event):
    """A person took it out of rotation."""

    breaker: str
    provider: str | None
    reason: str
    generation: int


@dataclass(frozen=True, slots=True)
class PermitRefused(Event):
    """Nothing was sent. ``shadow`` says that it was let through all the same."""

    breaker: str
    provider: str | None
    reason: str
    retry_after_seconds: float | None
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class TargetOverdue(Event):
    """Calls hang: the target is out of rotation before the first timeout strikes. ``shadow``: it would be."""

    target: str
    provider: str
    in_flight: int
    oldest_seconds: float
    typical_seconds: float
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class TargetOnTime(Event):
    """An overdue target answered again, or tripped."""

    target: str
    provider: str
    overdue_seconds: float


@dataclass(frozen=True)
class AttemptSucceeded(Event):
    """One call to one target worked."""

    route: str | None
    target: str
    provider: str
    latency_seconds: float
    number: int
    stream: bool

    @classmethod
    def of(
        cls, route: str | None, target: str, provider: str, latency_seconds: float, number: int, *, stream: bool
    ) -> AttemptSucceeded:
        """The same at a fifth of the time: a frozen dataclass sets its fields one by one. Made for every request."""
        event = object.__new__(cls)
        fields = event.__dict__
        fields["route"] = route
        fields["target"] = target
        fields["provider"] = provider
        fields["latency_seconds"] = latency_seconds
        fields["number"] = number
        fields["stream"] = stream
        return event


@dataclass(frozen=True, slots=True)
class AttemptFailed(Event):
    """One call to one target failed."""

    route: str | None
    target: str
    provider: str
    kind: Kind
    status: int | None
    error_type: str | None
    retry_after_seconds: float | None
    latency_seconds: float
    number: int
    stream: bool


@dataclass(frozen=True, slots=True)
class AttemptIgnored(Event):
    """One call to one target ended without saying anything about health."""

    route: str | None
    target: str
    provider: str
    kind: Kind
    status: int | None
    error_type: str | None
    latency_seconds: float
    number: int
    stream: bool


@dataclass(frozen=True, slots=True)
class FallbackTaken(Event):
    """A request moved on to another target."""

    route: str | None
    from_target: str
    to_target: str
    kind: Kind | None


@dataclass(frozen=True, slots=True)
class HedgeStarted(Event):
    """A second attempt was started beside a slow first one."""

    route: str | None
    target: str
    after_seconds: float


@dataclass(frozen=True, slots=True)
class BudgetExhausted(Event):
    """A route's allowance of extra attempts was spent: no retry on the same target."""

    route: str | None
    target: str


@dataclass(frozen=True, slots=True)
class DeadlineExceeded(Event):
    """A request's time was over before it was answered."""

    route: str | None
    deadline_seconds: float
    attempts: int


@dataclass(frozen=True, slots=True)
class StreamInterrupted(Event):
    """A stream broke after content had reached the caller."""

    route: str | None
    target: str
    provider: str
    kind: Kind
    delivered_chars: int


@dataclass(frozen=True, slots=True)
class StorageDegraded(Event):
    """The fleet's store is out of reach: this process goes on alone."""

    reason: str


@dataclass(frozen=True, slots=True)
class StorageRestored(Event):
    """The fleet's store is back."""

    degraded_seconds: float


Sink = Callable[[Event], None]

_LOG = logging.getLogger("resilience")


class EventHub:
    """Hands each fact to every sink. A raising sink is counted, never felt.

    Attributes:
        sink_errors: How often a sink raised.
    """

    __slots__ = ("_lock", "sink_errors", "sinks")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Replaced as a whole, never changed in place: publishing needs no lock.
        self.sinks: tuple[_Subscription, ...] = ()
        self.sink_errors = 0

    def subscribe(self, sink: Sink) -> Callable[[], None]:
        """Let ``sink`` hear every event from now on.

        Returns:
            A function that ends the subscription; calling it again does nothing.
        """
        # A wrapper of its own, so that one function subscribed twice is ended once at a time.
        entry = _Subscription(sink)
        with self._lock:
            self.sinks = (*self.sinks, entry)

        def unsubscribe() -> None:
            with self._lock:
                self.sinks = tuple(other for other in self.sinks if other is not entry)

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Tell every sink. Never call this while holding a lock."""
        for subscription in self.sinks:
            try:
                subscription.sink(event)
            except Exception:  # noqa: BLE001 (a sink is somebody else's code; a request must not pay for it)
                self.sink_errors += 1
                if self.sink_errors == 1:
                    _LOG.exception("a sink raised on %s; further ones are only counted", type(event).__name__)

    def renew_lock(self) -> None:
        """Replace the lock, in a child that was forked while another thread may have held it."""
        self._lock = threading.Lock()


class _Subscription:
    __slots__ = ("sink",)

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
