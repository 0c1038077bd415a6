"""Words: breaker events and the demo's numbers as plain sentences, for the terminal and for CI's logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilience.events import (
    CircuitClosed,
    CircuitHalfOpened,
    CircuitIsolated,
    CircuitOpened,
    TargetOnTime,
    TargetOverdue,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from resilience.events import Event
    from resilience.ops.story import Phase, Story
    from resilience.ops.tally import Numbers, Tally

NOTHING: Final = "-"

_WHY: Final = {
    "consecutive_failures": "after {failures} failures in a row{kind}",
    "failure_rate": "after {failures} of {calls} calls failed{kind}",
    "slow_call_rate": "after {failures} of {calls} calls were slow",
    "rate_limited": "because it asked to wait (429)",
    "account": "because of its account{kind}",
}


class Narrator:
    """Tells events of breakers as sentences. It remembers who was on probation: their end reads differently."""

    def __init__(self) -> None:
        self._on_probation: set[str] = set()

    def tell(self, event: Event) -> str | None:
        """A sentence; None for events that are not about breakers."""
        if isinstance(event, CircuitOpened):
            return self._opened(event)
        if isinstance(event, CircuitHalfOpened):
            self._on_probation.add(event.breaker)
            return f"{event.breaker} is on probation: single calls may try it"
        if isinstance(event, CircuitClosed):
            self._on_probation.discard(event.breaker)
            return f"{event.breaker} is back after {seconds(event.open_seconds)}"
        if isinstance(event, CircuitIsolated):
            return f"{event.breaker} was taken out by a person: {event.reason}"
        if isinstance(event, TargetOverdue):
            hang = f"{event.in_flight} calls hang, usually it takes {seconds(event.typical_seconds)}"
            return f"{event.target} is out because {hang}"
        if isinstance(event, TargetOnTime):
            return f"{event.target} is no longer overdue"
        return None

    def _opened(self, event: CircuitOpened) -> str:
        kind = f" ({event.kind.replace('_', ' ')})" if event.kind is not None else ""
        why = _WHY.get(event.reason, "because it was {reason}").format(
            failures=event.failures, calls=event.calls, kind=kind, reason=event.reason.replace("_", " ")
        )
        again = ""
        if event.breaker in self._on_probation:
            self._on_probation.discard(event.breaker)
            again = " again"
            why = why if event.reason == "rate_limited" else f"after the probe{kind}"
        return f"{event.breaker} is out{again} {why}; probe in {seconds(event.open_seconds)}"


def seconds(value: float | None) -> str:
    """``0.21 s``; milliseconds below a tenth; a dash for nothing."""
    if value is None:
        return NOTHING
    if value < 0.0995:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"


def share(part: int, whole: int) -> str:
    """``99.7 %``; 100 and 0 only where it is all or nothing; a dash for a share of nothing."""
    if not whole:
        return NOTHING
    value = 100.0 * part / whole
    if 0 < part < whole:
        value = min(99.9, max(0.1, value))
    return f"{value:.1f} %".replace(".0 %", " %")


def served(numbers: Numbers) -> str:
    """``anthropic 94 %, openai 6 %``."""
    total = sum(numbers.served_by.values())
    return ", ".join(f"{name} {100 * part / total:.0f} %" for name, part in numbers.served_by.items()) or "nobody"


def phase_line(phase: Phase) -> str:
    """What is broken from now on."""
    wrong = ", ".join(f"{name} {breakage.word}" for name, breakage in phase.broken.items())
    return f"{phase.title}: {wrong}" if wrong else phase.title


HEADINGS: Final = ("while", "asked", "answered by", "out", "back", "wasted", "stuck", "added")
LEGEND: Final = (
    "out: seconds from the fault until the broken provider was out of rotation; back: from its repair until it was "
    "back; wasted: attempts that came to nothing; stuck: the most attempts that a broken provider kept waiting; "
    "added: what nineteen of twenty answers lost at most before the attempt that gave them"
)


def rows(story: Story, tally: Tally) -> list[tuple[str, ...]]:
    """The summary's rows, one a phase that was reached, under `HEADINGS`."""
    table: list[tuple[str, ...]] = []
    for phase in story.phases:
        numbers = tally.numbers(phase.starts, phase.ends)
        if not numbers.requests:
            continue
        outages = tally.outages_in(phase)
        table.append(
            (
                phase.title,
                str(numbers.requests),
                served(numbers),
                _listed(outage.eject_seconds for outage in outages),
                _listed(outage.recover_seconds for outage in outages),
                share(numbers.wasted, numbers.attempts),
                str(max(outage.stuck for outage in outages)) if outages else "",
                seconds(numbers.added_p95_seconds),
            )
        )
    return table


def totals(tally: Tally) -> str:
    """The one line that says it all, in a form that programs can read too."""
    numbers = tally.numbers()
    return (
        f"requests {numbers.requests}, answered {numbers.answered}, interrupted {numbers.interrupted}, "
        f"failed {numbers.failed}, failed while a provider was up {len(tally.lost)}, "
        f"wasted attempts {share(numbers.wasted, numbers.attempts)}, "
        f"p50 {seconds(numbers.p50_seconds)}, p95 {seconds(numbers.p95_seconds)}"
    )


def meaning(tally: Tally) -> str:
    """What the numbers mean, in a sentence or two."""
    numbers = tally.numbers()
    if not numbers.requests:
        return "Nothing was asked, so nothing can be said."
    lost = len(tally.lost)
    if lost:
        types = ", ".join(sorted({one.error or "unknown" for one in tally.lost}))
        return (
            f"{lost} of {numbers.requests} requests failed although a provider was up ({types}): that must not happen."
        )
    first = tally.providers[0]
    met = tally.asked_while_broken(first)
    fate = "and none failed" if not numbers.failed else f"and {numbers.failed} failed, all while nobody was up"
    parts = [f"{met} of {numbers.requests} requests came while {first} was broken, {fate}."]
    if numbers.interrupted:
        parts.append(
            f"{counted(numbers.interrupted, 'stream')} broke after the first words: the callers got these words and "
            "an error that says so."
        )
    found = [outage.eject_seconds for outage in tally.outages if outage.eject_seconds is not None]
    if found:
        parts.append(f"A broken provider was out of the way within {seconds(max(found))}.")
    return " ".join(parts)


def counted(number: int, noun: str) -> str:
    """``1 stream``, ``2 streams``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """A table in plain text."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _listed(values: Iterable[float | None]) -> str:
    return ", ".join(map(seconds, values))
