"""What the attempts of one request came to, and the errors that tell it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NoReturn

from resilience.errors import (
    AnswerRejectedError,
    DeadlineExceededError,
    RejectedError,
    RouteExhaustedError,
    StreamInterruptedError,
)
from resilience.outcome import Kind
from resilience.upstream import AttemptRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from resilience.outcome import Outcome
    from resilience.routing.route import Route, RoutedTarget

_WHY = {Kind.EMPTY: "an empty answer", Kind.REJECTED: "an answer that a validator refused"}


class History:
    """The attempts of one request, in order.

    Attributes:
        places: Who was asked.
        outcomes: What came of it.
        records: The same as callers see it.
    """

    __slots__ = ("_broken", "_partial", "outcomes", "places", "records")

    def __init__(self) -> None:
        self.places: list[RoutedTarget] = []
        self.outcomes: list[Outcome] = []
        self.records: list[AttemptRecord] = []
        self._broken: int | None = None
        self._partial = ""

    def add(self, place: RoutedTarget, outcome: Outcome) -> None:
        """Write down one attempt."""
        self.places.append(place)
        self.outcomes.append(outcome)
        self.records.append(AttemptRecord.of(place.target, outcome))

    def causes(self) -> list[Exception]:
        """One exception per attempt."""
        return [cause_of(place, outcome) for place, outcome in zip(self.places, self.outcomes, strict=True)]

    def own_error(self) -> Exception:
        """The last attempt's own error, with the attempts noted on it."""
        error = cause_of(self.places[-1], self.outcomes[-1])
        # An exception class with slots has no room for it, and then goes without.
        with contextlib.suppress(AttributeError, TypeError):
            error.attempts = tuple(self.records)  # type: ignore[attr-defined]
        return error

    def exhausted(
        self, route: Route, not_tried: Iterable[RejectedError], why: str, retry_after: float | None
    ) -> RouteExhaustedError:
        """No target answered.

        Args:
            route: Which one.
            not_tried: Why the targets that were not asked were not.
            why: What ended the walk, as a part of a sentence.
            retry_after: Seconds until the first of its targets may be asked again.
        """
        rejections = list(not_tried)
        kinds = [outcome.kind for outcome in self.outcomes] + [rejection.kind for rejection in rejections]
        parts = [*self.summary(), *(str(rejection) for rejection in rejections), why]
        message = f"{route.label} is exhausted: {'; '.join(part for part in parts if part)}"
        return RouteExhaustedError(message, [*self.causes(), *rejections], retry_after, kinds, self.records)

    def deadline_exceeded(self, route: Route, seconds: float) -> NoReturn:
        """Raise: an attempt was cut by the request's end."""
        message = f"{route.label} got no answer within the request's {seconds:.3g} s: {'; '.join(self.summary())}"
        group = ExceptionGroup("what the attempts met", self.causes())
        raise DeadlineExceededError(message, seconds, self.records) from group

    def broke(self, partial: str, why: str) -> None:
        """The last attempt was a stream, and broke after ``partial`` had reached the caller.

        Args:
            partial: Exactly the text.
            why: What keeps others from going on: then this raises. "" where they may.
        """
        self._broken = len(self.places) - 1
        self._partial = partial
        if why:
            self._interrupted(why)

    def tell_interruption(self) -> None:
        """Raise `StreamInterruptedError` if a stream has broken: that is what the caller has to know."""
        if self._broken is not None:
            tried = "; ".join(self.summary(self._broken + 1))
            self._interrupted(tried or "no target that may write on could be asked")

    def summary(self, start: int = 0) -> list[str]:
        """One part of a sentence per target: how often it failed, and how, from the attempt at ``start`` on."""
        failed: dict[RoutedTarget, list[str]] = {}
        for place, outcome in zip(self.places[start:], self.outcomes[start:], strict=True):
            failed.setdefault(place, []).append(_how(outcome))
        return [f"{place.name} failed with {_counted(how)}" for place, how in failed.items()]

    def _interrupted(self, why: str) -> NoReturn:
        at, partial = self._broken, self._partial
        assert at is not None  # noqa: S101 (only after `broke`)
        place, outcome = self.places[at], self.outcomes[at]
        message = (
            f"the stream of {place.name} broke ({outcome.kind}) after {len(partial)} characters had been delivered; "
            f"they are in .partial. It was not continued: {why}"
        )
        raise StreamInterruptedError(message, partial, place.target.provider, self.records) from outcome.error


def cause_of(place: RoutedTarget, outcome: Outcome) -> Exception:
    """The attempt's own exception, or one of ours where an answer was refused without one."""
    if isinstance(outcome.error, Exception):
        return outcome.error
    what = _WHY.get(outcome.kind, f"no usable answer ({outcome.kind})")
    return AnswerRejectedError(f"{place.name} gave {what}", place.name, outcome.kind)


def not_tried(place: RoutedTarget, why: str) -> RejectedError:
    """A target that nobody refused, but that was not asked either."""
    return RejectedError(f"{place.name} was not tried: {why}", None, place.target.provider)


def _how(outcome: Outcome) -> str:
    return outcome.kind if outcome.status is None else f"{outcome.kind} ({outcome.status})"


def _counted(how: Sequence[str]) -> str:
    counts = {one: how.count(one) for one in how}
    return ", ".join(one if count == 1 else f"{count} x {one}" for one, count in counts.items())
