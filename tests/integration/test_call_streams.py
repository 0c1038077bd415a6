"""Streams through real LiteLLM: pieces, truncation, breaks, limits, and hanging up."""

from __future__ import annotations

import asyncio

import pytest
from asks import ASKS, SHORT, TIMEOUTS, becomes_true, needs_mcp

from resilience.outcome import Kind
from resilience.testing import Fault
from resilience.upstream import CallTimeouts, Operation

pytestmark = pytest.mark.asyncio(loop_scope="session")

BOTH = ("openai", "anthropic")
CHAT = pytest.param(Operation.COMPLETION, id="chat")
RESPONSES = pytest.param(Operation.RESPONSES, id="responses", marks=needs_mcp)


class Reader:
    """Reads a stream to its end, sync or async, and remembers everything about it."""

    def __init__(self, upstream, mode):
        self.upstream = upstream
        self.mode = mode
        self.text = ""
        self.pieces = []
        self.error = None
        self.whole = None

    async def read(self, target, operation=Operation.COMPLETION, timeouts=TIMEOUTS):
        if self.mode == "sync":
            # In this thread: the provider has its own.
            self._read(target, operation, timeouts)
        else:
            await self._aread(target, operation, timeouts)
        return self

    def _read(self, target, operation, timeouts):
        try:
            stream = self.upstream.open(target, operation, ASKS[operation], timeouts)
            for piece in stream:
                self._take(piece)
            self.whole = stream.ended_whole()
        except Exception as error:
            self.error = error
            return
        stream.close()

    async def _aread(self, target, operation, timeouts):
        try:
            stream = await self.upstream.aopen(target, operation, ASKS[operation], timeouts)
            async for piece in stream:
                self._take(piece)
            self.whole = stream.ended_whole()
        except Exception as error:
            self.error = error
            return
        await stream.aclose()

    def _take(self, piece):
        self.text += piece.text
        self.pieces.append(piece)

    @property
    def kind(self):
        return self.upstream.classify(self.error).kind


@pytest.fixture(params=["sync", "async"])
def reader(request, upstream):
    return Reader(upstream, request.param)


@pytest.mark.parametrize("dialect", BOTH)
async def test_a_stream_delivers_every_token_and_ends_whole(provider, target, reader, dialect):
    await reader.read(target(dialect))
    assert (reader.error, reader.whole) == (None, True)
    assert reader.text == provider.answer
    assert provider.count() == 1
    first = next(i for i, piece in enumerate(reader.pieces) if piece.has_content)
    assert all(not piece.text for piece in reader.pieces[:first])


@needs_mcp
async def test_a_responses_stream_delivers_every_token_and_ends_whole(provider, target, reader):
    await reader.read(target(), Operation.RESPONSES)
    assert (reader.error, reader.whole, reader.text) == (None, True, provider.answer)
    assert provider.count() == 1


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize(
    ("fault", "whole"),
    [
        (Fault.eof(0), False),
        (Fault.eof(2), False),
        (Fault.no_body(), False),
        (Fault.malformed_event(), False),
        (Fault.no_terminator(), True),
        (Fault.no_finish_reason(), True),
        (Fault.empty(), True),
        (Fault.answer("half", stop="length"), True),
    ],
    ids=str,
)
async def test_a_silent_end_is_told_from_a_whole_one(provider, target, reader, dialect, fault, whole):
    if dialect == "anthropic" and fault.stop is not None:
        fault = Fault.answer("half", stop="max_tokens")
    provider.set(fault)
    await reader.read(target(dialect))
    if reader.error is not None:  # LiteLLM 1.109 tells it by itself
        assert reader.kind is Kind.INTERRUPTED
    assert bool(reader.whole) is whole
    assert provider.count() == 1


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.cut(), Kind.INTERRUPTED),
        (Fault.stall(), Kind.TIMEOUT),
        (Fault.error_event(), Kind.SERVER_ERROR),
        (Fault.error_event(code="overloaded_error", message="busy"), Kind.OVERLOADED),
        (Fault.error_event(code="rate_limit_error", message="slower"), Kind.RATE_LIMITED),
    ],
    ids=["cut", "stall", "error", "overloaded", "rate-limited"],
)
async def test_a_broken_stream_is_of_its_kind(provider, target, reader, dialect, at, fault, kind):
    from dataclasses import replace

    provider.set(replace(fault, at=at))
    await reader.read(target(dialect), timeouts=SHORT if kind is Kind.TIMEOUT else TIMEOUTS)
    assert reader.kind is kind
    assert len(reader.text.split()) == at
    assert provider.count() == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.error_event(form="openrouter", code="provider_unavailable"), Kind.SERVER_ERROR),
        (Fault.error_event(form="anthropic", code="overloaded_error"), Kind.OVERLOADED),
    ],
    ids=["openrouter", "anthropic-form"],
)
async def test_foreign_error_events_in_an_openai_stream_are_understood(provider, target, reader, fault, kind):
    provider.set(fault)
    await reader.read(target())
    assert reader.kind is kind
    assert reader.text == "Hello from"


@needs_mcp
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.cut(), Kind.INTERRUPTED),
        (Fault.eof(), Kind.INTERRUPTED),
        (Fault.stall(), Kind.TIMEOUT),
        (Fault.error_event(), Kind.SERVER_ERROR),
        (Fault.error_event(form="failed", code="server_is_overloaded"), Kind.OVERLOADED),
    ],
    ids=["cut", "eof", "stall", "error", "failed"],
)
async def test_a_broken_responses_stream_is_of_its_kind(provider, target, reader, fault, kind):
    provider.set(fault)
    timeouts = SHORT if kind is Kind.TIMEOUT else TIMEOUTS
    await reader.read(target(), Operation.RESPONSES, timeouts)
    if fault.name == Fault.eof().name and reader.error is None:  # LiteLLM 1.104 says nothing; the adapter knows
        assert reader.whole is False
    else:
        assert reader.kind is kind
    assert provider.count() == 1


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.refuse(), Kind.CONNECTION),
        (Fault.reset(), Kind.CONNECTION),
        (Fault.hang(), Kind.TIMEOUT),
        (Fault.rate_limited(7), Kind.RATE_LIMITED),
        (Fault.insufficient_quota(), Kind.QUOTA_EXHAUSTED),
        (Fault.unauthorized(), Kind.AUTH),
        (Fault.model_missing(), Kind.MODEL_UNAVAILABLE),
        (Fault.context_window(), Kind.CONTEXT_WINDOW),
        (Fault.http(400), Kind.BAD_REQUEST),
        (Fault.http(503), Kind.SERVER_ERROR),
        (Fault.overloaded(), Kind.OVERLOADED),
    ],
    ids=str,
)
async def test_a_stream_that_does_not_begin_fails_like_an_answer(provider, target, reader, dialect, fault, kind):
    provider.set(fault)
    await reader.read(target(dialect), timeouts=SHORT if kind is Kind.TIMEOUT else TIMEOUTS)
    assert reader.kind is kind
    assert provider.count() == (0 if fault.name == "refuse" else 1)
    assert reader.upstream.classify(reader.error).retry_after_seconds == (7.0 if kind is Kind.RATE_LIMITED else None)


async def test_keep_alives_and_the_role_are_no_content(provider, target, reader):
    provider.set(Fault.late_first_token(0.02, keep_alives=3))
    await reader.read(target())
    assert reader.text == provider.answer
    assert [piece.has_content for piece in reader.pieces].count(True) == len(provider.answer.split())


@pytest.mark.parametrize("carrier", ["tool_calls", "reasoning_content"])
async def test_tool_calls_and_reasoning_are_content(provider, target, reader, carrier):
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    value = [call] if carrier == "tool_calls" else "because"
    provider.set(Fault.answer("", fields={carrier: value}))
    await reader.read(target())
    assert any(piece.has_content for piece in reader.pieces)
    assert (reader.text, reader.whole) == ("", True)


async def test_a_blocking_stream_may_pause_longer_than_its_head(provider, target, upstream):
    provider.set(Fault.late_first_token(0.15))
    patient = CallTimeouts(attempt=5.0, first_token=0.05, stall=5.0)
    stream = upstream.open(target(), Operation.COMPLETION, ASKS[Operation.COMPLETION], patient)
    assert "".join(piece.text for piece in stream) == provider.answer


@pytest.mark.parametrize("dialect", BOTH)
async def test_closing_a_blocking_stream_hangs_up(provider, target, upstream, dialect):
    provider.set(Fault.stall(2))
    stream = upstream.open(target(dialect), Operation.COMPLETION, ASKS[Operation.COMPLETION], TIMEOUTS)
    while not next(stream).has_content:
        pass
    stream.close()
    stream.close()
    assert await becomes_true(lambda: provider.hangups == 1)


@pytest.mark.parametrize("how", ["aclose", "abandon", "abandon from a thread"])
@pytest.mark.parametrize("dialect", BOTH)
async def test_giving_up_an_async_stream_hangs_up(provider, target, upstream, dialect, how):
    provider.set(Fault.stall(2))
    stream = await upstream.aopen(target(dialect), Operation.COMPLETION, ASKS[Operation.COMPLETION], TIMEOUTS)
    while not (await anext(stream)).has_content:
        pass
    if how == "aclose":
        await stream.aclose()
        await stream.aclose()
    elif how == "abandon":
        stream.abandon()
        stream.abandon()
    else:
        await asyncio.to_thread(stream.abandon)
    assert await becomes_true(lambda: provider.hangups == 1)


@needs_mcp
async def test_giving_up_a_responses_stream_hangs_up(provider, target, upstream):
    provider.set(Fault.stall(2))
    stream = await upstream.aopen(target(), Operation.RESPONSES, ASKS[Operation.RESPONSES], TIMEOUTS)
    while not (await anext(stream)).has_content:
        pass
    await stream.aclose()
    assert await becomes_true(lambda: provider.hangups == 1)


async def test_abandoning_a_stream_of_a_closed_loop_is_harmless(target, upstream, provider):
    provider.set(Fault.stall(2))
    stream = await upstream.aopen(target(), Operation.COMPLETION, ASKS[Operation.COMPLETION], TIMEOUTS)
    ended = asyncio.new_event_loop()
    ended.close()
    own, stream._loop = stream._loop, ended
    stream.abandon()
    stream._loop, stream._closed = own, False
    await stream.aclose()
    assert provider.count() == 1


async def test_a_cancelled_read_is_cancelled(provider, target, upstream):
    provider.set(Fault.stall(1))
    stream = await upstream.aopen(target(), Operation.COMPLETION, ASKS[Operation.COMPLETION], TIMEOUTS)
    while not (await anext(stream)).has_content:
        pass
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await reading
    assert upstream.classify(caught.value).kind is Kind.CANCELLED
    await stream.aclose()


async def test_a_mocked_stream_is_whole(target, upstream):
    ask = {**ASKS[Operation.COMPLETION], "mock_response": "from nowhere"}
    stream = await upstream.aopen(target(), Operation.COMPLETION, ask, TIMEOUTS)
    text = "".join([piece.text async for piece in stream])
    assert (text, stream.ended_whole()) == ("from nowhere", True)
