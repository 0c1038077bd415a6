"""Every way in which a stream breaks, under every policy: the text is whole, or the error carries what was given."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import litellm
import pytest
from asks import becomes_true, needs_mcp
from streams import ASKED, MODES, PARTIAL, PATIENT, SOON, TEXT, WORDS, Read, answer, read, settings

import resilience
from resilience.clock import SYSTEM_CLOCK
from resilience.outcome import Kind
from resilience.testing import Fault, LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.usefixtures("upstream")]

POLICIES = pytest.mark.parametrize("policy", ["raise", "continue"])
BUFFERS = pytest.mark.parametrize("buffer", ["none", "full"])


@dataclass(frozen=True)
class Case:
    """A fault, where it strikes, and what the first target's attempt comes to."""

    fault: Fault
    kind: Kind
    after_content: bool = False
    dialect: str = "openai"

    @property
    def seconds(self) -> float:
        if self.kind is not Kind.TIMEOUT:
            return PATIENT
        return 2 * SOON if self.after_content else SOON  # the tokens before the stall must come in time


CASES = {
    "cut before the headers": Case(Fault.reset(), Kind.CONNECTION),
    "cut after the role": Case(Fault.cut(0), Kind.INTERRUPTED),
    "cut after 5 of 20": Case(Fault.cut(5), Kind.INTERRUPTED, after_content=True),
    "silent end after 5 of 20": Case(Fault.eof(5), Kind.INTERRUPTED, after_content=True),
    "stall before the headers": Case(Fault.hang(), Kind.TIMEOUT),
    "stall after the role": Case(Fault.stall(0), Kind.TIMEOUT),
    "stall after 5 of 20": Case(Fault.stall(5), Kind.TIMEOUT, after_content=True),
    "late first token": Case(Fault.late_first_token(3.0, keep_alives=100), Kind.TIMEOUT),
    "error event": Case(Fault.error_event(5), Kind.SERVER_ERROR, after_content=True),
    "error event of anthropic": Case(
        Fault.error_event(5, code="overloaded_error"), Kind.OVERLOADED, after_content=True, dialect="anthropic"
    ),
    "error event of openrouter": Case(
        Fault.error_event(5, form="openrouter", code="provider_unavailable"), Kind.SERVER_ERROR, after_content=True
    ),
    "malformed event, and no end": Case(Fault.malformed_event(5), Kind.INTERRUPTED, after_content=True),
    "malformed event, the rest whole": Case(Fault.garbled_event(5), Kind.SUCCESS),
    "no [DONE]": Case(Fault.no_terminator(), Kind.SUCCESS),
    "no finish reason": Case(Fault.no_finish_reason(), Kind.SUCCESS),
    "empty": Case(Fault.empty(), Kind.EMPTY),
    "no body": Case(Fault.no_body(), Kind.INTERRUPTED),
}
RESPONSES = [
    "cut after the role",
    "cut after 5 of 20",
    "stall after 5 of 20",
    "error event",
    "malformed event, and no end",
]


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[LoopbackProvider, LoopbackProvider]]:
    with LoopbackProvider(answer) as first, LoopbackProvider(answer) as second:
        for dialect in ("openai", "anthropic"):
            # The SDKs are loaded by now, so that the short limits judge the provider and not this machine.
            with resilience.MultiProviderFallback(settings(first, second, dialect=dialect)) as fb:
                list(fb.completion("chat", ASKED, stream=True))
        yield first, second


@pytest.fixture
def world(pair: tuple[LoopbackProvider, LoopbackProvider]) -> tuple[LoopbackProvider, LoopbackProvider]:
    for provider in pair:
        provider.clear()
        provider.forget()
        provider.answer = answer
    return pair


def check(case: Case, seen: Read, fb: resilience.MultiProviderFallback, policy: str, buffer: str) -> None:
    """Whole, or exactly what was given; and the breaker of the broken one knows."""
    visible = case.after_content and buffer == "none" and policy == "raise"
    if visible:
        assert isinstance(seen.error, resilience.StreamInterruptedError)
        assert seen.error.partial == seen.text == PARTIAL
        assert seen.error.provider == fb.registry.target("first").provider
        assert seen.kinds == [("first", case.kind)]
        assert "word" not in str(seen.error)
    else:
        assert (seen.error, seen.text) == (None, TEXT)
        whole = (
            [("first", Kind.SUCCESS)] if case.kind is Kind.SUCCESS else [("first", case.kind), ("second", Kind.SUCCESS)]
        )
        assert seen.kinds == whole
    known = fb.snapshot().targets["first"]
    assert known.failures == (0 if case.kind is Kind.SUCCESS else 1)
    assert known.last_error_kind == (None if case.kind is Kind.SUCCESS else case.kind)
    assert fb.snapshot().targets["second"].failures == 0
    assert known.in_flight == 0


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@POLICIES
@BUFFERS
@MODES
async def test_the_text_is_whole_or_the_error_carries_what_was_delivered(
    case: Case, policy: str, buffer: str, mode: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    first.set(case.fault)
    chosen = settings(first, second, dialect=case.dialect, seconds=case.seconds, on_interruption=policy, buffer=buffer)
    with resilience.MultiProviderFallback(chosen, sinks=()) as fb:
        seen = await read(fb, mode)
        check(case, seen, fb, policy, buffer)
        continued = case.after_content and buffer == "none" and policy == "continue"
        asked_to_write_on = [body["messages"][-1] for body in second.bodies if len(body["messages"]) > 1]
        assert asked_to_write_on == ([{"role": "assistant", "content": PARTIAL}] if continued else [])
        assert first.count() <= 1  # on a busy machine a short limit may strike before the request is out


@needs_mcp
@pytest.mark.parametrize("case", [CASES[name] for name in RESPONSES], ids=RESPONSES)
@POLICIES
@BUFFERS
@MODES
async def test_the_same_holds_for_the_responses_api(
    case: Case, policy: str, buffer: str, mode: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    first.set(case.fault)
    chosen = settings(first, second, seconds=case.seconds, on_interruption=policy, buffer=buffer)
    with resilience.MultiProviderFallback(chosen, sinks=()) as fb:
        check(case, await read(fb, mode, "responses"), fb, policy, buffer)


@POLICIES
@BUFFERS
@MODES
@pytest.mark.parametrize("how", ["close", "drop"])
async def test_a_reader_that_leaves_is_nobodys_fault(
    policy: str, buffer: str, mode: str, how: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    if buffer == "none":
        first.set(Fault.stall(5))  # it could go on for ever
    chosen = settings(first, second, on_interruption=policy, buffer=buffer)
    with resilience.MultiProviderFallback(chosen, sinks=()) as fb:
        if mode == "sync":
            stream = fb.completion("chat", ASKED, stream=True)
            for _ in range(3):
                next(stream)
            if how == "close":
                stream.close()
        else:
            stream = await fb.acompletion("chat", ASKED, stream=True)
            for _ in range(3):
                await anext(stream)
            if how == "close":
                await stream.aclose()
        if how == "close":
            # What was held back had come whole before the reader began.
            ended = Kind.CANCELLED if buffer == "none" else Kind.SUCCESS
            assert [attempt.kind for attempt in resilience.attempts(stream)] == [ended]
        del stream
        gc.collect()
        if buffer == "none":
            assert await becomes_true(lambda: first.hangups == 1)
        known = fb.snapshot().targets["first"]
        assert (known.failures, known.in_flight, second.count()) == (0, 0, 0)


# ---- continuing


@MODES
async def test_a_continuation_that_breaks_is_continued_in_turn(
    mode: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    first.set(Fault.cut(5))
    second.set(Fault.cut(5), times=1)
    with resilience.MultiProviderFallback(settings(first, second, on_interruption="continue"), sinks=()) as fb:
        seen = await read(fb, mode)
        assert (seen.error, seen.text) == (None, TEXT)
        assert seen.kinds == [("first", Kind.INTERRUPTED), ("second", Kind.INTERRUPTED), ("second", Kind.SUCCESS)]
        # The space before the next word is its own part of a token here: five more came whole.
        assert [body["messages"][-1]["content"] for body in second.bodies] == [PARTIAL, " ".join(WORDS[:9])]


@MODES
@pytest.mark.parametrize("fault", [Fault.http(400), Fault.http(503), Fault.context_window()], ids=str)
async def test_a_refusal_to_write_on_is_never_the_callers_error(
    mode: str, fault: Fault, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    first.set(Fault.cut(5))
    second.set(fault)
    chosen = settings(first, second, on_interruption="continue")
    chosen["routes"]["chat"] |= {"max_attempts": 2}
    with resilience.MultiProviderFallback(chosen, sinks=()) as fb:
        seen = await read(fb, mode)
        assert isinstance(seen.error, resilience.StreamInterruptedError)
        assert seen.error.partial == seen.text == PARTIAL
        assert seen.error.provider == fb.registry.target("first").provider
        assert (len(seen.kinds), seen.kinds[0]) == (2, ("first", Kind.INTERRUPTED))
        assert seen.error.attempts == resilience.attempts(seen.stream)


@MODES
async def test_what_a_continuation_repeats_is_left_out(
    mode: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    first.set(Fault.cut(5))
    second.answer = TEXT  # it begins anew
    with resilience.MultiProviderFallback(settings(first, second, on_interruption="continue"), sinks=()) as fb:
        seen = await read(fb, mode)
        assert (seen.error, seen.text) == (None, TEXT)


@MODES
@pytest.mark.parametrize(
    ("fault", "params"),
    [
        (Fault.cut(5), {"response_format": {"type": "json_object"}}),
        (Fault.cut(5), {"n": 2}),
        (
            Fault(
                "half a call",
                text=PARTIAL,
                fields=(
                    (
                        "tool_calls",
                        [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}],
                    ),
                ),
                finish=False,
                terminator=False,
            ),
            {},
        ),
        (Fault("refusal", text=PARTIAL, fields=(("refusal", "I"),), finish=False, terminator=False), {}),
    ],
    ids=["a document", "several answers", "half a tool call", "half a refusal"],
)
async def test_only_plain_text_is_continued(
    mode: str, fault: Fault, params: dict[str, Any], world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    first.set(fault)
    with resilience.MultiProviderFallback(settings(first, second, on_interruption="continue"), sinks=()) as fb:
        seen = await read(fb, mode, **params)
        assert isinstance(seen.error, resilience.StreamInterruptedError)
        assert (seen.error.partial, second.count()) == (PARTIAL, 0)


@pytest.mark.parametrize(
    ("model", "prefill", "asked"),
    [
        ("openai/gpt-4o", None, 0),  # in LiteLLM's map, which does not say yes
        ("openai/gpt-4o", True, 1),
        ("openai/nobody-knows-it", None, 1),
        ("openai/nobody-knows-it", False, 0),
    ],
)
async def test_who_may_write_on_is_known_or_tried(
    model: str, prefill: bool | None, asked: int, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    first.set(Fault.cut(5))
    chosen = settings(first, second, on_interruption="continue")
    chosen["routes"]["chat"]["targets"][1] |= {"model": model, "prefill": prefill}
    with resilience.MultiProviderFallback(chosen, sinks=()) as fb:
        seen = await read(fb, "async")
        assert (second.count(), seen.text) == (asked, TEXT if asked else PARTIAL)


async def test_half_a_thought_is_no_text_to_go_on_from(world: tuple[LoopbackProvider, LoopbackProvider]) -> None:
    first, second = world
    first.set(
        Fault("half a thought", text="", fields=(("reasoning_content", "Let me"),), finish=False, terminator=False)
    )
    with resilience.MultiProviderFallback(settings(first, second, on_interruption="continue"), sinks=()) as fb:
        seen = await read(fb, "async")
        assert (seen.error, seen.text) == (None, TEXT)
        assert [len(body["messages"]) for body in second.bodies] == [1]


@MODES
@pytest.mark.parametrize("carrier", ["refusal", "reasoning_content"])
async def test_a_stream_of_a_refusal_or_of_thoughts_alone_is_an_answer(
    mode: str, carrier: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    first.set(Fault.answer("", fields={carrier: "because"}))
    with resilience.MultiProviderFallback(settings(first, second), sinks=()) as fb:
        seen = await read(fb, mode)
        assert seen.others == "because"
        assert (seen.error, seen.kinds, second.count()) == (None, [("first", Kind.SUCCESS)], 0)


@MODES
async def test_a_refusal_comes_piece_by_piece_in_its_place(
    mode: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    pieces = ["I ", "can't ", 'do "that"']
    first.set(Fault("refusal", text="Well:", fields=tuple(("refusal", piece) for piece in pieces)))
    with resilience.MultiProviderFallback(settings(first, second), sinks=()) as fb:
        seen = await read(fb, mode)
        assert (seen.error, seen.kinds) == (None, [("first", Kind.SUCCESS)])
        assert [chunk for chunk in seen.chunks if chunk] == ["Well:", *pieces]


@MODES
async def test_a_function_that_yields_is_not_continued(
    mode: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    with resilience.MultiProviderFallback(settings(*world, on_interruption="continue"), sinks=()) as fb:
        seen: list[str] = []

        @resilience.failover("chat", runtime=fb)
        def words(model: str = "") -> Iterator[str]:
            yield model
            raise ConnectionError

        @resilience.failover("chat", runtime=fb)
        async def awords(model: str = "") -> AsyncIterator[str]:
            yield model
            raise ConnectionError

        with pytest.raises(resilience.StreamInterruptedError):
            if mode == "sync":
                seen.extend(words())
            else:
                async for word in awords():
                    seen.append(word)  # noqa: PERF401 (it breaks)
        assert len(seen) <= 1


@MODES
async def test_the_custom_providers_streams_are_continued_too(
    mode: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    first.set(Fault.cut(5))
    resilience.install(settings(first, second, on_interruption="continue"))
    seen = Read()
    try:
        if mode == "sync":
            seen.stream = litellm.completion(model="resilience/chat", messages=ASKED, stream=True)
            for chunk in seen.stream:
                seen.take(chunk)
        else:
            seen.stream = await litellm.acompletion(model="resilience/chat", messages=ASKED, stream=True)
            async for chunk in seen.stream:
                seen.take(chunk)
    finally:
        resilience.uninstall()
    assert seen.text == TEXT
    assert seen.kinds == [("first", Kind.INTERRUPTED), ("second", Kind.SUCCESS)]


# ---- what it says of itself


@MODES
async def test_a_continued_answer_reports_both_who_served_it(
    mode: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    first.set(Fault.cut(5))
    with resilience.MultiProviderFallback(settings(first, second, on_interruption="continue"), sinks=()) as fb:
        chunks = []
        params = {"stream": True, "stream_options": {"include_usage": True}}
        if mode == "sync":
            stream = fb.completion("chat", ASKED, **params)
            chunks.extend(stream)
        else:
            stream = await fb.acompletion("chat", ASKED, **params)
            chunks.extend([chunk async for chunk in stream])
        assert {chunk.model for chunk in chunks} == {"gpt-4o-mini", "gpt-4o"}
        assert len({chunk.id for chunk in chunks}) == 1
        usage = chunks[-1].usage
        own = second.requests[-1].body
        assert usage.completion_tokens > 15  # its own 15 words, and the five that were lost
        assert usage.prompt_tokens > len(str(own["messages"])) // 5
        broken, served = resilience.attempts(stream)
        assert broken.cost_usd is None
        assert served.cost_usd is not None and served.cost_usd > 0


@needs_mcp
@MODES
async def test_a_continued_response_is_one_response(
    mode: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    first.set(Fault.cut(5))
    with resilience.MultiProviderFallback(settings(first, second, on_interruption="continue"), sinks=()) as fb:
        events = []
        if mode == "sync":
            events.extend(fb.responses("chat", "hi", stream=True))
        else:
            events.extend([event async for event in await fb.aresponses("chat", "hi", stream=True)])
        kinds = [str(getattr(event.type, "value", event.type)) for event in events]
        numbers = [event.sequence_number for event in events]
        assert kinds.count("response.created") == kinds.count("response.completed") == 1
        assert kinds.count("response.output_item.added") == 1
        assert numbers == sorted(set(numbers))
        assert len({event.item_id for event in events if hasattr(event, "item_id")}) == 1
        response = events[-1].response
        assert response.output[0].content[0].text == TEXT
        assert response.model == "openai/gpt-4o-mini+gpt-4o"
        assert response.usage.output_tokens > 15


@MODES
@pytest.mark.parametrize("asked", [True, False])
async def test_a_whole_stream_tells_its_cost_where_usage_is_told(
    mode: str, asked: bool, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    params = {"stream_options": {"include_usage": True}} if asked else {}
    with resilience.MultiProviderFallback(settings(*world), sinks=()) as fb:
        seen = await read(fb, mode, **params)
        (attempt,) = resilience.attempts(seen.stream)
        # Where the provider told none, LiteLLM counts for itself since 1.109; before, nobody knew.
        assert attempt.cost_usd is not None or not asked


@MODES
async def test_a_held_back_answer_is_replayed_chunk_by_chunk_with_its_usage(
    mode: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    with resilience.MultiProviderFallback(settings(*world, buffer="full"), sinks=()) as fb:
        params = {"stream": True, "stream_options": {"include_usage": True}}
        if mode == "sync":
            chunks = list(fb.completion("chat", ASKED, **params))
        else:
            chunks = [chunk async for chunk in await fb.acompletion("chat", ASKED, **params)]
        texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
        assert (len(texts), "".join(texts)) == (20, TEXT)
        assert chunks[-1].usage.completion_tokens == 20


# ---- a thousand of them


_DESCRIPTORS = Path("/proc/self/fd")


def _sockets() -> int:
    count = 0
    for link in _DESCRIPTORS.iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own, by now closed
            count += str(link.readlink()).startswith("socket:")
    return count


@pytest.mark.skipif(not _DESCRIPTORS.is_dir(), reason="sockets are counted in /proc")
async def test_a_thousand_abandoned_streams_leak_nothing(world: tuple[LoopbackProvider, LoopbackProvider]) -> None:
    first, second = world
    first.set(Fault.stall(2))
    # One place for each that runs: a single one that is not given back at once sends a stream to the second.
    address = first.url.removeprefix("http://")
    chosen = settings(first, second) | {"providers": {f"openai/{address}": {"max_concurrency": 25}}}
    with resilience.MultiProviderFallback(chosen, sinks=()) as fb:

        async def leave(number: int) -> None:
            stream = await fb.acompletion("chat", ASKED, stream=True)
            await anext(stream)
            how = number % 4
            if how == 0:
                await stream.aclose()
            elif how == 1:
                async for _ in stream:
                    break
            elif how == 2:
                reading = asyncio.ensure_future(_all_of(stream))
                await SYSTEM_CLOCK.asleep(0)  # let it begin
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

        async def several(numbers: range) -> None:
            await asyncio.gather(*(leave(number) for number in numbers))

        await several(range(25))
        gc.collect()
        assert await becomes_true(lambda: first.active == 0)
        tasks, sockets = len(asyncio.all_tasks()), _sockets()
        for batch in range(40):
            await several(range(batch * 25, batch * 25 + 25))
        gc.collect()
        assert await becomes_true(lambda: first.active == 0)
        assert await becomes_true(lambda: len(asyncio.all_tasks()) <= tasks)
        known = fb.snapshot().targets["first"]
        assert (known.in_flight, known.failures, second.count()) == (0, 0, 0)
        assert first.count() == first.hangups == 1025
        assert await becomes_true(lambda: _sockets() <= sockets + 2)


async def _all_of(stream: Any) -> None:
    async for _ in stream:
        pass
