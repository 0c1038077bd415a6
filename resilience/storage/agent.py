"""The agent: one thread with its own loop per process, the only one that talks to the store."""

from __future__ import annotations

import asyncio
import atexit
import os
import random
import secrets
import socket
import threading
import weakref
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

from resilience.clock import SYSTEM_CLOCK
from resilience.events import StorageDegraded, StorageRestored
from resilience.fork import renew_in_children
from resilience.settings.storage import shown_address
from resilience.storage.post import Post
from resilience.storage.redis import RedisStore, load_client
from resilience.storage.row import is_newer, read_json, read_row
from resilience.storage.seating import Seating

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilience.breaker.circuit import CircuitBreaker
    from resilience.clock import Clock
    from resilience.events import Event
    from resilience.storage.redis import Store
    from resilience.storage.seat import Office

POLL_SECONDS: Final = 1.0
SHOW_SECONDS: Final = 5.0
"""How often a process shows that it lives."""
SYNC_SECONDS: Final = 300.0
"""How often everything is read again, whatever the news said."""
FLUSH_SECONDS: Final = 0.25
"""How often window counts are told while there is traffic."""
FAILED_FLUSH_SECONDS: Final = 0.01
"""The same after a failure: those are few, and the fleet's sum waits for them."""
FIRST_WAIT_SECONDS: Final = 0.5
"""How long a new runtime waits for what the fleet knows."""
BACKOFF_SECONDS: Final = 0.1
BACKOFF_MAX_SECONDS: Final = 5.0
LEAVE_SECONDS: Final = 1.0
LISTEN_SECONDS: Final = 60.0
_DEAF_POLLS: Final = 3
_REASON_CHARS: Final = 200


class DeafError(Exception):
    """Polls find changes that no message told."""


class Agent:
    """Shares the state of its breakers with the fleet. No caller ever waits for it.

    Args:
        address: The store's address; see `resilience.storage.redis.RedisStore`.
        publish: Hears `StorageDegraded` and `StorageRestored`.
        rng: Where jitter comes from.
        clock: Where time comes from.
        make_store: Makes the store. Default: the one at ``address``.
        member: This process's name in the fleet. Default: made of its host, its number and chance.

    Attributes:
        online: Whether the store answers; otherwise every breaker goes by what this process knows.
        trouble: What was told when the store went away, None while it answers.

    Raises:
        ConfigurationError: The redis client is not installed.
    """

    def __init__(
        self,
        address: str,
        publish: Callable[[Event], None],
        *,
        rng: random.Random | None = None,
        clock: Clock = SYSTEM_CLOCK,
        make_store: Callable[[], Store] | None = None,
        member: str | None = None,
    ) -> None:
        if make_store is None:
            load_client()  # here, since a process that forks during another thread's import could never import it
        self._address = address
        self._clock = clock
        self._make_store = make_store or partial(RedisStore, address)
        self._named = member
        self._publish = publish
        self._rng = rng or random.Random()
        self._monotonic = clock.monotonic
        self._seating = Seating(clock)
        self._errands: list[Callable[[], None]] = []
        self._buried: list[Any] = []
        self.trouble: StorageDegraded | None = None
        self._degraded_at = 0.0
        self._closed = False
        self._renew()
        renew_in_children(self)

    def _renew(self) -> None:
        self.online = False
        self.member = self._named or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._lock = threading.Lock()
        self._waiting: list[threading.Event] = []
        self._store = self._make_store()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._awake = False
        self._revision = 0
        self._unheard = 0
        self._post = Post(self._store, self._seating.members, self.member, self._clock)

    # -- called from anywhere -------------------------------------------------------------------------------

    def join(self, breaker: CircuitBreaker, identity: str, office: Office | None = None) -> None:
        """Let a breaker share its state under a name that is the same in every process.

        Args:
            breaker: The breaker.
            identity: Its name in the fleet.
            office: Who it belongs to, where several runtimes share this agent.
        """
        self._seating.join(breaker, identity, office or self)
        self.wake()

    def part(self, office: Office) -> None:
        """Take everything out of the fleet that belongs to one runtime. What it had leased is given back."""
        self._seating.part(office)
        self.wake()

    def start(self) -> None:
        """Start the thread if there is none, and wait a moment for what the fleet knows."""
        known = threading.Event()
        with self._lock:
            self._waiting.append(known)
            if self._thread is None:
                self._start()
        self.wake()
        if self.trouble is None:
            known.wait(FIRST_WAIT_SECONDS)

    def send(self, errand: Callable[[], None]) -> None:
        """Have something done by the agent's thread. Takes no lock: the garbage collector calls it, anywhere."""
        self._errands.append(errand)
        self.wake()

    async def live(self) -> None:
        """Do the agent's work on the caller's loop instead of a thread's, until cancelled."""
        self._delay_seconds = 0.0
        self._woken, self._stopped = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        await self._live()

    def wake(self) -> None:
        """There are notes to deliver. Costs next to nothing if that is known."""
        loop = self._loop
        if self._awake or loop is None:
            return
        self._awake = True
        try:
            loop.call_soon_threadsafe(self._woken.set)
        except RuntimeError:
            return  # the loop has ended

    def close(self, *, wait: bool = True) -> None:
        """Give back what was leased, hang up, and end the thread. Closing twice is no harm.

        Args:
            wait: Whether to wait for the end of it, at most two seconds.
        """
        self._closed = True
        thread, loop = self._thread, self._loop
        if thread is None or loop is None or not thread.is_alive():
            return
        try:
            loop.call_soon_threadsafe(self._stopped.set)
        except RuntimeError:
            return
        if wait and thread is not threading.current_thread():
            thread.join(2 * LEAVE_SECONDS)

    def renew_after_fork(self) -> None:
        """In a forked child: a thread, a loop and connections of its own."""
        # The parent's loop and sockets are shared with it: to close them here would unregister them there.
        self._buried.append((self._store, self._loop, self._thread))
        was_running = self._thread is not None
        self._renew()
        self._seating.renew()
        if was_running and not self._closed:
            self._start(delay_seconds=0.05)  # the other locks of this child are being renewed just now

    # -- the thread -----------------------------------------------------------------------------------------

    def _start(self, delay_seconds: float = 0.0) -> None:
        self._delay_seconds = delay_seconds
        self._woken, self._stopped = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop,), name="resilience-fleet", daemon=True)
        self._thread.start()
        _AGENTS.add(self)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._live())
        finally:
            self._offline()
            loop.close()

    async def _live(self) -> None:
        failures = 0
        await self._pause(self._stopped, self._delay_seconds)
        while not self._stopped.is_set():
            try:
                self._run_errands()
                await self._open()
                failures = 0
                await self._serve()
            except Exception as error:  # noqa: BLE001 (whatever it is, requests go on and it is tried again)
                self._degrade(error)
                await self._store.close()
            if self._stopped.is_set():
                break
            seconds = min(BACKOFF_SECONDS * 2**failures, BACKOFF_MAX_SECONDS) * self._rng.uniform(0.5, 1.0)
            failures = min(failures + 1, 10)
            await self._pause(self._stopped, seconds)
        await self._leave()

    async def _open(self) -> None:
        store = self._store
        await store.connect()
        await store.show(self.member)
        await self._sync()
        self._tell_known()  # also where our own news cannot be told: what is known, is
        await self._post.push()
        await self._post.flush(whole=True)  # and every key that is written later proves itself now
        self.online = True
        self._unheard = 0
        if self.trouble is not None:
            self.trouble = None
            self._publish(StorageRestored(self._monotonic() - self._degraded_at))

    async def _serve(self) -> None:
        tasks = [asyncio.ensure_future(work()) for work in (self._pump, self._poll, self._listen, self._stopped.wait)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=LEAVE_SECONDS)
            for task in tasks:
                if task.done() and not task.cancelled():
                    task.exception()  # one of them has told why; nobody asks the others

    def _degrade(self, error: Exception) -> None:
        self._offline()
        if self.trouble is None:
            self._degraded_at = self._monotonic()
            said = " ".join(str(error).split())[:_REASON_CHARS]
            where = shown_address(self._address)
            self.trouble = StorageDegraded(f"{where}: {said or 'no answer'} ({type(error).__name__})")
            self._publish(self.trouble)
        self._tell_known()

    def _offline(self) -> None:
        self.online = False
        self._seating.on_their_own()

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                if self.online:
                    self._seating.give_back(inf)
                    await self._post.push()
                    await self._post.settle()
                    await self._store.leave(self.member)
        except Exception as error:  # noqa: BLE001 (it leaves: leases end by themselves)
            self._buried.append(error)
        await self._store.close()

    # -- what it does all day -------------------------------------------------------------------------------

    async def _pump(self) -> None:
        while not self._stopped.is_set():
            self._awake = False
            self._run_errands()
            await self._welcome()
            now = self._monotonic()
            due = now + FLUSH_SECONDS
            hurried = False
            self._seating.give_back(now)
            for seat in self._seating.members():
                with seat.breaker.lock:
                    due = min(due, seat.due_locked(now))
                    hurried = hurried or seat.recheck_at <= now
            await self._post.push()
            await self._post.settle()
            await self._post.ask()
            self._seating.forget()
            pause = FAILED_FLUSH_SECONDS if hurried else FLUSH_SECONDS
            if self._post.is_asked or self._monotonic() - self._post.flushed_at >= pause:
                await self._post.flush()
            elif hurried:
                due = min(due, self._post.flushed_at + pause)
            await self._pause(self._woken, max(0.005, due - self._monotonic()))
            self._woken.clear()

    async def _poll(self) -> None:
        shown = synced = self._monotonic()
        while not self._stopped.is_set():
            await self._pause(self._stopped, POLL_SECONDS * self._rng.uniform(0.9, 1.0))
            now = self._monotonic()
            revision, seen = await self._store.revision(), self._revision
            if revision < seen or now - synced >= SYNC_SECONDS:
                await self._store.time()
                await self._sync()
                synced = now
            elif revision > seen:
                # A message may be on its way still; one that never comes was lost with its connection.
                self._unheard += 1
                self._seating.take(await self._store.rows(await self._store.changed(seen)))
                self._revision = max(self._revision, revision)
            if self._unheard >= _DEAF_POLLS:
                raise DeafError("changes come in that no message told")
            if now - shown >= SHOW_SECONDS:
                await self._store.show(self.member)
                shown = now

    async def _listen(self) -> None:
        while not self._stopped.is_set():
            raw = await self._store.news(LISTEN_SECONDS)
            message = read_json(raw)
            if message is None or is_newer(message):
                continue
            if message.get("ask") == "counts":
                self._post.is_asked = True
                self.wake()
            row = read_row(message.get("row"), self._store.clock)
            revision = message.get("rev")
            if isinstance(revision, int):
                self._unheard = 0  # whatever it tells, and however late: who hears it is not deaf
                self._revision += revision == self._revision + 1
            if row is not None:
                self._seating.take({row.id: row})

    async def _sync(self) -> None:
        """Take in everything that the store knows, and note what it does not."""
        revision = await self._store.revision()
        ids = set(await self._store.changed(0)) | {seat.identity for seat in self._seating.members()}
        self._seating.take(await self._store.rows(sorted(ids)), whole=True)
        await self._store.introduce(self._seating.names())
        self._revision = revision

    async def _welcome(self) -> None:
        """Tell breakers that came after the start what the fleet knows of them."""
        fresh = self._seating.fresh()
        if fresh:
            self._seating.take(await self._store.rows(fresh), whole=True)
            await self._store.introduce(self._seating.names(fresh))
        self._tell_known()

    def _tell_known(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for known in waiting:
            known.set()

    def _run_errands(self) -> None:
        while self._errands:
            self._errands.pop(0)()

    # -- the parts ------------------------------------------------------------------------------------------

    @staticmethod
    async def _pause(event: asyncio.Event, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return


_AGENTS: Final[weakref.WeakSet[Agent]] = weakref.WeakSet()


def _close_all() -> None:
    for agent in list(_AGENTS):
        agent.close()


atexit.register(_close_all)
