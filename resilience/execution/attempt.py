"""Performing one attempt: call, judge, classify, and keep its time limit. Nothing is decided about what follows."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from resilience.execution.alarm import Alarm, bounded
from resilience.execution.deadline import timed_out
from resilience.execution.reading import Reading
from resilience.outcome import Kind, Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from resilience.execution.lane import Lane
    from resilience.execution.steps import Attempt, CallOptions, Reply
    from resilience.routing.route import Route
    from resilience.upstream import AsyncStream, Operation, Piece, SyncStream

# Looking up a member of a class, an enumeration's above all, costs ten times a module's own name.
_SUCCESS: Final = Kind.SUCCESS
_success: Final = Outcome.success


@dataclass(slots=True, eq=False)
class Job:
    """One request as the driver needs it: what to ask, beside whom."""

    route: Route
    lane: Lane
    operation: Operation
    params: Mapping[str, Any]
    call: CallOptions

    @property
    def holds(self) -> bool:
        """Whether a stream is held back until it is whole."""
        return self.lane.holds

    def params_of(self, step: Attempt) -> Mapping[str, Any]:
        """What an attempt sends: what the caller asked for, and the beginning of the answer where there is one."""
        if step.continues is None or not (text := step.continues.text).strip():
            return self.params
        return self.lane.upstream.continued(step.place.target, self.operation, self.params, text)


@dataclass(slots=True, eq=False)
class Opened:
    """A stream that has given its first content.

    Attributes:
        stream: To hang up on.
        pieces: What comes next; None if it has ended whole.
        ready: What has come so far, in order.
        latency_seconds: To the first content.
        alarm: The stream's one timer (asyncio only).
    """

    stream: Any
    pieces: Any
    ready: deque[Piece]
    latency_seconds: float
    alarm: Alarm | None = None


def perform(job: Job, step: Attempt) -> Reply:
    """Make one attempt in this thread. Exceptions become outcomes; what is no Exception passes through."""
    lane, target, limits = job.lane, step.place.target, step.limits
    monotonic = lane.monotonic
    started = monotonic()
    try:
        with step.admission.held():
            if job.call.stream:
                reply = _opened(job, step, started)
                answer = None
            else:
                answer = lane.upstream.call(target, job.operation, job.params, limits)
    except Exception as error:  # noqa: BLE001 (classified here, and raised by the plan where it must be)
        return failed(lane, error, started), None
    if job.call.stream:
        return judged_stream(job, reply) if job.holds else reply
    return judged(job, answer, monotonic() - started)


async def aperform(job: Job, step: Attempt) -> Reply:
    """Make one attempt in this task, cut off after its limit."""
    lane, limits, stream = job.lane, step.limits, job.call.stream
    monotonic = lane.monotonic
    started = monotonic()
    alarm = Alarm()
    opened = False
    try:
        with step.admission.held():
            if stream:
                alarm.arm(limits.first_token)
                reply = await _aopened(job, step, started, alarm)
                opened = reply[0].kind is _SUCCESS
                answer = None
            else:
                call = lane.upstream.acall(step.place.target, job.operation, job.params, limits)
                answer = await bounded(call, alarm, limits.attempt, monotonic)
    except asyncio.CancelledError:
        if not alarm.was_it():
            raise
        return too_late(job, step, started), None
    except Exception as error:
        if alarm.was_it():
            return too_late(job, step, started), None
        if alarm.was_cancelled():
            # Somebody below turned the caller's cancellation into an error. Going on would ignore the caller.
            raise asyncio.CancelledError from error
        return failed(lane, error, started), None
    finally:
        if opened:
            alarm.disarm()
        elif alarm.is_set:
            alarm.close()
    if stream:
        return judged_stream(job, reply) if job.holds else reply
    return judged(job, answer, monotonic() - started)


def _opened(job: Job, step: Attempt, started: float) -> Reply:
    lane, limit = job.lane, step.limits.first_token
    stream: SyncStream = lane.upstream.open(step.place.target, job.operation, job.params_of(step), step.limits)
    whole = False
    try:
        pieces: Iterator[Piece] = iter(stream)
        ready: deque[Piece] = deque()
        for piece in pieces:
            ready.append(piece)
            latency = lane.monotonic() - started
            if piece.has_content:
                opened = Opened(stream, pieces, ready, latency)
                outcome = _held_back(job, step, opened) if job.holds else _success(latency)
                whole = outcome.kind is Kind.SUCCESS
                return outcome, opened
            if latency > limit:
                return timed_out(step.place, "first_token_seconds", limit, latency), None
        outcome = _ended_empty(job, step, stream, ready, lane.monotonic() - started)
        whole = outcome.kind is Kind.SUCCESS
        return outcome, Opened(stream, None, ready, outcome.latency_seconds)
    finally:
        if not whole:
            stream.close()


async def _aopened(job: Job, step: Attempt, started: float, alarm: Alarm) -> Reply:
    lane, limit = job.lane, step.limits.first_token
    params = job.params_of(step)
    stream: AsyncStream = await lane.upstream.aopen(step.place.target, job.operation, params, step.limits)
    whole = False
    try:
        pieces: AsyncIterator[Piece] = aiter(stream)
        ready: deque[Piece] = deque()
        async for piece in pieces:
            ready.append(piece)
            latency = lane.monotonic() - started
            if piece.has_content:
                opened = Opened(stream, pieces, ready, latency, alarm)
                outcome = await _aheld_back(job, step, opened) if job.holds else _success(latency)
                whole = outcome.kind is Kind.SUCCESS
                return outcome, opened
            if latency > limit:  # the alarm comes first, but on a clock that is not the loop's
                return timed_out(step.place, "first_token_seconds", limit, latency), None
        outcome = _ended_empty(job, step, stream, ready, lane.monotonic() - started)
        whole = outcome.kind is Kind.SUCCESS
        return outcome, Opened(stream, None, ready, outcome.latency_seconds, alarm)
    finally:
        if not whole:
            stream.abandon()  # nothing to wait for: a provider that hangs must not delay the next target


def _held_back(job: Job, step: Attempt, opened: Opened) -> Outcome:
    """Read on to the end. Whatever breaks before is an ordinary failed attempt: the reader has seen nothing yet."""
    step.admission.first_content(opened.latency_seconds)
    reading = Reading(job, step, opened)
    while not isinstance(came := reading.read(), Outcome):
        if came is not None:
            reading.ready.append(came)
    opened.pieces, opened.ready = None, reading.ready
    return came


async def _aheld_back(job: Job, step: Attempt, opened: Opened) -> Outcome:
    """The same in a task."""
    step.admission.first_content(opened.latency_seconds)
    if opened.alarm is not None:
        opened.alarm.disarm()  # from here on it is for the pauses
    reading = Reading(job, step, opened)
    while not isinstance(came := await reading.aread(), Outcome):
        if came is not None:
            reading.ready.append(came)
    opened.pieces, opened.ready = None, reading.ready
    return came


def _ended_empty(
    job: Job, step: Attempt, stream: SyncStream | AsyncStream, ready: deque[Piece], latency: float
) -> Outcome:
    """A stream ended before any content. Its finish reason may stand in any chunk; None asks about no chunk at all.

    To what another has said, a target may have nothing to add.
    """
    judge = job.lane.upstream.judge
    if not stream.ended_whole():
        kind = Kind.INTERRUPTED
    elif job.lane.reject_empty and step.continues is None:
        chunks = (None, *(piece.chunk for piece in ready))
        empty = all(judge(chunk, job.operation, job.params) is Kind.EMPTY for chunk in chunks)
        kind = Kind.EMPTY if empty else Kind.SUCCESS
    else:
        kind = Kind.SUCCESS
    return Outcome(kind, latency_seconds=latency)


def judged(job: Job, answer: Any, latency: float) -> Reply:
    """Is this an answer? Every driver asks here, also one whose time is not the machine's."""
    lane = job.lane
    kind = lane.upstream.judge(answer, job.operation, job.params)
    validated = job.call.validate is not None or lane.max_chars is not None
    if kind is _SUCCESS and not validated:
        return _success(latency), answer
    if kind is Kind.EMPTY and not lane.reject_empty:
        kind = _SUCCESS
    if kind is _SUCCESS and validated and _rejects(job, lane.upstream.text_of(answer)):
        kind = Kind.REJECTED
    return (_success(latency) if kind is _SUCCESS else Outcome(kind, latency_seconds=latency)), answer


def judged_stream(job: Job, reply: Reply) -> Reply:
    """A stream that was held back is a whole answer, of which the reader has seen nothing: it is validated like one."""
    outcome, opened = reply
    if outcome.kind is not _SUCCESS or (job.call.validate is None and job.lane.max_chars is None):
        return reply
    if not _rejects(job, "".join(piece.text for piece in opened.ready)):
        return reply
    if opened.alarm is not None:
        opened.alarm.close()  # nobody will read on
    return Outcome(Kind.REJECTED, latency_seconds=outcome.latency_seconds), None


def _rejects(job: Job, text: str) -> bool:
    """Whether a validator, the route's or the caller's own, says no to a whole answer's text."""
    validate, max_chars = job.call.validate, job.lane.max_chars
    return (max_chars is not None and len(text) > max_chars) or (validate is not None and not validate(text))


def failed(lane: Lane, error: Exception, started: float) -> Outcome:
    """What an attempt's exception comes to."""
    outcome = lane.upstream.classify(error)
    return replace(outcome, latency_seconds=lane.monotonic() - started)


def too_late(job: Job, step: Attempt, started: float) -> Outcome:
    """What an attempt comes to that was cut off after its limit."""
    limits = step.limits
    latency = job.lane.monotonic() - started
    if job.call.stream:
        return timed_out(step.place, "first_token_seconds", limits.first_token, latency)
    return timed_out(step.place, "attempt_seconds", limits.attempt, latency)
