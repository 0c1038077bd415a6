"""Observers: they follow requests from outside. Where nobody observes, the engine runs as if this were not here."""

from __future__ import annotations

import inspect
import logging
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from types import TracebackType

    from resilience.events import Event
    from resilience.upstream import Operation, Upstream

E = TypeVar("E")

_LOG: Final = logging.getLogger("resilience")


class Watch(Protocol):
    """One request as one observer follows it. None of it may raise; what raises is logged once and forgotten."""

    def enter(self) -> Any:
        """Make the request the current one of this task or thread. Returns what `leave` takes."""
        ...

    def leave(self, token: Any) -> None:
        """Undo `enter`."""
        ...

    def chunk(self, chunk: Any) -> None:
        """A piece of the stream is handed over."""
        ...

    def ended(self, answer: Any, error: BaseException | None) -> None:
        """It is over: with an answer (a stream's is the stream itself), or with an error."""
        ...


class Observer(Protocol):
    """Hears every event, and may follow requests and attempts."""

    def hear(self, event: Event) -> None:
        """The sink."""
        ...

    def began(self, route: Any, operation: Operation, params: Mapping[str, Any], call: Any) -> Watch | None:
        """A request begins. None: this observer does not follow it."""
        ...

    def upstream(self, upstream: Upstream) -> Upstream:
        """Who sends the attempts from now on: the upstream itself, or something around it."""
        ...


class Observed:
    """The observers of one runtime, and where they stand: before its engine and before its upstreams."""

    def __init__(self) -> None:
        self.observers: tuple[Observer, ...] = ()
        self._relays: weakref.WeakSet[_Relay] = weakref.WeakSet()
        self._engines: dict[int, _ObservedEngine] = {}

    def add(self, observer: Observer) -> bool:
        """Let ``observer`` follow every request from now on. False: it does so already."""
        if any(other is observer for other in self.observers):
            return False
        self.observers = (*self.observers, observer)
        self._reconnect()
        return True

    def remove(self, observer: Observer) -> None:
        """Let it go. Requests that it follows end as they would have."""
        self.observers = tuple(other for other in self.observers if other is not observer)
        self._reconnect()

    def relay(self, upstream: Upstream) -> Upstream:
        """The upstream for an engine: observers may come between at any time."""
        relay = _Relay(upstream)
        self._relays.add(relay)
        relay.connect(self.observers)
        return cast("Upstream", relay)

    def engine(self, engine: E) -> E:
        """The engine itself, or the observed one where somebody observes."""
        if not self.observers:
            return engine
        engines = self._engines  # taken before the observers are looked at: when they change, it is a new one
        made = engines.get(id(engine))  # which holds the engine, so that the id stays its own
        if made is None:
            made = engines[id(engine)] = _ObservedEngine(engine, self.observers)
        return cast("E", made)

    def _reconnect(self) -> None:
        self._engines = {}
        for relay in list(self._relays):
            relay.connect(self.observers)


class _Relay:
    """An upstream that can be exchanged while an engine uses it."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def connect(self, observers: tuple[Observer, ...]) -> None:
        upstream = self._upstream
        for observer in observers:
            upstream = observer.upstream(upstream)
        # Bound on the relay itself, so that passing through costs nothing.
        for name in dir(upstream):
            if not name.startswith("_"):
                setattr(self, name, getattr(upstream, name))


class _ObservedEngine:
    """An engine whose requests are followed."""

    __slots__ = ("_engine", "_observers")

    def __init__(self, engine: Any, observers: tuple[Observer, ...]) -> None:
        self._engine = engine
        self._observers = observers

    async def arun(self, route: Any, operation: Operation, params: Mapping[str, Any], call: Any) -> Any:
        watches = _begun(self._observers, route, operation, params, call)
        if not watches:
            return await self._engine.arun(route, operation, params, call)
        with Watches(watches) as watch:
            answer = await self._engine.arun(route, operation, params, call)
        return AsyncObservedStream(answer, watch) if call.stream else watch.whole(answer)

    def run(self, route: Any, operation: Operation, params: Mapping[str, Any], call: Any) -> Any:
        watches = _begun(self._observers, route, operation, params, call)
        if not watches:
            return self._engine.run(route, operation, params, call)
        with Watches(watches) as watch:
            answer = self._engine.run(route, operation, params, call)
        if inspect.iscoroutine(answer):  # of a function: the request is served in there
            return _followed(answer, watch)
        if inspect.isasyncgen(answer):
            return AsyncObservedStream(answer, watch)
        return ObservedStream(answer, watch) if call.stream else watch.whole(answer)


async def _followed(answer: Coroutine[Any, Any, Any], watch: Watches) -> Any:
    with watch:
        result = await answer
    return watch.whole(result)


def _begun(
    observers: tuple[Observer, ...], route: Any, operation: Operation, params: Mapping[str, Any], call: Any
) -> list[Watch]:
    """The watches of those who follow this request."""
    watches = []
    for observer in observers:
        try:
            watch = observer.began(route, operation, params, call)
        except Exception:  # noqa: BLE001 (an observer is no part of the request)
            _complain(observer)
            continue
        if watch is not None:
            watches.append(watch)
    return watches


class Watches:
    """One request as all who follow it see it. A watch that raises is dropped; the request does not feel it.

    Used in a ``with`` block around the call: there the request is the current one, and an error is its end.
    """

    __slots__ = ("_tokens", "_watches")

    def __init__(self, watches: list[Watch]) -> None:
        self._watches = watches
        self._tokens: list[tuple[Watch, Any]] = []

    def __enter__(self) -> Self:
        self._tokens = self.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave(self._tokens)
        if error is not None:
            self.ended(None, error)

    def whole(self, answer: Any) -> Any:
        """It is over with this answer, which is returned."""
        self.ended(answer, None)
        return answer

    def enter(self) -> list[tuple[Watch, Any]]:
        """Make the request current for each."""
        tokens = []
        for watch in self._watches:
            try:
                tokens.append((watch, watch.enter()))
            except Exception:  # noqa: BLE001 (likewise)
                _complain(watch)
        return tokens

    def leave(self, token: list[tuple[Watch, Any]]) -> None:
        """Undo it, last first."""
        for watch, one in reversed(token):
            try:
                watch.leave(one)
            except Exception:  # noqa: BLE001 (likewise)
                _complain(watch)

    def chunk(self, chunk: Any) -> None:
        """A piece is handed over."""
        for watch in self._watches:
            try:
                watch.chunk(chunk)
            except Exception:  # noqa: BLE001 (likewise)
                _complain(watch)

    def ended(self, answer: Any, error: BaseException | None) -> None:
        """It is over, once."""
        watches, self._watches = self._watches, []
        for watch in reversed(watches):
            try:
                watch.ended(answer, error)
            except Exception:  # noqa: BLE001 (likewise)
                _complain(watch)


class _Followed:
    """What both kinds of followed stream share. Everything else is the stream's own."""

    def __init__(self, stream: Any, watch: Watch) -> None:
        self._stream = stream
        self._watch = watch
        self._over = False

    def __getattr__(self, name: str) -> Any:
        if name in {"_stream", "_watch", "_over"}:
            raise AttributeError(name)  # a half-made one, in the hands of copy or pickle
        return getattr(self._stream, name)

    def _end(self, error: BaseException | None) -> None:
        if not self._over:
            self._over = True
            self._watch.ended(self._stream, error)

    def __del__(self) -> None:
        if not getattr(self, "_over", True):
            self._end(GeneratorExit())


class ObservedStream(_Followed):
    """A followed stream for a thread."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        token = self._watch.enter()
        try:
            chunk = next(self._stream)
        except StopIteration:
            self._end(None)
            raise
        except BaseException as error:
            self._end(error)
            raise
        finally:
            self._watch.leave(token)
        self._watch.chunk(chunk)
        return chunk

    def close(self) -> None:
        """Hang up."""
        token = self._watch.enter()
        try:
            if (close := getattr(self._stream, "close", None)) is not None:
                close()
        finally:
            self._watch.leave(token)
            self._end(GeneratorExit())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncObservedStream(_Followed):
    """A followed stream for asyncio."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        token = self._watch.enter()
        try:
            chunk = await anext(self._stream)
        except StopAsyncIteration:
            self._end(None)
            raise
        except BaseException as error:
            self._end(error)
            raise
        finally:
            self._watch.leave(token)
        self._watch.chunk(chunk)
        return chunk

    async def aclose(self) -> None:
        """Hang up."""
        token = self._watch.enter()
        try:
            if (close := getattr(self._stream, "aclose", None)) is not None:
                await close()
        finally:
            self._watch.leave(token)
            self._end(GeneratorExit())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _complain(who: object) -> None:
    name = type(who).__name__
    if name not in _COMPLAINED:
        _COMPLAINED.add(name)
        _LOG.exception("%s raised; further ones are not told", name)


_COMPLAINED: Final[set[str]] = set()
