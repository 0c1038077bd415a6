"""Recordings: what a runtime's sinks were told, kept in order, with questions a test asks."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resilience.events import Event

E = TypeVar("E", bound="Event")


class Tells(Protocol):
    """Something with events: a `resilience.HealthRegistry`."""

    def subscribe(self, sink: Callable[[Event], None]) -> Callable[[], None]:
        """Let a sink hear every event; returns what ends it."""
        ...


class HasRegistry(Protocol):
    """Something with a registry: a `resilience.MultiProviderFallback`."""

    @property
    def registry(self) -> Tells:
        """Its registry."""
        ...


class Recording:
    """Events in the order in which they were told. Its length, its iteration and its index are theirs.

    Safe to ask while other threads are being recorded.
    """

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._lock = threading.Lock()

    def hear(self, event: Event) -> None:
        """Be told."""
        with self._lock:
            self._events.append(event)

    @property
    def all(self) -> tuple[Event, ...]:
        """Every event so far."""
        with self._lock:
            return tuple(self._events)

    @property
    def names(self) -> list[str]:
        """The names of their classes: ``["AttemptFailed", "FallbackTaken", "AttemptSucceeded"]``."""
        return [type(event).__name__ for event in self.all]

    def of(self, kind: type[E], /, **fields: Any) -> list[E]:
        """Those of one class whose fields have these values: ``events.of(CircuitOpened, provider="openai")``.

        Raises:
            TypeError: The class has no such field.
        """
        unknown = fields.keys() - {name for base in kind.__mro__ for name in getattr(base, "__dataclass_fields__", ())}
        if unknown:
            allowed = ", ".join(kind.__dataclass_fields__)
            raise TypeError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}; it has: {allowed}")
        return [
            event
            for event in self.all
            if isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items())
        ]

    def one(self, kind: type[E], /, **fields: Any) -> E:
        """The only one.

        Raises:
            AssertionError: There is none, or there are several; the message lists what was heard.
        """
        found = self.of(kind, **fields)
        if len(found) != 1:
            asked = ", ".join([kind.__name__, *(f"{name}={value!r}" for name, value in fields.items())])
            heard = ", ".join(self.names) or "nothing"
            raise AssertionError(f"{len(found)} events of {asked}, not 1; heard: {heard}")
        return found[0]

    def count(self, kind: type[Event], /, **fields: Any) -> int:
        """How many."""
        return len(self.of(kind, **fields))

    def forget(self) -> None:
        """Start from nothing."""
        with self._lock:
            self._events.clear()

    def __len__(self) -> int:
        return len(self.all)

    def __iter__(self) -> Iterator[Event]:
        return iter(self.all)

    def __getitem__(self, index: int) -> Event:
        return self.all[index]


@contextlib.contextmanager
def record_events(source: Tells | HasRegistry) -> Iterator[Recording]:
    """Record what a runtime or a registry tells while the block runs.

    It is the whole body of a fixture too::

        @pytest.fixture
        def events(fb):
            with record_events(fb) as recording:
                yield recording

    Args:
        source: A `resilience.MultiProviderFallback` (also `resilience.default()`), or a registry.

    Yields:
        The recording. It can be asked during the block and after it.
    """
    registry: Any = getattr(source, "registry", source)
    recording = Recording()
    unsubscribe = registry.subscribe(recording.hear)
    try:
        yield recording
    finally:
        unsubscribe()
