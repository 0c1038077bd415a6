"""An alarm: one event-loop timer that is moved, not remade, and cancels the task that waits when it rings."""

from __future__ import annotations

import asyncio
import math
import types
from asyncio import current_task
from typing import TYPE_CHECKING, Any

from resilience.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_EARLY_SECONDS = 0.001  # loops may fire this much before the time that was asked for


class Alarm:
    """A time limit on what one task at a time awaits, as `asyncio.timeout` but to be armed again and again.

    A stream arms it for every chunk: that moves a number, and the loop's timer looks at it when it fires.

    Attributes:
        due: When it rings, in the loop's time; None while it is silent. What has been awaited may set it to None
            itself instead of calling `disarm`, if ``rang`` is False.
        rang: Whether it has cancelled the task.
        time: The loop's time. There is none before it is armed for the first time.
    """

    __slots__ = ("_cancelling", "_fires_at", "_loop", "_task", "_timer", "due", "rang", "time")

    _cancelling: int
    _loop: asyncio.AbstractEventLoop
    time: Callable[[], float]

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = -math.inf
        self._task: asyncio.Task[object] | None = None
        self.due: float | None = None
        self.rang = False

    def arm(self, seconds: float) -> None:
        """Ring in ``seconds``, in the task that calls this."""
        if self._fires_at < 0:
            self._begin()
        self.move(self.time() + seconds)

    def move(self, due: float) -> None:
        """Ring at ``due``, a time of the loop's, in the task that calls this. Only after it was armed once."""
        task = current_task(self._loop)
        if task is None:  # driven by hand and not by a task: there is nothing to cancel
            return
        self._task = task
        self._cancelling = task.cancelling()
        self.due = due
        if due < self._fires_at:
            self._set(due)

    def disarm(self) -> None:
        """Be silent until armed again. The loop's timer stays: it will find nothing to do."""
        self.due = None
        if self.rang:
            # It rang, and what was awaited ended all the same: take the cancellation back.
            self.rang = False
            if self._task is not None:
                self._task.uncancel()
        self._task = None

    @property
    def is_set(self) -> bool:
        """Whether it has been armed since it was made or closed."""
        return self._task is not None or self._timer is not None

    def close(self) -> None:
        """Disarm, and free the loop's timer."""
        self.disarm()
        timer, self._timer, self._fires_at = self._timer, None, -math.inf
        if timer is not None:
            timer.cancel()

    def forget(self) -> None:
        """Disarm from any thread, without touching the loop."""
        self.due = None
        self._task = None

    def was_it(self) -> bool:
        """After a CancelledError or an error that may hide one: did this alarm cause it, and nobody else?

        Takes the alarm's own cancellation back. The caller's cancellation, at the same moment too, wins.
        """
        task = self._task
        if not self.rang or task is None:
            return False
        self.rang = False
        return task.uncancel() <= self._cancelling

    def was_cancelled(self) -> bool:
        """Whether somebody else has asked the task to stop since the alarm was armed."""
        task = self._task
        return task is not None and task.cancelling() > self._cancelling

    def _begin(self) -> None:
        self._fires_at = math.inf
        self._loop = loop = asyncio.get_running_loop()
        # asyncio's own loops read the machine's clock, by a call more. Others may have a time of their own.
        own = type(loop).time is asyncio.BaseEventLoop.time
        self.time = SYSTEM_CLOCK.monotonic if own else loop.time

    def _set(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = due
        self._timer = self._loop.call_at(due, self._fire)

    def _fire(self) -> None:
        self._timer, self._fires_at = None, math.inf
        due = self.due
        if due is None:
            return
        if due > self._loop.time() + _EARLY_SECONDS:
            self._set(due)
            return
        self.due = None
        if self._task is not None:
            self.rang = True
            self._task.cancel()


@types.coroutine
def bounded(call: Any, alarm: Alarm, seconds: float, monotonic: Callable[[], float]) -> Generator[Any, Any, Any]:
    """Await ``call``, and have ``alarm`` ring if it takes longer than ``seconds``.

    The alarm is armed when the call first waits for something: one that is answered at once needs no timer.

    Args:
        call: A coroutine that has not been started, or another awaitable.
        alarm: Disarmed. The caller closes it.
        seconds: From now on.
        monotonic: Where time comes from.
    """
    ends_at = monotonic() + seconds
    if not hasattr(call, "send"):
        call = call.__await__()  # a future, or something of the caller's own
    try:
        waits_for = call.send(None)
        alarm.arm(max(0.0, ends_at - monotonic()))
        while True:
            try:
                yield waits_for
            except BaseException as error:  # noqa: BLE001 (thrown into the call, which it was meant for)
                thrown = error
            else:
                return (yield from call)
            waits_for = call.throw(thrown)
    except StopIteration as end:
        return end.value
