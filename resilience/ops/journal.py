"""The journal: the last thousand events of each sort, numbered, ready to be sent."""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections import deque
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilience.clock import SYSTEM_CLOCK
from resilience.events import (
    AttemptFailed,
    AttemptIgnored,
    AttemptSucceeded,
    BudgetExhausted,
    FallbackTaken,
    HedgeStarted,
    PermitRefused,
)
from resilience.fork import renew_in_children

if TYPE_CHECKING:
    from datetime import datetime

    from resilience.clock import Clock
    from resilience.events import Event

KEPT: Final = 1000
# What every request makes. Kept apart, so that a busy minute does not push out why a circuit opened.
ROUTINE: Final = frozenset(
    {AttemptSucceeded, AttemptFailed, AttemptIgnored, FallbackTaken, PermitRefused, BudgetExhausted, HedgeStarted}
)


class Entry:
    """One event with its number. What is sent of it is written once, for all readers."""

    __slots__ = ("at", "event", "number", "wire")

    def __init__(self, number: int, event: Event, at: datetime) -> None:
        self.number = number
        self.event = event
        self.at = at
        self.wire: bytes | None = None


class News(NamedTuple):
    """What somebody has not heard yet.

    Attributes:
        entries: In order.
        head: The number to ask with next time.
        missed: Whether something has been forgotten before it was heard.
    """

    entries: list[Entry]
    head: int
    missed: bool


class _Ring:
    def __init__(self, kept: int) -> None:
        self.entries: deque[Entry] = deque(maxlen=kept)
        self.forgotten = 0

    def append(self, entry: Entry) -> None:
        if len(self.entries) == self.entries.maxlen:
            self.forgotten = self.entries[0].number
        self.entries.append(entry)


class Journal:
    """Hears events from any thread, and tells them to any number of readers; none of them can hold it up.

    Args:
        clock: Where time comes from.
        kept: How many events of each sort (changes, routine) are kept.

    Attributes:
        run: Tells this run's numbers from those of an earlier process.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK, kept: int = KEPT) -> None:
        self.run = secrets.token_hex(4)
        self._clock = clock
        self._lock = threading.Lock()
        self._changes, self._routine = _Ring(kept), _Ring(kept)
        self.head = 0
        self.changed = 0
        """Number of the last change."""
        renew_in_children(self)

    def hear(self, event: Event) -> None:
        """The sink."""
        routine = type(event) in ROUTINE
        at = self._clock.now()
        with self._lock:
            self.head += 1
            entry = Entry(self.head, event, at)
            if routine:
                self._routine.append(entry)
            else:
                self._changes.append(entry)
                self.changed = self.head

    def after(self, number: int, *, changes_only: bool = False) -> News:
        """Everything after an event's number; 0 for all that is kept."""
        if self.head <= number:
            return News([], number, missed=False)
        rings = (self._changes,) if changes_only else (self._changes, self._routine)
        found: list[Entry] = []
        with self._lock:
            for ring in rings:
                for entry in reversed(ring.entries):
                    if entry.number <= number:
                        break
                    found.append(entry)
            missed = 0 < number < max(ring.forgotten for ring in rings)
            head = self.head
        found.sort(key=lambda entry: entry.number)
        return News(found, head, missed)

    def cursor(self, last_id: str | None) -> int:
        """The number in an id that this run gave out, else 0."""
        run, _, number = (last_id or "").partition("-")
        known = run == self.run and number.isascii() and number.isdigit() and len(number) < 16
        return min(int(number), self.head) if known else 0

    def renew_after_fork(self) -> None:
        """In a forked child: a fresh lock."""
        self._lock = threading.Lock()

    def wire(self, entry: Entry) -> bytes:
        """An event as server-sent event."""
        if entry.wire is None:
            body = json.dumps(as_dict(entry), separators=(",", ":"))
            entry.wire = f"id: {self.run}-{entry.number}\nevent: fact\ndata: {body}\n\n".encode()
        return entry.wire


def as_dict(entry: Entry) -> dict[str, Any]:
    """An event as JSON takes it: its name, its time, and its own fields."""
    name, keys = _shape(type(entry.event))
    return {
        "number": entry.number,
        "at": entry.at.isoformat(timespec="milliseconds"),
        "event": name,
        **{key: getattr(entry.event, key) for key in keys},
    }


_SHAPES: Final[dict[type[Event], tuple[str, tuple[str, ...]]]] = {}


def _shape(kind: type[Event]) -> tuple[str, tuple[str, ...]]:
    known = _SHAPES.get(kind)
    if known is None:
        known = _SHAPES[kind] = _make_shape(kind)
    return known


def _make_shape(kind: type[Event]) -> tuple[str, tuple[str, ...]]:
    words = re.findall(r"[A-Z][a-z]*", kind.__name__)
    name = f"{words[0].lower()}.{'_'.join(word.lower() for word in words[1:])}"
    return name, tuple(field.name for field in fields(kind))
