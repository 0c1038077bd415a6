"""An alarm: one event-loop timer that is moved, not remade, and cancels the task that waits when it rings."""

from __future__ import annotations

import asyncio
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_EARLY_SECONDS = 0.001  # loops may fire this much before the time that was asked for


class Alarm:
    """A time limit on what one task at a time awaits, as `asyncio.timeout` but to be armed again and again.

    A stream arms it for every chunk: that moves a number, and the loop's timer looks at it when it fires.
    """

    __slots__ = ("_cancelling", "_due", "_loop", "_rang", "_task", "_timer")

    _cancelling: int
    _loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._due: float | None = None
        self._rang = False

    def arm(self, seconds: float) -> None:
        """Ring in ``seconds``, in the task that calls this."""
        self._loop = loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        due = loop.time() + seconds
        if task is None:  # driven by hand and not by a task: there is nothing to cancel
            return
        self._task = task
        self._cancelling = task.cancelling()
        self._due = due
        timer = self._timer
        if timer is None:
            self._timer = self._loop.call_at(due, self._fire)
        elif timer.when() > due:
            timer.cancel()
            self._timer = self._loop.call_at(due, self._fire)

    def disarm(self) -> None:
        """Be silent until armed again. The loop's timer stays: it will find nothing to do."""
        self._due = None
        if self._rang:
            # It rang, and what was awaited ended all the same: take the cancellation back.
            self._rang = False
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
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def forget(self) -> None:
        """Disarm from any thread, without touching the loop."""
        self._due = None
        self._task = None

    def was_it(self) -> bool:
        """After a CancelledError or an error that may hide one: did this alarm cause it, and nobody else?

        Takes the alarm's own cancellation back. The caller's cancellation, at the same moment too, wins.
        """
        task = self._task
        if not self._rang or task is None:
            return False
        self._rang = False
        return task.uncancel() <= self._cancelling

    def was_cancelled(self) -> bool:
        """Whether somebody else has asked the task to stop since the alarm was armed."""
        task = self._task
        return task is not None and task.cancelling() > self._cancelling

    def _fire(self) -> None:
        self._timer = None
        due = self._due
        if due is None:
            return
        if due > self._loop.time() + _EARLY_SECONDS:
            self._timer = self._loop.call_at(due, self._fire)
            return
        self._due = None
        if self._task is not None:
            self._rang = True
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
