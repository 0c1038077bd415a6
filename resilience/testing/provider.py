"""A loopback provider: real HTTP in OpenAI's and Anthropic's dialects, with faults on demand."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from resilience.clock import SYSTEM_CLOCK
from resilience.testing.exchange import Exchange, HungUpError
from resilience.testing.faults import Fault, Wire
from resilience.testing.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_WELL = Fault("well")
_LARGEST_HEADER = 1 << 18


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived."""

    path: str
    model: str
    stream: bool
    body: dict[str, Any]
    headers: dict[str, str] = field(repr=False)
    fault: str


@dataclass(slots=True)
class _Rule:
    faults: Fault | Schedule[Fault]
    model: str | None
    left: int | None
    began: float
    deck: list[bool] = field(default_factory=list)

    @property
    def fault(self) -> Fault | None:
        """What is wrong now."""
        if isinstance(self.faults, Fault):
            return self.faults
        return self.faults.at(SYSTEM_CLOCK.monotonic() - self.began)

    def strikes(self, fault: Fault, rng: random.Random) -> bool:
        if fault.share is None:
            return True
        k, n = fault.share
        if not self.deck:
            self.deck = [True] * k + [False] * (n - k)
            rng.shuffle(self.deck)
        return self.deck.pop()


class LoopbackProvider:
    """A provider on 127.0.0.1 with a port of the system's choice and an event loop in a thread of its own.

    It answers ``/v1/chat/completions``, ``/v1/embeddings``, ``/v1/images/generations``, ``/v1/responses`` and
    ``/v1/messages``, streaming and not, with usage. Faults are set and cleared while it runs, from any thread.

    Args:
        answer: The text it gives, or a function of the request's body that makes it.
        name: For people; also the thread's name.
        token_seconds: Wait before each token of a stream.
        latency_seconds: Wait before each answer.
        seed: For faults that strike only some requests.

    Attributes:
        requests: Every request so far, in order of arrival.
        max_concurrency: The most requests that were in progress at one time.
        hangups: Requests whose client left before the answer was whole.
        connections: Connections accepted.
    """

    def __init__(
        self,
        answer: str | Callable[[dict[str, Any]], str] = "Hello from the loopback provider.",
        *,
        name: str = "loopback",
        token_seconds: float = 0.0,
        latency_seconds: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.answer = answer
        self.name = name
        self.token_seconds = token_seconds
        self.latency_seconds = latency_seconds
        self.requests: list[Request] = []
        self.max_concurrency = 0
        self.hangups = 0
        self.connections = 0
        self.active = 0
        self.port = 0
        self._rng = random.Random(seed)
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._reserved: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    # Life

    def start(self) -> Self:
        """Listen. Returns itself."""
        if self._thread is not None:
            return self
        # Bound and never listening: it keeps the port ours while the listener is closed.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", self.port))
        self.port = self._reserved.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop,), name=self.name, daemon=True)
        self._thread.start()
        self._do(self._listen())
        return self

    def stop(self) -> None:
        """Hang up on everybody and end the thread. Calling it again does nothing."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._do(self._shut())
        self._do(self._drop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        self._loop = self._thread = None
        if self._reserved is not None:
            self._reserved.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What callers see

    @property
    def url(self) -> str:
        """``http://127.0.0.1:port``: the ``api_base`` of an ``anthropic/`` target."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def openai_base(self) -> str:
        """``http://127.0.0.1:port/v1``: the ``api_base`` of an ``openai/`` target."""
        return f"{self.url}/v1"

    def count(self, model: str | None = None) -> int:
        """How many requests arrived, for one model or for all."""
        return sum(1 for request in list(self.requests) if model is None or request.model == model)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of all requests so far."""
        return [request.body for request in list(self.requests)]

    def forget(self) -> None:
        """Set every counter back to nothing."""
        self.requests = []
        self.max_concurrency = self.active
        self.hangups = self.connections = 0

    # Faults

    def set(self, *faults: Fault | Schedule[Fault], model: str | None = None, times: int | None = None) -> None:
        """Replace the faults for one model, or for all of them.

        Args:
            faults: One, or several that take turns in this order, one request each (the last one stays). A schedule
                of faults begins now.
            model: The model as it is named on the wire; None means all models without faults of their own.
            times: For the next so many requests only (of the last fault given).

        Raises:
            ValueError: `Fault.refuse` together with a model, or in a schedule: a closed listener is closed for all,
                and nobody would come to open it.
        """
        plain = [fault for fault in faults if isinstance(fault, Fault)]
        if model is not None and any(fault.wire is Wire.REFUSE for fault in plain):
            raise ValueError("refuse closes the listener: it cannot be set for one model only")
        phases = [what for fault in faults if isinstance(fault, Schedule) for _, what in fault.phases]
        if any(what is not None and what.wire is Wire.REFUSE for what in phases):
            raise ValueError("refuse closes the listener: it cannot be part of a schedule; reset is much the same")
        with self._lock:
            self._rules = [rule for rule in self._rules if rule.model != model]
            for position, fault in enumerate(faults):
                last = position == len(faults) - 1
                self._rules.append(_Rule(fault, model, times if last else 1, SYSTEM_CLOCK.monotonic()))
            refusing = any(isinstance(rule.faults, Fault) and rule.faults.wire is Wire.REFUSE for rule in self._rules)
        if self._loop is not None:
            self._do(self._shut() if refusing else self._listen())

    def clear(self, model: str | None = None) -> None:
        """End the faults for one model; without one, all faults of all models."""
        with self._lock:
            self._rules = [] if model is None else [rule for rule in self._rules if rule.model != model]
        if self._loop is not None:
            self._do(self._listen())

    def drop_connections(self) -> None:
        """Close every open connection, idle or in use."""
        self._do(self._drop())

    def _pick(self, model: str) -> Fault:
        with self._lock:
            for wanted in (model, None):
                rule = next((rule for rule in self._rules if rule.model == wanted), None)
                fault = rule.fault if rule is not None else None
                if rule is None or fault is None:
                    continue
                if not rule.strikes(fault, self._rng):
                    return fault.otherwise or _WELL
                if rule.left is not None:
                    rule.left -= 1
                    if rule.left <= 0:
                        self._rules.remove(rule)
                return fault
        return _WELL

    # The thread

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        if self._loop is None:
            work.close()
            return
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        if self._server is not None:
            return
        # With the protocol named, asyncio turns Nagle's algorithm off: otherwise each answer costs 40 ms.
        listener = socket.socket(proto=socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self._server = await asyncio.start_server(self._serve, sock=listener, backlog=1024, limit=_LARGEST_HEADER)

    async def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        # A kept connection would let requests through a closed door.
        await self._drop()

    async def _drop(self) -> None:
        tasks = list(self._tasks)
        for writer in self._tasks.values():
            writer.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._tasks[task] = writer
        self.connections += 1
        try:
            while await Exchange(self, reader, writer).run():
                pass
        except (ConnectionError, asyncio.IncompleteReadError, HungUpError, asyncio.CancelledError):
            pass  # all four mean that this connection is over
        finally:
            self._tasks.pop(task, None)
            writer.close()

    def arrive(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Fault:
        """Count a request and choose its fault. For the exchange only."""
        model = str(body.get("model", ""))
        fault = self._pick(model)
        self.requests.append(Request(path, model, bool(body.get("stream")), body, headers, fault.name))
        self.active += 1
        self.max_concurrency = max(self.max_concurrency, self.active)
        return fault

    def leave(self, *, whole_answer: bool) -> None:
        """Count its end. For the exchange only."""
        self.active -= 1
        if not whole_answer:
            self.hangups += 1
