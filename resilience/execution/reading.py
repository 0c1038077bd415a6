"""Reading: an open stream taken in piece by piece, with a limit on every pause, for those who hand on and who hold."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from resilience.execution.deadline import timed_out
from resilience.execution.seam import Seam
from resilience.outcome import Kind, Outcome

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
    """

    __slots__ = (
        "_admission", "_alarm", "_ends_at", "_last", "_latency", "_left", "_look_at", "_monotonic",
        "_pieces", "_place", "_seam", "_stall", "_stream", "_upstream", "_whole", "ready",
    )  # fmt: skip

    def __init__(self, job: Job, step: Attempt, opened: Opened) -> None:
        self._monotonic = job.lane.monotonic
        self._upstream = job.lane.upstream
        self._admission = step.admission
        self._place = step.place
        self._stall = self._left = step.limits.stall
        self._whole = step.limits.whole
        self._stream = opened.stream
        self._pieces = opened.pieces
        self._alarm = opened.alarm
        self._latency = opened.latency_seconds
        self._look_at = 0.0
        self._ends_at = self._monotonic() + self._whole - self._latency
        self._last: Outcome | None = None
        self.ready = opened.ready
        self._seam: Seam | None = None
        if step.continues is not None:
            self._seam = Seam(self._upstream.graft(job.operation, job.params, step.continues), step.continues.text)
            self.ready = self._seam.all_of(opened.ready)

    def read(self) -> Piece | Outcome | None:
        """Take one more piece in.

        Returns:
            The piece; or how the stream ended; or nothing yet: then look at ``ready``, and ask again.
        """
        pieces = self._pieces
        if pieces is None:
            return self._of_end()
        started = self._monotonic()
        try:
            piece = next(pieces)
        except StopIteration:
            return self._of_end()
        except Exception as error:  # noqa: BLE001 (classified here, and raised by the plan)
            return self._of_error(error)
        return self._arrived(piece, started)

    async def aread(self) -> Piece | Outcome | None:
        """The same in a task. The clock runs only in here, so a slow reader is no stall."""
        pieces, alarm = self._pieces, self._alarm
        if pieces is None:
            return self._of_end()
        assert alarm is not None  # noqa: S101 (every async stream is opened with one)
        started = self._monotonic()
        left = self._ends_at - started
        alarm.arm(left if left < self._left else self._left)  # noqa: FURB136 (at a fifth of what `min` takes)
        try:
            piece = await anext(pieces)
        except StopAsyncIteration:
            return self._of_end()
        except asyncio.CancelledError:
            if alarm.was_it():
                return self._too_late(left)
            raise
        except Exception as error:
            if alarm.was_it():
                return self._too_late(left)
            if alarm.was_cancelled():
                # Somebody below turned the reader's cancellation into an error.
                raise asyncio.CancelledError from error
            return self._of_error(error)
        finally:
            alarm.disarm()
        return self._arrived(piece, started)

    def _arrived(self, piece: Piece, started: float) -> Piece | Outcome | None:
        now = self._monotonic()
        if piece[2]:  # has_content: by position, since this runs for every chunk
            self._left = self._stall
        else:
            # A keep-alive or an empty delta does not feed the limit: only content starts the pause anew.
            self._left -= now - started
            if self._left <= 0:
                return self._of_stall()
        if now >= self._look_at:
            if now >= self._ends_at:
                return self._of_deadline()
            self._look_at = min(now + _TOUCH_SECONDS, self._ends_at)
            self._admission.touch()
        if self._seam is None:
            return piece
        self.ready.extend(self._seam.take(piece))
        return None

    def _of_end(self) -> Outcome | None:
        outcome = self._last
        if outcome is None:
            whole = self._pieces is None or self._stream.ended_whole()
            outcome = Outcome(Kind.SUCCESS if whole else Kind.INTERRUPTED, latency_seconds=self._latency)
            if whole and self._seam is not None and (rest := self._seam.rest()):
                self.ready.extend(rest)
                self._pieces, self._last = None, outcome
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

    def _too_late(self, seconds_left: float) -> Outcome:
        return self._of_deadline() if seconds_left < self._left else self._of_stall()

    def _of_stall(self) -> Outcome:
        return timed_out(self._place, "stall_seconds", self._stall, self._latency)

    def _of_deadline(self) -> Outcome:
        return timed_out(self._place, "deadline_seconds", self._whole, self._latency)
