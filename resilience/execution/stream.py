"""Guarded streams: the provider's own chunks, with the permit held to the last one and a limit on every pause."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from resilience.errors import StreamInterruptedError
from resilience.execution.reading import Reading
from resilience.execution.steps import Deliver
from resilience.outcome import Kind, Outcome
from resilience.upstream import Delivered, Piece

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import TracebackType

    from resilience.execution.alarm import Alarm
    from resilience.execution.attempt import Job, Opened
    from resilience.execution.steps import Attempt, Reply, Step
    from resilience.upstream import AttemptRecord

    Plan = Generator[Step, Any, Any]


class _Delivery:
    """What both kinds of stream share: what was delivered, who gave it, and an end that is told once."""

    def __init__(self, job: Job, plan: Plan, deliver: Deliver) -> None:
        self._job = job
        self._plan = plan
        self._parts: tuple[str, ...] = ()
        self._models: tuple[str, ...] = ()
        self._last: Any = None
        self._is_plain = True
        self._done = False
        self._take(deliver)

    def _take(self, deliver: Deliver) -> None:
        opened: Opened = deliver.opened
        self._step: Attempt = deliver.attempt
        self._opened = opened
        self._stream = opened.stream
        self._reading = Reading(self._job, self._step, opened)
        self._ready = self._reading.ready
        self._text = io.StringIO()
        self._write = self._text.write
        self._records: tuple[AttemptRecord, ...] = deliver.records
        self._priced = False

    @property
    def waiting(self) -> list[Any]:
        """The chunks that have come and have not been handed over yet."""
        return [piece.chunk for piece in self._ready]

    @property
    def delivered(self) -> str:
        """Exactly the text that has been handed over."""
        return "".join(self._parts) + self._text.getvalue()

    @property
    def _hidden_params(self) -> dict[str, Any]:
        # LiteLLM's own place for such things. A price is looked up only if somebody asks.
        if self._done and not self._priced:
            self._priced = True
            last = self._records[-1] if self._records else None
            if last is not None and last.kind is Kind.SUCCESS and (cost := self._stream.cost_usd()) is not None:
                self._records = (*self._records[:-1], replace(last, cost_usd=cost))
        return {"resilience": self._records}

    def _hand_over(self, piece: Piece) -> Any:
        chunk, text, _, is_plain = piece
        if text:
            self._write(text)
            self._last = chunk
        if not is_plain:
            self._is_plain = False
        return chunk

    def _failed(self, error: BaseException, hang_up: Callable[[], None]) -> Outcome | None:
        try:
            return self._reading.failed(error)
        except BaseException:
            hang_up()
            raise

    def _broken(self) -> Delivered:
        """What the reader has been given, as the plan must know it after a break."""
        job = self._job
        self._parts = (*self._parts, self._text.getvalue())
        self._models = (*self._models, self._step.place.target.model)
        self._text = io.StringIO()
        is_plain = self._is_plain and job.lane.upstream.asks_plain_text(job.operation, job.params)
        return Delivered(self._parts, is_plain, self._last, self._models)

    def _went_on(self, after: Any) -> None:
        """The plan has gone on: to another target that writes on where this one broke, or to the end."""
        if type(after) is Deliver:
            self._done = False
            self._take(after)
        elif after is not None:
            self._records = after

    def _leave(self) -> bool:
        """The reader goes. Returns whether there is a stream to hang up on."""
        if self._done:
            return False
        self._done = True
        if not self._ready and self._stream.ended_whole():
            # Many readers stop at the finish reason: the provider has done all it had to.
            success = Outcome(Kind.SUCCESS, latency_seconds=self._opened.latency_seconds)
            try:
                self._plan.send((success, None))
            except StopIteration:
                return True
        self._plan.close()
        if not self._job.holds:  # what was held back had ended before
            self._records = (*self._records[:-1], replace(self._records[-1], kind=Kind.CANCELLED))
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
            reading = self._reading
            try:  # `Reading.read`, written out: it runs for every chunk
                chunk = reading.next()
                if text := reading.text(chunk):
                    reading.left = reading.stall
                    self._write(text)
                    self._last = chunk
                    return chunk
                came = reading.taken(chunk)
            except BaseException as error:  # noqa: BLE001 (what is not the stream's is raised there)
                came = self._failed(error, self.close)
            if isinstance(came, Piece):
                return self._hand_over(came)
            if came is not None:
                self._end(came)
        raise StopIteration

    def _end(self, outcome: Outcome) -> None:
        self._done = True
        whole = outcome.kind is Kind.SUCCESS
        if not whole:
            self._stream.close()
        try:
            self._went_on(self._drive(self._job, self._plan, (outcome, None if whole else self._broken())))
        except StreamInterruptedError as error:
            self._records = error.attempts
            raise

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

    def _take(self, deliver: Deliver) -> None:
        super()._take(deliver)
        self._alarm: Alarm = deliver.opened.alarm

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while not self._done:
            if self._ready:
                return self._hand_over(self._ready.popleft())
            reading, alarm = self._reading, self._alarm
            try:  # `Reading.aread`, written out: it runs for every chunk
                chunk = await reading.next()
                alarm.due = None
                if (text := reading.text(chunk)) and not alarm.rang:
                    reading.left = reading.stall
                    self._write(text)
                    self._last = chunk
                    return chunk
                came = reading.taken(chunk)
            except BaseException as error:  # noqa: BLE001 (what is not the stream's is raised there)
                came = self._failed(error, self._abandon)
            if isinstance(came, Piece):
                return self._hand_over(came)
            if came is not None:
                await self._end(came)
        raise StopAsyncIteration

    async def _end(self, outcome: Outcome) -> None:
        self._done = True
        whole = outcome.kind is Kind.SUCCESS
        if not whole:
            self._stream.abandon()
        self._alarm.close()
        try:
            self._went_on(await self._drive(self._job, self._plan, (outcome, None if whole else self._broken())))
        except StreamInterruptedError as error:
            self._records = error.attempts
            raise

    async def aclose(self) -> None:
        """Hang up. The attempt then counts as cancelled, which says nothing about the provider's health."""
        if self._leave():
            self._alarm.close()
            await self._stream.aclose()

    def _abandon(self) -> None:
        # From the collector or another thread: the loop's timer is left to fire into the void.
        if self._leave():
            self._alarm.forget()
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
