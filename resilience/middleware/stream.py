"""Streams: LiteLLM's chunks as pieces, how they ended, and hanging up."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import weakref
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Self

from resilience.middleware.answers import field
from resilience.middleware.evidence import Mark, mark
from resilience.middleware.inside import failure_in_place
from resilience.middleware.pieces import event_piece, event_text, kind_of, piece_of, text_of
from resilience.middleware.wire import Watched, WatchedAsync, WatchedSync, http_response, is_event_stream
from resilience.upstream import Chunks, Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resilience.upstream import Piece

# What LiteLLM raises at the end of a chat stream since 1.108; before, it made the reason up.
_NO_REASON = "Stream ended before a finish_reason was received"
_ENDS = frozenset({"response.completed", "response.incomplete"})


class _Adapter:
    """What the sync and the async stream have in common."""

    def __init__(
        self,
        answer: Any,
        operation: Operation,
        outer: BaseException | None,
        *,
        mocked: bool,
        price: Callable[[Any, Any], float | None] | None,
    ) -> None:
        self._answer = answer
        self._price = price
        self._last: Any = None
        self._is_events = operation is Operation.RESPONSES
        self._outer = outer
        self._ended = False
        self._response = http_response(answer)
        self._watched = Watched(sifts=self._response is not None and is_event_stream(self._response))
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

    def cost_usd(self) -> float | None:
        """After the end: what it cost by LiteLLM's price map; None where no usage was told, or it has no price."""
        last = field(self._last, "response") if self._is_events else self._last
        hidden = getattr(last, "_hidden_params", None)
        # Where nobody asked for usage, LiteLLM notes it beside the last chunk; zeros if the provider told none.
        usage = field(last, "usage") or (hidden or {}).get("usage")
        if self._price is None or not field(usage, "total_tokens"):
            return None
        return self._price(last, usage)

    def _chunks(self, following: Callable[[], Any]) -> Chunks:
        return Chunks(following, event_text if self._is_events else text_of, self._piece, self._note)

    def _piece(self, chunk: Any) -> Piece:
        self._last = chunk
        if not self._is_events:
            return piece_of(chunk)
        if kind_of(chunk) in _ENDS:
            self._ended = True
        return event_piece(chunk)

    def _note(self, error: BaseException) -> bool:
        """Mark an error for who classifies it. Returns whether it is none: the provider's own terminator had come."""
        if self._watched.terminated and _NO_REASON in str(error):
            return True
        said = self._watched.error.decode("utf-8", "replace") or None
        mark(error, Mark(sent=True, streaming=True, outer=self._outer, said=said))
        return False

    def _instead(self, error: BaseException) -> Exception | None:
        """What to raise where LiteLLM found no stream in what came, at its end: what stands there says it better."""
        document = self._watched.document
        if self._response is None or not document or not isinstance(error, Exception):
            return None
        if isinstance(error, StopIteration | StopAsyncIteration) and self.ended_whole():
            return None
        model, family = (str(field(self._answer, name) or "") for name in ("model", "custom_llm_provider"))
        return failure_in_place(self._response, document, model, family)


class LiteLLMStream(_Adapter):
    """An open answer.

    Args:
        answer: What LiteLLM returned.
        operation: What was asked.
        read_seconds: Limit of each read of the body.
        first_seconds: Until the first event, where that is less.
        outer: The exception that was being handled when the call was made.
        mocked: Whether LiteLLM made the answer up (``mock_response``): nothing was sent.
        price: Says what an answer cost, given its last chunk (or response) and its usage.
    """

    def __init__(
        self,
        answer: Any,
        operation: Operation,
        read_seconds: float,
        outer: BaseException | None = None,
        *,
        mocked: bool = False,
        price: Callable[[Any, Any], float | None] | None = None,
        first_seconds: float | None = None,
    ) -> None:
        super().__init__(answer, operation, outer, mocked=mocked, price=price)
        response = self._response
        if response is None or response.is_closed or response.is_stream_consumed:
            return
        response.stream = WatchedSync(response.stream, self._watched, first_seconds or read_seconds, read_seconds)
        limits = response.request.extensions.get("timeout")
        if isinstance(limits, dict) and isinstance(limits.get("read"), float):
            # The transport reads this when the body begins: what bounded the head must not bound a stall.
            limits["read"] = max(limits["read"], read_seconds)
        _open.add(self)

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        try:
            return self._piece(next(self._answer))
        except BaseException as error:
            if (instead := self._instead(error)) is not None:
                raise instead from instead.__cause__
            if not isinstance(error, StopIteration) and self._note(error):
                raise StopIteration from None
            raise

    def chunks(self) -> Chunks:
        """LiteLLM's chunks as they come."""
        return self._chunks(self._answer.__next__)

    def close(self) -> None:
        """Hang up. May be called at any time and more than once."""
        if self._closed:
            return
        self._closed = True
        # A thread may be inside a read, or the transport gone already: there is nobody left to tell.
        if self._response is not None:
            with contextlib.suppress(Exception):
                self._response.close()
        # The SDK's reader is a generator. Left to the end of the interpreter, it looks for modules that are gone.
        reader = getattr(getattr(self._answer, "completion_stream", None), "_iterator", None)
        if isinstance(reader, GeneratorType):
            with contextlib.suppress(Exception):
                reader.close()


# Those that nobody has closed when the program ends.
_open: weakref.WeakSet[LiteLLMStream] = weakref.WeakSet()


@atexit.register
def _hang_up_all() -> None:
    for stream in list(_open):
        stream.close()


class AsyncLiteLLMStream(_Adapter):
    """The same for asyncio."""

    def __init__(
        self,
        answer: Any,
        operation: Operation,
        outer: BaseException | None = None,
        *,
        mocked: bool = False,
        price: Callable[[Any, Any], float | None] | None = None,
    ) -> None:
        super().__init__(answer, operation, outer, mocked=mocked, price=price)
        self._loop = asyncio.get_running_loop()
        response = self._response
        if response is not None and not response.is_closed and not response.is_stream_consumed:
            response.stream = WatchedAsync(response.stream, self._watched)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        try:
            return self._piece(await anext(self._answer))
        except BaseException as error:
            if (instead := self._instead(error)) is not None:
                raise instead from instead.__cause__
            if not isinstance(error, StopAsyncIteration) and self._note(error):
                raise StopAsyncIteration from None
            raise

    def chunks(self) -> Chunks:
        """LiteLLM's chunks as they come."""
        return self._chunks(self._answer.__anext__)

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
