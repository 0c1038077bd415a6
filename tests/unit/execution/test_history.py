"""What a request's attempts came to, in words and in the fields of its errors."""

from __future__ import annotations

from typing import Any

import pytest

from resilience.errors import AnswerRejectedError, RejectedError, RouteExhaustedError, StreamInterruptedError
from resilience.execution.history import History, cause_of, not_tried
from resilience.outcome import Kind, Outcome
from resilience.routing import Route, RoutedTarget
from resilience.settings import RouteSettings
from resilience.upstream import Target

SETTINGS = RouteSettings()


def place(name: str) -> RoutedTarget:
    return RoutedTarget(Target(name, f"provider-of-{name}", f"model-{name}", identity=name), 1, 1.0, SETTINGS.timeouts)


A, B = place("a"), place("b")
ROUTE = Route("chat", (A, B), SETTINGS, single=False)


def history(*attempts: tuple[RoutedTarget, Outcome]) -> History:
    kept = History()
    for who, outcome in attempts:
        kept.add(who, outcome)
    return kept


def test_attempts_are_summed_up_by_target_in_the_order_of_their_first() -> None:
    kept = history(
        (A, Outcome(Kind.SERVER_ERROR, status=503)),
        (B, Outcome(Kind.TIMEOUT)),
        (A, Outcome(Kind.SERVER_ERROR, status=503)),
        (A, Outcome(Kind.CONNECTION)),
    )
    assert kept.summary() == ["a failed with 2 x server_error (503), connection", "b failed with timeout"]
    assert kept.summary(2) == ["a failed with server_error (503), connection"]


def test_an_exhausted_route_tells_what_was_tried_what_was_not_and_why_it_ended() -> None:
    error = ConnectionError("refused")
    kept = history((A, Outcome(Kind.CONNECTION, error)), (A, Outcome(Kind.RATE_LIMITED, status=429)))
    refused = RejectedError("b is out", "b", "provider-of-b", 4.0, Kind.AUTH)
    exhausted = kept.exhausted(ROUTE, iter([refused]), "max_attempts (2) is reached", 4.0)
    assert isinstance(exhausted, RouteExhaustedError)
    assert exhausted.message == (
        "route 'chat' is exhausted: a failed with connection, rate_limited (429); b is out; max_attempts (2) is reached"
    )
    assert exhausted.exceptions[0] is error
    assert isinstance(exhausted.exceptions[1], AnswerRejectedError)
    assert exhausted.exceptions[2] is refused
    assert exhausted.kinds == (Kind.CONNECTION, Kind.RATE_LIMITED, Kind.AUTH)
    assert (exhausted.retry_after, exhausted.attempts) == (4.0, tuple(kept.records))
    assert kept.exhausted(ROUTE, [], "", None).message == (
        "route 'chat' is exhausted: a failed with connection, rate_limited (429)"
    )


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Kind.EMPTY, "a gave an empty answer"),
        (Kind.REJECTED, "a gave an answer that a validator refused"),
        (Kind.MALFORMED, "a gave no usable answer (malformed)"),
    ],
)
def test_an_answer_that_was_refused_has_an_error_of_its_own(kind: Kind, text: str) -> None:
    cause: Any = cause_of(A, Outcome(kind))
    assert (type(cause), str(cause), cause.target, cause.kind) == (AnswerRejectedError, text, "a", kind)


def test_an_end_that_is_no_ordinary_exception_is_no_cause() -> None:
    assert isinstance(cause_of(A, Outcome(Kind.CANCELLED, KeyboardInterrupt())), AnswerRejectedError)


def test_a_target_that_nobody_asked_is_no_breakers_refusal() -> None:
    refused = not_tried(A, "the request ended before its turn")
    assert (str(refused), refused.breaker, refused.provider, refused.retry_after, refused.kind) == (
        "a was not tried: the request ended before its turn", None, "provider-of-a", None, None,
    )  # fmt: skip


class SlottedError(Exception):
    """Takes no attribute, as an extension type does."""

    def __setattr__(self, name: str, value: object) -> None:
        raise self.args[0]


@pytest.mark.parametrize("refuses", [AttributeError, TypeError])
def test_the_last_attempts_own_error_is_raised_even_where_it_takes_no_note(refuses: type[Exception]) -> None:
    error = SlottedError(refuses)
    assert history((A, Outcome(Kind.UNKNOWN, ValueError())), (A, Outcome(Kind.UNKNOWN, error))).own_error() is error


def test_the_last_attempts_own_error_carries_the_attempts() -> None:
    error = ValueError("mine")
    kept = history((B, Outcome(Kind.TIMEOUT)), (A, Outcome(Kind.UNKNOWN, error)))
    assert kept.own_error() is error
    assert error.attempts == tuple(kept.records)  # type: ignore[attr-defined]


def test_a_broken_stream_tells_how_far_it_came_and_why_nobody_wrote_on() -> None:
    error = ConnectionResetError()
    kept = history((A, Outcome(Kind.TIMEOUT)), (B, Outcome(Kind.INTERRUPTED, error)))
    with pytest.raises(StreamInterruptedError) as raised:
        kept.broke("Once upon", "on_interruption is raise")
    interrupted = raised.value
    assert str(interrupted) == (
        "the stream of b broke (interrupted) after 9 characters had been delivered; they are in .partial. "
        "It was not continued: on_interruption is raise"
    )
    assert (interrupted.partial, interrupted.provider) == ("Once upon", "provider-of-b")
    assert (interrupted.attempts, interrupted.__cause__) == (tuple(kept.records), error)


@pytest.mark.parametrize(
    ("later", "why"),
    [
        ([], "no target that may write on could be asked"),
        ([Kind.TIMEOUT], "a failed with timeout"),
        ([Kind.TIMEOUT, Kind.AUTH], "a failed with timeout; b failed with auth"),
    ],
)
def test_a_break_that_nobody_could_mend_tells_who_tried(later: list[Kind], why: str) -> None:
    kept = history((A, Outcome(Kind.TIMEOUT)), (B, Outcome(Kind.INTERRUPTED)))
    kept.tell_interruption()  # nothing has broken yet
    kept.broke("Once", "")
    for who, kind in zip([A, B], later, strict=False):
        kept.add(who, Outcome(kind))
    with pytest.raises(StreamInterruptedError) as raised:
        kept.tell_interruption()
    assert str(raised.value).endswith(f"It was not continued: {why}")
    assert str(raised.value).startswith("the stream of b broke (interrupted) after 4 characters")
    assert len(raised.value.attempts) == 2 + len(later)
