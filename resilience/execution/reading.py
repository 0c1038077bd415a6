"""Reading: an open stream taken in piece by piece, with a limit on every pause, for those who hand on and who hold."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NoReturn

from resilience.execution.deadline import timed_out
from resilience.execution.seam import Seam
from resilience.outcome import Kind, Outcome
from resilience.upstream import Chunks

if TYPE_CHECKING:
    from resilience.execution.attempt import Job, Opened
    from resilience.execution.steps import Attempt
    from resilience.upstream import Piece

_TOUCH_SECONDS = 1.0  # a lease lasts a minute; telling it more often would only cost


class Reading:
    """One open stream.

    Args:
        job: The request.
        step: The attempt that opened it.
        opened: The stream, and what has come of it.

    Attributes:
        ready: What has been taken in and not been given out, in order.
        alarm: The stream's one timer; None in a thread.
        left: Seconds of the pause's limit that are left.
        stall: The limit of a pause.
        text: Gives the text of a chunk that carries nothing else and needs no closer look; else "".
    """

    __slots__ = (
        "_admission", "_ends_at", "_has_ended", "_is_loops", "_last", "_latency", "_look_at", "_monotonic", "_next",
        "_note", "_piece", "_place", "_seam", "_started", "_stream", "_upstream", "_whole", "alarm", "left", "ready",
        "stall", "text",
    )  # fmt: skip

    def __init__(self, job: Job, step: Attempt, opened: Opened) -> None:
        self._monotonic = job.lane.monotonic
        self._upstream = job.lane.upstream
        self._admission = step.admission
        self._place = step.place
        self.stall = self.left = step.limits.stall
        self._whole = step.limits.whole
        self._stream = opened.stream
        self._has_ended = opened.pieces is None
        self.alarm = opened.alarm
        self._next, self.text, self._piece, self._note = _chunks_of(opened)
        self._latency = opened.latency_seconds
        self._look_at = 0.0
        self._started = self._monotonic()
        self._ends_at = self._started + self._whole - self._latency
        self._is_loops = self.alarm is not None and self.alarm.time is self._monotonic
        self._last: Outcome | None = None
        self.ready = opened.ready
        self._seam: Seam | None = None
        if step.continues is not None:
            self._seam = Seam(self._upstream.graft(job.operation, job.params, step.continues), step.continues.text)
            self.ready = self._seam.all_of(opened.ready)
            self.text = _no_text  # every piece must pass the seam

    def read(self) -> Piece | Outcome | None:
        """Take one more piece in.

        Returns:
            The piece; or how the stream ended; or nothing yet: then look at ``ready``, and ask again.
        """
        try:
            return self.taken(self.next())
        except BaseException as error:  # noqa: BLE001 (what is not the stream's is raised there)
            return self.failed(error)

    async def aread(self) -> Piece | Outcome | None:
        """The same in a task."""
        try:
            return self.taken(await self.next())
        except BaseException as error:  # noqa: BLE001 (likewise)
            return self.failed(error)

    # What `read` and `aread` are made of, for those to whom a frame more for every chunk is too much: `next`, then
    # `failed` with what it raised; or `text` of what it gave, which fills `left` up to `stall` again, while the alarm
    # is made silent; and `taken` where there is no text, or the alarm has rung.

    def next(self) -> Any:
        """Ask for one more chunk. The clock runs from here, so a slow reader is no stall."""
        now = self._started = self._monotonic()
        if now >= self._look_at:
            self._look_at = now + _TOUCH_SECONDS
            self._admission.touch()
        if (alarm := self.alarm) is not None:
            due = now + self.left
            if due > self._ends_at:  # noqa: PLR1730 (`min` would be a call more for every chunk)
                due = self._ends_at
            if self._is_loops:
                alarm.move(due)
            else:
                alarm.arm(due - now)
        return self._next()

    def taken(self, chunk: Any) -> Piece | Outcome | None:
        """What `read` returns for a chunk."""
        if self.alarm is not None:
            self.alarm.disarm()
        piece: Piece = self._piece(chunk)
        now = self._monotonic()
        if piece.has_content:
            self.left = self.stall
        else:
            # A keep-alive or an empty delta does not feed the limit: only content starts the pause anew.
            self.left -= now - self._started
            if self.left <= 0:
                return self._of_stall()
        if now >= self._ends_at:
            return self._of_deadline()
        if self._seam is None:
            return piece
        self.ready.extend(self._seam.take(piece))
        return None

    def failed(self, error: BaseException) -> Outcome | None:
        """What `read` returns for what was raised.

        Raises:
            BaseException: It is not the stream's: the reader was cancelled, or the program ends.
        """
        alarm = self.alarm
        try:
            if isinstance(error, StopIteration | StopAsyncIteration):
                return self._of_end()
            if alarm is not None and isinstance(error, Exception | asyncio.CancelledError):
                if alarm.was_it():
                    return self._too_late()
                if isinstance(error, Exception) and alarm.was_cancelled():
                    # Somebody below turned the reader's cancellation into an error.
                    raise asyncio.CancelledError from error
            if self._note(error):
                return self._of_end()
            if isinstance(error, Exception):
                return self._of_error(error)
            raise error
        finally:
            if alarm is not None:
                alarm.disarm()

    def _of_end(self) -> Outcome | None:
        outcome = self._last
        if outcome is None:
            whole = self._has_ended or self._stream.ended_whole()
            outcome = Outcome(Kind.SUCCESS if whole else Kind.INTERRUPTED, latency_seconds=self._latency)
            if whole and self._seam is not None and (rest := self._seam.rest()):
                self.ready.extend(rest)
                self._last, self._next = outcome, _NO_MORE[self.alarm is not None]
                return None  # first what was held back at the seam
        return outcome

    def _of_error(self, error: Exception) -> Outcome:
        told = self._upstream.classify(error)
        return Outcome(
            told.kind,
            told.error,
            told.status,
            told.retry_after_seconds,
            told.reset_seconds,
            told.should_retry,
            self._latency,
        )

    def _too_late(self) -> Outcome:
        return self._of_deadline() if self._ends_at - self._started < self.left else self._of_stall()

    def _of_stall(self) -> Outcome:
        return timed_out(self._place, "stall_seconds", self.stall, self._latency)

    def _of_deadline(self) -> Outcome:
        return timed_out(self._place, "deadline_seconds", self._whole, self._latency)


def _chunks_of(opened: Opened) -> Chunks:
    is_async = opened.alarm is not None
    pieces = opened.pieces
    if pieces is None:
        return Chunks(_NO_MORE[is_async], _no_text, _itself, _told)
    if (chunks := getattr(opened.stream, "chunks", None)) is not None:
        return chunks()  # type: ignore[no-any-return]  # see `Chunks`
    return Chunks(pieces.__anext__ if is_async else pieces.__next__, _no_text, _itself, _told)


def _no_text(chunk: Any) -> str:  # noqa: ARG001 (a closer look at each)
    return ""


def _itself(piece: Any) -> Any:
    return piece


def _told(error: BaseException) -> bool:  # noqa: ARG001 (the stream's own iterator has noted it)
    return False


def _no_more() -> NoReturn:
    raise StopIteration


def _no_more_async() -> NoReturn:
    raise StopAsyncIteration


_NO_MORE: Final = {False: _no_more, True: _no_more_async}
