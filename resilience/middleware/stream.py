"""Streams: LiteLLM's chunks as pieces, how they ended, and hanging up."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

import httpx

from resilience.middleware.answers import carries, field
from resilience.middleware.evidence import Mark, mark
from resilience.upstream import Operation, Piece

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_TERMINATORS = (b"[DONE]", b"message_stop")
_TAIL = 128
_LONGEST_EVENT = 4096
_ENDS = frozenset({"response.completed", "response.incomplete"})
# Where LiteLLM's wrappers keep what they read from, on the way down to the HTTP response.
_WAY_DOWN = ("completion_stream", "response", "http_response", "streaming_response", "response_iterator", "_stream")


def piece_of(chunk: Any) -> Piece:
    """A chunk of a chat stream and what it carries."""
    choices = chunk.choices
    if not choices:
        return Piece(chunk, "", has_content=False)
    delta = choices[0].delta
    text = field(delta, "content")
    if text:
        return Piece(chunk, text if isinstance(text, str) else "", has_content=True)
    return Piece(chunk, "", has_content=any(carries(choice.delta) for choice in choices))


def event_piece(event: Any) -> Piece:
    """An event of the responses API and what it carries."""
    kind = str(getattr(event.type, "value", event.type))
    if not kind.endswith(".delta"):
        return Piece(event, "", has_content=False)
    delta = field(event, "delta")
    text = delta if kind == "response.output_text.delta" and isinstance(delta, str) else ""
    return Piece(event, text, has_content=bool(delta))


def http_response(answer: Any) -> httpx.Response | None:
    """The HTTP response that a LiteLLM stream reads from; None where there is none (mocks, caches)."""
    waiting, seen = [answer], 0
    while waiting and seen < 20:
        at = waiting.pop()
        seen += 1
        if isinstance(at, httpx.Response):
            return at
        frame = getattr(at, "ag_frame", None) or getattr(at, "gi_frame", None)
        if frame is not None:  # `response.aiter_lines()`: the generator knows whose lines it reads
            waiting.append(frame.f_locals.get("self"))
        waiting.extend(value for name in reversed(_WAY_DOWN) if (value := getattr(at, name, None)) is not None)
    return None


class _Watched:
    """The last bytes that went by, and the last error event: LiteLLM keeps neither."""

    def __init__(self) -> None:
        self._tail = b""
        self.error = b""

    def see(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-_TAIL:]
        at = data.find(b'"error"')
        if at >= 0:
            start = max(data.rfind(b"\n", 0, at) + 1, 0)
            self.error = data[start : start + _LONGEST_EVENT].partition(b"\n")[0]

    @property
    def terminated(self) -> bool:
        return any(terminator in self._tail for terminator in _TERMINATORS)


class _WatchedSync(httpx.SyncByteStream):
    def __init__(self, inner: Any, watched: _Watched) -> None:
        self._inner = inner
        self._watched = watched

    def __iter__(self) -> Iterator[bytes]:
        for data in self._inner:
            self._watched.see(data)
            yield data

    def close(self) -> None:
        self._inner.close()


class _WatchedAsync(httpx.AsyncByteStream):
    def __init__(self, inner: Any, watched: _Watched) -> None:
        self._inner = inner
        self._watched = watched

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._inner:
            self._watched.see(data)
            yield data

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Adapter:
    """What the sync and the async stream have in common."""

    def __init__(self, answer: Any, operation: Operation, outer: BaseException | None, *, mocked: bool) -> None:
        self._answer = answer
        self._is_events = operation is Operation.RESPONSES
        self._outer = outer
        self._ended = False
        self._watched = _Watched()
        self._response = http_response(answer)
        # A cached answer came whole, once.
        self._unsent = mocked or getattr(answer, "custom_llm_provider", None) == "cached_response"
        self._closed = False

    @property
    def answer(self) -> Any:
        """LiteLLM's own stream object."""
        return self._answer

    def ended_whole(self) -> bool:
        """After the end: did a finish reason or a terminator of the provider's own arrive?"""
        if self._ended or self._watched.terminated:
            return True
        if self._unsent:
            return True
        # LiteLLM invents a last chunk that says "stop"; this field has the provider's own word only.
        return getattr(self._answer, "received_finish_reason", None) is not None

    def _piece(self, chunk: Any) -> Piece:
        if not self._is_events:
            return piece_of(chunk)
        piece = event_piece(chunk)
        if str(getattr(chunk.type, "value", chunk.type)) in _ENDS:
            self._ended = True
        return piece

    def _note(self, error: BaseException) -> None:
        said = self._watched.error.decode("utf-8", "replace") or None
        mark(error, Mark(sent=True, streaming=True, outer=self._outer, said=said))


class LiteLLMStream(_Adapter):
    """An open answer.

    Args:
        answer: What LiteLLM returned.
        operation: What was asked.
        read_seconds: Limit of each read of the body.
        outer: The exception that was being handled when the call was made.
        mocked: Whether LiteLLM made the answer up (``mock_response``): nothing was sent.
    """

    def __init__(
        self,
        answer: Any,
        operation: Operation,
        read_seconds: float,
        outer: BaseException | None = None,
        *,
        mocked: bool = False,
    ) -> None:
        super().__init__(answer, operation, outer, mocked=mocked)
        response = self._response
        if response is None or response.is_closed or response.is_stream_consumed:
            return
        response.stream = _WatchedSync(response.stream, self._watched)
        limits = response.request.extensions.get("timeout")
        if isinstance(limits, dict) and isinstance(limits.get("read"), float):
            # The transport reads this when the body begins: what bounded the head must not bound a stall.
            limits["read"] = max(limits["read"], read_seconds)

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        try:
            return self._piece(next(self._answer))
        except StopIteration:
            raise
        except BaseException as error:
            self._note(error)
            raise

    def close(self) -> None:
        """Hang up. May be called at any time and more than once."""
        if self._closed:
            return
        self._closed = True
        if self._response is not None:
            # A thread may be inside a read, or the transport gone already: there is nobody left to tell.
            with contextlib.suppress(Exception):
                self._response.close()


class AsyncLiteLLMStream(_Adapter):
    """The same for asyncio."""

    def __init__(
        self,
        answer: Any,
        operation: Operation,
        outer: BaseException | None = None,
        *,
        mocked: bool = False,
    ) -> None:
        super().__init__(answer, operation, outer, mocked=mocked)
        self._loop = asyncio.get_running_loop()
        response = self._response
        if response is not None and not response.is_closed and not response.is_stream_consumed:
            response.stream = _WatchedAsync(response.stream, self._watched)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        try:
            return self._piece(await anext(self._answer))
        except StopAsyncIteration:
            raise
        except BaseException as error:
            self._note(error)
            raise

    async def aclose(self) -> None:
        """Hang up. May be called at any time and more than once."""
        if self._closed:
            return
        self._closed = True
        await self._hang_up()

    def abandon(self) -> None:
        """Hang up from where nothing can be awaited (garbage collection, another thread)."""
        if self._closed or self._response is None:
            return
        self._closed = True
        with contextlib.suppress(RuntimeError):  # the loop is closed, and with it its connections
            self._loop.call_soon_threadsafe(_hang_up_soon, self._loop, self)

    async def _hang_up(self) -> None:
        if self._response is not None:
            with contextlib.suppress(Exception):  # the transport may be gone already
                await self._response.aclose()


# The loop keeps only weak references to its tasks.
_hanging_up: set[asyncio.Task[None]] = set()


def _hang_up_soon(loop: asyncio.AbstractEventLoop, stream: AsyncLiteLLMStream) -> None:
    task = loop.create_task(stream._hang_up())  # noqa: SLF001 (a friend in this file)
    _hanging_up.add(task)
    task.add_done_callback(_hanging_up.discard)
