"""The tally: what was asked, what came of it, and when breakers moved. Every number of the demo is counted here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from resilience.events import (
    AttemptFailed,
    AttemptIgnored,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitIsolated,
    CircuitOpened,
    TargetOnTime,
    TargetOverdue,
)
from resilience.outcome import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from resilience.events import Event
    from resilience.ops.story import Phase
    from resilience.upstream import AttemptRecord


class End(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    """Its caller has the whole answer."""
    INTERRUPTED = "interrupted"
    """A stream broke after its first words: the caller has these, and an error that says so."""
    FAILED = "failed"
    """Its caller has nothing, or less than it was made to believe."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and what came of it. Times are seconds from the demo's start.

    Attributes:
        started: When it was asked.
        ended: When its last word, or its error, arrived.
        end: How it ended.
        provider: Who gave the answer or the partial one; None where nobody did.
        attempts: What was tried.
        answer_seconds: From the question to the whole answer, of a stream to the first word. None: no answer.
        added_seconds: The part of it that was spent before the attempt that worked.
        error: The error's type, where there was one.
    """

    started: float
    ended: float
    end: End
    provider: str | None
    attempts: tuple[AttemptRecord, ...] = ()
    answer_seconds: float | None = None
    added_seconds: float | None = None
    error: str | None = None


@dataclass(slots=True)
class Outage:
    """One provider broken on purpose, and how long it took to notice.

    Attributes:
        provider: Who.
        word: What was wrong, in words.
        since: When the fault was injected.
        until: When it was mended, None while it lasts.
        ejected: When it left the rotation, None while nobody has noticed.
        recovered: When it was back in the rotation after it was mended.
        stuck: The most attempts that it kept waiting at one time.
    """

    provider: str
    word: str
    since: float
    until: float | None = None
    ejected: float | None = None
    recovered: float | None = None
    stuck: int = 0
    _spans: list[tuple[float, float]] = field(default_factory=list, repr=False)

    @property
    def eject_seconds(self) -> float | None:
        """From the fault to the provider's leaving the rotation."""
        return None if self.ejected is None else self.ejected - self.since

    @property
    def recover_seconds(self) -> float | None:
        """From the repair to the provider's being back."""
        return None if self.recovered is None or self.until is None else self.recovered - self.until

    def waited(self, start: float, end: float) -> None:
        """An attempt at it came to nothing."""
        self._spans.append((start, end))
        self.stuck = max(self.stuck, _most_at_once(self._spans))

    def covers(self, start: float, end: float) -> bool:
        """Whether the fault was there at any time between the two."""
        return self.since <= end and (self.until is None or self.until >= start)


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a set of requests comes to."""

    requests: int
    answered: int
    interrupted: int
    failed: int
    served_by: dict[str, int]
    attempts: int
    wasted: int
    p50_seconds: float | None
    p95_seconds: float | None
    added_p50_seconds: float | None
    added_p95_seconds: float | None

    @property
    def wasted_share(self) -> float:
        """Attempts that came to nothing over all attempts."""
        return self.wasted / self.attempts if self.attempts else 0.0

    @property
    def success_share(self) -> float:
        """Whole answers over all requests."""
        return self.answered / self.requests if self.requests else 1.0


class Tally:
    """Counts. Times are seconds from the demo's start and come from outside.

    Args:
        providers: Who there is, in order.
    """

    def __init__(self, providers: Sequence[str]) -> None:
        self.providers = tuple(providers)
        self.asked: list[Asked] = []
        self.outages: list[Outage] = []
        self.in_flight = 0
        self._out: dict[str, set[str]] = {name: set() for name in providers}

    # -- what happens ---------------------------------------------------------------------------------------

    def broke(self, provider: str, word: str, at: float) -> None:
        """A fault was injected."""
        self.outages.append(Outage(provider, word, at))

    def mended(self, provider: str, at: float) -> None:
        """A fault was taken away."""
        for outage in self.outages:
            if outage.provider == provider and outage.until is None:
                outage.until = at

    def ended(self, asked: Asked) -> None:
        """A request ended."""
        self.asked.append(asked)

    def hear(self, event: Event, at: float) -> None:
        """The registry or the engine told something."""
        if isinstance(event, AttemptFailed | AttemptIgnored):
            start = at - event.latency_seconds
            for outage in self.outages:
                if outage.provider == event.provider and outage.covers(start, at):
                    outage.waited(start, at)
        elif isinstance(event, CircuitOpened | CircuitIsolated | TargetOverdue) and event.provider in self._out:
            self._out[event.provider].add(_who(event))
            for outage in self.outages:
                if outage.provider == event.provider and outage.until is None and outage.ejected is None:
                    outage.ejected = at
        elif isinstance(event, CircuitHalfOpened) and event.provider in self._out:
            self._out[event.provider].add(_who(event))
        elif isinstance(event, CircuitClosed | TargetOnTime) and event.provider in self._out:
            self._out[event.provider].discard(_who(event))
            self._look_for_recovery(event.provider, at)

    def _look_for_recovery(self, provider: str, at: float) -> None:
        mine = [outage for outage in self.outages if outage.provider == provider]
        if self._out[provider] or not mine or mine[-1].until is None:
            return
        if mine[-1].ejected is not None and mine[-1].recovered is None:
            mine[-1].recovered = at

    # -- what it comes to -----------------------------------------------------------------------------------

    def numbers(self, start: float = 0.0, end: float = math.inf) -> Numbers:
        """What the requests asked between two times come to."""
        return count([one for one in self.asked if start <= one.started < end])

    def recent(self, how_many: int) -> Numbers:
        """What the latest requests come to."""
        return count(self.asked[-how_many:])

    @property
    def lost(self) -> list[Asked]:
        """Requests that failed although a provider was up from their start to their end."""
        return [one for one in self.asked if one.end is End.FAILED and self._somebody_up(one.started, one.ended)]

    def asked_while_broken(self, provider: str) -> int:
        """Requests that were asked while this provider was broken."""
        mine = [outage for outage in self.outages if outage.provider == provider]
        return sum(any(outage.covers(one.started, one.started) for outage in mine) for one in self.asked)

    def outages_in(self, phase: Phase) -> list[Outage]:
        """The faults that were injected in a phase."""
        slack = 0.02 * (phase.ends - phase.starts)
        return [outage for outage in self.outages if phase.starts - slack <= outage.since < phase.ends - slack]

    def _somebody_up(self, start: float, end: float) -> bool:
        return any(
            not any(outage.provider == name and outage.covers(start, end) for outage in self.outages)
            for name in self.providers
        )


def count(asked: Sequence[Asked]) -> Numbers:
    """What a set of requests comes to."""
    served: dict[str, int] = {}
    for one in asked:
        if one.end is End.ANSWERED and one.provider is not None:
            served[one.provider] = served.get(one.provider, 0) + 1
    kinds = [record.kind for one in asked for record in one.attempts]
    waits = [one.answer_seconds for one in asked if one.answer_seconds is not None]
    added = [one.added_seconds for one in asked if one.added_seconds is not None]
    ends = [one.end for one in asked]
    return Numbers(
        requests=len(asked),
        answered=ends.count(End.ANSWERED),
        interrupted=ends.count(End.INTERRUPTED),
        failed=ends.count(End.FAILED),
        served_by=dict(sorted(served.items(), key=lambda pair: -pair[1])),
        attempts=len(kinds),
        wasted=sum(kind is not Kind.SUCCESS for kind in kinds),
        p50_seconds=quantile(waits, 0.5),
        p95_seconds=quantile(waits, 0.95),
        added_p50_seconds=quantile(added, 0.5),
        added_p95_seconds=quantile(added, 0.95),
    )


def quantile(values: Iterable[float], share: float) -> float | None:
    """The value that ``share`` of ``values`` do not exceed (nearest rank); None for no values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _who(event: Event) -> str:
    # A target's breaker and its overdue mark are two reasons to be out: each has to end.
    name = getattr(event, "breaker", None)
    return f"breaker {name}" if name is not None else f"overdue {getattr(event, 'target', '')}"


def _most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    steps = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    most = now = 0
    for _, step in steps:
        now += step
        most = max(most, now)
    return most
