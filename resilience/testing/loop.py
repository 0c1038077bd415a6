"""A virtual-time event loop: when everything waits, time jumps to the next timer. Hours pass in milliseconds.

Libraries that do this exist (looptime, aiotools.VirtualClock). They patch the selector of a real loop and keep its
sockets, so that waiting for ever looks like waiting for the network; this one has none, and says at once who waits.
"""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from math import ulp
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from resilience.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    AnyResult = TypeVar("AnyResult")

_BIRTH = datetime(2026, 1, 1, tzinfo=UTC)
_SHOWN = 5


class DeadlockError(RuntimeError):
    """Every task waits, and nothing is left that could wake one."""


class VirtualClock(SystemClock):
    """The clock of a `VirtualTimeLoop`: its readings are the loop's, and who sleeps on it lets the loop's time pass.

    Args:
        loop: Whose.
    """

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self._start = loop.time()
        # What a task waits for here is a timer of the loop: to the engine it is a clock like the machine's.
        self.monotonic = loop.time  # bound once, as the machine's is

    def now(self) -> datetime:
        """The same as a date; it begins with 2026."""
        return _BIRTH + timedelta(seconds=self._loop.time() - self._start)

    def sleep(self, seconds: float) -> None:
        """Block the loop: time passes, and nobody else runs meanwhile."""
        self._loop.block(seconds)


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """An asyncio event loop whose time stands still while anything can run, and jumps while nothing can.

    There are no sockets, pipes, signals or subprocesses. `asyncio.to_thread` works: time stands still until the
    thread is done. Code that reads the machine's clock, or that starts threads of its own, sees real time.

    Args:
        start: Its first reading. Not 0, so that a forgotten default is noticed.

    Attributes:
        clock: A `resilience.clock.Clock` that is bound to this loop.
    """

    def __init__(self, start: float = 1000.0) -> None:
        super().__init__()
        self._virtual = start
        self._in_threads = 0
        self._woken = threading.Event()
        self._selector = self  # what asyncio asks when nothing is ready: see `select`
        self.clock = VirtualClock(self)

    def time(self) -> float:
        """Seconds, as far as they have passed."""
        return self._virtual

    def block(self, seconds: float) -> None:
        """Let time pass in one step, as a call that blocks the loop would.

        Raises:
            ValueError: ``seconds`` is negative.
        """
        if seconds < 0:
            raise ValueError(f"cannot block for {seconds!r} s; allowed: 0 or more")
        self._virtual += seconds

    def pass_time(self, until: float | None) -> None:
        """Nothing is ready: go to the next timer. A world that has events of its own overrides this.

        Args:
            until: When it is due; None where there is none.

        Raises:
            DeadlockError: There is none.
        """
        if until is None:
            raise DeadlockError(self._who_waits())
        self._virtual = max(self._virtual, until)
        # Asyncio fires what is due within the clock's resolution: less than a float's own grain is never due.
        self._clock_resolution = ulp(self._virtual)

    # ---- what asyncio asks of a loop

    def select(self, timeout: float | None) -> list[Any]:
        """Asyncio's question to its selector: wait for ``timeout`` seconds at most, or for ever."""
        if self._woken.is_set() or (timeout is not None and timeout <= 0):
            self._woken.clear()
        elif self._in_threads:
            self._woken.wait()
            self._woken.clear()
        else:
            self.pass_time(None if timeout is None else self.time() + timeout)
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none: nothing is connected."""

    def _write_to_self(self) -> None:
        self._woken.set()

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]  # typeshed's has type variables of its own
        """Run a function in a thread. Time stands still until it is done."""
        self._in_threads += 1
        try:
            future = super().run_in_executor(executor, func, *args)
        except BaseException:
            self._in_threads -= 1
            raise
        future.add_done_callback(self._thread_done)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109 (3.12 has it)
        """Wait for the threads."""
        self._in_threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._in_threads -= 1

    async def create_connection(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: there are no sockets."""
        _no_sockets()

    async def create_server(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: there are no sockets."""
        _no_sockets()

    async def create_datagram_endpoint(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: there are no sockets."""
        _no_sockets()

    # ---- parts

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._in_threads -= 1

    def _who_waits(self) -> str:
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: (len(task.get_name()), task.get_name()))
        told = [f"{task.get_name()} in {_place(task)}" for task in tasks[:_SHOWN]]
        more = f" and {len(tasks) - _SHOWN} more" if len(tasks) > _SHOWN else ""
        who = ", ".join(told) or "the one that was to be run"
        return f"nothing can happen any more at {self.time():g} s: no timer is set, and {who}{more} wait for ever"


def run_virtual(main: Coroutine[Any, Any, AnyResult], *, start: float = 1000.0) -> AnyResult:
    """Run a coroutine in virtual time, as `asyncio.run` does in real time.

    Inside it, ``asyncio.get_running_loop().clock`` is a clock for ``clock=`` of whatever takes one.

    Args:
        main: What to run.
        start: The first reading of the loop's clock, in seconds.

    Raises:
        DeadlockError: Every task waits and nothing could wake one; it names the tasks.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(start)) as runner:
        return runner.run(main)


def _place(task: asyncio.Task[Any]) -> str:
    stack = task.get_stack(limit=1)
    name = getattr(task.get_coro(), "__qualname__", "a coroutine")
    return f"{name}, line {stack[0].f_lineno}" if stack else str(name)


def _no_sockets() -> NoReturn:
    raise NotImplementedError("a virtual-time loop has no sockets; use a scripted upstream, or a loop of asyncio's own")
