"""The callback: what LiteLLM does by itself is rejected before the wire, and its outcomes are recorded."""

from __future__ import annotations

import asyncio
import gc
import importlib.util

import litellm
import openai
import pybreaker
import pytest
from asks import MESSAGES, becomes_true, needs_mcp
from door2 import CLAUDE, GPT, ask, background, is_idle, settings, target

import resilience
from resilience.events import CircuitOpened, PermitRefused
from resilience.testing import Fault, record_events
from resilience.testing.clock import ManualClock

EMBEDDING = "openai/text-embedding-3-small"


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def runtime(provider, upstream, clock):
    with resilience.MultiProviderFallback(settings(provider), clock=clock) as runtime:
        yield resilience.install(runtime)
        resilience.uninstall()


@pytest.fixture
def bare(provider):
    """A bare call to the route's first target, without the SDK's own retries."""
    return {**target(provider), "messages": MESSAGES, "max_retries": 0}


def reading(runtime, name=GPT):
    return runtime.snapshot().targets[name]


async def trip(runtime, provider, bare, fault=None):
    provider.set(fault or Fault.http(500))
    while reading(runtime).state == "closed":
        with pytest.raises(openai.APIError):
            await litellm.acompletion(**bare)
    provider.clear()
    provider.forget()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_open_breaker_rejects_before_the_wire(runtime, provider, bare, stream):
    await trip(runtime, provider, bare)
    with pytest.raises(resilience.CircuitOpenError, match="is open after 5 failures in a row") as caught:
        await litellm.acompletion(**bare, stream=stream)
    assert provider.count() == 0
    assert isinstance(caught.value, litellm.ServiceUnavailableError)
    assert isinstance(caught.value, pybreaker.CircuitBreakerError)
    assert caught.value.retry_after == pytest.approx(10, abs=1.01)
    assert int(caught.value.response.headers["retry-after"]) in range(9, 13)
    assert int(caught.value.litellm_response_headers["retry-after"]) in range(9, 13)
    assert (caught.value.breaker, caught.value.status_code) == (GPT, 503)
    assert isinstance(caught.value.__cause__, resilience.CircuitOpenError)


async def test_a_rejection_is_caught_as_ever(runtime, provider, bare):
    await trip(runtime, provider, bare)
    for expected in (litellm.ServiceUnavailableError, openai.APIError, resilience.RejectedError):
        with pytest.raises(expected):
            await litellm.acompletion(**bare)


async def test_the_five_failures_are_five_requests(runtime, provider, bare):
    provider.set(Fault.http(500))
    for _ in range(8):
        with pytest.raises(openai.APIError):
            await litellm.acompletion(**bare)
    assert provider.count() == 5


async def test_our_own_rejections_are_never_failures(runtime, provider, bare):
    await trip(runtime, provider, bare)
    before = reading(runtime)
    for _ in range(8):
        with pytest.raises(resilience.CircuitOpenError):
            await litellm.acompletion(**bare)
    after = reading(runtime)
    assert (after.generation, after.next_probe_at, after.opens) == (before.generation, before.next_probe_at, 1)
    assert after.rejected == before.rejected + 8


async def test_a_rate_limit_is_a_rate_limit_error_until_it_ends(runtime, provider, bare, clock):
    provider.set(Fault.rate_limited(30))
    for _ in range(2):
        with pytest.raises(litellm.RateLimitError):
            await litellm.acompletion(**bare)
    assert provider.count() == 1
    provider.clear()
    clock.advance(30)
    assert (await ask("async", **bare))[0] == provider.answer


async def test_an_isolated_target_is_both_errors(runtime, provider, bare):
    runtime.registry.targets[GPT].isolate("bad deploy")
    with pytest.raises(resilience.CircuitIsolatedError) as caught:
        await litellm.acompletion(**bare)
    assert isinstance(caught.value, litellm.ServiceUnavailableError)
    assert provider.count() == 0


async def test_what_bare_calls_meet_takes_the_target_out_of_the_route(runtime, provider, bare):
    await trip(runtime, provider, bare)
    assert [str(name) for name in runtime.registry.rotation("chat")] == ["claude"]


async def test_another_key_is_another_target(runtime, provider, bare):
    await trip(runtime, provider, bare, Fault.unauthorized())
    answer = await litellm.acompletion(**{**bare, "api_key": "sk-of-a-tenant"})
    assert answer.choices[0].message.content == provider.answer
    assert "sk-of-a-tenant" not in str(runtime.snapshot())


async def test_embeddings_are_guarded(runtime, provider):
    call = {**target(provider, EMBEDDING), "input": ["hi"]}
    await litellm.aembedding(**call)
    (name,) = (name for name in runtime.snapshot().targets if name.startswith(EMBEDDING))
    assert (reading(runtime, name).calls, reading(runtime, name).failures) == (1, 0)
    runtime.registry.targets[name].isolate("test")
    with pytest.raises(resilience.CircuitOpenError):
        await litellm.aembedding(**call)
    assert provider.count() == 1


@pytest.mark.parametrize("mode", ["async", "astream"])
async def test_a_success_counts_once(runtime, provider, bare, mode):
    await ask(mode, **bare)
    assert await becomes_true(lambda: reading(runtime).calls == 1)
    await background()
    assert (reading(runtime).calls, reading(runtime).failures) == (1, 0)
    assert await is_idle(runtime)


async def test_an_empty_answer_counts_against_the_target_only(runtime, provider, bare):
    provider.set(Fault.empty())
    await ask("async", **bare)
    assert reading(runtime).failures == 1
    assert [provider.failures for provider in runtime.snapshot().providers.values()] == [0] * 2


@pytest.mark.parametrize("fault", [Fault.cut(2), Fault.error_event(2)], ids=str)
async def test_a_broken_stream_is_a_failure(runtime, provider, bare, fault):
    provider.set(fault)
    with pytest.raises(openai.APIError):
        await ask("astream", **bare)
    assert await becomes_true(lambda: reading(runtime).failures == 1)
    assert reading(runtime).calls == 1
    assert await is_idle(runtime)


async def test_the_callers_own_mistakes_are_no_failures(runtime, provider, bare):
    provider.set(Fault.http(400))
    for _ in range(6):
        with pytest.raises(litellm.BadRequestError):
            await litellm.acompletion(**bare)
    assert (reading(runtime).failures, reading(runtime).state, provider.count()) == (0, "closed", 6)


async def test_a_call_that_never_reached_the_wire_says_nothing(runtime, provider, bare):
    for _ in range(6):
        with pytest.raises(Exception, match=r"(?i)temperature|unsupported|invalid"):
            await litellm.acompletion(**{**bare, "model": GPT, "tool_choice": object()})
    assert (reading(runtime).failures, reading(runtime).state, provider.count()) == (0, "closed", 0)
    assert await is_idle(runtime)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_probe_returns_its_slot(runtime, provider, bare, clock, stream):
    await trip(runtime, provider, bare)
    clock.advance(12)
    provider.set(Fault.hang())
    task = asyncio.create_task(litellm.acompletion(**bare, stream=stream))
    assert await becomes_true(lambda: provider.count() == 1)
    with pytest.raises(resilience.CircuitOpenError):  # the one slot is taken
        await litellm.acompletion(**bare)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    assert await is_idle(runtime)
    provider.clear()
    assert (await ask("async", **bare))[0] == provider.answer
    assert provider.count() == 2


async def test_an_abandoned_stream_returns_its_slot(runtime, provider, bare, clock):
    await trip(runtime, provider, bare)
    clock.advance(12)
    provider.set(Fault.drip(0.02))
    stream = await litellm.acompletion(**bare, stream=True)
    await anext(stream)
    del stream
    assert await is_idle(runtime)
    assert reading(runtime).state == "half-open"


async def test_a_streams_first_chunk_takes_it_out_of_those_that_may_hang(runtime, provider, bare):
    provider.set(Fault.drip(0.02))
    stream = await litellm.acompletion(**bare, stream=True)
    assert reading(runtime).in_flight == 1
    await anext(stream)
    assert reading(runtime).in_flight == 0
    assert reading(runtime).calls == 0  # its end gives the verdict
    await stream.aclose()
    del stream
    gc.collect()


@pytest.mark.parametrize("mode", ["sync", "async", "stream", "astream"])
async def test_attempts_of_the_engine_are_not_recorded_twice(runtime, provider, mode):
    call = {"model": "chat", "messages": MESSAGES}
    if mode == "sync":
        runtime.completion(**call)
    elif mode == "async":
        await runtime.acompletion(**call)
    elif mode == "stream":
        list(runtime.completion(**call, stream=True))
    else:
        async for _ in await runtime.acompletion(**call, stream=True):
            pass
    await background()
    assert (reading(runtime).calls, len(runtime.snapshot().targets)) == (1, 2)
    assert await is_idle(runtime)


async def test_a_mock_response_leaves_no_trace(runtime, provider, bare):
    runtime.registry.targets[GPT].isolate("test")
    answer = await litellm.acompletion(**bare, mock_response="made up")
    assert answer.choices[0].message.content == "made up"
    litellm.completion(**bare, mock_response="made up")
    await background()
    assert (reading(runtime).calls, reading(runtime).rejected, provider.count()) == (0, 0, 0)


async def test_a_call_that_litellm_stops_before_the_wire_gives_its_permit_back(runtime, provider, bare, monkeypatch):
    monkeypatch.setattr(litellm, "max_budget", 0.01)
    monkeypatch.setattr(litellm, "_current_cost", 1.0)
    for stream in (False, True):
        with pytest.raises(litellm.BudgetExceededError):
            await litellm.acompletion(**bare, stream=stream)
    assert await is_idle(runtime)
    assert (reading(runtime).calls, reading(runtime).failures, provider.count()) == (0, 0, 0)


@pytest.mark.dev_integration  # LiteLLM's async cache imports its whole Proxy
@pytest.mark.skipif(importlib.util.find_spec("litellm_proxy_extras") is None, reason="needs litellm[proxy]")
async def test_a_cached_answer_leaves_no_trace(runtime, provider, bare, monkeypatch):
    monkeypatch.setattr(litellm, "cache", litellm.Cache(type="local"))
    try:
        for _ in range(3):
            await litellm.acompletion(**bare, caching=True)
            assert await becomes_true(lambda: reading(runtime).calls == 1)
            await background()
        assert (provider.count(), reading(runtime).calls) == (1, 1)
        assert await is_idle(runtime)
    finally:
        litellm.logging_callback_manager._reset_all_callbacks()


async def test_a_call_with_fallbacks_is_judged_attempt_by_attempt(runtime, provider, bare):
    provider.set(Fault.http(500), model="gpt-4o-mini")
    answer = await litellm.acompletion(
        **bare, fallbacks=[{"model": "openai/gpt-4o", "api_base": provider.openai_base, "api_key": "sk-2"}]
    )
    assert answer.choices[0].message.content == provider.answer
    assert reading(runtime).failures == 1
    other = next(found for name, found in runtime.snapshot().targets.items() if name.startswith("openai/gpt-4o@"))
    assert (other.calls, other.failures) == (1, 0)


@needs_mcp
@pytest.mark.parametrize("fault", [None, Fault.http(500)], ids=str)
async def test_a_bridge_from_one_api_to_another_counts_once(runtime, provider, fault):
    if fault:
        provider.set(fault)
    call = litellm.aresponses(**target(provider, CLAUDE), input="hi", max_retries=0)  # asked as a chat completion
    if fault:
        with pytest.raises(openai.APIError):
            await call
    else:
        await call
    await background()
    counted = reading(runtime, "claude")
    assert (provider.count(), counted.calls, counted.failures) == (1, 1, 1 if fault else 0)
    assert await is_idle(runtime)


async def test_a_callers_short_timeout_is_no_failure_while_others_are_answered(runtime, provider, bare, clock):
    provider.set(Fault.hang(), times=1)
    hasty = asyncio.create_task(litellm.acompletion(**bare, timeout=3.0))  # the other is answered well before
    assert await becomes_true(lambda: provider.count() == 1)
    clock.advance(0.1)
    await litellm.acompletion(**bare)
    with pytest.raises(litellm.Timeout):
        await hasty
    assert (reading(runtime).calls, reading(runtime).failures) == (1, 0)
    provider.set(Fault.hang(), times=1)
    clock.advance(0.1)
    with pytest.raises(litellm.Timeout):
        await litellm.acompletion(**bare, timeout=0.2)  # nobody else was answered
    assert reading(runtime).failures == 1


async def test_a_shadow_reports_and_rejects_nobody(provider, upstream, bare):
    provider.set(Fault.http(500))
    with (
        resilience.MultiProviderFallback({**settings(provider), "breaker": {"shadow": True}}) as runtime,
        record_events(runtime) as events,
    ):
        resilience.install(runtime, wrap_sync=True)
        try:
            for number in range(8):
                with pytest.raises(litellm.InternalServerError):
                    await litellm.acompletion(**bare) if number % 2 else litellm.completion(**bare)
        finally:
            resilience.uninstall()
    assert provider.count() == 8
    assert events.one(CircuitOpened, breaker=GPT).shadow
    assert {event.shadow for event in events if isinstance(event, PermitRefused)} == {True}


async def test_litellms_own_retries_do_not_go_around_a_rejection(runtime, provider, bare, monkeypatch):
    tried = []

    async def retried(*_, **__):
        tried.append(1)
        raise RuntimeError

    monkeypatch.setattr(litellm, "acompletion_with_retries", retried)
    await trip(runtime, provider, bare)
    for stream in (False, True):
        with pytest.raises(resilience.CircuitOpenError) as caught:
            await litellm.acompletion(**bare, num_retries=2, stream=stream)
        assert isinstance(caught.value, litellm.ServiceUnavailableError)
    assert (tried, provider.count()) == ([], 0)


async def test_inside_protect_only_the_target_is_asked(runtime, provider, bare):
    @resilience.protect(reading(runtime).provider, runtime=runtime)
    async def guarded():
        return await litellm.acompletion(**bare)

    await guarded()
    assert (reading(runtime).calls, runtime.snapshot().providers[reading(runtime).provider].calls) == (1, 1)


# -- sync -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sync", "stream"])
async def test_sync_successes_are_recorded(runtime, provider, bare, mode):
    await ask(mode, **bare)
    assert await becomes_true(lambda: reading(runtime).calls == 1)
    assert reading(runtime).failures == 0


async def test_sync_failures_are_recorded_and_sync_calls_not_rejected(runtime, provider, bare):
    provider.set(Fault.http(500))
    for _ in range(7):
        with pytest.raises(litellm.InternalServerError):
            litellm.completion(**bare)
    assert (reading(runtime).state, provider.count()) == ("open", 7)
    with pytest.raises(resilience.CircuitOpenError):
        await litellm.acompletion(**bare)
    assert provider.count() == 7


async def test_a_sync_stream_that_breaks_is_a_failure(runtime, provider, bare):
    provider.set(Fault.cut(2))
    with pytest.raises(openai.APIError):
        await ask("stream", **bare)
    assert await becomes_true(lambda: reading(runtime).failures == 1)


async def test_no_secret_is_in_a_rejection(runtime, provider, bare):
    await trip(runtime, provider, bare)
    with pytest.raises(resilience.CircuitOpenError) as caught:
        await litellm.acompletion(**{**bare, "messages": [{"role": "user", "content": "planted prompt"}]})
    said = f"{caught.value} {caught.value!r} {caught.value.__dict__} {caught.value.args}"
    assert "planted" not in said
