"""Guarded streams: the provider's own chunks, with the permit held to the last one and a limit on every pause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from resilience.execution.attempt import timed_out
from resilience.outcome import Kind, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import TracebackType

    from resilience.execution.attempt import Job, Opened
    from resilience.execution.steps import Attempt, Deliver, Reply, Step
    from resilience.upstream import Piece

    Plan = Generator[Step, Any, Any]

_TOUCH_SECONDS = 1.0  # a lease lasts a minute; telling it more often would only cost


class _Delivery:
    """What both kinds of stream share: what was delivered, the pause's limit, and an end that is told once."""

    _hidden_params: dict[str, Any]

    def __init__(self, job: Job, plan: Plan, deliver: Deliver) -> None:
        self._job = job
        self._plan = plan
        self._text: list[str] = []
        self._done = False
        self._touch_at = 0.0
        self._take(deliver)

    def _take(self, deliver: Deliver) -> None:
        opened: Opened = deliver.opened
        self._step: Attempt = deliver.attempt
        self._opened = opened
        self._ready = opened.ready
        self._stream = opened.stream
        self._pieces = opened.pieces
        self._left = self._step.limits.stall
        self._hidden_params = {"resilience": deliver.records}

    @property
    def delivered(self) -> str:
        """Exactly the text that has been handed over."""
        return "".join(self._text)

    def _hand_over(self, piece: Piece) -> Any:
        if piece.text:
            self._text.append(piece.text)
        return piece.chunk

    def _arrived(self, piece: Piece, waited: float, now: float) -> None:
        # A keep-alive or an empty delta does not feed the limit: only content starts the pause anew.
        limit = self._step.limits.stall
        self._left = limit if piece.has_content else self._left - waited
        if now >= self._touch_at:
            self._touch_at = now + _TOUCH_SECONDS
            self._step.admission.touch()

    def _outcome(self, kind: Kind, error: BaseException | None = None) -> Outcome:
        return Outcome(kind, error, latency_seconds=self._opened.latency_seconds)

    def _of_error(self, error: Exception) -> Outcome:
        told = self._job.lane.upstream.classify(error)
        return Outcome(
            told.kind,
            told.error,
            told.status,
            told.retry_after_seconds,
            told.reset_seconds,
            told.should_retry,
            self._opened.latency_seconds,
        )

    def _of_end(self) -> Outcome:
        return self._outcome(Kind.SUCCESS if self._stream.ended_whole() else Kind.INTERRUPTED)

    def _of_stall(self) -> Outcome:
        limits = self._step.limits
        return timed_out(self._step.place, "stall_seconds", limits.stall, self._opened.latency_seconds)

    def _leave(self) -> bool:
        """The reader goes. Returns whether there is a stream to hang up on."""
        if self._done:
            return False
        self._done = True
        if not self._ready and self._stream.ended_whole():
            # Many readers stop at the finish reason: the provider has done all it had to.
            try:
                self._plan.send((self._outcome(Kind.SUCCESS), self.delivered))
            except StopIteration:
                return True
        self._plan.close()
        return True


class GuardedStream(_Delivery):
    """A stream for a thread. Iterate it, or leave it: by `close`, a ``with`` block, or dropping it."""

    def __init__(self, job: Job, plan: Plan, deliver: Deliver, drive: Callable[[Job, Plan, Reply], Any]) -> None:
        super().__init__(job, plan, deliver)
        self._drive = drive

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        while not self._done:
            if self._ready:
                return self._hand_over(self._ready.popleft())
            outcome = self._read()
            if outcome is not None:
                self._end(outcome)
        raise StopIteration

    def _read(self) -> Outcome | None:
        """Take one more piece in. Returns how the stream ended, if it did."""
        if self._pieces is None:
            return self._outcome(Kind.SUCCESS)
        monotonic = self._job.lane.monotonic
        started = monotonic()
        try:
            piece = next(self._pieces)
        except StopIteration:
            return self._of_end()
        except Exception as error:  # noqa: BLE001 (classified here, and raised by the plan)
            return self._of_error(error)
        except BaseException:
            self.close()
            raise
        now = monotonic()
        self._arrived(piece, now - started, now)
        if self._left <= 0:
            return self._of_stall()
        self._ready.append(piece)
        return None

    def _end(self, outcome: Outcome) -> None:
        self._done = True
        if outcome.kind is not Kind.SUCCESS:
            self._stream.close()
        after = self._drive(self._job, self._plan, (outcome, self.delivered))
        if after is not None:  # another target goes on where this one broke
            self._done = False
            self._take(after)

    def close(self) -> None:
        """Hang up. The attempt then counts as cancelled, which says nothing about the provider's health."""
        if self._leave():
            self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_done", True):
            self.close()


class AsyncGuardedStream(_Delivery):
    """A stream for asyncio. Iterate it, or leave it: by `aclose`, an ``async with`` block, or dropping it."""

    def __init__(
        self, job: Job, plan: Plan, deliver: Deliver, drive: Callable[[Job, Plan, Reply], Awaitable[Any]]
    ) -> None:
        super().__init__(job, plan, deliver)
        self._drive = drive

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while not self._done:
            if self._ready:
                return self._hand_over(self._ready.popleft())
            outcome = await self._read()
            if outcome is not None:
                await self._end(outcome)
        raise StopAsyncIteration

    async def _read(self) -> Outcome | None:
        """Take one more piece in. Returns how the stream ended, if it did."""
        if self._pieces is None:
            return self._outcome(Kind.SUCCESS)
        alarm = self._opened.alarm
        assert alarm is not None  # noqa: S101 (every async stream is opened with one)
        monotonic = self._job.lane.monotonic
        started = monotonic()
        alarm.arm(self._left)
        try:
            piece = await anext(self._pieces)
        except StopAsyncIteration:
            return self._of_end()
        except Exception as error:  # noqa: BLE001 (classified here, and raised by the plan)
            return self._of_stall() if alarm.was_it() else self._of_error(error)
        except BaseException:
            # The clock runs only in here, so a slow reader is no stall.
            if alarm.was_it():
                return self._of_stall()
            self._abandon()
            raise
        finally:
            alarm.disarm()
        now = monotonic()
        self._arrived(piece, now - started, now)
        if self._left <= 0:
            return self._of_stall()
        self._ready.append(piece)
        return None

    async def _end(self, outcome: Outcome) -> None:
        self._done = True
        if outcome.kind is not Kind.SUCCESS:
            self._stream.abandon()
        if self._opened.alarm is not None:
            self._opened.alarm.close()
        after = await self._drive(self._job, self._plan, (outcome, self.delivered))
        if after is not None:  # another target goes on where this one broke
            self._done = False
            self._take(after)

    async def aclose(self) -> None:
        """Hang up. The attempt then counts as cancelled, which says nothing about the provider's health."""
        if self._leave():
            if self._opened.alarm is not None:
                self._opened.alarm.close()
            await self._stream.aclose()

    def _abandon(self) -> None:
        # From the collector or another thread: the loop's timer is left to fire into the void.
        if self._leave():
            if self._opened.alarm is not None:
                self._opened.alarm.forget()
            self._stream.abandon()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not getattr(self, "_done", True):
            self._abandon()
