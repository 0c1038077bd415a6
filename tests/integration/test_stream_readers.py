"""What a stream's limits hear, whose time they count, and how every way to leave gives the place back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import threading
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import litellm
import pytest
from asks import becomes_true
from streams import ASKED, MODES, PARTIAL, PATIENT, SOON, TEXT, WORDS, answer, read, settings

import resilience
from resilience.clock import SYSTEM_CLOCK
from resilience.middleware.grafting import takes_prefill
from resilience.outcome import Kind
from resilience.testing import Fault, LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.usefixtures("upstream")]


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[LoopbackProvider, LoopbackProvider]]:
    with LoopbackProvider(answer) as first, LoopbackProvider(answer) as second:
        # The SDK is loaded by now, so that the short limits judge the provider and not this machine.
        with resilience.MultiProviderFallback(settings(first, second)) as fb:
            list(fb.completion("chat", ASKED, stream=True))
        yield first, second


@pytest.fixture
def world(pair: tuple[LoopbackProvider, LoopbackProvider]) -> tuple[LoopbackProvider, LoopbackProvider]:
    for provider in pair:
        provider.clear()
        provider.forget()
    return pair


# ---- what feeds a limit


def event(**delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini", "choices": [choice]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


class Talker:
    """A provider that says these events, and then one thing again and again until its client leaves."""

    def __init__(self, events: list[bytes], again: bytes) -> None:
        self._events = events
        self._again = again
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._door.getsockname()[1]}/v1"
        self.said = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._door.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the door is closed at the end
            while True:
                connection, _ = self._door.accept()
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
            for said in self._events:
                connection.sendall(said)
            while True:
                SYSTEM_CLOCK.sleep(0.02)
                connection.sendall(self._again)
                self.said += 1


@MODES
@pytest.mark.parametrize(
    "again",
    [b": OPENROUTER PROCESSING\n\n", event(content=""), event(role="assistant"), event()],
    ids=["comments", "empty deltas", "roles", "nothing"],
)
@pytest.mark.parametrize("words", [0, 5])
async def test_only_content_feeds_a_limit(
    mode: str, again: bytes, words: int, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    begins = [event(role="assistant", content=""), *(event(content=word) for word in _tokens(words))]
    with Talker(begins, again) as talker:
        chosen = settings(first, second, seconds=SOON, on_interruption="raise")
        chosen["routes"]["chat"]["targets"][0]["api_base"] = talker.url
        with resilience.MultiProviderFallback(chosen, sinks=()) as fb:
            seen = await read(fb, mode)
            assert seen.kinds[0] == ("first", Kind.TIMEOUT)
            if words:
                assert isinstance(seen.error, resilience.StreamInterruptedError)
                assert (seen.error.partial, seen.text, second.count()) == (PARTIAL, PARTIAL, 0)
            else:
                assert (seen.error, seen.text, second.count()) == (None, TEXT, 1)
            assert fb.snapshot().targets["first"].in_flight == 0
        assert talker.said > 1


def _tokens(words: int) -> list[str]:
    return [word if at == 0 else " " + word for at, word in enumerate(WORDS[:words])]


# ---- whose time it is


@MODES
async def test_a_slow_reader_is_no_stall_of_its_provider(
    mode: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    first.set(Fault.drip(0.01))
    with resilience.MultiProviderFallback(settings(first, second, seconds=1.0), sinks=()) as fb:
        text = ""
        if mode == "sync":
            for at, chunk in enumerate(fb.completion("chat", ASKED, stream=True)):
                text += chunk.choices[0].delta.content or ""
                if at == 3:
                    SYSTEM_CLOCK.sleep(1.2)
        else:
            at = count()
            async for chunk in await fb.acompletion("chat", ASKED, stream=True):
                text += chunk.choices[0].delta.content or ""
                if next(at) == 3:
                    await SYSTEM_CLOCK.asleep(1.2)
        assert text == TEXT
        assert fb.snapshot().targets["first"].failures == 0


@MODES
async def test_the_deadline_ends_with_the_first_content(
    mode: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    first.set(Fault.drip(0.05))
    chosen = settings(first, second)
    chosen["routes"]["chat"]["timeouts"] = {"deadline_seconds": 0.8}
    with resilience.MultiProviderFallback(chosen, sinks=()) as fb:
        began = SYSTEM_CLOCK.monotonic()
        seen = await read(fb, mode)
        assert (seen.error, seen.text) == (None, TEXT)
        assert SYSTEM_CLOCK.monotonic() - began > 0.8  # twenty words of 0.05 s


@MODES
async def test_a_stream_is_slow_by_its_first_token_and_not_by_its_length(
    mode: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    chosen = settings(first, second)
    chosen["breaker"] = {"slow_call_seconds": 0.5, "slow_call_rate": 0.5, "minimum_calls": 2, "overdue_factor": None}
    with resilience.MultiProviderFallback(chosen, sinks=()) as fb:
        first.set(Fault.drip(0.04))  # 0.8 s in all
        for _ in range(2):
            assert (await read(fb, mode)).kinds == [("first", Kind.SUCCESS)]
        assert fb.snapshot().targets["first"].slow_calls == 0
        first.set(Fault.late_first_token(0.6))
        for _ in range(2):
            assert (await read(fb, mode)).kinds == [("first", Kind.SUCCESS)]
        known = fb.snapshot().targets["first"]
        assert (known.state, known.failures) == ("open", 0)


# ---- leaving


async def _leave(fb: resilience.MultiProviderFallback, how: str) -> None:
    stream = await fb.acompletion("chat", ASKED, stream=True)
    await anext(stream)
    rival = resilience.attempts(await fb.acompletion("chat", ASKED))
    assert [attempt.target for attempt in rival] == ["second"]  # the one place is taken to the end
    assert [attempt.kind for attempt in resilience.attempts(stream)] == [Kind.SUCCESS]  # so far
    if how == "aclose":
        await stream.aclose()
    elif how == "break":
        async for _ in stream:
            break
    elif how == "cancel":
        reading = asyncio.ensure_future(_all_of(stream))
        await SYSTEM_CLOCK.asleep(0)  # let it begin
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    elif how == "its own limit":
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await _all_of(stream)
    elif how == "error":
        with contextlib.suppress(ZeroDivisionError):
            async with stream:
                raise ZeroDivisionError
    elif how == "cycle":
        around: list[Any] = [stream]
        around.append(around)
        del around, stream
        gc.collect()


def _leave_sync(fb: resilience.MultiProviderFallback, how: str) -> None:
    stream = fb.completion("chat", ASKED, stream=True)
    next(stream)
    rival = resilience.attempts(fb.completion("chat", ASKED))
    assert [attempt.target for attempt in rival] == ["second"]  # the one place is taken to the end
    if how == "close":
        stream.close()
    elif how == "break":
        for _ in stream:
            break
    elif how == "error":
        with contextlib.suppress(ZeroDivisionError), stream:
            raise ZeroDivisionError
    elif how == "cycle":
        around: list[Any] = [stream]
        around.append(around)
        del around, stream
        gc.collect()


async def _all_of(stream: Any) -> None:
    async for _ in stream:
        pass


@pytest.mark.parametrize("how", ["aclose", "break", "cancel", "its own limit", "error", "drop", "cycle"])
async def test_whoever_leaves_gives_the_place_back_at_once(
    how: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    first.set(Fault.stall(3))
    with resilience.MultiProviderFallback(_with_places(1, first, second), sinks=()) as fb:
        for left in (1, 2, 3):
            await _leave(fb, how)
            known = fb.snapshot().targets["first"]
            assert (known.failures, known.calls) == (0, 0)
            assert await becomes_true(lambda left=left: first.hangups == left)
        assert (first.count(), second.count()) == (3, 3)


@pytest.mark.parametrize("how", ["close", "break", "error", "drop", "cycle"])
async def test_whoever_leaves_in_a_thread_gives_the_place_back_at_once(
    how: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    first.set(Fault.stall(3))
    with resilience.MultiProviderFallback(_with_places(1, first, second), sinks=()) as fb:
        for left in (1, 2, 3):
            _leave_sync(fb, how)
            known = fb.snapshot().targets["first"]
            assert (known.failures, known.calls) == (0, 0)
            assert await becomes_true(lambda left=left: first.hangups == left)
        assert (first.count(), second.count()) == (3, 3)


def _with_places(places: int, first: LoopbackProvider, second: LoopbackProvider) -> dict[str, Any]:
    """One stream more on the first provider is possible only when one before has given its place back."""
    chosen = settings(first, second)
    address = first.url.removeprefix("http://")
    return {**chosen, "providers": {f"openai/{address}": {"max_concurrency": places}}}


async def test_a_server_whose_client_hangs_up_gives_the_place_back(
    world: tuple[LoopbackProvider, LoopbackProvider],
) -> None:
    first, second = world
    first.set(Fault.drip(0.01))
    first.answer = " ".join(WORDS * 1000)
    with resilience.MultiProviderFallback(_with_places(1, first, second), sinks=()) as fb:

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                async for chunk in await fb.acompletion("chat", ASKED, stream=True):  # as most programs do: not closed
                    writer.write((chunk.choices[0].delta.content or "").encode())
                    await writer.drain()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(host, port)
            assert await reader.read(4) == b"word"
            writer.transport.abort()
            assert await becomes_true(lambda: first.hangups == 1)
            await writer.wait_closed()
        first.answer = answer
        assert (await read(fb, "async")).kinds == [("first", Kind.SUCCESS)]
        assert (fb.snapshot().targets["first"].failures, second.count()) == (0, 0)


# ---- a thousand of them, in threads


_DESCRIPTORS = Path("/proc/self/fd")


@pytest.mark.skipif(not _DESCRIPTORS.is_dir(), reason="sockets are counted in /proc")
async def test_a_thousand_streams_abandoned_in_threads_leak_nothing(
    world: tuple[LoopbackProvider, LoopbackProvider],
) -> None:
    first, second = world
    first.set(Fault.stall(2))
    ways = ["close", "break", "error", "drop"]
    # One place for each thread: a single one that is not given back at once sends a stream to the second.
    with resilience.MultiProviderFallback(_with_places(5, first, second), sinks=()) as fb:

        def leave(numbers: range) -> None:
            for number in numbers:
                stream = fb.completion("chat", ASKED, stream=True)
                next(stream)
                way = ways[number % 4]
                if way == "close":
                    stream.close()
                elif way == "break":
                    for _ in stream:
                        break
                elif way == "error":
                    with contextlib.suppress(ZeroDivisionError), stream:
                        raise ZeroDivisionError
                del stream

        def several(first_number: int, each: int) -> None:
            starts = range(first_number, first_number + 5 * each, each)
            threads = [threading.Thread(target=leave, args=(range(start, start + each),)) for start in starts]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        several(0, 5)
        gc.collect()
        assert await becomes_true(lambda: first.active == 0)
        sockets = _sockets()
        several(25, 200)
        gc.collect()
        assert await becomes_true(lambda: first.active == 0)
        known = fb.snapshot().targets["first"]
        assert (known.failures, known.calls, second.count()) == (0, 0, 0)
        assert first.count() == first.hangups == 1025
        assert await becomes_true(lambda: _sockets() <= sockets + 2)


def _sockets() -> int:
    found = 0
    for link in _DESCRIPTORS.iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own, by now closed
            found += str(link.readlink()).startswith("socket:")
    return found


# ---- who may write on


@pytest.mark.parametrize(
    ("known", "may"),
    [
        ({"supports_assistant_prefill": True}, True),
        ({"supports_assistant_prefill": False}, False),
        ({"supports_assistant_prefill": None}, False),
        ({}, False),
        (ValueError("not in the map"), True),
        (Exception("LiteLLM raises plain ones"), True),
    ],
    ids=["True", "False", "None", "not said", "not known", "raises"],
)
async def test_the_map_says_who_may_write_on(known: Any, may: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def info(model: str) -> Any:
        if isinstance(known, Exception):
            raise known
        return known

    monkeypatch.setattr(litellm, "get_model_info", info)
    takes_prefill.cache_clear()
    try:
        assert takes_prefill("openai/any") is may
    finally:
        takes_prefill.cache_clear()


@MODES
async def test_thoughts_and_refusals_that_were_handed_over_are_no_partial_text(
    mode: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    thoughts = (("reasoning_content", "Let me"), ("reasoning_content", " think"), ("content", " then"))
    first.set(Fault("cut", text=PARTIAL, fields=thoughts, finish=False, terminator=False))
    with resilience.MultiProviderFallback(settings(first, second, seconds=PATIENT), sinks=()) as fb:
        seen = await read(fb, mode)
        assert isinstance(seen.error, resilience.StreamInterruptedError)
        assert seen.others == "Let me think"
        assert seen.error.partial == seen.text == PARTIAL + " then"
