"""`with outage("openai"):` makes a provider fail through every door, with LiteLLM's own exceptions, and is gone."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import litellm
import litellm.main
import litellm.utils
import openai
import pytest
from litellm import acompletion as imported_early

import resilience
from resilience import MultiProviderFallback
from resilience.breaker.circuit import CircuitBreaker
from resilience.events import AttemptFailed, CircuitOpened, FallbackTaken
from resilience.execution.functions import FunctionUpstream
from resilience.middleware.call import LiteLLMUpstream
from resilience.middleware.classify import classify
from resilience.outcome import Kind
from resilience.testing import ManualClock, Schedule, flapping, outage, record_events
from resilience.testing.outages import SHAPES

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGES = [{"role": "user", "content": "hi"}]
MOCKED = {"mock_response": "fine", "api_key": "sk-none"}
TARGETS = [{"model": "openai/gpt-4o-mini", **MOCKED}, {"model": "anthropic/claude-haiku-4-5", **MOCKED}]
ROUTE = {"warm": False, "routes": {"chat": {"targets": TARGETS}}}
FAMILIES = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "azure/gpt", "gemini/gemini-2.0-flash", "groq/llama"]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litellm, "suppress_debug_info", True)


@pytest.fixture
def fb() -> Iterator[MultiProviderFallback]:
    with MultiProviderFallback(ROUTE) as runtime:
        yield runtime


def seams() -> list[object]:
    return [
        litellm.utils.function_setup,
        litellm.utils.async_pre_call_deployment_hook,
        litellm.main.mock_completion,
        litellm.main.mock_embedding,
        vars(LiteLLMUpstream)["_arguments"],
        vars(CircuitBreaker)["call"],
        vars(CircuitBreaker)["acall"],
        vars(FunctionUpstream)["_start"],
    ]


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    before = seams()
    yield
    assert all(now is then for now, then in zip(seams(), before, strict=True))


# -- doors


async def test_objects_go_to_the_next_target(fb: MultiProviderFallback) -> None:
    with outage("openai") as down, record_events(fb) as events:
        for answer in (await fb.acompletion("chat", MESSAGES), fb.completion("chat", MESSAGES)):
            assert [a.target for a in resilience.attempts(answer)][-1] == "anthropic/claude-haiku-4-5"
    failed = events.of(AttemptFailed, provider="openai", kind=Kind.SERVER_ERROR)
    assert len(failed) == down.calls > 0
    assert failed[0].status == 503
    assert events.count(FallbackTaken) > 0
    answer = await fb.acompletion("chat", MESSAGES)
    assert [a.kind for a in resilience.attempts(answer)] == [Kind.SUCCESS]


async def test_a_circuit_opens_as_it_would(fb: MultiProviderFallback) -> None:
    with record_events(fb) as events:
        with outage("openai", "connection") as down:
            for _ in range(10):
                await fb.acompletion("chat", MESSAGES)
        assert down.calls == 5
        assert fb.registry.providers["openai"].current_state == "open"
        assert events.one(CircuitOpened, breaker="openai").kind is Kind.CONNECTION


async def test_a_stream_that_fails_before_it_opens_is_an_ordinary_failure(fb: MultiProviderFallback) -> None:
    with outage("openai"):
        stream = await fb.acompletion("chat", MESSAGES, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "fine"


@pytest.mark.parametrize("kind", ["interrupted", "stall"])
async def test_a_stream_breaks_after_its_first_pieces(fb: MultiProviderFallback, kind: Any) -> None:
    with outage("openai", kind, seconds=0.01) as down:
        stream = await fb.acompletion("chat", MESSAGES, stream=True)
        with pytest.raises(resilience.StreamInterruptedError) as caught:
            _ = [chunk async for chunk in stream]
        assert caught.value.partial
        with pytest.raises(resilience.StreamInterruptedError):
            _ = list(fb.completion("chat", MESSAGES, stream=True))
        assert down.calls == 2


async def test_protected_functions_are_not_called() -> None:
    called = []

    with MultiProviderFallback(ROUTE) as runtime:

        @resilience.protect("search-api", runtime=runtime)
        def search() -> str:
            called.append(1)
            return "found"

        @resilience.protect("search-api", runtime=runtime)
        async def asearch() -> str:
            called.append(1)
            return "found"

        with outage("search-api", "connection") as down:
            for _ in range(2):
                with pytest.raises(ConnectionError):
                    search()
                with pytest.raises(ConnectionError):
                    await asearch()
            with pytest.raises(ConnectionError):
                search()
            with pytest.raises(resilience.CircuitOpenError):
                search()
        assert (down.calls, len(called)) == (5, 0)
        runtime.registry.providers["search-api"].reset()
        assert search() == await asearch() == "found"


async def test_protected_functions_see_litellms_exceptions_for_a_provider_it_knows() -> None:
    with MultiProviderFallback(ROUTE) as runtime:

        @resilience.protect("openai", runtime=runtime)
        def ask() -> None: ...

        with outage("openai", "rate_limited", retry_after=7), pytest.raises(litellm.RateLimitError) as caught:
            ask()
        assert classify(caught.value).retry_after_seconds == 7


async def test_failing_over_functions_are_called_with_the_next_target(fb: MultiProviderFallback) -> None:
    called = []

    @resilience.failover("chat", runtime=fb)
    async def ask(model: str = "") -> str:
        called.append(model)
        return model

    @resilience.failover("chat", runtime=fb)
    def ask_sync(model: str = "") -> str:
        called.append(model)
        return model

    with outage("openai"):
        assert await ask() == ask_sync() == "anthropic/claude-haiku-4-5"
    assert set(called) == {"anthropic/claude-haiku-4-5"}


async def test_litellms_own_functions_fail_however_they_were_imported() -> None:
    with outage("openai") as down:
        for ask in (litellm.acompletion, imported_early):
            with pytest.raises(litellm.ServiceUnavailableError):
                await ask(model="openai/gpt-4o-mini", messages=MESSAGES)
        with pytest.raises(litellm.ServiceUnavailableError):
            litellm.completion("gpt-4o-mini", MESSAGES)
        with pytest.raises(litellm.ServiceUnavailableError):
            await litellm.aembedding(model="openai/text-embedding-3-small", input=["hi"])
        with pytest.raises(litellm.ServiceUnavailableError):
            litellm.embedding(model="openai/text-embedding-3-small", input=["hi"])
        with pytest.raises(litellm.ServiceUnavailableError):
            await litellm.aresponses(model="openai/gpt-4o-mini", input="hi")
        with pytest.raises(litellm.ServiceUnavailableError):
            litellm.responses(model="openai/gpt-4o-mini", input="hi")
        assert down.calls == 7
        await litellm.acompletion(model="anthropic/claude-haiku-4-5", messages=MESSAGES, **MOCKED)
        assert down.calls == 7


@pytest.mark.parametrize("mocked", [{}, MOCKED], ids=["real", "mocked"])
async def test_the_callback_hears_it_and_opens_the_breaker(mocked: dict[str, str]) -> None:
    runtime = resilience.install(ROUTE)
    try:
        with outage("openai", "connection") as down:
            errors = []
            for _ in range(7):
                with pytest.raises(openai.APIError) as caught:
                    await litellm.acompletion(model="openai/gpt-4o-mini", messages=MESSAGES, max_retries=0, **mocked)
                errors.append(isinstance(caught.value, resilience.CircuitOpenError))
        assert errors == [False] * 5 + [True] * 2
        assert down.calls == 5
        assert runtime.registry.providers["openai"].current_state == "open"
    finally:
        resilience.uninstall()


async def test_the_custom_provider_and_a_router_go_on() -> None:
    resilience.install(ROUTE)
    try:
        with outage("openai") as down:
            answer = await litellm.acompletion(model="resilience/chat", messages=MESSAGES)
            assert answer.choices[0].message.content == "fine"
            assert litellm.completion(model="resilience/chat", messages=MESSAGES).choices[0].message.content == "fine"
            assert down.calls > 0
    finally:
        resilience.uninstall()
    models = [{"model_name": name, "litellm_params": target} for name, target in zip("ab", TARGETS, strict=True)]
    router = litellm.Router(model_list=models, fallbacks=[{"a": ["b"]}], num_retries=0)
    with outage("openai") as down:
        answer = await router.acompletion("a", MESSAGES)
    assert (answer.choices[0].message.content, down.calls) == ("fine", 1)


async def test_a_target_with_a_provider_name_of_its_own_is_found_by_it() -> None:
    targets = [{**TARGETS[0], "provider": "gateway-one"}, {**TARGETS[1], "provider": "gateway-two"}]
    with MultiProviderFallback({"warm": False, "routes": {"chat": {"targets": targets, "num_retries": 0}}}) as runtime:
        with outage("gateway-one") as down:
            answer = await runtime.acompletion("chat", MESSAGES)
        assert [a.provider for a in resilience.attempts(answer)] == ["gateway-one", "gateway-two"]
        assert down.calls == 1


# -- kinds


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("model", FAMILIES)
async def test_every_kind_is_what_the_classifier_takes_it_for(model: str, kind: Any) -> None:
    expected = SHAPES[kind].whole or SHAPES[kind].kind
    ask = {"model": model, "messages": MESSAGES, "max_retries": 0, "timeout": 5, "api_base": "http://127.0.0.1:1"}
    with outage(model.partition("/")[0], kind, seconds=0.01) as down:
        for is_async in (True, False):
            if expected is Kind.EMPTY:
                answer = await litellm.acompletion(**ask) if is_async else litellm.completion(**ask)
                assert not answer.choices[0].message.content
                continue
            with pytest.raises(openai.OpenAIError) as caught:  # as all of LiteLLM's are
                await litellm.acompletion(**ask) if is_async else litellm.completion(**ask)
            assert classify(caught.value).kind is expected
    assert down.calls == 2


async def test_a_hang_lasts_until_the_callers_own_timeout() -> None:
    targets = [{**TARGETS[0], "timeouts": {"attempt_seconds": 0.1}}, TARGETS[1]]
    settings = {"warm": False, "routes": {"chat": {"targets": targets}}}
    with MultiProviderFallback(settings) as runtime, outage("openai", "hang") as down:
        for answer in (await runtime.acompletion("chat", MESSAGES), runtime.completion("chat", MESSAGES)):
            assert [a.kind for a in resilience.attempts(answer)] == [Kind.TIMEOUT, Kind.SUCCESS]
    assert down.calls >= 1  # on a busy machine the first may be over before it has met the provider


async def test_who_hangs_at_the_end_of_an_outage_is_let_go() -> None:
    with outage("openai", "hang") as down:
        task = asyncio.create_task(litellm.acompletion(model="openai/gpt-4o-mini", messages=MESSAGES, max_retries=0))
        thread = threading.Thread(target=ask_sync)
        thread.start()
        while down.calls < 2:
            await asyncio.sleep(0.001)
    with pytest.raises(openai.APIError):
        await task
    await asyncio.to_thread(thread.join, 20)
    assert not thread.is_alive()


def ask_sync() -> None:
    with pytest.raises(openai.APIError):
        litellm.completion(model="openai/gpt-4o-mini", messages=MESSAGES, max_retries=0)


async def test_a_hanging_call_can_be_cancelled() -> None:
    with outage("openai", "hang") as down:
        task = asyncio.create_task(litellm.acompletion(model="openai/gpt-4o-mini", messages=MESSAGES, max_retries=0))
        while not down.calls:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_rate_limit_tells_when_to_come_back(fb: MultiProviderFallback) -> None:
    with outage("openai", "rate_limited", retry_after=3):
        await fb.acompletion("chat", MESSAGES)
    breaker = fb.snapshot().targets["openai/gpt-4o-mini"]
    assert breaker.state == "open"
    assert breaker.reason == "rate_limited"


# -- which calls


async def test_a_share_of_the_calls_fails_and_the_same_seed_strikes_the_same_ones() -> None:
    async def fates() -> list[bool]:
        fate = []
        with outage("openai", share=0.25, seed=3):
            for _ in range(40):
                try:
                    await litellm.acompletion(model="openai/gpt-4o-mini", messages=MESSAGES, max_retries=0, **MOCKED)
                    fate.append(True)
                except litellm.ServiceUnavailableError:
                    fate.append(False)
        return fate

    first = await fates()
    assert 2 <= first.count(False) <= 20
    assert first == await fates()


def test_a_protected_call_of_litellm_draws_once() -> None:
    with MultiProviderFallback({**ROUTE, "breaker": {"shadow": True}}) as runtime:

        @resilience.protect("openai", runtime=runtime)
        def ask() -> Any:
            return litellm.completion(model="openai/gpt-4o-mini", messages=MESSAGES, max_retries=0, **MOCKED)

        with outage("openai", share=0.5, seed=1) as down:
            failed = 0
            for _ in range(60):
                try:
                    ask()
                except litellm.ServiceUnavailableError:
                    failed += 1
        # Two draws would come to three quarters.
        assert failed == down.calls
        assert failed < 40


async def test_only_the_models_named_fail() -> None:
    with outage("openai", models="gpt-4o*") as down:
        with pytest.raises(litellm.ServiceUnavailableError):
            await litellm.acompletion(model="openai/gpt-4o-mini", messages=MESSAGES, max_retries=0)
        await litellm.acompletion(model="openai/gpt-4.1", messages=MESSAGES, **MOCKED)
    assert down.calls == 1


async def test_an_address_is_a_provider_of_its_own_and_the_family_is_all_of_them() -> None:
    east, west = (
        {"model": "openai/x", "messages": MESSAGES, "api_base": f"https://{place}.example.com/v1", **MOCKED}
        for place in ("east", "west")
    )
    with outage("openai/east.example.com:443"):
        with pytest.raises(litellm.ServiceUnavailableError):
            await litellm.acompletion(**east, max_retries=0)
        await litellm.acompletion(**west)
    with outage("openai"), pytest.raises(litellm.ServiceUnavailableError):
        await litellm.acompletion(**west, max_retries=0)
    with outage("*"), pytest.raises(litellm.ServiceUnavailableError):
        await litellm.acompletion(**west, max_retries=0)


async def test_outages_stand_in_each_other_and_the_innermost_decides() -> None:
    ask = {"model": "openai/gpt-4o-mini", "messages": MESSAGES, "max_retries": 0}
    with outage("*") as all_down:
        with outage("openai", "auth") as inner, pytest.raises(litellm.AuthenticationError):
            await litellm.acompletion(**ask)
        with pytest.raises(litellm.ServiceUnavailableError):
            await litellm.acompletion(**ask)
    assert (inner.calls, all_down.calls) == (1, 1)


async def test_an_outage_changes_over_time() -> None:
    clock = ManualClock()
    ask = {"model": "openai/gpt-4o-mini", "messages": MESSAGES, "max_retries": 0, **MOCKED}
    with outage("openai", Schedule(((10, "auth"), (5, None), (10, "server_error"))), clock=clock):
        with pytest.raises(litellm.AuthenticationError):
            await litellm.acompletion(**ask)
        clock.advance(12)
        await litellm.acompletion(**ask)
        clock.advance(5)
        with pytest.raises(litellm.ServiceUnavailableError):
            await litellm.acompletion(**ask)
    with outage("openai", flapping("server_error", down_seconds=1, up_seconds=1), clock=clock) as down:
        for _ in range(3):
            with pytest.raises(litellm.ServiceUnavailableError):
                await litellm.acompletion(**ask)
            clock.advance(1)
            await litellm.acompletion(**ask)
            clock.advance(1)
    assert down.calls == 3


# -- ends


async def test_it_ends_when_its_block_raises() -> None:
    with pytest.raises(ZeroDivisionError), outage("openai"):
        _ = 1 / 0
    await litellm.acompletion(model="openai/gpt-4o-mini", messages=MESSAGES, **MOCKED)


def test_threads_come_and_go_in_any_order() -> None:
    errors: list[BaseException] = []
    barrier = threading.Barrier(4)

    def run(number: int) -> None:
        try:
            for _ in range(5):
                barrier.wait(30)
                with outage("openai") if number % 2 else outage("groq") as down:
                    model = "openai/gpt-4o-mini" if number % 2 else "groq/llama"
                    with pytest.raises(litellm.ServiceUnavailableError):
                        litellm.completion(model=model, messages=MESSAGES, max_retries=0)
                    barrier.wait(30)
                    assert down.calls <= 2
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_one_object_is_one_outage() -> None:
    down = outage("openai")
    with down, pytest.raises(RuntimeError, match="running already"), down:
        pass
    with down:
        pass


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "sunspots"}, "unknown kind 'sunspots'; allowed: connection"),
        ({"kind": Schedule(((1, "sunspots"),))}, "unknown kind"),
        ({"provider": " "}, "name a provider"),
        ({"share": 0}, "share 0; allowed: more than 0"),
        ({"share": 1.5}, "share 1.5"),
        ({"share": "x"}, "share 'x'; allowed: more than 0, at most 1"),
        ({"retry_after": -1}, "retry_after -1; allowed: 0 or more"),
        ({"retry_after": "3"}, "retry_after '3'; allowed: 0 or more"),
        ({"retry_after": float("nan")}, "retry_after nan"),
        ({"seconds": "1"}, "seconds '1'"),
        ({"seconds": -1}, "seconds -1"),
        ({"chunks": -1}, "chunks -1"),
    ],
)
def test_bad_arguments_say_what_is_allowed(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        outage(**{"provider": "openai", **given})
